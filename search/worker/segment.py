"""A segment: the worker builds and compiles a trial's model, trains it from the trial's checkpoint on, and saves it.

The user's functions are called in the order `load_data`, `build_model`, `compile_model`, `fit_options`, `callbacks`,
`fit`. The worker reports facts to the driver, and writes files only into the trial's own folder.
"""

from __future__ import annotations

import functools
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
from keras_tuner.errors import FatalError

from search.errors import SearchError, SpaceError
from search.messages import Answer, Notice, Question, Segment
from search.space.domain import Parameter, Value
from search.space.file import (
    Space,
    SpaceRef,
    describe_error,
    describe_type,
    format_traceback,
    without_arguments,
)
from search.study.paths import TrialPaths
from search.study.records import Built, DataLoaded, Outcome, SegmentEnded
from search.worker import autologging, model_cache, outputs
from search.worker.capabilities import describe_off, lines_of_off, public_calls_only
from search.worker.channel import Channel, Interrupted
from search.worker.data import shared
from search.worker.data.arrays import Data, prepare_data, spec_to_json, split_off
from search.worker.data.fingerprint import fingerprint_data
from search.worker.data.streams import Stream
from search.worker.failures import classify_failure
from search.worker.hp import LazyHyperParameters
from search.worker.imported_state import ImportedState
from search.worker.keras_internals import used_names
from search.worker.keras_session import import_space, names_after, session
from search.worker.model_cache import Training
from search.worker.own_training import BeginAnew, OwnTraining, digest_weights
from search.worker.recorder import Recorder
from search.worker.runners.choose import CANNOT_FUSE, choose_runner, create_weights
from search.worker.runners.fused import clear_device_copies
from search.worker.runners.graph_cache import clear_graph_cache, make_model_key
from search.worker.runners.own_fit import BLACK_BOX, EndFit, call_own_fit, returned_logs

_trial_folder: list[Path] = []


def trial_dir() -> Path:
    """Return the running trial's own folder, for callbacks that write files.

    If a factory is called while no trial runs, in a probe or to rebuild a model, the folder is a temporary one.

    Raises:
        SearchError: if called at any other time.
    """
    if not _trial_folder:
        raise SearchError("search.trial_dir() is known only while a trial runs: call it in build_model or callbacks")
    return _trial_folder[-1]


@contextmanager
def trial_folder(folder: Path | None = None) -> Iterator[None]:
    """Make `trial_dir` return `folder`, by default a temporary folder, within the context."""
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
    """Run the user's code, once per process, and return its functions."""
    space = import_space(ref)
    _imported[ref] = ImportedState(ref, space)
    return space


def load_unused_space(ref: SpaceRef) -> Space:
    """Return the user's functions, with all Keras objects that the code has made as before the first model."""
    space = load_space(ref)
    if not _imported[ref].reset():
        load_space.cache_clear()
        _loaded.discard(ref)
        clear_data()
        space = load_space(ref)
    return space


def adapts_objects(ref: SpaceRef) -> bool:
    """Return whether `load_data` has changed Keras objects that the code has made while it was imported."""
    return ref in _adapted


_imported: dict[SpaceRef, ImportedState] = {}
"""The state of the objects that the user's code has made before the first model."""
_loaded: set[SpaceRef] = set()
"""The code whose `load_data` has been called since its import."""
_adapted: set[SpaceRef] = set()


_arrays: dict[SpaceRef, Data] = {}
_counts: dict[tuple[SpaceRef, str], int] = {}


_data_names: dict[SpaceRef, Mapping[str, int]] = {}
"""The names that are taken once the data are loaded, where `load_data` changes a global name of the user's modules."""


def taken_names(ref: SpaceRef) -> Mapping[str, int]:
    """Return the names that a model's layers must come after: those of layers that the user's code may put into it."""
    return _data_names.get(ref, load_space(ref).names)


_reported: set[tuple[SpaceRef, str]] = set()
"""The data that this process has reported, by `DataLoaded.key`."""


