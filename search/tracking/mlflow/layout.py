"""The translation of journal records to MLflow. It is pure, so a journal's projection can be seen without MLflow.

A study is a parent run. Each trial is one child run of it. A `Change` says what one run must be sent. Changes of one
run merge: points add up, the last tag and the last status win. So a batch of records costs each run one request.

    record            parent run                            trial's run
    Header            the run; tags of identity             –
    SpaceChanged      search.digest                         –
    BackendChanged    search.backend, params of the phase   –
    TrialImported     search.warm_start                     –
    SearchStarted     RUNNING; the description              runs that a dead process left: FINISHED, paused
    SegmentRequested  –                                     the run (RUNNING); bracket, rung, parent_trial, colour
    ParameterSet      –                                     a param, its log10_… if sampled in log; search.params
    SegmentStarted    –                                     RUNNING
    Built             –                                     search.weights, search.runner
    EpochDone         objective if it is a new best         its logs, objective, best_epoch; search.epochs
    SegmentEnded      –                                     last_epoch, seconds_per_epoch, peak_device_memory
    ResultTold        –                                     FINISHED, paused
    TrialEnded        objective if the best trial failed    FINISHED or FAILED; search.state, search.error
    Tested            test_… of the best trial              test_…
    Exported          the model: see `winner`               –
    SearchPaused      search.state: paused                  –
    SearchContinued   search.state: running                 –
    SearchEnded       FINISHED, or FAILED without a         runs still open: FINISHED, paused
                      result; search.reason; the description

Besides, whenever another trial becomes the best, its run gets the tag `search.best` and a colour, and the run of the
trial that was it before loses both.

A run is RUNNING exactly while its trial waits for its next epochs or trains them. A metric's step is the epoch; the
parent run's step is the number of epochs of the whole study. Timestamps are those of the records, so a point that is
sent again is the same point.
"""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections.abc import Iterable, Iterator
from typing import Any

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
    SearchContinued,
    SearchEnded,
    SearchPaused,
    SearchStarted,
    SegmentEnded,
    SegmentRequested,
    SegmentStarted,
    SpaceChanged,
    Tested,
    TrialEnded,
    TrialImported,
)
from search.study.study import Study
from search.study.tags import split_tags
from search.study.trials import Trial
from search.tracking.mlflow.changes import Change, NewRun, Point
from search.tracking.mlflow.colours import COLOUR_TAG, colour_of
from search.tracking.mlflow.notes import NOTE_TAG, describe

RunKey = int | None
"""A run of the study: the trial's number, None for the parent run."""

PARENT: RunKey = None

STUDY_UID_TAG = "search.study_uid"
MODEL_TAG = "search.model"
"""Tag of a trial whose weights are in MLflow. Its value is their epoch."""
BEST_TAG = "search.best"
"""Tag of the best trial's run. On a run that was the best before, it is empty."""
LOG10_PREFIX = "log10_"
"""Prefix of the param that has a value's logarithm."""
TEST_PREFIX = "test_"
"""Prefix of metrics of the test data."""

# MLflow's limits: characters of a param, a tag and a name.
_MAX_PARAM = 6000
_MAX_TAG = 5000
_MAX_KEY = 250


