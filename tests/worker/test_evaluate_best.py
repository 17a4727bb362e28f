"""The file of a final evaluation: Keras reads it; for a model that Keras cannot serialize, it holds the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from places import FACTORIES

from search.executors.inline import InlineExecutor
from search.messages import Evaluate, Evaluated, Segment
from search.space.file import SpaceRef
from search.study.trial import Objective
from search.testing.conversation import Conversation
from search.worker.checkpoint import save_weights
from search.worker.data.arrays import spec_to_json
from search.worker.evaluate_best import rebuild_model
from search.worker.saved_model_check import describe_difference, reference_values, tolerances
from search.worker.user_code import load_space
from tests.spaces.factories import Regressor, load_data

REF = SpaceRef(str(FACTORIES))


def evaluate(folder: Path, values: dict[str, Any], model: Path | None = None) -> Evaluated:
    """Train a trial and return its final evaluation."""
    options: dict[str, Any] = {"trial": 0, "execution": 0, "space": REF, "values": values, "seed": 3, "from_epoch": 0}
    trial = folder / "trial"
    segment = Segment(to_epoch=2, objective=Objective("val_mae", "min"), folder=str(trial), **options)
    conversation = Conversation(InlineExecutor()).run(segment)
    assert conversation.end.outcome == "reached", conversation.end.error
    messages: list[Any] = []
    executor = InlineExecutor()
    target = None if model is None else str(model)
    executor.start(0, command(trial, values, model=target))
    executor.poll(lambda slot, work, message: messages.append(message), 0)
    return messages[0]


def command(trial: Path, values: dict[str, Any], **options: Any) -> Evaluate:
    """Return the command to evaluate the model of `values`, trained in the folder `trial`."""
    return Evaluate(
        **{
            "trial": 0,
            "space": REF,
            "values": values,
            "weights": str(trial / "best-0.npz"),
            "seed": 3,
            "folder": str(trial),
            "objective": Objective("val_mae", "min"),
            "reference": str(trial / "reference-0.npz"),
            **options,
        }
    )


@pytest.mark.parametrize("change", [{"seed": 4}, {"values": {"kind": "functional", "units": 5, "regularizer": "l2"}}])
def test_weights_of_another_trial_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    """A file may be copied or renamed. If its weights fitted, they were taken for the trial's own."""
    values = {"kind": "functional", "units": 5, "regularizer": None}
    evaluate(tmp_path, values)
    messages: list[Any] = []
    executor = InlineExecutor()
    executor.start(
        0, command(tmp_path / "trial", **{"values": values, "model": str(tmp_path / "model.keras"), **change})
    )
    executor.poll(lambda slot, work, message: messages.append(message), 0)
    assert "best-0.npz has the weights of another trial" in messages[0].error
    assert not (tmp_path / "model.keras").exists()


@pytest.mark.parametrize("kind", ["functional", "deferred", "subclass"])
def test_the_winner_is_written_with_its_signature_and_packages(tmp_path: Path, kind: str) -> None:
    values = {"kind": kind, "units": 24 if kind == "subclass" else 5, "regularizer": None}
    file = tmp_path / "model.keras"
    found = evaluate(tmp_path, values, file)
    assert (found.error, found.warning) == (None, "")
    assert found.logs is not None
    assert found.signature == {
        "inputs": [{"name": None, "dtype": "float32", "shape": [-1, 4]}],
        "outputs": [{"name": None, "dtype": "float32", "shape": [-1, 1]}],
    }
    assert any(line.startswith("keras==") for line in found.requirements)
    model, _ = rebuild_model(load_space(REF), values, tmp_path / "trial" / "best-0.npz", 3)
    x, y = load_data()[2]
    assert found.logs["mae"] == pytest.approx(float(np.mean(np.abs(model.predict(x, verbose=0) - y))), rel=1e-5)
    if kind == "subclass":  # it has arguments, but no get_config
        again = Regressor(24)
        again(x)
        again.load_weights(file)
    else:
        again = keras.saving.load_model(file)
    assert np.array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
    assert [item.name for item in tmp_path.iterdir() if item.suffix == ".keras"] == ["model.keras"]


def test_an_error_is_reported_in_one_line(tmp_path: Path) -> None:
    found = evaluate(tmp_path, {"kind": "functional", "units": 5, "regularizer": None})
    assert found.signature is None
    executor = InlineExecutor()
    messages: list[Any] = []
    missing = str(tmp_path / "no.npz")
    executor.start(0, command(tmp_path / "trial", {"kind": "functional"}, weights=missing))
    executor.poll(lambda slot, work, message: messages.append(message), 0)
    assert "no.npz is missing or damaged" in messages[0].error
    assert "\n" not in messages[0].error


