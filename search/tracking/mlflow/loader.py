"""The loader of a study's winner for `mlflow.pyfunc.load_model`. Each model has a copy of this file in `code/`.

So it imports nothing of `search`, and works if that is not installed. The model's folder has

data/model.keras    the model
loader.json         hyperparameters, seeds, space file and inputs, written by `search.tracking.mlflow.model`
space/              the space file, called search_space.py, and local modules that it imports; or the pickled factory

There are two ways to load the model. Keras reads the file, which is enough for Keras's own layers and for classes with
modules in `space/`. Or the factory in the space file builds the model again with the trial's hyperparameters, and the
file gives the weights; that needs KerasTuner. A `.keras` file has only the name of a function, and the bytecode of a
Lambda without the names that it uses. If the file has any of these, the factory is tried first.

The code may draw constants. So it is imported under the study's seed, and the factory is called under the trial's.

Both ways run the study's code, and Keras's `safe_mode` is off: loading a model means to trust its search.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import json
import os
import pickle
import random
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

INFO_FILE = "loader.json"
MODEL_FILE = Path("data", "model.keras")
SPACE_FOLDER = "space"
SPACE_MODULE = "search_space"
"""The module name under which a search imports its space file, and so the module of the classes in it."""


def _load_pyfunc(path: str) -> Predictor:
    """Return the model in the folder `path`. MLflow calls this function by its name."""
    folder = Path(path)
    info: dict[str, Any] = json.loads((folder / INFO_FILE).read_text())
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", info["keras_backend"])
    ways: list[Callable[[Path, dict[str, Any]], Any]] = [_load_with_keras, _build_with_factory]
    if find_custom_objects(folder / MODEL_FILE).functions:
        ways.reverse()
    with _modules(folder / SPACE_FOLDER), _without_arguments(folder / SPACE_FOLDER), _random_states_kept():
        _set_seed(info.get("seed"))
        try:
            model = ways[0](folder, info)
        except (Exception, SystemExit) as first:
            try:
                model = ways[1](folder, info)
            except (Exception, SystemExit) as second:
                raise RuntimeError(f"the model cannot be loaded: {_describe(first)}; {_describe(second)}") from first
    return Predictor(model, info["inputs"])


class Predictor:
    """A Keras model with the interface of MLflow's `pyfunc`.

    Args:
        model: the Keras model.
        names: the names of its inputs, in order; empty for a single unnamed input.
    """

    def __init__(self, model: Any, names: list[str]) -> None:
        self.model = model
        self._names = names

    def predict(self, data: Any) -> Any:
        """Return the model's output for all samples of `data`: an array, or a dict or list of arrays as in the model.

        Args:
            data: an array, a DataFrame, or a dict of arrays by input. The first dimension is that of the samples.
        """
        if hasattr(data, "to_numpy"):  # a DataFrame
            data = data.to_numpy()
        return self.model.predict(_with_text(self._arrange(data)), verbose=0)

    def get_raw_model(self) -> Any:
        """Return the Keras model."""
        return self.model

    def _arrange(self, data: Any) -> Any:
        """Return `data` in the form that the model takes, if it is a dict of inputs by name."""
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


def _with_text(data: Any) -> Any:
    """Return `data` with arrays of text as TensorFlow's tensors: Keras takes no others."""
    if isinstance(data, dict):
        return {name: _with_text(item) for name, item in data.items()}
    if isinstance(data, list):
        return [_with_text(item) for item in data]
    if getattr(getattr(data, "dtype", None), "kind", "") not in ("U", "S"):
        return data
    import tensorflow as tf

    return tf.constant(data)


# By Keras -------------------------------------------------------------------------------------------------------------


class CustomObjects:
    """The references of a `.keras` file to objects outside of Keras, without those of losses and metrics.

    Attributes:
        classes: as (module, class, registered name).
        functions: whether there are functions, Lambdas included.
    """

    def __init__(self) -> None:
        self.classes: set[tuple[str | None, str, str]] = set()
        self.functions = False

    def __bool__(self) -> bool:
        return bool(self.classes) or self.functions


