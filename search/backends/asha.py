"""Asynchronous successive halving (Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning", MLSys,
algorithm 2), with early-stopping rate 0 and a minimum resource of one epoch.

No worker ever waits. Each free one trains the best trial that may be promoted, from the highest rung that has one; if
there is none, it begins a new trial. All others stay paused at their rungs, as a later result may let them into the
best part. A trial's score at a rung is its best value so far.

A failed trial counts as the worst at the rung that it was to reach. An infeasible trial has cost no epoch and does not
count. A trial that its own callback ended is promoted as any other, and its promotion costs nothing.

The paper's search has no end. If there may be no new trial, because their budget is spent or the space is exhausted,
all promotions are made. Then the best trial of the highest rung goes on, until one has been trained to the end.

Trials of earlier phases and of other studies do not count at the rungs: they cannot be promoted, and good ones would
keep the places of those that can. The sampler learns from them (see `search.backends.rungs`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from search.backends.base import draw_uniformly
from search.backends.ladder import Ladder, ladder_epochs
from search.space.domain import Parameter, Value
from search.study.records import Record, ResultTold, SegmentRequested, TrialEnded
from search.study.trial import Decision, Done, Draw, Objective, Suggestion, Wait
from search.study.trials import Trial

if TYPE_CHECKING:
    from search.backends.rungs import RungModel


class Asha:
    """The `asha` back end.

    Args:
        objective: the metric to compare.
        seed: of the study.
        max_epochs: R, the most epochs that one trial gets.
        factor: η, an integer of at least 2; one trial in η is promoted at each rung.
        sampler: draws new configurations: `random`, or one of Optuna's as `name` or `name:key=value,…`.
        parameters: those that the probe saw, for samplers that must know the space.

    Attributes:
        ladder: the rungs, and the trials on them.

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
        sampler: str = "random",
        parameters: Sequence[Parameter] = (),
    ) -> None:
        self.ladder = Ladder(max_epochs, factor)
        self._objective = objective
        self._seed = seed
        self._epochs = ladder_epochs(max_epochs, factor)
        self._running: set[int] = set()
        self._one_is_complete = False
        self._model: RungModel | None = None
        if sampler != "random":
            # Optuna takes 0.3 s to import: this is paid only if it is used.
            from search.backends.rungs import RungModel

            self._model = RungModel(objective, seed, sampler, self._epochs, parameters)

    # Queries --------------------------------------------------------------------------------------------------------

    def ask(self, *, new: bool, child: bool) -> Suggestion | Wait | Done:
        """Return a promotion, else a new trial (`get_job` of algorithm 2)."""
        if promotion := self.ladder.promotion():
            return self._promote(*promotion)
        if new:
            return Suggestion(None, 0, self._epochs[0], bracket=0, rung=0)
        if self._running:
            return Wait()
        if not self._one_is_complete and (best := self.ladder.best_waiting()):
            return self._promote(*best)
        return Done()

    def suggest(self, trial: int, parameter: Parameter, explored: Collection[Value] = ()) -> Draw:
        """Return a value at random, or from the sampler's model."""
        if self._model is not None:
            return self._model.draw(trial, parameter, explored)
        return draw_uniformly(self._seed, trial, parameter, explored)

    def judge(self, trial: int, epoch: int) -> Decision:
        """Let every trial go on: it is compared at its rung."""
        return Decision()

    def expendable(self, trials: Collection[int]) -> Sequence[int]:
        """Return `trials`, those at the lowest rung first, and the worst there first: few of them are promoted."""

        def place(trial: int) -> tuple[int, float, int]:
            rungs, cost = self.ladder.standing(trial)
            return rungs, -cost, -trial

        return sorted(trials, key=place)

    def _promote(self, trial: int, to_epoch: int) -> Suggestion:
        return Suggestion(trial, self.ladder.sent_to(trial), to_epoch, bracket=0, rung=self._epochs.index(to_epoch))

    # Facts ----------------------------------------------------------------------------------------------------------

    def apply(self, record: Record) -> Sequence[int]:
        """Send trials to their rungs, and count them there. Return those that failed or reached the last rung."""
        if self._model is not None:
            self._model.apply(record)
        match record:
            case SegmentRequested():
                self._running.add(record.trial)
                self.ladder.send(record.trial, record.to_epoch)
            case ResultTold() if record.trial in self._running:
                return self._count(record)
            case TrialEnded() if self.ladder.sent_to(record.trial):
                self.ladder.withdraw(record.trial)
        return ()

    def learn(self, trials: Sequence[Trial]) -> None:
        """Pass `trials` to the sampler, if there is one. The controller sees to it that none is tried twice."""
        if self._model is not None:
            self._model.learn(trials)

    def _count(self, record: ResultTold) -> Sequence[int]:
        """Count a trial at the rung that it was sent to; return it if it gets no more epochs."""
        self._running.discard(record.trial)
        epoch = self.ladder.sent_to(record.trial)
        if record.outcome != "infeasible":
            self.ladder.note(record.trial, epoch, self._objective.cost(record.score))
        if record.score is not None and epoch < self._epochs[-1]:
            return ()
        self._one_is_complete |= record.score is not None
        self.ladder.withdraw(record.trial)
        return (record.trial,)
