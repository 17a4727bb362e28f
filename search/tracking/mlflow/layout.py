"""What MLflow is told of each record: pure, so that a journal's projection can be looked at without MLflow.

A study is a parent run, a trial one child run of it. A `Change` is what one run must be told; changes of one run merge
(points add up, the last tag and status win), so a batch of records costs each run one request.

    record          parent                                trial
    Header          the run; tags of identity             –
    SpaceChanged    search.digest                         –
    Era             search.backend, params of the era     –
    Learnt          search.warm_start                     –
    Began           RUNNING                               those that a dead process left: FINISHED, paused
    Asked           –                                     the run (RUNNING); bracket, rung
    Valued          –                                     a param, its log10_… where sampled in log; search.params
    Started         –                                     RUNNING
    Built           –                                     search.parameters, search.runner
    EpochDone       objective where it is a new best      its logs, objective, best_epoch; search.epochs
    Told            –                                     FINISHED, paused
    TrialEnded      objective where the best has failed   FINISHED or FAILED; search.state, search.error
    Tested          test_… of the best trial              test_…
    Exported        the model: see `winner`               –
    Finished        FINISHED, FAILED where there is       those still open: FINISHED, paused
                    no result; search.reason

A run is RUNNING exactly while its trial waits for its next epochs or trains them. A metric's step is the epoch; the
parent's is the epochs of the whole study. Timestamps are the records', so a point sent again is the same point.
"""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from search.study.journal import Entry
from search.study.records import (
    BackendChanged,
    Built,
    EpochDone,
    Exported,
    Header,
    ParameterSet,
    Record,
    ResultTold,
    SearchEnded,
    SearchStarted,
    SegmentRequested,
    SegmentStarted,
    SpaceChanged,
    Tested,
    TrialEnded,
    TrialImported,
)
from search.study.study import Study, Trial

Run = int | None
"""A run of the study: the trial's number, None for the parent."""

PARENT: Run = None

STUDY_UID = "search.study_uid"
MODEL = "search.model"
"""Tag of a trial whose weights are in MLflow: their epoch."""
LOG10 = "log10_"
"""What the param of a value's logarithm is called, before its own name."""
TEST = "test_"
"""What metrics of the test data are called, before their own names."""

_METRICS = 1000
_OTHERS = 100
_PARAM = 6000
_TAG = 5000
_KEY = 250


class Point(NamedTuple):
    key: str
    value: float
    timestamp: int
    step: int


class Birth(NamedTuple):
    """What a run is created with; times in milliseconds since the epoch."""

    name: str
    time: int
    tags: dict[str, str]


class Batch(NamedTuple):
    """As much as MLflow takes in one request."""

    points: list[Point]
    params: dict[str, str]
    tags: dict[str, str]


@dataclass(slots=True)
class Change:
    """What one run must be told; `status` is None where it stays, `time` is that of the status."""

    points: list[Point] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    status: str | None = None
    time: int = 0

    def merge(self, later: Change) -> None:
        self.points += later.points
        # Params cannot change in MLflow: the first stands, were two names to be written alike.
        self.params = {**later.params, **self.params}
        self.tags |= later.tags
        if later.status is not None:
            self.status, self.time = later.status, later.time

    def batches(self) -> Iterator[Batch]:
        """The change in pieces that MLflow accepts: 1,000 entries, of them 100 params and 100 tags."""
        params, tags = list(self.params.items()), list(self.tags.items())
        points = self.points
        while points or params or tags:
            room = _METRICS - min(len(params), _OTHERS) - min(len(tags), _OTHERS)
            yield Batch(points[:room], dict(params[:_OTHERS]), dict(tags[:_OTHERS]))
            points, params, tags = points[room:], params[_OTHERS:], tags[_OTHERS:]


