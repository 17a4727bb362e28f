"""Loads a study's winner for `mlflow.pyfunc.load_model`. A copy of this file travels in the model's `code/` folder.

So it imports nothing of `search`, and works where that is not installed. In the model's folder stand

data/model.keras    the model
loader.json         what `search.tracking.mlflow.model` says of it: hyperparameters, space file, inputs
space/              the space file, called search_space.py, and the local modules it imported; or the pickled factory

There are two ways to the model. Keras reads the file: enough for Keras's own layers, and for classes whose modules are
in `space/`. Or the factory in the space file builds it again with the trial's hyperparameters, and the file gives the
weights; that needs KerasTuner. A `.keras` file holds a function by its name only and a Lambda by its bytecode, without
the names that it uses: where there are any, the factory goes first.

Both run the study's code, and Keras's `safe_mode` is off: whoever loads a model trusts the search that it comes from.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import json
import os
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

INFO = "loader.json"
MODEL = Path("data", "model.keras")
SPACE = "space"
SPACE_MODULE = "search_space"
"""The name that a search imports its space file under, and so that of the module of the classes in it."""


def _load_pyfunc(path: str) -> Predictor:
    """What MLflow calls: the model in the folder `path`."""
    folder = Path(path)
    info: dict[str, Any] = json.loads((folder / INFO).read_text())
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", info["keras_backend"])
    ways: list[Callable[[Path, dict[str, Any]], Any]] = [_deserialised, _rebuilt]
    if custom(folder / MODEL).functions:
        ways.reverse()
    with _modules(folder / SPACE):
        try:
            model = ways[0](folder, info)
        except Exception as first:
            try:
                model = ways[1](folder, info)
            except Exception as second:
                raise RuntimeError(f"the model cannot be loaded: {_words(first)}; {_words(second)}") from first
    return Predictor(model, info["inputs"])


class Predictor:
    """A Keras model as MLflow calls it.

    Args:
        model: the Keras model.
        names: of its inputs, in order; empty for a single unnamed one.
    """

    def __init__(self, model: Any, names: list[str]) -> None:
        self.model = model
        self._names = names

    def predict(self, data: Any) -> Any:
        """The model's output for all samples of `data`, an array or a dict of arrays by input: an array, or a dict or
        list of arrays as the model gives them."""
        if hasattr(data, "to_numpy"):  # a DataFrame
            data = data.to_numpy()
        return self.model.predict(self._arranged(data), verbose=0)

    def get_raw_model(self) -> Any:
        """The Keras model."""
        return self.model

    def _arranged(self, data: Any) -> Any:
        """Inputs that came by name, as the model takes them."""
        if not isinstance(data, dict):
            return data
        try:
            inputs = self.model.input
        except (AttributeError, ValueError):
            inputs = {}  # a subclassed model
        if isinstance(inputs, dict):
            return data
        if not isinstance(inputs, (list, tuple)):
            return next(iter(data.values()))
        names = [tensor.name for tensor in inputs]
        return [data[name] for name in (names if set(names) == set(data) else self._names)]


# By Keras -------------------------------------------------------------------------------------------------------------


class Custom:
    """What a `.keras` file refers to that is not Keras's: `classes` as (module, class, registered name), and whether
    there are `functions`, Lambdas among them. A compiled loss or metric is of no use to a prediction."""

    def __init__(self) -> None:
        self.classes: set[tuple[str | None, str, str]] = set()
        self.functions = False

    def __bool__(self) -> bool:
        return bool(self.classes) or self.functions


def custom(file: Path) -> Custom:
    """What the `.keras` file `file` refers to that is not Keras's."""
    with zipfile.ZipFile(file) as archive:
        config = json.loads(archive.read("config.json"))
    found = Custom()
    todo = [config]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            _look(node, found)
            todo += [value for name, value in node.items() if name != "compile_config"]
        elif isinstance(node, list):
            todo += node
    return found


def _look(node: Mapping[str, Any], found: Custom) -> None:
    name, module = node.get("class_name"), node.get("module")
    if name in ("function", "__lambda__"):
        found.functions = True
    elif isinstance(name, str) and not name.startswith("__") and "config" in node and not _is_keras(module):
        found.classes.add((module, name, node.get("registered_name") or name))


