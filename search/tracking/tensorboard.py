"""TensorBoard's log of a study: a projection of its journal, for `tensorboard --logdir runs/STUDY/tensorboard`.

<trial>, <trial>-<execution>   a run: its values, the logs of each epoch, `objective`, the state at its end
space.<n>                      the lists of the HParams page: parameters with their domains, and metrics

`objective` is the best value so far, as the HParams page compares last values. A trial's executions are one group on
that page, which shows their means. A running TensorBoard reads the lists of a folder only once. So if a factory asks
for a new parameter, `space.2` replaces `space.1`.

Messages and records are those of the `tensorboard` package. Its parts that import TensorFlow, or need a thread for each
file, are not used. A file is open only while it is written to.
"""

from __future__ import annotations

import io
import math
import os
import shutil
import socket
import time as clock
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from google.protobuf import struct_pb2
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT
from tensorboard.plugins.hparams import api_pb2 as api
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.summary.writer.record_writer import RecordWriter

from search.space.domain import Domain, Parameter, Value
from search.study.journal import Entry
from search.study.paths import StudyPaths
from search.study.records import (
    Built,
    EpochDone,
    Header,
    ParameterSet,
    Record,
    SegmentRequested,
    SegmentStarted,
    SpaceChanged,
    Tested,
    TrialEnded,
)
from search.study.trial import Objective
from search.tracking.followers import FollowerSetup

__all__ = ["TensorBoardLog"]

_OBJECTIVE = "objective"
_TEST_PREFIX = "test_"

_MAX_PENDING = 1 << 22
"""Bytes that a replay keeps in memory before it writes them."""


@dataclass(slots=True)
class _Run:
    """One execution of a trial."""

    name: str
    epoch: int = 0
    best: float | None = None


@dataclass(slots=True)
class _Trial:
    """A trial's values and runs; `execution` is the number of the one that started last."""

    values: dict[str, Any] = field(default_factory=dict)
    runs: dict[int, _Run] = field(default_factory=dict)
    execution: int = 0


