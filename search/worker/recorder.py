"""What a trial's training leaves behind: each epoch said to the driver, checkpoints, the best weights.

A recorder follows one segment. It is the last of the training's callbacks; it ends the training where the search says
so. Of a `fit` of the user's, the segment's last epoch is said when that has returned, as it may add to the logs.
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
from search.worker import checkpoint
from search.worker.channel import Channel, Interrupted
from search.worker.runners.logs import scalar_logs

__all__ = ["Recorder"]


class Recorder(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped
    """Follows one segment.

    Args:
        segment, channel: what is trained, and who is told.
        values: the hyperparameters' values, by which a checkpoint of another trial is told from one of this.
        inputs: the model's inputs, as `data.describe` gives them, kept with the best weights.
        own_fit: a `fit` of the user's trains: the last epoch waits for `conclude`.
        last_epoch: the last one that such a `fit` wants, where it wants fewer than the segment has.

    Attributes:
        values: as given.
        epoch: epochs trained so far, those before this segment included.
        last_epoch: the one to train up to.
        outcome, error: how the segment ended.
        history: a record an epoch: `epoch`, `logs`, `seconds`, `trained`.
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
        # A checkpoint of another trial may lie here: a journal was cut short, or deleted by hand.
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
        self._held: dict[str, Any] | None = None
        self._state: checkpoint.State | None = None
        self._began = self._saved = time.monotonic()
        self._noticed: set[str] = set()
        self.history: list[dict[str, Any]] = []
        self.epoch = 0
        self.outcome: Outcome = "reached"
        self.error: str | None = None

    # What was before ------------------------------------------------------------------------------------------------

    def restore(self, model: Any, callbacks: Sequence[Any]) -> None:
        """Go on from the trial's checkpoint, where it has one; tell the driver what its journal has missed.

        Args:
            callbacks: the user's, which are put back when the training begins.
        """
        self._callbacks = callbacks
        if self.found is not None:
            self.found.restore(model)
            self._take_up(self.found)

    def restore_whole(self) -> bool:
        """Whether the segment was trained already by a `fit` that cannot be continued, in which case it is told again.

        Such a training begins anew for each segment; what it had before tells only how good it was.
        """
        saved = self.found
        if saved is None or not saved.whole:
            return False
        if saved.epoch >= self._segment.to_epoch:
            self._take_up(saved)
            return True
        self.history, self._best = list(saved.history), _best_of(saved)
        return False

    @property
    def _wants_no_more(self) -> bool:
        """Whether a `fit` of the user's has had all the epochs that it wants, though the search would give more."""
        return self.epoch >= self.last_epoch < self._segment.to_epoch

    @functools.cached_property
    def found(self) -> checkpoint.Checkpoint | None:
        """The trial's checkpoint, where it has one."""
        path = self._paths.checkpoint(self._segment.execution)
        if not path.exists():
            return None
        try:
            saved = checkpoint.load(path)
        except SearchError as error:
            self.notice(f"trial {self._segment.trial} begins anew: {error}")
            return None
        return saved if saved.owner == self._owner else None

    def _take_up(self, saved: checkpoint.Checkpoint) -> None:
        self.epoch, self.history, self._best = saved.epoch, list(saved.history), _best_of(saved)
        if saved.stopped_by_callback or self._wants_no_more:
            self.outcome = "stopped_by_callback"
        for record in self.history:
            if record["epoch"] <= self._segment.from_epoch:
                continue
            self._send_epoch(record)
            if self._is_judged(record["epoch"]) and self._judged_to_stop():
                self.outcome = "stopped"
        self._send_checkpointed()

    # As a callback --------------------------------------------------------------------------------------------------

    def on_train_begin(self, logs: Any = None) -> None:
        # Being last, this runs when the others have been reset.
        if self.found is not None:
            self.found.restore_callbacks(self._callbacks)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # The user's code may use global random states, which no checkpoint holds.
        seed = derive_seed(self._segment.seed, "epoch", epoch)
        random.seed(seed)
        np.random.seed(seed)
        if keras.config.backend() == "torch":
            import torch

            # Keras's own Dropout draws from PyTorch's, unless the layer was given a seed.
            torch.manual_seed(seed)
        self._began = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch + 1
        record = self._record(scalar_logs(logs or {}))
        stopped_by_callback = self.model.stop_training or self._wants_no_more
        last = self.epoch >= self.last_epoch
        if self._own_fit and (stopped_by_callback or last):
            self.outcome = "stopped_by_callback" if stopped_by_callback else "reached"
            self._held, self._state = record, checkpoint.capture(self.model, self._callbacks)
            self._note_best(record["logs"], self.model)
            self.model.stop_training = True
            return
        if not self._tell(record, self.model):
            self.model.stop_training = True
            return
        stopped = self._is_judged(self.epoch) and self._judged_to_stop()
        if stopped_by_callback:
            self.outcome = "stopped_by_callback"
        elif stopped:
            self.outcome = "stopped"
        elif not last and self._channel.interrupted():
            self.outcome = "interrupted"
        ends = last or self.outcome != "reached"
        if ends or time.monotonic() - self._saved >= self._segment.checkpoint_every:
            self._save(checkpoint.capture(self.model, self._callbacks))
        if ends:
            self.model.stop_training = True

    @property
    def curve(self) -> list[dict[str, Any]]:
        """The history, with an epoch that waits for `conclude`."""
        return self.history if self._held is None else [*self.history, self._held]

    # The end of a fit of the user's ---------------------------------------------------------------------------------

    def conclude(self, model: Any, logs: Mapping[str, float]) -> None:
        """The user's `fit` has returned `logs`: they belong to the last epoch, and to the model as it is now."""
        record, self._held = self._held, None
        if record is None:
            return
        record["logs"].update(logs)
        if not self._tell(record, model):
            return
        if self._is_judged(self.epoch):
            self._judged_to_stop()
        assert self._state is not None
        self._save(self._state)

    def conclude_whole(self, model: Any, logs: Mapping[str, float], seconds: float) -> None:
        """A `fit` that never trained the model by `model.fit` has returned `logs`: one record for the segment."""
        self.epoch = self._segment.to_epoch
        self._began = time.monotonic() - seconds
        if self._tell({**self._record(logs), "trained": self.epoch}, model):
            self._save(checkpoint.capture(model, ()), whole=True)

    # How ------------------------------------------------------------------------------------------------------------

    def _record(self, logs: Mapping[str, float]) -> dict[str, Any]:
        seconds = round(time.monotonic() - self._began, 6)
        return {"epoch": self.epoch, "logs": dict(logs), "seconds": seconds, "trained": 1}

    def _tell(self, record: dict[str, Any], model: Any) -> bool:
        """Say an epoch; False where the training has diverged in it."""
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
            self._best_weights = checkpoint.snapshot(model)

    def _is_judged(self, epoch: int) -> bool:
        return self._segment.judged and epoch < self._segment.to_epoch

    def _judged_to_stop(self) -> bool:
        try:
            verdict = self._channel.receive()
        except Interrupted:
            return False
        return isinstance(verdict, Verdict) and verdict.stop

    def _save(self, state: checkpoint.State, *, whole: bool = False) -> None:
        if self._best_weights is not None and self._best is not None:
            path = self._paths.best(self._segment.execution)
            checkpoint.save_weights(path, self._best_weights, *self._best, inputs=self._inputs)
            self._best_weights = None
        checkpoint.save(
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
            self.notice(f"the state of {lost} cannot be saved: where a trial goes on later, it begins anew")
        self._saved = time.monotonic()
        self._send_checkpointed()

    def notice(self, text: str) -> None:
        """Tell the user something, once."""
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