def _is_keras(module: str | None) -> bool:
    return module is not None and module.partition(".")[0] in ("keras", "builtins")


def _deserialised(folder: Path, _: Mapping[str, Any]) -> Any:
    """The model as Keras reads it from its file, with the classes that the file names."""
    import keras

    objects = {}
    for module, name, registered in custom(folder / MODEL).classes:
        if module is not None:
            found = getattr(importlib.import_module(module), name, None)
            if found is not None:
                objects[registered] = found
    return keras.saving.load_model(folder / MODEL, custom_objects=objects, compile=False, safe_mode=False)


# By the factory -------------------------------------------------------------------------------------------------------


def _rebuilt(folder: Path, info: Mapping[str, Any]) -> Any:
    """The model as the factory builds it with the trial's hyperparameters, with the file's weights."""
    if not info["space"]:
        raise FileNotFoundError("the study's code is not with it")
    if info["space"].endswith(".pkl"):
        parts = pickle.loads((folder / SPACE / info["space"]).read_bytes())
    else:
        parts = vars(importlib.import_module(SPACE_MODULE))
    build = parts.get("build_model") or parts["hypermodel"].build
    model = build(_hyperparameters(info["params"]))
    if not model.built:
        _call_once(model, info)
    model.load_weights(folder / MODEL)
    return model


def _hyperparameters(values: Mapping[str, Any]) -> Any:
    """KerasTuner's `hp`, which only answers: what it is asked was checked when the values were drawn."""
    import keras_tuner

    def answer(kind: str) -> Callable[..., Any]:
        signature = inspect.signature(getattr(keras_tuner.HyperParameters, kind))

        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            given = signature.bind(self, *args, **kwargs).arguments
            with self._maybe_conditional_scope(given.get("parent_name"), given.get("parent_values")):
                return self.values[self._get_name(given["name"])] if all(self.active) else None

        return method

    class HyperParameters(keras_tuner.HyperParameters):  # type: ignore[misc]  # KerasTuner publishes no types
        Int, Float, Choice, Boolean, Fixed = map(answer, ("Int", "Float", "Choice", "Boolean", "Fixed"))

        def __init__(self) -> None:
            super().__init__()
            self.values = dict(values)
            self.active: list[bool] = []

        @contextlib.contextmanager
        def conditional_scope(self, parent_name: str, parent_values: Any) -> Iterator[None]:
            name = self._get_name(parent_name)
            wanted = list(parent_values) if isinstance(parent_values, (list, tuple)) else [parent_values]
            self.active.append(name in self.values and self.values[name] in wanted)
            try:
                yield
            finally:
                self.active.pop()

    return HyperParameters()


def _call_once(model: Any, info: Mapping[str, Any]) -> None:
    """Make the weights of a model that waits for its first batch."""
    import numpy as np

    arrays = {
        name: np.zeros([1 if size == -1 else size for size in shape], dtype)
        for name, (dtype, shape) in info["shapes"].items()
    }
    model(arrays if info["named"] else [*arrays.values()] if len(arrays) > 1 else next(iter(arrays.values())))


# Modules --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _modules(folder: Path) -> Iterator[None]:
    """Within, modules are imported from `folder` first: what was imported under their names, for another model or by
    whoever loads this one, is put back afterwards. The folder stays the last place to look for modules."""
    names = {path.stem for path in folder.glob("*") if path.is_dir() or path.suffix == ".py"}
    aside = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in names}
    sys.path.insert(0, str(folder))
    stands_in = importlib.util.find_spec("search") is None
    if stands_in:
        sys.modules["search"] = _Search("search")
    try:
        yield
    finally:
        if stands_in:
            del sys.modules["search"]
        sys.path.remove(str(folder))
        sys.path.append(str(folder))
        sys.modules.update(aside)


class _Search(ModuleType):
    """What a space file takes from `search`, where that is not installed."""

    @staticmethod
    def compiled(build: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        return build  # a prediction needs no compiled model

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: Any, **__: Any) -> Any:
            raise ImportError(f"search.{name} needs the package keras-search: pip install keras-search")

        return missing


def _words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:400]
