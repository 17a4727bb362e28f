"""A segment: the worker builds and compiles a trial's model, trains it from the trial's checkpoint on, and saves it.

The worker reports facts to the driver, and writes files only into the trial's own folder. If that is scratch, the files
come from the trial's storage before the training, and go there before the driver is told of them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras
from keras_tuner.errors import FatalError

from search.errors import SearchError, SpaceError
from search.messages import Answer, Notice, Question, Segment, StoppedAtOnce
from search.space.domain import Parameter, Value
from search.space.file import describe_error, format_traceback, without_arguments
from search.storage.trial_files import TrialFiles, localize, open_files
from search.study.paths import TrialPaths
from search.study.records import Built, DataLoaded, Outcome, SegmentEnded
from search.worker import autologging, device_memory, model_cache, outputs
from search.worker.capabilities import describe_off, lines_of_off, public_calls_only
from search.worker.channel import Channel, Interrupted
from search.worker.data.arrays import Data, spec_to_json
from search.worker.data.fingerprint import fingerprint_data
from search.worker.failures import classify_failure
from search.worker.hp import LazyHyperParameters
from search.worker.keras_session import session
from search.worker.model_cache import Training
from search.worker.own_process import end_if_forked
from search.worker.own_training import BeginAnew, OwnTraining, digest_weights
from search.worker.recorder import Recorder
from search.worker.runners.choose import Runner, choose_runner, create_weights
from search.worker.runners.fused import CANNOT_FUSE
from search.worker.runners.graph_cache import clear_graph_cache, make_model_key
from search.worker.runners.own_fit import BLACK_BOX, EndFit, call_own_fit, returned_logs
from search.worker.running_seconds import running_seconds
from search.worker.user_code import (
    TrialSetup,
    clear_user_code,
    count_batches,
    data_values,
    has_common_objects,
    is_reported,
    load_data,
    load_unused_space,
    set_up_trial,
    taken_names,
    trial_folder,
)


def clear_caches() -> None:
    """Drop the space, the data, all models and all graphs of this process."""
    clear_user_code()
    model_cache.clear_model_cache()
    clear_graph_cache()


def run_segment(segment: Segment, channel: Channel) -> None:
    """Train a segment and report how it ended. An exception of the user's code is reported, never raised."""
    segment = localize(segment)
    paths = TrialPaths(Path(segment.folder))
    epoch, error = segment.from_epoch, None
    files = TrialFiles()
    outcome: Outcome
    try:
        files = open_files(segment, channel.ask)
        files.fetch()
        with (
            trial_folder(paths.folder),
            without_arguments(segment.space),
            public_calls_only(not segment.graph_sharing),
        ):
            recorder = _SegmentRun(segment, channel, files).run()
        epoch, outcome, error = recorder.epoch, recorder.outcome, recorder.error
    except Interrupted:
        outcome = "interrupted"
    except StoppedAtOnce:
        end_if_forked()
        raise  # the user interrupts an inline search
    except BaseException as exception:
        end_if_forked()
        path = Path(segment.space.path) if segment.space.path else None
        description = describe_error(exception, path, elsewhere=segment.space.label)
        outcome, error = classify_failure(exception, description, paths.folder)
        with suppress(OSError):
            paths.traceback.write_text(format_traceback())
    _store_last(files)
    peak = device_memory.take_peak()
    channel.send(SegmentEnded(segment.trial, segment.execution, outcome, epoch, error, peak_device_memory=peak))


def _store_last(files: TrialFiles) -> None:
    """Store what was written since the last checkpoint, such as the log. The trial can go on without it."""
    sys.stdout.flush()
    try:
        files.store()
    except (SearchError, OSError) as error:
        print(f"search: the trial's log is not stored: {error}", flush=True)


def _tell_of_failed_loops(runner: Runner, recorder: Recorder) -> None:
    if CANNOT_FUSE in runner.name:
        recorder.notice(f"a model is trained by {runner.name}: its traceback is in the trial's log")


class _SegmentRun:
    """The training of one segment."""

    def __init__(self, segment: Segment, channel: Channel, files: TrialFiles) -> None:
        self._segment = segment
        self._channel = channel
        self._files = files
        self._space = load_unused_space(segment.space)
        self._hp = LazyHyperParameters(self._ask, segment.values)
        self._began = running_seconds()

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
        if not is_reported(segment.space, key):
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
            self._files,
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
        # Arrays that depend on the hyperparameters are part of a graph. Models that have objects in common are used one
        # at a time.
        own_arrays = self._space.data_takes_hp and not data.is_streams
        alone = own_arrays or has_common_objects(self._segment.space, model)
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
        chosen = runner.name
        self.report_built(model, chosen)
        _tell_of_failed_loops(runner, recorder)
        if runner.name == "fused" and autologging.is_autologging():
            recorder.notice(autologging.BYPASSED)
        recorder.restore(model, user_callbacks)
        outputs.resume_outputs(user_callbacks, initial_epoch + recorder.epoch if recorder.epoch else 0)
        if recorder.epoch < recorder.last_epoch and recorder.outcome == "reached":
            runner.run(initial_epoch + recorder.epoch, initial_epoch + recorder.last_epoch, callbacks)
        if runner.name != chosen:
            _tell_of_failed_loops(runner, recorder)
        model_cache.cache_model(segment, training, recorder.values)

    def report_built(self, model: Any, runner: str) -> None:
        """Report the model to the driver, and tell the user which capabilities are off."""
        for line in lines_of_off():
            self._tell(line)
        count = int(model.count_params()) if model.built else 0
        own_fit = self._space.fit is not None
        seconds = round(running_seconds() - self._began, 4)
        black_box = runner == BLACK_BOX
        self._channel.send(
            Built(self._segment.trial, count, describe_off(runner), own_fit, black_box=black_box, seconds=seconds)
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
        began = running_seconds()
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
            if untrained and digest_weights(model) == untrained:
                earlier.notice(
                    "fit has not trained the model that it was given: that is the model that comes back, whatever "
                    "other model the result is of"
                )
            return self._conclude_black_box(model, data, returned, own, running_seconds() - began)
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
