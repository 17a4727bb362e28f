"""Hyperband (Li et al. 2018, JMLR 18, algorithm 1), asynchronous as far as that changes no promotion.

A trial is promoted as soon as no result that is still to come can displace it. With p places left in the next rung and
q trials of this rung that are unfinished or still to come, the best finished trial is promoted if p > q. So the
promotions are those of the synchronous algorithm, made early. While a bracket must wait, the next one is opened: no
slot idles while any bracket has work.

A failed trial counts as finished and worst, and is never promoted: its bracket goes on with the others. If the space or
the budget has no new configurations, a bracket's first rung stays as small as it is, and the best of it fill the next
rungs' planned places. A trial's score at a rung is its best value so far.

An infeasible trial has cost no epoch: another one takes its place in the bracket.

New configurations are drawn at random, or by a sampler that learns from the rungs (BOHB, see `search.backends.rungs`).
"""

from __future__ import annotations

import bisect
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from search.backends.base import draw_uniformly
from search.backends.brackets import Bracket, Rung, plan_brackets
from search.space.domain import Parameter, Value
from search.study.records import Record, ResultTold, SegmentRequested
from search.study.trial import Decision, Done, Draw, Objective, Suggestion, Wait
from search.study.trials import Trial

if TYPE_CHECKING:
    from search.backends.rungs import RungModel


@dataclass(slots=True)
class OpenRung:
    """A rung of an open bracket.

    Attributes:
        plan: its size and epochs.
        entered: trials that have come here.
        running: those of them that have not finished.
        ranked: (cost, trial) of those that finished, did not fail and were not promoted; best first.
    """

    plan: Rung
    entered: int = 0
    running: int = 0
    ranked: list[tuple[float, int]] = field(default_factory=list)

    @property
    def free_places(self) -> int:
        """Trials that may still come here."""
        return self.plan.size - self.entered


class OpenBracket:
    """A bracket in which trials are trained."""

    def __init__(self, plan: Bracket) -> None:
        self.rungs = [OpenRung(rung) for rung in plan.rungs]

    def undecided(self, index: int, new: bool) -> int:
        """Return how many trials of rung `index` may still finish: those that run there, and those that may come.

        Args:
            index: of the rung.
            new: whether new trials may come to the first rung.
        """
        source = self.rungs[0].free_places if new else 0
        undecided = 0
        for rung in self.rungs[: index + 1]:
            undecided = min(rung.free_places, source) + rung.running
            source = undecided + len(rung.ranked)
        return undecided

    def promotion(self, new: bool) -> tuple[int, int] | None:
        """Return (rung to enter, trial) of a promotion that no open result can change; None if there is none.

        The highest rung that has one goes first.
        """
        for index in range(len(self.rungs) - 2, -1, -1):
            rung, following = self.rungs[index], self.rungs[index + 1]
            if rung.ranked and following.free_places > self.undecided(index, new):
                return index + 1, rung.ranked[0][1]
        return None

    @property
    def takes_new(self) -> bool:
        """True if a new trial could reach the last rung.

        A study that goes on with a larger budget of trials may have a bracket whose first rung was cut short, and whose
        next rungs are full.
        """
        return all(rung.free_places > 0 for rung in self.rungs)

    @property
    def is_over(self) -> bool:
        """True if no trial runs here, and none may come to the last rung."""
        return self.undecided(len(self.rungs) - 1, new=True) == 0 and not any(rung.running for rung in self.rungs)

    def drop_unpromotable(self) -> list[int]:
        """Remove the trials that cannot be promoted: as many better ones as the next rung has places are finished."""
        dropped = []
        for rung, following in zip(self.rungs, self.rungs[1:], strict=False):
            dropped += [trial for _, trial in rung.ranked[max(following.free_places, 0) :]]
            del rung.ranked[max(following.free_places, 0) :]
        return dropped


