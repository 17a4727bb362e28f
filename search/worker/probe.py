"""The probe: it runs the user's space file, builds one model with default values, trains one step, and reports.

A probe draws no values, unless the user's code rejects the default ones by `search.Infeasible` or KerasTuner's
`FailedTrialError`. Before anything is written, it finds the errors that would make every trial fail.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import inspect
import io
import platform
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import keras
import numpy as np
from keras_tuner.errors import FailedTrialError

from search.errors import Infeasible, SearchError, SpaceError
from search.messages import Probe, Probed, ProbeFailed, StoppedAtOnce
from search.space.digests import digest_files, digest_parameters
from search.space.domain import Value
from search.space.file import (
    Space,
    describe_error,
    format_traceback,
    local_files,
    without_arguments,
)
from search.study.records import DataLoaded
from search.wording import pluralize
from search.worker import device_memory, metrics, outputs
from search.worker.autologging import capabilities_off, without_autologging
from search.worker.capabilities import describe_off
from search.worker.data import shared
from search.worker.data.arrays import Data, Split
from search.worker.data.fingerprint import fingerprint_data
from search.worker.data.streams import Stream
from search.worker.hp import Ask, LazyHyperParameters, default_value
from search.worker.keras_session import session
from search.worker.own_process import end_if_forked
from search.worker.runners.choose import choose_runner, create_weights
from search.worker.runners.fit import FitRunner, TrainingPlan, hold_out_validation, make_training_plan
from search.worker.runners.graph_cache import make_model_key
from search.worker.runners.logs import scalar_logs
from search.worker.runners.own_fit import BLACK_BOX, OWN_LOOP, FitCall, call_own_fit, callbacks_of, first_samples
from search.worker.shapes import shape_parameters_of
from search.worker.user_code import (
    TrialSetup,
    adapts_objects,
    clear_data,
    count_batches,
    data_values,
    load_data,
    load_space,
    set_up_trial,
    taken_names,
    trial_dir,
    trial_folder,
)
from search.worker.variables import count_bytes

_PACKAGES = ("keras-search", "keras", "keras-tuner", "optuna", "mlflow", "numpy", "tensorflow", "jax", "torch")


REJECTIONS = (FailedTrialError, Infeasible)
"""Exceptions by which the user's code rejects values, and not all of the search."""

MAX_CONFIGURATIONS = 20
"""The most configurations that a probe builds, if the user's code rejects the default values."""


def run_probe(
    probe: Probe, tell: Callable[[str], None] = print, stage: Callable[[str], None] = lambda text: None
) -> Probed | ProbeFailed:
    """Probe a space. An exception of the user's code is reported, never raised.

    Args:
        tell: shows a text to the user while the probe goes on.
        stage: says what the probe does from now on.
    """
    path = Path(probe.space.path) if probe.space.path else None
    try:
        with without_arguments(probe.space):
            probed = _probe(probe, path, tell, stage)
            if probe.more:
                stage(f"building {pluralize(probe.more, 'more model')} with random values")
            _build_more(probe, path)
            device_memory.take_peak()  # it is no trial's
            return probed
    except StoppedAtOnce:
        end_if_forked()
        raise
    except BaseException as error:
        end_if_forked()
        # The message of our own checks suffices. For an error in the user's code, the traceback helps.
        ours = isinstance(error, SearchError) and error.__cause__ is None
        return ProbeFailed(describe_error(error, path, elsewhere=probe.space.label), "" if ours else format_traceback())


def _probe(probe: Probe, path: Path | None, tell: Callable[[str], None], stage: Callable[[str], None]) -> Probed:
    stage(f"running {path.name}" if path else "reading the factory")
    space = load_space(probe.space)
    before = shared.module_globals(path)
    for number in range(MAX_CONFIGURATIONS):
        hp = LazyHyperParameters(_answers(number), probe.values)
        try:
            stage("loading the data")
            data = load_data(probe.space, hp)
            stage("building the first model")
            shareable = shared.module_globals(path) == before and not adapts_objects(probe.space)
            values = data_values(probe.space, hp)
            with session(names=taken_names(probe.space)):
                probed = _examine(probe, path, space, hp, data, values, tell, stage, shareable=shareable)
            if probe.shapes:
                stage("looking for hyperparameters that change shapes")
            found = shape_parameters_of(probe.space, data, hp.used_values) if probe.shapes else ()
            return replace(probed, shape_parameters=found)
        except REJECTIONS as error:
            rejected = error
    raise SpaceError(
        f"{MAX_CONFIGURATIONS} configurations were built, that of the default values first, and each was rejected: "
        f"{describe_error(rejected, path)}: reject fewer, or make the domains smaller"
    ) from rejected


