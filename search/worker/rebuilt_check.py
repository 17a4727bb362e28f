"""The check of a rebuilt model: is it the model that was trained?

A factory that draws constants, or reads data that have changed, builds another model for the same hyperparameters. The
weights fit, and the predictions are wrong. So the winner is evaluated once more on the validation data, which must give
the logged objective. If the evaluation cannot give the objective, one batch is stored with its outputs, and later
rebuilds are compared with these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from search.errors import SearchError
from search.space.domain import Value
from search.space.file import Space
from search.study.trial import Objective
from search.worker.checkpoint import BestWeights
from search.worker.data import kinds
from search.worker.data.arrays import Data, Split
from search.worker.hp import LazyHyperParameters
from search.worker.runners.fit import TrainingPlan, hold_out_validation, make_training_plan, validation_arguments
from search.worker.runners.logs import scalar_logs
from search.worker.saved_model_check import describe_difference, tolerances, values_of

__all__ = ["check_objective", "check_reference", "first_inputs", "save_reference"]

_ABSOLUTE_TOLERANCE = 1e-6
_CAUSE = "the factory or the data have changed, or draw from a source that no seed sets"
_EAGER_BATCHES = 32
"""Batches up to which an evaluation step by step is faster on TensorFlow than making a graph for it."""
_REFERENCE_SAMPLES = 32


def check_objective(
    space: Space, values: Mapping[str, Value], model: Any, best: BestWeights, data: Data, objective: Objective
) -> tuple[bool, str]:
    """Evaluate a rebuilt model on the validation data, and compare the objective with the logged one.

    Args:
        values: the trial's hyperparameters.
        best: the weights of the model, with the logged objective.

    Returns:
        Whether the evaluation gives the objective at all, and the difference in words; "" if there is none.
    """
    name = objective.name.removeprefix("val_")
    # A user's `fit` may validate on other data.
    if name == objective.name or space.fit is not None or not model.compiled:
        return False, ""
    options = space.fit_options(LazyHyperParameters(values=values)) if space.fit_options else {}
    data = hold_out_validation(data, options)
    if data.validation is None:
        return False, ""
    plan = make_training_plan(data, options, seed=0)
    found = _evaluate(model, plan).get(name)
    if found is None:
        return False, ""
    if _is_close(found, best.value, model) or not _is_close(_evaluate(model, plan)[name], found, model):
        return True, ""  # equal, or the evaluation itself is random
    return True, (
        f"{objective.name} was {best.value:.6g} in training, and is {found:.6g} of the model built again: {_CAUSE}"
    )


def _is_close(found: float, expected: float, model: Any) -> bool:
    return math.isclose(found, expected, rel_tol=tolerances(model)[0], abs_tol=_ABSOLUTE_TOLERANCE)


def _evaluate(model: Any, plan: TrainingPlan) -> dict[str, float]:
    arguments = validation_arguments(plan)
    data, batch_size = arguments.pop("validation_data"), arguments.pop("validation_batch_size", None)
    packed = data if isinstance(data, tuple) else (data,)
    eager, few = model.run_eagerly, isinstance(plan.validation, Split) and _batches(plan) <= _EAGER_BATCHES
    # JAX would compile each operation by itself.
    model.run_eagerly = eager or (few and model.test_function is None and keras.config.backend() != "jax")
    try:
        found = model.evaluate(
            **dict(zip(("x", "y", "sample_weight"), packed, strict=False)),
            batch_size=batch_size,
            steps=arguments.get("validation_steps"),
            return_dict=True,
            verbose=0,
        )
    finally:
        if model.run_eagerly != eager:
            model.run_eagerly, model.test_function = eager, None
    return scalar_logs(found)


def _batches(plan: TrainingPlan) -> int:
    assert isinstance(plan.validation, Split)
    return math.ceil(plan.validation.samples / plan.validation_batch_size)


# References -----------------------------------------------------------------------------------------------------------


def first_inputs(data: Data) -> Any:
    """Return the inputs of the first samples to validate on, or else to train on: arrays in the model's structure."""
    part = data.validation if data.validation is not None else data.train
    if isinstance(part, Split):
        return part.take(slice(_REFERENCE_SAMPLES))[0]
    return part.first[0]


def save_reference(path: Path, model: Any, inputs: Any) -> None:
    """Store `inputs` with the model's outputs for them.

    Nothing is stored if the model cannot be called on them, or if they are sparse or ragged.
    """
    leaves = keras.tree.flatten(inputs)
    if any(kinds.kind_of(leaf) in ("sparse data", "ragged data") for leaf in leaves):
        return
    try:
        outputs = values_of(model, inputs)
    except Exception:
        return  # a model that only a step of its own can call
    arrays: dict[str, Any] = {f"input-{i}": kinds.plain_parts(leaf)[0] for i, leaf in enumerate(leaves)}
    arrays |= {f"output-{i}": leaf for i, leaf in enumerate(outputs)}
    temporary = path.with_suffix(".tmp.npz")
    np.savez(temporary, **arrays)
    temporary.replace(path)


def check_reference(path: Path, model: Any, inputs_like: Any) -> str:
    """Compare a model built again with a stored reference. Return the difference in words; "" if there is none.

    Args:
        inputs_like: the structure of the model's inputs.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            stored = dict(file)
    except (OSError, ValueError, EOFError) as error:
        raise SearchError(f"{path} is damaged ({error}): delete it") from error
    inputs = [kinds.from_plain(stored[f"input-{i}"]) for i in range(len(keras.tree.flatten(inputs_like)))]
    found = values_of(model, keras.tree.pack_sequence_as(inputs_like, inputs))
    expected = [stored[f"output-{i}"] for i in range(len(found))]
    if describe_difference(expected, found, tolerances(model)) is None:
        return ""
    return f"the model built again has other outputs than at the end of the search: {_CAUSE}"