class Projection:
    """The fold of a journal that says, at each record, what MLflow must be told.

    Attributes:
        study: as far as the journal was taken.
        exported_at: when its winner was exported, in milliseconds since the epoch.
    """

    def __init__(self) -> None:
        self.study = Study()
        self.exported_at = 0
        self._began = 0
        self._told = 0

    def take(self, entry: Entry) -> list[tuple[Run, Change]]:
        """Take in one entry of the journal; what follows from it for which runs."""
        study, record = self.study, entry.record
        time = self._told = round(entry.time * 1000)
        open_before = _open(study) if isinstance(record, SearchStarted) else []
        study.apply(record, entry.time)
        if isinstance(record, Header):
            self._began = time
        elif isinstance(record, Exported):
            self.exported_at = time
        changes = [*_of_study(study, record, time), *_of_trial(study, record, time)]
        if isinstance(record, SearchStarted | SearchEnded):
            left = open_before if isinstance(record, SearchStarted) else _open(study)
            changes += [(trial.number, _paused(time)) for trial in left]
        for _, change in changes:
            change.time = time
        return changes

    def abandoned(self) -> list[tuple[Run, Change]]:
        """What would end the runs of a search whose process died without a `SearchEnded`: when it last said a word."""
        if self.study.start is None or self.study.end is not None:
            return []
        at = self._told
        parent = Change(status="FINISHED", tags={"search.state": "interrupted"}, time=at)
        return [(PARENT, parent), *((trial.number, _paused(at)) for trial in _open(self.study))]

    def birth(self, run: Run) -> Birth:
        """What `run` is created with."""
        study = self.study
        assert study.header is not None
        common = {
            STUDY_UID: study.uid,
            "search.study": study.name,
            "mlflow.user": study.header.user,
            "mlflow.source.name": study.header.source,
            "mlflow.source.type": "LOCAL",
        }
        if run is None:
            return Birth(study.name, self._began, {**common, "search.kind": "study"})
        trial = study.trials[run]
        own = {"search.kind": "trial", "search.trial": str(run), "search.trial_key": f"{study.uid}/{run}"}
        return Birth(f"trial-{run:04d}", round((trial.began_at or 0) * 1000), {**common, **own})


def _open(study: Study) -> list[Trial]:
    """The trials whose runs are RUNNING."""
    return [trial for trial in study.trials.values() if trial.open and trial.ended is None]


def _paused(time: int) -> Change:
    return Change(status="FINISHED", tags={"search.state": "paused"}, time=time)


def _of_study(study: Study, record: Record, time: int) -> Iterable[tuple[Run, Change]]:
    """What follows for the parent run, once `record` has been applied."""
    match record:
        case Header():
            yield PARENT, Change(status="RUNNING", params={"seed": str(record.seed)}, tags=_identity(record))
        case SpaceChanged():
            yield PARENT, Change(tags={"search.digest": record.digest})
        case BackendChanged():
            # Params cannot change: a later era's have its number before them.
            prefix = f"era{study.phase}/" if study.phase else ""
            params = {key(f"{prefix}{name}"): text(value) for name, value in record.options.items()}
            params.pop("seed", None)
            yield PARENT, Change(params=params, tags={"search.backend": record.backend})
        case TrialImported():
            # By its unique tag the other study is found in MLflow, too.
            sources = dict.fromkeys(uid for uid, _ in study.imported)
            yield PARENT, Change(tags={"search.warm_start": cut(" ".join(sources), _TAG)})
        case SearchStarted():
            yield PARENT, Change(status="RUNNING", tags={"search.state": "running"})
        case SearchEnded():
            state = "completed" if record.complete else "interrupted"
            tags = {
                "search.state": state,
                "search.reason": cut(record.reason, _TAG),
                "search.trials": str(len(study.trials)),
                "search.epochs": str(study.epochs),
            }
            yield PARENT, Change(status="FAILED" if record.exit_code == 1 else "FINISHED", tags=tags)
        case EpochDone():
            trial = study.trials[record.trial]
            if study.best is trial and trial.best_epoch == record.epoch and trial.best.curve[-1] is record:
                yield PARENT, _best(study, time)
        case TrialEnded(state="failed"):
            yield PARENT, _best(study, time)
        case Tested():
            if study.best is not None and study.best.number == record.trial:
                yield PARENT, Change(_test_points(record, time, study.epochs))


def _identity(header: Header) -> dict[str, str]:
    return {
        "search.seed": str(header.seed),
        "search.objective": header.objective.name,
        "search.direction": header.objective.direction,
        "search.digest": header.digest,
        **({"search.replaces": header.replaces} if header.replaces else {}),
        **{f"search.version.{name}": str(version) for name, version in header.versions.items()},
    }


def _best(study: Study, time: int) -> Change:
    best = study.best
    if best is None or best.objective is None:
        return Change()
    return Change(
        [Point("objective", best.objective, time, study.epochs)], tags={"search.best_trial": str(best.number)}
    )