class TensorBoardLog:
    """A follower of the driver that writes the log of the whole journal anew, and then adds new entries.

    The first error ends the log with one warning. The search goes on.

    Args:
        folder: the log's folder. Its content is deleted, so that each epoch is there once however the last process
            ended.
        entries: the journal so far.
        warn: shows the user one line.
    """

    protocol = 1

    @classmethod
    def from_setup(cls, setup: FollowerSetup) -> TensorBoardLog:
        """Return the log of a study."""
        return cls(StudyPaths(setup.folder).tensorboard, setup.entries, setup.say)

    def __init__(self, folder: Path, entries: Iterable[Entry], warn: Callable[[str], None]) -> None:
        self._folder = folder
        self._warn = warn
        self._file = f"events.out.tfevents.{clock.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._trials: dict[int, _Trial] = {}
        self._objective = Objective("", "min")
        self._lists = _HParamsLists()
        self._lists_number = 0
        self._pending: dict[str, io.BytesIO] = {}
        self._broken = False
        with self._report_error():
            if folder.exists():
                # A running TensorBoard has read the old lists: the new ones need another number.
                self._lists_number = max((int(path.suffix[1:]) for path in folder.glob("space.*")), default=0)
                shutil.rmtree(folder)
            size = 0
            for entry in entries:
                size += self._take(entry.record, entry.time)
                if size > _MAX_PENDING:
                    self._write()
                    size = 0
            self._write()

    def take(self, entries: Sequence[Entry]) -> None:
        """Take in entries that have just been journaled."""
        with self._report_error():
            for entry in entries:
                self._take(entry.record, entry.time)

    def flushed(self) -> None:
        """Write the events of the entries taken in. TensorBoard never shows entries that the journal might lose."""
        with self._report_error():
            self._write()

    @contextmanager
    def _report_error(self) -> Iterator[None]:
        """Turn an exception into a warning that ends the log."""
        try:
            yield
        except Exception as error:
            if not self._broken:
                what = error.strerror if isinstance(error, OSError) and error.strerror else f"{error}"
                self._warn(
                    f"TensorBoard's log ends here ({type(error).__name__}: {what}): the search goes on, and a resume "
                    "writes it anew"
                )
            self._broken = True
            self._pending.clear()

    # Records --------------------------------------------------------------------------------------------------------

    def _take(self, record: Record, time: float) -> int:
        """Add the events that follow from a record. Return their size in bytes."""
        if self._broken:
            return 0
        match record:
            case EpochDone():
                return self._epoch(record, time)
            case ParameterSet():
                self._lists.add_parameters([record.parameter])
                value = _protobuf_value(record.parameter.domain, record.value)
                self._trials[record.trial].values[record.parameter.name] = value
            case SegmentRequested():
                self._trials.setdefault(record.trial, _Trial())
            case SegmentStarted():
                self._trials[record.trial].execution = record.execution
            case Built(own_fit=False):
                # The user's own `fit` may ask for more values: then the run begins with the first epoch.
                self._begin(record.trial, self._trials[record.trial].execution, time)
            case TrialEnded():
                return self._trial_ended(record, time)
            case Tested():
                logs = {f"{_TEST_PREFIX}{name}": value for name, value in record.logs.items()}
                run = self._begin(record.trial, record.execution, time)
                return self._scalars(run, logs, record.epoch, time)
            case Header():
                self._objective = record.objective
                self._lists.begin(record, time)
            case SpaceChanged():
                self._lists.add_parameters(record.parameters)
        return 0

    def _begin(self, trial: int, execution: int, time: float) -> _Run:
        """Return the run of an execution. A new run begins with its values, which are all known by now."""
        known = self._trials[trial]
        if execution in known.runs:
            return known.runs[execution]
        group = f"{trial:04d}"
        run = known.runs[execution] = _Run(f"{group}-{execution}" if execution else group)
        start = SessionStartInfo(hparams=known.values, group_name=group, start_time_secs=time)
        # At a START, a running TensorBoard forgets the events of the last process.
        restart = Event(wall_time=time, session_log=SessionLog(status=SessionLog.START))
        self._put(run.name, _file_version(time), restart, _hparams_event("session_start_info", start, time))
        return run

    def _epoch(self, record: EpochDone, time: float) -> int:
        run = self._begin(record.trial, record.execution, time)
        if record.epoch <= run.epoch:
            return 0  # the epoch was trained again after a crash: the first record counts
        run.epoch = record.epoch
        value = record.logs.get(self._objective.name)
        if value is not None and math.isfinite(value) and self._objective.better(value, run.best):
            run.best = value
        best = {} if run.best is None else {_OBJECTIVE: run.best}
        return self._scalars(run, {**record.logs, **best}, record.epoch, time)

    def _scalars(self, run: _Run, logs: Mapping[str, float], step: int, time: float) -> int:
        # The HParams page cannot compare a trial whose last loss is NaN.
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in logs.items() if math.isfinite(value)]
        self._lists.add_metrics(logs)
        return self._put(run.name, Event(wall_time=time, step=step, summary=Summary(value=values)))

    def _trial_ended(self, record: TrialEnded, time: float) -> int:
        status = api.STATUS_FAILURE if record.state == "failed" else api.STATUS_SUCCESS
        end = _hparams_event("session_end_info", SessionEndInfo(status=status, end_time_secs=time), time)
        trial = self._trials[record.trial]
        if not trial.runs:
            self._begin(record.trial, 0, time)  # the trial failed while its model was built
        return sum(self._put(run.name, end) for run in trial.runs.values())

    # Files ----------------------------------------------------------------------------------------------------------

    def _put(self, run: str, *events: Any) -> int:
        pending = self._pending.setdefault(run, io.BytesIO())
        before = pending.tell()
        writer = RecordWriter(pending)
        for event in events:
            writer.write(event.SerializeToString())
        return pending.tell() - before

    def _write(self) -> None:
        if self._lists.changed:
            self._lists_number += 1
            self._put(f"space.{self._lists_number}", *self._lists.events())
        for run, events in self._pending.items():
            folder = self._folder / run
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / self._file).open("ab") as file:
                file.write(events.getvalue())
        self._pending.clear()
        if self._lists.changed:
            self._lists.changed = False
            shutil.rmtree(self._folder / f"space.{self._lists_number - 1}", ignore_errors=True)