def _build_more(probe: Probe, path: Path | None) -> None:
    """Build the further configurations of the probe: a build may fail with other values than the default ones.

    Raises:
        SpaceError: in one line, with the values of the first build that fails.
    """
    space = load_space(probe.space)
    for number in range(1, probe.more + 1):
        hp = LazyHyperParameters(_answers(number), probe.values)
        try:
            data = load_data(probe.space, hp)
            with session(names=taken_names(probe.space)), trial_folder():
                model = set_up_trial(space, hp).model
                if space.fit is None:
                    create_weights(model, data.train)
        except REJECTIONS:
            continue  # the user's code rejects these values
        except (Exception, SystemExit) as error:
            values = ", ".join(f"{name}={value!r}" for name, value in hp.used_values.items())
            raise SpaceError(
                f"with {values} no model can be built ({describe_error(error, path)}): change the domains, or reject "
                "such values with search.Infeasible"
            ) from error


def _answers(number: int) -> Ask:
    """Return the answers for the probe's configuration `number`: 0 has the default values, the others are random."""
    random = Random(number)
    return default_value if number == 0 else lambda parameter: parameter.domain.at(random.random())


def _examine(
    probe: Probe,
    path: Path | None,
    space: Space,
    hp: LazyHyperParameters,
    data: Data,
    values: Mapping[str, Value],
    tell: Callable[[str], None],
    stage: Callable[[str], None],
    *,
    shareable: bool,
) -> Probed:
    """Build a model with default values and train one step.

    Args:
        values: the hyperparameters that `load_data` asked for.
        tell, stage: as in `run_probe`.
        shareable: whether loading the data changed no global name, so that other workers need not load them.
    """
    setup, own = _set_up(space, hp, data)
    if space.probes_fit:
        _check_asked(hp)
    if own is None:
        data = count_batches(probe.space, data, setup.fit_options, tell)
    loaded = DataLoaded(values, fingerprint_data(data, read_streams=True))
    used = hold_out_validation(data, setup.fit_options) if own is None else data
    call = FitCall(used, setup.fit_options) if own is None else own.call
    runner, logs = ("", {}) if own is None else (own.runner, scalar_logs(own.logs))
    batch_size = _batch_size(setup.fit_options)
    if call is not None:
        call = replace(call, data=count_batches(probe.space, call.data, call.options, tell))
        runner = choose_runner(setup.model, call.data, call.options, 0, setup.callbacks, prepare=False).name
        batch_size = _batch_size(call.options)
    summary = _summarize(setup.model)
    if call is not None:
        stage("training the first step")
        logs = _train_a_step(path, setup.model, call.data, call.options, batch_size)
        for line in capabilities_off():
            tell(line)
    files = local_files(path) if path else ()
    return Probed(
        digest=digest_files(files) if path else digest_parameters(hp.parameters),
        files=files,
        parameters=hp.parameters,
        inactive=hp.inactive_parameters,
        options=dict(space.options),
        metrics=tuple(logs),
        compiled_metrics=metrics.compiled_metrics(setup.model, logs),
        directions=metrics.directions_of_metrics(setup.model, logs),
        vectors={name: int(np.size(value)) for name, value in logs.items() if np.size(value) != 1},
        weight_count=int(setup.model.count_params()) if setup.model.built else 0,
        summary=summary,
        batch_size=batch_size,
        samples=(_samples(used.train), _samples(used.validation) if used.validation else None),
        batched=(isinstance(used.train, Stream), isinstance(used.validation, Stream)),
        validated=used.validation is not None,
        runner=describe_off(runner),
        versions=installed_versions(),
        tested=data.test is not None,
        own_fit=space.fit is not None,
        data=loaded,
        extra_logs=space.fit is not None or bool(setup.callbacks),
        shared=shareable and _share(probe, space, data),
        # A `fit` of the user's may begin anew each time, from no checkpoint.
        checkpoint_bytes=count_bytes(setup.model) if own is None else 0,
        gpus=device_memory.count_gpus(),
    )


