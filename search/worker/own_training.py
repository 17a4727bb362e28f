"""The training of one segment by a `fit` of the user's.

See `search.worker.runners.own_fit` for the ways in which such a `fit` may train.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import keras

from search.messages import Segment
from search.study.trial import derive_seed
from search.worker.checkpoint import copy_weights
from search.worker.data.arrays import Data
from search.worker.model_cache import Training
from search.worker.recorder import Recorder
from search.worker.runners.choose import choose_runner
from search.worker.runners.own_fit import OWN_LOOP, SEVERAL_CALLS, EndFit, FitCall, callbacks_of, kept_epoch
from search.worker.running_seconds import running_seconds

__all__ = ["BeginAnew", "OwnTraining", "SegmentParts", "digest_weights"]


class BeginAnew(BaseException):
    """The segment must begin anew: its training continued from a checkpoint, and proves to be one that cannot."""


class SegmentParts(Protocol):
    """The parts of a segment that a user's `fit` needs."""

    def make_recorder(self, data: Data, *, anew: bool = False) -> Recorder:
        """Return a recorder for a training on `data`."""

    def redirect(self, callbacks: list[Any], recorder: Recorder) -> list[Any]:
        """Redirect callbacks into the trial's own folder."""

    def train(self, training: Training, data: Data, recorder: Recorder, initial_epoch: int = 0) -> None:
        """Train from the trial's checkpoint up to the recorder's last epoch."""

    def report_built(self, model: Any, runner: str) -> None:
        """Report the model to the driver."""


