"""The messages between a driver and its workers. They cross process boundaries as pickles and are never stored.

A worker reports facts as records, which the journal keeps: `DataLoaded`, `Built`, `EpochDone`, `Checkpointed` and
`SegmentEnded`. All other messages are defined here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from search.errors import Infeasible
from search.space.domain import Parameter, Value
from search.space.file import SpaceRef
from search.study.records import Built, Checkpointed, DataLoaded, EpochDone, SegmentEnded
from search.study.trial import Direction, Objective

DRIVER = "driver"
"""The storage of a worker that reaches the study's folder only through the driver."""


class StoppedAtOnce(KeyboardInterrupt):
    """The second Ctrl-C. Within a trial, any other KeyboardInterrupt is raised by the user's code."""


# To a worker ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Probe:
    """The command to run a space file, build a model with default values, train one step, and report the findings.

    Attributes:
        space: the space file, or a factory with its data.
        share: the folder to write large arrays to, for other workers to map; None to share nothing.
        values: values to use in place of defaults, by name.
        more: the number of further configurations to build, with random values.
        shapes: find the hyperparameters that change shapes.
        limit: seconds after which the probe is ended, or None.
    """

    space: SpaceRef
    share: str | None = None
    values: Mapping[str, Value] = field(default_factory=dict)
    more: int = 0
    shapes: bool = False
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Inherited:
    """The state that a trial's training begins with: that of its parent `trial` after `epoch`.

    Attributes:
        execution: of the parent; names the file in the trial's own folder.
        seed: the training seed of that execution.
    """

    trial: int
    epoch: int
    execution: int
    seed: int


@dataclass(frozen=True, slots=True)
class Segment:
    """The command to train `trial` from the end of epoch `from_epoch` to the end of `to_epoch`.

    Attributes:
        space: the user's code.
        objective: the metric whose best epoch's weights are kept.
        id: the number of this piece of work, from 1, unique in the driver's process.
        values: the hyperparameters drawn so far, by name. The worker sends a `Question` for each further one.
        seed: the training seed of (trial, execution).
        folder: the trial's own folder, the only place a worker writes to.
        judged: the worker waits for a `Verdict` after every epoch but the last.
        checkpoint_every: seconds between checkpoints within a segment.
        fuse: the fused runner may be used.
        graph_sharing: trials may share graphs, by private names of Keras and of its frameworks.
        run_eagerly: the model runs step by step, without a compiled graph, for debugging.
        max_weights: the most weights that a model may have, or None.
        data: the folder in which the probe has put the arrays that all workers share, or None.
        cached_trials: trials whose models stay cached in this worker, as it may be asked to train them further.
        inherited: the state that the trial's training begins with, None for a new one.
        best: the epoch and the objective of the best weights on disk; None if there are none.
        storage: the place of the trial's files: None for `folder` itself, the URL of a folder, or `DRIVER`. With a URL
            and with `DRIVER`, the worker has a folder of its own on its machine; see `search.storage.trial_files`.
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
    graph_sharing: bool = True
    run_eagerly: bool = False
    max_weights: int | None = None
    data: str | None = None
    cached_trials: tuple[int, ...] = ()
    inherited: Inherited | None = None
    best: tuple[int, float] | None = None
    id: int = 0
    storage: str | None = None

    @property
    def begins_after(self) -> int:
        """The epoch before the first one of the trial's own."""
        return 0 if self.inherited is None else self.inherited.epoch

    def check_size(self, weight_count: int) -> None:
        """Refuse a model of `weight_count` weights, not trained yet, that is too large.

        Raises:
            Infeasible: it has more than `max_weights`.
        """
        most = self.max_weights
        if most is not None and weight_count > most and self.from_epoch == 0:
            raise Infeasible(f"the model has {weight_count:,} weights, more than the {most:,} of --max-weights")


@dataclass(frozen=True, slots=True)
class Answer:
    """The reply to a `Question`: the parameter's `value`. If `error` is set, there is none, and the trial fails."""

    value: Value
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision on the epoch that a trial has reported: with `stop`, it was the trial's last."""

    stop: bool


@dataclass(frozen=True, slots=True)
class Interrupt:
    """The command to end the segment at the end of the running epoch, with a checkpoint."""


@dataclass(frozen=True, slots=True)
class Evaluate:
    """The command to build the model of `trial` with the weights in the file `weights`, for the final evaluation.

    Attributes:
        space: the user's code.
        values: the hyperparameters, by name.
        id: as in `Segment`.
        seed: the training seed of the weights' execution, under which the model is built.
        folder: the trial's own folder.
        objective: the metric that the model built again is checked by.
        reference: the file for a batch with its outputs, if the check cannot be made.
        test: evaluate the model on the space's test data.
        model: the `.keras` file to write the model to, or None.
        data, storage: as in `Segment`.
    """

    trial: int
    space: SpaceRef
    values: Mapping[str, Value]
    weights: str
    seed: int
    folder: str
    objective: Objective
    reference: str
    test: bool = True
    model: str | None = None
    data: str | None = None
    id: int = 0
    storage: str | None = None


@dataclass(frozen=True, slots=True)
class FileReply:
    """The driver's reply to a worker's request for files.

    Attributes:
        versions: a version of each file, for `ListFiles`.
        data: the bytes, for `ReadPart`; empty at the file's end.
        error: the number and the text of the system's error, or None.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    data: bytes = b""
    error: tuple[int, str] | None = None


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The command to end the process."""


