"""The folder of a study's winner as an MLflow model, written without importing Keras.

MLmodel               the flavours `python_function` (by `search.tracking.mlflow.loader`) and `keras`, and the signature
data/model.keras      the model
code/                 our loader
space/, loader.json   the loader's input
requirements.txt, python_env.yaml, conda.yaml   the packages that serve the model

`mlflow.pyfunc.load_model` loads every model. `mlflow.keras.load_model` loads models of Keras's own layers, and others
with `custom_objects`.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search.study.paths import StudyPaths
from search.study.records import Exported
from search.study.study import Study
from search.tracking.mlflow import loader

LOADER_MODULE = "search_keras_model"
"""The loader's module name in a model's `code/` folder."""


def write_model(folder: Path, study: Study, exported: Exported, paths: StudyPaths, **identity: Any) -> None:
    """Write the MLflow model of a study's winner.

    Args:
        folder: an empty folder.
        study: the study.
        exported: the record of the winner, whose file is `paths.model`.
        paths: the study's files.
        identity: arguments of `mlflow.models.Model` for the logged model: `model_id`, `run_id`, `artifact_path`.
    """
    from mlflow import pyfunc
    from mlflow.models import Model

    header = study.header
    assert header is not None
    inputs = exported.signature["inputs"]
    names = _names(inputs)
    (folder / loader.MODEL_FILE.parent).mkdir()
    (folder / loader.MODEL_FILE).symlink_to(paths.model.resolve())  # not copied: it may be large
    (folder / "code").mkdir()
    shutil.copyfile(loader.__file__, folder / "code" / f"{LOADER_MODULE}.py")
    backend = header.versions.get("keras_backend", "tensorflow")
    info = {
        "params": dict(study.trials[exported.trial].params),
        "space": _write_space(folder / loader.SPACE_FOLDER, study, paths),
        "seed": study.seed,
        "training_seed": study.training_seed(exported.trial, exported.execution),
        "keras_backend": backend,
        "inputs": names,
        "named": inputs[0]["name"] is not None,
        "shapes": {name: [item["dtype"], item["shape"]] for name, item in zip(names or [""], inputs, strict=True)},
    }
    (folder / loader.INFO_FILE).write_text(json.dumps(info, indent=2))
    requirements = _requirements(exported.requirements, header.versions, with_factory=bool(info["space"]))
    _write_environment(folder, requirements)
    model = Model(signature=_signature(exported.signature, names), **identity)
    pyfunc.add_to_model(model, LOADER_MODULE, code="code", conda_env="conda.yaml", python_env="python_env.yaml")
    model.add_flavor(
        "keras",
        data=str(loader.MODEL_FILE.parent),
        keras_version=header.versions.get("keras", ""),
        keras_backend=backend,
        save_exported_model=False,
    )
    model.model_size_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    model.save(str(folder / "MLmodel"))


def _write_space(target: Path, study: Study, paths: StudyPaths) -> str:
    """Copy the study's code to `target`. Return the space file's name there, "" if nothing is copied.

    A space file gets the name of its module: one called `keras.py` must not hide Keras. A pickled factory has the data
    in it, so it is copied only if the model cannot be read without it.
    """
    assert study.header is not None
    target.mkdir()
    name = Path(study.header.source).name
    if (paths.space / name).is_file():
        ignored = shutil.ignore_patterns("__pycache__", paths.pickle.name)
        shutil.copytree(paths.space, target, dirs_exist_ok=True, ignore=ignored)
        return (target / name).rename(target / f"{loader.SPACE_MODULE}.py").name
    if paths.pickle.is_file() and loader.find_custom_objects(paths.model):
        shutil.copyfile(paths.pickle, target / paths.pickle.name)
        return paths.pickle.name
    return ""


# Signature ------------------------------------------------------------------------------------------------------------


def _names(tensors: Sequence[Mapping[str, Any]], kind: str = "input") -> list[str]:
    """Return a name for each tensor, no names for a single unnamed one: MLflow wants all named, or one unnamed."""
    if len(tensors) == 1 and tensors[0]["name"] is None:
        return []
    return [item["name"] or f"{kind}_{number}" for number, item in enumerate(tensors)]


def _signature(signature: Mapping[str, Any], names: Sequence[str]) -> Any:
    from mlflow.models import ModelSignature

    outputs = signature["outputs"]
    # A model that only its own training step can call has no outputs.
    described = _schema(outputs, _names(outputs, "output")) if outputs else None
    return ModelSignature(_schema(signature["inputs"], names), described)


def _schema(tensors: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Any:
    from mlflow.types.schema import Schema, TensorSpec

    specs = [(_dtype(tensor["dtype"]), tuple(tensor["shape"])) for tensor in tensors]
    if not names:
        return Schema([TensorSpec(*specs[0])])
    return Schema([TensorSpec(*spec, name) for spec, name in zip(specs, names, strict=True)])


def _dtype(name: str) -> Any:
    import numpy as np

    if name == "string":
        return np.dtype("str")
    try:
        return np.dtype(name)
    except TypeError:
        return np.dtype("float32")  # NumPy lacks bfloat16 and its like: the model takes and returns float32


# Environment ----------------------------------------------------------------------------------------------------------


def _requirements(pinned: Sequence[str], versions: Mapping[str, str], *, with_factory: bool) -> list[str]:
    """Return the packages that serve the model, with their versions.

    Args:
        pinned: the requirements that the worker recorded.
        versions: the libraries of the search.
        with_factory: the factory is called to build the model, which needs KerasTuner for `hp`.
    """
    import mlflow

    wanted = {"mlflow": mlflow.__version__, "keras": versions.get("keras")}
    if with_factory:
        wanted["keras-tuner"] = versions.get("keras-tuner")
    known = {re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0].lower().replace("_", "-") for text in pinned}
    added = [f"{name}=={version}" for name, version in wanted.items() if version and name not in known]
    return [*added, *pinned]


def _write_environment(folder: Path, requirements: Sequence[str]) -> None:
    """Write the environment's files for MLflow's tools. Their YAML is written as JSON, which is a part of YAML."""
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements))
    python = platform.python_version()
    _write_json(
        folder / "python_env.yaml",
        {
            "python": python,
            "build_dependencies": ["pip", "setuptools", "wheel"],
            "dependencies": ["-r requirements.txt"],
        },
    )
    dependencies = [f"python={python}", "pip", {"pip": list(requirements)}]
    _write_json(
        folder / "conda.yaml", {"name": "mlflow-env", "channels": ["conda-forge"], "dependencies": dependencies}
    )


def _write_json(file: Path, data: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(data, indent=2))
