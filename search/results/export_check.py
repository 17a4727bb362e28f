"""The check of an export: a fresh process loads it and compares its values with those of the trial's model.

The process builds the trial's model from the space and the saved weights, as a user of the study would. Files of
weights must hold equal weights. All others must give the model's values on one batch of the study's data.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import pickle
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.errors import OptionError
from search.space.domain import Value
from search.space.error_text import as_one_line
from search.space.file import SpaceRef, describe_error
from search.study.trial import Objective

if TYPE_CHECKING:
    from search.results.export import Export

__all__ = ["check_in_fresh_process"]

NO_GPU = {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
"""Environment variables that hide GPUs.

An export needs none, and a search may be using them. A graph that was traced with a GPU may not run without one.
"""


@dataclass(frozen=True, slots=True)
class Request:
    """The file to check, and the model that it must give.

    Attributes:
        space: the study's own copy of the code.
        params: the trial's hyperparameters.
        weights: the file of the trial's best weights.
        epoch: the epoch whose value was logged as the trial's best.
        file: the file, or the SavedModel's folder.
        format: one of `export.ENDINGS`.
        seed: the training seed of the weights.
        reference: the file with a batch and the model's outputs for it, if the search has stored one.
        objective: the metric to check the model by; None if the numbers of another Keras back end would differ.
    """

    space: SpaceRef
    params: Mapping[str, Value]
    weights: Path
    epoch: int | None
    file: Path
    format: str
    seed: int = 0
    reference: Path | None = None
    objective: Objective | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check; each is "" if there is nothing to say.

    Attributes:
        wrong: why the file must not be kept.
        remark: what the user should know of a file that is kept.
    """

    wrong: str = ""
    remark: str = ""


def check_in_fresh_process(planned: Export, file: Path) -> str:
    """Check the written export `file`. Return a remark, or "".

    Raises:
        OptionError: the file cannot be loaded, or gives other values than those of the trial's best epoch.
    """
    study, trial = planned.study, planned.trial
    same_backend = planned.keras_backend == study.study.versions.get("keras_backend")
    request = Request(
        space=study.space_ref,
        params=dict(trial.params),
        weights=study.weights(trial),
        seed=study.study.training_seed(trial.number, trial.best.execution),
        reference=study.reference(trial),
        objective=study.objective if same_backend else None,
        epoch=trial.best_execution.best_epoch,
        file=file,
        format=planned.format,
    )
    finding = _ask_process(request, planned.keras_backend)
    if finding.wrong:
        raise OptionError(f"--to {planned.to}: nothing is written, as a fresh process found that {finding.wrong}")
    return finding.remark


def _ask_process(request: Request, keras_backend: str) -> Finding:
    """Carry out a request in a new process, whose output goes to a file."""
    with tempfile.TemporaryDirectory(prefix="search-") as name:
        folder = Path(name)
        (folder / "request").write_bytes(pickle.dumps(request))
        path = [str(Path(entry).absolute()) for entry in sys.path]
        code = f"import sys; sys.path[:] = {path!r}; from search.results import export_check; "
        code += f"export_check.answer({name!r})"
        with (folder / "log").open("wb") as log:
            exit_code = run_python(code, {**os.environ, **NO_GPU, "KERAS_BACKEND": keras_backend}, log.fileno())
        try:
            return Finding(**json.loads((folder / "finding").read_text()))
        except FileNotFoundError:
            lines = (folder / "log").read_text(errors="replace").split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "")
            return Finding(as_one_line(f"the process that loads the file has died with exit code {exit_code}: {last}"))


def run_python(code: str, environment: Mapping[str, str], output: int) -> int:
    """Run `code` in a new process and return its exit code. Its output goes to the file descriptor `output`."""
    command = [sys.executable, "-P", "-c", code]
    return subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
    ).returncode


# In the fresh process -------------------------------------------------------------------------------------------------


def answer(folder: str) -> None:
    """Carry out the request in a folder, and write the finding there."""
    from search.worker.process import set_environment

    set_environment()
    request: Request = pickle.loads(Path(folder, "request").read_bytes())
    finding = check_export(request)
    Path(folder, "finding").write_text(json.dumps({"wrong": finding.wrong, "remark": finding.remark}))


def check_export(request: Request) -> Finding:
    """Load an export in this process and compare it with the trial's model."""
    from search.worker.evaluate_best import rebuild_model
    from search.worker.keras_session import import_space, names_after, seeded

    try:
        space = import_space(request.space)
        with seeded(request.seed), names_after(space.names):
            model, best = rebuild_model(space, request.params, request.weights, request.seed)
    except (Exception, SystemExit) as error:
        return Finding(f"the trial's model cannot be built: {_because(error, request)}")
    if best.epoch != request.epoch:
        # The worker was killed between the best epoch's end and the next checkpoint.
        return Finding(
            f"the saved weights are of epoch {best.epoch}, and the logged value is of epoch {request.epoch}: go on "
            "with search resume, or export another trial with --rank"
        )
    load = _data_loader(space, request.params)
    if difference := _compare_with_training(request, space, model, best, load):
        return Finding(f"the model is not the trained one: {difference}")
    if request.format == "weights":
        return _compare_weights(request, model)
    return _compare_values(request, model, load, best.inputs)


