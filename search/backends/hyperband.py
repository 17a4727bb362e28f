"""Hyperband (Li et al. 2018, JMLR 18, algorithm 1), asynchronous where that changes no promotion.

A trial is promoted as soon as no outcome that is still open can take its place among the best: with p places left in
the next rung and q trials of this rung unfinished or still to come, the best finished one goes on when p > q. So the
promotions are those of the synchronous algorithm, made early; where a bracket must wait, the next one is opened, and no
slot idles while any bracket has work.

A failed trial counts as finished and worst, and is never promoted: its bracket goes on with what is left. Where the
space or the budget has no new configurations, a bracket's first rung is what it is, and the planned places of the next
rungs go to the best of it. A rung's score is the best value so far.

New configurations are drawn at random, or by a sampler that learns from the rungs (BOHB, see `search.backends.rungs`).
"""

from __future__ import annotations

import bisect
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from search.backends import brackets
from search.backends.base import draw_uniformly
from search.space.domain import Parameter, Value
from search.study.records import Record, ResultTold, SegmentRequested
from search.study.study import Trial
from search.study.trial import Decision, Done, Draw, Objective, Suggestion, Wait

if TYPE_CHECKING:
    from search.backends.rungs import RungModel


@dataclass(slots=True)
class _Rung:
    """One rung of an open bracket.

    Attributes:
        entered: how many trials have come here.
        running: how many of them have not finished.
        ranked: (cost, trial) of those that finished, did not fail and were not promoted; best first.
    """

    plan: brackets.Rung
    entered: int = 0
    running: int = 0
    ranked: list[tuple[float, int]] = field(default_factory=list)

    @property
    def places(self) -> int:
        return self.plan.size - self.entered


class _Bracket:
    def __init__(self, plan: brackets.Bracket) -> None:
        self.rungs = [_Rung(rung) for rung in plan.rungs]

    def undecided(self, index: int, new: bool) -> int:
        """How many trials of rung `index` may still finish: those that run there, and those that may yet come."""
        source = self.rungs[0].places if new else 0
        undecided = 0
        for rung in self.rungs[: index + 1]:
            undecided = min(rung.places, source) + rung.running
            source = undecided + len(rung.ranked)
        return undecided

    def promotable(self, new: bool) -> tuple[int, int] | None:
        """(rung to go to, trial) of a promotion that is earned by now, in the highest rung that has one."""
        for index in range(len(self.rungs) - 2, -1, -1):
            rung, following = self.rungs[index], self.rungs[index + 1]
            if rung.ranked and following.places > self.undecided(index, new):
                return index + 1, rung.ranked[0][1]
        return None

    @property
    def takes_new(self) -> bool:
        """Whether a new trial could come to the last rung. A study that goes on with a larger budget of trials may have
        a bracket whose first rung was cut short, and whose next ones are full."""
        return all(rung.places > 0 for rung in self.rungs)

    @property
    def is_over(self) -> bool:
        return self.undecided(len(self.rungs) - 1, new=True) == 0 and not any(rung.running for rung in self.rungs)


