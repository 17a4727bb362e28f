"""The protocol between a search and what decides it.

A back end is pure: no clock, no files, no processes, no random state. It has three *questions*, which change nothing
that shows, and one method that takes in facts:

- `ask`: what to train next, and how far;
- `suggest`: the value of a hyperparameter that a trial's factory asks for now;
- `judge`: whether a trial may go on after the epoch it just reported;
- `apply`: a journal record. All state is the fold of records, so a replay is the same calls without the questions.

`learn` takes in trials that another back end, study or era has trained.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from search.domain import Domain, Parameter, Value
from search.records import Record
from search.study import Trial
from search.trial import Decision, Done, Draw, Suggestion, Wait

ATTEMPTS = 16
"""How often a sampler may repeat itself before a value is drawn at random from those left."""


class BackEnd(Protocol):
    """Decides what to try and how far to train it. The contract kit is `search.testing.BackEndContract`."""

    name: str

    def ask(self, *, new: bool) -> Suggestion | Wait | Done:
        """What to train next. With `new` false there are no new trials to be had: the space or the budget is spent."""

    def suggest(self, trial: int, parameter: Parameter, taken: Collection[Value] = ()) -> Draw:
        """A value of `parameter` for `trial`, none of `taken` (below which there is nothing new left to try)."""

    def judge(self, trial: int, epoch: int) -> Decision:
        """May `trial` go on after `epoch` (1-based)? Asked after that epoch was applied, if its suggestion says so."""

    def apply(self, record: Record) -> Sequence[int]:
        """Take in a record; of trials this back end did not ask for it wants nothing.

        Returns:
            The trials that it will never ask for again, as of this record. One that failed is among them at once.
        """

    def learn(self, trials: Sequence[Trial]) -> None:
        """Take in trials that were trained elsewhere or before."""


def draw_untaken(
    draw: Callable[[int], Value], domain: Domain, taken: Collection[Value], rng: Callable[[], random.Random]
) -> Value:
    """The first of `draw(0)`, `draw(1)`, … that is not `taken`; after `ATTEMPTS`, one of those left, at random.

    `taken` holds values of a finite domain, and not all of them.
    """
    if not taken:
        return draw(0)
    for attempt in range(ATTEMPTS):
        value = draw(attempt)
        if value not in taken:
            return value
    size = domain.size
    assert size is not None, "only a finite domain can be exhausted"
    return rng().choice([value for value in map(domain.value, range(size)) if value not in taken])