class Projection:
    """The fold of a journal that returns, at each record, the changes of MLflow's runs.

    Attributes:
        study: the study up to the last entry taken in.
        exported_at: when the winner was exported, in milliseconds since the epoch.
    """

    def __init__(self) -> None:
        self.study = Study()
        self.exported_at = 0
        self._created_at = 0
        self._last_at = 0

    def take(self, entry: Entry) -> list[tuple[RunKey, Change]]:
        """Take in the next entry of the journal. Return the changes that follow, each with its run."""
        study, record = self.study, entry.record
        time = self._last_at = round(entry.time * 1000)
        open_before = _open(study) if isinstance(record, SearchStarted) else []
        best_before = study.best
        study.apply(record, entry.time)
        if isinstance(record, Header):
            self._created_at = time
        elif isinstance(record, Exported):
            self.exported_at = time
        changes = [*_of_study(study, record, time), *_of_trial(study, record, time)]
        if isinstance(record, SearchStarted | SearchEnded):
            still_open = open_before if isinstance(record, SearchStarted) else _open(study)
            changes += [(trial.number, _paused(time)) for trial in still_open]
        if study.best is not best_before:
            changes += _marks(study, best_before)
        for _, change in changes:
            change.time = time
        return changes

    def abandoned(self) -> list[tuple[RunKey, Change]]:
        """Return the changes that end the runs of a search whose process died without a `SearchEnded`.

        The runs end at the time of its last record. A search that ended in order has no such changes.
        """
        if self.study.start is None or self.study.end is not None:
            return []
        at = self._last_at
        parent = Change(status="FINISHED", tags={"search.state": "interrupted"}, time=at)
        return [(PARENT, parent), *((trial.number, _paused(at)) for trial in _open(self.study))]

    def new_run(self, run: RunKey) -> NewRun:
        """Return the arguments that create `run`."""
        study = self.study
        assert study.header is not None
        common = {
            STUDY_UID_TAG: study.uid,
            "search.study": study.name,
            "mlflow.user": study.header.user,
            "mlflow.source.name": study.header.source,
            "mlflow.source.type": "LOCAL",
            **tags_of_process(study),
        }
        if run is None:
            return NewRun(study.name, self._created_at, {**common, "search.kind": "study"})
        trial = study.trials[run]
        own = {"search.kind": "trial", "search.trial": str(run), "search.trial_key": f"{study.uid}/{run}"}
        return NewRun(f"trial-{run:04d}", round((trial.began_at or 0) * 1000), {**common, **own})


def _open(study: Study) -> list[Trial]:
    """Return the trials whose runs are RUNNING."""
    return [trial for trial in study.trials.values() if trial.open and not trial.ended]


def _marks(study: Study, before: Trial | None) -> Iterator[tuple[RunKey, Change]]:
    """Yield the changes that move the marks of the best trial from the one that was it `before`: a tag and a colour."""
    if before is not None:
        # The UI takes an empty colour for none.
        yield before.number, Change(tags={BEST_TAG: "", COLOUR_TAG: colour_of(study, before) or ""})
    if study.best is not None:
        yield study.best.number, Change(tags={BEST_TAG: "★ best", COLOUR_TAG: colour_of(study, study.best) or ""})


def _paused(time: int) -> Change:
    return Change(status="FINISHED", tags={"search.state": "paused"}, time=time)


def _of_study(study: Study, record: Record, time: int) -> Iterable[tuple[RunKey, Change]]:
    """Yield the changes of the parent run that follow from `record`, which has been applied to `study`."""
    match record:
        case Header():
            yield PARENT, Change(status="RUNNING", params={"seed": str(record.seed)}, tags=_identity(record))
        case SpaceChanged():
            yield PARENT, Change(tags={"search.digest": record.digest})
        case BackendChanged():
            # Params cannot change, so those of a later phase are prefixed with its number.
            prefix = f"phase{study.phase}/" if study.phase else ""
            params = {clean_key(f"{prefix}{name}"): param_text(value) for name, value in record.options.items()}
            params.pop("seed", None)
            yield PARENT, Change(params=params, tags={"search.backend": record.backend})
        case TrialImported():
            # The other study can be found in MLflow by the same uid.
            sources = dict.fromkeys(uid for uid, _ in study.imported)
            yield PARENT, Change(tags={"search.warm_start": _shorten(" ".join(sources), _MAX_TAG)})
        case SearchStarted():
            state = "paused" if study.paused else "running"
            tags = {"search.state": state, **_note_tag(study), **tags_of_process(study), **_user_parent(study)}
            yield PARENT, Change(status="RUNNING", tags=tags)
        case SearchPaused() | SearchContinued():
            yield PARENT, Change(tags={"search.state": "paused" if study.paused else "running"})
        case SearchEnded():
            state = "completed" if record.complete else "interrupted"
            tags = {
                "search.state": state,
                "search.reason": _shorten(record.reason, _MAX_TAG),
                "search.trials": str(len(study.trials)),
                **_epochs_tag(study.known_epochs),
                **_note_tag(study),
            }
            yield PARENT, Change(status="FAILED" if record.exit_code == 1 else "FINISHED", tags=tags)
        case EpochDone():
            trial = study.trials[record.trial]
            if (
                study.best is trial
                and trial.best_execution.best_epoch == record.epoch
                and trial.best_execution.curve[-1] is record
            ):
                yield PARENT, _best(study, time)
        case TrialEnded(state="failed"):
            yield PARENT, _best(study, time)
        case Tested():
            if study.best is not None and study.best.number == record.trial:
                yield PARENT, Change(_test_points(record, time, study.epochs))


