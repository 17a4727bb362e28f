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
from dataclasses import dataclass
from typing import Any, Literal

Value = int | float | str | bool | None
"""A hyperparameter's value: any scalar of JSON."""

Kind = Literal["int", "float", "choice", "boolean", "fixed"]
Sampling = Literal["linear", "log", "reverse_log"]


@dataclass(frozen=True, slots=True)
class Domain:
    """The values of one hyperparameter.

    Attributes:
        kind: `int`, `float`, `choice`, `boolean` or `fixed`, after the method of `hp` that declares it.
        low, high: the range of an `int` or a `float`, both ends included.
        step: distance (linear) or ratio (log, reverse_log) between neighbours; None if any value in range will do.
            An `int` in linear sampling always has one, by default 1.
        sampling: the distribution of probability over the range of an `int` or a `float`.
        values: the choices of a `choice`, each once; `(True, False)` for a `boolean`; the one value of a `fixed`.
        ordered: whether the choices have an order that a sampler may use.
    """

    kind: Kind
    low: float | int = 0
    high: float | int = 0
    step: float | int | None = None
    sampling: Sampling = "linear"
    values: tuple[Value, ...] = ()
    ordered: bool = False

    def __post_init__(self) -> None:
        if self.kind == "int" and self.sampling == "linear" and self.step is None:
            object.__setattr__(self, "step", 1)

    @property
    def is_range(self) -> bool:
        """True for a numeric range, the only kind of domain that may change between trials."""
        return self.kind in ("int", "float")

    @property
    def size(self) -> int | None:
        """The number of values; None for a continuum."""
        if not self.is_range:
            return len(self.values)
        if self.step is not None:
            return self._steps()
        if self.kind == "int":
            return int(self.high) - int(self.low) + 1
        return 1 if self.low == self.high else None

    def value(self, index: int) -> Value:
        """Return the value at `index`, 0 ≤ index < size, of a finite domain."""
        if not self.is_range:
            return self.values[index]
        if self.step is not None:
            return self._at_step(index)
        return int(self.low) + index if self.kind == "int" else self.low

    def index(self, value: Value) -> int:
        """Return the index of `value` in a finite domain: the inverse of the method `value`.

        Raises:
            ValueError: the domain does not contain `value`.
        """
        if not self.is_range:
            for index, candidate in enumerate(self.values):
                if _same(candidate, value):
                    return index
            raise ValueError(f"{value!r} is not one of {list(self.values)}")
        if not self.contains(value):
            raise ValueError(f"{value!r} is not in {self}")
        assert isinstance(value, (int, float))
        if self.step is not None:
            return self._nearest(value)
        return int(value) - int(self.low) if self.kind == "int" else 0

    def contains(self, value: Value) -> bool:
        """Return whether `value` is a valid value of this domain.

        A whole number may stand for a float, but a float never for an int, and True never for 1. Stepped floats are
        compared with a tolerance: `Float(0, 1, step=0.2)` contains 0.6, although its third step is 0.6000000000000001.
        """
        if not self.is_range:
            return any(_same(candidate, value) for candidate in self.values)
        if isinstance(value, bool) or not isinstance(value, int if self.kind == "int" else (int, float)):
            return False
        if not self.low <= value <= self.high:
            return False
        if self.step is None:
            return True
        nearest = self._at_step(self._nearest(value))
        if self.kind == "int":
            return nearest == value
        return math.isclose(nearest, value, rel_tol=1e-9, abs_tol=1e-9 * self.step)

    def at(self, u: float) -> Value:
        """Return the value at cumulative probability `u`, 0 ≤ u < 1.

        This is KerasTuner's `prob_to_value`, clamped to the range.
        """
        if self.kind == "boolean":
            return u >= 0.5
        if not self.is_range or self.step is not None:
            size = self.size
            assert size is not None
            # KerasTuner divides by 1/n; rounding may reach n.
            return self.value(min(math.floor(u / (1 / size)), size - 1))
        if self.kind == "int":
            return self._within(int(self._project(u, self.high + 1)))
        return self._within(self._project(u, self.high))

    def unit(self, value: Value) -> float:
        """Return a cumulative probability, 0 ≤ u ≤ 1, of `value`: the inverse of `at`.

        For a discrete value it is the middle of the value's bucket.

        Raises:
            ValueError: a finite domain does not contain `value`.
        """
        if self.kind == "boolean":
            return 0.75 if value else 0.25
        if not self.is_range or self.step is not None:
            size = self.size
            assert size is not None
            return (self.index(value) + 0.5) / size
        assert isinstance(value, (int, float))
        if self.kind == "int":
            return self._unproject(value + 0.5, self.high + 1)
        return self._unproject(value, self.high)

    def _within(self, value: float | int) -> float | int:
        return min(max(value, self.low), self.high)

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

    def _steps(self) -> int:
        assert self.step is not None
        if self.sampling != "linear":
            return int(math.log(self.high / self.low, self.step) + 1e-8) + 1
        if self.kind == "int":
            return int((self.high - self.low) // self.step) + 1
        # 1 // 0.2 is 4: the tolerance keeps the last value.
        return int((self.high - self.low) / self.step + 1e-8) + 1

    def _at_step(self, index: int) -> int | float:
        assert self.step is not None
        if self.sampling == "linear":
            value = self.low + index * self.step
        elif self.sampling == "log":
            value = self.low * math.pow(self.step, index)
        else:
            value = self.high + self.low - self.low * math.pow(self.step, index)
        return self._within(int(value) if self.kind == "int" else value)

    def _nearest(self, value: float | int) -> int:
        """Return the index of the step nearest to `value`, which lies in the range."""
        assert self.step is not None
        if self.sampling == "linear":
            distance = value - self.low
            index = int(distance // self.step) if self.kind == "int" else round(distance / self.step)
        else:
            multiple = value if self.sampling == "log" else self._reversed(value, self.high)
            index = round(math.log(multiple / self.low, self.step))
        return min(index, self._steps() - 1)

    def __str__(self) -> str:
        if self.kind == "fixed":
            return f"Fixed({self.values[0]!r})"
        if self.kind == "boolean":
            return "Boolean"
        if self.kind == "choice":
            return f"Choice({list(self.values)!r}{', ordered' if self.ordered else ''})"
        step = "" if self.step is None or (self.kind == "int" and self.step == 1) else f", step={self.step:.12g}"
        sampling = "" if self.sampling == "linear" else f", {self.sampling}"
        return f"{self.kind.capitalize()}({self.low:.12g}..{self.high:.12g}{step}{sampling})"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object, of which `from_json` makes an equal domain."""
        if self.is_range:
            return {"kind": self.kind, "low": self.low, "high": self.high, "step": self.step, "sampling": self.sampling}
        return {"kind": self.kind, "values": list(self.values), "ordered": self.ordered}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Domain:
        fields = dict(data)
        if "values" in fields:
            fields["values"] = tuple(fields["values"])
        return cls(**fields)


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
        data: dict[str, Any] = {"name": self.name, "domain": self.domain.to_json(), "default": self.default}
        if self.conditions:
            data["conditions"] = [[c.name, list(c.values)] for c in self.conditions]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Parameter:
        conditions = tuple(Condition(name, tuple(values)) for name, values in data.get("conditions", ()))
        return cls(data["name"], Domain.from_json(data["domain"]), data["default"], conditions)


def _same(candidate: Value, value: Value) -> bool:
    """Return whether a choice's `candidate` is `value`.

    True == 1 in Python, but a choice of [1, 2] does not contain True.
    """
    return candidate == value and (
        type(candidate) is type(value) or (isinstance(candidate, float) and type(value) is int)
    )


def compatible(before: Domain, now: Domain) -> bool:
    """Return whether a parameter may change its domain from `before` to `now` between trials.

    Ranges may. A fixed value may also take the place of any domain, as a factory may set a value itself.
    """
    return before == now or (before.is_range and now.is_range) or "fixed" in (before.kind, now.kind)