def _set_up(space: Space, hp: LazyHyperParameters, data: Data) -> tuple[TrialSetup, _OwnFitProbe | None]:
    """Call the user's functions, and their `fit` if there is one. Return their results and the findings on `fit`."""
    with trial_folder():
        setup = set_up_trial(space, hp)
        if space.fit is not None and not space.probes_fit:
            return setup, _OwnFitProbe()
        return (setup, None) if space.fit is None else _try_fit(space, hp, setup, data)


def _check_asked(hp: LazyHyperParameters) -> None:
    if not hp.asked:
        raise SpaceError(
            "build_model asks hp for nothing, so there is nothing to search: use hp.Int, hp.Float, hp.Choice or "
            "hp.Boolean for the values to try"
        )


def _summarize(model: Any) -> str:
    """Return Keras's table of the model's layers."""
    summary = io.StringIO()
    model.summary(print_fn=lambda line, **_: summary.write(line + "\n"), line_length=79)
    return summary.getvalue()


def _share(probe: Probe, space: Space, data: Data) -> bool:
    """Write large arrays to the probe's `share` folder and return True; False if the data cannot or need not be shared.

    A user's `fit` takes the data unprepared, so those are not shared.
    """
    if probe.share is None or space.data_takes_hp or space.fit is not None or not data.is_plain:
        return False
    if data.nbytes < shared.LARGE_BYTES:
        return False
    shared.save_arrays(probe.share, data)
    clear_data()  # this worker maps the files, too
    return True


class _StopProbe(BaseException):
    """The end of a probe of the user's `fit`, raised when it begins its training. Not an error of the user's."""


class _OwnFitProbe:
    """The findings of a probe of the user's `fit`, which ends it when its way to train is known.

    Attributes:
        call: its call of `model.fit` that is the training, which is not carried out; None if there is none.
        histories: none, as no training is carried out.
        runner: the runner's name, if there is no such call.
        logs: an epoch's logs, as far as they are known without such a call.
    """

    closed = False

    def __init__(self) -> None:
        self.call: FitCall | None = None
        self.histories: list[Any] = []
        self.runner = BLACK_BOX
        self.logs: dict[str, Any] = {}

    def train(self, call: FitCall) -> Any:
        self.call = call
        raise _StopProbe

    def train_plainly(self, fit: Callable[..., Any], call: inspect.BoundArguments) -> Any:
        """Carry out one epoch of a call that does not belong to the training, such as a warm-up."""
        if "epochs" in call.arguments:
            call.arguments["epochs"] = call.arguments.get("initial_epoch", 0) + 1
        if "callbacks" in call.arguments:
            call.arguments["callbacks"] = _redirected(callbacks_of(call))
        with without_autologging():  # the user's `fit` may switch it on
            return fit(*call.args, **call.kwargs)

    def begin_loop(self) -> None:
        self.runner = OWN_LOOP

    def begin_epoch(self) -> None:
        self.runner = OWN_LOOP

    def end_epoch(self, logs: Mapping[str, Any]) -> None:
        self.runner, self.logs = OWN_LOOP, dict(logs)
        raise _StopProbe


def _try_fit(space: Space, hp: Any, setup: TrialSetup, data: Data) -> tuple[TrialSetup, _OwnFitProbe]:
    """Call the user's `fit` on a few samples for an epoch at most. Return its setup and the findings.

    If it raises, the samples may be too few: it is called again with all data and a new setup, as in a trial. Then its
    exception passes through.
    """
    few = first_samples(data, _batch_size(setup.fit_options))
    try:
        return setup, _call_fit(space, hp, setup, few)
    except (SpaceError, *REJECTIONS):
        raise
    except Exception:
        traceback.print_exc()
    setup = set_up_trial(space, hp)
    return setup, _call_fit(space, hp, setup, data)


