"""A back end's suggestions: whether one can be carried out, its record, and the end of a search if there is none."""

from __future__ import annotations

from collections.abc import Mapping

from search.scheduler.limits import Limits
from search.space.domain import Value
from search.study.records import SegmentRequested
from search.study.study import Study
from search.study.trial import Done, Suggestion, Wait, derive_seed
from search.study.trials import Trial
from search.wording import pluralize

__all__ = ["reason_without_work", "segment_request", "suggestion_error"]


def suggestion_error(suggestion: Suggestion, study: Study, *, new: bool, child: bool) -> str | None:
    """Return a line that says why `suggestion` cannot be carried out; None if it can.

    Args:
        suggestion: of the back end in charge of `study`.
        study: the study so far.
        new, child: as the back end was asked; see `BackEnd.ask`.
    """
    first, last = suggestion.from_epoch, suggestion.to_epoch
    if not 0 <= first < last:
        return f"from epoch {first} to epoch {last} there is nothing to train"
    if suggestion.trial is not None:
        return _error_of_known(suggestion, study)
    if suggestion.parent is not None:
        return _error_of_child(suggestion, study) if child else "the budget has no room for a trial with a parent"
    if suggestion.values:
        return "only a trial with a parent may be given values"
    if not new:
        return "there is no room for a new trial"
    return f"a new trial without a parent begins after epoch 0, not {first}" if first else None


def _error_of_known(suggestion: Suggestion, study: Study) -> str | None:
    assert suggestion.trial is not None
    if suggestion.parent is not None or suggestion.values:
        return f"trial {suggestion.trial} has begun: only a new trial may be given a parent and values"
    trial = study.trials.get(suggestion.trial)
    if (error := _error_of_use(suggestion.trial, trial, study)) is not None:
        return error
    assert trial is not None
    if suggestion.from_epoch != (last := trial.progress.to_epoch):
        return f"trial {trial.number} goes on after epoch {last}, its last, not after {suggestion.from_epoch}"
    return None


def _error_of_child(suggestion: Suggestion, study: Study) -> str | None:
    assert suggestion.parent is not None
    parent = study.trials.get(suggestion.parent)
    if (error := _error_of_use(suggestion.parent, parent, study)) is not None:
        return error
    assert parent is not None
    if suggestion.from_epoch != parent.epochs:
        return (
            f"a child of trial {parent.number} begins after epoch {parent.epochs}, the parent's last, not after "
            f"{suggestion.from_epoch}"
        )
    if parent.dropped:
        return f"trial {parent.number} cannot be a parent: its checkpoint was dropped (the back end has `expendable`)"
    for parameter in parent.parameters:
        if parameter.name in suggestion.values:
            value = suggestion.values[parameter.name]
            if not parameter.domain.contains(value):
                return f"{parameter.name} cannot be {value!r}: it takes {parameter.domain}"
    return None


def _error_of_use(number: int, trial: Trial | None, study: Study) -> str | None:
    """Return why a trial can neither go on nor be a parent now; None if it can."""
    if trial is None:
        return f"there is no trial {number}"
    if trial.phase != study.phase:
        return f"trial {number} belongs to an earlier back end phase"
    if trial.ended or trial.worthless:
        return f"trial {number} has ended: its back end has given it up, or it failed"
    return f"trial {number} has not fulfilled its last suggestion yet" if trial.open else None


def segment_request(
    suggestion: Suggestion,
    study: Study,
    executions: int,
    initial_values: Mapping[str, Value],
    *,
    extra: bool = False,
) -> SegmentRequested:
    """Return the record of a suggestion that can be carried out. A new trial gets its number and its training seed.

    Args:
        executions: trainings of each trial.
        initial_values: those of a new trial.
        extra: the trial is none of the back end's.
    """
    number = len(study.trials) if suggestion.trial is None else suggestion.trial
    parent = None if suggestion.parent is None else study.trials[suggestion.parent]
    return SegmentRequested(
        number,
        suggestion.from_epoch,
        suggestion.to_epoch,
        suggestion.bracket,
        suggestion.rung,
        suggestion.judged,
        derive_seed(study.seed, "train", number, 0),
        executions,
        initial_values=initial_values,
        parent=suggestion.parent,
        values={} if parent is None else {**parent.params, **suggestion.values},
        attributes=suggestion.attributes,
        extra=extra,
    )


def reason_without_work(answer: Wait | Done, exhausted: bool, enough: bool, limits: Limits) -> str:
    """Return the line that says why a search ends if nothing runs and its back end suggests nothing.

    Args:
        answer: of the back end.
        exhausted: every configuration of the space was tried.
        enough: the budget of trials is tried.
        limits: of the search.
    """
    if exhausted:
        return "every configuration of the space was tried"
    if enough:
        return f"the budget of {pluralize(limits.max_trials or 0, 'trial')} is tried"
    return "nothing is left to try" if isinstance(answer, Done) else "the back end waits for nothing"
