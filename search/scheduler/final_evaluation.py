"""The final evaluation: when all training is over, workers test the best trials and export the winner."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence

from search.messages import Evaluated, Lost
from search.scheduler.events import StartEvaluation
from search.scheduler.limits import Limits
from search.scheduler.slot_pool import SlotPool
from search.study.records import Exported, Record, Tested
from search.study.study import Study

__all__ = ["FinalEvaluation"]


class FinalEvaluation:
    """The evaluations of a study's best trials: those to start, and those that run.

    Args:
        study: the study, whose training is over at the first `start`.

    Attributes:
        running: by slot, the evaluation and when it began (seconds since the epoch).
        dropped: evaluations were left out, as the user wants to stop.
    """

    def __init__(self, study: Study) -> None:
        self.running: dict[int, tuple[StartEvaluation, float]] = {}
        self._study = study
        self._waiting: deque[StartEvaluation] | None = None
        self._losses: Counter[int] = Counter()
        self._stopped = False
        self.dropped = False

    def start(self, count: int, slots: SlotPool, now: float, *, test: bool) -> list[tuple[int, StartEvaluation]]:
        """Return (slot, evaluation) for as many waiting evaluations as there are free slots.

        Args:
            count: trials to test, the best ones; the best of them is exported.
            slots: taken from here; the caller releases them.
            now: seconds since the epoch.
            test: whether there are test data.
        """
        if self._waiting is None:
            self._waiting = deque(self._missing(count, test))
        if self._stopped and self._waiting:
            self.dropped = True
            self._waiting.clear()
        started = []
        while self._waiting and (slot := slots.take()) is not None:
            evaluation = self._waiting.popleft()
            self.running[slot] = evaluation, now
            started.append((slot, evaluation))
        return started

    @property
    def over(self) -> bool:
        """True if nothing runs, and nothing waits for a slot."""
        return not (self.running or self._waiting)

    def stop(self) -> None:
        """Begin no more evaluations. Those that run go on to their ends."""
        self._stopped = True

    def end(
        self, slot: int, message: Evaluated | Lost, limits: Limits, now: float
    ) -> tuple[Sequence[Record], Sequence[str]]:
        """Take in that the evaluation in `slot` has ended with `message` at `now`.

        Without results, the worker's process died. Then the evaluation is tried again as a trial is, unless it has used
        up the time of a trial.

        Returns:
            The records of the results, and lines for the user about what is missing now.
        """
        evaluation, since = self.running.pop(slot)
        if isinstance(message, Evaluated):
            return self._records(evaluation, message), ()
        self._losses[evaluation.trial] += message.fault
        in_time = limits.trial_timeout is None or now - since < limits.trial_timeout
        if in_time and self._losses[evaluation.trial] <= limits.retries and self._waiting is not None:
            self._waiting.append(evaluation)
            return (), ()
        missing = ["its results on the test data"] * evaluation.test + ["model.keras"] * evaluation.export
        line = f"trial {evaluation.trial}'s best model: {message.reason} (missing: {', '.join(missing)})"
        return (), (f"{line}: to try again: search resume {self._study.name}",)

    def _records(self, evaluation: StartEvaluation, message: Evaluated) -> list[Record]:
        trial = self._study.trials[evaluation.trial]
        number, epoch = trial.best.execution, trial.best_execution.saved_epoch
        assert epoch is not None
        records: list[Record] = []
        if message.logs is not None:
            records.append(Tested(trial.number, number, epoch, message.logs))
        if message.signature is not None:
            exported = Exported(trial.number, number, epoch, message.signature, message.requirements, message.warning)
            records.append(exported)
        return records

    def _missing(self, count: int, test: bool) -> Iterator[StartEvaluation]:
        """Yield the evaluations that no process has carried out yet."""
        if not count:
            return  # to rank many trials takes milliseconds
        for place, trial in enumerate(self._study.ranked(count)):
            best = (trial.number, trial.best.execution, trial.best_execution.saved_epoch)
            wants_test = test and _weights_of(trial.best.tested) != best
            wants_export = place == 0 and _weights_of(self._study.exported) != best
            if (wants_test or wants_export) and best[2] is not None:
                yield StartEvaluation(trial.number, wants_test, wants_export)


def _weights_of(record: Tested | Exported | None) -> tuple[int, int, int] | None:
    """Return whose weights `record` is about: (trial, execution, epoch)."""
    return None if record is None else (record.trial, record.execution, record.epoch)