def find_custom_objects(file: Path) -> CustomObjects:
    """Return the references of the `.keras` file `file` to objects outside of Keras."""
    with zipfile.ZipFile(file) as archive:
        config = json.loads(archive.read("config.json"))
    found = CustomObjects()
    todo = [config]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            _note_custom_object(node, found)
            todo += [value for name, value in node.items() if name != "compile_config"]
        elif isinstance(node, list):
            todo += node
    return found


def _note_custom_object(node: Mapping[str, Any], found: CustomObjects) -> None:
    name, module = node.get("class_name"), node.get("module")
    if name in ("function", "__lambda__"):
        found.functions = True
    elif isinstance(name, str) and not name.startswith("__") and "config" in node and not _is_keras(module):
        found.classes.add((module, name, node.get("registered_name") or name))


def _is_keras(module: str | None) -> bool:
    return module is not None and module.partition(".")[0] in ("keras", "builtins")


def _load_with_keras(folder: Path, _: Mapping[str, Any]) -> Any:
    """Return the model as Keras reads it from its file, with the classes that the file names."""
    import keras

    objects = {}
    for module, name, registered in find_custom_objects(folder / MODEL_FILE).classes:
        if module is not None:
            found = getattr(importlib.import_module(module), name, None)
            if found is not None:
                objects[registered] = found
    return keras.saving.load_model(folder / MODEL_FILE, custom_objects=objects, compile=False, safe_mode=False)


# By the factory -------------------------------------------------------------------------------------------------------


def _build_with_factory(folder: Path, info: Mapping[str, Any]) -> Any:
    """Return the model that the factory builds with the trial's hyperparameters, with the file's weights."""
    if not info["space"]:
        raise FileNotFoundError("the study's code is not with it")
    if info["space"].endswith(".pkl"):
        parts = pickle.loads((folder / SPACE_FOLDER / info["space"]).read_bytes())
        _take_names(parts.get("names", {}))
    else:
        parts = vars(importlib.import_module(SPACE_MODULE))
    build = parts.get("build_model") or parts["hypermodel"].build
    _set_seed(info.get("training_seed"))
    model = build(_hyperparameters(info["params"]))
    if not model.built:
        _call_once(model, info)
    model.load_weights(folder / MODEL_FILE)
    return model


def _take_names(names: Mapping[str, int]) -> None:
    """Make Keras give no name again that an object of the pickled factory has.

    Args:
        names: the number of names by prefix: {"dense": 2} for `dense` and `dense_1`.
    """
    import keras

    for prefix, count in names.items():
        while keras.backend.get_uid(prefix) < count:
            pass


def _answer(hp: Any, kind: str, name: Any, *args: Any, **kwargs: Any) -> Any:
    """Answer the call of a method of `hp`, such as "Int"."""
    import keras_tuner

    method = getattr(keras_tuner.HyperParameters, kind, None)
    bound = kwargs if method is None else inspect.signature(method).bind(None, name, *args, **kwargs).arguments
    parent = bound.get("parent_name")
    with hp.conditional_scope(parent, bound.get("parent_values")) if parent else contextlib.nullcontext():
        if not all(hp.active):
            return None
        full = hp.full_name(name)
        if full not in hp.values and method is not None:
            # A value that was not searched was not recorded either.
            skipped = ("self", "parent_name", "parent_values")
            others = {key: value for key, value in bound.items() if key not in skipped}
            hp.values[full] = getattr(keras_tuner.HyperParameters(), kind)(**others)
        return hp.values[full]


