"""Domains: the sets of values that a hyperparameter may take, as plain records that import no framework.

A domain works in KerasTuner's terms: `at(u)` is the value at cumulative probability `u`, with KerasTuner's arithmetic
to the last bit. So a search draws exactly the values that KerasTuner documents. `size`, `value(index)` and
`index(value)` treat a domain of finitely many values as a list.

If KerasTuner's code and its documentation disagree, the documentation wins. The code's rounding errors may leave the
range by one unit in the last place (`Int` without a step: by 1). They also lose the last value of some stepped floats,
such as the 1.0 of `Float(0, 1, step=0.2)`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

Value = int | float | str | bool | None
"""A hyperparameter's value: any scalar of JSON."""

Sampling = Literal["linear", "log", "reverse_log"]

KINDS: dict[str, type[Domain]] = {}
"""The classes of domains by `kind`, as journals name it. A subclass that gives its kind is added here."""

QUESTIONS: dict[str, type[Domain]] = {}
"""The same classes by the method of `hp` that asks for a value: `Int`, `Float`, …"""


@dataclass(frozen=True, slots=True)
class Domain:
    """The values of one hyperparameter: a `RangeDomain` or a `ListDomain`. `Domain(kind, …)` makes one of its class.

    A further kind is a subclass such as `class EvenDomain(IntDomain, kind="even", question="Even")`, whose `declare`
    takes the arguments of `hp.Even`. Optuna sees its index, unless it has a distribution of its own in
    `search.backends.samplers.DISTRIBUTIONS`.

    Attributes:
        kind: `int`, `float`, `choice`, `boolean` or `fixed`, after the method of `hp` that declares it.
        low, high: the range of an `int` or a `float`, both ends included.
        step: distance (linear) or ratio (log, reverse_log) between neighbours; None if any value in range will do.
            An `int` in linear sampling always has one, by default 1.
        sampling: the distribution of probability over the range of an `int` or a `float`.
        values: the choices of a `choice`, each once; `(True, False)` for a `boolean`; the one value of a `fixed`.
        ordered: whether the choices have an order that a sampler may use.

    Example:
        ::

            >>> from search.plugins import Domain
            >>> domain = Domain("float", 1e-4, 1e-1, sampling="log")
            >>> domain.at(0.0), domain.contains(0.01), domain.size
            (0.0001, True, None)
    """

    kind: str
    low: float | int = 0
    high: float | int = 0
    step: float | int | None = None
    sampling: Sampling = "linear"
    values: tuple[Value, ...] = ()
    ordered: bool = False

    is_range: ClassVar[bool] = False
    """True for a numeric range, the only sort of domain that may change between trials."""

    is_fixed: ClassVar[bool] = False
    """True for a value that the user's code sets itself."""

    other_names: ClassVar[tuple[str, ...]] = ()
    """The words by which other packages, and earlier ones, call the method of `hp`."""

    def __new__(cls, kind: str = "", *_: Any, **__: Any) -> Domain:
        # Pickle and copy make the object first, by its own class and without arguments.
        if kind and kind not in KINDS:
            raise ValueError(f"{kind!r} is no kind of hyperparameter that can be searched")
        domain: Domain = object.__new__(KINDS[kind] if kind else cls)
        return domain

    def __init_subclass__(cls, kind: str = "", question: str = "") -> None:
        if kind:
            KINDS[kind] = QUESTIONS[question] = cls

    def __post_init__(self) -> None:
        """Complete the fields; a subclass may override this."""

    def __repr__(self) -> str:
        # The digests of pickled factories are made of it: it never changes.
        return f"Domain({', '.join(f'{field.name}={getattr(self, field.name)!r}' for field in fields(self))})"

    # Declaration ----------------------------------------------------------------------------------------------------

    @classmethod
    def declare(cls, *args: Any, **kwargs: Any) -> Domain:
        """Return the domain for `args` and `kwargs` of a call of `hp`, those of its kind alone, or raise ValueError."""
        raise NotImplementedError

    def convert_default(self, default: Any) -> Value:
        """Return the user's `default` as a value of this domain."""
        return default  # type: ignore[no-any-return]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object, of which `from_json` makes an equal domain."""
        raise NotImplementedError

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Domain:
        """Return the domain of which `to_json` made `data`."""
        listed = {"values": tuple(data["values"])} if "values" in data else {}
        return Domain(**{**data, **listed})

    # Values ---------------------------------------------------------------------------------------------------------

    @property
    def size(self) -> int | None:
        """The number of values; None for a continuum."""
        raise NotImplementedError

    def value(self, index: int) -> Value:
        """Return the value at `index`, 0 ≤ index < size, of a finite domain."""
        raise NotImplementedError

    def index(self, value: Value) -> int:
        """Return the index of `value` in a finite domain: the inverse of the method `value`.

        Raises:
            ValueError: the domain does not contain `value`.
        """
        raise NotImplementedError

    def contains(self, value: Value) -> bool:
        """Return whether `value` is a valid value of this domain."""
        raise NotImplementedError

    def at(self, u: float) -> Value:
        """Return the value at cumulative probability `u`, 0 ≤ u < 1, as KerasTuner does, but clamped to the range."""
        size = self.size
        assert size is not None
        # KerasTuner divides by 1/n; rounding may reach n.
        return self.value(min(math.floor(u / (1 / size)), size - 1))

    def unit(self, value: Value) -> float:
        """Return a cumulative probability, 0 ≤ u ≤ 1, of `value`: the inverse of `at`.

        For a discrete value it is the middle of the value's bucket.

        Raises:
            ValueError: a finite domain does not contain `value`.
        """
        size = self.size
        assert size is not None
        return (self.index(value) + 0.5) / size