def _compare_with_training(request: Request, space: Any, model: Any, best: Any, load: Callable[[], Any]) -> str:
    """Return the difference between the model built here and the trained one, in words; "" if none can be seen."""
    from search.worker.data.arrays import spec_from_json
    from search.worker.rebuilt_check import check_objective, check_reference

    if request.reference is not None and best.inputs is not None:
        return check_reference(request.reference, model, spec_from_json(best.inputs))
    try:
        data = load()
    except (Exception, SystemExit):
        traceback.print_exc()
        return ""
    if request.objective is None:
        return ""
    return check_objective(space, request.params, model, best, data, request.objective)[1]


def _compare_weights(request: Request, model: Any) -> Finding:
    from search.worker.saved_model_check import describe_lost_weights

    try:
        wrong = describe_lost_weights(model, request.file)
    except Exception as error:
        return Finding(f"the file cannot be loaded: {_because(error, request)}")
    if wrong is None:
        return Finding()
    return Finding(
        f"the file would give other weights than the trial's ({wrong}): build_model must give the same model for the "
        "same hyperparameters"
    )


_OTHER_FORMAT = "export weights, or try another format"


def _compare_values(request: Request, model: Any, load: Callable[[], Any], inputs: Any) -> Finding:
    from search.worker.saved_model_check import CODE_ADVICE, describe_difference, reference_values, tolerances

    try:
        x, expected, repeatable = reference_values(model, load, inputs)
    except Exception as error:
        return Finding(remark=f"it was not compared with the model, which cannot be called: {_because(error, request)}")
    try:
        found, remark = _LOADERS[request.format](request.file, model, x)
    except Exception as error:
        return Finding(f"the file cannot be loaded and called ({_because(error, request)}): {_OTHER_FORMAT}")
    if found is None:
        return Finding(remark=remark)
    if not repeatable:
        return Finding(remark="it was loaded and not compared, as the model's values are random")
    wrong = describe_difference(expected, found, tolerances(model))
    if wrong is None:
        return Finding(remark=remark)
    return Finding(f"the file gives other values than the trial's model ({wrong}): {CODE_ADVICE}; or {_OTHER_FORMAT}")


def _because(error: BaseException, request: Request) -> str:
    traceback.print_exc()
    return describe_error(error, Path(request.space.path) if request.space.path else None)


def _data_loader(space: Any, params: Mapping[str, Value]) -> Callable[[], Any]:
    from search.worker.data.arrays import prepare_data
    from search.worker.hp import LazyHyperParameters
    from search.worker.keras_session import seeded

    @functools.cache
    def load() -> Any:
        with seeded(0):  # as in a worker
            return prepare_data(space.load_data(*([LazyHyperParameters(values=params)] if space.data_takes_hp else [])))

    return load


# Loaders: each returns the values for `x`, or None if nothing here can compute them, and a remark ---------------------

_Loaded = tuple[Any, str]


def _load_keras(file: Path, model: Any, x: Any) -> _Loaded:
    import keras

    from search.worker import saved_model_check

    objects, remark = saved_model_check.named_objects(file, model), ""
    try:
        loaded = keras.saving.load_model(file, custom_objects=objects, safe_mode=False)
    except Exception:
        traceback.print_exc()
        loaded = keras.saving.load_model(file, custom_objects=objects, compile=False, safe_mode=False)
        remark = "its compilation cannot be loaded: give compile=False"
    return saved_model_check.values_of(loaded, x), remark


def _load_saved_model(file: Path, model: Any, x: Any) -> _Loaded:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(file))  # its variables live as long as this does
    arguments, _ = loaded.serve.concrete_functions[0].structured_input_signature
    specs = tf.nest.flatten(arguments)
    tensors = [tf.cast(leaf, spec.dtype) for leaf, spec in zip(_leaves(model, x), specs, strict=True)]
    found = loaded.serve(*tf.nest.pack_sequence_as(arguments, tensors))
    return [value.numpy() for value in tf.nest.flatten(found)], ""


def _load_onnx(file: Path, model: Any, x: Any) -> _Loaded:
    import onnx
    import onnx.reference

    proto = onnx.load(file)
    constants = {item.name for item in proto.graph.initializer}
    kinds = {
        item.name: onnx.helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type)
        for item in proto.graph.input
        if item.name not in constants
    }
    named = x if isinstance(x, dict) and x.keys() == kinds.keys() else dict(zip(kinds, _leaves(model, x), strict=True))
    feed = {name: named[name].astype(kind) for name, kind in kinds.items()}
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return session.run(None, feed), ""
    try:
        return onnx.reference.ReferenceEvaluator(proto).run(None, feed), ""
    except Exception:
        traceback.print_exc()
        return None, "it was not compared with the model: pip install onnxruntime, and export again"


def _leaves(model: Any, x: Any) -> list[Any]:
    """Return the arrays in `x` in the order of the model's inputs."""
    import keras

    if isinstance(x, dict) and isinstance(getattr(model, "input", None), list):
        return [x[tensor.name] for tensor in model.inputs]  # Keras takes a dict by the inputs' names, too
    return list(keras.tree.flatten(x))


_LOADERS: Mapping[str, Callable[[Path, Any, Any], _Loaded]] = {
    "keras": _load_keras,
    "savedmodel": _load_saved_model,
    "onnx": _load_onnx,
}
