"""A segment: a trial's model built, compiled, trained on from its checkpoint, and its state kept safe.

The order of asking is: `load_data`, build, compile, `fit_options`, `callbacks`, `fit`. What the worker finds out it
says to the driver; the only files it writes are in the trial's own folder.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras

from search.errors import SearchError, SpaceError
from search.messages import Answer, Question, Segment
from search.space import file as spaces
from search.space.domain import Parameter, Value
from search.space.file import Space, SpaceRef
from search.study.paths import TrialPaths
from search.study.records import Built, Outcome, SegmentEnded
from search.worker import failures as shortage
from search.worker import model_cache as held
from search.worker import outputs
from search.worker.channel import Channel, Interrupted
from search.worker.data import arrays as datas
from search.worker.data import shared
from search.worker.data.arrays import Data
from search.worker.data.streams import Stream
from search.worker.hp import LazyHyperParameters
from search.worker.keras_session import session
from search.worker.model_cache import Training
from search.worker.recorder import Recorder
from search.worker.runners import choose as runner
from search.worker.runners import graph_cache as graphs
from search.worker.runners import own_fit
from search.worker.runners.fused import forget_copies

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


# The user's functions -------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def load_space(ref: SpaceRef) -> Space:
    """The user's code, run once a process."""
    return spaces.load(ref)


_arrays: dict[SpaceRef, Data] = {}
_counts: dict[tuple[SpaceRef, str], int] = {}


def forget() -> None:
    """Load space and data anew when they are next asked for, and build all models anew."""
    load_space.cache_clear()
    held.drop_all()
    graphs.drop_all()
    forget_data()


def forget_data() -> None:
    """Load the data anew when they are next asked for."""
    _arrays.clear()
    _counts.clear()
    forget_copies()


def load_data(ref: SpaceRef, hp: Any = None, folder: str | None = None) -> Data:
    """The user's data. Arrays are loaded once a process; streams, and what depends on `hp`, anew each time.

    Args:
        hp: for a `load_data` that takes it.
        folder: where another process may have put the arrays, for all to share.
    """
    if ref in _arrays:
        return _arrays[ref]
    space = load_space(ref)
    loaded = shared.load(folder) if folder is not None else None
    if loaded is None:
        # Shuffles and splits of the user's that are not seeded come out the same in every process.
        keras.utils.set_random_seed(0)
        loaded = datas.prepare(space.load_data(hp) if space.data_takes_hp else space.load_data())
    forget_copies()
    if loaded.is_arrays and not space.data_takes_hp:
        _arrays.clear()
        _arrays[ref] = loaded
    return replace(
        loaded, train=_counted(ref, "train", loaded.train), validation=_counted(ref, "validation", loaded.validation)
    )


def _counted(ref: SpaceRef, name: str, part: Any) -> Any:
    """A stream that knows how many batches it has. It is counted once a process."""
    if not isinstance(part, Stream) or part.batches is not None or part.endless:
        return part
    key = ref, name
    if load_space(ref).data_takes_hp or key not in _counts:
        _counts[key] = part.count()
    elif part.kind == "dataset":
        iter(part.source)  # as far as counting would have shuffled it
    return replace(part, batches=_counts[key])


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
    if not model.compiled and space.fit is None:
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


# A segment ------------------------------------------------------------------------------------------------------------


def run_segment(segment: Segment, channel: Channel) -> None:
    """Train a segment and report how it ended. Nothing that the user's code raises gets out."""
    paths = TrialPaths(Path(segment.folder))
    epoch, error = segment.from_epoch, None
    outcome: Outcome
    try:
        with trial_folder(paths.folder):
            recorder = _Training(segment, channel).run()
        epoch, outcome, error = recorder.epoch, recorder.outcome, recorder.error
    except Interrupted:
        outcome = "interrupted"
    except KeyboardInterrupt:
        raise  # inline, the user can wait no longer
    except BaseException as exception:
        path = Path(segment.space.path) if segment.space.path else None
        outcome, error = shortage.classify(exception, spaces.describe(exception, path, elsewhere=segment.space.label))
        with suppress(OSError):
            paths.traceback.write_text(spaces.trace())
    channel.send(SegmentEnded(segment.trial, segment.execution, outcome, epoch, error))


