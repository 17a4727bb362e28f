"""Tests of `search.run`, called with factories and data."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import TINY

import search
from search.errors import SpaceError, StudyError
from search.study.paths import StudyPaths


def data() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    x = np.random.default_rng(0).normal(size=(64, 4))
    y = (x.sum(axis=1) > 0).astype("int32")
    return (x[:48], y[:48]), (x[48:], y[48:])


def factory(offset: int) -> Callable[[Any], Any]:
    """Return a closure: no module has it by name, so it must be pickled by value."""

    def classifier(hp: Any) -> Any:
        import keras

        layers = [keras.layers.Dense(hp.Int("units", 2, 8) + offset), keras.layers.Dense(2, activation="softmax")]
        model = keras.Sequential(layers)
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    return classifier


OPTIONS: dict[str, Any] = {"max_epochs": 3, "max_trials": 2, "workers": 1, "progress": False, "objective": "val_loss"}


@pytest.mark.core
def test_a_factory_is_searched_with_arrays(workplace: Path) -> None:
    train, validation = data()
    found = search.run(factory(10), data=(train, validation), **OPTIONS)
    assert found.name == "classifier"
    assert len(found.trials) == 2
    models = found.get_best_models(2)
    losses = [model.evaluate(*validation, verbose=0)[0] for model in models]
    assert losses == pytest.approx([trial.objective for trial in found.best_trials(2)], abs=1e-4)
    assert [model.layers[0].units for model in models] == [
        params["units"] + 10 for params in found.get_best_hyperparameters(2)
    ]
    assert len(search.get_best_models("classifier", tracking_uri="sqlite:///runs/mlflow.db")) == 1
    with pytest.raises(StudyError, match="exists"):
        search.run(factory(10), data=(train, validation), **OPTIONS)
    own_seed = {**OPTIONS, "max_trials": 3, "seed": found.study.seed}
    with pytest.raises(search.FallsShort, match="val_loss"):
        search.run(factory(10), data=(train, validation), resume=True, require="val_loss<-1", **own_seed)
    again = search.load_study("classifier")
    assert len(again.trials) == 3
    assert [phase.backend for phase in again.study.phases] == ["hyperband"]  # a resume begins no other phase


def test_a_factory_with_other_parameters_is_a_change(workplace: Path) -> None:
    search.run(factory(0), data=data(), **OPTIONS)

    def classifier(hp: Any) -> Any:
        hp.Boolean("more")
        return factory(0)(hp)

    pickled = StudyPaths.of("runs", "classifier").pickle.read_bytes()
    with pytest.raises(StudyError, match="the factory has changed since study 'classifier' began: more is new"):
        search.run(classifier, data=data(), resume=True, **OPTIONS)
    assert StudyPaths.of("runs", "classifier").pickle.read_bytes() == pickled


def test_an_unusable_factory_leaves_only_a_log(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(hp: Any) -> Any:
        raise RuntimeError("oh")

    line = broken.__code__.co_firstlineno + 1
    with pytest.raises(SpaceError, match=rf"test_api\.py:{line}: RuntimeError: oh"):
        search.run(broken, data=data(), **OPTIONS)
    lock = threading.Lock()

    def with_a_lock(hp: Any) -> Any:
        return lock

    monkeypatch.setattr("search.driver.launch.why_unsafe", lambda *_: "only Linux can fork this one")
    options = {**OPTIONS, "executor": "local"}
    with pytest.raises(SpaceError, match=r"^space cannot be sent to a worker \(TypeError.*, as only Linux can fork"):
        search.run(with_a_lock, data=data(), **options)
    with pytest.raises(SpaceError, match=r"^callbacks cannot be sent to a worker \(TypeError"):
        search.run(factory(0), data=data(), callbacks=lambda hp: lock, **options)
    train = data()[0]
    with pytest.raises(SpaceError, match=r"^data\[1\] cannot be sent to a worker .*: give arrays, a tf\.data\.Dataset"):
        search.run(factory(0), data=(train, (row for row in train)), **options)
    assert {path.name for path in workplace.rglob("*") if path.is_file()} == {"search.log"}


@pytest.mark.parametrize(
    ("space", "options", "words"),
    [
        (factory(0), {}, "no data"),
        ("space.py", {"data": data()}, "belong into the file"),
        (3, {}, "was given an int"),
        ("space.py", {"max_epoch": 3}, "Did you mean 'max_epochs'"),
        ("space.py", {"max_epochs": 0}, r"^max_epochs is 0: it must be at least 1"),
        ("space.py", {"backend": "grid"}, r"^backend 'grid' is not known"),
    ],
)
def test_wrong_arguments_are_refused(workplace: Path, space: Any, options: dict[str, Any], words: str) -> None:
    shutil.copy(TINY, "space.py")
    with pytest.raises(search.SearchError, match=words):
        search.run(space, **options)
    assert not Path("runs").exists()
