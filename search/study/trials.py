"""A trial as journaled so far. Only `Study.apply` changes one."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

from search.space.domain import Parameter, Value
from search.study.records import Built, EpochDone, ResultOutcome, Tested
from search.study.transitions import ENDS, VISIBLE, Status, UnfitRecord
from search.study.trial import Parent, State

__all__ = ["Best", "End", "Execution", "Progress", "Resources", "Trial", "Values"]


@dataclass(slots=True)
class Execution:
    """One training of a trial's model, with a seed of its own. Most trials have one execution.

    Attributes:
        curve: one record for each epoch, or for each segment of a user's `fit` that shows no epochs. If an epoch was
            trained twice, the first record stays.
        objective, best_epoch: the best value so far and its 1-based epoch; None before there is one.
        checkpoint: the last epoch whose state is on disk, 0 for none.
        dropped: the checkpoint was deleted to make room on the disk, and there is no other one since.
        begins_after: the epoch of the parent's that the curve continues, 0 without a parent.
        saved_epoch: the epoch of the best weights on disk.
        exhausted: a callback of the user's ended the training, so there are no more epochs.
    """

    curve: list[EpochDone] = field(default_factory=list)
    objective: float | None = None
    best_epoch: int | None = None
    checkpoint: int = 0
    dropped: bool = False
    saved_epoch: int | None = None
    exhausted: bool = False
    begins_after: int = 0

    @classmethod
    def after(cls, epoch: int) -> Execution:
        """Return a new execution that continues a parent's after `epoch`, whose state is on disk."""
        return cls(checkpoint=epoch, begins_after=epoch)

    @property
    def is_kept(self) -> bool:
        """True if nothing is to be trained again for the sake of its best value."""
        return self.dropped or self.objective is None or self.checkpoint >= self.epochs

    @property
    def epochs(self) -> int:
        """Epochs trained so far, each counted once; those of a parent count, too."""
        return self.curve[-1].epoch if self.curve else self.begins_after

    @property
    def own_epochs(self) -> int:
        """`epochs` without those of a parent."""
        return self.epochs - self.begins_after

    def save(self, epoch: int) -> None:
        """Note that the state after `epoch` is on disk."""
        self.checkpoint, self.dropped = epoch, False

    def drop(self) -> None:
        """Note that the checkpoint was deleted. The state of a parent stays."""
        self.checkpoint, self.dropped = self.begins_after, True

    def saved_best(self, objective: str) -> tuple[int, float] | None:
        """Return the epoch and the `objective` of the best weights on disk; None if there are none."""
        record = None if self.saved_epoch is None else self.find(self.saved_epoch)
        return (record.epoch, record.logs[objective]) if record is not None and objective in record.logs else None

    def find(self, epoch: int) -> EpochDone | None:
        """Return the record of `epoch` (1-based), or None if there is none."""
        place = epoch - self.begins_after - 1
        if 0 <= place < len(self.curve) and self.curve[place].epoch == epoch:
            return self.curve[place]
        return next((record for record in self.curve if record.epoch == epoch), None)


@dataclass(slots=True)
class Values:
    """The hyperparameters of a trial.

    Attributes:
        used: the used values, by name.
        parameters: the hyperparameters that the factory asked for, in order.
        initial: the values that the user wants tried, by name.
    """

    used: dict[str, Value] = field(default_factory=dict)
    parameters: list[Parameter] = field(default_factory=list)
    initial: Mapping[str, Value] = field(default_factory=dict)


@dataclass(slots=True)
class Progress:
    """The training that a back end wants of a trial, and the training so far.

    Attributes:
        from_epoch, to_epoch, bracket, rung, judged: the last suggestion; see `Suggestion`.
        result: how that suggestion ended; None until the back end is told.
        planned: the number of executions that the trial shall have.
        executions: the executions begun so far.
        segments: segments started so far.
        trained: epochs actually trained, over all executions, those that were trained again included.
        stop_requested: the user says that the trial has given its best.
    """

    from_epoch: int = 0
    to_epoch: int = 0
    bracket: int | None = None
    rung: int | None = None
    judged: bool = False
    result: ResultOutcome | None = None
    planned: int = 1
    executions: list[Execution] = field(default_factory=lambda: [Execution()])
    segments: int = 0
    trained: int = 0
    stop_requested: bool = False


@dataclass(slots=True)
class Best:
    """The best of a trial so far.

    Attributes:
        objective: the mean of the executions' best values; None until each planned execution has one.
        execution: the number of the execution with the best objective, whose model stands for the trial.
        tested: the result of its best weights on the test data.
    """

    objective: float | None = None
    execution: int = 0
    tested: Tested | None = None