def tags_of_process(study: Study) -> dict[str, str]:
    """Return the tags that follow from the options of the last process: the user's own, and the git commit."""
    options = study.start.options if study.start is not None else {}
    tags = {key: _shorten(text, _MAX_TAG) for key, text in split_tags(options.get("tag") or ()).items()}
    if options.get("source_commit"):
        tags["mlflow.source.git.commit"] = str(options["source_commit"])
    if "source_dirty" in options:
        tags["mlflow.source.git.dirty"] = str(options["source_dirty"]).lower()
    return tags


def _user_parent(study: Study) -> dict[str, str]:
    """Return the tag that makes the parent run a child of the user's run."""
    run = study.start.options.get("parent_run") if study.start is not None else None
    return {"mlflow.parentRunId": str(run)} if run else {}


def _note_tag(study: Study) -> dict[str, str]:
    return {NOTE_TAG: _shorten(describe(study), _MAX_TAG)}


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


_OF_A_TRIAL = (
    SegmentRequested
    | ParameterSet
    | SegmentStarted
    | Built
    | EpochDone
    | SegmentEnded
    | ResultTold
    | TrialEnded
    | Tested
)


def _of_trial(study: Study, record: Record, time: int) -> Iterable[tuple[RunKey, Change]]:
    """Yield the change of a trial's run that follows from `record`, which has been applied to `study`."""
    if not isinstance(record, _OF_A_TRIAL):
        return
    trial = study.trials[record.trial]
    change = Change()
    match record:
        case SegmentRequested():
            change.status = "RUNNING"
            change.tags = _request_tags(study, trial)
        case ParameterSet():
            change.params = _value_params(study, trial, record)
            values = json.dumps(trial.params, ensure_ascii=False)
            # A truncated JSON object would be of no use; `trial.json` has all values.
            change.tags = {"search.params": values} if len(values) <= _MAX_TAG else {}
        case SegmentStarted():
            change.status, change.tags = "RUNNING", {"search.state": trial.state}
        case Built():
            change.tags = {"search.weights": str(record.weight_count), "search.runner": record.runner}
        case EpochDone():
            change = _epoch(trial, record, time)
        case SegmentEnded():
            change.points = _cost(trial, time)
        case ResultTold():
            change.status, change.tags = "FINISHED", {"search.state": trial.state}
        case TrialEnded():
            change.status = "FAILED" if record.state == "failed" else "FINISHED"
            change.tags = {"search.state": record.state}
            if trial.error:
                change.tags["search.error"] = _shorten(trial.error.strip().splitlines()[0], 500)
        case Tested():
            change.points = _test_points(record, time, record.epoch)
    yield trial.number, change


def _request_tags(study: Study, trial: Trial) -> dict[str, str]:
    tags = {"search.state": trial.state, "search.seed": str(trial.seed)}
    if 0 <= trial.phase < len(study.phases):
        tags["search.backend"] = study.phases[trial.phase].backend
    if trial.parent is not None:
        tags["search.parent_trial"] = str(trial.parent.trial)
    if trial.progress.bracket is not None:
        tags["search.bracket"] = str(trial.progress.bracket)
    if trial.progress.rung is not None:
        tags["search.rung"] = str(trial.progress.rung)
    colour = colour_of(study, trial)
    if colour is not None:
        tags[COLOUR_TAG] = colour
    return tags


def _value_params(study: Study, trial: Trial, record: ParameterSet) -> dict[str, str]:
    """Return the params of a hyperparameter's value, with its logarithm if it was sampled in log.

    The axes of MLflow's charts are linear.
    """
    name, value = record.parameter.name, record.value
    params = {clean_key(name): param_text(value)}
    derived = f"{LOG10_PREFIX}{name}"
    is_taken = derived in trial.params or any(parameter.name == derived for parameter in study.parameters)
    is_log = record.parameter.domain.sampling != "linear"
    if is_log and not is_taken and isinstance(value, (int, float)) and value > 0:
        params[clean_key(derived)] = f"{math.log10(value):.6g}"
    return params


