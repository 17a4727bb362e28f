"""The `hp` that a factory is given: KerasTuner's, except that it asks for a value the moment one is needed.

Every parameter that is active and has no value yet is asked for when the factory calls `hp.Int(...)`, so spaces are
define-by-run, a conditional space costs nothing, and what a factory does not use is never drawn.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.engine import hyperparameters as kt

from search.errors import SpaceError, nearest
from search.space.domain import Condition, Domain, Parameter, Value

Ask = Callable[[Parameter], Value]


def default_value(parameter: Parameter) -> Value:
    """The `ask` that answers with defaults: what a probe builds with."""
    return parameter.default


def parameter_of(hyperparameter: Any) -> Parameter:
    """Convert one of KerasTuner's `HyperParameter` objects, its conditions included.

    ValueError where its range is not finite or its step not positive, neither of which KerasTuner checks; TypeError
    where it is of no kind that KerasTuner defines.
    """
    conditions = tuple(
        Condition(parent.name, tuple(_plain(value) for value in parent.values)) for parent in hyperparameter.conditions
    )
    default = _plain(hyperparameter.default)
    match hyperparameter:
        case kt.Fixed():
            domain = Domain("fixed", values=(_plain(hyperparameter.value),))
        case kt.Boolean():
            domain, default = Domain("boolean", values=(True, False)), bool(default)
        case kt.Choice():
            # A choice twice in the list would count twice in `size`, and never be exhausted.
            values = tuple(dict.fromkeys(_plain(value) for value in hyperparameter.values))
            domain = Domain("choice", values=values, ordered=bool(hyperparameter.ordered))
        case kt.Int():
            domain, default = _range("int", hyperparameter), int(default) if default == int(default) else default
        case kt.Float():
            domain, default = _range("float", hyperparameter), float(default)
        case _:
            raise TypeError(f"{type(hyperparameter).__name__} is not a kind of hyperparameter that can be searched")
    return Parameter(hyperparameter.name, domain, default, conditions)


def _range(kind: Any, hyperparameter: Any) -> Domain:
    low, high, step = _plain(hyperparameter.min_value), _plain(hyperparameter.max_value), _plain(hyperparameter.step)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"min_value and max_value must be finite, found {low} and {high}")
    if step is not None and not (math.isfinite(step) and step > 0):
        raise ValueError(f"step must be greater than 0, found {step}")
    if kind == "float" and step is not None:
        step = float(step)
    return Domain(kind, low, high, step, hyperparameter.sampling)


def _plain(value: Any) -> Any:
    """A NumPy scalar as Python's own type, which JSON can hold; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


