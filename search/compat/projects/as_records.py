"""The records of a study that tell of a finished KerasTuner project. Pure.

A trial of Hyperband that continues another one is the same trial here: each of its rounds is a segment, and the best
epoch of each round a point of its curve.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from search.compat.projects.saved_trials import SavedTrial, best_value
from search.space.domain import Parameter
from search.study.records import (
    FORMAT,
    IMPORTED,
    Built,
    EpochDone,
    Header,
    Outcome,
    ParameterSet,
    Record,
    ResultOutcome,
    ResultTold,
    SearchEnded,
    SearchStarted,
    SegmentEnded,
    SegmentRequested,
    SegmentStarted,
    TrialEnded,
)
from search.study.trial import EndState, Objective

__all__ = ["RUNNER", "Span", "records_of", "spans_of"]

RUNNER = "KerasTuner"
"""The runner of imported trials."""

Timed = tuple[float, Record]


@dataclass(frozen=True, slots=True)
class Span:
    """The time of a trial's training, in seconds since the epoch."""

    begin: float
    end: float


@dataclass(slots=True)
class _Part:
    """A trial of KerasTuner as a segment of one of ours.

    Attributes:
        number: of our trial.
        from_epoch, to_epoch: the segment's. Only Hyperband says how many epochs a trial was to have; else the best one
            is the last that is known.
        best: our trial's best objective so far.
        first, last: it is the first segment of our trial, and the last one.
        parent: our trial that our trial continues, or None.
        slot: its slot, once it has begun.
    """

    saved: SavedTrial
    span: Span
    number: int
    from_epoch: int
    to_epoch: int
    best: float | None = None
    first: bool = True
    last: bool = True
    parent: int | None = None
    slot: int = 0

    @property
    def failed(self) -> bool:
        return self.saved.state == "failed"

    def ends_of(self, max_epochs: int | None) -> tuple[Outcome, ResultOutcome, EndState]:
        """Return how the segment ends, and our trial if this is its last one."""
        if self.failed:
            return "failed", "failed", "failed"
        if self.saved.round is None:
            # It had all the epochs that it was to have, how many these were.
            return "stopped_by_callback", "stopped_by_callback", "completed"
        return "reached", "reached", "completed" if self.to_epoch >= (max_epochs or 0) else "stopped"


def spans_of(trials: Sequence[SavedTrial], started: dict[str, float], *, overlap: bool) -> list[Span]:
    """Return the time of each trial.

    KerasTuner notes the begin of a trial unless it is silent. A trial's file is written at its end, and may have been
    copied since.

    Args:
        trials: in the order of their begin.
        started: the begin of trials by id, as far as it is known.
        overlap: several trials may have run at a time.
    """
    begins: list[float] = []
    latest = 0.0
    for trial in trials:
        begin = started.get(trial.id, latest or trial.ended)
        begins.append(max(begin, *begins[-1:], 0.0))
        latest = max(latest, trial.ended)
    spans = []
    for place, (trial, begin) in enumerate(zip(trials, begins, strict=True)):
        end = max(begin, trial.ended)
        if not overlap and place + 1 < len(trials):
            end = max(begin, min(end, begins[place + 1]))
        spans.append(Span(begin, end))
    return spans


def records_of(
    trials: Sequence[SavedTrial],
    spans: Sequence[Span],
    *,
    uid: str,
    study: str,
    objective: Objective,
    parameters: tuple[Parameter, ...],
    max_epochs: int | None,
    folder: str,
) -> list[Timed]:
    """Return the records of the study `study`, each with its time.

    Args:
        trials: those that have ended, in the order of their begin.
        spans: their times.
        uid: the study's id.
        parameters: the project's.
        max_epochs: of Hyperband; None for another tuner.
        folder: the project's, for people.
    """
    parts = _parts_of(trials, spans, objective)
    metrics = tuple(sorted({name for trial in trials for name in trial.directions}))
    header = Header(FORMAT, uid, study, 0, (objective,), "", IMPORTED, parameters, {}, metrics)
    begin = min((span.begin for span in spans), default=0.0)
    scored = any(trial.score is not None for trial in trials)
    end = SearchEnded(f"imported from KerasTuner's project {folder}", complete=True, exit_code=0 if scored else 1)
    return [
        (begin, header),
        (begin, SearchStarted("", 0, {})),
        *_in_time(parts, max_epochs),
        (max((span.end for span in spans), default=0.0), end),
    ]


