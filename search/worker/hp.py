"""The `hp` that a factory gets: KerasTuner's `HyperParameters`, which here asks for each value when it is needed.

When the factory calls `hp.Int(...)` for an active parameter without a value, the value is asked for. So spaces are
define-by-run, conditional parameters cost nothing, and a parameter that the factory does not use is never drawn.
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
from search.space.hyperparameters import QuestionMethods

Ask = Callable[[Parameter], Value]


def default_value(parameter: Parameter) -> Value:
    """Answer with the parameter's default, as a probe does."""
    return parameter.default


def parameter_of(hyperparameter: Any) -> Parameter:
    """Convert one of KerasTuner's `HyperParameter` objects, including its conditions.

    Raises:
        ValueError: if its range is not finite or its step not positive, which KerasTuner does not check.
        TypeError: if it is of no kind that KerasTuner defines.
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
            # A repeated choice would count twice in `size`, and the space would never be exhausted.
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
    """Return a NumPy scalar as Python's own type, which JSON can hold, and any other value unchanged."""
    return value.item() if isinstance(value, np.generic) else value


class LazyHyperParameters(QuestionMethods, keras_tuner.HyperParameters):  # type: ignore[misc]  # KerasTuner has no types
    """KerasTuner's `HyperParameters`, which asks for the value of each active parameter when it is needed.

    A value is asked for once and then stays. So a second build with the same object, or with the `values` of an earlier
    object, gives the same values. Inactive parameters return None and are not asked for. A `Choice` of booleans returns
    booleans; KerasTuner's returns 1 and 0.

    An impossible parameter (min_value above max_value, no choices, an unknown parent, …) raises a `SpaceError` that
    names it.

    Args:
        ask: returns the value of a parameter, by default the parameter's default. Its exceptions pass through the
            factory unchanged.
        values: the values drawn already, by name.
    """

    def __init__(self, ask: Ask = default_value, values: Mapping[str, Value] | None = None) -> None:
        super().__init__()
        self.values = dict(values or {})
        self._ask = ask
        self._used: dict[str, Parameter] = {}
        self._declared: frozenset[str] | None = None
        self._tune_new = self._allow_new = True

    def declare(self, hyperparameters: Any, *, tune_new: bool = True, allow_new: bool = True) -> None:
        """Replace the parameters that a factory asks for by those of the same names in `hyperparameters`.

        Args:
            hyperparameters: a `keras_tuner.HyperParameters`.
            tune_new: whether other parameters are asked for; if not, they have their defaults.
            allow_new: whether the factory may ask for other parameters.
        """
        for hyperparameter in hyperparameters.space:
            self._retrieve(hyperparameter)
        self._declared = frozenset(hyperparameter.name for hyperparameter in hyperparameters.space)
        self._tune_new, self._allow_new = tune_new, allow_new

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The active parameters that the factory has asked for so far, in order."""
        return tuple(self._used.values())

    @property
    def inactive_parameters(self) -> tuple[Parameter, ...]:
        """The parameters that the factory has declared under conditions that do not hold, in order."""
        found = (parameter_of(hyperparameter) for hyperparameter in self._space if hyperparameter.conditions)
        return tuple(parameter for parameter in found if parameter.key not in self._used)

    @property
    def used_values(self) -> dict[str, Value]:
        """The values of `parameters`, by name."""
        names = (parameter.name for parameter in self._used.values())
        return {name: self.values[name] for name in names if name in self.values}

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
                if None in values:  # KerasTuner refuses None
                    self._conditions[-1].values = [_plain(value) for value in values]
            yield

    def copy(self) -> LazyHyperParameters:
        """Copy the object with its own values. It asks for missing values through this object, which keeps them."""
        other = LazyHyperParameters(self._value_of, self.values)
        other._used = self._used
        other._declared, other._tune_new, other._allow_new = self._declared, self._tune_new, self._allow_new
        for hyperparameter in self._space:
            other._add(hyperparameter)
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> LazyHyperParameters:
        return self.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        # `ask` cannot leave this process: a pickle holds KerasTuner's own class with the present values.
        return keras_tuner.HyperParameters.from_config, (self.get_config(),)

    def _answer_question(self, kind: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Register a parameter by KerasTuner's own method, and return its value, or None if it is inactive."""
        method = LazyHyperParameters._choice if kind == "Choice" else getattr(keras_tuner.HyperParameters, kind)
        with _explained(f"hyperparameter {self._get_name(name)!r}"):
            hyperparameter = method(self, name, *args, **kwargs)
            if not self.is_active(hyperparameter):
                return None
            parameter = parameter_of(hyperparameter)
        return self._value_of(parameter)

    def _value_of(self, parameter: Parameter) -> Value:
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
        """Register a parameter and return it. (KerasTuner's method of this name returns its value.)

        The value is asked for later, outside of the conditions and of `_explained`.
        """
        for known in self._hps.get(hyperparameter.name, ()):
            if known.conditions == hyperparameter.conditions:
                return known
        self._validate_name(hyperparameter.name)
        parameter_of(hyperparameter)  # raises before anything is registered
        return self._add(hyperparameter)

    def _add(self, hyperparameter: Any) -> Any:
        hyperparameter = copy.copy(hyperparameter)
        # KerasTuner passes its own list of the present scopes' conditions, which it changes later.
        hyperparameter.conditions = list(hyperparameter.conditions)
        self._hps[hyperparameter.name].append(hyperparameter)
        self._space.append(hyperparameter)
        return hyperparameter

    def _register(self, hyperparameter: Any, overwrite: bool = False) -> Any:
        """Register a parameter for `merge`. A drawn value is never overwritten."""
        hyperparameter = self._retrieve(hyperparameter)
        return self._value_of(parameter_of(hyperparameter)) if self.is_active(hyperparameter) else None


class _Booleans(kt.Choice):  # type: ignore[misc]
    """A choice among booleans, which stay booleans and have no order."""

    def __init__(self, name: str, values: list[bool], ordered: Any = None, default: Any = None, **kwargs: Any) -> None:
        super().__init__(name, values, False, default, **kwargs)
        self._values: list[bool] = list(values)
        self._default: bool | None = None if default is None else bool(default)


# KerasTuner's configs name the class, and its own `Choice` must read them.
_Booleans.__name__ = "Choice"


class _Optionals(kt.Choice):  # type: ignore[misc]
    """A choice with None among its values, which KerasTuner refuses. It has no order, and its default is None."""

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
    """Replace an error of KerasTuner by a one-line SpaceError about `subject`."""
    try:
        yield
    except SpaceError as error:
        raise SpaceError(f"{subject}: {error}") from error
    except Exception as error:
        message = " ".join(str(error).split())
        # Drop "For HyperParameters.Int(name='units'), ", which repeats the subject.
        if message.startswith("For HyperParameters."):
            message = message.partition("'), ")[2]
        raise SpaceError(f"{subject}: {message or type(error).__name__}") from error