FORGETFUL = """
import keras
import numpy as np

FACTOR = 2.0


class Scale(keras.layers.Layer):
    def __init__(self, by=2.0, **options):
        super().__init__(**options)
        self.by = by

    def call(self, x):
        return self.by * x

    def get_config(self):
        return super().get_config()


def relu(x):  # Keras has a function of this name
    return keras.ops.tanh(x)


def build_model(hp):
    kind = hp.Choice("kind", ["forgetful", "lambda", "relu"])
    if kind == "forgetful":
        scale = Scale(3.0)
    else:
        scale = keras.layers.Activation(relu) if kind == "relu" else keras.layers.Lambda(lambda x: x * FACTOR)
    model = keras.Sequential([keras.Input((4,)), scale, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def load_data():
    x = np.random.default_rng(0).normal(size=(8, 4))
    return (x, x[:, :1]), None
"""


def test_a_file_that_would_give_other_values_is_not_kept(tmp_path: Path) -> None:
    """Keras cannot call the Lambda. MLflow builds such a model by the factory, so the weights count."""
    ref = SpaceRef(str(tmp_path / "space.py"))
    Path(tmp_path, "space.py").write_text(FORGETFUL)
    weights, file = tmp_path / "best-0.npz", tmp_path / "model.keras"
    save_weights(weights, [np.ones((4, 1), "float32"), np.zeros(1, "float32")], 1, 0.5)
    executor, messages = InlineExecutor(), list[Any]()
    for kind in ("forgetful", "lambda", "relu"):
        file.write_text("an earlier winner")
        executor.start(0, command(tmp_path, {"kind": kind}, space=ref, weights=str(weights), model=str(file)))
        executor.poll(lambda slot, work, message: messages.append(message), 0)
        assert (file.read_bytes() == b"an earlier winner") == (kind != "lambda")
    for wrong in (messages[0], messages[2]):
        assert wrong.error.startswith(f"{ref.path}: the .keras file would give other values than the model (values ")
        assert "return every argument of a layer from its get_config" in wrong.error
        assert wrong.signature is None
    assert messages[1].error is None
    assert messages[1].signature is not None
    assert not list(tmp_path.glob(".*"))


# The parts of the check -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "found", "words"),
    [
        ([[1.0, 2.0]], [[1.00009, 2.0]], None),
        ([[1.0, 2.0]], [[1.0002, 2.0]], "values up to 2 differ by up to 0.0002"),
        ([[1e-9, 1.0]], [[1e-6, 1.0]], None),  # the rounding error of a sum is that of its terms
        ([[1e-9, 1.0]], [[2e-5, 1.0]], "values up to 1 differ by up to 2e-05"),
        ([[np.nan, np.inf]], [[np.nan, np.inf]], None),
        ([[np.nan]], [[1.0]], "values up to 0 differ by up to nan"),
        ([[1, 2]], [[1, 3]], "values of type int64 differ"),
        ([[1.0]], [[1.0], [2.0]], "2 arrays, not 1"),
        ([[1.0]], [[1.0, 2.0]], "the shape [2], not [1]"),
    ],
)
def test_a_difference_is_described(expected: list[Any], found: list[Any], words: str | None) -> None:
    arrays = [[np.array(item) for item in items] for items in (expected, found)]
    assert describe_difference(*arrays, (1e-4, 1e-5)) == words


def test_models_in_half_precision_may_differ_more() -> None:
    inputs = keras.Input((4,))
    full = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    half = keras.Model(inputs, keras.layers.Dense(1, dtype="mixed_float16")(inputs))
    assert tolerances(full) == (1e-4, 1e-5)
    assert tolerances(half)[0] == pytest.approx(8 * np.finfo("float16").eps)


def test_inputs_are_generated_if_there_are_no_data() -> None:
    def load() -> Any:
        raise FileNotFoundError("the data have moved")

    inputs = {"words": keras.Input((None,), dtype="int32", name="words"), "numbers": keras.Input((3,), name="numbers")}
    embedded = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(2, 3)(inputs["words"]))
    model = keras.Model(inputs, keras.layers.Add()([embedded, inputs["numbers"]]))
    x, expected, repeatable = reference_values(model, load, spec_to_json(inputs))
    assert {name: (array.dtype.name, array.shape) for name, array in x.items()} == {
        "words": ("int32", (16, 16)),
        "numbers": ("float32", (16, 3)),
    }
    assert repeatable
    assert expected[0].shape == (16, 3)
