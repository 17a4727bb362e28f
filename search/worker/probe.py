"""The probe: run the user's file, build once with default values, train one step, and say what there is.

It consumes no draw, and it finds before anything is written what would make every trial fail.
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
from search.space import file as spaces
from search.space.file import Space
from search.study.trial import Direction
from search.worker.data import shared
from search.worker.data.arrays import Data, Split
from search.worker.data.streams import Stream
from search.worker.hp import LazyHyperParameters
from search.worker.keras_session import session
from search.worker.runners import choose as runner
from search.worker.runners import own_fit
from search.worker.segment import WHOLE, Ready, forget_data, load_data, load_space, make_ready, trial_folder

_PACKAGES = ("keras-search", "keras", "keras-tuner", "optuna", "mlflow", "numpy", "tensorflow", "jax", "torch")


def run_probe(probe: Probe) -> Probed | ProbeFailed:
    """Probe a space. Nothing that the user's code raises gets out."""
    path = Path(probe.space.path) if probe.space.path else None
    try:
        return _probe(probe, path)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        # A check of ours says it all; where it went wrong in the user's code, the way there helps.
        ours = isinstance(error, SearchError) and error.__cause__ is None
        return ProbeFailed(spaces.describe(error, path, elsewhere=probe.space.label), "" if ours else spaces.trace())


def _probe(probe: Probe, path: Path | None) -> Probed:
    space = load_space(probe.space)
    hp = LazyHyperParameters(values=probe.values)
    before = shared.globals_of(path)
    data = load_data(probe.space, hp)
    alone = shared.globals_of(path) == before
    with session():
        return _examine(probe, path, space, hp, data, alone=alone)


def _examine(
    probe: Probe, path: Path | None, space: Space, hp: LazyHyperParameters, data: Data, *, alone: bool
) -> Probed:
    """Build with default values, and train one step.

    Args:
        alone: whether the data are all that loading them has made.
    """
    with trial_folder():
        ready = make_ready(space, hp)
        call = (
            _try_fit(space, hp, ready, data)
            if space.fit is not None
            else own_fit.Call(data, ready.fit_options, [], None)
        )
    if all(parameter.domain.kind == "fixed" for parameter in hp.parameters):
        raise SpaceError(
            "build_model asks hp for nothing, so there is nothing to search: use hp.Int, hp.Float, hp.Choice or "
            "hp.Boolean for what should be tried"
        )
    name = WHOLE
    metrics: tuple[str, ...] = ()
    compiled: tuple[str, ...] = ()
    batch_size = _batch_size(ready.fit_options)
    if call is not None:
        name = runner.choose(ready.model, call.data, call.options, 0, ready.callbacks).name
        batch_size = _batch_size(call.options)
    summary = io.StringIO()
    ready.model.summary(print_fn=lambda line, **_: summary.write(line + "\n"), line_length=79)
    if call is not None:
        metrics, compiled = _train_a_step(path, ready.model, call.data, batch_size)
    files = spaces.local_files(path) if path else ()
    return Probed(
        digest=spaces.digest_of(files) if path else spaces.digest_of_parameters(hp.parameters),
        files=files,
        parameters=hp.parameters,
        options=dict(space.options),
        metrics=metrics,
        compiled_metrics=compiled,
        directions=_directions(ready.model, metrics),
        weight_count=int(ready.model.count_params()) if ready.model.built else 0,
        summary=summary.getvalue(),
        batch_size=batch_size,
        samples=(_samples(data.train), _samples(data.validation) if data.validation else None),
        batched=(isinstance(data.train, Stream), isinstance(data.validation, Stream)),
        runner=name,
        versions=versions(),
        tested=data.test is not None,
        own_fit=space.fit is not None,
        extra_logs=space.fit is not None or bool(ready.callbacks),
        shared=alone and _share(probe, space, data),
    )


def _share(probe: Probe, space: Space, data: Data) -> bool:
    """Put large arrays where other workers find them. Not those that a `fit` of the user's is given as they are."""
    if probe.share is None or space.data_takes_hp or space.fit is not None or not data.is_arrays:
        return False
    if data.nbytes < shared.LARGE:
        return False
    shared.save(probe.share, data)
    forget_data()  # this worker maps them, too
    return True


