"""Large arrays that all workers share: the probe writes them to files, which every worker maps into its memory.

A worker that maps arrays does not call `load_data`. So arrays are shared only if `load_data` changes no global name of
the user's modules, as a factory may need that change.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from search.space.file import local_files
from search.worker.data.arrays import Data, Split

__all__ = ["LARGE_BYTES", "load_arrays", "module_globals", "save_arrays"]

LARGE_BYTES = 64 * 2**20
"""Size in bytes from which arrays are shared."""

_STRUCTURE = "structure.pkl"


def save_arrays(folder: str | Path, data: Data) -> None:
    """Write the arrays of `data` to `folder`, which is created. Incomplete files are never loaded."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    arrays: list[Any] = []

    def save(leaf: Any) -> int:
        arrays.append(leaf)
        np.save(target / f"{len(arrays) - 1}.npy", leaf, allow_pickle=False)
        return len(arrays) - 1

    parts = [
        None if part is None else {name: keras.tree.map_structure(save, getattr(part, name)) for name in _fields(part)}
        for part in (data.train, data.validation, data.test)
    ]
    (target / _STRUCTURE).write_bytes(pickle.dumps(parts))


def _fields(part: Any) -> list[str]:
    return [name for name in ("x", "y", "sample_weight") if getattr(part, name) is not None]


def load_arrays(folder: str | Path) -> Data | None:
    """Map the arrays in `folder` from their files and return them; None if there are none."""
    source = Path(folder)
    try:
        parts = pickle.loads((source / _STRUCTURE).read_bytes())
    except FileNotFoundError:
        return None

    def map_file(number: int) -> Any:
        # A plain array on the file's memory that copies pages on write: TensorFlow would copy a read-only array.
        return np.load(source / f"{number}.npy", mmap_mode="c").view(np.ndarray)

    train, validation, test = (
        None
        if part is None
        else Split(**{name: keras.tree.map_structure(map_file, item) for name, item in part.items()})
        for part in parts
    )
    assert train is not None
    return Data(train, validation, test, tuple(None if part is None else part.packed for part in (train, validation)))


def module_globals(path: Path | None) -> Mapping[str, Any]:
    """Return the identity and size of each global of the user's modules, so that a later call shows any change."""
    if path is None:
        return {}
    files = {file for _, file in local_files(path)}
    found: dict[str, Any] = {}
    for title, module in sys.modules.copy().items():
        if getattr(module, "__file__", None) in files:
            for name, value in list(vars(module).items()):
                size = len(value) if isinstance(value, (list, dict, set)) else None
                found[f"{title}.{name}"] = (id(value), size)
    return found
