"""The journal's records: every fact of a study, one small frozen class each.

A study is the fold of its records (`search.study.study`), and so is a back end's state. MLflow is a projection of them.
`encode` turns a record into a JSON object, and `decode` turns it back. A record's kind is the class's name in
snake_case. Unknown and missing fields are errors; `search.study.formats` adds the fields that an older format lacks.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from search.space.domain import Parameter, Value
from search.study.trial import EndState, Objective, State

FORMAT = 5
"""The format of the lines that are written. Each line names its own format; see `search.study.formats`."""

Outcome = Literal[
    "reached",
    "stopped_by_callback",
    "stopped",
    "interrupted",
    "failed",
    "raised",
    "fatal",
    "infeasible",
    "lost",
    "no_memory",
    "no_space",
]
"""Outcome of a segment: `reached` its last epoch; `stopped_by_callback`: a callback of the user's ended the training;
`stopped` by the back end; `interrupted` by the driver, to go on later; `failed` for good: its loss diverged, or the
code gave the trial up; `raised`: the code raised any other exception; `fatal`: the code ended the search;
`infeasible`: refused before the first epoch; `lost` with its process; `no_memory`: the device has too little memory;
`no_space`: the disk is full."""
ResultOutcome = Literal["reached", "stopped_by_callback", "stopped", "failed", "infeasible"]


@dataclass(frozen=True, slots=True)
class Header:
    """The first record: the facts that never change.

    Attributes:
        format: the journal's format when it was begun.
        objectives: the metrics that trials are compared by; one today.
        source: the space file's path, "" for a factory given from Python.
        digest: of the space file and the local modules that it imports.
        parameters: those that a build with default values asks for.
        versions: the libraries at the beginning, by name.
        metrics: the names in an epoch's logs.
        replaces: the uid of the study that this one overwrote, or "".
    """

    format: int
    uid: str
    study: str
    seed: int
    objectives: tuple[Objective, ...]
    source: str
    digest: str
    parameters: tuple[Parameter, ...]
    versions: Mapping[str, str]
    metrics: tuple[str, ...] = ()
    user: str = ""
    replaces: str = ""

    @property
    def objective(self) -> Objective:
        """The objective that trials are ranked by: the first."""
        return self.objectives[0]


@dataclass(frozen=True, slots=True)
class SpaceChanged:
    """The space file was changed between two runs of the study, and the user accepted it."""

    digest: str
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True, slots=True)
class BackendChanged:
    """A back end takes over, and a phase begins.

    A replay gives the back end the records of its own phase. From the trials of earlier phases it learns.
    """

    backend: str
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TrialImported:
    """A trial of another study that back ends learn from. It never becomes a trial of this study.

    Attributes:
        source, study: the other study's uid and name.
        number: the trial's number there.
        parameters, params: the hyperparameters that its factory asked for, and their values by name.
        curve: the objective after each of its epochs, up to the first epoch without one.
        state: the trial's state when it was read.
        stopped_by_callback: a callback of the user's ended its training.
        begins_after: the epoch before the first one of `curve`; not 0 if the trial continued another one.
    """

    source: str
    study: str
    number: int
    parameters: tuple[Parameter, ...]
    params: Mapping[str, Value]
    curve: tuple[float, ...]
    state: State
    stopped_by_callback: bool = False
    begins_after: int = 0


@dataclass(frozen=True, slots=True)
class SearchStarted:
    """A process began to run the study.

    Attributes:
        options: all options of the process, by name: budget, workers, …
        versions: the libraries that its workers found.
        internals_off: a line for each use of a library's internals that the process itself does without.
    """

    host: str
    pid: int
    options: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=dict)
    internals_off: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DataLoaded:
    """`load_data` returned these data for the first time.

    Attributes:
        values: the hyperparameters that `load_data` asked for, by name.
        fingerprint: by split and part, the shape, dtype and checksum; see `search.worker.data.fingerprint`.
    """

    values: Mapping[str, Value]
    fingerprint: Mapping[str, Mapping[str, str]]

    @property
    def key(self) -> str:
        """The values as a text: data for other values may be others."""
        return json.dumps(dict(self.values), sort_keys=True)


@dataclass(frozen=True, slots=True)
class SegmentRequested:
    """The back end wants `trial` trained from `from_epoch` to `to_epoch`, in each of its executions.

    Attributes:
        seed: the training seed of execution 0.
        initial_values: the values that the user wants tried, by name. The other values are drawn.
        parent: the trial with whose state after `from_epoch` a new trial begins, or None.
        values: the values of a trial with a parent, by name. Further ones are drawn.
    """

    trial: int
    from_epoch: int
    to_epoch: int
    bracket: int | None
    rung: int | None
    judged: bool
    seed: int
    executions: int = 1
    initial_values: Mapping[str, Value] = field(default_factory=dict)
    parent: int | None = None
    values: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ParameterSet:
    """A hyperparameter of `trial` has its value, for the trial's whole life.

    Attributes:
        attributes: data that the back end needs back after a restart.
    """

    trial: int
    parameter: Parameter
    value: Value
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SegmentStarted:
    """A segment of `trial` was handed to a slot: epochs after `from_epoch` up to `to_epoch`."""

    trial: int
    execution: int
    attempt: int
    slot: int
    from_epoch: int
    to_epoch: int


@dataclass(frozen=True, slots=True)
class Built:
    """The factory has asked its last question, and the model is built.

    Attributes:
        weight_count: scalars in the model's weights.
        runner: the runner that trains the model.
        own_fit: a `fit` of the user's trains the model. It may give the objective only at a segment's end.
        black_box: the search sees only the result of that `fit`. Its epochs are unknown: those of its records are the
            epochs that it was asked for.
    """

    trial: int
    weight_count: int
    runner: str
    own_fit: bool = False
    black_box: bool = False


@dataclass(frozen=True, slots=True)
class EpochDone:
    """Epoch `epoch` (1-based) of `trial` ended with `logs`, after `seconds` of training and validation.

    If a user's `fit` is a black box, one record stands for the whole segment, from the first epoch on.

    Attributes:
        trained: the epochs that the record stands for.
    """

    trial: int
    execution: int
    epoch: int
    logs: Mapping[str, float]
    seconds: float
    trained: int = 1


@dataclass(frozen=True, slots=True)
class Judged:
    """The back end's decision on an epoch of `trial`; journaled if it stops the trial or has attributes to keep."""

    trial: int
    epoch: int
    stop: bool
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TimedOut:
    """`trial` has used up its time. It ends with its running epoch; if that does not end, its process is killed."""

    trial: int
    reason: str


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """The state of `trial` after `epoch` is on disk, and so are the weights of `best_epoch`.

    Attributes:
        stopped_by_callback: a callback of the user's ended the training there.
    """

    trial: int
    execution: int
    epoch: int
    best_epoch: int | None
    stopped_by_callback: bool = False


