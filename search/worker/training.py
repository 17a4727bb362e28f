"""A segment: a trial's model built, compiled, trained on from its checkpoint, and its state kept safe.

The order of asking is: `load_data`, build, compile, `fit_options`, `callbacks`. What the worker finds out it says to
the driver; the only files it writes are in the trial's own folder.
"""

from __future__ import annotations

import functools
import math
import random
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from search import space as spaces
from search.domain import Parameter, Value
from search.errors import SearchError, SpaceError
from search.messages import Answer, Question, Segment, SpaceRef, Verdict
from search.paths import TrialPaths
from search.records import Built, Checkpointed, Ended, EpochDone, Outcome
from search.space import Space
from search.trial import derive_seed
from search.worker import checkpoint, data, runner
from search.worker.channel import Channel, Interrupted
from search.worker.hp import LazyHyperParameters

_trial_folder: list[Path] = []


def trial_dir() -> Path:
    """The running trial's own folder, for callbacks that write files; while no trial runs, but its factory is called
    (a probe, a model brought back), a temporary one. SearchError outside of all of these."""
    if not _trial_folder:
        raise SearchError("search.trial_dir() is known only while a trial runs: call it in build_model or callbacks")
    return _trial_folder[-1]


@contextmanager
def trial_folder(folder: Path | None = None) -> Iterator[None]:
    """Make `folder` what `trial_dir` says; by default a temporary folder."""
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="search-")))
        folder.mkdir(parents=True, exist_ok=True)
        _trial_folder.append(folder)
        stack.callback(_trial_folder.pop)
        yield


@functools.lru_cache(maxsize=1)
def load_space(ref: SpaceRef) -> Space:
    """The user's code, run once a process."""
    return spaces.load(ref)


@functools.lru_cache(maxsize=1)
def load_data(ref: SpaceRef) -> data.Data:
    """The user's data, loaded once a process."""
    return data.prepare(load_space(ref).load_data())


@dataclass(frozen=True, slots=True)
class Ready:
    """All that a trial's hyperparameters determine."""

    model: Any
    fit_options: Mapping[str, Any]
    callbacks: list[Any]


def build(space: Space, hp: Any) -> Any:
    """A compiled model for `hp`. SpaceError where the factory gives something else."""
    model = space.build_model(hp)
    if not isinstance(model, keras.Model):
        raise SpaceError(f"build_model returned {spaces.kind(model)}: return a keras.Model (is a return missing?)")
    if space.compile_model is not None:
        compiled = space.compile_model(hp, model)
        model = compiled if isinstance(compiled, keras.Model) else model
    if not model.compiled:
        raise SpaceError(
            "the model is not compiled: call model.compile(…) in build_model, or add a compile_model(hp, model)"
        )
    return model


def make_ready(space: Space, hp: Any) -> Ready:
    """Ask the user's functions everything, in order. SpaceError where one gives what cannot be used."""
    model = build(space, hp)
    options = space.fit_options(hp) if space.fit_options else {}
    if not isinstance(options, Mapping):
        raise SpaceError(f"fit_options returned {spaces.kind(options)}: return a dict")
    callbacks = space.callbacks(hp) if space.callbacks else []
    if isinstance(callbacks, keras.callbacks.Callback):
        callbacks = [callbacks]
    if not isinstance(callbacks, (list, tuple)):
        raise SpaceError(f"callbacks returned {spaces.kind(callbacks)}: return a list of Keras callbacks")
    for callback in callbacks:
        if not isinstance(callback, keras.callbacks.Callback):
            raise SpaceError(f"callbacks returned a list with {callback!r}: return a list of Keras callbacks")
    return Ready(model, options, list(callbacks))


