"""The probe: it runs the user's space file, builds one model with default values, trains one step, and reports.

A probe draws no values. Before anything is written, it finds the errors that would make every trial fail.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import platform
import sys
import traceback
from pathlib import Path
from typing import Any

import keras

from search.errors import SearchError, SpaceError
from search.messages import Probe, Probed, ProbeFailed
from search.space.file import Space, describe_error, digest_files, digest_parameters, format_traceback, local_files
from search.study.trial import Direction
from search.worker.data import shared
from search.worker.data.arrays import Data, Split
from search.worker.data.streams import Stream
from search.worker.hp import LazyHyperParameters
from search.worker.keras_session import session
from search.worker.runners.choose import choose_runner
from search.worker.runners.own_fit import FitCall, StopProbe, call_own_fit, first_samples
from search.worker.segment import WHOLE_FIT, TrialSetup, clear_data, load_data, load_space, set_up_trial, trial_folder

_PACKAGES = ("keras-search", "keras", "keras-tuner", "optuna", "mlflow", "numpy", "tensorflow", "jax", "torch")


def run_probe(probe: Probe) -> Probed | ProbeFailed:
    """Probe a space. An exception of the user's code is reported, never raised."""
    path = Path(probe.space.path) if probe.space.path else None
    try:
        return _probe(probe, path)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        # The message of our own checks suffices. For an error in the user's code, the traceback helps.
        ours = isinstance(error, SearchError) and error.__cause__ is None
        return ProbeFailed(describe_error(error, path, elsewhere=probe.space.label), "" if ours else format_traceback())


def _probe(probe: Probe, path: Path | None) -> Probed:
    space = load_space(probe.space)
    hp = LazyHyperParameters(values=probe.values)
    before = shared.module_globals(path)
    data = load_data(probe.space, hp)
    shareable = shared.module_globals(path) == before
    with session():
        return _examine(probe, path, space, hp, data, shareable=shareable)


def _examine(
    probe: Probe, path: Path | None, space: Space, hp: LazyHyperParameters, data: Data, *, shareable: bool
) -> Probed:
    """Build a model with default values and train one step.

    Args:
        shareable: whether loading the data changed no global name, so that other workers need not load them.
    """
    with trial_folder():
        setup = set_up_trial(space, hp)
        call = _try_fit(space, hp, setup, data) if space.fit is not None else FitCall(data, setup.fit_options, [], None)
    if all(parameter.domain.kind == "fixed" for parameter in hp.parameters):
        raise SpaceError(
            "build_model asks hp for nothing, so there is nothing to search: use hp.Int, hp.Float, hp.Choice or "
            "hp.Boolean for the values to try"
        )
    runner = WHOLE_FIT
    metrics: tuple[str, ...] = ()
    compiled: tuple[str, ...] = ()
    batch_size = _batch_size(setup.fit_options)
    if call is not None:
        runner = choose_runner(setup.model, call.data, call.options, 0, setup.callbacks).name
        batch_size = _batch_size(call.options)
    summary = io.StringIO()
    setup.model.summary(print_fn=lambda line, **_: summary.write(line + "\n"), line_length=79)
    if call is not None:
        metrics, compiled = _train_a_step(path, setup.model, call.data, batch_size)
    files = local_files(path) if path else ()
    return Probed(
        digest=digest_files(files) if path else digest_parameters(hp.parameters),
        files=files,
        parameters=hp.parameters,
        options=dict(space.options),
        metrics=metrics,
        compiled_metrics=compiled,
        directions=_directions(setup.model, metrics),
        weight_count=int(setup.model.count_params()) if setup.model.built else 0,
        summary=summary.getvalue(),
        batch_size=batch_size,
        samples=(_samples(data.train), _samples(data.validation) if data.validation else None),
        batched=(isinstance(data.train, Stream), isinstance(data.validation, Stream)),
        runner=runner,
        versions=installed_versions(),
        tested=data.test is not None,
        own_fit=space.fit is not None,
        extra_logs=space.fit is not None or bool(setup.callbacks),
        shared=shareable and _share(probe, space, data),
    )