def clear_caches() -> None:
    """Drop the space, the data, all models and all graphs of this process."""
    load_space.cache_clear()
    model_cache.clear_model_cache()
    clear_graph_cache()
    clear_data()


def clear_data() -> None:
    """Drop the data, so that they are loaded anew when next needed."""
    _arrays.clear()
    _counts.clear()
    _data_names.clear()
    _reported.clear()
    split_off.cache_clear()
    clear_device_copies()


def load_data(ref: SpaceRef, hp: Any = None, folder: str | None = None) -> Data:
    """Return the user's data. Arrays are loaded once per process; streams, and data that depend on `hp`, each time.

    Args:
        hp: the hyperparameters, for a `load_data` that takes them.
        folder: the folder in which another process may have put the arrays that all workers share.
    """
    if ref in _arrays:
        return _arrays[ref]
    space = load_space(ref)
    loaded = shared.load_arrays(folder) if folder is not None else None
    if loaded is None:
        # The user's unseeded shuffles and splits must be the same in every process.
        keras.utils.set_random_seed(0)
        loaded = prepare_data(_call_load_data(ref, space, hp))
    split_off.cache_clear()
    clear_device_copies()
    if loaded.is_arrays and not space.data_takes_hp:
        _arrays.clear()
        _arrays[ref] = loaded
    return loaded


def _call_load_data(ref: SpaceRef, space: Space, hp: Any) -> Any:
    path = Path(ref.path) if ref.path else None
    before = shared.module_globals(path)
    with names_after(space.names):
        raw = space.load_data(hp) if space.data_takes_hp else space.load_data()
        if shared.module_globals(path) != before:
            _data_names.setdefault(ref, used_names())
    if ref not in _loaded:
        _loaded.add(ref)
        if not _imported[ref].is_unchanged:
            _adapted.add(ref)
            _imported[ref] = ImportedState(ref, space)
    return raw


def count_batches(ref: SpaceRef, data: Data, options: Mapping[str, Any], tell: Callable[[str], None]) -> Data:
    """Return `data` with the number of batches of each stream for which the user's options do not say how many to read.

    The batches of what `load_data` returns are counted once per process.

    Args:
        options: the user's options for `model.fit`.
        tell: shows a text to the user, if counting takes long.
    """

    def counted(name: str, part: Any) -> Any:
        is_known = not isinstance(part, Stream) or part.batches is not None or part.endless
        return part if is_known or options.get(_STEP_OPTIONS[name]) is not None else _count(ref, name, part, tell)

    return replace(data, train=counted("train", data.train), validation=counted("validation", data.validation))


_STEP_OPTIONS = {"train": "steps_per_epoch", "validation": "validation_steps"}


def _count(ref: SpaceRef, name: str, part: Stream, tell: Callable[[str], None]) -> Stream:
    key, space = (ref, name), load_space(ref)
    if space.data_takes_hp or space.fit is not None or key not in _counts:
        _counts[key] = part.count(
            lambda: tell(
                f"load_data: the batches of the {name} data are being counted, by reading all of them: give "
                f"{_STEP_OPTIONS[name]} in fit_options, and they are not counted (if they have no end, there is no "
                "other way)"
            )
        )
    elif part.kind == "dataset":
        iter(part.source)  # counting would have advanced its shuffle as well
    return replace(part, batches=_counts[key])


def data_values(ref: SpaceRef, hp: LazyHyperParameters) -> Mapping[str, Value]:
    """Return the values that `load_data` has asked `hp` for, right after it was called; none if it takes no `hp`."""
    return dict(hp.used_values) if load_space(ref).data_takes_hp else {}


@dataclass(frozen=True, slots=True)
class TrialSetup:
    """A trial's compiled model, fit options and callbacks, as the user's functions returned them."""

    model: Any
    fit_options: Mapping[str, Any]
    callbacks: list[Any]