@dataclass(slots=True)
class Resources:
    """The place and the time that a trial takes, and what went wrong with its processes.

    Attributes:
        slot: the slot of the running segment, or None.
        started_at: the time at which that segment started.
        busy: seconds that the ended segments ran.
        lost: how often the process died, or ran out of memory, since the trial last made progress.
        alone: the trial ran out of memory, so nothing else runs beside it on its device.
        raised: how often an exception of the user's code ended a segment.
        peak_device_memory: the largest of its segments' peaks; see `SegmentEnded`.
    """

    slot: int | None = None
    started_at: float | None = None
    busy: float = 0.0
    lost: int = 0
    alone: bool = False
    raised: int = 0
    peak_device_memory: int | None = None


@dataclass(slots=True)
class End:
    """The end of a trial.

    Attributes:
        error: one line about what went wrong last; None if a later segment went well.
        at: the time of the end.
    """

    error: str | None = None
    at: float | None = None


@dataclass(slots=True, repr=False)
class Trial:
    """One assignment of hyperparameters and its learning curve, as journaled so far.

    Attributes:
        number, seed: its number, from 0, and the training seed of its first execution.
        phase: the number of the back end phase that asked for the trial.
        parent: the trial with whose state this one began, or None.
        extra: the trial is none of its back end's; see `SegmentRequested`.
        began_at: the time at which it was first asked for.
        status: see `search.study.transitions`.
        model: the record of the last time that the model was built; None before the first.
        values, progress, best, resources, end: the groups of what is known of the trial.

    Example:
        A trial as a back end of a test gets it; those of a study are in `load_study("space").trials`::

            >>> from search.plugins import Trial, records
            >>> trial = Trial(0, seed=1, phase=0)
            >>> trial.curve.append(records.EpochDone(0, 0, 1, {"val_loss": 0.7}, seconds=2.0))
            >>> trial.state, trial.epochs, trial.objective, trial.seconds_per_epoch
            ('paused', 1, None, 2.0)
    """

    number: int
    seed: int
    phase: int
    parent: Parent | None = None
    began_at: float | None = None
    status: Status = "requested"
    model: Built | None = None
    extra: bool = False
    values: Values = field(default_factory=Values)
    progress: Progress = field(default_factory=Progress)
    best: Best = field(default_factory=Best)
    resources: Resources = field(default_factory=Resources)
    end: End = field(default_factory=End)

    def __repr__(self) -> str:
        # The display stands above this module, so it is imported only when somebody looks.
        from search.display.lines import trial_line

        return f"<{trial_line(self)}>"

    def _repr_html_(self) -> str:
        from search.display.html import trial_html  # see `__repr__`

        return trial_html(self)

    # Its status -----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The state that users see; see `State`."""
        return VISIBLE[self.status]

    @property
    def ended(self) -> bool:
        """True if the trial will never be trained again."""
        return self.status in ENDS

    @property
    def open(self) -> bool:
        """True until the back end is told the result of its last suggestion."""
        return self.progress.result is None and self.status not in ENDS

    @property
    def failed(self) -> bool:
        """True if the training failed for good."""
        return self.status in ("failing", "failed") or self.progress.result == "failed"

    @property
    def infeasible(self) -> bool:
        """True if the trial was refused before its first epoch."""
        return self.status in ("refused", "infeasible") or self.progress.result == "infeasible"

    @property
    def worthless(self) -> bool:
        """True if the trial counts as worse than any other: it failed, or is infeasible."""
        return self.failed or self.infeasible

    @property
    def exhausted(self) -> bool:
        """True if there are no more epochs: the user's callbacks have ended every execution, or the user the trial."""
        executions = self.progress.executions
        if self.stops and self.unfinished is None:
            return True
        return len(executions) == self.progress.planned and all(execution.exhausted for execution in executions)

    @property
    def stops(self) -> bool:
        """True if no new epoch begins: the user wants the trial to stop, and it has a value to keep."""
        return self.progress.stop_requested and bool(self.scores)

    @property
    def error(self) -> str | None:
        """One line about what went wrong last; None if nothing did."""
        return self.end.error

    # Its model ------------------------------------------------------------------------------------------------------

    @property
    def weight_count(self) -> int | None:
        """Scalars in the model's weights; None before it is built."""
        return None if self.model is None else self.model.weight_count

    @property
    def runner(self) -> str | None:
        """The runner that trains the model; None before it is built."""
        return None if self.model is None else self.model.runner

    @property
    def own_fit(self) -> bool:
        """True if a `fit` of the user's trains the model."""
        return self.model is not None and self.model.own_fit

    @property
    def black_box(self) -> bool:
        """True if a user's `fit` shows only its result: `epochs` are those that it was asked for."""
        return self.model is not None and self.model.black_box

    # Its values -----------------------------------------------------------------------------------------------------

    @property
    def params(self) -> dict[str, Value]:
        """The used values, by name."""
        return self.values.used

    @property
    def parameters(self) -> list[Parameter]:
        """The hyperparameters that the factory asked for, in order."""
        return self.values.parameters

    @property
    def unused_initial_values(self) -> dict[str, Value]:
        """The initial values that the trial's code did not ask for, by name; empty while it may still ask."""
        asked = self.model is not None and (not self.own_fit or self.progress.trained > 0 or self.ended)
        return {name: value for name, value in self.values.initial.items() if asked and name not in self.params}

    # Its curve ------------------------------------------------------------------------------------------------------

    @property
    def executions(self) -> list[Execution]:
        """The executions begun so far."""
        return self.progress.executions

    @property
    def curve(self) -> list[EpochDone]:
        """The learning curve of the first execution."""
        return self.progress.executions[0].curve

    @property
    def epochs(self) -> int:
        """Epochs of the first execution so far, each counted once; those of a parent count, too."""
        return self.progress.executions[0].epochs

    @property
    def known_epochs(self) -> int | None:
        """`epochs`, or None if they are unknown."""
        return None if self.black_box else self.epochs

    @property
    def dropped(self) -> bool:
        """True if a checkpoint was deleted to make room: to go on, that execution is trained again from its seed."""
        return any(execution.dropped for execution in self.progress.executions)

    @property
    def unfinished(self) -> int | None:
        """The execution to train next to fulfil the last suggestion; None if the suggestion is fulfilled."""
        executions, stops = self.progress.executions, self.stops
        for number, execution in enumerate(executions):
            fulfilled = execution.checkpoint >= self.progress.to_epoch or (stops and execution.is_kept)
            if not execution.exhausted and not fulfilled:
                return number
        return len(executions) if len(executions) < self.progress.planned and not stops else None

    def last_epoch(self, execution: int) -> int:
        """Return the epoch up to which `execution` is to be trained: no new one if the trial stops."""
        return self.executions[execution].epochs if self.stops else self.progress.to_epoch

    def execution(self, number: int) -> Execution:
        """Return execution `number`. UnfitRecord if it has not begun."""
        executions = self.progress.executions
        if number >= len(executions):
            raise UnfitRecord(f"execution {number} of trial {self.number} has not begun")
        return executions[number]

    def begin_execution(self, number: int) -> Execution:
        """Return execution `number`, which begins here if it is the next one."""
        executions = self.progress.executions
        if number == len(executions):
            executions.append(Execution.after(self.parent.epoch(number) if self.parent else 0))
        return self.execution(number)

    # Its best -------------------------------------------------------------------------------------------------------

    @property
    def objective(self) -> float | None:
        """The mean of the executions' best values; None until each planned execution has one."""
        return self.best.objective

    @property
    def best_execution(self) -> Execution:
        """The execution with the best objective, whose model stands for the trial."""
        return self.progress.executions[self.best.execution]

    @property
    def best_epoch(self) -> int | None:
        """The 1-based epoch of the best value; None if there is none, or if the epochs are unknown."""
        return None if self.black_box else self.best_execution.best_epoch

    @property
    def scores(self) -> list[float]:
        """The best value of each execution that has one."""
        return [execution.objective for execution in self.executions if execution.objective is not None]

    @property
    def score(self) -> float | None:
        """The mean of `scores`; None if there are none."""
        scores = self.scores
        if len(scores) == 1:
            return scores[0]  # the usual case, twenty times as fast
        return statistics.fmean(scores) if scores else None

    @property
    def spread(self) -> float | None:
        """The standard deviation of `scores` (with n − 1); None for fewer than two."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

    # Its time -------------------------------------------------------------------------------------------------------

    def running(self, now: float) -> float:
        """Return the seconds that segments of the trial ran up to `now`, builds and waits included."""
        started = self.resources.started_at
        return self.resources.busy + (max(0.0, now - started) if started is not None else 0.0)

    @property
    def seconds(self) -> float:
        """Seconds of training and validation, each epoch counted once."""
        return sum(epoch.seconds for execution in self.executions for epoch in execution.curve)

    @property
    def seconds_per_epoch(self) -> float | None:
        """The median of the seconds of its epochs; None before the first, or if the epochs are unknown.

        Of an even number it is the lower one of the middle two, as a segment's first epoch includes compiling. A record
        that stands for several epochs counts with their mean, and one without a time does not count.
        """
        times = [epoch for execution in self.executions for epoch in execution.curve if epoch.seconds]
        seconds = [epoch.seconds / max(1, epoch.trained) for epoch in times]
        return statistics.median_low(seconds) if seconds and not self.black_box else None

    @property
    def peak_device_memory(self) -> int | None:
        """The most bytes that its training held of one GPU; None without a GPU, or if it is unknown.

        JAX counts from the start of a worker's process on: there it is a bound, which an earlier trial may have set.
        """
        return self.resources.peak_device_memory
