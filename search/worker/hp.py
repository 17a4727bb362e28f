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

from search.errors import SpaceError, nearest
from search.space.domain import Condition, Domain, Parameter, Value
from search.space.hyperparameters import QuestionMethods
from search.worker.hyperparameters import bind_arguments, condition_on, make_hyperparameter, parameter_of, plain

Ask = Callable[[Parameter], Value]


def default_value(parameter: Parameter) -> Value:
    """Answer with the parameter's default, as a probe does."""
    return parameter.default


class LazyHyperParameters(QuestionMethods, keras_tuner.HyperParameters):  # type: ignore[misc]  # KerasTuner has no types
    """KerasTuner's `HyperParameters`, which asks for the value of each active parameter when it is needed.

    A value is asked for once and then stays. So a second build with the same object, or with the `values` of an earlier
    object, gives the same values. Inactive parameters return None and are not asked for. A `Choice` of booleans returns
    booleans; KerasTuner's returns 1 and 0.

    A value that the factory itself puts into `values` is returned in place of an answer. It is asked for all the same,
    as a fixed one, so that the search records it.

    An impossible parameter (min_value above max_value, no choices, an unknown parent, …) raises a `SpaceError` that
    names it.

    The class is KerasTuner's for the sake of `isinstance`, and keeps its parameters, scopes and conditions itself: it
    overrides KerasTuner's public methods, and needs none of its private ones.

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
        self._registered: list[Any] = []
        self._by_name: dict[str, list[Any]] = {}
        self._names_in_scope: list[str] = []
        self._open_conditions: list[Any] = []

    def declare(self, hyperparameters: Any, *, tune_new: bool = True, allow_new: bool = True) -> None:
        """Replace the parameters that a factory asks for by those of the same names in `hyperparameters`.

        Args:
            hyperparameters: a `keras_tuner.HyperParameters`.
            tune_new: whether other parameters are asked for; if not, they have their defaults.
            allow_new: whether the factory may ask for other parameters.
        """
        for hyperparameter in hyperparameters.space:
            self._add(hyperparameter)
        self._declared = frozenset(hyperparameter.name for hyperparameter in hyperparameters.space)
        self._tune_new, self._allow_new = tune_new, allow_new

    @property
    def space(self) -> list[Any]:
        """The parameters that the factory has declared, as KerasTuner's objects, in order."""
        return self._registered

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
        found = (parameter_of(hyperparameter) for hyperparameter in self._registered if hyperparameter.conditions)
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
        full = self._full_name(name)
        if (active := self._find_active(full)) is not None:
            return self._value_of(parameter_of(active))
        if full in self.values:
            return self.values[full]
        if full in self._by_name:
            raise ValueError(f"{full} is currently inactive.")
        raise KeyError(f"{full} does not exist.")

    def __contains__(self, name: object) -> bool:
        full = self._full_name(name)
        return full in self.values or self._find_active(full) is not None

    def _find_active(self, name: str) -> Any:
        """Return the registered parameter called `name` whose conditions hold, or None."""
        return next((known for known in self._by_name.get(name, ()) if self.is_active(known)), None)

    def is_active(self, hyperparameter: Any) -> bool:
        """Return whether the conditions of a parameter hold; of a name, those of any parameter called so."""
        if not hasattr(hyperparameter, "conditions"):
            return self._find_active(str(hyperparameter)) is not None
        for condition in hyperparameter.conditions:
            # The value of a parent that was only declared is needed now.
            if not self._is_used(condition.name) and (parent := self._find_active(condition.name)) is not None:
                self._value_of(parameter_of(parent))
            if not condition.is_active(self.values):
                return False
        return True

    @contextlib.contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Put `name/` before the names of the parameters asked for within."""
        self._names_in_scope.append(name)
        try:
            yield
        finally:
            self._names_in_scope.pop()

    def _full_name(self, name: object) -> str:
        return "/".join([*self._names_in_scope, str(name)])

    @contextlib.contextmanager
    def conditional_scope(self, parent_name: str, parent_values: Any) -> Iterator[None]:
        with _explained(f"conditional scope of {str(parent_name)!r}"):
            condition = condition_on(self._find_parent(str(parent_name)), parent_values)
        self._open_conditions.append(condition)
        scopes = self.active_scopes if condition.is_active(self.values) else self.inactive_scopes
        scopes.append(copy.deepcopy(self._open_conditions))
        try:
            yield
        finally:
            self._open_conditions.pop()

    def _find_parent(self, name: str) -> str:
        """Return the full name of the parent called `name`: that of the innermost name scope that has one.

        KerasTuner looks in the present name scope alone, and for a parent that was asked for under exactly the present
        conditions. Here some of them suffice, or none: then the parent is active whenever its scope is.

        Raises:
            LookupError: there is none.
        """
        scopes = self._names_in_scope
        names = ["/".join([*scopes[:depth], name]) for depth in range(len(scopes), -1, -1)]
        for full in names:
            known = self._by_name.get(full, ())
            if any(all(condition in self._open_conditions for condition in one.conditions) for one in known):
                return full
        if any(full in self._by_name for full in names):
            raise LookupError(
                "this hyperparameter is asked for only under conditions that do not hold in this place: ask for it "
                "outside of them, or open the scope within them"
            )
        raise LookupError("no hyperparameter of this name is asked for before it." + nearest(name, self._by_name))

    def copy(self) -> LazyHyperParameters:
        """Copy the object with its own values.

        As in KerasTuner, the copy's new parameters do not reach this object: they have their defaults, and are not
        searched. The copy asks for missing values of this object's parameters through this object, which keeps them.
        """
        other = LazyHyperParameters(self._value_of, self.values)
        other._used, other._untuned = self._used, self._untuned
        for hyperparameter in self._registered:
            other._append(hyperparameter)
        other._inherited = self._inherited
        if other._inherited is None:
            other._inherited = frozenset(parameter_of(hyperparameter).key for hyperparameter in self._registered)
        return other

    def ensure_active_values(self) -> None:
        """Ask for the missing values of all active parameters, and drop the values of inactive ones."""
        for hyperparameter in self._registered:
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
        """Register a parameter, and return its value, or None if it is inactive."""
        full = self._full_name(name)
        with _explained(f"hyperparameter {full!r}"):
            arguments = bind_arguments(kind, name, args, kwargs)
            parent, values = arguments.pop("parent_name", None), arguments.pop("parent_values", None)
            with self.conditional_scope(parent, values) if parent else contextlib.nullcontext():
                hyperparameter = self._add(make_hyperparameter(kind, full, arguments, self._open_conditions))
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
                f"hyperparameter {parameter.name!r} is not among those that were given, and `allow_new_entries` is "
                "`False`: add it there, or allow new ones"
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
        value = self.values[name] = plain(self.values[name])
        finite = not isinstance(value, float) or math.isfinite(value)
        if not isinstance(value, (int, float, str, bool, type(None))) or not finite:
            raise SpaceError(f"hp.values[{name!r}] was set to {value!r}: set it to a number, a text, a boolean or None")
        parameter = Parameter(name, Domain("fixed", values=(value,)), value, conditions)
        self._ask(parameter)
        self._known[name] = value
        return parameter

    def _find(self, hyperparameter: Any) -> Any:
        """Return the registered parameter with the same name and conditions, or None."""
        known = self._by_name.get(hyperparameter.name, ())
        return next((one for one in known if one.conditions == hyperparameter.conditions), None)

    def _add(self, hyperparameter: Any) -> Any:
        """Register a parameter, unless it is known, and return the registered one.

        The value is asked for later, outside of the conditions and of `_explained`.
        """
        if (known := self._find(hyperparameter)) is not None:
            return known
        if any(condition.name == hyperparameter.name for condition in self._open_conditions):
            raise ValueError("a conditional hyperparameter cannot have the same name as its parent")
        parameter_of(hyperparameter)  # raises before anything is registered
        return self._append(hyperparameter)

    def _append(self, hyperparameter: Any) -> Any:
        hyperparameter = copy.copy(hyperparameter)
        hyperparameter.conditions = list(hyperparameter.conditions)
        self._registered.append(hyperparameter)
        self._by_name.setdefault(hyperparameter.name, []).append(hyperparameter)
        return hyperparameter

    def merge(self, hps: Any, overwrite: bool = True) -> None:
        """Register the parameters of another object, and ask for the values of the active ones.

        Args:
            hps: a `keras_tuner.HyperParameters`, or a list of KerasTuner's objects.
            overwrite: whether a different parameter in the place of one in `hps` gets that one's default, as in
                KerasTuner.
        """
        others = hps.space if isinstance(hps, keras_tuner.HyperParameters) else hps
        for hyperparameter in [one for one in others if overwrite or self._find(one) is None]:
            parameter = parameter_of(hyperparameter)
            registered = self._add(hyperparameter)
            if not self.is_active(registered):
                continue
            # A parameter that is new in this build may have its value already: from an earlier build of the same trial.
            if overwrite and parameter_of(registered) != parameter:
                self.values[parameter.name] = parameter.default
            self._value_of(parameter)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> LazyHyperParameters:
        """Return an object with the parameters and values of a config of KerasTuner's."""
        theirs = keras_tuner.HyperParameters.from_config(config)
        own = cls(values=theirs.values)
        for hyperparameter in theirs.space:
            own._append(hyperparameter)
        return own


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