class Hyperband:
    """The `hyperband` back end.

    Args:
        objective: the metric to compare.
        seed: of the study.
        max_epochs: R, the most epochs that one trial gets.
        factor: η, an integer of at least 2; one trial in η is promoted at each rung.
        iterations: how often the whole plan is run.
        sampler: draws new configurations: `random`, or one of Optuna's as `name` or `name:key=value,…`.
        parameters: those that the probe saw, for samplers that must know the space.

    Attributes:
        open_brackets: by number, counted over all iterations; a bracket that is over leaves.
        opened: how many brackets were opened so far.

    Raises:
        OptionError: the sampler is not known, or does not take these arguments.
    """

    protocol = 1

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
        self.open_brackets: dict[int, OpenBracket] = {}
        self.opened = 0
        self._objective = objective
        self._seed = seed
        self._plan = plan_brackets(max_epochs, factor)
        self._total = iterations * len(self._plan.brackets)
        self._place: dict[int, tuple[int, int]] = {}
        self._running = 0
        self._vacated: set[int] = set()
        # With many workers hundreds of brackets are open, and a record changes only one of them. By `new`: the brackets
        # with a promotion, and those that changed since this was last computed.
        self._with_promotion: dict[bool, set[int]] = {True: set(), False: set()}
        self._changed: dict[bool, set[int]] = {True: set(), False: set()}
        self._model: RungModel | None = None
        if sampler != "random":
            # Optuna takes 0.3 s to import: this is paid only if it is used.
            from search.backends.rungs import RungModel

            budgets = sorted({rung.epochs for bracket in self._plan.brackets for rung in bracket.rungs})
            self._model = RungModel(objective, seed, sampler, budgets, parameters)

    def ask(self, *, new: bool, child: bool) -> Suggestion | Wait | Done:
        """Return the first promotion there is, else a new trial for the last open bracket or the next one."""
        if promotion := self._next_promotion(new):
            return promotion
        if new:
            # The next bracket is opened when all before it have their trials.
            for number in (*sorted(self._vacated), self.opened - 1):
                if number in self.open_brackets and self.open_brackets[number].takes_new:
                    return Suggestion(None, 0, self.open_brackets[number].rungs[0].plan.epochs, number, 0)
            if self.opened < self._total:
                return Suggestion(None, 0, self._planned(self.opened).rungs[0].epochs, self.opened, 0)
        return Wait() if self._running else Done()

    def suggest(self, trial: int, parameter: Parameter, explored: Collection[Value] = ()) -> Draw:
        """Return a value at random, or from the sampler's model."""
        if self._model is not None:
            return self._model.draw(trial, parameter, explored)
        return draw_uniformly(self._seed, trial, parameter, explored)

    def judge(self, trial: int, epoch: int) -> Decision:
        """Let every trial go on: it is compared at its rung."""
        return Decision()

    def apply(self, record: Record) -> Sequence[int]:
        """Move trials through the rungs; return those that can no longer be promoted."""
        if self._model is not None:
            self._model.apply(record)
        if isinstance(record, SegmentRequested):
            self._enter_rung(record)
        elif isinstance(record, ResultTold) and record.trial in self._place:
            return self._finish_rung(record)
        return ()

    def learn(self, trials: Sequence[Trial]) -> None:
        """Pass `trials` to the sampler, if there is one. The controller sees to it that none is tried twice."""
        if self._model is not None:
            self._model.learn(trials)

    def _next_promotion(self, new: bool) -> Suggestion | None:
        """Return a promotion in the first bracket that has one."""
        known, changed = self._with_promotion[new], self._changed[new]
        for number in changed:
            (known.add if self.open_brackets[number].promotion(new) else known.discard)(number)
        changed.clear()
        if not known:
            return None
        number = min(known)
        promotion = self.open_brackets[number].promotion(new)
        assert promotion is not None
        index, trial = promotion
        rungs = self.open_brackets[number].rungs
        return Suggestion(trial, rungs[index - 1].plan.epochs, rungs[index].plan.epochs, number, index)

    def _planned(self, number: int) -> Bracket:
        return self._plan.brackets[number % len(self._plan.brackets)]

    def _enter_rung(self, record: SegmentRequested) -> None:
        assert record.bracket is not None
        assert record.rung is not None
        if record.bracket not in self.open_brackets:
            self.open_brackets[record.bracket] = OpenBracket(self._planned(record.bracket))
            self.opened = max(self.opened, record.bracket + 1)
        rungs = self.open_brackets[record.bracket].rungs
        if record.rung > 0:
            below = rungs[record.rung - 1]
            below.ranked = [item for item in below.ranked if item[1] != record.trial]
        rung = rungs[record.rung]
        rung.entered += 1
        rung.running += 1
        if record.rung == 0 and not rung.free_places:
            self._vacated.discard(record.bracket)
        self._place[record.trial] = (record.bracket, record.rung)
        self._running += 1
        self._mark_changed(record.bracket)

    def _finish_rung(self, record: ResultTold) -> Sequence[int]:
        number, index = self._place[record.trial]
        bracket = self.open_brackets[number]
        bracket.rungs[index].running -= 1
        self._running -= 1
        done = []
        if record.outcome == "infeasible":
            bracket.rungs[index].entered -= 1
            self._vacated.add(number)
        if record.score is None or index == len(bracket.rungs) - 1:
            done.append(record.trial)
        else:
            cost = self._objective.cost(record.score)
            bisect.insort(bracket.rungs[index].ranked, (cost, record.trial))
        done += bracket.drop_unpromotable()
        for trial in done:
            del self._place[trial]
        self._mark_changed(number)
        if bracket.is_over:
            del self.open_brackets[number]
            for numbers in (self._vacated, *self._with_promotion.values(), *self._changed.values()):
                numbers.discard(number)
        return done

    def _mark_changed(self, number: int) -> None:
        for changed in self._changed.values():
            changed.add(number)