def build_trial_model(space: Space, hp: Any) -> Any:
    """Build a compiled model for `hp`. SpaceError if the factory returns anything else."""
    model = space.build_model(hp)
    if not isinstance(model, keras.Model):
        if _is_keras_2(model):
            raise SpaceError(f"build_model returned a Keras 2 model; {_KERAS_3}")
        hint = " (is a return missing?)" if model is None else ""
        shown = f"the class {model.__name__}" if isinstance(model, type) else describe_type(model)
        raise SpaceError(f"build_model returned {shown}: return a keras.Model{hint}")
    if space.compile_model is not None:
        compiled = space.compile_model(hp, model)
        model = compiled if isinstance(compiled, keras.Model) else model
    if not model.compiled and space.fit is None:
        raise SpaceError(
            "the model is not compiled: call model.compile(…) in build_model, or add a compile_model(hp, model)"
        )
    return model


def set_up_trial(space: Space, hp: Any) -> TrialSetup:
    """Call the user's functions in order. SpaceError if one returns an unusable value."""
    model = build_trial_model(space, hp)
    options = space.fit_options(hp) if space.fit_options else {}
    if not isinstance(options, Mapping):
        raise SpaceError(f"fit_options returned {describe_type(options)}: return a dict")
    callbacks = space.make_callbacks(hp, model)
    if isinstance(callbacks, keras.callbacks.Callback):
        callbacks = [callbacks]
    if any(map(_is_keras_2, callbacks if isinstance(callbacks, (list, tuple)) else [callbacks])):
        raise SpaceError(f"callbacks returned a Keras 2 callback; {_KERAS_3}")
    if not isinstance(callbacks, (list, tuple)):
        raise SpaceError(f"callbacks returned {describe_type(callbacks)}: return a list of Keras callbacks")
    for callback in callbacks:
        if not isinstance(callback, keras.callbacks.Callback):
            raise SpaceError(f"callbacks returned a list with {callback!r}: return a list of Keras callbacks")
    hp.note_own_values()
    return TrialSetup(model, options, list(callbacks))


_KERAS_3 = "search trains with Keras 3: import keras in place of tf_keras, and unset TF_USE_LEGACY_KERAS"


def _is_keras_2(value: Any) -> bool:
    """Return whether a value is of a class of Keras 2, or of a subclass."""
    cls = value if isinstance(value, type) else type(value)
    return any(base.__module__.partition(".")[0] == "tf_keras" for base in cls.__mro__)


# A segment ------------------------------------------------------------------------------------------------------------


def run_segment(segment: Segment, channel: Channel) -> None:
    """Train a segment and report how it ended. An exception of the user's code is reported, never raised."""
    paths = TrialPaths(Path(segment.folder))
    epoch, error = segment.from_epoch, None
    outcome: Outcome
    try:
        with (
            trial_folder(paths.folder),
            without_arguments(segment.space),
            public_calls_only(not segment.graph_sharing),
        ):
            recorder = _SegmentRun(segment, channel).run()
        epoch, outcome, error = recorder.epoch, recorder.outcome, recorder.error
    except Interrupted:
        outcome = "interrupted"
    except KeyboardInterrupt:
        raise  # the user interrupts an inline search
    except BaseException as exception:
        path = Path(segment.space.path) if segment.space.path else None
        outcome, error = classify_failure(exception, describe_error(exception, path, elsewhere=segment.space.label))
        with suppress(OSError):
            paths.traceback.write_text(format_traceback())
    channel.send(SegmentEnded(segment.trial, segment.execution, outcome, epoch, error))


