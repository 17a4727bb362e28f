"""A KerasTuner oracle of the user's own as a back end: its object lives in the script that searches.

The oracle decides in `create_trial`, and keeps its state itself. So this back end differs from the protocol in
`search.backends.base`, which wants pure queries: it asks the oracle once, and repeats the answer until the answer's
record is applied. A replay does not ask the oracle. It puts the journal's trials into it, as `Oracle.reload` does: its
`trials`, `start_order`, `end_order`, `ongoing_trials`, space and tried values are there after a resume. Attributes of a
subclass's own are as the script has made them. If the same object searches again, it has them all.

The oracle writes no files while it is in use: the study's journal has its trials. Private names of KerasTuner's
`Oracle` are used here: its own reload has no public way.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from search.backends.base import draw_uniformly
from search.errors import OptionError, SearchError
from search.space.domain import Domain, Parameter, Value
from search.study.records import EpochDone, ParameterSet, Record, ResultTold, SegmentEnded, SegmentRequested
from search.study.trial import Decision, Done, Draw, Objective, Suggestion, Wait
from search.study.trials import Trial

__all__ = ["OracleBackEnd", "oracle_in_use"]

IDLE_ATTEMPTS = 100
"""The number of times that an oracle may be idle in a row while no trial runs."""

_EPOCHS, _CONTINUED = "tuner/epochs", "tuner/trial_id"
"""The values of KerasTuner's Hyperband: the epochs that a trial is trained to, and the trial that it continues."""

_in_use: ContextVar[Any] = ContextVar("oracle", default=None)


@contextmanager
def oracle_in_use(oracle: Any) -> Iterator[str]:
    """Let `search.run` search with `oracle` meanwhile.

    Args:
        oracle: a `keras_tuner.Oracle`, of any subclass. Meanwhile it writes no files and prints nothing.

    Yields:
        The value of the option `backend` for this search.

    Example:
        ::

            with oracle_in_use(MyOracle("val_loss", max_trials=20)) as backend:
                study = search.run(build_model, data, backend=backend, max_epochs=3)
    """
    silenced = {"save": _write_nothing, "_save_trial": _write_nothing}
    own = {name: vars(oracle)[name] for name in silenced if name in vars(oracle)}
    verbose, oracle.verbose = oracle.verbose, 0
    vars(oracle).update(silenced)
    token = _in_use.set(oracle)
    try:
        yield f"keras-tuner-oracle:oracle={type(oracle).__name__},repeats=True"
    finally:
        _in_use.reset(token)
        for name in silenced:
            del vars(oracle)[name]
        vars(oracle).update(own)
        oracle.verbose = verbose


def _write_nothing(*_: Any) -> None:
    """Stand in for a method of an oracle that writes a file."""


