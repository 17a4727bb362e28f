"""The probe: run the user's file, build once with default values, train one step, and say what there is.

It consumes no draw, and it finds before anything is written what would make every trial fail.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import platform
import traceback
from pathlib import Path
from typing import Any

import keras

from search import space as spaces
from search.errors import SearchError, SpaceError
from search.messages import Probe, Probed, ProbeFailed
from search.trial import Direction
from search.worker import runner
from search.worker.data import Data
from search.worker.hp import LazyHyperParameters
from search.worker.training import load_data, load_space, make_ready, trial_folder

_PACKAGES = ("keras-search", "keras", "keras-tuner", "optuna", "mlflow", "numpy", "tensorflow", "jax", "torch")


def run_probe(probe: Probe) -> Probed | ProbeFailed:
    """Probe a space. Nothing that the user's code raises gets out."""
    path = Path(probe.space.path) if probe.space.path else None
    try:
        return _probe(probe, path)
    except (Exception, SystemExit) as error:
        # A check of ours says it all; where it went wrong in the user's code, the way there helps.
        ours = isinstance(error, SearchError) and error.__cause__ is None
        return ProbeFailed(
            spaces.describe(error, path, elsewhere=probe.space.label), "" if ours else traceback.format_exc()
        )


def _probe(probe: Probe, path: Path | None) -> Probed:
    space, data = load_space(probe.space), load_data(probe.space)
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    hp = LazyHyperParameters(values=probe.values)
    with trial_folder():
        ready = make_ready(space, hp)
    if all(parameter.domain.kind == "fixed" for parameter in hp.parameters):
        raise SpaceError(
            "build_model asks hp for nothing, so there is nothing to search: use hp.Int, hp.Float, hp.Choice or "
            "hp.Boolean for what should be tried"
        )
    trainer = runner.choose(ready.model, data, ready.fit_options, 0, ready.callbacks)
    summary = io.StringIO()
    ready.model.summary(print_fn=lambda line, **_: summary.write(line + "\n"), line_length=79)
    metrics, compiled = _train_a_step(path, ready.model, data, _batch_size(ready.fit_options))
    files = spaces.local_files(path) if path else ()
    return Probed(
        digest=spaces.digest_of(files) if path else spaces.digest_of_parameters(hp.parameters),
        files=files,
        parameters=hp.parameters,
        options=dict(space.options),
        metrics=metrics,
        compiled_metrics=compiled,
        directions=_directions(ready.model, metrics),
        parameter_count=int(ready.model.count_params()),
        summary=summary.getvalue(),
        batch_size=_batch_size(ready.fit_options),
        samples=(data.train.samples, data.validation.samples if data.validation else None),
        runner=trainer.name,
        versions=versions(),
    )


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
        names = tuple(model.train_on_batch(*data.train.take(slice(batch_size)), return_dict=True))
        validation: tuple[str, ...] = ()
        if data.validation is not None:
            validation = tuple(model.test_on_batch(*data.validation.take(slice(batch_size)), return_dict=True))
    except Exception as error:
        shapes = ", ".join(f"{name} {shape}" for name, shape in _shapes(data).items())
        raise SpaceError(
            f"the model cannot be trained on what load_data returned ({shapes}): {spaces.describe(error, path)}"
        ) from error
    finally:
        model.run_eagerly = eager
    losses = {"loss", *(f"{name}_loss" for name in getattr(model, "output_names", None) or ())}
    return names + tuple(f"val_{name}" for name in validation), tuple(name for name in names if name not in losses)


def _shapes(data: Data) -> dict[str, Any]:
    parts = zip(("x", "y", "sample_weight"), data.train.packed, strict=False)
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
    return found
