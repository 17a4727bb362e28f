"""A work: a trial's best model, built once more when the training is over, evaluated on the test data and written
to a file with what it takes to serve it."""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
import traceback
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from search.messages import Evaluate, Evaluated
from search.space import file as spaces
from search.space.domain import Value
from search.space.file import Space
from search.worker import checkpoint
from search.worker import segment as training
from search.worker.data import arrays as datas
from search.worker.data.arrays import Split
from search.worker.data.streams import Stream, for_evaluation
from search.worker.hp import LazyHyperParameters
from search.worker.keras_session import session
from search.worker.model_cache import drop_all
from search.worker.runners import choose as runner
from search.worker.runners.logs import scalar_logs

__all__ = ["rebuild_model", "run_evaluation"]

_PACKAGES = {
    "tensorflow": ("tensorflow", "tensorflow-cpu"),
    "jax": ("jax", "jaxlib"),
    "torch": ("torch",),
}


def rebuild_model(space: Space, values: Mapping[str, Value], weights: Path) -> tuple[Any, checkpoint.Weights]:
    """A trial's model, for the trial's `values`, with its weights, and the file that they are of.

    The data are loaded only for a model that waits for its first batch, where the file does not say what it takes.
    """
    held = checkpoint.load_weights(weights)
    hp = LazyHyperParameters(values=values)
    with training.trial_folder():
        model = training.build(space, hp)
    if held.inputs is not None:
        runner.build(model, datas.described(held.inputs))
    elif not model.built:
        loaded = space.load_data(LazyHyperParameters(values=values)) if space.data_takes_hp else space.load_data()
        runner.build(model, datas.prepare(loaded).train.x_spec)
    held.put_into(model)
    return model, held


def run_evaluation(work: Evaluate) -> Evaluated:
    """Carry out a work. Nothing that the user's code raises gets out."""
    path = Path(work.space.path) if work.space.path else None
    logs: dict[str, float] | None = None
    try:
        drop_all()  # all training is over
        space = training.load_space(work.space)
        with session():
            model, held = rebuild_model(space, work.values, Path(work.weights))
            if work.test and model.compiled:
                hp = LazyHyperParameters(values=work.values)
                logs = _evaluate(model, training.load_data(work.space, hp, work.data).test)
            if work.model is None:
                return Evaluated(work.trial, logs)
            _save(model, Path(work.model))
            return Evaluated(work.trial, logs, _signature(model, held.inputs), _requirements())
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        print(spaces.trace(), flush=True)
        return Evaluated(work.trial, logs, error=spaces.describe(error, path, elsewhere=work.space.label))


def _evaluate(model: Any, test: Split | Stream | None) -> dict[str, float] | None:
    if test is None:
        return None
    if isinstance(test, Split):
        names = ("x", "y", "sample_weight")
        found = model.evaluate(**dict(zip(names, test.packed, strict=False)), return_dict=True, verbose=0)
    else:
        found = model.evaluate(for_evaluation(test, None), return_dict=True, verbose=0)
    return scalar_logs(found)


def _save(model: Any, path: Path) -> None:
    """Write a `.keras` file that is either there and whole, or not there."""
    work = path.with_name(f".{path.stem}.new.keras")
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not optimizer.built:
        optimizer.build(model.trainable_variables)  # or Keras warns whoever loads it
    try:
        try:
            model.save(work)
        except (ValueError, TypeError, NotImplementedError):
            traceback.print_exc()
            _save_weights(model, work)
        work.replace(path)
    finally:
        work.unlink(missing_ok=True)


def _save_weights(model: Any, path: Path) -> None:
    """A `.keras` file with the weights alone, of a model that Keras cannot describe: a subclass without `get_config`.

    Who has the factory builds the model, and loads the weights from it.
    """
    kind = type(model)
    config = {"module": kind.__module__, "class_name": kind.__name__, "registered_name": kind.__name__, "config": {}}
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, zipfile.ZipFile(path, "w") as archive:
        weights = Path(folder, "model.weights.h5")
        model.save_weights(weights)
        archive.write(weights, weights.name)
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("metadata.json", json.dumps({"keras_version": keras.__version__}))


# What serves it -------------------------------------------------------------------------------------------------------


def _signature(model: Any, inputs: Any) -> dict[str, Any]:
    specs = getattr(model, "inputs", None)
    if specs:
        # A functional model knows its tensors by name; of a dict, the names that it is called with count.
        given = datas.described(inputs) if inputs is not None else None
        outputs = getattr(model, "_outputs_struct", None)
        return {
            "inputs": _tensors(given if isinstance(given, dict) else list(specs)),
            "outputs": _tensors(model.outputs if outputs is None else outputs),
        }
    x = datas.described(inputs)
    return {"inputs": _tensors(x), "outputs": _tensors(runner.call(model, x))}


def _tensors(spec: Any) -> list[dict[str, Any]]:
    """Tensors as MLflow's signatures have them: several with names, a single one without."""
    if isinstance(spec, dict):
        named = list(spec.items())
    else:
        flat = keras.tree.flatten(spec)
        named = [(getattr(tensor, "name", None), tensor) for tensor in flat] if len(flat) > 1 else [(None, flat[0])]
    return [
        {"name": name, "dtype": tensor.dtype, "shape": [-1 if size is None else size for size in tensor.shape]}
        for name, tensor in named
    ]


def _requirements() -> tuple[str, ...]:
    """The packages that a model needs to be served, pinned to what trained it."""
    found = []
    for package in ("keras", *_PACKAGES[keras.config.backend()], "numpy"):
        try:
            found.append(f"{package}=={importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return tuple(found)