# From a worker --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Question:
    """The request for a value of `parameter`, made by the factory. The worker waits for an `Answer`."""

    trial: int
    parameter: Parameter


@dataclass(frozen=True, slots=True)
class Probed:
    """The findings of a probe.

    Attributes:
        digest: the digest of the space file and the local modules it imports; for a factory, of its parameters.
        files: those files, as (path relative to the space file's folder, absolute path).
        parameters: the parameters that a build with default values asks for, in order. If the user's code rejects
            those values, of the first build that it does not reject.
        options: the file's `search_options`.
        metrics: the names in an epoch's logs, those of validation included.
        compiled_metrics: the metrics that the model was compiled with, without `loss` and `val_`.
        directions: the direction of each metric whose direction is known, by its name without `val_`.
        weight_count: scalars in the model's weights.
        summary: the model's layers, as text.
        batch_size: samples in a training batch.
        samples: the numbers of training and validation samples; None if unknown, or if there is no validation.
        validated: the model is validated after an epoch.
        runner: the name of the runner that would train the model.
        versions: the versions of Python, of libraries and of Keras's backend, by name.
        batched: for each of the two `samples`, True if it counts batches, as the data come in batches.
        tested: there are test data.
        own_fit: the space has its own `fit`.
        extra_logs: callbacks or the space's `fit` may add to the logs of the compiled metrics.
        data: the data that `load_data` returned.
        shared: arrays were written to the probe's `share` folder.
        vectors: the number of values of each metric that has not exactly one, such as one for each class.
        inactive: the parameters that the build declared under conditions that do not hold.
        checkpoint_bytes: the size of a checkpoint at least, 0 if it is unknown.
        gpus: the number of GPUs that Keras's framework sees in the worker; None if it was not asked.
        shape_parameters: the hyperparameters with many values for each of which JAX compiles anew, if the probe was to
            find them.
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
    validated: bool = False
    batched: tuple[bool, bool] = (False, False)
    tested: bool = False
    own_fit: bool = False
    extra_logs: bool = False
    data: DataLoaded | None = None
    shared: bool = False
    vectors: Mapping[str, int] = field(default_factory=dict)
    inactive: tuple[Parameter, ...] = ()
    checkpoint_bytes: int = 0
    gpus: int | None = None
    shape_parameters: tuple[Parameter, ...] = ()


@dataclass(frozen=True, slots=True)
class ProbeFailed:
    """The reason why a space cannot be used: `message` is one line for the user, `traceback` goes to the log."""

    message: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The result of an `Evaluate`. A part is None if it was not asked for, or if it failed with `error`.

    Attributes:
        logs: the metrics on the test data.
        signature, requirements, warning: as in `records.Exported`.
        error: one line for the user, or None.
    """

    trial: int
    logs: Mapping[str, float] | None = None
    signature: Mapping[str, Any] | None = None
    requirements: tuple[str, ...] = ()
    warning: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """A `text` that the user should see once, whichever trial reports it first."""

    trial: int
    text: str


@dataclass(frozen=True, slots=True)
class Stage:
    """The stage that a probe has reached, as a `text` for the person who waits for the probe: "loading the data"."""

    text: str


@dataclass(frozen=True, slots=True)
class ListFiles:
    """The request for a version of each file of the worker's trial. The worker waits for a `FileReply`."""


@dataclass(frozen=True, slots=True)
class ReadPart:
    """The request for `size` bytes of a file of the worker's trial, from `offset` on.

    Attributes:
        name: the file's path, relative to the trial's folder.
    """

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class WritePart:
    """The bytes of a file of the worker's trial from `offset` on. With the `last` part, the file is there.

    Attributes:
        name: as in `ReadPart`.
        data: the bytes.
    """

    name: str
    offset: int
    data: bytes
    last: bool


@dataclass(frozen=True, slots=True)
class DeleteFile:
    """The request to delete a file of the worker's trial; `name` is as in `ReadPart`."""

    name: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A sign of life from the worker's process."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The death of a slot's process. The executor sends this in place of the segment's `SegmentEnded`.

    Attributes:
        reason: one line for people.
        fault: the trial may be to blame. If not, as when a machine is taken away, this counts as no retry.
    """

    reason: str
    fault: bool = True


# From an executor -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SlotOpened:
    """A slot takes work from now on. A number that is new to the search is one more slot.

    New slots may open in any order: the GPUs of a new node are not ready at the same time.

    Attributes:
        label: the slot's name for users, such as "node-3 GPU 0".
        sharing: the other slots that use the same device's memory.
    """

    label: str
    sharing: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SlotClosed:
    """A slot takes no new work until it opens again. Work that runs there goes on to its own last message.

    Attributes:
        reason: one line for people.
    """

    reason: str


FileRequest = ListFiles | ReadPart | WritePart | DeleteFile
WorkCommand = Answer | Verdict | Interrupt | FileReply
"""A command for a worker at work."""

Command = Probe | Evaluate | Segment | WorkCommand | Shutdown
Message = (
    Question
    | DataLoaded
    | Built
    | EpochDone
    | Checkpointed
    | SegmentEnded
    | Probed
    | ProbeFailed
    | Evaluated
    | Notice
    | Stage
    | ListFiles
    | ReadPart
    | WritePart
    | DeleteFile
    | Heartbeat
    | Lost
    | SlotOpened
    | SlotClosed
)