def _call_fit(space: Space, hp: Any, setup: TrialSetup, data: Data) -> _OwnFitProbe:
    found = _OwnFitProbe()
    try:
        with without_autologging():
            returned = call_own_fit(
                space,
                hp,
                setup.model,
                data,
                epochs=1,
                options=setup.fit_options,
                callbacks=_redirected(setup.callbacks),
                trainer=found,
            )
    except _StopProbe:
        return found
    if isinstance(returned, keras.callbacks.History):
        found.logs = {name: values[-1] for name, values in returned.history.items() if values}
    return found


def _redirected(callbacks: list[Any]) -> list[Any]:
    """Redirect callbacks into the probe's temporary folder."""
    redirected = outputs.redirect_callbacks(callbacks, trial_dir(), lambda text: None)
    outputs.resume_outputs(redirected, 0)
    return redirected


def _samples(part: Split | Stream) -> int | None:
    """Return the number of samples of arrays, or of batches of a stream."""
    return part.samples if isinstance(part, Split) else part.batches


def _batch_size(fit_options: Any) -> int:
    return int(fit_options.get("batch_size") or 32)


def _train_a_step(
    path: Path | None, model: Any, data: Data, options: Mapping[str, Any], batch_size: int
) -> dict[str, Any]:
    """Train and validate on one batch by `model.fit`, as a trial would.

    Returns:
        The logs, with the names of an epoch's: numbers, or arrays of several.
    """
    one_step = {
        "steps_per_epoch": 1 if isinstance(data.train, Stream) else None,
        "validation_steps": 1 if isinstance(data.validation, Stream) else None,
    }
    first = Data(_first_batch(data.train, batch_size), data.validation and _first_batch(data.validation, batch_size))
    try:
        with without_autologging():
            return _run_step(model, make_training_plan(first, {**options, **one_step}, seed=0))
    except Exception as error:
        shapes = ", ".join(f"{name} {shape}" for name, shape in _shapes(data).items())
        raise SpaceError(
            f"the model cannot be trained on what load_data returned ({shapes}): {describe_error(error, path)}"
        ) from error


def _run_step(model: Any, plan: TrainingPlan) -> dict[str, Any]:
    """Train an epoch of one step, and return its logs.

    Tracing a graph takes longer than the step. So a model of Keras's own objects on TensorFlow takes the step without a
    graph, if it can: a float8 model cannot. A user's code may fail in a graph only, so it is traced as in a trial.
    """
    eager = model.run_eagerly
    if keras.config.backend() == "tensorflow" and make_model_key(model, ()) is not None:
        model.run_eagerly = True
        try:
            return _step_logs(model, plan)
        except Exception as error:
            model.run_eagerly, model.train_function, model.test_function = eager, None, None
            with contextlib.suppress(Exception):
                return _step_logs(model, plan)
            raise error
        finally:
            model.run_eagerly = eager
    return _step_logs(model, plan)


def _step_logs(model: Any, plan: TrainingPlan) -> dict[str, Any]:
    history = keras.callbacks.History()
    FitRunner(model, plan, "a probe").run(0, 1, [history])
    return {name: values[-1] for name, values in history.history.items()}


def _first_batch(part: Split | Stream, batch_size: int) -> Split | Stream:
    return part if isinstance(part, Stream) else part.part(slice(batch_size))


def _shapes(data: Data) -> dict[str, Any]:
    packed = data.train.first if isinstance(data.train, Stream) else data.train.packed
    parts = zip(("x", "y", "sample_weight"), packed, strict=False)
    return {name: keras.tree.map_structure(lambda array: tuple(array.shape), part) for name, part in parts}


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed libraries that a result depends on."""
    found = {"python": platform.python_version(), "keras_backend": keras.config.backend()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    # TensorFlow is distributed under several names.
    backend = found["keras_backend"]
    found[backend] = str(sys.modules[backend].__version__)
    return found