def _hyperparameters(values: Mapping[str, Any]) -> Any:
    """Return an `hp` of KerasTuner's that answers with `values`, which the search has checked, else with defaults.

    The class overrides KerasTuner's public methods only.
    """
    import keras_tuner

    class HyperParameters(keras_tuner.HyperParameters):  # type: ignore[misc]  # KerasTuner publishes no types
        Int, Float, Choice, Boolean, Fixed = (
            functools.partialmethod(_answer, kind) for kind in ("Int", "Float", "Choice", "Boolean", "Fixed")
        )

        def __init__(self) -> None:
            super().__init__()
            self.values = dict(values)
            self.active: list[bool] = []
            self.scopes: list[str] = []

        def __getattr__(self, kind: str) -> Any:
            """Return the method of a kind that KerasTuner does not have."""
            if not kind[:1].isupper():
                raise AttributeError(f"hp has no {kind!r}")
            return functools.partial(_answer, self, kind)

        def declare(self, hyperparameters: Any, **options: Any) -> None:
            """Do nothing: a factory's declarations change the domains, and the values are known."""

        def merge(self, hyperparameters: Any, overwrite: bool = True) -> None:
            """Do nothing: the values are those after the merge."""

        def get(self, name: str) -> Any:
            return self.values[self.full_name(name)]

        def __contains__(self, name: object) -> bool:
            return self.full_name(name) in self.values

        def full_name(self, name: object) -> str:
            return "/".join([*self.scopes, str(name)])

        @contextlib.contextmanager
        def name_scope(self, name: str) -> Iterator[None]:
            self.scopes.append(name)
            try:
                yield
            finally:
                self.scopes.pop()

        def parent(self, name: str) -> str:
            """Return the full name of a parent, which is that of the innermost name scope that has one."""
            names = ["/".join([*self.scopes[:depth], name]) for depth in range(len(self.scopes), -1, -1)]
            return next((full for full in names if full in self.values), names[0])

        @contextlib.contextmanager
        def conditional_scope(self, parent_name: str, parent_values: Any) -> Iterator[None]:
            name = self.parent(str(parent_name))
            wanted = list(parent_values) if isinstance(parent_values, (list, tuple)) else [parent_values]
            self.active.append(name in self.values and self.values[name] in wanted)
            try:
                yield
            finally:
                self.active.pop()

    return HyperParameters()


def _call_once(model: Any, info: Mapping[str, Any]) -> None:
    """Create the weights of a model that is built by its first call, with a batch of zeros."""
    import numpy as np

    def zeros(dtype: str, shape: list[int]) -> Any:
        sizes = [1 if size == -1 else size for size in shape]
        if dtype != "string":
            return np.zeros(sizes, dtype)
        import tensorflow as tf

        return tf.constant(np.full(sizes, ""))

    arrays = {name: zeros(dtype, shape) for name, (dtype, shape) in info["shapes"].items()}
    model(arrays if info["named"] else [*arrays.values()] if len(arrays) > 1 else next(iter(arrays.values())))


# Modules --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _modules(folder: Path) -> Iterator[None]:
    """Import modules from `folder` first, within this context.

    Modules of the same names, of another model or of the caller, are put back afterwards. The folder stays the last
    entry of the module search path.
    """
    names = {path.stem for path in folder.glob("*") if path.is_dir() or path.suffix == ".py"}
    aside = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in names}
    sys.path.insert(0, str(folder))
    is_missing = importlib.util.find_spec("search") is None
    if is_missing:
        sys.modules["search"] = _Search("search")
    try:
        yield
    finally:
        if is_missing:
            del sys.modules["search"]
        sys.path.remove(str(folder))
        sys.path.append(str(folder))
        sys.modules.update(aside)


@contextlib.contextmanager
def _without_arguments(folder: Path) -> Iterator[None]:
    """Make `sys.argv` that of the study's code in `folder`, run as a program without arguments, within this context.

    The code may parse `sys.argv`, which has the arguments of the program that loads the model.
    """
    before = sys.argv
    sys.argv = [str(folder / f"{SPACE_MODULE}.py")]
    try:
        yield
    finally:
        sys.argv = before


class _Search(ModuleType):
    """A replacement of `search` for a space file that imports it, if it is not installed."""

    @staticmethod
    def compiled(build: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        return build  # a prediction needs no compiled model

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: Any, **__: Any) -> Any:
            raise ImportError(f"search.{name} needs the package keras-search, in which the space file was searched")

        return missing


# Random states --------------------------------------------------------------------------------------------------------


def _set_seed(seed: int | None) -> None:
    """Seed all random states. Models of older versions have no seeds."""
    if seed is not None:
        import keras

        keras.utils.set_random_seed(seed)


@contextlib.contextmanager
def _random_states_kept() -> Iterator[None]:
    """Put the random states of Python and NumPy back at the end."""
    import numpy as np

    before = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


def _describe(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"sys.exit({'' if error.code is None else repr(error.code)}) was called"
    return " ".join(f"{type(error).__name__}: {error}".split())[:400]
