"""The harvest: what is left to be had of the best trials when all training is over. Pure; workers carry it out."""

from __future__ import annotations

from collections.abc import Iterator

from search.messages import Harvested
from search.scheduler.events import Reap
from search.study.records import Exported, Record, Tested
from search.study.study import Study


def plan(study: Study, count: int, *, test: bool) -> Iterator[Reap]:
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
            yield Reap(trial.number, wants_test, wants_export)


def records(study: Study, reap: Reap, harvested: Harvested) -> Iterator[Record]:
    """What to journal of what a worker has brought in."""
    trial = study.trials[reap.trial]
    number, epoch = trial.best_execution, trial.best.saved_epoch
    assert epoch is not None
    if harvested.logs is not None:
        yield Tested(trial.number, number, epoch, harvested.logs)
    if harvested.signature is not None:
        yield Exported(trial.number, number, epoch, harvested.signature, harvested.requirements)


def _identity(record: Tested | Exported | None) -> tuple[int, int, int] | None:
    return None if record is None else (record.trial, record.execution, record.epoch)