def _test_points(record: Tested, time: int, step: int) -> list[Point]:
    finite = {name: value for name, value in record.logs.items() if math.isfinite(value)}
    return [Point(clean_key(f"{TEST_PREFIX}{name}"), float(value), time, step) for name, value in finite.items()]


def _epoch(trial: Trial, record: EpochDone, time: int) -> Change:
    execution = trial.executions[record.execution]
    if execution.curve[-1] is not record:
        return Change()  # the epoch was trained again after a crash: the first record counts
    finite = {name: value for name, value in record.logs.items() if math.isfinite(value)}
    # Each of several executions has curves of its own.
    prefix = "" if trial.progress.planned == 1 else f"execution_{record.execution}/"
    values = {clean_key(f"{prefix}{name}"): float(value) for name, value in finite.items()}
    if trial.objective is not None:
        values["objective"] = trial.objective
        if not trial.black_box:
            values["best_epoch"] = float(trial.best_epoch or 0)
    if trial.progress.planned > 1:
        values |= _execution_values(trial, record)
    change = Change([Point(name, value, time, record.epoch) for name, value in values.items()])
    change.tags = _epochs_tag(trial.known_epochs)
    if len(finite) < len(record.logs):
        # MLflow stores infinity as 1.8e308, which spoils every axis.
        bad = {name for epoch in execution.curve for name, value in epoch.logs.items() if not math.isfinite(value)}
        change.tags["search.nonfinite"] = _shorten(",".join(sorted(bad)), _MAX_TAG)
    return change


def _cost(trial: Trial, time: int) -> list[Point]:
    """Return the points of a trial's cost: its last epoch, the seconds of an epoch, and the bytes of a GPU."""
    found: dict[str, float | None] = {"last_epoch": trial.known_epochs if trial.curve else None}
    found |= {"seconds_per_epoch": trial.seconds_per_epoch, "peak_device_memory": trial.peak_device_memory}
    taken = trial.curve[-1].logs if trial.curve else {}
    return [
        Point(name, float(value), time, trial.epochs)
        for name, value in found.items()
        if value is not None and name not in taken
    ]


def _epochs_tag(epochs: int | None) -> dict[str, str]:
    """Return the tag with a number of epochs, without one if they are unknown."""
    return {} if epochs is None else {"search.epochs": str(epochs)}


def _execution_values(trial: Trial, record: EpochDone) -> dict[str, float]:
    """Return the metrics that a trial with several executions has besides.

    They are the objective of the execution of `record`, the standard deviation, and the mean of each curve.
    """
    found: dict[str, float] = {}
    value = trial.executions[record.execution].objective
    if value is not None:
        found[f"objective_{record.execution}"] = value
    if trial.spread is not None:
        found["objective_std"] = trial.spread
    if record.execution == trial.progress.planned - 1:
        for name in record.logs:
            values = [epoch.logs.get(name, math.nan) for each in trial.executions if (epoch := each.find(record.epoch))]
            if all(map(math.isfinite, values)):
                found[clean_key(name)] = math.fsum(values) / len(values)
    return found


# Text -----------------------------------------------------------------------------------------------------------------


def clean_key(name: str) -> str:
    """Return `name` as MLflow accepts it for a metric or a param: other characters become underscores."""
    clean = re.sub(r"[^\w\-. :/]", "_", name)[:_MAX_KEY]
    if not clean or posixpath.normpath(clean) != clean or clean.startswith(("/", "..")) or clean == ".":
        clean = re.sub(r"[/.]", "_", clean) or "_"
    return clean


def param_text(value: Any) -> str:
    """Return the value of a param: as `str` gives it, at most as long as MLflow accepts."""
    return _shorten(str(value), _MAX_PARAM)


def _shorten(value: str, length: int) -> str:
    return value if len(value) <= length else f"{value[: length - 1]}…"
