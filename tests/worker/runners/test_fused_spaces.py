"""Fused epochs of every ready space equal those of `model.fit` with the same sample order, to the last bit."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from places import SPACES

from search.space.file import SpaceRef
from search.worker.data.arrays import Data, Split
from search.worker.hp import LazyHyperParameters
from search.worker.keras_session import session
from search.worker.runners.choose import choose_runner, create_weights
from search.worker.runners.graph_cache import make_model_key
from search.worker.segment import clear_caches
from search.worker.user_code import load_data, load_space, set_up_trial, trial_folder

FILES = sorted(SPACES.glob("*.py"))
ROUNDED = {"custom_train_step"}
"""Spaces that are equal but for rounding: in a loop, TensorFlow simplifies their own arithmetic in another order."""


class Logs(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped
    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[dict[str, float]] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epochs.append(dict(logs))


def cut(data: Data) -> Data:
    """Return the first samples of arrays: a few batches, the last of them smaller. Streams stay as they are."""
    train, validation = data.train, data.validation
    return replace(
        data,
        train=train.part(slice(150)) if isinstance(train, Split) else train,
        validation=validation.part(slice(75)) if isinstance(validation, Split) else validation,
    )


def train(path: Path, seed: int, fuse: bool) -> tuple[str, list[dict[str, float]], list[np.ndarray[Any, Any]]]:
    """Train two epochs of a model with random hyperparameters; return the runner's name, the logs and all variables."""
    ref = SpaceRef(str(path))
    rng = random.Random(seed)
    hp = LazyHyperParameters(lambda parameter: parameter.domain.at(rng.random()), {})
    space = load_space(ref)
    data = cut(load_data(ref, hp))
    with session(seed):
        ready = set_up_trial(space, hp)
        callbacks = [*ready.callbacks, logs := Logs()]
        create_weights(ready.model, data.train)
        model_key = make_model_key(ready.model, ready.callbacks)
        runner = choose_runner(ready.model, data, ready.fit_options, seed, callbacks, fuse, model_key)
        with trial_folder():
            runner.run(0, 2, callbacks)
        variables = [*ready.model.variables, *ready.model.optimizer.variables]
        return runner.name, logs.epochs, [np.array(variable.numpy()) for variable in variables]


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_fused_epochs_equal_those_of_fit(path: Path) -> None:
    name, logs, variables = train(path, 1, fuse=True)
    assert name == "fused"
    other, fitted_logs, fitted = train(path, 1, fuse=False)
    clear_caches()
    assert other == "fit: asked for"
    if path.stem in ROUNDED:
        for log, fitted_log in zip(logs, fitted_logs, strict=True):
            assert log == pytest.approx(fitted_log, rel=1e-5, abs=1e-6)
        for one, two in zip(variables, fitted, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
        return
    assert logs == fitted_logs
    for one, two in zip(variables, fitted, strict=True):
        np.testing.assert_array_equal(one, two)