class _Recorder(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped
    """The last callback of every trial: reports epochs, keeps checkpoints, and ends the training when it must."""

    def __init__(self, segment: Segment, channel: Channel, callbacks: list[Any], values: Mapping[str, Value]) -> None:
        super().__init__()
        # A checkpoint of another trial may lie here: a journal was cut short, or deleted by hand.
        self._owner = {"seed": segment.seed, "values": dict(values)}
        self._segment = segment
        self._channel = channel
        self._callbacks = callbacks
        self._paths = TrialPaths(Path(segment.folder))
        self._restored: checkpoint.Checkpoint | None = None
        self._history: list[dict[str, Any]] = []
        self._best: tuple[int, float] | None = None
        self._best_weights: list[Any] | None = None
        self._began = self._saved = time.monotonic()
        self._warned = False
        self.epoch = 0
        self.outcome: Outcome = "reached"
        self.error: str | None = None

    def restore(self, model: Any) -> None:
        """Go on from the trial's checkpoint, where it has one; tell the driver what its journal has missed."""
        path = self._paths.checkpoint(self._segment.execution)
        if not path.exists():
            return
        saved = checkpoint.load(path)
        if saved.owner != self._owner:
            return
        self._restored = saved
        saved.restore(model)
        self.epoch, self._history = saved.epoch, list(saved.history)
        if saved.best_epoch is not None and saved.best_value is not None:
            self._best = (saved.best_epoch, saved.best_value)
        if saved.finished:
            self.outcome = "finished"
        for record in self._history[self._segment.from_epoch :]:
            self._send_epoch(**record)
            if self._is_judged(record["epoch"]) and self._judged_to_stop():
                self.outcome = "stopped"
        self._send_checkpointed()

    def on_train_begin(self, logs: Any = None) -> None:
        # Being last, this runs when the others have been reset.
        if self._restored is not None:
            self._restored.restore_callbacks(self._callbacks)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # The user's code may use global random states, which no checkpoint holds.
        seed = derive_seed(self._segment.seed, "epoch", epoch)
        random.seed(seed)
        np.random.seed(seed)
        self._began = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch + 1
        numbers = {name: float(value) for name, value in (logs or {}).items() if np.ndim(value) == 0}
        record: dict[str, Any] = {"epoch": self.epoch, "logs": numbers}
        record["seconds"] = round(time.monotonic() - self._began, 6)
        self._history.append(record)
        if self._diverged(numbers):
            self._send_epoch(**record)
            self.model.stop_training = True
            return
        self._note_best(numbers)
        last = self.epoch >= self._segment.to_epoch
        finished = self.model.stop_training
        self._send_epoch(**record)
        stopped = self._is_judged(self.epoch) and self._judged_to_stop()
        if finished:
            self.outcome = "finished"
        elif stopped:
            self.outcome = "stopped"
        elif not last and self._channel.interrupted():
            self.outcome = "interrupted"
        ends = last or self.outcome != "reached"
        if ends or time.monotonic() - self._saved >= self._segment.checkpoint_every:
            self._save()
        if ends:
            self.model.stop_training = True

    def _diverged(self, logs: Mapping[str, float]) -> bool:
        for name in ("loss", self._segment.objective.name):
            if name in logs and not math.isfinite(logs[name]):
                self.outcome = "failed"
                self.error = f"diverged: {name} is {logs[name]} at epoch {self.epoch}"
                return True
        return False

    def _note_best(self, logs: Mapping[str, float]) -> None:
        value = logs.get(self._segment.objective.name)
        if value is not None and self._segment.objective.better(value, self._best[1] if self._best else None):
            self._best = (self.epoch, value)
            self._best_weights = checkpoint.snapshot(self.model)

    def _is_judged(self, epoch: int) -> bool:
        return self._segment.judged and epoch < self._segment.to_epoch

    def _judged_to_stop(self) -> bool:
        try:
            verdict = self._channel.receive()
        except Interrupted:
            return False
        return isinstance(verdict, Verdict) and verdict.stop

    def _save(self) -> None:
        if self._best_weights is not None and self._best is not None:
            checkpoint.save_weights(self._paths.best(self._segment.execution), self._best_weights, *self._best)
            self._best_weights = None
        lost = checkpoint.save(
            self._paths.checkpoint(self._segment.execution),
            self.model,
            self._callbacks,
            owner=self._owner,
            history=self._history,
            best_epoch=self._best[0] if self._best else None,
            best_value=self._best[1] if self._best else None,
            finished=self.outcome == "finished",
        )
        if lost and not self._warned:
            self._warned = True
            print(f"search: the state of {', '.join(lost)} cannot be saved: after a resume it begins anew", flush=True)
        self._saved = time.monotonic()
        self._send_checkpointed()

    def _send_epoch(self, epoch: int, logs: Mapping[str, float], seconds: float) -> None:
        self._channel.send(EpochDone(self._segment.trial, self._segment.execution, epoch, logs, seconds))

    def _send_checkpointed(self) -> None:
        best = self._best[0] if self._best else None
        finished = self.outcome == "finished"
        self._channel.send(Checkpointed(self._segment.trial, self._segment.execution, self.epoch, best, finished))


def run_segment(segment: Segment, channel: Channel) -> None:
    """Train a segment and report how it ended. Nothing that the user's code raises gets out."""
    paths = TrialPaths(Path(segment.folder))
    epoch, outcome, error = segment.from_epoch, "failed", None
    try:
        with trial_folder(paths.folder):
            recorder = _train(segment, channel)
        epoch, outcome, error = recorder.epoch, recorder.outcome, recorder.error
    except Interrupted:
        outcome = "interrupted"
    except (Exception, SystemExit) as exception:
        path = Path(segment.space.path) if segment.space.path else None
        error = spaces.describe(exception, path)
        paths.traceback.write_text(traceback.format_exc())
    channel.send(Ended(segment.trial, segment.execution, outcome, epoch, error))  # type: ignore[arg-type]


def _train(segment: Segment, channel: Channel) -> _Recorder:
    def ask(parameter: Parameter) -> Value:
        channel.send(Question(segment.trial, parameter))
        answer = channel.receive()
        if not isinstance(answer, Answer):
            raise Interrupted
        if answer.error is not None:
            raise SpaceError(answer.error)
        return answer.value

    space, samples = load_space(segment.space), load_data(segment.space)
    # Layers' names count on from model to model; a trial's are the same in every worker.
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(segment.seed)
    hp = LazyHyperParameters(ask, segment.values)
    ready = make_ready(space, hp)
    recorder = _Recorder(segment, channel, ready.callbacks, hp.used_values)
    callbacks = [*ready.callbacks, recorder]
    trainer = runner.choose(ready.model, samples, ready.fit_options, segment.seed, callbacks, segment.fuse)
    channel.send(Built(segment.trial, int(ready.model.count_params()), trainer.name))
    recorder.restore(ready.model)
    if recorder.epoch < segment.to_epoch and recorder.outcome == "reached":
        trainer.run(recorder.epoch, segment.to_epoch, callbacks)
    return recorder
