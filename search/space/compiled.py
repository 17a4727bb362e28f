"""`search.compiled`: a `build_model` made of a factory without `compile`, and the arguments of `compile`.

Pickles refer to `_name` and `_fresh` of this module: both keep their names and arguments.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from search.errors import SpaceError


def compiled(build: Callable[..., Any], **arguments: Any) -> Callable[..., Any]:
    """Return a `build_model` that calls `build` and compiles the model with `arguments`.

    Args:
        build: `hp, *args, **kwargs` → a Keras model, not compiled.
        arguments: arguments of `model.compile`: `optimizer`, `loss`, `metrics`, … Each is a value or a function of
            `hp`, as are the items of its lists and dicts. Instances of optimizers and metrics are cloned at every
            call: Keras refuses an optimizer that has seen another model. A loss has no state and is used directly.

    Returns:
        `hp, *args, **kwargs` → the compiled model. The extra arguments go to `build`.

    Raises:
        SpaceError: from the returned function: an instance cannot be cloned, or `build` returns no model.

    Example:
        ::

            import keras
            import search

            def mlp(hp):
                layers = [keras.layers.Dense(hp.Int("units", 16, 64), activation="relu"), keras.layers.Dense(10)]
                return keras.Sequential([keras.Input((64,)), *layers])

            build_model = search.compiled(
                mlp,
                optimizer=lambda hp: keras.optimizers.Adam(hp.Float("lr", 1e-4, 1e-1, sampling="log")),
                loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                metrics=["accuracy"],
            )
            model = build_model(search.HyperParameters())
    """

    def build_model(hp: Any, *args: Any, **kwargs: Any) -> Any:
        model = build(hp, *args, **kwargs)
        if not callable(getattr(model, "compile", None)):
            raise SpaceError(f"{_name(build)} returned {type(model).__name__}: return a keras.Model")
        model.compile(**{name: _fresh(value, hp, name) for name, value in arguments.items()})
        return model

    build_model.__name__ = _name(build)
    return build_model


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _fresh(value: Any, hp: Any, name: str) -> Any:
    """Return the value of the compile argument `name` for `hp`, with new instances of Keras's classes."""
    if isinstance(value, dict):
        return {key: _fresh(item, hp, name) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_fresh(item, hp, name) for item in value)
    if _is_keras(value):
        return _clone(value, name)
    # A function of two arguments is a loss or a metric, of y_true and y_pred.
    return value(hp) if callable(value) and not isinstance(value, type) and _takes_one(value) else value


def _is_keras(value: Any) -> bool:
    """Return whether `value` is an instance of an optimizer, a loss or a metric."""
    import keras

    return isinstance(value, (keras.optimizers.Optimizer, keras.losses.Loss, keras.metrics.Metric))


def _clone(value: Any, name: str) -> Any:
    import keras

    if isinstance(value, keras.losses.Loss):
        return value  # a loss's config may be incomplete: Huber's lacks its delta
    try:
        return type(value).from_config(value.get_config())
    except Exception as error:
        raise SpaceError(
            f"search.compiled: {name} {type(value).__name__} cannot be cloned ({error}): give it a get_config, or give "
            "a function of hp that makes one"
        ) from error


def _takes_one(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return False
    required = [
        parameter
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    return len(required) == 1
