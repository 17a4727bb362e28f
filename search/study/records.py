"""The journal's records: every fact of a study, one small frozen class each.

A study is the fold of its records (`search.study.study`), a back end's state the fold of those it cares for, MLflow a
projection of them. `encode` and `decode` turn a record into a JSON object and back; a record's kind is the class's name
in snake_case. Unknown fields are an error: what an older format lacks, `search.study.formats` adds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from search.space.domain import Parameter, Value
from search.study.trial import Objective, State

FORMAT = 4
"""The format that is written. Every line of a journal names its own; see `search.study.formats`."""

Outcome = Literal["reached", "stopped_by_callback", "stopped", "interrupted", "failed", "lost", "no_memory", "no_space"]
"""How a segment ended: `reached` its last epoch; `stopped_by_callback`: a callback of the user's ended the training; `stopped` by
the back end; `interrupted` by the driver, to go on later; `failed` by an exception or a diverged loss; `lost` with its
process; `no_memory`: the device had too little of it; `no_space`: the disk is full."""
ResultOutcome = Literal["reached", "stopped_by_callback", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class Header:
    """The first record: what never changes over a study's life.

    `format` is the journal's format when it was begun, `versions` the libraries that were there then; `replaces` is the
    uid of a study that this one overwrote.
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
    """A back end takes over: only its own era is replayed to it, earlier ones it learns."""

    backend: str
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TrialImported:
    """A trial of another study that back ends learn from; it is never one of this study's own.

    Attributes:
        source, study: the other study's uid and name.
        number: the trial's there.
        parameters, params: what it was asked for, and its values by name.
        curve: the objective after each of its epochs, up to the first that has none.
        state: what the trial was doing when it was read.
        stopped_by_callback: a callback of the user's ended its training.
    """

    source: str
    study: str
    number: int
    parameters: tuple[Parameter, ...]
    params: Mapping[str, Value]
    curve: tuple[float, ...]
    state: State
    stopped_by_callback: bool = False


@dataclass(frozen=True, slots=True)
class SearchStarted:
    """A process began to run the study.

    `options` are all that it was told (budget, workers, …), `versions` the libraries that its workers found.
    """

    host: str
    pid: int
    options: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SegmentRequested:
    """The back end wants `trial` trained from `from_epoch` to `to_epoch`, in each of its executions.

    `seed` is the training seed of execution 0, of which those of the others are derived. `given` holds the values that
    the user wants tried, by name; what of the trial is not among them is drawn.
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


@dataclass(frozen=True, slots=True)
class ParameterSet:
    """A hyperparameter of `trial` was given its value, for the trial's life."""

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
    """The factory has asked its last question and the model stands: `parameters` counts its weights' scalars.

    `own_fit` says that a `fit` of the user's trains it, which may give the objective at a segment's end only.
    """

    trial: int
    weight_count: int
    runner: str
    own_fit: bool = False


@dataclass(frozen=True, slots=True)
class EpochDone:
    """Epoch `epoch` (1-based) of `trial` ended with `logs`, after `seconds` of training and validation.

    Where a `fit` of the user's cannot be looked into, one record stands for a segment, from the first epoch on:
    `trained` is how many epochs it took.
    """

    trial: int
    execution: int
    epoch: int
    logs: Mapping[str, float]
    seconds: float
    trained: int = 1


@dataclass(frozen=True, slots=True)
class Judged:
    """The back end's decision on an epoch of `trial`; journaled where it stops the trial or has something to keep."""

    trial: int
    epoch: int
    stop: bool
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TimedOut:
    """`trial` has had its time: it ends at its next epoch's end, and where there is none, with its process."""

    trial: int
    reason: str


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """The state of `trial` after `epoch` is safe on disk; `best_epoch`'s weights too.

    `stopped_by_callback` says that a callback of the user's has ended the training there.
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
    """What the back end was told of the suggestion it made for `trial`.

    `score` is the best objective so far, None for a failure. `stopped_by_callback` says that the trial has no more epochs to give:
    a callback of the user's ended its training.
    """

    trial: int
    epoch: int
    score: float | None
    outcome: ResultOutcome


@dataclass(frozen=True, slots=True)
class TrialEnded:
    """`trial` will never be trained again."""

    trial: int
    state: State


@dataclass(frozen=True, slots=True)
class Tested:
    """The best weights of `trial`, those of `epoch`, gave `logs` on the test data, which no back end ever sees."""

    trial: int
    execution: int
    epoch: int
    logs: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Exported:
    """The winner stands in the study's folder as a `.keras` file: `trial` with its weights of `epoch`.

    `signature` holds `inputs` and `outputs`, each a list of {"name": str | None, "dtype": str, "shape": [int]},
    -1 for what is open, as the batch's size; `requirements` are the pinned packages that serve the model.
    """

    trial: int
    execution: int
    epoch: int
    signature: Mapping[str, Any]
    requirements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SearchEnded:
    """A process ended the search, in order: `reason` is a line for people, `complete` that nothing is left to do."""

    reason: str
    complete: bool
    exit_code: int


Record = (
    Header
    | SpaceChanged
    | BackendChanged
    | TrialImported
    | SearchStarted
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
    """A parameter, of which each trial's lines tell again: one object for all."""
    known = _known.get(data["name"])
    if known is not None and known[0] == data and known[1] == _types(data):
        return known[2]
    made = Parameter.from_json(data)
    _known[made.name] = data, _types(data), made
    return made


def _types(data: Any) -> list[type[Any]]:
    """What tells parameters apart that are equal in Python: 1, 1.0 and True."""
    return [type(value) for value in (data["default"], *data["domain"].get("values", ()))]


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "parameter": _parameter,
    "parameters": _parameters,
    "objectives": lambda data: tuple(Objective(*item) for item in data),
    "metrics": tuple,
    "requirements": tuple,
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
    """The record as a JSON object, its kind under `kind`."""
    cls = type(record)
    data: dict[str, Any] = {"kind": _KIND[cls]}
    for name in _FIELDS[cls]:
        value = getattr(record, name)
        if isinstance(value, Parameter):
            value = value.to_json()
        elif isinstance(value, tuple):
            value = [_plain(item) for item in value]
        elif name == "logs":
            # JSON has no NaN and no infinity: they go as strings.
            value = {key: number if math.isfinite(number) else str(number) for key, number in value.items()}
        data[name] = value
    return data


def decode(data: dict[str, Any]) -> Record:
    """The record that `encode` made `data` of, which is used up.

    Raises:
        KeyError: for an unknown kind.
        TypeError: for an unknown field, or one that is missing.
    """
    cls = _BY_KIND[data.pop("kind")]
    for name, decoder in _DECODED[cls]:
        if name in data:
            data[name] = decoder(data[name])
    record: Record = cls(**data)
    return record
