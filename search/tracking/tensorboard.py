"""TensorBoard's log of a study: a projection of its journal, for `tensorboard --logdir runs/STUDY/tensorboard`.

<trial>, <trial>-<execution>   a run: its values, the logs of each epoch at their epoch, `objective`, how it ended
space.<n>                      what the HParams page lists: parameters with their domains, and metrics

`objective` is the best so far, as the HParams page compares last values. A trial's executions are one group there,
which shows their means. TensorBoard reads what it lists once for a run: where a factory asks for something new,
`space.2` takes the place of `space.1`.

Messages and records are the `tensorboard` package's, without its parts that import TensorFlow, or need a thread for
each file. Here a file is open only while it is written to.
"""

from __future__ import annotations

import io
import math
import os
import shutil
import socket
import time as clock
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT
from tensorboard.plugins.hparams import api_pb2 as api
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.summary.writer.record_writer import RecordWriter

from search.space.domain import Domain, Parameter, Value
from search.study.journal import Entry
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

__all__ = ["TensorBoardLog"]

OBJECTIVE = "objective"
TEST = "test_"

_AT_ONCE = 1 << 22
"""Bytes that a replay keeps in memory before it writes them."""


@dataclass(slots=True)
class _Run:
    """One execution of a trial."""

    name: str
    epoch: int = 0
    best: float | None = None


@dataclass(slots=True)
class _Trial:
    """What is to be remembered of a trial; `execution` is the one that was started last."""

    values: dict[str, Any] = field(default_factory=dict)
    runs: dict[int, _Run] = field(default_factory=dict)
    execution: int = 0


class TensorBoardLog:
    """Writes the log anew, then follows the journal. Whatever goes wrong here is said once, and ends the log only.

    Args:
        folder: where; what is in it is deleted, so that each epoch is there once however the last process ended.
        entries: the journal so far.
        warn: is told, in one line, what the user should know.
    """

    def __init__(self, folder: Path, entries: Iterable[Entry], warn: Callable[[str], None]) -> None:
        self._folder = folder
        self._warn = warn
        self._file = f"events.out.tfevents.{clock.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._trials: dict[int, _Trial] = {}
        self._objective = Objective("", "min")
        self._space = _Space()
        self._spaces = 0
        self._pending: dict[str, io.BytesIO] = {}
        self._broken = False
        with self._harmless():
            if folder.exists():
                # A TensorBoard that is running has read the old one: the new one gets a number of its own.
                self._spaces = max((int(path.suffix[1:]) for path in folder.glob("space.*")), default=0)
                shutil.rmtree(folder)
            size = 0
            for entry in entries:
                size += self._take(entry.record, entry.time)
                if size > _AT_ONCE:
                    self._write()
                    size = 0
            self._write()

    def take(self, records: Iterable[Record], time: float) -> None:
        """Take in new records, journaled at `time`."""
        with self._harmless():
            for record in records:
                self._take(record, time)

    def flushed(self) -> None:
        """Write what follows from the records taken in: nothing is shown that the journal might yet lose."""
        with self._harmless():
            self._write()

    @contextmanager
    def _harmless(self) -> Iterator[None]:
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

    # What records mean ----------------------------------------------------------------------------------------------

    def _take(self, record: Record, time: float) -> int:
        """Note what follows from a record. Returns how many bytes."""
        if self._broken:
            return 0
        match record:
            case EpochDone():
                return self._epoch(record, time)
            case ParameterSet():
                self._space.add([record.parameter])
                value = _value(record.parameter.domain, record.value)
                self._trials[record.trial].values[record.parameter.name] = value
            case SegmentRequested():
                self._trials.setdefault(record.trial, _Trial())
            case SegmentStarted():
                self._trials[record.trial].execution = record.execution
            case Built(own_fit=False):
                # A `fit` of the user's may ask for more: there the first epoch says that it has asked.
                self._begin(record.trial, self._trials[record.trial].execution, time)
            case TrialEnded():
                return self._end(record, time)
            case Tested():
                logs = {f"{TEST}{name}": value for name, value in record.logs.items()}
                run = self._begin(record.trial, record.execution, time)
                return self._scalars(run, logs, record.epoch, time)
            case Header():
                self._objective = record.objective
                self._space.begin(record, time)
            case SpaceChanged():
                self._space.add(record.parameters)
        return 0

    def _begin(self, trial: int, execution: int, time: float) -> _Run:
        """The run of an execution, begun here if it is new: all its values are known by now."""
        known = self._trials[trial]
        if execution in known.runs:
            return known.runs[execution]
        group = f"{trial:04d}"
        run = known.runs[execution] = _Run(f"{group}-{execution}" if execution else group)
        start = SessionStartInfo(hparams=known.values, group_name=group, start_time_secs=time)
        # A TensorBoard that is running forgets at a START what it has read of the last process.
        anew = Event(wall_time=time, session_log=SessionLog(status=SessionLog.START))
        self._put(run.name, _version(time), anew, _hparams("session_start_info", start, time))
        return run

    def _epoch(self, record: EpochDone, time: float) -> int:
        run = self._begin(record.trial, record.execution, time)
        if record.epoch <= run.epoch:
            return 0  # trained again after a crash: the first record stands
        run.epoch = record.epoch
        value = record.logs.get(self._objective.name)
        if value is not None and math.isfinite(value) and self._objective.better(value, run.best):
            run.best = value
        best = {} if run.best is None else {OBJECTIVE: run.best}
        return self._scalars(run, {**record.logs, **best}, record.epoch, time)

    def _scalars(self, run: _Run, logs: Mapping[str, float], step: int, time: float) -> int:
        # A trial whose last loss is NaN could not be compared.
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in logs.items() if math.isfinite(value)]
        self._space.measure(logs)
        return self._put(run.name, Event(wall_time=time, step=step, summary=Summary(value=values)))

    def _end(self, record: TrialEnded, time: float) -> int:
        status = api.STATUS_FAILURE if record.state == "failed" else api.STATUS_SUCCESS
        end = _hparams("session_end_info", SessionEndInfo(status=status, end_time_secs=time), time)
        trial = self._trials[record.trial]
        if not trial.runs:
            self._begin(record.trial, 0, time)  # it failed while it was built
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
        if self._space.changed:
            self._spaces += 1
            self._put(f"space.{self._spaces}", *self._space.events())
        for run, events in self._pending.items():
            folder = self._folder / run
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / self._file).open("ab") as file:
                file.write(events.getvalue())
        self._pending.clear()
        if self._space.changed:
            self._space.changed = False
            shutil.rmtree(self._folder / f"space.{self._spaces - 1}", ignore_errors=True)