class LazyHyperParameters(keras_tuner.HyperParameters):  # type: ignore[misc]  # KerasTuner publishes no types
    """KerasTuner's `HyperParameters`, whose active parameters ask for their values as they are needed.

    A value is asked for once and then stays: a second build with the same object, and one with the `values` of an
    earlier object, replay. Inactive parameters return None and are not asked for. A `Choice` of booleans gives
    booleans; KerasTuner's gives 1 and 0.

    Args:
        ask: gives the value of a parameter; the parameter's default where no `ask` is given. What it raises passes
            through the factory unchanged.
        values: the values drawn already, by name.

    A parameter that cannot be (min_value above max_value, no choices, an unknown parent, …) is a `SpaceError` that
    names it.
    """

    def __init__(self, ask: Ask = default_value, values: Mapping[str, Value] | None = None) -> None:
        super().__init__()
        self.values = dict(values or {})
        self._ask = ask
        self._used: dict[str, Parameter] = {}
        self._declared: frozenset[str] | None = None
        self._tune_new = self._allow_new = True

    def declare(self, given: Any, *, tune_new: bool = True, allow_new: bool = True) -> None:
        """Have hyperparameters take the place of those that a factory asks for by the same names.

        Args:
            given: a `keras_tuner.HyperParameters` that holds them.
            tune_new: whether others are asked for; else they have their defaults.
            allow_new: whether there may be others.
        """
        for hyperparameter in given.space:
            self._retrieve(hyperparameter)
        self._declared = frozenset(hyperparameter.name for hyperparameter in given.space)
        self._tune_new, self._allow_new = tune_new, allow_new

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The active parameters that a factory has asked for, in the order of asking; empty where it asked for none."""
        return tuple(self._used.values())

    @property
    def used_values(self) -> dict[str, Value]:
        """The values of `parameters`, by name."""
        names = (parameter.name for parameter in self._used.values())
        return {name: self.values[name] for name in names if name in self.values}

    def Int(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._value_of(name, super().Int, args, kwargs)

    def Float(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._value_of(name, super().Float, args, kwargs)

    def Choice(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._value_of(name, self._choice, args, kwargs)

    def Boolean(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._value_of(name, super().Boolean, args, kwargs)

    def Fixed(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._value_of(name, super().Fixed, args, kwargs)

    @contextlib.contextmanager
    def conditional_scope(self, parent_name: str, parent_values: Any) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            with _explained(f"conditional scope of {parent_name!r}"):
                if not self._exists(self._get_name(parent_name)):
                    raise LookupError(
                        "no hyperparameter of this name is asked for before it, under the same conditions."
                        + nearest(str(parent_name), self._hps)
                    )
                if parent_values is None or (isinstance(parent_values, (list, tuple)) and not parent_values):
                    raise ValueError("parent_values must hold at least one value")
                values = list(parent_values) if isinstance(parent_values, (list, tuple)) else [parent_values]
                others = [value for value in values if value is not None]
                stack.enter_context(super().conditional_scope(parent_name, others or ["None"]))
                if None in values:  # which KerasTuner refuses
                    self._conditions[-1].values = [_plain(value) for value in values]
            yield

    def copy(self) -> LazyHyperParameters:
        """A copy with values of its own; what it lacks, it asks through this object, which keeps the answer."""
        other = LazyHyperParameters(self._answer, self.values)
        other._used = self._used
        other._declared, other._tune_new, other._allow_new = self._declared, self._tune_new, self._allow_new
        for hyperparameter in self._space:
            other._add(hyperparameter)
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> LazyHyperParameters:
        return self.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        # What `ask` talks to stays in this process: elsewhere, this is KerasTuner's own class with these values.
        return keras_tuner.HyperParameters.from_config, (self.get_config(),)

    def _value_of(self, name: str, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Register a parameter by KerasTuner's own `method`, then give its value, None where it is inactive."""
        with _explained(f"hyperparameter {self._get_name(name)!r}"):
            hyperparameter = method(name, *args, **kwargs)
            if not self.is_active(hyperparameter):
                return None
            parameter = parameter_of(hyperparameter)
        return self._answer(parameter)

    def _answer(self, parameter: Parameter) -> Value:
        name = parameter.name
        if self._declared is not None and name not in self._declared:
            if not self._allow_new:
                raise SpaceError(
                    f"hyperparameter {name!r} is not among those that were given, and allow_new_entries is False: add "
                    "it there, or allow new ones"
                )
            if not self._tune_new:
                return self.values.setdefault(name, parameter.default)
        if name not in self.values:
            self.values[name] = self._ask(parameter)
        elif parameter.key not in self._used and not parameter.domain.contains(self.values[name]):
            others = [key for key, used in self._used.items() if used.name == name]
            if others:
                raise SpaceError(
                    f"hyperparameter {parameter.key!r} is asked for where {others[0]!r} is active too, with another "
                    "domain: give the two different names"
                )
        self._used.setdefault(parameter.key, parameter)
        return self.values[name]

    def _choice(
        self,
        name: str,
        values: Any,
        ordered: bool | None = None,
        default: Any = None,
        parent_name: str | None = None,
        parent_values: Any = None,
    ) -> Any:
        if isinstance(values, (list, tuple, np.ndarray)):
            values = [_plain(value) for value in values]
        kind = kt.Choice
        if isinstance(values, list) and values and all(isinstance(value, bool) for value in values):
            kind = _Booleans
        elif isinstance(values, list) and None in values:
            kind = _Optionals
        with self._maybe_conditional_scope(parent_name, parent_values):
            return self._retrieve(
                kind(
                    name=self._get_name(name),
                    values=values,
                    ordered=ordered,
                    default=_plain(default),
                    conditions=self._conditions,
                )
            )

    def _retrieve(self, hyperparameter: Any) -> Any:
        """KerasTuner's seam between a parameter and its value. Here: the registered parameter, its value comes later,
        outside of the conditions and of what explains KerasTuner's errors."""
        for known in self._hps.get(hyperparameter.name, ()):
            if known.conditions == hyperparameter.conditions:
                return known
        self._validate_name(hyperparameter.name)
        parameter_of(hyperparameter)  # raises before anything is registered
        return self._add(hyperparameter)

    def _add(self, hyperparameter: Any) -> Any:
        hyperparameter = copy.copy(hyperparameter)
        # KerasTuner hands over its live list of the conditions of the scopes that are open.
        hyperparameter.conditions = list(hyperparameter.conditions)
        self._hps[hyperparameter.name].append(hyperparameter)
        self._space.append(hyperparameter)
        return hyperparameter

    def _register(self, hyperparameter: Any, overwrite: bool = False) -> Any:
        """What `merge` calls. A value once drawn is never overwritten."""
        hyperparameter = self._retrieve(hyperparameter)
        return self._answer(parameter_of(hyperparameter)) if self.is_active(hyperparameter) else None


class _Booleans(kt.Choice):  # type: ignore[misc]
    """A choice among booleans that stay booleans, without an order."""

    def __init__(self, name: str, values: list[bool], ordered: Any = None, default: Any = None, **kwargs: Any) -> None:
        super().__init__(name, values, False, default, **kwargs)
        self._values: list[bool] = list(values)
        self._default: bool | None = None if default is None else bool(default)


# KerasTuner's configs name the class: its own `Choice` reads them back.
_Booleans.__name__ = "Choice"


class _Optionals(kt.Choice):  # type: ignore[misc]
    """A choice with None among its values, which KerasTuner refuses; by default None. Without an order."""

    def __init__(self, name: str, values: list[Any], ordered: Any = None, default: Any = None, **kwargs: Any) -> None:
        others = [value for value in values if value is not None]
        if ordered:
            raise ValueError("a choice with None among its values has no order: leave ordered out")
        if default is not None and default not in others:
            raise ValueError(f"the default should be one of the choices, and is {default!r}")
        super().__init__(name, others or [None], False, None, **kwargs)
        self._values = list(values)
        self._default = default

    @property
    def default(self) -> Any:
        return self._default


_Optionals.__name__ = "Choice"


@contextlib.contextmanager
def _explained(subject: str) -> Iterator[None]:
    """Turn KerasTuner's error into one line about `subject`."""
    try:
        yield
    except SpaceError as error:
        raise SpaceError(f"{subject}: {error}") from error
    except Exception as error:
        message = " ".join(str(error).split())
        # "For HyperParameters.Int(name='units'), min_value 9 is …": the subject says so already.
        if message.startswith("For HyperParameters."):
            message = message.partition("'), ")[2]
        raise SpaceError(f"{subject}: {message or type(error).__name__}") from error