# Ranges ---------------------------------------------------------------------------------------------------------------


class RangeDomain(Domain):
    """A range of numbers from `low` to `high`, with steps or without."""

    __slots__ = ()
    is_range = True
    default_step: ClassVar[int | None] = None

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "low": self.low, "high": self.high, "step": self.step, "sampling": self.sampling}

    def __str__(self) -> str:
        step = "" if self.step in (None, self.default_step) else f", step={self.step:.12g}"
        sampling = "" if self.sampling == "linear" else f", {self.sampling}"
        return f"{self.kind.capitalize()}({self.low:.12g}..{self.high:.12g}{step}{sampling})"

    def index(self, value: Value) -> int:
        if not self.contains(value):
            raise ValueError(f"{value!r} is not in {self}")
        assert isinstance(value, (int, float))
        return self._nearest(value)

    def _nearest(self, value: float | int) -> int:
        """Return the index of the value nearest to `value`, which lies in the range."""
        raise NotImplementedError

    def _within(self, value: float | int) -> float | int:
        return min(max(value, self.low), self.high)

    # Sampling -------------------------------------------------------------------------------------------------------

    def _project(self, u: float, high: float) -> float:
        if self.sampling == "log":
            return self.low * math.pow(high / self.low, u)
        if self.sampling == "reverse_log":
            return high + self.low - self.low * math.pow(high / self.low, 1 - u)
        return u * (high - self.low) + self.low

    def _unproject(self, value: float, high: float) -> float:
        if high == self.low:
            return 0.5
        if self.sampling == "log":
            return math.log(value / self.low) / math.log(high / self.low)
        if self.sampling == "reverse_log":
            return 1 - math.log(self._reversed(value, high) / self.low) / math.log(high / self.low)
        return (value - self.low) / (high - self.low)

    def _reversed(self, value: float, high: float) -> float:
        # If `low` is lost in rounding beside `high`, the difference may be 0, which has no logarithm.
        return max(high + self.low - value, self.low)

    # Steps ----------------------------------------------------------------------------------------------------------

    def _step_value(self, index: int) -> float | int:
        """Return the value after `index` steps, without rounding."""
        assert self.step is not None
        if self.sampling == "linear":
            return self.low + index * self.step
        multiple = self.low * math.pow(self.step, index)
        return multiple if self.sampling == "log" else self.high + self.low - multiple

    def _count_ratios(self) -> int:
        """Return the number of steps in log or reversed log sampling."""
        assert self.step is not None
        return int(math.log(self.high / self.low, self.step) + 1e-8) + 1

    def _nearest_ratio(self, value: float | int) -> int:
        """Return the index of the step nearest to `value` in log or reversed log sampling."""
        assert self.step is not None
        multiple = value if self.sampling == "log" else self._reversed(value, self.high)
        return round(math.log(multiple / self.low, self.step))


