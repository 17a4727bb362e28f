"""Every ready space's model: fused epochs are those of `model.fit` with the same order of samples, to the last bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from places import SPACES

from search.space.file import SpaceRef
from search.worker import segment as training
from search.worker.hp import LazyHyperParameters
from search.worker.keras_session import session
from search.worker.runners import choose as runner
from search.worker.runners import graph_cache as graphs

FILES = sorted(SPACES.glob("*.py"))
UNFUSED = {
    "text_pipeline": "fit: data that come in batches",
}
"""Why `model.fit` itself trains the others."""
ROUNDED = {"custom_train_step"}
"""Whose own arithmetic TensorFlow simplifies in a loop in another order: equal but for rounding."""


class Logs(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped
    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[dict[str, float]] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epochs.append(dict(logs))


def train(path: Path, seed: int, fuse: bool) -> tuple[str, list[dict[str, float]], list[np.ndarray[Any, Any]]]:
    """Two epochs of a model with random hyperparameters."""
    ref = SpaceRef(str(path))
    rng = random.Random(seed)
    hp = LazyHyperParameters(lambda parameter: parameter.domain.at(rng.random()), {})
    space = training.load_space(ref)
    data = training.load_data(ref, hp)
    with session(seed):
        ready = training.make_ready(space, hp)
        callbacks = [*ready.callbacks, logs := Logs()]
        runner.build(ready.model, data.train.x_spec)
        signature = graphs.sign(ready.model, ready.callbacks)
        chosen = runner.choose(ready.model, data, ready.fit_options, seed, callbacks, fuse, signature)
        with training.trial_folder():
            chosen.run(0, 2, callbacks)
        variables = [*ready.model.variables, *ready.model.optimizer.variables]
        return chosen.name, logs.epochs, [np.array(variable.numpy()) for variable in variables]


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_fused_epochs_are_those_of_fit(path: Path) -> None:
    for seed in (1, 2):
        name, logs, variables = train(path, seed, fuse=True)
        assert name == UNFUSED.get(path.stem, "fused")
        if name != "fused":
            return
        other, fitted_logs, fitted = train(path, seed, fuse=False)
        assert other == "fit: asked for"
        if path.stem in ROUNDED:
            for log, fitted_log in zip(logs, fitted_logs, strict=True):
                assert log == pytest.approx(fitted_log, rel=1e-5, abs=1e-6)
            for one, two in zip(variables, fitted, strict=True):
                np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
            continue
        assert logs == fitted_logs
        for one, two in zip(variables, fitted, strict=True):
            np.testing.assert_array_equal(one, two)
    training.forget()
