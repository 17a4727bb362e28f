"""Keras on JAX and PyTorch without an import of TensorFlow: an island, see `search.worker.capabilities`.

If TensorFlow is installed, Keras imports it on any back end: to seed it, and to ask whether an object that is
serialized is TensorFlow's. That takes each worker two seconds. Here only the user's code imports TensorFlow, which gets
its seed at that moment.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

import keras

from search.worker.capabilities import capability

__all__ = ["serialize_without_import", "set_seed"]

_TENSORFLOW = "tensorflow"


def _version() -> str:
    return f"Keras {keras.__version__}"


# Seeding --------------------------------------------------------------------------------------------------------------


@capability(
    "seeding without TensorFlow",
    without="each worker imports TensorFlow to seed it",
    uses=("keras.src.utils.rng_utils.tf",),
    packages=_version,
)
def late_seeding() -> bool:
    """Test whether Keras's function has TensorFlow by the name, and asks whether it can be imported."""
    function = keras.utils.set_random_seed
    return "tf" in function.__globals__ and {"tf", "available"} <= set(function.__code__.co_names)


def set_seed(seed: int) -> None:
    """Set all random states, as `keras.utils.set_random_seed` does."""
    if _TENSORFLOW in sys.modules or not late_seeding.works:
        keras.utils.set_random_seed(seed)
        return
    function = keras.utils.set_random_seed
    names = {**function.__globals__, "tf": types.SimpleNamespace(available=False)}
    types.FunctionType(function.__code__, names)(seed)
    _finder.seed = seed
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


class _Finder(MetaPathFinder):
    """A finder of TensorFlow, which is seeded with `seed` when its import ends."""

    seed = 0
    _searches = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _TENSORFLOW or self._searches:
            return None
        self._searches = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._searches = False
        if spec is not None and spec.loader is not None:
            spec.loader = _SeedingLoader(spec.loader)
        return spec


class _SeedingLoader(Loader):
    """A loader that seeds the module when it is loaded, and leaves it with its own loader."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        module.random.set_seed(_finder.seed)


_finder = _Finder()


# Serialization --------------------------------------------------------------------------------------------------------


@capability(
    "serialization without TensorFlow",
    without="each worker imports TensorFlow to save a checkpoint",
    uses=("keras.src.saving.serialization_lib.tf",),
    packages=_version,
)
def late_serialization() -> bool:
    """Test whether Keras's serialization asks the name for TensorFlow whether it can be imported."""
    from keras.src.saving import serialization_lib

    return isinstance(vars(type(serialization_lib.tf))["available"], property)


class _LateTensorflow:
    """The name for TensorFlow in Keras's serialization. No object is TensorFlow's before TensorFlow is imported."""

    def __init__(self, module: Any) -> None:
        self._module = module

    @property
    def available(self) -> bool:
        return _TENSORFLOW in sys.modules and bool(self._module.available)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def serialize_without_import() -> None:
    """Have Keras serialize objects without an import of TensorFlow, in this process from now on."""
    if late_serialization.works:
        from keras.src.saving import serialization_lib

        serialization_lib.tf = _LateTensorflow(serialization_lib.tf)
