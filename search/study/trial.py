"""The values that pass between the parts of a search. All are frozen, and none has side effects.

A *trial* is one assignment of hyperparameters and its one learning curve. A *suggestion* is a back end's request to
train a trial up to some epoch. A *segment* is one uninterrupted stretch of that training, run by one worker.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from search.space.domain import Value

Direction = Literal["min", "max"]
EndState = Literal["completed", "stopped", "failed", "infeasible"]
State = Literal["running", "paused", "completed", "stopped", "failed", "infeasible"]
"""The state of a trial. `running`: a worker trains it. `paused`: it may go on. `completed`: it had its full budget, or
its own callbacks ended it. `stopped`: its back end has no further use for it. `failed`: it raised, diverged or died.
`infeasible`: it was refused before its first epoch, by `search.Infeasible` or a limit of the user's."""


@dataclass(frozen=True, slots=True)
class Objective:
    """The metric that trials are compared by.

    Attributes:
        name: its name in an epoch's logs.
        direction: "min" if less is better, "max" if more is.

    Example:
        ::

            >>> from search.plugins import Objective
            >>> objective = Objective("val_accuracy", "max")
            >>> objective.better(0.9, 0.8), objective.best([0.8, 0.9]), objective.cost(0.9)
            (True, 0.9, -0.9)
    """

    name: str
    direction: Direction

    def better(self, a: float, b: float | None) -> bool:
        """Return whether `a` beats `b`; everything beats None."""
        return b is None or (a > b if self.direction == "max" else a < b)

    def best(self, values: Iterable[float]) -> float | None:
        """Return the best finite one of `values`, or None if there is none."""
        finite = [value for value in values if math.isfinite(value)]
        if not finite:
            return None
        return max(finite) if self.direction == "max" else min(finite)

    @property
    def worst(self) -> float:
        """Infinity with the sign that no value can be worse than."""
        return -math.inf if self.direction == "max" else math.inf

    def cost(self, value: float | None) -> float:
        """Return `value` as a number to minimise, infinity for None: a sort key that puts the best first."""
        if value is None or not math.isfinite(value):
            return math.inf
        return -value if self.direction == "max" else value


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A back end's request: train `trial` from the end of epoch `from_epoch` to the end of epoch `to_epoch`.

    Attributes:
        trial: None for a new trial, which the controller numbers.
        bracket, rung: the place in the back end's plan, if it has one.
        judged: the back end judges each epoch before the next one may run, so the worker waits for it.
        parent: the trial whose state a new trial begins with, or None. `from_epoch` is then the parent's last epoch.
        values: the hyperparameters, by name, in which the new trial differs from its parent.
        attributes: a JSON object that the back end needs back after a restart; journaled with the suggestion. So a
            back end may decide a trial's whole configuration in `ask`, and answer `suggest` from it.

    Example:
        A new trial for three epochs; trial 4 from there to nine; and a child of trial 4 with another rate::

            >>> from search.plugins import Suggestion
            >>> Suggestion(None, 0, 3).is_drawn
            True
            >>> further = Suggestion(4, 3, 9, rung=1)
            >>> child = Suggestion(None, 9, 12, parent=4, values={"rate": 0.01})
    """

    trial: int | None
    from_epoch: int
    to_epoch: int
    bracket: int | None = None
    rung: int | None = None
    judged: bool = False
    parent: int | None = None
    values: Mapping[str, Value] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_drawn(self) -> bool:
        """True for a new trial without a parent, which needs a configuration that was not tried."""
        return self.trial is None and self.parent is None


@dataclass(frozen=True, slots=True)
class Parent:
    """The parent of a trial: the trial with whose state it began.

    Attributes:
        trial: the parent's number.
        epochs: the epochs that each execution of the parent had then.
        values: the values of the child by name: those that the back end gave it, else the parent's.
    """

    trial: int
    epochs: tuple[int, ...]
    values: Mapping[str, Value]

    def execution(self, number: int) -> int:
        """Return the parent's execution that the child's execution `number` continues: 0 if there are too few."""
        return number if number < len(self.epochs) else 0

    def epoch(self, number: int) -> int:
        """Return the epoch after which the child's execution `number` begins."""
        return self.epochs[self.execution(number)]


@dataclass(frozen=True, slots=True)
class Wait:
    """The back end's answer if it has nothing to suggest until a running trial or a computation has a result.

    Example:
        ::

            >>> from search.plugins import Wait
            >>> Wait()
            Wait()
    """


@dataclass(frozen=True, slots=True)
class Done:
    """The back end's answer if it will never suggest anything again.

    Example:
        ::

            >>> from search.plugins import Done
            >>> Done()
            Done()
    """


@dataclass(frozen=True, slots=True)
class Computation:
    """A long computation of a back end, which is made beside the search. Two are equal if their numbers are.

    Attributes:
        number: its place among the computations of its phase; each has a number that is higher by one.
        run: returns the result, a JSON object. A pure function of what it captured when it was made, which nobody
            changes later: it runs in another thread. It may raise.

    Example:
        ::

            >>> from search.plugins import Computation
            >>> scores = (0.3, 0.5)
            >>> Computation(1, lambda: {"mean": sum(scores) / len(scores)}).run()
            {'mean': 0.4}
    """

    number: int
    run: Callable[[], Mapping[str, Any]] = field(compare=False)


@dataclass(frozen=True, slots=True)
class Draw:
    """A value drawn for a parameter.

    Attributes:
        value: of the parameter's domain.
        attributes: data that the back end needs back after a restart; journaled with the value.

    Example:
        ::

            >>> from search.plugins import Draw
            >>> Draw(48, {"sampler": "random"}).value
            48
    """

    value: Value
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """A back end's judgement of an epoch.

    Attributes:
        stop: the trial ends here.
        attributes: data that the back end needs back after a restart; journaled with the decision.

    Example:
        ::

            >>> from search.plugins import Decision
            >>> Decision().stop, Decision(stop=True).stop
            (False, True)
    """

    stop: bool = False
    attributes: Mapping[str, Any] = field(default_factory=dict)


def derive_seed(*labels: int | str | None) -> int:
    """Return a seed in [0, 2³¹) derived from `labels`, so that no random state has to outlive a process.

    All randomness of a study comes from here: a draw from (study seed, "draw", trial, parameter), a training from
    (study seed, "train", trial, execution), an epoch's sample order from (training seed, "order", epoch).

    Args:
        labels: numbers and words that name the use. 1 and "1" are different labels.

    Example:
        ::

            >>> from search.plugins import derive_seed
            >>> derive_seed(0, "draw", 3, "rate")
            887841217
    """
    text = "\x1f".join(f"{type(label).__name__}:{label}" for label in labels)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 33
