"""The hyperparameters that change shapes: XLA compiles another program for each of their values.

Nothing is guessed by names. The model is built with neighbouring values of one hyperparameter, and the shapes of the
builds are compared: those of variables, of layers' outputs and of batches. JAX only traces such a build, which takes
milliseconds, and neither draws a weight nor compiles.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import keras

from search.space.domain import Domain, Parameter, Value
from search.space.file import Space, SpaceRef
from search.worker.data.arrays import Data
from search.worker.hp import LazyHyperParameters
from search.worker.keras_session import session
from search.worker.runners.choose import create_weights
from search.worker.user_code import build_trial_model, clear_user_code, load_space, taken_names, trial_folder

__all__ = ["Built", "find_shape_parameters", "shape_parameters_of"]

FEW_VALUES = 8
"""A hyperparameter with so many values, or fewer, costs few compilations."""

MAX_BUILDS = 80
MAX_SECONDS = 3.0
"""The limits of the builds of one probe: a large model takes a second to trace."""

_APART = 1 / 16
"""The distance of two neighbours of a continuum, as a cumulative probability."""


@dataclass(frozen=True, slots=True)
class Built:
    """A build of the model.

    Attributes:
        parameters: the hyperparameters that it asked for, in order.
        values: their values, by name.
        shapes: all shapes of the model and its batches.
    """

    parameters: tuple[Parameter, ...]
    values: Mapping[str, Value]
    shapes: Hashable


def find_shape_parameters(
    build: Callable[[Mapping[str, Value]], Built | None],
    values: Mapping[str, Value],
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Parameter, ...]:
    """Return the hyperparameters with many values, each of which gives the model or its batches other shapes.

    Those with few values are varied as well, as some hyperparameters exist only with some of their values.

    Args:
        build: builds the model with the values that it is given, and defaults for the rest; None if that fails.
        values: those of the first build.
        clock: measures `MAX_SECONDS`, after which no build begins. What is not found by then is left out.
    """
    end = clock() + MAX_SECONDS
    waiting, seen, found = [build(values)], set[str](), list[Parameter]()
    left = MAX_BUILDS - 1
    while waiting:
        base = waiting.pop(0)
        new = [parameter for parameter in base.parameters if parameter.key not in seen] if base is not None else []
        seen |= {parameter.key for parameter in new}
        # Those with many values come first: only they can be found.
        for parameter in sorted(new, key=lambda parameter: not _has_many(parameter.domain)):
            assert base is not None
            others: list[Built | None] = []
            for value in _values_to_try(parameter.domain):
                if left == 0 or clock() > end:
                    return tuple(found)
                left -= 1
                others.append(build({**base.values, parameter.name: value}))
            if _has_many(parameter.domain) and _all_differ(others):
                found.append(parameter)
            waiting += others
    return tuple(found)


def _has_many(domain: Domain) -> bool:
    return domain.size is None or domain.size > FEW_VALUES


def _values_to_try(domain: Domain) -> tuple[Value, ...]:
    """Return three neighbours of many values, or all of few.

    The neighbours lie in the middle, as the ends may be special: a dropout of rate 0 has no random state. If the user's
    code rounds them, two of them become equal.
    """
    if domain.size is None:
        return domain.at(0.5 - _APART), domain.at(0.5), domain.at(0.5 + _APART)
    if _has_many(domain):
        return tuple(domain.value(domain.size // 2 + offset) for offset in (-1, 0, 1))
    return tuple(domain.value(index) for index in reversed(range(domain.size))) if domain.size > 1 else ()


def _all_differ(builds: Sequence[Built | None]) -> bool:
    shapes = {each.shapes for each in builds if each is not None}
    return len(shapes) == len(builds)


# Builds on JAX --------------------------------------------------------------------------------------------------------


def shape_parameters_of(ref: SpaceRef, data: Data, values: Mapping[str, Value]) -> tuple[Parameter, ...]:
    """Return the hyperparameters with many values, for each of which JAX compiles anew; none on other back ends.

    The data are those of the probe: a hyperparameter of `load_data` counts only if the model's shapes follow from it.

    Args:
        data: the probe's data.
        values: those of the probe's build.
    """
    if keras.config.backend() != "jax":
        return ()
    import jax

    space = load_space(ref)

    def build(values: Mapping[str, Value]) -> Built | None:
        traced: list[Built | None] = []
        with suppress(Exception, SystemExit), session(names=taken_names(ref)), trial_folder():
            jax.eval_shape(lambda: traced.append(_build(space, data, values)))
        return traced[0] if traced else None

    gc.freeze()  # older objects need not be looked at
    try:
        return find_shape_parameters(build, values)
    finally:
        with session():
            pass  # Keras's global state forgets the traced models
        gc.collect()
        # Not by `isinstance`, which asks lazy objects for their class.
        kept = any(jax.core.Tracer in type(each).__mro__ for each in gc.get_objects())
        gc.unfreeze()
        if kept:
            clear_user_code()  # it has kept a traced model, or a part of one, which no trial can use


def _build(space: Space, data: Data, values: Mapping[str, Value]) -> Built | None:
    """Build the model with these values. Return None if it is run without compiling."""
    hp = LazyHyperParameters(values=values)
    model = build_trial_model(space, hp)
    options = space.fit_options(hp) if space.fit_options else {}
    if space.fit is None:
        create_weights(model, data.train)
    if not model.compiled or not model.jit_compile or model.run_eagerly:
        return None
    shapes = [
        *(str(tuple(variable.shape)) for variable in model.variables),
        *map(_output_shape, model.layers),
        *(str(options.get(name)) for name in ("batch_size", "validation_batch_size")),
    ]
    return Built(hp.parameters, hp.used_values, tuple(shapes))


def _output_shape(layer: Any) -> str:
    """Return the shape of a layer's output as text; "" if it has none yet, or several."""
    try:
        return str(keras.tree.map_structure(lambda tensor: tuple(tensor.shape), layer.output))
    except (AttributeError, ValueError):
        return ""
