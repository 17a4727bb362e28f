"""The harvest: what is left to be had of the best trials when all training is over. Pure; workers carry it out."""

from __future__ import annotations

from collections.abc import Iterator

from search.messages import Evaluated
from search.scheduler.events import StartEvaluation
from search.study.records import Exported, Record, Tested
from search.study.study import Study


def plan(study: Study, count: int, *, test: bool) -> Iterator[StartEvaluation]:
    """What to bring in of the best `count` trials, which an earlier process may have brought in already.

    Args:
        test: whether there are test data.
    """
    if not count:
        return  # to rank many trials takes milliseconds
    for place, trial in enumerate(study.ranked(count)):
        best = (trial.number, trial.best_execution, trial.best.saved_epoch)
        wants_test = test and _identity(trial.tested) != best
        wants_export = place == 0 and _identity(study.exported) != best
        if (wants_test or wants_export) and best[2] is not None:
            yield StartEvaluation(trial.number, wants_test, wants_export)


def records(study: Study, evaluation: StartEvaluation, evaluated: Evaluated) -> Iterator[Record]:
    """What to journal of what a worker has brought in."""
    trial = study.trials[evaluation.trial]
    number, epoch = trial.best_execution, trial.best.saved_epoch
    assert epoch is not None
    if evaluated.logs is not None:
        yield Tested(trial.number, number, epoch, evaluated.logs)
    if evaluated.signature is not None:
        yield Exported(trial.number, number, epoch, evaluated.signature, evaluated.requirements)


def _identity(record: Tested | Exported | None) -> tuple[int, int, int] | None:
    return None if record is None else (record.trial, record.execution, record.epoch)