def _try_fit(space: Space, hp: Any, ready: Ready, data: Data) -> own_fit.Call | None:
    """Call the user's `fit` on a few samples, up to its `model.fit`, whose call this returns; None where it has none.

    What it raises, each trial would say better: a few samples may be too few for it.
    """
    seen: list[own_fit.Call] = []

    def stop(call: own_fit.Call) -> Any:
        seen.append(call)
        raise own_fit.Enough

    try:
        own_fit.call(
            space,
            hp,
            ready.model,
            own_fit.few(data, _batch_size(ready.fit_options)),
            epochs=1,
            initial_epoch=0,
            options=ready.fit_options,
            callbacks=ready.callbacks,
            train=stop,
        )
    except own_fit.Enough:
        return seen[0]
    except SpaceError:
        raise
    except Exception:
        traceback.print_exc()
    return None


def _samples(part: Split | Stream) -> int | None:
    """Samples of arrays; batches of a stream."""
    return part.samples if isinstance(part, Split) else part.batches


def _batch_size(fit_options: Any) -> int:
    return int(fit_options.get("batch_size") or 32)


def _train_a_step(
    path: Path | None, model: Any, data: Data, batch_size: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """One step of training, and one of validation: (names in an epoch's logs, compiled metrics)."""
    eager = model.run_eagerly
    if keras.config.backend() == "tensorflow":
        model.run_eagerly = True  # tracing a graph for one step takes longer than the step
    try:
        names = tuple(model.train_on_batch(*_first_batch(data.train, batch_size), return_dict=True))
        validation: tuple[str, ...] = ()
        if data.validation is not None:
            validation = tuple(model.test_on_batch(*_first_batch(data.validation, batch_size), return_dict=True))
    except Exception as error:
        shapes = ", ".join(f"{name} {shape}" for name, shape in _shapes(data).items())
        raise SpaceError(
            f"the model cannot be trained on what load_data returned ({shapes}): {spaces.describe(error, path)}"
        ) from error
    finally:
        model.run_eagerly = eager
    losses = {"loss", *(f"{name}_loss" for name in getattr(model, "output_names", None) or ())}
    return names + tuple(f"val_{name}" for name in validation), tuple(name for name in names if name not in losses)


def _first_batch(part: Split | Stream, batch_size: int) -> tuple[Any, ...]:
    return part.first if isinstance(part, Stream) else part.take(slice(batch_size))


def _shapes(data: Data) -> dict[str, Any]:
    packed = data.train.first if isinstance(data.train, Stream) else data.train.packed
    parts = zip(("x", "y", "sample_weight"), packed, strict=False)
    return {name: keras.tree.map_structure(lambda array: tuple(array.shape), part) for name, part in parts}


def _directions(model: Any, metrics: tuple[str, ...]) -> dict[str, Direction]:
    """`min` or `max` for each metric (without `val_`) whose kind is known: by its class, else by its name."""
    # KerasTuner's own table; it is no part of its public interface.
    from keras_tuner.src.engine.metrics_tracking import infer_metric_direction

    objects: dict[str, Any] = {}
    for metric in model.metrics:
        for inner in getattr(metric, "metrics", None) or [metric]:
            objects[inner.name] = inner
    found: dict[str, Direction] = {}
    for name in {name.removeprefix("val_") for name in metrics}:
        base = name
        for output in getattr(model, "output_names", None) or ():
            base = base.removeprefix(f"{output}_")
        for candidate in (name, base, objects.get(name), objects.get(base)):
            direction = None
            if candidate is not None:
                with contextlib.suppress(Exception):
                    direction = infer_metric_direction(candidate)
            if direction in ("min", "max"):
                found[name] = direction
                break
    return found


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries that a result depends on, where they are installed."""
    found = {"python": platform.python_version(), "keras_backend": keras.config.backend()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    # TensorFlow is distributed under several names.
    backend = found["keras_backend"]
    found[backend] = str(sys.modules[backend].__version__)
    return found
