"""Exports: a trial's trained model as a file for programs that know nothing of search.

keras        one `.keras` file: architecture, weights, compilation
weights      one `.weights.h5` file, for a model that code has built
savedmodel   a folder that TensorFlow and TensorFlow Serving load, without Keras and without any code
onnx         one `.onnx` file, for ONNX Runtime and others, without any code
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.errors import NoResult, OptionError
from search.executors.selection import check_installed
from search.results.models import describe_no_weights
from search.results.study_results import StudyResults
from search.space.error_text import summarize_error
from search.study.trials import Trial
from search.wording import pluralize

ENDINGS = {"keras": ".keras", "weights": ".weights.h5", "onnx": ".onnx", "savedmodel": ""}
"""The ending of a path for each format. A path without an ending is a folder, and becomes a SavedModel."""

_ONNX_PACKAGES = ("onnx", "tf2onnx")


@dataclass(frozen=True, slots=True)
class Export:
    """A checked plan to write a trial's model. The checks need no framework.

    Attributes:
        trial: the trial, whose weights are those of its best epoch.
        to: the file, or the SavedModel's folder.
        format: one of `ENDINGS`.
        keras_backend: the Keras back end to write with. TensorFlow writes SavedModel and ONNX, whatever trained the
            weights; the study's own back end writes the others.
    """

    study: StudyResults
    trial: Trial
    to: Path
    format: str
    keras_backend: str


def plan_export(
    study: StudyResults,
    rank: int,
    to: Path,
    *,
    format: str | None = None,
    keras_backend: str | None = None,
    force: bool = False,
) -> Export:
    """Check an export of the trial at `rank` (1 is the best) to `to`, and return its plan.

    Args:
        format: one of `ENDINGS`; by default it follows from the path's ending.
        keras_backend: the Keras back end to write with; see `Export`.
        force: replace a file, or a folder with a SavedModel, at `to`.

    Raises:
        OptionError: the path or the rank cannot be used, or a package is not installed.
        NoResult: no trial has an objective, or the study was imported without models.
    """
    chosen = _format_of(to, format)
    _check_place(to, chosen, force)
    ranked = study.best_trials()
    if study.study.is_imported:
        raise NoResult(describe_no_weights(study.study, study.paths.trials))
    if not ranked:
        raise NoResult(f"study {study.name!r} has no trial with an objective: see search trials {study.name}")
    if rank > len(ranked):
        raise OptionError(
            f"--rank {rank}: study {study.name!r} has {pluralize(len(ranked), 'trial')} with an objective"
        )
    if keras_backend is None:
        own = study.study.versions.get("keras_backend", "tensorflow")
        keras_backend = own if chosen in ("keras", "weights") else "tensorflow"
    check_installed(keras_backend)
    if chosen == "onnx" and keras_backend == "tensorflow":
        missing = [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None]
        if missing:
            raise OptionError(f"--to {to}: ONNX needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    return Export(study, ranked[rank - 1], to, chosen, keras_backend)


def write_export(model: Any, to: Path, format: str, check: Callable[[Path], str] | None = None) -> str:
    """Write a built model to `to`, whole or not at all. A file or SavedModel there is replaced.

    Args:
        format: one of `ENDINGS`, whose ending `to` has.
        check: called with the path of the written file or folder, before anything is at `to`. It returns a remark or
            "", and raises OptionError if the file must not be kept.

    Returns:
        Words that say what loading needs beside Keras, and the check's remark, or "".

    Raises:
        OptionError: the model cannot be expressed in the format, or the check has failed.
    """
    folder = Path(tempfile.mkdtemp(dir=to.absolute().parent, prefix=".export-"))
    try:
        new = folder / to.name
        try:
            _save(model, new, format)
        except Exception as error:
            raise OptionError(f"--to {to}: {_describe_failure(error, format)}") from error
        remark = check(new) if check is not None else ""
        if to.is_dir():
            to.rename(folder / "old")
        new.replace(to)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    needs = "load them into a model built with the trial's hyperparameters" if format == "weights" else ""
    if format == "keras":
        needs = loading_needs(_config(to))
    return "; ".join(filter(None, (needs, remark)))


_WITHOUT_CONFIG = (
    re.compile(r"Object (\w+) was created by passing non-serializable argument values"),
    re.compile(r"Cannot serialize object .* of type <class '(?:.*\.)?(\w+)'>"),
)
"""Keras's words about a class without `get_config`."""


