"""Grid searches with a `fit` of one's own, which asks for hyperparameters too."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import pytest

import search

X = np.zeros((8, 2), "float32")


class AsksInFit(keras_tuner.HyperModel):
    """Three choices, all asked for in `fit`."""

    def build(self, hp: Any) -> Any:
        hp.Fixed("fixed", 3)
        return keras.Sequential()

    def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> float:
        return float(hp.Choice("choice", [3, 1, 2]))


class Branches(keras_tuner.HyperModel):
    """Two branches of two choices each, in `build` and again in `fit`."""

    def build(self, hp: Any) -> Any:
        self.ask(hp, "first")
        return keras.Sequential()

    def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> float:
        return self.ask(hp, "second")

    def ask(self, hp: Any, name: str) -> float:
        taken = hp.Boolean(name)
        for branch, values in ((True, [1.0, 2.0]), (False, [3.0, 4.0])):
            with hp.conditional_scope(name, [branch]):
                if taken == branch:
                    found = hp.Choice(f"{name}_{branch}", values)
        return float(found)


@pytest.mark.slow
@pytest.mark.parametrize(("hypermodel", "workers", "count"), [(AsksInFit(), 1, 3), (Branches(), 2, 16)])
def test_a_fit_that_asks_is_part_of_the_grid(
    hypermodel: Any, workers: int, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    objective = search.Objective("default_objective", "min")
    tuner = search.GridSearch(hypermodel, objective, workers=workers)
    tuner.search(X, X, validation_data=(X, X), verbose=0)
    found = [tuple(trial.params.items()) for trial in tuner.results.trials]
    assert len(found) == len(set(found)) == count
    if count == 16:
        halves = [(True, 1.0), (True, 2.0), (False, 3.0), (False, 4.0)]
        assert {tuple(dict(items).values()) for items in found} == {
            (*a, *b) for a, b in itertools.product(halves, halves)
        }