@dataclass(frozen=True, slots=True)
class SegmentEnded:
    """A segment of `trial` ended."""

    trial: int
    execution: int
    outcome: Outcome
    epoch: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ResultTold:
    """The back end was told the result of its suggestion for `trial`.

    Attributes:
        score: the best objective so far; None for a failure and for an infeasible trial.
        outcome: as in `Outcome`; after `stopped_by_callback` the trial has no more epochs.
    """

    trial: int
    epoch: int
    score: float | None
    outcome: ResultOutcome


@dataclass(frozen=True, slots=True)
class TrialEnded:
    """`trial` will never be trained again."""

    trial: int
    state: EndState


@dataclass(frozen=True, slots=True)
class Tested:
    """The best weights of `trial`, those of `epoch`, gave `logs` on the test data. No back end ever sees these."""

    trial: int
    execution: int
    epoch: int
    logs: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Exported:
    """The winner is in the study's folder as a `.keras` file: `trial` with its weights of `epoch`.

    Attributes:
        signature: `inputs` and `outputs`, each a list of {"name": str | None, "dtype": str, "shape": [int]}. A size of
            -1 is dynamic, as the batch size is. A model that cannot be called on its inputs has no outputs.
        requirements: the pinned packages that serve the model.
        warning: the difference between the model as it was trained and as it was built again; "" if there is none.
    """

    trial: int
    execution: int
    epoch: int
    signature: Mapping[str, Any]
    requirements: tuple[str, ...]
    warning: str = ""