class _HParamsLists:
    """The lists of the HParams page: every parameter that was asked for, and every metric of the logs."""

    def __init__(self) -> None:
        self.changed = False
        self._study: dict[str, Any] = {}
        self._time = 0.0
        self._domains: dict[str, Domain | None] = {}
        self._metrics: dict[str, str] = {}

    def begin(self, header: Header, time: float) -> None:
        self._time = time
        self._study = {"name": header.study, "user": header.user, "time_created_secs": time}
        self._metrics[_OBJECTIVE] = f"best {header.objective.name}"
        self.add_parameters(header.parameters)
        self.add_metrics(header.metrics)

    def add_parameters(self, parameters: Iterable[Parameter]) -> None:
        for parameter in parameters:
            known = self._domains.get(parameter.name, parameter.domain)
            union = _domain_union(known, parameter.domain)
            if parameter.name not in self._domains or union != known:
                self._domains[parameter.name] = union
                self.changed = True

    def add_metrics(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self._metrics:
                self._metrics[name] = name
                self.changed = True

    def events(self) -> tuple[Any, Any]:
        metrics = [
            api.MetricInfo(name=api.MetricName(tag=tag), display_name=shown) for tag, shown in self._metrics.items()
        ]
        parameters = [_parameter_info(name, domain) for name, domain in self._domains.items()]
        experiment = api.Experiment(hparam_infos=parameters, metric_infos=metrics, **self._study)
        return _file_version(self._time), _hparams_event("experiment", experiment, self._time)


# Messages -------------------------------------------------------------------------------------------------------------


def _file_version(time: float) -> Any:
    """Return the first event of every file."""
    return Event(wall_time=time, file_version="brain.Event:2")


def _hparams_event(kind: str, content: Any, time: float) -> Any:
    """Return an event of the HParams plugin: its content is in the metadata, its tensor is empty."""
    data = HParamsPluginData(version=0, **{kind: content}).SerializeToString()
    plugin = SummaryMetadata.PluginData(plugin_name="hparams", content=data)
    empty = TensorProto(dtype=DT_FLOAT, tensor_shape={"dim": [{"size": 0}]})
    value = Summary.Value(tag=f"_hparams_/{kind}", metadata=SummaryMetadata(plugin_data=plugin), tensor=empty)
    return Event(wall_time=time, summary=Summary(value=[value]))


def _data_type(domain: Domain) -> int:
    """Return TensorBoard's type of the domain's values: text if they have several types, or one is None."""
    if domain.is_range:
        return int(api.DATA_TYPE_FLOAT64)
    types = {type(value) for value in domain.values}
    if types == {bool}:
        return int(api.DATA_TYPE_BOOL)
    return int(api.DATA_TYPE_FLOAT64 if types <= {int, float} else api.DATA_TYPE_STRING)


def _protobuf_value(domain: Domain, value: Value) -> Any:
    """Return `value` as a message, with the type of its whole domain."""
    kind = _data_type(domain)
    if kind == api.DATA_TYPE_BOOL:
        return struct_pb2.Value(bool_value=value)
    if kind == api.DATA_TYPE_FLOAT64:
        return struct_pb2.Value(number_value=value)
    return struct_pb2.Value(string_value=str(value))


def _domain_union(one: Domain | None, other: Domain) -> Domain | None:
    """Return a domain with the values of both, or None if they are of different kinds."""
    if one is None or one == other:
        return one
    if _data_type(one) != _data_type(other) or one.is_range != other.is_range:
        return None
    if one.is_range:
        return replace(one, low=min(one.low, other.low), high=max(one.high, other.high))
    return replace(one, values=(*one.values, *(value for value in other.values if value not in one.values)))


def _parameter_info(name: str, domain: Domain | None) -> Any:
    if domain is None:
        return api.HParamInfo(name=name, type=api.DATA_TYPE_STRING)
    info = api.HParamInfo(name=name, type=_data_type(domain))
    if domain.is_range:
        info.domain_interval.min_value, info.domain_interval.max_value = domain.low, domain.high
    else:
        info.domain_discrete.values.extend(_protobuf_value(domain, value) for value in domain.values)
    return info