class OwnTraining:
    """The search's side of a user's `fit`: it trains, or records what the user's own loop trains.

    Args:
        segment: the segment to train.
        model, data: those that the user's `fit` is given.
        parts: the segment's other parts.
        notice: the recorder that tells the user of changes to callbacks.
        anew: whether the training begins anew although it has a checkpoint.

    Attributes:
        closed: True once a call with the given epochs has been trained.
        recorder: the recorder of the training; None before it has begun.
        histories: the Histories that the user's `fit` was given.
        kept: pairs (History, index) of other trainings that ended with the weights of an earlier epoch.
    """

    def __init__(
        self, segment: Segment, model: Any, data: Data, parts: SegmentParts, notice: Recorder, *, anew: bool
    ) -> None:
        self.closed = False
        self.recorder: Recorder | None = None
        self.histories: list[Any] = []
        self.kept: list[tuple[Any, int]] = []
        self._segment = segment
        self._model = model
        self._data = data
        self._parts = parts
        self._notice = notice
        self._anew = anew
        self._began = running_seconds()
        self._reported: str | None = None

    @property
    def is_cut_short(self) -> bool:
        """True if the training has failed, or was stopped or interrupted by the search."""
        return self.recorder is not None and self.recorder.outcome in ("interrupted", "stopped", "failed")

    # Calls of model.fit ---------------------------------------------------------------------------------------------

    def train(self, call: FitCall) -> Any:
        """Train in place of a call of `model.fit` that belongs to the trial's training. Return its History."""
        self._run_eagerly_if_asked()
        recorder = self.recorder
        if recorder is None:
            start = 0
            recorder = self.recorder = self._parts.make_recorder(call.data, anew=self._anew)
            recorder.last_epoch = self._last_epoch(call, start)
            training = Training(self._model, call.options, self._parts.redirect(list(call.callbacks), recorder))
            self._parts.train(training, call.data, recorder, call.initial_epoch)
        else:
            self._go_on(recorder, SEVERAL_CALLS)
            start = recorder.epoch
            recorder.last_epoch = self._last_epoch(call, start)
            self._train_further(call, recorder, start)
        self.closed = call.has_given_epochs
        self.histories.append(_make_history(self._model, recorder, call.initial_epoch - start, start))
        return self.histories[-1]

    def _last_epoch(self, call: FitCall, start: int) -> int:
        """Return the trial's last epoch in a call that begins after epoch `start`. The search decides given epochs."""
        to_epoch = self._segment.to_epoch
        return to_epoch if call.has_given_epochs else min(to_epoch, start + call.epochs - call.initial_epoch)

    def _train_further(self, call: FitCall, recorder: Recorder, start: int) -> None:
        """Train a call after the first one. Keras's `fit` traces nothing again for calls of one kind."""
        # Calls that count their epochs on train as a single one does. Others must not repeat its order of samples.
        seed = self._segment.seed
        seed = seed if call.initial_epoch == start else derive_seed(seed, "call", start)
        callbacks = [*self._parts.redirect(list(call.callbacks), recorder), recorder]
        runner = choose_runner(self._model, call.data, call.options, seed, callbacks, fuse=False)
        runner.run(call.initial_epoch, call.initial_epoch + recorder.last_epoch - start, callbacks)

    def train_plainly(self, fit: Callable[..., Any], call: inspect.BoundArguments) -> Any:
        """Carry out a call of `model.fit` that does not belong to the trial's training."""
        if self.is_cut_short:
            raise EndFit
        self._run_eagerly_if_asked()
        callbacks = self._parts.redirect(callbacks_of(call), self._notice)
        if "callbacks" in call.arguments:
            call.arguments["callbacks"] = callbacks
        history = fit(*call.args, **call.kwargs)
        index = kept_epoch(history, callbacks)
        if index is not None:
            self.kept.append((history, index))
        return history

    def _run_eagerly_if_asked(self) -> None:
        if self._segment.run_eagerly:
            self._model.run_eagerly = True

    # A loop of the user's own ---------------------------------------------------------------------------------------

    def begin_loop(self) -> None:
        """Report the model. If the segment has had all its epochs, only the loop's first one is too many."""
        if self.recorder is None:
            self._loop_recorder()

    def begin_epoch(self) -> None:
        """Begin an epoch of a loop of the user's own, or end the loop if it has had all its epochs."""
        self._loop_recorder().begin_own_epoch(running_seconds())

    def end_epoch(self, logs: Mapping[str, Any]) -> None:
        """Record an epoch of a loop of the user's own, and end the loop if the search decides so."""
        recorder = self._loop_recorder()
        recorder.end_own_epoch(self._model, logs)
        if self.is_cut_short:
            raise EndFit
        if recorder.epoch >= self._segment.to_epoch:
            self._model.stop_training = True

    def _loop_recorder(self) -> Recorder:
        if self.recorder is None:
            self.recorder = self._parts.make_recorder(self._data, anew=True)
            self.recorder.begin_own_epoch(self._began)
            self._report_built(self.recorder, OWN_LOOP)
        else:
            self._go_on(self.recorder, OWN_LOOP)
        return self.recorder

    def _go_on(self, recorder: Recorder, runner: str) -> None:
        """Go on after the epochs that `recorder` has, or end the user's `fit` if the segment ends there.

        Args:
            runner: the name of a training that goes on like this.
        """
        if not recorder.go_on():
            raise EndFit
        if recorder.resumed:
            raise BeginAnew
        if self._reported is None:
            self._report_built(recorder, runner)

    def _report_built(self, recorder: Recorder, runner: str) -> None:
        recorder.anew_as = self._reported = runner
        self._parts.report_built(self._model, runner)


def digest_weights(model: Any) -> tuple[int, ...]:
    """Return a checksum of each of the model's weights, none if the model is not built."""
    return tuple(zlib.crc32(array.tobytes()) for array in copy_weights(model)) if model.built else ()


def _make_history(model: Any, recorder: Recorder, offset: int, start: int) -> Any:
    """Return the History that `model.fit` would have returned for all epochs of the trial after `start`.

    Args:
        offset: what Keras's number of an epoch (from 0) exceeds the trial's by.
    """
    history = keras.callbacks.History()
    history.set_model(model)
    history.on_train_begin()
    for record in recorder.curve:
        if record["epoch"] > start:
            history.on_epoch_end(record["epoch"] - 1 + offset, record["logs"])
    model.history = history
    return history
