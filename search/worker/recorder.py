"""The callback that records a training: it reports epochs to the driver, and saves checkpoints and the best weights.

A recorder belongs to one segment and is the last of the training's callbacks. It also ends the training if the search
decides so. With a user's own `fit`, the segment's last epoch is reported only after that has returned, as the returned
logs belong to it.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from search.errors import SearchError, SpaceError, Unavailable
from search.messages import Notice, Segment, Verdict
from search.space.domain import Value
from search.storage.trial_files import TrialFiles
from search.study.paths import TrialPaths
from search.study.records import Checkpointed, EpochDone, Outcome
from search.study.trial import derive_seed
from search.worker import checkpoint, keras_internals, model_state
from search.worker.channel import Channel, Interrupted
from search.worker.inheritance import BEGINS_ANEW, Inheritance
from search.worker.runners.logs import scalar_logs
from search.worker.runners.own_fit import BLACK_BOX, OWN_LOOP, SEVERAL_CALLS
from search.worker.running_seconds import running_seconds

__all__ = ["Recorder"]


class Recorder(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped
    """The recorder of one segment.

    Args:
        segment: the segment to record.
        channel: the connection to the driver.
        files: the trial's files, to store them.
        values: the hyperparameters' values, which identify the trial's own checkpoint.
        inputs, batch: the model's inputs, and a batch as its `train_step` takes it, as `arrays.spec_to_json` describes
            them. Both are saved with the best weights.
        own_fit: whether a user's `fit` trains. Its last epoch waits for `conclude`.
        anew: whether the training begins anew although the trial may have a checkpoint. The epochs and the best weights
            of the checkpoint count all the same: an epoch that is trained again has its first record.

    Attributes:
        values: as in the arguments.
        epoch: the number of epochs trained so far, including those before this segment and those of a parent.
        last_epoch: the epoch to train up to; a user's `fit` may ask for fewer than the segment has.
        anew_as: the runner's name if later segments begin anew, too; else None.
        resumed: whether the training continues from a checkpoint, the trial's own or its parent's.
        outcome, error: how the segment ended.
        history: one record per epoch, with `epoch`, `logs`, `seconds` and `trained`.

    Raises:
        SpaceError: in one line, if the training begins anew and the trial is to continue another one.
    """

    def __init__(
        self,
        segment: Segment,
        channel: Channel,
        files: TrialFiles,
        values: Mapping[str, Value],
        inputs: Any,
        batch: Any,
        *,
        own_fit: bool = False,
        anew: bool = False,
    ) -> None:
        super().__init__()
        # The folder may hold a checkpoint of another trial, if a journal was cut short or deleted by hand.
        self.values = dict(values)
        self._owner = {"seed": segment.seed, "values": self.values}
        self._segment = segment
        self._channel = channel
        self._files = files
        self._inputs, self._batch = inputs, batch
        self._own_fit = own_fit
        self.last_epoch = segment.to_epoch
        self._callbacks: Sequence[Any] = ()
        self._paths = TrialPaths(Path(segment.folder))
        self._best: tuple[int, float] | None = None
        self._best_weights: list[Any] | None = None
        self._weightless = False
        self._best_attributes: model_state.SavedAttributes | None = None
        self._continued: checkpoint.Checkpoint | None = None
        self._unbuilt: model_state.Unbuilt = []
        self._baseline: model_state.Baseline | None = None
        self._pending: dict[str, Any] | None = None
        self._state: checkpoint.TrainingState | None = None
        self._began = self._saved_at = running_seconds()
        self._noticed: set[str] = set()
        self.history: list[dict[str, Any]] = []
        self.epoch = segment.begins_after
        self.outcome: Outcome = "reached"
        self.error: str | None = None
        self.anew_as: str | None = SEVERAL_CALLS if anew else None
        self.resumed = False
        self._known: dict[int, dict[str, Any]] = {}
        self._inherits = False
        if anew and segment.inherited is not None:
            raise SpaceError(f"trial {segment.trial} cannot continue trial {segment.inherited.trial}: {BEGINS_ANEW}")
        if anew and self.saved is not None:
            self._take_over(self.saved)
        elif self.saved is None:
            # Its checkpoint is gone: what is trained again may not replace better weights of a later epoch.
            self._best = self._best_on_disk()

    # Resuming -------------------------------------------------------------------------------------------------------

    def restore(self, model: Any, callbacks: Sequence[Any]) -> None:
        """Continue from the trial's checkpoint if there is one, and report the epochs that the journal has missed.

        If there is none, the trial continues from its parent's, if it has a parent.

        Args:
            callbacks: the user's callbacks, which are restored when the training begins.
        """
        self._callbacks = callbacks
        self._unbuilt = model_state.unbuilt_layers(model)
        saved = self.saved
        if saved is None or self.anew_as is not None:
            self._inherit(model)
            return
        lost = saved.find_unrestorable(model)
        if not lost:
            self.resumed = True
            saved.restore_variables(model)
            self._continued = saved
        elif saved.epoch < self.last_epoch and not saved.stopped_by_callback:
            self._notice_lost(lost)
            self._best = self._best_on_disk()
            self._inherit(model)
            return
        self._resume_from(saved)

    @functools.cached_property
    def inheritance(self) -> Inheritance | None:
        """The state from the trial's parent; None if it has none. SpaceError if no training can continue from it."""
        return None if self._segment.inherited is None else Inheritance(self._segment)

    def _inherit(self, model: Any) -> None:
        if self.inheritance is None:
            return
        if self._is_satisfied:
            raise SpaceError(f"{self.inheritance.claim}: its fit wants only {self.last_epoch} epochs")
        self.inheritance.give_variables(model)
        self._inherits = self.resumed = True

    def report_again(self) -> str | None:
        """Report the segment again and return its runner's name if a `fit` that begins anew has trained it already."""
        saved = self.saved
        if saved is None or not saved.whole:
            return None
        if saved.epoch < self._segment.to_epoch and not saved.stopped_by_callback:
            return None
        self.anew_as = saved.runner or BLACK_BOX
        self._resume_from(saved)
        return self.anew_as

    @property
    def begins_anew(self) -> bool:
        """True if an earlier segment was trained by a `fit` that cannot continue."""
        return self.saved is not None and self.saved.whole

    def _take_over(self, saved: checkpoint.Checkpoint) -> None:
        self.history, self._best = list(saved.history), _best_of(saved)
        self._known = {record["epoch"]: record for record in self.history}

    def _best_on_disk(self) -> tuple[int, float] | None:
        best = self._segment.best
        # The folder may hold the weights of another trial, as it may hold such a checkpoint.
        path, seed = self._paths.best(self._segment.execution), self._segment.seed
        known = best is not None and checkpoint.read_best(path, seed) == best
        return best if known else None

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
        # After a repair of the journal, a checkpoint may be of a later rung, whose epochs are not wanted yet.
        return saved if self._owns(saved.owner) and saved.epoch <= self._segment.to_epoch else None

    def _owns(self, owner: Mapping[str, Any]) -> bool:
        """Return whether a checkpoint is the trial's own. A user's `fit` may ask for more values after it was read."""
        values = owner["values"]
        same = all(values[name] == value for name, value in self.values.items() if name in values)
        return bool(owner["seed"] == self._segment.seed and (same if self._own_fit else values == self.values))

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
        if self._baseline is None:
            saved = () if self._continued is None else self._continued.callback_states
            self._baseline = model_state.Baseline(self.model, self._callbacks, self._unbuilt, saved)
        if self._continued is not None:
            self._continued.restore_others(self.model, self._callbacks)
        if self._inherits and self.inheritance is not None:
            self.inheritance.give_attributes(self.model)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # The user's code may use global random states, which are not in a checkpoint.
        seed = derive_seed(self._segment.seed, "epoch", self.epoch)
        keras_internals.seed_unseeded_draws(seed)
        random.seed(seed)
        np.random.seed(seed)
        if keras.config.backend() == "torch":
            import torch

            # Keras's own Dropout draws from PyTorch's global state, unless the layer has a seed.
            torch.manual_seed(seed)
        self._began = running_seconds()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        # A user's `fit` may train in several calls, each of which numbers its epochs anew.
        self.epoch += 1
        record = self._make_record(scalar_logs(logs or {}))
        stopped_by_callback = self.model.stop_training or self._is_satisfied
        last = self.epoch >= self.last_epoch
        if self._own_fit and (stopped_by_callback or last):
            self.outcome = "stopped_by_callback" if stopped_by_callback else "reached"
            self._hold(record, self.model)
            self.model.stop_training = True
        elif self._settle(record, self.model, stopped_by_callback=stopped_by_callback):
            self.model.stop_training = True

    @property
    def curve(self) -> list[dict[str, Any]]:
        """The history up to the present epoch, including an epoch that waits for `conclude`."""
        pending = [] if self._pending is None else [self._pending]
        return [record for record in self.history if record["epoch"] <= self.epoch - len(pending)] + pending

    def _hold(self, record: dict[str, Any], model: Any) -> None:
        """Keep an epoch back until it is known if it is the last: then the numbers that `fit` returns belong to it."""
        self._pending = self._known.get(self.epoch, record)
        self._state = self._capture(model)
        self._note_best(record["logs"], model)

    def _settle(self, record: dict[str, Any], model: Any, *, stopped_by_callback: bool = False) -> bool:
        """Report an epoch, and return whether the training ends with it."""
        if not self._report(record, model):
            return True
        stopped = self._is_judged(self.epoch) and self._wait_for_stop()
        last = self.epoch >= self.last_epoch
        if stopped_by_callback:
            self.outcome = "stopped_by_callback"
        elif stopped:
            self.outcome = "stopped"
        elif not last and self._channel.interrupted():
            self.outcome = "interrupted"
        ends = last or self.outcome != "reached"
        if ends or running_seconds() - self._saved_at >= self._segment.checkpoint_every:
            self._save(self._capture(model) if self._state is None else self._state, ends=ends)
        return ends

    # A user's fit ---------------------------------------------------------------------------------------------------

    def go_on(self) -> bool:
        """Report an epoch that was held back and is not the last. Return whether there is more to train."""
        record, self._pending = self._pending, None
        self.last_epoch = self._segment.to_epoch
        if self.outcome == "stopped_by_callback":
            self.outcome = "reached"  # that was the end of one call of several
        if record is not None:
            self._settle(record, self.model)
            self._state = None
        return self.outcome == "reached" and self.epoch < self._segment.to_epoch

    def begin_own_epoch(self, now: float) -> None:
        """Begin an epoch of a loop of the user's own, at the monotonic time `now`."""
        self._began = now

    def end_own_epoch(self, model: Any, logs: Mapping[str, Any]) -> None:
        """Record an epoch of a loop of the user's own. It may be the last, and the objective may be returned later."""
        self.set_model(model)
        self.epoch += 1
        record = self._make_record(scalar_logs(logs))
        self._began = running_seconds()
        if self.epoch >= self._segment.to_epoch or self._segment.objective.name not in record["logs"]:
            self._hold(record, model)
        else:
            self._settle(record, model)

    def conclude(self, model: Any, logs: Mapping[str, float]) -> None:
        """End the training. The `logs` that the user's `fit` returned belong to the last epoch and the present model.

        But a returned objective that an earlier epoch has, as of `min(history)`, belongs to that epoch. And if a loop
        of the user's own gives the objective to the callbacks, those values count.
        """
        record, self._pending = self._pending, None
        if self.outcome == "reached" and self.epoch < self._segment.to_epoch:
            self.outcome = "stopped_by_callback"  # a loop of the user's own has had all epochs that it wants
            if record is None:
                self._belonging(logs, self.curve[-1]["logs"])
                self._save(self._capture(model))
        if record is None:
            return
        if self.epoch not in self._known:
            record["logs"].update(self._belonging(logs, record["logs"]))
        if not self._report(record, model):
            return
        if self._is_judged(self.epoch):
            self._wait_for_stop()
        assert self._state is not None
        self._save(self._state)

    def _belonging(self, returned: Mapping[str, float], logs: Mapping[str, float]) -> dict[str, float]:
        """Return those of the `returned` numbers that belong to the last epoch, which has `logs`."""
        name = self._segment.objective.name
        if name not in returned or name not in logs:
            return dict(returned)
        values = [record["logs"][name] for record in self.history if name in record["logs"]]
        known = any(math.isclose(returned[name], value, rel_tol=1e-6) for value in [*values, logs[name]])
        if not known and self.anew_as != OWN_LOOP:
            return dict(returned)
        if not known:
            self.notice(
                f"fit returned {name}={returned[name]:.6g}, which none of its epochs had: the values that it gave to "
                f"the callbacks count. Leave {name} out of the callbacks' logs if the returned value shall count"
            )
        return {other: value for other, value in returned.items() if other not in logs}

    def conclude_black_box(self, model: Any, logs: Mapping[str, float], seconds: float) -> None:
        """Record the segment as one epoch with the `logs` of a user's `fit` that is a black box.

        Args:
            seconds: the duration of that `fit`.
        """
        self.anew_as = BLACK_BOX
        self.epoch = self._segment.to_epoch
        self._began = running_seconds() - seconds
        if self._report({**self._make_record(logs), "trained": self.epoch}, model):
            self._save(self._capture(model))

    # Reports and files ----------------------------------------------------------------------------------------------

    def _make_record(self, logs: Mapping[str, float]) -> dict[str, Any]:
        seconds = round(running_seconds() - self._began, 6)
        return {"epoch": self.epoch, "logs": dict(logs), "seconds": seconds, "trained": 1}

    def _report(self, record: dict[str, Any], model: Any) -> bool:
        """Report an epoch, and return False if the training has diverged in it."""
        known = self._known.get(self.epoch)
        if known is not None:
            self._send_epoch(known)
            return True
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
        if self.epoch in self._known:
            return
        if value is not None and self._segment.objective.better(value, self._best[1] if self._best else None):
            self._best = (self.epoch, value)
            self._best_weights = checkpoint.copy_weights(model) or None  # a black box may have no model
            self._weightless = self._best_weights is None
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

    def _capture(self, model: Any) -> checkpoint.TrainingState:
        """Copy the state of the training, or none if later segments begin anew."""
        if self.anew_as is not None:
            return checkpoint.TrainingState({"model": (), "optimizer": (), "callbacks": ()}, [], [])
        return checkpoint.capture_state(model, self._callbacks, self._baseline)

    def _save(self, state: checkpoint.TrainingState, *, ends: bool = True) -> None:
        """Write the best weights and a checkpoint, store them, and tell the driver.

        Args:
            ends: whether the segment ends here. Within a segment, a storage that is away costs only this checkpoint.
        """
        self._write_files(state)
        if state.lost:
            lost = ", ".join(state.lost)
            self.notice(f"the state of {lost} cannot be saved: if a trial continues later, it starts anew")
        if state.attributes.lost:
            self._notice_lost(state.attributes.lost)
        self._saved_at = running_seconds()
        try:
            self._files.store(patient=ends)
        except Unavailable as error:
            if ends:
                raise
            self.notice(f"{error}: training goes on, and the next checkpoint is stored when it is back")
            return
        self._send_checkpointed()

    def _write_files(self, state: checkpoint.TrainingState) -> None:
        if self._best_weights is not None and self._best is not None:
            path = self._paths.best(self._segment.execution)
            checkpoint.save_weights(
                path,
                self._best_weights,
                *self._best,
                owner=self._owner,
                inputs=self._inputs,
                batch=self._batch,
                attributes=self._best_attributes,
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
            whole=self.anew_as is not None,
            runner=self.anew_as,
        )

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
        path = self._paths.checkpoint(self._segment.execution)
        self._channel.send(
            Checkpointed(
                self._segment.trial,
                self._segment.execution,
                self.epoch,
                self._best[0] if self._best and not self._weightless else None,
                self.outcome == "stopped_by_callback",
                bytes=path.stat().st_size if path.exists() else 0,  # another program may have deleted it
            )
        )


def _best_of(saved: checkpoint.Checkpoint) -> tuple[int, float] | None:
    if saved.best_epoch is None or saved.best_value is None:
        return None
    return saved.best_epoch, saved.best_value
