"""The journal's records: every fact of a study, one small frozen class each.

A study is the fold of its records (`search.study.study`), and so is a back end's state. MLflow is a projection of them.
`search.study.record_json` turns them into JSON objects and back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from search.space.domain import Parameter, Value
from search.study.trial import EndState, Objective, State

FORMAT = 8
"""The format of the lines that are written. Each line names its own format; see `search.study.formats`."""

IMPORTED = "imported"
"""The digest of the space of a study that another tool has searched. No code of its space is known."""

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
`no_space`: the disk is full, or the trial's storage is out of reach."""
ResultOutcome = Literal["reached", "stopped_by_callback", "stopped", "failed", "infeasible"]


@dataclass(frozen=True, slots=True)
class Header:
    """The first record: the facts that never change.

    Attributes:
        format: the journal's format when it was begun.
        uid, study, seed: the study's unique id, its name, and the seed that all its randomness follows from.
        objectives: the metrics that trials are compared by; one today.
        source: the space file's path, "" for a factory given from Python.
        digest: of the space file and the local modules that it imports.
        parameters: those that a build with default values asks for.
        versions: the libraries at the beginning, by name.
        metrics: the names in an epoch's logs.
        user: the name of the user who began it, or "".
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

    @property
    def is_imported(self) -> bool:
        """True if another tool has run the search, and `search import` has read its results."""
        return self.digest == IMPORTED


@dataclass(frozen=True, slots=True)
class SpaceChanged:
    """The space file was changed between two runs of the study, and the user accepted it.

    Attributes:
        digest, parameters: as in `Header`, of the changed file.
    """

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
        host, pid: the machine's name and the number of the process.
        options: all options of the process, by name: budget, workers, …; and the git commit of the code, as
            `source_commit` and `source_dirty`, if it has one.
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
        bracket, rung, judged: as in `Suggestion`.
        seed: the training seed of execution 0.
        executions: the number of executions that the trial shall have.
        initial_values: the values that the user wants tried, by name. The other values are drawn.
        parent: the trial with whose state after `from_epoch` a new trial begins, or None.
        values: the values of a trial with a parent, by name. Further ones are drawn.
        attributes: data that the back end needs back after a restart; of this suggestion only.
        extra: the trial is none of the back end's: the user added it when the back end would begin no more. The back
            end learns from it when it has ended.
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
    attributes: Mapping[str, Any] = field(default_factory=dict)
    extra: bool = False


@dataclass(frozen=True, slots=True)
class Computed:
    """A `search.study.trial.Computation` ended, which the back end had made beside the search.

    Attributes:
        number: the computation's number.
        result: the JSON object that it returned, {} if it failed.
        error: one line that says why it failed, or None.
    """

    number: int
    result: Mapping[str, Any]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ParameterSet:
    """A hyperparameter of `trial` has its value, for the trial's whole life.

    Attributes:
        parameter, value: the hyperparameter and the value.
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
        seconds: from the segment's start to the built model, less if the worker had it cached; 0 if unknown. Two builds
            are equal if all else is.
    """

    trial: int
    weight_count: int
    runner: str
    own_fit: bool = False
    black_box: bool = False
    seconds: float = field(default=0.0, compare=False)


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
    """The back end's decision on an epoch of `trial`; journaled if it is to `stop`, or has `attributes` to keep."""

    trial: int
    epoch: int
    stop: bool
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TimedOut:
    """`trial` has used up its time, says `reason`. It ends with its running epoch, or else its process is killed."""

    trial: int
    reason: str


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """The state of `trial` after `epoch` is on disk, and so are the weights of `best_epoch`.

    Attributes:
        stopped_by_callback: a callback of the user's ended the training there.
        bytes: the size of the checkpoint's file, 0 if it is unknown.
    """

    trial: int
    execution: int
    epoch: int
    best_epoch: int | None
    stopped_by_callback: bool = False
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class CheckpointDropped:
    """The checkpoints of all executions of `trial` were deleted to make room on the disk.

    If the trial goes on, it is trained again from its seed. Its epochs keep their first records.
    """

    trial: int


@dataclass(frozen=True, slots=True)
class SegmentEnded:
    """A segment of `trial` ended.

    Attributes:
        outcome, error: how it ended, and one line about what went wrong, or None.
        peak_device_memory: the most bytes of one GPU that it held, on JAX that its process ever held; None if unknown.
    """

    trial: int
    execution: int
    outcome: Outcome
    epoch: int
    error: str | None = None
    peak_device_memory: int | None = field(default=None, compare=False)


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
    """`trial` will never be trained again: its last state is `state`."""

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
class ConfigurationAdded:
    """The user added a configuration to the running search. A new trial has it as its initial configuration.

    Attributes:
        request: the id of the user's request; see `search.study.requests`. So it is in each of the records below.
        values: the values to be tried, by name. The other values are drawn.
    """

    request: str
    values: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class TrialStopRequested:
    """The user says that `trial` has given its best. It ends as if a callback of its own had ended its training."""

    request: str
    trial: int


@dataclass(frozen=True, slots=True)
class SearchPaused:
    """The user paused the search: running epochs end, no work begins, and no time counts."""

    request: str


@dataclass(frozen=True, slots=True)
class SearchContinued:
    """The user let a paused search go on."""

    request: str


@dataclass(frozen=True, slots=True)
class LimitsChanged:
    """The user changed limits of the running search.

    Attributes:
        options: the new values of the options that were changed, by name.
    """

    request: str
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SearchEnded:
    """A process ended the search in order.

    Attributes:
        reason: one line for people.
        complete: nothing is left to do.
        exit_code: of the command; see `search.cli`.

    Example:
        The answer of a stop rule::

            >>> from search.plugins import SearchEnded
            >>> SearchEnded("the target is reached", complete=True, exit_code=0).reason
            'the target is reached'
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
    | Computed
    | ParameterSet
    | SegmentStarted
    | Built
    | EpochDone
    | Judged
    | TimedOut
    | Checkpointed
    | CheckpointDropped
    | SegmentEnded
    | ResultTold
    | TrialEnded
    | Tested
    | Exported
    | ConfigurationAdded
    | TrialStopRequested
    | SearchPaused
    | SearchContinued
    | LimitsChanged
    | SearchEnded
)