def _of_trial(study: Study, record: Record, time: int) -> Iterable[tuple[Run, Change]]:
    """What follows for a trial's run, once `record` has been applied."""
    if not isinstance(
        record, SegmentRequested | ParameterSet | SegmentStarted | Built | EpochDone | ResultTold | TrialEnded | Tested
    ):
        return
    trial = study.trials[record.trial]
    change = Change()
    match record:
        case SegmentRequested():
            change.status = "RUNNING"
            change.tags = _asked(study, trial)
        case ParameterSet():
            change.params = _param(study, trial, record)
            values = json.dumps(trial.params, ensure_ascii=False)
            # Half a JSON object is of no use; `trial.json` has them all.
            change.tags = {"search.params": values} if len(values) <= _TAG else {}
        case SegmentStarted():
            change.status, change.tags = "RUNNING", {"search.state": trial.state}
        case Built():
            change.tags = {"search.parameters": str(record.weight_count), "search.runner": record.runner}
        case EpochDone():
            change = _epoch(trial, record, time)
        case ResultTold():
            change.status, change.tags = "FINISHED", {"search.state": trial.state}
        case TrialEnded():
            change.status = "FAILED" if record.state == "failed" else "FINISHED"
            change.tags = {"search.state": record.state}
            if trial.error and (trial.failed or trial.expired):
                change.tags["search.error"] = cut(trial.error.strip().splitlines()[0], 500)
        case Tested():
            change.points = _test_points(record, time, record.epoch)
    yield trial.number, change


def _asked(study: Study, trial: Trial) -> dict[str, str]:
    tags = {"search.state": trial.state, "search.seed": str(trial.seed)}
    if 0 <= trial.phase < len(study.phases):
        tags["search.backend"] = study.phases[trial.phase].backend
    if trial.bracket is not None:
        tags["search.bracket"] = str(trial.bracket)
    if trial.rung is not None:
        tags["search.rung"] = str(trial.rung)
    return tags


def _param(study: Study, trial: Trial, record: ParameterSet) -> dict[str, str]:
    """A value, and beside what was sampled in log its logarithm: the axes of MLflow's charts are linear."""
    name, value = record.parameter.name, record.value
    params = {key(name): text(value)}
    derived = f"{LOG10}{name}"
    own = derived in trial.params or any(parameter.name == derived for parameter in study.parameters)
    if record.parameter.domain.sampling != "linear" and not own and isinstance(value, (int, float)) and value > 0:
        params[key(derived)] = f"{math.log10(value):.6g}"
    return params


def _test_points(record: Tested, time: int, step: int) -> list[Point]:
    finite = {name: value for name, value in record.logs.items() if math.isfinite(value)}
    return [Point(key(f"{TEST}{name}"), float(value), time, step) for name, value in finite.items()]


def _epoch(trial: Trial, record: EpochDone, time: int) -> Change:
    execution = trial.executions[record.execution]
    if execution.curve[-1] is not record:
        return Change()  # trained again after a crash: the first record stands
    finite = {name: value for name, value in record.logs.items() if math.isfinite(value)}
    # One execution of several has its curves beside those of the others.
    prefix = "" if trial.planned == 1 else f"execution_{record.execution}/"
    values = {key(f"{prefix}{name}"): float(value) for name, value in finite.items()}
    if trial.objective is not None:
        values["objective"] = trial.objective
        values["best_epoch"] = float(trial.best_epoch or 0)
    if trial.planned > 1:
        values |= _executions(trial, record)
    change = Change([Point(name, value, time, record.epoch) for name, value in values.items()])
    change.tags = {"search.epochs": str(trial.epochs)}
    if len(finite) < len(record.logs):
        # MLflow stores infinity as 1.8e308, which spoils every axis.
        bad = {name for epoch in execution.curve for name, value in epoch.logs.items() if not math.isfinite(value)}
        change.tags["search.nonfinite"] = cut(",".join(sorted(bad)), _TAG)
    return change


def _executions(trial: Trial, record: EpochDone) -> dict[str, float]:
    """What several executions add: the value of the one that `record` is of, the mean curves and the spread."""
    found: dict[str, float] = {}
    value = trial.executions[record.execution].objective
    if value is not None:
        found[f"objective_{record.execution}"] = value
    if trial.spread is not None:
        found["objective_std"] = trial.spread
    if record.execution == trial.planned - 1:
        for name in record.logs:
            values = [epoch.logs.get(name, math.nan) for each in trial.executions if (epoch := each.find(record.epoch))]
            if all(map(math.isfinite, values)):
                found[key(name)] = math.fsum(values) / len(values)
    return found


# Text -----------------------------------------------------------------------------------------------------------------


def key(name: str) -> str:
    """`name` as MLflow takes it for a metric or a param: other characters become underscores."""
    clean = re.sub(r"[^\w\-. :/]", "_", name)[:_KEY]
    if not clean or posixpath.normpath(clean) != clean or clean.startswith(("/", "..")) or clean == ".":
        clean = re.sub(r"[/.]", "_", clean) or "_"
    return clean


def text(value: Any) -> str:
    """A param's value: as Python writes it, cut where MLflow would."""
    return cut(str(value), _PARAM)


def cut(value: str, length: int) -> str:
    return value if len(value) <= length else f"{value[: length - 1]}…"