def _check_range(low: float, high: float, step: float | None) -> None:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"min_value and max_value must be finite, found {low} and {high}")
    if step is not None and not (math.isfinite(step) and step > 0):
        raise ValueError(f"step must be greater than 0, found {step}")


class IntDomain(RangeDomain, kind="int", question="Int"):
    """A range of whole numbers."""

    __slots__ = ()
    default_step = 1
    other_names = ("int", "integer", "randint", "qrandint", "range")

    def __post_init__(self) -> None:
        if self.sampling == "linear" and self.step is None:
            object.__setattr__(self, "step", self.default_step)

    @classmethod
    def declare(cls, min_value: Any, max_value: Any, step: Any = None, sampling: Sampling = "linear") -> Domain:
        _check_range(min_value, max_value, step)
        return Domain("int", min_value, max_value, step, sampling)

    def convert_default(self, default: Any) -> Value:
        return int(default) if default == int(default) else default

    @property
    def size(self) -> int | None:
        if self.step is None:
            return int(self.high) - int(self.low) + 1
        return int((self.high - self.low) // self.step) + 1 if self.sampling == "linear" else self._count_ratios()

    def value(self, index: int) -> int:
        return int(self.low) + index if self.step is None else int(self._within(int(self._step_value(index))))

    def contains(self, value: Value) -> bool:
        """Return whether `value` is a valid value of this domain: never a float, and True never stands for 1."""
        if isinstance(value, bool) or not isinstance(value, int) or not self.low <= value <= self.high:
            return False
        return self.value(self._nearest(value)) == value

    def _nearest(self, value: float | int) -> int:
        if self.step is None:
            return int(value) - int(self.low)
        size = self.size
        assert size is not None
        linear = self.sampling == "linear"
        return min(int((value - self.low) // self.step) if linear else self._nearest_ratio(value), size - 1)

    def at(self, u: float) -> Value:
        if self.step is not None:
            return RangeDomain.at(self, u)
        return self._within(int(self._project(u, self.high + 1)))

    def unit(self, value: Value) -> float:
        if self.step is not None:
            return RangeDomain.unit(self, value)
        assert isinstance(value, (int, float))
        return self._unproject(value + 0.5, self.high + 1)


class FloatDomain(RangeDomain, kind="float", question="Float"):
    """A range of real numbers."""

    __slots__ = ()
    other_names = ("float", "real", "double", "number", "uniform", "loguniform", "quniform", "linear", "logarithmic")

    @classmethod
    def declare(cls, min_value: Any, max_value: Any, step: Any = None, sampling: Sampling = "linear") -> Domain:
        _check_range(min_value, max_value, step)
        return Domain("float", min_value, max_value, None if step is None else float(step), sampling)

    def convert_default(self, default: Any) -> Value:
        return float(default)

    @property
    def size(self) -> int | None:
        if self.step is None:
            return 1 if self.low == self.high else None
        # 1 // 0.2 is 4: the tolerance keeps the last value.
        linear = self.sampling == "linear"
        return int((self.high - self.low) / self.step + 1e-8) + 1 if linear else self._count_ratios()

    def value(self, index: int) -> float | int:
        return self.low if self.step is None else self._within(self._step_value(index))

    def contains(self, value: Value) -> bool:
        """Return whether `value` is a valid value of this domain.

        A whole number may stand for a float, and True never for 1. Steps are compared with a tolerance:
        `Float(0, 1, step=0.2)` contains 0.6, although its third step is 0.6000000000000001.
        """
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            return False
        if self.step is None:
            return True
        return math.isclose(self.value(self._nearest(value)), value, rel_tol=1e-9, abs_tol=1e-9 * self.step)

    def _nearest(self, value: float | int) -> int:
        if self.step is None:
            return 0
        size = self.size
        assert size is not None
        linear = self.sampling == "linear"
        return min(round((value - self.low) / self.step) if linear else self._nearest_ratio(value), size - 1)

    def at(self, u: float) -> Value:
        return RangeDomain.at(self, u) if self.step is not None else self._within(self._project(u, self.high))

    def unit(self, value: Value) -> float:
        if self.step is not None:
            return RangeDomain.unit(self, value)
        assert isinstance(value, (int, float))
        return self._unproject(value, self.high)


# Lists ----------------------------------------------------------------------------------------------------------------


class ListDomain(Domain):
    """The values that `values` lists."""

    __slots__ = ()

    @property
    def size(self) -> int | None:
        return len(self.values)

    def value(self, index: int) -> Value:
        return self.values[index]

    def index(self, value: Value) -> int:
        for index, candidate in enumerate(self.values):
            if _same(candidate, value):
                return index
        raise ValueError(f"{value!r} is not one of {list(self.values)}")

    def contains(self, value: Value) -> bool:
        return any(_same(candidate, value) for candidate in self.values)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "values": list(self.values), "ordered": self.ordered}


class ChoiceDomain(ListDomain, kind="choice", question="Choice"):
    """The choices of `hp.Choice`."""

    __slots__ = ()
    other_names = ("choice", "choices", "categorical", "category", "categories")

    @classmethod
    def declare(cls, values: Any, ordered: Any = False) -> Domain:
        # A repeated choice would count twice in `size`, and the space would never be exhausted.
        return Domain("choice", values=tuple(dict.fromkeys(values)), ordered=bool(ordered))

    def __str__(self) -> str:
        return f"Choice({list(self.values)!r}{', ordered' if self.ordered else ''})"


class BooleanDomain(ListDomain, kind="boolean", question="Boolean"):
    """True and False."""

    __slots__ = ()
    other_names = ("boolean", "bool")

    @classmethod
    def declare(cls) -> Domain:
        return Domain("boolean", values=(True, False))

    def convert_default(self, default: Any) -> Value:
        return bool(default)

    def at(self, u: float) -> Value:
        return u >= 0.5

    def unit(self, value: Value) -> float:
        return 0.75 if value else 0.25

    def __str__(self) -> str:
        return "Boolean"


class FixedDomain(ListDomain, kind="fixed", question="Fixed"):
    """The one value of `hp.Fixed`, or a value that a factory sets itself."""

    __slots__ = ()
    is_fixed = True
    other_names = ("fixed", "constant")

    @classmethod
    def declare(cls, value: Any) -> Domain:
        return Domain("fixed", values=(value,))

    def __str__(self) -> str:
        return f"Fixed({self.values[0]!r})"


# Parameters -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Condition:
    """The condition that the parameter `name` has one of `values`."""

    name: str
    values: tuple[Value, ...]

    def __str__(self) -> str:
        return f"{self.name} in {list(self.values)}"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One hyperparameter of a factory.

    Attributes:
        name: as in the call of `hp`.
        domain: the values that it may take.
        default: a value of the domain.
        conditions: the parameter is active only if all of them hold.

    Example:
        >>> from search.plugins import Domain, Parameter
        >>> print(Parameter("units", Domain("int", 8, 64, step=8), default=8))
        units: Int(8..64, step=8)
    """

    name: str
    domain: Domain
    default: Value = None
    conditions: tuple[Condition, ...] = ()

    @property
    def key(self) -> str:
        """The identity of the parameter: its name *and* its conditions. KerasTuner allows a name under several."""
        if not self.conditions:
            return self.name
        return f"{self.name} [{' and '.join(map(str, self.conditions))}]"

    def __str__(self) -> str:
        return f"{self.key}: {self.domain}"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object, of which `from_json` makes an equal parameter."""
        data: dict[str, Any] = {"name": self.name, "domain": self.domain.to_json(), "default": self.default}
        if self.conditions:
            data["conditions"] = [[c.name, list(c.values)] for c in self.conditions]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Parameter:
        """Return the parameter of which `to_json` made `data`."""
        conditions = tuple(Condition(name, tuple(values)) for name, values in data.get("conditions", ()))
        return cls(data["name"], Domain.from_json(data["domain"]), data["default"], conditions)


def _same(candidate: Value, value: Value) -> bool:
    """Return whether a choice's `candidate` is `value`: True == 1 in Python, but [1, 2] does not contain True."""
    return candidate == value and (
        type(candidate) is type(value) or (isinstance(candidate, float) and type(value) is int)
    )


def compatible(before: Domain, now: Domain) -> bool:
    """Return whether a parameter may change its domain from `before` to `now` between trials.

    Ranges may. A fixed value may also take the place of any domain, as a factory may set a value itself.
    """
    return before == now or (before.is_range and now.is_range) or before.is_fixed or now.is_fixed
