"""The values that pass between the parts of a search: all frozen, all free of effects.

A *trial* is one assignment of hyperparameters and its one learning curve; a *suggestion* is a back end's wish to train
a trial up to some epoch; a *segment* is one uninterrupted stretch of that training, run by one worker.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from search.space.domain import Value

Direction = Literal["min", "max"]
State = Literal["running", "paused", "completed", "stopped", "failed"]
"""What a trial is doing: `running` a segment is in flight; `paused` it may go on; `completed` it has had its full
budget, or one of its own callbacks ended it; `stopped` its back end has no further use for it; `failed`."""


@dataclass(frozen=True, slots=True)
class Objective:
    """The metric that is compared, as the epoch's logs name it, and which way is better."""

    name: str
    direction: Direction

    def better(self, a: float, b: float | None) -> bool:
        """Whether `a` beats `b`; everything beats None."""
        return b is None or (a > b if self.direction == "max" else a < b)

    def best(self, values: Iterable[float]) -> float | None:
        """The best finite value, None where there is none."""
        finite = [value for value in values if math.isfinite(value)]
        if not finite:
            return None
        return max(finite) if self.direction == "max" else min(finite)

    @property
    def worst(self) -> float:
        return -math.inf if self.direction == "max" else math.inf

    def cost(self, value: float | None) -> float:
        """`value` as a number to minimise; infinity for None. A sort key: best first."""
        if value is None or not math.isfinite(value):
            return math.inf
        return -value if self.direction == "max" else value


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A back end's wish: train `trial` from the end of epoch `from_epoch` to the end of epoch `to_epoch`.

    `trial` is None for a new one, which the controller numbers. `bracket` and `rung` say where in the back end's plan
    this happens, if it has one. `judged` says that the back end judges every epoch before the next one may run, so the
    worker waits for it.
    """

    trial: int | None
    from_epoch: int
    to_epoch: int
    bracket: int | None = None
    rung: int | None = None
    judged: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until something that runs has been told."""


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing to do, ever."""


@dataclass(frozen=True, slots=True)
class Draw:
    """A value drawn for a parameter, and what the back end must remember to go on as if it had never stopped."""

    value: Value
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """A back end's judgement of an epoch: whether the trial stops here, and what the back end must remember."""

    stop: bool = False
    attributes: Mapping[str, Any] = field(default_factory=dict)


def derive_seed(*labels: int | str | None) -> int:
    """A seed in [0, 2³¹) derived from `labels`, so that no random state has to outlive a process.

    All randomness of a study comes from here: a draw from (study seed, "draw", trial, parameter), a training from
    (study seed, "train", trial, execution), an epoch's sample order from (training seed, "order", epoch).
    """
    text = "\x1f".join(f"{type(label).__name__}:{label}" for label in labels)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 33
