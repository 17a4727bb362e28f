"""What a driver and its workers say to each other. Everything here crosses process boundaries by pickle, and nothing
here survives one: what must last is a record.

A worker answers with records where it states facts (`Built`, `EpochDone`, `Checkpointed`, `SegmentEnded`); the rest is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from search.space.domain import Parameter, Value
from search.space.file import SpaceRef
from search.study.records import Built, Checkpointed, EpochDone, SegmentEnded
from search.study.trial import Direction, Objective

# To a worker ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Probe:
    """Run the user's file, build once with default values, train one step, and say what there is.

    Large arrays are put into the folder `share`, for other workers to map.
    """

    space: SpaceRef
    share: str | None = None
    values: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Segment:
    """Train `trial` from the end of epoch `from_epoch` to the end of `to_epoch`.

    Attributes:
        values: the hyperparameters drawn so far, by name; what else the factory asks for is a `Question`.
        seed: the training seed of (trial, execution).
        folder: the trial's own folder; the only place a worker writes to.
        judged: wait for a `Verdict` after every epoch but the last.
        checkpoint_every: seconds between checkpoints within a segment.
        fuse: whether the fused runner may be used.
        run_eagerly: whether the model is run step by step, without a compiled graph, for debugging.
        data: where the probe has put the arrays, for all workers to share.
        hold: trials whose trainings this worker may be asked to go on with, if it has had them.
    """

    trial: int
    execution: int
    space: SpaceRef
    values: Mapping[str, Value]
    seed: int
    from_epoch: int
    to_epoch: int
    objective: Objective
    folder: str
    judged: bool = False
    checkpoint_every: float = 30.0
    fuse: bool = True
    run_eagerly: bool = False
    data: str | None = None
    cached_trials: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """The value of the parameter that was asked for; with `error`, there is none and the trial fails."""

    value: Value
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """May the trial train on after the epoch it reported?"""

    stop: bool


@dataclass(frozen=True, slots=True)
class Interrupt:
    """End the segment at the end of the running epoch, with a checkpoint."""


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Build `trial`'s model with the weights in the file `weights`.

    Then, as asked: evaluate it on the space's test data; write it to `model`, a `.keras` file.
    """

    trial: int
    space: SpaceRef
    values: Mapping[str, Value]
    weights: str
    folder: str
    test: bool = True
    model: str | None = None
    data: str | None = None


@dataclass(frozen=True, slots=True)
class Shutdown:
    """End the process."""


# From a worker --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Question:
    """The factory asks for `parameter`; the worker waits for an `Answer`."""

    trial: int
    parameter: Parameter


@dataclass(frozen=True, slots=True)
class Probed:
    """What a probe found.

    Attributes:
        digest: of the space file and the local modules it imports; of a factory's parameters.
        files: those files, as (path relative to the space file's folder, absolute path).
        parameters: those that a build with default values asks for, in order.
        options: the file's `search_options`.
        metrics: names in an epoch's logs, those of validation included.
        compiled_metrics: the metrics that the model was compiled with, without `loss` and `val_`.
        directions: the direction of each metric, where it is known.
        parameter_count: scalars in the model's weights.
        summary: the model's layers, as text.
        batch_size: of training.
        samples: of training and validation, where they can be counted; None for validation that there is not.
        batched: for which of the two `samples` are batches: the data come in batches of their own.
        tested: whether there are test data.
        own_fit: whether the space has a `fit` of its own.
        extra_logs: whether callbacks, or a `fit`, may put into the logs what the compiled metrics do not.
        shared: whether arrays were put into the folder that the probe was given.
    """

    digest: str
    files: tuple[tuple[str, str], ...]
    parameters: tuple[Parameter, ...]
    options: Mapping[str, Any]
    metrics: tuple[str, ...]
    compiled_metrics: tuple[str, ...]
    directions: Mapping[str, Direction]
    weight_count: int
    summary: str
    batch_size: int
    samples: tuple[int | None, int | None]
    runner: str
    versions: Mapping[str, str]
    batched: tuple[bool, bool] = (False, False)
    tested: bool = False
    own_fit: bool = False
    extra_logs: bool = False
    shared: bool = False


@dataclass(frozen=True, slots=True)
class ProbeFailed:
    """The space file cannot be used; `message` is one line for the user, `traceback` goes to the log."""

    message: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What a harvest gave: each part None where it was not asked for, or could not be had, as `error` says.

    `signature` and `requirements` are as in `records.Exported`.
    """

    trial: int
    logs: Mapping[str, float] | None = None
    signature: Mapping[str, Any] | None = None
    requirements: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the user should know once, whichever trial meets it first."""

    trial: int
    text: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A sign of life: the worker's process has not stopped."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The process of a slot died; said by the executor, in the place of the segment's `SegmentEnded`."""

    reason: str


Command = Probe | Evaluate | Segment | Answer | Verdict | Interrupt | Shutdown
Message = (
    Question
    | Built
    | EpochDone
    | Checkpointed
    | SegmentEnded
    | Probed
    | ProbeFailed
    | Evaluated
    | Notice
    | Heartbeat
    | Lost
)
