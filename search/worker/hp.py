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
from keras_tuner.src.engine.conditions import Parent

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

    A value that the factory itself puts into `values` is returned in place of an answer. It is asked for all the same,
    as a fixed one, so that the search records it.

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
        self._known = dict(self.values)
        self._ask = ask
        self._used: dict[str, Parameter] = {}
        self._untuned: set[str] = set()
        self._inherited: frozenset[str] | None = None
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
    def asked(self) -> bool:
        """True if the factory has asked for anything, be it for defaults that are not searched."""
        return bool(self._used or self._untuned)

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

    def note_own_values(self) -> None:
        """Ask for each value that the factory has put into `values` itself, so that the search records it.

        It does not become one of `parameters`: a later build of the trial finds it among its values.

        Raises:
            SpaceError: such a value is no scalar of JSON.
        """
        for name in [name for name in self.values if self._is_own(name)]:
            self._note_own_value(name)

    def get(self, name: str) -> Any:
        """Return the value of an active parameter, which is asked for if it has none yet.

        Raises:
            ValueError: the parameter is inactive.
            KeyError: there is no parameter of this name.
        """
        active = self._find_active(self._get_name(name))
        return super().get(name) if active is None else self._value_of(parameter_of(active))

    def __contains__(self, name: object) -> bool:
        full = self._get_name(name)
        return full in self.values or self._find_active(full) is not None

    def _find_active(self, name: str) -> Any:
        """Return the registered parameter called `name` whose conditions hold, or None."""
        return next((known for known in self._hps.get(name, ()) if self.is_active(known)), None)

    def _conditions_are_active(self, conditions: Any) -> bool:
        for condition in conditions:
            # The value of a parent that was only declared is needed now.
            if not self._is_used(condition.name) and (parent := self._find_active(condition.name)) is not None:
                self._value_of(parameter_of(parent))
            if not condition.is_active(self.values):
                return False
        return True

    @contextlib.contextmanager
    def conditional_scope(self, parent_name: str, parent_values: Any) -> Iterator[None]:
        with _explained(f"conditional scope of {str(parent_name)!r}"):
            condition = self._condition_on(self._find_parent(str(parent_name)), parent_values)
        self._conditions.append(condition)
        scopes = self.active_scopes if condition.is_active(self.values) else self.inactive_scopes
        scopes.append(copy.deepcopy(self._conditions))
        try:
            yield
        finally:
            self._conditions.pop()

    def _find_parent(self, name: str) -> str:
        """Return the full name of the parent called `name`: that of the innermost name scope that has one.

        KerasTuner looks in the present name scope alone, and for a parent that was asked for under exactly the present
        conditions. Here some of them suffice, or none: then the parent is active whenever its scope is.

        Raises:
            LookupError: there is none.
        """
        scopes = self._name_scopes
        names: list[str] = [self._get_name(name, scopes[:depth]) for depth in range(len(scopes), -1, -1)]
        for full in names:
            if any(all(one in self._conditions for one in known.conditions) for known in self._hps.get(full, ())):
                return full
        if any(self._hps.get(full) for full in names):
            raise LookupError(
                "this hyperparameter is asked for only under conditions that do not hold in this place: ask for it "
                "outside of them, or open the scope within them"
            )
        raise LookupError("no hyperparameter of this name is asked for before it." + nearest(name, self._hps))

    @staticmethod
    def _condition_on(name: str, parent_values: Any) -> Any:
        """Return KerasTuner's condition that the parameter `name` has one of `parent_values`."""
        if parent_values is None or (isinstance(parent_values, (list, tuple)) and not parent_values):
            raise ValueError("parent_values must hold at least one value")
        values = list(parent_values) if isinstance(parent_values, (list, tuple)) else [parent_values]
        others = [value for value in values if value is not None]
        condition = Parent(name, others or ["None"])
        if None in values:  # KerasTuner refuses None
            condition.values = [_plain(value) for value in values]
        return condition

    def copy(self) -> LazyHyperParameters:
        """Copy the object with its own values.

        As in KerasTuner, the copy's new parameters do not reach this object: they have their defaults, and are not
        searched. The copy asks for missing values of this object's parameters through this object, which keeps them.
        """
        other = LazyHyperParameters(self._value_of, self.values)
        other._used, other._untuned = self._used, self._untuned
        for hyperparameter in self._space:
            other._add(hyperparameter)
        other._inherited = self._inherited
        if other._inherited is None:
            other._inherited = frozenset(parameter_of(hyperparameter).key for hyperparameter in self._space)
        return other

    def ensure_active_values(self) -> None:
        """Ask for the missing values of all active parameters, and drop the values of inactive ones."""
        for hyperparameter in self._space:
            if self.is_active(hyperparameter):
                self._value_of(parameter_of(hyperparameter))
            elif not self.is_active(hyperparameter.name):
                self.values.pop(hyperparameter.name, None)

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
            parameter = parameter_of(hyperparameter)
        return self._value_of(parameter) if self.is_active(hyperparameter) else None

    def _value_of(self, parameter: Parameter) -> Value:
        name = parameter.name
        if self._is_untuned(parameter):
            self._untuned.add(parameter.key)
            if name not in self.values:
                self.values[name] = self._known[name] = parameter.default
            return self.values[name]
        if self._inherited is not None and self._is_own(name):
            return self.values[name]  # of a copy
        if self._is_own(name):
            parameter = self._note_own_value(name, parameter.conditions)
        elif name not in self.values:
            self.values[name] = self._known[name] = self._ask(parameter)
        elif parameter.key not in self._used and not parameter.domain.contains(self.values[name]):
            self._refuse_second_domain(parameter)
        self._used.setdefault(parameter.key, parameter)
        return self.values[name]

    def _is_untuned(self, parameter: Parameter) -> bool:
        """Return whether a parameter has its default, as it is new in a copy or beside declared parameters."""
        if self._inherited is not None:
            return parameter.key not in self._inherited
        if self._declared is None or parameter.name in self._declared:
            return False
        if not self._allow_new:
            raise SpaceError(
                f"hyperparameter {parameter.name!r} is not among those that were given, and allow_new_entries is "
                "False: add it there, or allow new ones"
            )
        return not self._tune_new

    def _is_used(self, name: str) -> bool:
        return any(parameter.name == name for parameter in self._used.values())

    def _refuse_second_domain(self, parameter: Parameter) -> None:
        """Raise SpaceError if another parameter of the same name is active, too: one value cannot serve both."""
        others = [key for key, used in self._used.items() if used.name == parameter.name]
        if others:
            raise SpaceError(
                f"hyperparameter {parameter.key!r} is asked for where {others[0]!r} is active too, with another "
                "domain: give the two different names"
            )

    def _is_own(self, name: str) -> bool:
        """Return whether the factory itself has put the value of `name` into `values`."""
        return name in self.values and (name not in self._known or self._known[name] != self.values[name])

    def _note_own_value(self, name: str, conditions: tuple[Condition, ...] = ()) -> Parameter:
        """Ask for a value of the factory's own as a fixed parameter, and return that."""
        value = self.values[name] = _plain(self.values[name])
        finite = not isinstance(value, float) or math.isfinite(value)
        if not isinstance(value, (int, float, str, bool, type(None))) or not finite:
            raise SpaceError(f"hp.values[{name!r}] was set to {value!r}: set it to a number, a text, a boolean or None")
        parameter = Parameter(name, Domain("fixed", values=(value,)), value, conditions)
        self._ask(parameter)
        self._known[name] = value
        return parameter

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
        """Register a parameter for `merge`, and return its value; None if it is inactive.

        Args:
            overwrite: whether a different parameter in its place gets the default of `hyperparameter`, as in
                KerasTuner.
        """
        parameter = parameter_of(hyperparameter)
        registered = self._retrieve(hyperparameter)
        if not self.is_active(registered):
            return None
        # A parameter that is new in this build may have its value already: from an earlier build of the same trial.
        if overwrite and parameter_of(registered) != parameter:
            self.values[parameter.name] = parameter.default
        return self._value_of(parameter)


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
