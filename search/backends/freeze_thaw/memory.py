"""Memory: what the back end knows of its trials. A fold of the journal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.backends.base import values_in_space
from search.backends.freeze_thaw.coordinates import Coordinates
from search.backends.freeze_thaw.observations import Curve, powers_of_two
from search.backends.freeze_thaw.structure import MAX_ROWS, Structure
from search.space.domain import Parameter, Value
from search.study.records import (
    Built,
    CheckpointDropped,
    EpochDone,
    ParameterSet,
    Record,
    ResultTold,
    SegmentRequested,
    SegmentStarted,
    TrialEnded,
)
from search.study.trial import Objective
from search.study.trials import Trial

__all__ = ["Known", "Memory"]

Array = NDArray[np.float64]


@dataclass(slots=True)
class Known:
    """One trial, as far as the back end knows it.

    Attributes:
        number: in the search; None for a trial of an earlier phase or another study, which cannot be continued.
        values: by parameter key, those that the factory has asked for.
        planned: the values that were planned for it, until its model is built.
        curve: its values.
        to_epoch: the epoch that it was last sent to.
        open: it has a suggestion that is not fulfilled.
        ended: it will never be continued.
        fulfilled: the last epoch of its fulfilled suggestions.
        saved: its checkpoint is on the disk.
        built, own_fit: its model is built; a `fit` of the user's trains it.
        used_at: the number of segments that had begun when it was trained last.
        weight_count: scalars in the model's weights.
        build_seconds: the duration of its model's build; 0 if unknown.
        points: that the process might be conditioned on, as of its last result.
    """

    number: int | None
    values: dict[str, Value] = field(default_factory=dict)
    planned: Mapping[str, Value] = field(default_factory=dict)
    curve: Curve = field(default_factory=Curve)
    to_epoch: int = 0
    fulfilled: int = 0
    open: bool = False
    ended: bool = False
    saved: bool = True
    built: bool = False
    own_fit: bool = False
    used_at: int = 0
    weight_count: int = 0
    build_seconds: float = 0.0
    points: int = 0
    _seconds: list[float] = field(default_factory=list)
    _row: Array | None = None
    _version: int = -1

    def row(self, coordinates: Coordinates) -> Array:
        """Return its row of unit coordinates."""
        if self._row is None or self._version != coordinates.version:
            values = self.values if self.built else {**self.planned, **self.values}
            self._row, self._version = coordinates.row(values), coordinates.version
        return self._row

    def set_value(self, parameter: Parameter, value: Value) -> None:
        """Take in a value, in place of a planned one."""
        self.values[parameter.key] = value
        self._row = None

    def set_built(self) -> None:
        """Take in that its model is built: it has no further values."""
        self.built, self._row = True, None

    @property
    def timed(self) -> bool:
        """True if the seconds of an epoch are known: the first one may be longer, as a graph is traced in it."""
        return len(self._seconds) > 1 and self.epoch_seconds > 0

    @property
    def epoch_seconds(self) -> float:
        """The least seconds of its last epochs: other work of the machine only makes one longer."""
        return min(self._seconds)

    def note_seconds(self, seconds: float) -> None:
        """Take in the seconds of an epoch."""
        self._seconds = [*self._seconds[-8:], seconds]


class Memory:
    """All trials that the back end knows, in the order of their beginning.

    Args:
        objective: the metric to compare.
        parameters: those that the probe saw.
        max_epochs: the most epochs that one trial gets. What a learned trial did later is not looked at.

    Attributes:
        coordinates, structure: of the space, as far as it is known.
        trials: all trials, learned ones included.
        requests: suggestions so far.
        segments: segments begun so far.
        whole: trials cannot be paused: each is trained to its end at once.
        finished: some trial of this phase was trained to its end.
    """

    def __init__(self, objective: Objective, parameters: Sequence[Parameter], max_epochs: int) -> None:
        self._max_epochs = max_epochs
        self._objective = objective
        self._parameters = parameters
        self.coordinates = Coordinates(parameters)
        self.structure = Structure(self.coordinates)
        self.trials: list[Known] = []
        self.requests = 0
        self.whole = False
        self.finished = False
        self._place: dict[int, int] = {}
        self.segments = 0
        self._points = 0
        self._informative = 0

    # Reading --------------------------------------------------------------------------------------------------------

    def find(self, number: int) -> Known:
        """Return the trial with `number`."""
        return self.trials[self._place[number]]

    def place(self, number: int) -> int:
        """Return the place of the trial with `number` in `trials`."""
        return self._place[number]

    def __contains__(self, number: object) -> bool:
        return number in self._place

    @property
    def curves(self) -> list[Curve]:
        """The curves of all trials."""
        return [trial.curve for trial in self.trials]

    @property
    def begun(self) -> int:
        """Trials of this phase."""
        return len(self._place)

    @property
    def points(self) -> int:
        """Points that the process might be conditioned on."""
        return self._points

    @property
    def informative(self) -> int:
        """Trials with a value, those of earlier phases and other studies included."""
        return self._informative

    def table(self, places: Sequence[int]) -> Array:
        """Return the table of the trials at `places`."""
        rows = [self.trials[place].row(self.coordinates) for place in places]
        return np.array(rows) if rows else np.zeros((0, len(self.coordinates.parameters)))

    def tried(self) -> set[bytes]:
        """Return the rows of all trials, as bytes. Candidates at the border of a range may repeat one."""
        return {trial.row(self.coordinates).tobytes() for trial in self.trials}

    def best_places(self, count: int) -> list[int]:
        """Return the places of the `count` trials with the best values, best first."""
        found = [place for place, trial in enumerate(self.trials) if math.isfinite(trial.curve.best)]
        return self._by_best(found)[:count]

    def paused(self, count: int) -> list[int]:
        """Return the places of the `count` best trials among those that may be continued, best first."""
        found = [place for place, trial in enumerate(self.trials) if not trial.open and not trial.ended]
        return self._by_best(found)[:count]

    def running(self) -> list[int]:
        """Return the places of the trials that have a suggestion which is not fulfilled."""
        return [place for place, trial in enumerate(self.trials) if trial.open]

    def _by_best(self, places: list[int]) -> list[int]:
        return sorted(places, key=lambda place: (-self.trials[place].curve.best, place))

    # Facts ----------------------------------------------------------------------------------------------------------

    def apply(self, record: Record) -> None:
        """Take in a journal record."""
        if isinstance(record, SegmentRequested):
            self._requested(record)
        elif getattr(record, "trial", None) not in self._place:
            return
        match record:
            case ParameterSet():
                self.coordinates.note(record.parameter)
                self.find(record.trial).set_value(record.parameter, record.value)
            case SegmentStarted():
                self.segments += 1
                self.find(record.trial).used_at = self.segments
            case Built():
                self._built(self.find(record.trial), record)
            case EpochDone():
                self._epoch(self.find(record.trial), record)
            case CheckpointDropped():
                self.find(record.trial).saved = False
            case ResultTold():
                self._told(self.find(record.trial), record)
            case TrialEnded():
                self.find(record.trial).ended = True

    def learn(self, trials: Sequence[Trial]) -> None:
        """Take in trials of earlier phases and of other studies. One that continued another one has no early epochs."""
        for trial in trials:
            values = values_in_space(trial, self._parameters)
            if values is None:
                continue
            known = Known(None, ended=True, built=True)
            for parameter, value in values:
                self.coordinates.note(parameter)
                known.values[parameter.key] = value
            for number, execution in enumerate(trial.executions):
                for epoch in execution.curve:
                    if epoch.epoch <= self._max_epochs:
                        known.curve.note(number, epoch.epoch, self._value(epoch.logs))
            known.curve.failed, known.curve.exhausted = trial.worthless, trial.exhausted
            self.trials.append(known)
            self._learn_structure(known)
            self._count(known)

    def _requested(self, record: SegmentRequested) -> None:
        if record.trial not in self._place:
            self._place[record.trial] = len(self.trials)
            self.trials.append(Known(record.trial, planned=record.attributes.get("values", {})))
        trial = self.find(record.trial)
        trial.to_epoch, trial.open = record.to_epoch, True
        self.requests += 1

    def _built(self, trial: Known, record: Built) -> None:
        trial.weight_count, trial.own_fit = record.weight_count, record.own_fit
        trial.build_seconds = max(trial.build_seconds, record.seconds)
        self.whole |= record.black_box
        if not trial.built:
            trial.set_built()
            self._learn_structure(trial)

    def _learn_structure(self, trial: Known) -> None:
        self.structure.learn(self._built_rows, trial.row(self.coordinates))

    def _built_rows(self) -> list[Array]:
        """Return the rows of the trials that are built: the first and the last ones, if there are many."""
        built = [known for known in self.trials if known.built]
        some = built if len(built) <= MAX_ROWS else [*built[: MAX_ROWS // 2], *built[-MAX_ROWS // 2 :]]
        return [known.row(self.coordinates) for known in some]

    def _epoch(self, trial: Known, record: EpochDone) -> None:
        # A `fit` of the user's that begins anew in each segment trains fulfilled epochs again.
        self.whole |= trial.own_fit and trial.saved and record.epoch <= trial.fulfilled
        if trial.curve.note(record.execution, record.epoch, self._value(record.logs)):
            trial.note_seconds(record.seconds / max(record.trained, 1))

    def _told(self, trial: Known, record: ResultTold) -> None:
        trial.open, trial.saved, trial.fulfilled = False, True, record.epoch
        trial.curve.failed = record.score is None
        trial.curve.exhausted = record.outcome == "stopped_by_callback"
        self.finished |= record.score is not None and (trial.curve.exhausted or record.epoch >= self._max_epochs)
        self._count(trial)

    def _count(self, trial: Known) -> None:
        self._informative += trial.points == 0 and np.isfinite(trial.curve.best)
        observed = len(trial.curve.observed(powers_of_two(self._max_epochs)))
        self._points += observed - trial.points
        trial.points = observed

    def _value(self, logs: Mapping[str, Any]) -> float:
        """Return the objective, larger is better; NaN if there is none."""
        value = logs.get(self._objective.name)
        if value is None or not math.isfinite(value):
            return math.nan
        return -self._objective.cost(value)