def _parts_of(trials: Sequence[SavedTrial], spans: Sequence[Span], objective: Objective) -> list[_Part]:
    """Return the trials as segments of ours, in the order of their begin.

    A failed trial that continues another one is a trial of its own, a child: the other keeps its good result.
    """
    by_id: dict[str, _Part] = {}
    number, latest = 0, 0.0
    for saved, span in zip(trials, spans, strict=True):
        before = by_id.get(saved.round.continued) if saved.round and saved.round.continued else None
        latest = max(latest, span.begin, 0.0 if before is None else before.span.end)
        span = Span(latest, max(latest, span.end))
        from_epoch = before.to_epoch if before else saved.round.begins_after if saved.round else 0
        known = from_epoch + max(saved.logs, default=0) + 1
        to_epoch = known if saved.round is None else max(saved.round.epochs, known)
        goes_on = before is not None and before.last and not before.failed and saved.state != "failed"
        part = _Part(saved, span, number, from_epoch, to_epoch, best_value(saved, objective))
        if before is not None and goes_on:
            part.number, part.first, before.last = before.number, False, False
            part.best = objective.best(value for value in (before.best, part.best) if value is not None)
        else:
            part.parent = None if before is None else before.number
            number += 1
        by_id[saved.id] = part
    return list(by_id.values())


def _in_time(parts: Sequence[_Part], max_epochs: int | None) -> Iterator[Timed]:
    """Yield the records of all trials in the order of time, and give each segment a slot."""
    known_epochs = any(step > 0 for part in parts for step in part.saved.logs)
    # At one time, a trial that began earlier ends before a later one begins.
    begins = [(part.span.begin, place, 0) for place, part in enumerate(parts)]
    ends = [(part.span.end, place, 1) for place, part in enumerate(parts)]
    busy: set[int] = set()
    for time, place, is_end in sorted(begins + ends):
        part = parts[place]
        if is_end:
            busy.discard(part.slot)
            records = [*_epochs_of(part, known_epochs=known_epochs), *_end_of(part, max_epochs)]
        else:
            part.slot = next(slot for slot in range(len(busy) + 1) if slot not in busy)
            busy.add(part.slot)
            records = _begin_of(part, known_epochs=known_epochs)
        yield from ((time, record) for record in records)


def _begin_of(part: _Part, *, known_epochs: bool) -> list[Record]:
    number, saved = part.number, part.saved
    requested = SegmentRequested(
        trial=number,
        from_epoch=part.from_epoch,
        to_epoch=part.to_epoch,
        bracket=None if saved.round is None else saved.round.bracket,
        rung=None if saved.round is None else saved.round.number,
        judged=False,
        seed=0,
        parent=part.parent,
        attributes={"keras_tuner_trial": saved.id},
    )
    found: list[Record] = [requested]
    if part.first:
        found += [ParameterSet(number, parameter, value) for parameter, value in saved.space.used]
    found.append(SegmentStarted(number, 0, 0, part.slot, part.from_epoch, part.to_epoch))
    if not known_epochs and not part.failed:
        found.append(Built(number, 0, RUNNER, own_fit=True, black_box=True))
    return found


def _epochs_of(part: _Part, *, known_epochs: bool) -> list[Record]:
    """Return the epochs whose metrics are known. If the epochs are not, all of the training counts as one record."""
    logs = part.saved.logs
    by_epoch = {part.from_epoch + step + 1: dict(values) for step, values in logs.items()}
    if not known_epochs:
        by_epoch = {part.to_epoch: dict(next(iter(logs.values())))} if logs else {}
    elif part.saved.round is not None and not part.failed:
        by_epoch.setdefault(part.to_epoch, {})
    # Other tuners do not say how many epochs took the time.
    seconds = part.span.end - part.span.begin if part.saved.round is not None else 0.0
    found: list[Record] = []
    before = part.from_epoch
    for epoch, values in by_epoch.items():
        trained = epoch - before
        share = seconds * trained / max(1, part.to_epoch - part.from_epoch)
        found.append(EpochDone(part.number, 0, epoch, values, round(share, 3), trained))
        before = epoch
    return found


def _end_of(part: _Part, max_epochs: int | None) -> list[Record]:
    outcome, result, state = part.ends_of(max_epochs)
    score = None if part.failed else part.best
    found: list[Record] = [
        SegmentEnded(part.number, 0, outcome, part.to_epoch, part.saved.error),
        ResultTold(part.number, part.to_epoch, score, result),
    ]
    if part.last:
        found.append(TrialEnded(part.number, state))
    return found