class _Space:
    """What the HParams page lists: every parameter that was asked for, every metric that was there."""

    def __init__(self) -> None:
        self.changed = False
        self._study: dict[str, Any] = {}
        self._time = 0.0
        self._domains: dict[str, Domain | None] = {}
        self._metrics: dict[str, str] = {}

    def begin(self, header: Header, time: float) -> None:
        self._time = time
        self._study = {"name": header.study, "user": header.user, "time_created_secs": time}
        self._metrics[OBJECTIVE] = f"best {header.objective.name}"
        self.add(header.parameters)
        self.measure(header.metrics)

    def add(self, parameters: Iterable[Parameter]) -> None:
        for parameter in parameters:
            known = self._domains.get(parameter.name, parameter.domain)
            union = _union(known, parameter.domain)
            if parameter.name not in self._domains or union != known:
                self._domains[parameter.name] = union
                self.changed = True

    def measure(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self._metrics:
                self._metrics[name] = name
                self.changed = True

    def events(self) -> tuple[Any, Any]:
        metrics = [
            api.MetricInfo(name=api.MetricName(tag=tag), display_name=shown) for tag, shown in self._metrics.items()
        ]
        parameters = [_info(name, domain) for name, domain in self._domains.items()]
        experiment = api.Experiment(hparam_infos=parameters, metric_infos=metrics, **self._study)
        return _version(self._time), _hparams("experiment", experiment, self._time)


# Messages -------------------------------------------------------------------------------------------------------------


def _version(time: float) -> Any:
    """What every file begins with."""
    return Event(wall_time=time, file_version="brain.Event:2")


def _hparams(kind: str, content: Any, time: float) -> Any:
    """An event of the HParams plugin, whose content is in the metadata, beside a tensor of nothing."""
    data = HParamsPluginData(version=0, **{kind: content}).SerializeToString()
    plugin = SummaryMetadata.PluginData(plugin_name="hparams", content=data)
    nothing = TensorProto(dtype=DT_FLOAT, tensor_shape={"dim": [{"size": 0}]})
    value = Summary.Value(tag=f"_hparams_/{kind}", metadata=SummaryMetadata(plugin_data=plugin), tensor=nothing)
    return Event(wall_time=time, summary=Summary(value=[value]))


def _type(domain: Domain) -> int:
    """What TensorBoard may take the values for; text where they are of several types, or one is None."""
    if domain.is_range:
        return int(api.DATA_TYPE_FLOAT64)
    types = {type(value) for value in domain.values}
    if types == {bool}:
        return int(api.DATA_TYPE_BOOL)
    return int(api.DATA_TYPE_FLOAT64 if types <= {int, float} else api.DATA_TYPE_STRING)


def _value(domain: Domain, value: Value) -> Any:
    """A value as a protobuf has it, of the type that its whole domain has."""
    kind = _type(domain)
    if kind == api.DATA_TYPE_BOOL:
        return {"bool_value": value}
    return {"number_value": value} if kind == api.DATA_TYPE_FLOAT64 else {"string_value": str(value)}


def _union(one: Domain | None, other: Domain) -> Domain | None:
    """The values of two domains that a name has; None where they are of several kinds."""
    if one is None or one == other:
        return one
    if _type(one) != _type(other) or one.is_range != other.is_range:
        return None
    if one.is_range:
        return replace(one, low=min(one.low, other.low), high=max(one.high, other.high))
    return replace(one, values=(*one.values, *(value for value in other.values if value not in one.values)))


def _info(name: str, domain: Domain | None) -> Any:
    if domain is None:
        return api.HParamInfo(name=name, type=api.DATA_TYPE_STRING)
    info = api.HParamInfo(name=name, type=_type(domain))
    if domain.is_range:
        info.domain_interval.min_value, info.domain_interval.max_value = domain.low, domain.high
    else:
        for value in domain.values:
            info.domain_discrete.values.add(**_value(domain, value))
    return info