class Hyperband:
    """The `hyperband` back end.

    Args:
        objective: what is compared.
        seed: of the study.
        max_epochs: R, the most epochs that one trial gets.
        factor: η, an integer of at least 2; one in η goes on at each rung.
        iterations: how often the whole plan is run.
        sampler: what draws new configurations: `random`, or any of Optuna's as `name` or `name:key=value,…`.
        parameters: those that the probe saw, for samplers that want to know the space.

    Raises:
        OptionError: the sampler is not known, or does not take these arguments.
    """

    name = "hyperband"

    def __init__(
        self,
        objective: Objective,
        seed: int,
        *,
        max_epochs: int = 27,
        factor: int = 3,
        iterations: int = 1,
        sampler: str = "random",
        parameters: Sequence[Parameter] = (),
    ) -> None:
        self._objective = objective
        self._seed = seed
        self._plan = brackets.plan(max_epochs, factor)
        self._total = iterations * len(self._plan.brackets)
        self._opened = 0
        self._open: dict[int, _Bracket] = {}
        self._where: dict[int, tuple[int, int]] = {}
        self._running = 0
        # With many workers hundreds of brackets are open, of which a record changes one. By `new`: those that have a
        # promotion, and those where that is to be seen.
        self._promotable: dict[bool, set[int]] = {True: set(), False: set()}
        self._changed: dict[bool, set[int]] = {True: set(), False: set()}
        self._model: RungModel | None = None
        if sampler != "random":
            # Optuna costs 0.3 s to import: only who uses it pays.
            from search.backends.rungs import RungModel

            budgets = sorted({rung.epochs for bracket in self._plan.brackets for rung in bracket.rungs})
            self._model = RungModel(objective, seed, sampler, budgets, parameters)

    def ask(self, *, new: bool) -> Suggestion | Wait | Done:
        if promotion := self._promotion(new):
            return promotion
        if new:
            # A bracket is opened when those before it have all their trials.
            number = self._opened - 1
            if number in self._open and self._open[number].takes_new:
                return Suggestion(None, 0, self._open[number].rungs[0].plan.epochs, number, 0)
            if self._opened < self._total:
                return Suggestion(None, 0, self._planned(self._opened).rungs[0].epochs, self._opened, 0)
        return Wait() if self._running else Done()

    def suggest(self, trial: int, parameter: Parameter, explored: Collection[Value] = ()) -> Draw:
        if self._model is not None:
            return self._model.draw(trial, parameter, explored)
        return draw_uniformly(self._seed, trial, parameter, explored)

    def judge(self, trial: int, epoch: int) -> Decision:
        return Decision()

    def apply(self, record: Record) -> Sequence[int]:
        if self._model is not None:
            self._model.apply(record)
        if isinstance(record, SegmentRequested):
            self._asked(record)
        elif isinstance(record, ResultTold) and record.trial in self._where:
            return self._told(record)
        return ()

    def learn(self, trials: Sequence[Trial]) -> None:
        """Random draws have nothing to learn; that no configuration is tried twice is the controller's care."""
        if self._model is not None:
            self._model.learn(trials)

    def _promotion(self, new: bool) -> Suggestion | None:
        """A promotion in the first bracket that has one."""
        known, changed = self._promotable[new], self._changed[new]
        for number in changed:
            (known.add if self._open[number].promotable(new) else known.discard)(number)
        changed.clear()
        if not known:
            return None
        number = min(known)
        promotion = self._open[number].promotable(new)
        assert promotion is not None
        index, trial = promotion
        rungs = self._open[number].rungs
        return Suggestion(trial, rungs[index - 1].plan.epochs, rungs[index].plan.epochs, number, index)

    def _planned(self, number: int) -> brackets.Bracket:
        return self._plan.brackets[number % len(self._plan.brackets)]

    def _asked(self, record: SegmentRequested) -> None:
        assert record.bracket is not None
        assert record.rung is not None
        if record.bracket not in self._open:
            self._open[record.bracket] = _Bracket(self._planned(record.bracket))
            self._opened = max(self._opened, record.bracket + 1)
        rungs = self._open[record.bracket].rungs
        if record.rung > 0:
            below = rungs[record.rung - 1]
            below.ranked = [item for item in below.ranked if item[1] != record.trial]
        rung = rungs[record.rung]
        rung.entered += 1
        rung.running += 1
        self._where[record.trial] = (record.bracket, record.rung)
        self._running += 1
        self._note(record.bracket)

    def _told(self, record: ResultTold) -> Sequence[int]:
        number, index = self._where[record.trial]
        bracket = self._open[number]
        bracket.rungs[index].running -= 1
        self._running -= 1
        closed = []
        if record.outcome == "failed" or index == len(bracket.rungs) - 1:
            closed.append(record.trial)
        else:
            cost = self._objective.cost(record.score)
            bisect.insort(bracket.rungs[index].ranked, (cost, record.trial))
        closed += self._close(bracket)
        for trial in closed:
            del self._where[trial]
        self._note(number)
        if bracket.is_over:
            del self._open[number]
            for numbers in (*self._promotable.values(), *self._changed.values()):
                numbers.discard(number)
        return closed

    def _note(self, number: int) -> None:
        """A bracket has changed."""
        for changed in self._changed.values():
            changed.add(number)

    @staticmethod
    def _close(bracket: _Bracket) -> list[int]:
        """Drop the trials that can no longer be promoted: more are better already than the next rung has places."""
        closed = []
        for rung, following in zip(bracket.rungs, bracket.rungs[1:], strict=False):
            closed += [trial for _, trial in rung.ranked[max(following.places, 0) :]]
            del rung.ranked[max(following.places, 0) :]
        return closed