@dataclass(frozen=True, slots=True)
class SearchEnded:
    """A process ended the search in order.

    Attributes:
        reason: one line for people.
        complete: nothing is left to do.
        exit_code: of the command; see `search.cli`.
    """

    reason: str
    complete: bool
    exit_code: int


Record = (
    Header
    | SpaceChanged
    | BackendChanged
    | TrialImported
    | SearchStarted
    | DataLoaded
    | SegmentRequested
    | ParameterSet
    | SegmentStarted
    | Built
    | EpochDone
    | Judged
    | TimedOut
    | Checkpointed
    | SegmentEnded
    | ResultTold
    | TrialEnded
    | Tested
    | Exported
    | SearchEnded
)

_CLASSES: tuple[type[Any], ...] = Record.__args__
_KIND: dict[type[Any], str] = {cls: re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower() for cls in _CLASSES}
_BY_KIND: dict[str, type[Any]] = {kind: cls for cls, kind in _KIND.items()}
_FIELDS: dict[type[Any], tuple[str, ...]] = {cls: tuple(f.name for f in fields(cls)) for cls in _CLASSES}


def _parameters(data: Any) -> Any:
    return data if isinstance(data, int) else tuple(Parameter.from_json(item) for item in data)


def _logs(data: dict[str, Any]) -> dict[str, float]:
    for name, value in data.items():
        if type(value) is not float:
            data[name] = float(value)
    return data


_known: dict[str, tuple[Any, list[type[Any]], Parameter]] = {}


def _parameter(data: Any) -> Parameter:
    """Decode a parameter. Each trial's lines repeat it, so all of them share one object."""
    known = _known.get(data["name"])
    if known is not None and known[0] == data and known[1] == _types(data):
        return known[2]
    made = Parameter.from_json(data)
    _known[made.name] = data, _types(data), made
    return made


def _types(data: Any) -> list[type[Any]]:
    """Return the types of values that are equal in Python: 1, 1.0 and True."""
    return [type(value) for value in (data["default"], *data["domain"].get("values", ()))]


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "parameter": _parameter,
    "parameters": _parameters,
    "objectives": lambda data: tuple(Objective(*item) for item in data),
    "metrics": tuple,
    "requirements": tuple,
    "internals_off": tuple,
    "curve": tuple,
    "logs": _logs,
}
_DECODED: dict[type[Any], tuple[tuple[str, Callable[[Any], Any]], ...]] = {
    cls: tuple((name, _DECODERS[name]) for name in names if name in _DECODERS) for cls, names in _FIELDS.items()
}


def _plain(item: Any) -> Any:
    if isinstance(item, Parameter):
        return item.to_json()
    return (item.name, item.direction) if isinstance(item, Objective) else item


def encode(record: Record) -> dict[str, Any]:
    """Return the record as a JSON object, with its kind under `kind`."""
    cls = type(record)
    data: dict[str, Any] = {"kind": _KIND[cls]}
    for name in _FIELDS[cls]:
        value = getattr(record, name)
        if isinstance(value, Parameter):
            value = value.to_json()
        elif isinstance(value, tuple):
            value = [_plain(item) for item in value]
        elif name == "logs":
            # JSON has no NaN and no infinity: they become strings.
            value = {key: number if math.isfinite(number) else str(number) for key, number in value.items()}
        data[name] = value
    return data


def decode(data: dict[str, Any]) -> Record:
    """Return the record that `encode` turned into `data`. `data` is changed on the way.

    Raises:
        KeyError: the kind is unknown.
        TypeError: a field is unknown or missing.
    """
    cls = _BY_KIND[data.pop("kind")]
    for name, decoder in _DECODED[cls]:
        if name in data:
            data[name] = decoder(data[name])
    record: Record = cls(**data)
    return record
