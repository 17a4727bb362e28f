"""Names of layers follow from the user's code alone: not from the worker, nor from what a process has made before."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from commands import Command

import search
from search.space import pickling
from search.space.file import SpaceRef
from search.tracking.mlflow import loader
from search.worker import segment, user_code
from search.worker.keras_internals import set_used_names, used_names
from search.worker.keras_session import import_space, session

SPACE = """
import argparse

import keras
import numpy as np
import search

from looks import augmentation

parser = argparse.ArgumentParser()
parser.add_argument("--samples", type=int, default=64)
samples = parser.parse_args().samples
optimizer, metric = keras.optimizers.Adam(), keras.metrics.AUC()


def load_data():
    keras.Sequential([keras.layers.Dense(2)])  # not in the model, so its name is free
    assert parser.parse_args().samples == samples
    x = np.random.default_rng(0).normal(size=(samples, 4, 4, 1)).astype("float32")
    y = (x.mean((1, 2, 3)) > 0).astype("float32")
    return (x[:48], y[:48]), (x[48:], y[48:])


def build_model(hp):
    body = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(hp.Int("units", 2, 8))])
    inputs = keras.Input((4, 4, 1))
    outputs = keras.layers.Dense(1, "sigmoid")(body(augmentation(inputs)))
    model = keras.Model(inputs, outputs)
    assert parser.parse_args().samples == samples
    model.compile(keras.optimizers.Adam(), "binary_crossentropy", metrics=[keras.metrics.AUC()])
    layers = [layer.name for layer in (*model.layers, *body.layers)]
    with open(search.trial_dir() / "names.txt", "a") as file:
        file.write(" ".join((*layers, model.optimizer.name)) + "\\n")
    return model
"""
MODULE = """
import keras

augmentation = keras.Sequential([keras.layers.RandomFlip()])
"""
NAMES = "input_layer sequential sequential_1 dense_1 flatten dense adam_1"
OPTIONS: dict[str, Any] = {
    "backend": "hyperband",
    "seed": 1,
    "progress": False,
    "max_epochs": 3,
    "objective": "val_auc_1",
}
SHORT: dict[str, Any] = {"seed": 1, "progress": False, "max_epochs": 1, "max_trials": 1, "backend": "optuna"}


@pytest.fixture(autouse=True)
def _used_names() -> Iterator[None]:
    """Let this process have used some names, and restore its own afterwards."""
    before = used_names()
    set_used_names({"sequential": 1, "dense": 3})
    yield
    set_used_names(before)


@pytest.fixture
def space(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a space file, in a process whose arguments are not for it."""
    monkeypatch.setattr(sys, "argv", ["train.py", "--rate", "3"])
    path = workplace / "space.py"
    path.write_text(SPACE)
    (workplace / "looks.py").write_text(MODULE)
    return path


def names_in(study: search.StudyResults) -> list[str]:
    """Return the names of all models that the trials have built, in no order."""
    return [line for file in study.paths.trials.glob("*/names.txt") for line in file.read_text().splitlines()]


def layer_names(model: Any) -> str:
    body = model.layers[2]
    return " ".join(layer.name for layer in (*model.layers, *body.layers)) + f" {model.optimizer.name}"


@pytest.mark.slow
def test_names_are_equal_in_all_workers_in_a_resumed_trial_and_in_models_that_come_back(
    space: Path, command: Command, forked_checks: None
) -> None:
    search.run(space, **OPTIONS, workers=2, max_total_epochs=3)
    study = search.run(space, **OPTIONS, workers=1, resume=True, max_total_epochs=7)
    assert len(names_in(study)) > len(study.trials)  # trials were built again
    assert set(names_in(study)) == {NAMES}
    assert sys.argv == ["train.py", "--rate", "3"]

    models = search.get_best_models("space", 2)
    assert [layer_names(model) for model in models] == [NAMES] * 2
    inputs = keras.Input((4, 4, 1))
    keras.Model(inputs, keras.layers.Average()([model(inputs) for model in models]))  # Keras wants two names
    assert keras.layers.Dense(1).name == "dense_3"

    assert command("export", "space", "--to", "best.keras").code == 0
    x = np.zeros((2, 4, 4, 1))
    loaded = keras.saving.load_model("best.keras")
    assert layer_names(loaded) == NAMES
    np.testing.assert_allclose(loaded.predict(x, verbose=0), models[0].predict(x, verbose=0), rtol=1e-6)