def _share(probe: Probe, space: Space, data: Data) -> bool:
    """Write large arrays to the probe's `share` folder and return True; False if the data cannot or need not be shared.

    A user's `fit` takes the data unprepared, so those are not shared.
    """
    if probe.share is None or space.data_takes_hp or space.fit is not None or not data.is_arrays:
        return False
    if data.nbytes < shared.LARGE_BYTES:
        return False
    shared.save_arrays(probe.share, data)
    clear_data()  # this worker maps the files, too
    return True


def _try_fit(space: Space, hp: Any, setup: TrialSetup, data: Data) -> FitCall | None:
    """Call the user's `fit` on a few samples and return its call of `model.fit`, which is not carried out.

    None if it makes no such call, or if it raises: the samples may be too few, and each trial reports a real error.
    """
    calls: list[FitCall] = []

    def stop(call: FitCall) -> Any:
        calls.append(call)
        raise StopProbe

    try:
        call_own_fit(
            space,
            hp,
            setup.model,
            first_samples(data, _batch_size(setup.fit_options)),
            epochs=1,
            initial_epoch=0,
            options=setup.fit_options,
            callbacks=setup.callbacks,
            train=stop,
        )
    except StopProbe:
        return calls[0]
    except SpaceError:
        raise
    except Exception:
        traceback.print_exc()
    return None


def _samples(part: Split | Stream) -> int | None:
    """Return the number of samples of arrays, or of batches of a stream."""
    return part.samples if isinstance(part, Split) else part.batches


def _batch_size(fit_options: Any) -> int:
    return int(fit_options.get("batch_size") or 32)


def _train_a_step(
    path: Path | None, model: Any, data: Data, batch_size: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Train and validate on one batch, and return (names in an epoch's logs, compiled metrics)."""
    eager = model.run_eagerly
    if keras.config.backend() == "tensorflow":
        model.run_eagerly = True  # tracing a graph for one step takes longer than the step
    try:
        first = [part and _OneBatch(_first_batch(part, batch_size)) for part in (data.train, data.validation)]
        # `train_on_batch` would not do: it adds a None to the batch, and a `train_step` may say `x, y = data`.
        logs = type(model).fit(model, first[0], validation_data=first[1], verbose=0).history
    except Exception as error:
        shapes = ", ".join(f"{name} {shape}" for name, shape in _shapes(data).items())
        raise SpaceError(
            f"the model cannot be trained on what load_data returned ({shapes}): {describe_error(error, path)}"
        ) from error
    finally:
        model.run_eagerly = eager
    losses = {"loss", *(f"{name}_loss" for name in getattr(model, "output_names", None) or ())}
    metrics = tuple(name for name in logs if name not in losses and not name.startswith("val_"))
    return tuple(logs), metrics


class _OneBatch(keras.utils.PyDataset):  # type: ignore[misc]  # keras is untyped
    """A data set of one batch, which reaches a `train_step` as it is."""

    def __init__(self, batch: tuple[Any, ...]) -> None:
        super().__init__()
        self._batch = batch

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return self._batch


def _first_batch(part: Split | Stream, batch_size: int) -> tuple[Any, ...]:
    return part.first if isinstance(part, Stream) else part.take(slice(batch_size))


def _shapes(data: Data) -> dict[str, Any]:
    packed = data.train.first if isinstance(data.train, Stream) else data.train.packed
    parts = zip(("x", "y", "sample_weight"), packed, strict=False)
    return {name: keras.tree.map_structure(lambda array: tuple(array.shape), part) for name, part in parts}


def _directions(model: Any, metrics: tuple[str, ...]) -> dict[str, Direction]:
    """Return `min` or `max` for each metric (without `val_`) whose class or name KerasTuner knows."""
    # KerasTuner's table is not part of its public interface.
    from keras_tuner.src.engine.metrics_tracking import infer_metric_direction

    by_name: dict[str, Any] = {}
    for metric in model.metrics:
        for inner in getattr(metric, "metrics", None) or [metric]:
            by_name[inner.name] = inner
    found: dict[str, Direction] = {}
    for name in {name.removeprefix("val_") for name in metrics}:
        base = name
        for output in getattr(model, "output_names", None) or ():
            base = base.removeprefix(f"{output}_")
        for candidate in (name, base, by_name.get(name), by_name.get(base)):
            direction = None
            if candidate is not None:
                with contextlib.suppress(Exception):
                    direction = infer_metric_direction(candidate)
            if direction in ("min", "max"):
                found[name] = direction
                break
    return found


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
