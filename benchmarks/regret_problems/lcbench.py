"""LCBench (Zimmer et al. 2021, IEEE TPAMI 43) by the surrogate of YAHPO Gym: seven parameters of a perceptron.

The surrogate answers in a millisecond what a training needs minutes for.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from regret_problems.problem import Config, Curve, Problem, ProblemError, digest
from regret_problems.space import draw_config, key_of
from search.space.domain import Domain, Parameter
from search.study.trial import Objective, derive_seed

TASKS = (1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31, 34)
"""The default tasks. A constant may be tuned on these, and the surrogate's others are left to show that it holds."""

MAX_EPOCHS = 52
NOISE_SAMPLES = 400
SCALE_CONFIGS = 50_000

PARAMETERS = (
    Parameter("batch_size", Domain("int", 16, 512, None, "log"), 16),
    Parameter("learning_rate", Domain("float", 1e-4, 1e-1, None, "log"), 1e-4),
    Parameter("momentum", Domain("float", 0.1, 0.99), 0.1),
    Parameter("weight_decay", Domain("float", 1e-5, 1e-1), 1e-5),
    Parameter("num_layers", Domain("int", 1, 5), 1),
    Parameter("max_units", Domain("int", 64, 1024, None, "log"), 64),
    Parameter("max_dropout", Domain("float", 0.0, 1.0), 0.0),
)

VAL_ACCURACY, TEST_BALANCED_ACCURACY = 1, 5
"""The columns of the surrogate's output that are used."""


@functools.cache
def _session(folder: str) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise ProblemError(
            "LCBench needs onnxruntime: pip install onnxruntime, or leave lcbench and noise out"
        ) from None
    path = Path(folder) / "model.onnx"
    if not path.is_file():
        raise ProblemError(f"{path} does not exist: give the folder of model.onnx with --data")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(path), options)
    except Exception as error:
        raise ProblemError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None


class LCBench(Problem):
    """One data set of LCBench.

    Args:
        folder: the folder of `model.onnx`.
        task: the number of the data set in the surrogate.
        noisy: whether a search sees accuracies with the noise of `NOISE_SAMPLES` validation samples.

    Raises:
        ProblemError: there is no such task, or no surrogate.
    """

    objective = Objective("val_accuracy", "max")
    max_epochs = MAX_EPOCHS
    parameters = PARAMETERS
    trainings = (2, 5, 10, 20, 40)

    def __init__(self, folder: str, task: int, *, noisy: bool = False) -> None:
        self.name = str(task)
        self._task, self._noisy = task, noisy
        self._model = _session(folder)
        self.data = digest(Path(folder) / "model.onnx")
        self._outputs = functools.lru_cache(maxsize=8192)(self._compute_outputs)
        self._check()

    def _check(self) -> None:
        try:
            found = self._task >= 0 and self.curve(draw_config(PARAMETERS, random.Random(0)), 0)
        except Exception:  # of onnxruntime, which has no public class for it
            found = False
        if not found:
            raise ProblemError(f"--tasks {self._task}: the surrogate has no such task")

    def curve(self, config: Config, seed: int) -> Curve:
        """Return val_accuracy in per cent at epochs 1 to 52. Noise depends on configuration, epoch and seed."""
        true = self._outputs(key_of(config))[:, VAL_ACCURACY].astype(float)
        if not self._noisy:
            return Curve(true.tolist(), true.tolist())
        share = np.clip(true / 100, 0, 1)
        rng = np.random.default_rng(derive_seed("noise", self._task, seed, repr(sorted(config.items()))))
        noise = rng.standard_normal(len(true)) * np.sqrt(share * (1 - share) / NOISE_SAMPLES)
        return Curve((true + 100 * noise).tolist(), true.tolist())

    def test_value(self, config: Config, epoch: int) -> float | None:
        """Return test_balanced_accuracy after `epoch`, between 0 and 1."""
        return float(self._outputs(key_of(config))[epoch - 1, TEST_BALANCED_ACCURACY])

    def find_scale(self) -> tuple[float, float]:
        """Return the best and the median final val_accuracy of `SCALE_CONFIGS` random configurations."""
        return _scale(self._model, self._task)

    def _compute_outputs(self, key: frozenset[tuple[str, Any]]) -> Any:
        config = dict(key)
        values = [[epoch, *(config[parameter.name] for parameter in PARAMETERS)] for epoch in range(1, MAX_EPOCHS + 1)]
        return _evaluate(self._model, self._task, values)


def _evaluate(model: Any, task: int, values: Sequence[Sequence[Any]]) -> Any:
    """Return all outputs, (rows, 6), for rows of an epoch and the values of the parameters."""
    rows = np.array(values, dtype=np.float32)
    return model.run(None, {"x_cat": np.full((len(rows), 1), task, dtype=np.int32), "x_cont": rows})[0]


@functools.cache
def _scale(model: Any, task: int) -> tuple[float, float]:
    parts = np.array_split(_random_rows(), 50)
    final = np.concatenate([_evaluate(model, task, values)[:, VAL_ACCURACY] for values in parts])
    return float(final.max()), float(np.median(final))


@functools.cache
def _random_rows() -> Any:
    """Return `SCALE_CONFIGS` random configurations at the last epoch, the same for all tasks."""
    rng = np.random.default_rng(12345)

    def log_uniform(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    def draw() -> tuple[float, ...]:
        batch, rate = round(log_uniform(16, 512)), log_uniform(1e-4, 1e-1)
        momentum, decay = rng.uniform(0.1, 0.99), rng.uniform(1e-5, 0.1)
        return batch, rate, momentum, decay, rng.integers(1, 6), round(log_uniform(64, 1024)), rng.uniform(0, 1)

    return np.array([(MAX_EPOCHS, *draw()) for _ in range(SCALE_CONFIGS)], dtype=np.float32)