class OracleBackEnd:
    """The back end `keras-tuner-oracle`, around the oracle of `oracle_in_use`.

    Each trial of the oracle is a trial of the study. A trial that continues another one, as in KerasTuner's Hyperband,
    is the other one trained further. A parameter that the oracle does not know yet has its default, as in KerasTuner.
    One that KerasTuner cannot have, such as a choice with None, is drawn at random. The oracle may try a configuration
    again, and learns nothing from trials that it has not created.

    Args:
        objective, seed: of the study; the oracle draws with a seed of its own.
        oracle: the name of the oracle's class.
        repeats: see `search.scheduler.deduplication`.
        max_epochs: the epochs of each trial, unless its values have `tuner/epochs`.
        parameters: those that the probe saw. The oracle knows them before its first trial.

    Raises:
        OptionError: no oracle is in use, as in another process than the script's.
    """

    protocol = 1
    has_end = True
    rehearsed = False
    """False: it has effects, so checks do not play a trial with it."""

    def __init__(
        self,
        objective: Objective,
        seed: int,
        *,
        oracle: str = "",
        repeats: bool = True,
        max_epochs: int = 1,
        parameters: Sequence[Parameter] = (),
    ) -> None:
        self._oracle = _in_use.get()
        if self._oracle is None:
            which = (
                f"the oracle {oracle}, which lives in its script" if oracle else "an oracle, which lives in a script"
            )
            raise OptionError(f"this study's values come from {which}: run the script again")
        self._objective, self._seed = objective, seed
        self._max_epochs = max_epochs
        self._parameters = parameters
        self._replays = True
        self._answer: Suggestion | Wait | Done | None = None
        self._created: Any = None
        self._trial_of: dict[int, Any] = {}
        self._number_of: dict[str, int] = {}
        self._inserted: set[str] = set()
        self._open: set[int] = set()
        self._paused: dict[int, int] = {}
        self._best: dict[int, tuple[int, Mapping[str, float]]] = {}
        self._error: dict[int, str] = {}

    # Queries --------------------------------------------------------------------------------------------------------

    def ask(self, *, new: bool, child: bool) -> Suggestion | Wait | Done:
        """Return the trial that the oracle creates."""
        self._replays = False
        nothing = Wait() if self._open else Done()
        if self._answer is None:
            if not new and not self._paused:
                return nothing  # what it would create could not begin
            self._answer = self._create()
        is_new = isinstance(self._answer, Suggestion) and self._answer.trial is None
        return nothing if is_new and not new else self._answer

    def suggest(self, trial: int, parameter: Parameter, explored: Collection[Value] = ()) -> Draw:
        """Return the oracle's value, the default, or a random value if KerasTuner cannot have the parameter."""
        from search.compat.hyperparameters import fits_keras_tuner

        self._replays = False
        if not fits_keras_tuner(parameter):
            return draw_uniformly(self._seed, trial, parameter, explored)
        values = self._trial_of[trial].hyperparameters.values
        if parameter.name not in values:
            return Draw(parameter.default)
        found = values[parameter.name]
        value = value_in(parameter.domain, found)
        if value is None and None not in parameter.domain.values:
            raise SearchError(
                f"the oracle {self._name} gives {parameter.name!r} the value {found!r}, which is not in "
                f"{parameter.domain}: correct its populate_space, and run the script again"
            )
        return Draw(value)

    def judge(self, trial: int, epoch: int) -> Decision:
        """Let every trial go on."""
        return Decision()

    def _create(self) -> Suggestion | Wait | Done:
        """Return what the oracle wants trained now."""
        if not self._trial_of:
            self._update_space(_keras_tuner_space(self._parameters, {}))
        idle = 0
        while idle < IDLE_ATTEMPTS:
            trial = self._left_over() or self._call("create_trial", self._free_tuner())
            status = getattr(trial, "status", None)
            if status == "RUNNING":
                if (suggestion := self._suggestion_of(trial)) is not None:
                    self._created = trial
                    return suggestion
            elif self._open:
                return Wait()
            elif status == "STOPPED":
                return Done()
            elif status == "IDLE":
                idle += 1
            else:
                raise SearchError(
                    f"the oracle {self._name} returned {trial!r} from create_trial: return the trial that "
                    "super().create_trial returns"
                )
        raise SearchError(
            f"the oracle {self._name} waits (IDLE) although no trial runs: let its populate_space return the status "
            "RUNNING or STOPPED then"
        )

    def _suggestion_of(self, trial: Any) -> Suggestion | None:
        """Return the suggestion for a trial of the oracle; None if the trial has its result already."""
        values = trial.hyperparameters.values
        epochs = min(int(values.get(_EPOCHS, self._max_epochs)), self._max_epochs)
        attributes = {"oracle_trial": trial.trial_id, "values": _scalars(values)}
        number = self._number_of.get(str(values.get(_CONTINUED)))
        if number is None or number not in self._paused:
            return Suggestion(None, 0, epochs, attributes=attributes)
        if epochs > self._paused[number]:
            return Suggestion(number, self._paused[number], epochs, attributes=attributes)
        self._end_trial(trial, number, self._best[number][1][self._objective.name])  # two rungs of the same epochs
        return None

    def _left_over(self) -> Any:
        """Return a trial that the oracle created for an earlier search, which ended before it began; None if none."""
        begun = {trial.trial_id for trial in self._trial_of.values()}
        return next((trial for trial in self._oracle.ongoing_trials.values() if trial.trial_id not in begun), None)

    def _free_tuner(self) -> str:
        """Return an id of a tuner that no trial of the oracle's has."""
        names = (f"tuner{index}" for index in range(len(self._oracle.ongoing_trials) + 1))
        return next(name for name in names if name not in self._oracle.ongoing_trials)

    # Facts ----------------------------------------------------------------------------------------------------------

    def apply(self, record: Record) -> Sequence[int]:
        """Tell the oracle of its trials' values and results. Return the trials that it will not continue."""
        if isinstance(record, SegmentRequested):
            self._begin(record)
            return ()
        number = getattr(record, "trial", None)
        if number not in self._open:
            return ()
        match record:
            case ParameterSet():
                self._set_value(record)
            case EpochDone(execution=0):
                self._note_epoch(record)
            case SegmentEnded(error=str()):
                self._error[number] = str(record.error)
            case ResultTold():
                return self._end(record)
        return ()

    def learn(self, trials: Sequence[Trial]) -> None:
        """Learn nothing: an oracle counts every trial that it has against its `max_trials`."""

    def _begin(self, record: SegmentRequested) -> None:
        trial_id = record.attributes["oracle_trial"]
        if self._created is not None and self._created.trial_id == trial_id:
            trial, self._created, self._answer = self._created, None, None
        else:
            trial = self._insert(trial_id, record.attributes["values"])
        self._trial_of[record.trial] = trial
        self._number_of[trial_id] = record.trial
        self._paused.pop(record.trial, None)
        self._open.add(record.trial)

    def _insert(self, trial_id: str, values: Mapping[str, Value]) -> Any:
        """Return the trial of this id, which an earlier process may have created."""
        from keras_tuner.engine.trial import Trial as OracleTrial

        oracle = self._oracle
        if trial_id not in oracle.trials:
            if not self._trial_of:
                self._update_space(_keras_tuner_space(self._parameters, {}))
            hyperparameters = oracle.get_space()
            hyperparameters.values = dict(values)
            trial = OracleTrial(hyperparameters, trial_id, "RUNNING")
            oracle._record_values(trial)
            oracle.ongoing_trials[self._free_tuner()] = oracle.trials[trial_id] = trial
            oracle.start_order.append(trial_id)
            self._inserted.add(trial_id)
        return oracle.trials[trial_id]

    def _set_value(self, record: ParameterSet) -> None:
        hyperparameters = self._trial_of[record.trial].hyperparameters
        hyperparameters.values[record.parameter.name] = record.value
        space = _keras_tuner_space([record.parameter], hyperparameters.values).space
        hyperparameters.merge(space, overwrite=False)
        self._update_space(hyperparameters)

    def _update_space(self, hyperparameters: Any) -> None:
        if self._oracle.allow_new_entries:  # else the worker refuses a new one
            self._call("update_space", hyperparameters)

    def _note_epoch(self, record: EpochDone) -> None:
        value = record.logs.get(self._objective.name)
        if value is None or not math.isfinite(value):
            return
        before = self._best.get(record.trial)
        if self._objective.better(value, before[1][self._objective.name] if before else None):
            self._best[record.trial] = record.epoch, record.logs

    def _end(self, record: ResultTold) -> Sequence[int]:
        number = record.trial
        self._open.discard(number)
        if not isinstance(self._answer, Suggestion):
            self._answer = None
        trial = self._trial_of[number]
        if trial.trial_id not in self._oracle.end_order:
            restores = self._replays and trial.trial_id in self._inserted
            (self._restore_end if restores else self._end_trial)(trial, number, record.score)
        goes_on = record.score is not None and _EPOCHS in trial.hyperparameters.values
        if goes_on:
            self._paused[number] = record.epoch
        return () if goes_on else (number,)

    # Results --------------------------------------------------------------------------------------------------------

    def _end_trial(self, trial: Any, number: int, score: float | None) -> None:
        """Let the oracle end `trial`, which the study's trial `number` has trained."""
        if score is not None:
            metrics, step = self._metrics(number, score)
            self._call("update_trial", trial.trial_id, metrics, step)
        self._set_status(trial, number, score)
        self._call("end_trial", trial)

    def _restore_end(self, trial: Any, number: int, score: float | None) -> None:
        """Put the end of `trial` into the oracle, without the subclass's own `update_trial` and `end_trial`."""
        from keras_tuner import Oracle

        oracle = self._oracle
        self._set_status(trial, number, score)
        if score is not None:
            metrics, step = self._metrics(number, score)
            Oracle.update_trial(oracle, trial.trial_id, metrics, step)
            self._call("score_trial", trial)
        oracle._record_values(trial)
        oracle._run_times[trial.trial_id] += 1
        oracle.end_order.append(trial.trial_id)
        for tuner in [tuner for tuner, other in oracle.ongoing_trials.items() if other is trial]:
            del oracle.ongoing_trials[tuner]

    def _set_status(self, trial: Any, number: int, score: float | None) -> None:
        trial.status = "FAILED" if score is None else "COMPLETED"
        if score is None:
            trial.message = self._error.get(number, "the trial has no objective")

    def _metrics(self, number: int, score: float) -> tuple[dict[str, float], int]:
        """Return the metrics of the best epoch with the score, and KerasTuner's step: the epoch, counted from 0."""
        epoch, logs = self._best.get(number, (1, {}))
        names = {self._objective.name, self._oracle.objective.name}
        return {**logs, **dict.fromkeys(names, score)}, epoch - 1

    @property
    def _name(self) -> str:
        return type(self._oracle).__name__

    def _call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the oracle. SearchError if it raises."""
        try:
            return getattr(self._oracle, method)(*arguments)
        except Exception as error:
            text = " ".join(str(error).split())
            raise SearchError(
                f"the oracle {self._name} raised {type(error).__name__} in {method}: {text}; correct it, and run the "
                "script again"
            ) from error


def value_in(domain: Domain, value: Any) -> Value:
    """Return an oracle's value as one of `domain`; None if the domain has no such value.

    KerasTuner's choices of booleans give 1 and 0, and a number may be NumPy's. A number between two steps is the nearer
    one, and a number beyond the range is its end.
    """
    value = value.item() if hasattr(value, "item") else value
    if domain.contains(value):
        own: Value = value
        return own
    if not domain.is_range:
        return next((known for known in domain.values if known == value), None)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    value = min(max(value, domain.low), domain.high)
    if domain.size is None:
        return float(value)
    if domain.step is None or domain.sampling == "linear":
        start = int((value - domain.low) / (domain.step or 1))
        near = range(start, min(start + 2, domain.size))
    else:
        near = range(domain.size)
    return min(map(domain.value, near), key=lambda known: abs(known - value))


def _keras_tuner_space(parameters: Sequence[Parameter], values: Mapping[str, Value]) -> Any:
    from search.compat.hyperparameters import to_keras_tuner  # it imports KerasTuner, which the script has

    return to_keras_tuner(parameters, values)


def _scalars(values: Mapping[str, Any]) -> dict[str, Value]:
    """Return those of an oracle's values that a journal can hold, in Python's types."""
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in values.items()}
    return {name: value for name, value in plain.items() if isinstance(value, (int, float, str, bool, type(None)))}