def test_names_are_the_same_in_this_process(space: Path) -> None:
    study = search.run(space, **SHORT, objective="val_auc_1", executor="inline")
    assert set(names_in(study)) == {NAMES}
    assert keras.layers.Dense(1).name == "dense_3"
    assert sys.argv == ["train.py", "--rate", "3"]


def test_a_factory_may_use_layers_that_the_program_has_made_before_it(workplace: Path) -> None:
    augmentation = keras.Sequential([keras.layers.RandomFlip()])
    assert augmentation.name == "sequential_1"

    def build_model(hp: Any) -> Any:
        body = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(hp.Int("units", 1, 2))])
        first = keras.Sequential([keras.layers.Rescaling(2.0)])
        model = keras.Sequential([keras.Input((4, 4, 1)), first, augmentation, body, keras.layers.Dense(1)])
        model.compile("adam", "mse")
        return model

    x, y = np.zeros((32, 4, 4, 1), "float32"), np.zeros((32, 1), "float32")
    study = search.run(build_model, data=((x, y), (x, y)), **SHORT, executor="inline")
    (model,) = study.get_best_models()
    assert [layer.name for layer in model.layers] == ["sequential_3", "sequential_1", "sequential_2", "dense_1"]

    names = pickle.loads(pickling.dumps_factory({"build_model": build_model}))["names"]
    assert names == {"sequential": 2, "random_flip": 1}
    set_used_names({})
    loader._take_names(names)
    assert keras.layers.RandomFlip().name == "random_flip_1"
    assert keras.Sequential().name == "sequential_2"


def test_names_of_a_module_that_was_imported_before_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "looks_of_all.py").write_text(MODULE + "more = {'a': keras.layers.Dense(1, name='dense_4')}\n")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    path = tmp_path / "space.py"
    path.write_text(
        "from looks_of_all import augmentation\nimport looks_of_all\n\n\ndef build_model(hp): ...\n"
        "\n\ndef load_data(): ...\n"
    )
    for _ in range(2):
        names = import_space(SpaceRef(path=str(path))).names
        assert {name: names[name] for name in ("sequential", "random_flip", "dense")} == {
            "sequential": 1,
            "random_flip": 1,
            "dense": 5,
        }
    del sys.modules["looks_of_all"]


DATA = """
import keras
import numpy as np

scaling = None


def load_data():
    global scaling
    scaling = keras.layers.Normalization()
    x = np.zeros((4, 2))
    return (x, x), (x, x)


def build_model(hp): ...
"""


def test_names_of_layers_that_load_data_leaves_behind_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "space.py"
    path.write_text(DATA)
    ref = SpaceRef(path=str(path))
    for _ in range(2):
        segment.clear_caches()
        assert "normalization" not in user_code.taken_names(ref)
        user_code.load_data(ref)
        assert user_code.taken_names(ref)["normalization"] == 1
    segment.clear_caches()


def test_a_sessions_names_come_after_the_given_ones() -> None:
    for _ in range(2):
        with session(names={"dense": 2, "sequential": 1}):
            assert [keras.layers.Dense(1).name for _ in range(2)] == ["dense_2", "dense_3"]
            assert keras.Sequential([keras.layers.Flatten()]).name == "sequential_1"
    with session():
        assert keras.layers.Dense(1).name == "dense"
    assert keras.layers.Dense(1).name == "dense_4"
    assert keras.layers.Flatten().name == "flatten_1"