def _describe_failure(error: Exception, format: str) -> str:
    """Return the reason why Keras could not write a model, with what to do."""
    text = " ".join(str(error).split())
    found = [match for pattern in _WITHOUT_CONFIG if (match := pattern.search(text))]
    if found:
        name = found[0][1]
        return (
            f"{name} has no get_config, so Keras cannot write it: give {name} a method get_config that returns the "
            "arguments of its __init__, or export only the weights, to a name that ends in .weights.h5"
        )
    return (
        f"the model cannot be written as {format} ({summarize_error(error)}): try another format, or another Keras "
        "with --keras-backend"
    )


def _save(model: Any, to: Path, format: str) -> None:
    match format:
        case "keras":
            if model.compiled and not model.optimizer.built:
                model.optimizer.build(model.trainable_variables)  # else Keras warns when the file is loaded
            model.save(to)
        case "weights":
            model.save_weights(to)
        case "savedmodel":
            model.export(to, format="tf_saved_model", verbose=False)
        case "onnx":
            # Keras needs an earlier call. A symbolic one computes nothing; a subclass was built by a call.
            if inputs := getattr(model, "inputs", None):
                model(inputs[0] if len(inputs) == 1 else model.input)
            model.export(to, format="onnx", verbose=False)


def _format_of(to: Path, format: str | None) -> str:
    if format is None:
        for name, ending in ENDINGS.items():
            if ending and to.name.endswith(ending):
                return name
        if to.suffix:
            raise OptionError(
                f"--to {to}: end the name in .keras, .weights.h5 or .onnx, or in nothing for a SavedModel's folder; or "
                "say which with --format"
            )
        return "savedmodel"
    if format not in ENDINGS:
        raise OptionError(f"--format {format}: use {', '.join(ENDINGS)}")
    if not to.name.endswith(ENDINGS[format]):
        raise OptionError(f"--to {to}: for --format {format}, end the file's name in {ENDINGS[format]}")
    return format


def _check_place(to: Path, format: str, force: bool) -> None:
    if not to.absolute().parent.is_dir():
        raise OptionError(f"--to {to}: there is no folder {to.absolute().parent}: make it first")
    if not to.exists():
        return
    if not force:
        raise OptionError(f"--to {to}: it exists: give another name, or --force to replace it")
    if format == "savedmodel" and not (to / "saved_model.pb").is_file():
        raise OptionError(f"--to {to}: it exists and is no SavedModel, which --force would replace: give another name")
    if format != "savedmodel" and to.is_dir():
        raise OptionError(f"--to {to}: it is a folder: give a file's name")


# Loading --------------------------------------------------------------------------------------------------------------


def _config(path: Path) -> Any:
    """Return a `.keras` file's configuration."""
    with zipfile.ZipFile(path) as file:
        return json.loads(file.read("config.json"))


def loading_needs(config: Any) -> str:
    """Return words that say what `keras.models.load_model` needs beyond Keras itself; "" if nothing."""
    from search.worker.saved_model_check import foreign_names

    found = list(dict.fromkeys(foreign_names(config)))
    names = [name for name in found if name not in _CODE]
    needs = [f"custom_objects that have {', '.join(names)}"] if names else []
    needs += [needed for what, needed in _CODE.items() if what in found]
    return f"load it with {', '.join(needs)}" if needs else ""


_CODE = {
    "__lambda__": "safe_mode=False, as there is a lambda in it",
    "__torch__": "compile=False where PyTorch is not installed",
}
