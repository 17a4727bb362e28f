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
from search.testing.executors import Conversation
from search.worker.evaluate_best import rebuild_model
from search.worker.segment import load_space
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
    executor.poll(lambda slot, message: messages.append(message), 0)
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
    model, _ = rebuild_model(load_space(REF), values, tmp_path / "trial" / "best-0.npz")
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
    executor.poll(lambda slot, message: messages.append(message), 0)
    assert "no.npz is missing or damaged" in messages[0].error
    assert "\n" not in messages[0].error
