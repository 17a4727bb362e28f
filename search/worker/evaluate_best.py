"""The final evaluation: when all training is over, a trial's best model is built again and evaluated on the test data.

The winner is also checked against its training, and written to a file with the signature and the packages that serving
it takes.
"""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
import traceback
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import keras

from search.errors import SearchError
from search.messages import Evaluate, Evaluated, StoppedAtOnce
from search.space.domain import Value
from search.space.file import Space, describe_error, format_traceback, without_arguments
from search.storage.trial_files import localize, open_files
from search.worker import checkpoint
from search.worker.channel import Channel
from search.worker.data.arrays import Data, Split, prepare_data, spec_from_json
from search.worker.data.streams import Stream, for_evaluation
from search.worker.hp import LazyHyperParameters
from search.worker.keras_session import session
from search.worker.model_cache import clear_model_cache
from search.worker.own_process import end_if_forked
from search.worker.rebuilt_check import check_objective, first_inputs, save_reference
from search.worker.runners.choose import call_on_specs, create_weights, create_weights_for
from search.worker.runners.logs import scalar_logs
from search.worker.saved_model_check import check_saved_model
from search.worker.user_code import build_trial_model, load_data, load_unused_space, taken_names, trial_folder

__all__ = ["rebuild_model", "run_evaluation"]

_PACKAGES = {
    "tensorflow": ("tensorflow", "tensorflow-cpu"),
    "jax": ("jax", "jaxlib"),
    "torch": ("torch",),
}


def rebuild_model(
    space: Space, values: Mapping[str, Value], weights: Path, seed: int
) -> tuple[Any, checkpoint.BestWeights]:
    """Build the model for a trial's `values`, assign the weights in a file, and return both.

    The caller has set the random states by `seed`, that of the trial's training: the factory may draw constants.
    The data are loaded only if the model needs its first batch to be built and the file does not describe the inputs.
    """
    best = checkpoint.load_weights(weights)
    best.check_owner(seed, values)
    hp = LazyHyperParameters(values=values)
    with trial_folder():
        model = build_trial_model(space, hp)
    if best.inputs is not None:
        batch = None if best.batch is None else spec_from_json(best.batch)
        create_weights_for(model, spec_from_json(best.inputs), batch)
    elif not model.built:
        raw = space.load_data(LazyHyperParameters(values=values)) if space.data_takes_hp else space.load_data()
        create_weights(model, prepare_data(raw).train)
    best.assign_to(model)
    return model, best


def run_evaluation(work: Evaluate, channel: Channel) -> Evaluated:
    """Carry out a final evaluation. An exception of the user's code is reported, never raised."""
    work = localize(work)
    try:
        files = open_files(work, channel.ask)
        files.fetch()
        evaluated = _run_evaluation(work)
        files.store(patient=True)
    except (SearchError, OSError) as error:
        print(format_traceback(), flush=True)
        return Evaluated(work.trial, error=describe_error(error))
    return evaluated


def _run_evaluation(work: Evaluate) -> Evaluated:
    path = Path(work.space.path) if work.space.path else None
    logs: dict[str, float] | None = None
    warning = ""
    try:
        clear_model_cache()  # all training is over
        space = load_unused_space(work.space)
        with without_arguments(work.space), session(work.seed, taken_names(work.space)):
            model, best = rebuild_model(space, work.values, Path(work.weights), work.seed)
            if work.test and model.compiled:
                logs = _evaluate(model, _load_data(work).test)
            if work.model is None:
                return Evaluated(work.trial, logs)
            warning = _check(work, space, model, best)
            _save(model, Path(work.model), partial(_load_data, work), best.inputs)
            signature = _signature(model, best.inputs)
            if not signature["outputs"]:
                warning = warning or "it cannot be called on its inputs, so it predicts nothing: its file has weights"
            return Evaluated(work.trial, logs, signature, _requirements(), warning)
    except StoppedAtOnce:
        end_if_forked()
        raise
    except BaseException as error:
        end_if_forked()
        print(format_traceback(), flush=True)
        return Evaluated(
            work.trial, logs, warning=warning, error=describe_error(error, path, elsewhere=work.space.label)
        )


def _load_data(work: Evaluate) -> Data:
    return load_data(work.space, LazyHyperParameters(values=work.values), work.data)


def _check(work: Evaluate, space: Space, model: Any, best: checkpoint.BestWeights) -> str:
    """Check that the model built again is the trained one. Return the difference in words; "" if there is none."""
    data = _load_data(work)
    given, difference = check_objective(space, work.values, model, best, data, work.objective)
    if not given:
        save_reference(Path(work.reference), model, first_inputs(data))
    return difference


def _evaluate(model: Any, test: Split | Stream | None) -> dict[str, float] | None:
    if test is None:
        return None
    if isinstance(test, Split):
        names = ("x", "y", "sample_weight")
        found = model.evaluate(**dict(zip(names, test.packed, strict=False)), return_dict=True, verbose=0)
    else:
        found = model.evaluate(for_evaluation(test, None), return_dict=True, verbose=0)
    return scalar_logs(found)


def _save(model: Any, path: Path, load: Callable[[], Data], inputs: Any) -> None:
    """Write a `.keras` file completely, or not at all. SearchError if it would give other values than the model."""
    temporary = path.with_name(f".{path.stem}.new.keras")
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not optimizer.built:
        optimizer.build(model.trainable_variables)  # without this, Keras warns on loading
    try:
        try:
            model.save(temporary)
        except (ValueError, TypeError, NotImplementedError):
            traceback.print_exc()
            _save_only_weights(model, temporary)
        check_saved_model(model, temporary, load, inputs)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _save_only_weights(model: Any, path: Path) -> None:
    """Write a `.keras` file with only the weights, for a model that Keras cannot serialize: one without `get_config`.

    The factory can build the model, which then loads its weights from the file.
    """
    kind = type(model)
    config = {"module": kind.__module__, "class_name": kind.__name__, "registered_name": kind.__name__, "config": {}}
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, zipfile.ZipFile(path, "w") as archive:
        weights = Path(folder, "model.weights.h5")
        model.save_weights(weights)
        archive.write(weights, weights.name)
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("metadata.json", json.dumps({"keras_version": keras.__version__}))


# Serving --------------------------------------------------------------------------------------------------------------


def _signature(model: Any, inputs: Any) -> dict[str, Any]:
    specs = getattr(model, "inputs", None)
    if specs:
        # A functional model knows its tensors' names. If it takes a dict, the dict's names count.
        called_with = spec_from_json(inputs) if inputs is not None else None
        return {
            "inputs": _tensors(called_with if isinstance(called_with, dict) else list(specs)),
            "outputs": _tensors(_output_structure(model)),
        }
    x = spec_from_json(inputs)
    try:
        outputs = _tensors(call_on_specs(model, x))
    except Exception:
        traceback.print_exc()
        outputs = []  # only a step of its own can call it
    return {"inputs": _tensors(x), "outputs": outputs}


def _output_structure(model: Any) -> Any:
    """Return a functional model's outputs as it returns them. A sequential model has a list of one."""
    return model.outputs if isinstance(model, keras.Sequential) else model.output


def _tensors(spec: Any) -> list[dict[str, Any]]:
    """Return tensors in the form of MLflow's signatures: several with names, a single one without."""
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
    """Return the packages that serve the model, pinned to the versions that trained it."""
    found = []
    for package in ("keras", *_PACKAGES[keras.config.backend()], "numpy"):
        try:
            found.append(f"{package}=={importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return tuple(found)