class _Training:
    """One segment's training."""

    def __init__(self, segment: Segment, channel: Channel) -> None:
        self._segment = segment
        self._channel = channel
        self._space = load_space(segment.space)
        self._hp = LazyHyperParameters(self._ask, segment.values)

    def run(self) -> Recorder:
        segment, space = self._segment, self._space
        held.keep((*segment.cached_trials, segment.trial))
        data = load_data(segment.space, self._hp, segment.data)
        if (before := held.take(segment)) is not None:
            recorder = self._recorder(data, values=segment.values)
            if recorder.found is not None:
                self._train_on(before, data, recorder)
                return recorder
        with session(segment.seed):
            ready = make_ready(space, self._hp)
            if space.fit is not None:
                return self._run_own_fit(ready, data)
            recorder = self._recorder(data)
            self._train_on(self._prepared(ready, data, recorder), data, recorder)
            return recorder

    def _ask(self, parameter: Parameter) -> Value:
        self._channel.send(Question(self._segment.trial, parameter))
        answer = self._channel.receive()
        if not isinstance(answer, Answer):
            raise Interrupted
        if answer.error is not None:
            raise SpaceError(answer.error)
        return answer.value

    def _recorder(
        self, data: Data, last_epoch: int | None = None, values: Mapping[str, Value] | None = None
    ) -> Recorder:
        return Recorder(
            self._segment,
            self._channel,
            self._hp.used_values if values is None else values,
            datas.describe(data.train.x_spec),
            own_fit=self._space.fit is not None,
            last_epoch=last_epoch,
        )

    def _prepared(self, ready: Ready, data: Data, recorder: Recorder) -> Training:
        model, user = ready.model, self._apart(ready.callbacks, recorder)
        if self._segment.run_eagerly:
            model.run_eagerly = True
        runner.build(model, data.train.x_spec)
        # Data that depend on the hyperparameters are another reason why graphs differ.
        signature = None if self._space.data_takes_hp else graphs.sign(model, user)
        return Training(model, ready.fit_options, user, signature)

    def _apart(self, callbacks: list[Any], recorder: Recorder) -> list[Any]:
        """The user's callbacks, writing into the trial's own folder."""
        folder = Path(self._segment.folder)
        if self._segment.execution:
            folder /= f"execution-{self._segment.execution}"
        return outputs.keep_apart(callbacks, folder, recorder.notice)

    def _train_on(self, training: Training, data: Data, recorder: Recorder) -> None:
        """Train as far as the segment goes, from the trial's checkpoint on."""
        segment, model, user = self._segment, training.model, training.callbacks
        callbacks = [*user, recorder]
        trainer = runner.choose(
            model, data, training.options, segment.seed, callbacks, segment.fuse, training.signature
        )
        self._built(model, trainer.name)
        recorder.restore(model, user)
        outputs.go_on(user, recorder.epoch)
        if recorder.epoch < recorder.last_epoch and recorder.outcome == "reached":
            trainer.run(recorder.epoch, recorder.last_epoch, callbacks)
        held.hold(segment, training, recorder.values)

    def _built(self, model: Any, trainer: str) -> None:
        count = int(model.count_params()) if model.built else 0
        self._channel.send(Built(self._segment.trial, count, trainer, own_fit=self._space.fit is not None))

    # A fit of the user's --------------------------------------------------------------------------------------------

    def _run_own_fit(self, ready: Ready, data: Data) -> Recorder:
        segment, model = self._segment, ready.model
        whole = self._recorder(data)
        if whole.restore_whole():
            self._built(model, WHOLE)
            return whole
        recorders: list[Recorder] = []
        histories: list[Any] = []

        def train(call: own_fit.Call) -> Any:
            recorder = self._recorder(call.data, call.epochs)
            recorders.append(recorder)
            if segment.run_eagerly:
                model.run_eagerly = True
            self._train_on(Training(model, call.options, self._apart(call.callbacks, recorder)), call.data, recorder)
            histories.append(_history(model, recorder))
            return histories[0]

        began = time.monotonic()
        try:
            returned = own_fit.call(
                self._space,
                self._hp,
                model,
                data,
                epochs=segment.to_epoch,
                initial_epoch=0,
                options=ready.fit_options,
                callbacks=ready.callbacks,
                train=train,
            )
        except Exception:
            # What it wanted of a whole training it may not find in one that was cut short.
            if recorders and recorders[0].outcome in ("interrupted", "stopped", "failed"):
                return recorders[0]
            raise
        if recorders:
            recorders[0].conclude(model, own_fit.logs_of(returned, segment.objective, histories[0], whole=False))
            return recorders[0]
        self._built(model, WHOLE)
        logs = own_fit.logs_of(returned, segment.objective, None, whole=True)
        whole.conclude_whole(model, logs, time.monotonic() - began)
        return whole


WHOLE = "own fit: begins anew for each segment"


def _history(model: Any, recorder: Recorder) -> Any:
    """What `model.fit` would have returned for all epochs so far."""
    history = keras.callbacks.History()
    history.set_model(model)
    history.on_train_begin()
    for record in recorder.curve:
        history.on_epoch_end(record["epoch"] - 1, record["logs"])
    model.history = history
    return history
