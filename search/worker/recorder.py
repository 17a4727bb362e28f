"""The callback that records a training: it reports epochs to the driver, and saves checkpoints and the best weights.

A recorder belongs to one segment and is the last of the training's callbacks. It also ends the training if the search
decides so. With a user's own `fit`, the segment's last epoch is reported only after that has returned, as the returned
logs belong to it.
"""

from __future__ import annotations

import functools
import math
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from search.errors import SearchError
from search.messages import Notice, Segment, Verdict
from search.space.domain import Value
from search.study.paths import TrialPaths
from search.study.records import Checkpointed, EpochDone, Outcome
from search.study.trial import derive_seed
from search.worker import checkpoint, keras_internals, model_state
from search.worker.channel import Channel, Interrupted
from search.worker.runners.logs import scalar_logs

__all__ = ["Recorder"]


class Recorder(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped
    """The recorder of one segment.

    Args:
        segment: the segment to record.
        channel: the connection to the driver.
        values: the hyperparameters' values, which identify the trial's own checkpoint.
        inputs: the model's inputs as `arrays.spec_to_json` describes them, saved with the best weights.
        own_fit: whether a user's `fit` trains. Its last epoch waits for `conclude`.
        last_epoch: the last epoch that such a `fit` asks for, if it asks for fewer than the segment has.

    Attributes:
        values: as in the arguments.
        epoch: the number of epochs trained so far, including those before this segment.
        last_epoch: the epoch to train up to.
        outcome, error: how the segment ended.
        history: one record per epoch, with `epoch`, `logs`, `seconds` and `trained`.
    """

    def __init__(
        self,
        segment: Segment,
        channel: Channel,
        values: Mapping[str, Value],
        inputs: Any,
        *,
        own_fit: bool = False,
        last_epoch: int | None = None,
    ) -> None:
        super().__init__()
        # The folder may hold a checkpoint of another trial, if a journal was cut short or deleted by hand.
        self.values = dict(values)
        self._owner = {"seed": segment.seed, "values": self.values}
        self._segment = segment
        self._channel = channel
        self._inputs = inputs
        self._own_fit = own_fit
        self.last_epoch = segment.to_epoch if last_epoch is None else min(last_epoch, segment.to_epoch)
        self._callbacks: Sequence[Any] = ()
        self._paths = TrialPaths(Path(segment.folder))
        self._best: tuple[int, float] | None = None
        self._best_weights: list[Any] | None = None
        self._best_attributes: model_state.SavedAttributes | None = None
        self._continued: checkpoint.Checkpoint | None = None
        self._unbuilt: model_state.Unbuilt = []
        self._baseline: model_state.Baseline | None = None
        self._pending: dict[str, Any] | None = None
        self._state: checkpoint.TrainingState | None = None
        self._began = self._saved_at = time.monotonic()
        self._noticed: set[str] = set()
        self.history: list[dict[str, Any]] = []
        self.epoch = 0
        self.outcome: Outcome = "reached"
        self.error: str | None = None

    # Resuming -------------------------------------------------------------------------------------------------------

    def restore(self, model: Any, callbacks: Sequence[Any]) -> None:
        """Continue from the trial's checkpoint if there is one, and report the epochs that the journal has missed.

        Args:
            callbacks: the user's callbacks, which are restored when the training begins.
        """
        self._callbacks = callbacks
        self._unbuilt = model_state.unbuilt_layers(model)
        saved = self.saved
        if saved is None:
            return
        lost = saved.find_unrestorable(model)
        if not lost:
            saved.restore_variables(model)
            self._continued = saved
        elif saved.epoch < self.last_epoch and not saved.stopped_by_callback:
            self._notice_lost(lost)
            return
        self._resume_from(saved)

    def restore_whole(self) -> bool:
        """Report the segment again and return True if a `fit` that cannot continue has trained it already.

        Such a `fit` starts anew for each segment. Of its earlier segments only the history and the best epoch count.
        """
        saved = self.saved
        if saved is None or not saved.whole:
            return False
        if saved.epoch >= self._segment.to_epoch:
            self._resume_from(saved)
            return True
        self.history, self._best = list(saved.history), _best_of(saved)
        return False

    @property
    def _is_satisfied(self) -> bool:
        """True if a user's `fit` has had all epochs that it asked for, although the search would train more."""
        return self.epoch >= self.last_epoch < self._segment.to_epoch

    @functools.cached_property
    def saved(self) -> checkpoint.Checkpoint | None:
        """The trial's checkpoint, or None."""
        path = self._paths.checkpoint(self._segment.execution)
        if not path.exists():
            return None
        try:
            saved = checkpoint.load_checkpoint(path)
        except SearchError as error:
            self.notice(f"trial {self._segment.trial} starts anew: {error}")
            return None
        return saved if saved.owner == self._owner else None

    def _resume_from(self, saved: checkpoint.Checkpoint) -> None:
        self.epoch, self.history, self._best = saved.epoch, list(saved.history), _best_of(saved)
        if saved.stopped_by_callback or self._is_satisfied:
            self.outcome = "stopped_by_callback"
        for record in self.history:
            if record["epoch"] <= self._segment.from_epoch:
                continue
            self._send_epoch(record)
            if self._is_judged(record["epoch"]) and self._wait_for_stop():
                self.outcome = "stopped"
        self._send_checkpointed()

    # Callback methods -----------------------------------------------------------------------------------------------

    def on_train_begin(self, logs: Any = None) -> None:
        # The recorder is the last callback, so the others have been reset by now.
        self._baseline = model_state.Baseline(self.model, self._callbacks, self._unbuilt)
        if self._continued is not None:
            self._continued.restore_others(self.model, self._callbacks)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # The user's code may use global random states, which are not in a checkpoint.
        seed = derive_seed(self._segment.seed, "epoch", epoch)
        keras_internals.seed_unseeded_draws(seed)
        random.seed(seed)
        np.random.seed(seed)
        if keras.config.backend() == "torch":
            import torch

            # Keras's own Dropout draws from PyTorch's global state, unless the layer has a seed.
            torch.manual_seed(seed)
        self._began = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch + 1
        record = self._make_record(scalar_logs(logs or {}))
        stopped_by_callback = self.model.stop_training or self._is_satisfied
        last = self.epoch >= self.last_epoch
        if self._own_fit and (stopped_by_callback or last):
            self.outcome = "stopped_by_callback" if stopped_by_callback else "reached"
            self._pending, self._state = record, self._capture()
            self._note_best(record["logs"], self.model)
            self.model.stop_training = True
            return
        if not self._report(record, self.model):
            self.model.stop_training = True
            return
        stopped = self._is_judged(self.epoch) and self._wait_for_stop()
        if stopped_by_callback:
            self.outcome = "stopped_by_callback"
        elif stopped:
            self.outcome = "stopped"
        elif not last and self._channel.interrupted():
            self.outcome = "interrupted"
        ends = last or self.outcome != "reached"
        if ends or time.monotonic() - self._saved_at >= self._segment.checkpoint_every:
            self._save(self._capture())
        if ends:
            self.model.stop_training = True

    @property
    def curve(self) -> list[dict[str, Any]]:
        """The history, including an epoch that waits for `conclude`."""
        return self.history if self._pending is None else [*self.history, self._pending]

    # The end of a user's fit ----------------------------------------------------------------------------------------

    def conclude(self, model: Any, logs: Mapping[str, float]) -> None:
        """Complete the last epoch with the `logs` that the user's `fit` returned, for the model as it is now."""
        record, self._pending = self._pending, None
        if record is None:
            return
        record["logs"].update(logs)
        if not self._report(record, model):
            return
        if self._is_judged(self.epoch):
            self._wait_for_stop()
        assert self._state is not None
        self._save(self._state)

    def conclude_whole(self, model: Any, logs: Mapping[str, float], seconds: float) -> None:
        """Record the segment as one epoch with the `logs` of a user's `fit` that never called `model.fit`.

        Args:
            seconds: the duration of that `fit`.
        """
        self.epoch = self._segment.to_epoch
        self._began = time.monotonic() - seconds
        if self._report({**self._make_record(logs), "trained": self.epoch}, model):
            self._save(checkpoint.capture_state(model, ()), whole=True)

    # Reports and files ----------------------------------------------------------------------------------------------

    def _make_record(self, logs: Mapping[str, float]) -> dict[str, Any]:
        seconds = round(time.monotonic() - self._began, 6)
        return {"epoch": self.epoch, "logs": dict(logs), "seconds": seconds, "trained": 1}

    def _report(self, record: dict[str, Any], model: Any) -> bool:
        """Report an epoch, and return False if the training has diverged in it."""
        self.history.append(record)
        sound = not self._diverged(record["logs"])
        if sound:
            self._note_best(record["logs"], model)
        self._send_epoch(record)
        return sound

    def _diverged(self, logs: Mapping[str, float]) -> bool:
        for name in ("loss", self._segment.objective.name):
            if name in logs and not math.isfinite(logs[name]):
                self.outcome = "failed"
                self.error = f"diverged: {name} is {logs[name]} at epoch {self.epoch}"
                return True
        return False

    def _note_best(self, logs: Mapping[str, float], model: Any) -> None:
        value = logs.get(self._segment.objective.name)
        if value is not None and self._segment.objective.better(value, self._best[1] if self._best else None):
            self._best = (self.epoch, value)
            self._best_weights = checkpoint.copy_weights(model)
            self._best_attributes = model_state.capture_attributes(model, (), self._baseline, weights_only=True)

    def _is_judged(self, epoch: int) -> bool:
        return self._segment.judged and epoch < self._segment.to_epoch

    def _wait_for_stop(self) -> bool:
        """Wait for the verdict on the reported epoch, and return whether the trial is to stop."""
        try:
            verdict = self._channel.receive()
        except Interrupted:
            return False
        return isinstance(verdict, Verdict) and verdict.stop

    def _save(self, state: checkpoint.TrainingState, *, whole: bool = False) -> None:
        if self._best_weights is not None and self._best is not None:
            path = self._paths.best(self._segment.execution)
            checkpoint.save_weights(
                path, self._best_weights, *self._best, inputs=self._inputs, attributes=self._best_attributes
            )
            self._best_weights = self._best_attributes = None
        checkpoint.save_checkpoint(
            self._paths.checkpoint(self._segment.execution),
            state,
            owner=self._owner,
            history=self.history,
            best_epoch=self._best[0] if self._best else None,
            best_value=self._best[1] if self._best else None,
            stopped_by_callback=self.outcome == "stopped_by_callback",
            whole=whole,
        )
        if state.lost:
            lost = ", ".join(state.lost)
            self.notice(f"the state of {lost} cannot be saved: if a trial continues later, it starts anew")
        if state.attributes.lost:
            self._notice_lost(state.attributes.lost)
        self._saved_at = time.monotonic()
        self._send_checkpointed()

    def _capture(self) -> checkpoint.TrainingState:
        return checkpoint.capture_state(self.model, self._callbacks, self._baseline)

    def _notice_lost(self, lost: Sequence[str]) -> None:
        self.notice(
            f"training changes the model's {', '.join(lost)}, which cannot be saved: a trial that continues later is "
            "trained anew from its first epoch"
        )

    def notice(self, text: str) -> None:
        """Show a text to the user, once."""
        if text not in self._noticed:
            self._noticed.add(text)
            print(f"search: {text}", flush=True)
            self._channel.send(Notice(self._segment.trial, text))

    def _send_epoch(self, record: Mapping[str, Any]) -> None:
        self._channel.send(EpochDone(self._segment.trial, self._segment.execution, **record))

    def _send_checkpointed(self) -> None:
        best = self._best[0] if self._best else None
        stopped_by_callback = self.outcome == "stopped_by_callback"
        self._channel.send(
            Checkpointed(self._segment.trial, self._segment.execution, self.epoch, best, stopped_by_callback)
        )


def _best_of(saved: checkpoint.Checkpoint) -> tuple[int, float] | None:
    if saved.best_epoch is None or saved.best_value is None:
        return None
    return saved.best_epoch, saved.best_value
