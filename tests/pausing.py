"""A back end that pauses many trials, as small as it can be: one that `--disk` bounds."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from search.backends.base import draw_uniformly
from search.space.domain import Parameter, Value
from search.study.records import CheckpointDropped, Record, ResultTold, SegmentRequested
from search.study.trial import Decision, Done, Draw, Objective, Suggestion, Wait, derive_seed
from search.study.trials import Trial


class Pausing:
    """A back end that begins trials for `step` epochs, and continues a paused one as often, a better one more likely.

    Args:
        objective, seed: of the study.
        max_epochs: the most epochs of a trial. There is no end before every trial has them.
        step: epochs of a suggestion.
        begin: trials to begin with.
    """

    protocol = 1
    has_end = True

    def __init__(self, objective: Objective, seed: int, *, max_epochs: int, step: int = 2, begin: int = 6) -> None:
        self._objective, self._seed = objective, seed
        self._max_epochs, self._step, self._begin = max_epochs, step, begin
        self._requests = 0
        self._epochs: dict[int, int] = {}
        self._running: set[int] = set()
        self._paused: dict[int, float] = {}
        self.dropped: list[int] = []

    def ask(self, *, new: bool, child: bool) -> Suggestion | Wait | Done:
        begins = len(self._epochs) < self._begin or derive_seed(self._seed, "begin", self._requests) % 2
        if new and (begins or not self._paused):
            return Suggestion(None, 0, min(self._step, self._max_epochs))
        if not self._paused:
            return Wait() if self._running else Done()
        best_first = self.expendable(self._paused)[::-1]
        # Mostly one of the best; any may come.
        share = (derive_seed(self._seed, "goes on", self._requests) / 2**31) ** 2
        trial = best_first[int(share * len(best_first))]
        return Suggestion(trial, self._epochs[trial], min(self._epochs[trial] + self._step, self._max_epochs))

    def suggest(self, trial: int, parameter: Parameter, explored: Collection[Value] = ()) -> Draw:
        return draw_uniformly(self._seed, trial, parameter, explored)

    def judge(self, trial: int, epoch: int) -> Decision:
        return Decision()

    def expendable(self, trials: Collection[int]) -> Sequence[int]:
        return sorted(trials, key=lambda trial: (self._paused[trial], trial), reverse=True)

    def apply(self, record: Record) -> Sequence[int]:
        match record:
            case SegmentRequested():
                self._requests += 1
                self._epochs[record.trial] = record.to_epoch
                self._paused.pop(record.trial, None)
                self._running.add(record.trial)
            case ResultTold() if record.trial in self._running:
                self._running.discard(record.trial)
                if record.outcome != "reached" or record.epoch >= self._max_epochs:
                    return [record.trial]
                self._paused[record.trial] = self._objective.cost(record.score)
            case CheckpointDropped():
                self.dropped.append(record.trial)
        return []

    def learn(self, trials: Sequence[Trial]) -> None:
        pass