class _SegmentRun:
    """The training of one segment."""

    def __init__(self, segment: Segment, channel: Channel) -> None:
        self._segment = segment
        self._channel = channel
        self._space = load_unused_space(segment.space)
        self._hp = LazyHyperParameters(self._ask, segment.values)

    def run(self) -> Recorder:
        try:
            return self._run()
        except BeginAnew:
            return self._run(anew=True)

    def _run(self, *, anew: bool = False) -> Recorder:
        segment, space = self._segment, self._space
        self._hp = LazyHyperParameters(self._ask, {**segment.values, **self._hp.used_values})
        model_cache.keep_only((*segment.cached_trials, segment.trial))
        data = load_data(segment.space, self._hp, segment.data)
        values = data_values(segment.space, self._hp)
        if (cached := model_cache.find_cached(segment)) is not None:
            data = self._report_data(values, data, cached.options)
            recorder = self.make_recorder(data, values=segment.values)
            if recorder.saved is not None:
                self.train(cached, data, recorder)
                return recorder
        with session(segment.seed, taken_names(segment.space)):
            setup = set_up_trial(space, self._hp)
            # A user's `fit` has its own number of steps.
            data = self._report_data(values, data, setup.fit_options if space.fit is None else None)
            if space.fit is not None:
                return self._run_own_fit(setup, data, anew=anew)
            recorder = self.make_recorder(data)
            self.train(self._make_training(setup, data, recorder), data, recorder)
            return recorder

    def _report_data(self, values: Mapping[str, Value], data: Data, options: Mapping[str, Any] | None) -> Data:
        """Report the data, once for each set of values that `load_data` asked for. Return them with counted batches.

        Args:
            options: the user's options for `model.fit`; None if batches are not counted.
        """
        segment = self._segment
        if options is not None:
            data = count_batches(segment.space, data, options, self._tell)
        if segment.data is not None and data.is_arrays:
            return data  # the probe has loaded them for all workers
        key = json.dumps(values, sort_keys=True)
        if (segment.space, key) not in _reported:
            _reported.add((segment.space, key))
            self._channel.send(DataLoaded(values, fingerprint_data(data)))
        return data

    def _tell(self, text: str) -> None:
        print(f"search: {text}", flush=True)
        self._channel.send(Notice(self._segment.trial, text))

    def _ask(self, parameter: Parameter) -> Value:
        self._channel.send(Question(self._segment.trial, parameter))
        answer = self._channel.receive()
        if not isinstance(answer, Answer):
            raise Interrupted
        if answer.error is not None:
            raise SpaceError(answer.error)
        return answer.value

    def make_recorder(self, data: Data, *, anew: bool = False, values: Mapping[str, Value] | None = None) -> Recorder:
        """Return a recorder for a training on `data`; the other arguments are as in `Recorder`."""
        spec = data.train.step_spec
        return Recorder(
            self._segment,
            self._channel,
            self._hp.used_values if values is None else values,
            spec_to_json(keras.utils.unpack_x_y_sample_weight(spec)[0]),
            spec_to_json(spec),
            own_fit=self._space.fit is not None,
            anew=anew,
        )

    def _make_training(self, setup: TrialSetup, data: Data, recorder: Recorder) -> Training:
        model, user_callbacks = setup.model, self.redirect(setup.callbacks, recorder)
        if self._segment.run_eagerly:
            model.run_eagerly = True
        create_weights(model, data.train)
        self._check_size(model)
        # If data depend on the hyperparameters, graphs may differ although the models do not. Models that have objects
        # in common are used one at a time.
        alone = self._space.data_takes_hp or _imported[self._segment.space].is_in(model)
        model_key = None if alone else make_model_key(model, user_callbacks)
        return Training(model, setup.fit_options, user_callbacks, model_key)

    def _check_size(self, model: Any) -> None:
        if model.built:
            self._segment.check_size(int(model.count_params()))

    def redirect(self, callbacks: list[Any], recorder: Recorder) -> list[Any]:
        """Redirect the user's callbacks into the trial's own folder."""
        folder = Path(self._segment.folder)
        if self._segment.execution:
            folder /= f"execution-{self._segment.execution}"
        redirected = outputs.redirect_callbacks(callbacks, folder, recorder.notice)
        outputs.resume_outputs(redirected, 0)  # this makes the folders
        return redirected

    def train(self, training: Training, data: Data, recorder: Recorder, initial_epoch: int = 0) -> None:
        """Train from the trial's checkpoint up to the recorder's last epoch.

        Args:
            initial_epoch: Keras's number of the trial's first epoch.
        """
        segment, model, user_callbacks = self._segment, training.model, training.callbacks
        if self._space.fit is not None:
            self._check_size(model)
        callbacks = [*user_callbacks, recorder]
        data = count_batches(segment.space, data, training.options, self._tell)
        runner = choose_runner(model, data, training.options, segment.seed, callbacks, segment.fuse, training.model_key)
        self.report_built(model, runner.name)
        if CANNOT_FUSE in runner.name:
            recorder.notice(f"a model is trained by {runner.name}: its traceback is in the trial's log")
        if runner.name == "fused" and autologging.is_autologging():
            recorder.notice(autologging.BYPASSED)
        recorder.restore(model, user_callbacks)
        outputs.resume_outputs(user_callbacks, initial_epoch + recorder.epoch if recorder.epoch else 0)
        if recorder.epoch < recorder.last_epoch and recorder.outcome == "reached":
            runner.run(initial_epoch + recorder.epoch, initial_epoch + recorder.last_epoch, callbacks)
        model_cache.cache_model(segment, training, recorder.values)

    def report_built(self, model: Any, runner: str) -> None:
        """Report the model to the driver, and tell the user which capabilities are off."""
        for line in lines_of_off():
            self._tell(line)
        count = int(model.count_params()) if model.built else 0
        own_fit = self._space.fit is not None
        self._channel.send(
            Built(self._segment.trial, count, describe_off(runner), own_fit, black_box=runner == BLACK_BOX)
        )

    # A user's own fit -----------------------------------------------------------------------------------------------

    def _run_own_fit(self, setup: TrialSetup, data: Data, *, anew: bool) -> Recorder:
        segment, model = self._segment, setup.model
        self._check_size(model)
        earlier = self.make_recorder(data)
        if (runner := earlier.report_again()) is not None:
            self.report_built(model, runner)
            return earlier
        if earlier.saved is None:
            _ = earlier.inheritance  # refused before the user's fit takes its time
        untrained = digest_weights(model)
        own = OwnTraining(segment, model, data, self, earlier, anew=anew or earlier.begins_anew)
        began = time.monotonic()
        try:
            returned = call_own_fit(
                self._space,
                self._hp,
                model,
                data,
                epochs=segment.to_epoch,
                options=setup.fit_options,
                callbacks=self.redirect(setup.callbacks, earlier),
                trainer=own,
            )
        except EndFit:
            assert own.recorder is not None
            return own.recorder
        except Exception as error:
            # After a training that was cut short, the user's code may miss results of a complete one. But a fatal error
            # is meant if the search did not stop the training itself.
            meant = isinstance(error, FatalError) and own.recorder is not None and own.recorder.outcome == "failed"
            if own.recorder is not None and own.is_cut_short and not meant:
                return own.recorder
            raise
        if own.recorder is None or not own.recorder.epoch:
            if digest_weights(model) == untrained:
                earlier.notice(
                    "fit has not trained the model that it was given: that is the model that comes back, whatever "
                    "other model the result is of"
                )
            return self._conclude_black_box(model, data, returned, own, time.monotonic() - began)
        logs = returned_logs(returned, segment.objective, own=own.histories, kept=own.kept)
        own.recorder.conclude(model, logs)
        return own.recorder

    def _conclude_black_box(self, model: Any, data: Data, returned: Any, own: OwnTraining, seconds: float) -> Recorder:
        logs = returned_logs(returned, self._segment.objective, kept=own.kept, required=True)
        if not logs:
            raise SpaceError(
                "fit trained no epoch and returned no number: give model.fit the epochs and the callbacks that fit was "
                "given, or return the objective"
            )
        self.report_built(model, BLACK_BOX)
        recorder = self.make_recorder(data, anew=True)
        recorder.conclude_black_box(model, logs, seconds)
        return recorder
