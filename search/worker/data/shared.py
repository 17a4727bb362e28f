"""Large arrays, kept once a machine: the probe writes them to files, which every other worker maps into its memory.

A worker that maps them does not call `load_data`. So that is done only where `load_data` leaves nothing else behind:
where it changed a global name of the user's modules, a factory may need it.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from search.space import file as spaces
from search.worker.data.arrays import Data, Split

__all__ = ["LARGE", "globals_of", "load", "save"]

LARGE = 64 * 2**20
"""Bytes of arrays from which on they are shared."""

_STRUCTURE = "structure.pkl"


def save(folder: str | Path, data: Data) -> None:
    """Write the arrays of `data`; the folder is made. A part of them is never taken for the whole."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    arrays: list[Any] = []

    def stored(leaf: Any) -> int:
        arrays.append(leaf)
        np.save(target / f"{len(arrays) - 1}.npy", leaf, allow_pickle=False)
        return len(arrays) - 1

    parts = [
        None
        if part is None
        else {name: keras.tree.map_structure(stored, getattr(part, name)) for name in _fields(part)}
        for part in (data.train, data.validation, data.test)
    ]
    (target / _STRUCTURE).write_bytes(pickle.dumps(parts))


def _fields(part: Any) -> list[str]:
    return [name for name in ("x", "y", "sample_weight") if getattr(part, name) is not None]


def load(folder: str | Path) -> Data | None:
    """The arrays in `folder`, mapped from their files; None where there are none."""
    source = Path(folder)
    try:
        parts = pickle.loads((source / _STRUCTURE).read_bytes())
    except FileNotFoundError:
        return None

    def mapped(number: int) -> Any:
        # A plain array whose memory is the file's, but for what is written to it. TensorFlow takes no read-only one as
        # it is.
        return np.load(source / f"{number}.npy", mmap_mode="c").view(np.ndarray)

    train, validation, test = (
        None if part is None else Split(**{name: keras.tree.map_structure(mapped, item) for name, item in part.items()})
        for part in parts
    )
    assert train is not None
    return Data(train, validation, test, tuple(None if part is None else part.packed for part in (train, validation)))


def globals_of(path: Path | None) -> Mapping[str, Any]:
    """What the global names of the user's modules stand for now, so that a change of them shows."""
    if path is None:
        return {}
    files = {file for _, file in spaces.local_files(path)}
    found: dict[str, Any] = {}
    for title, module in sys.modules.copy().items():
        if getattr(module, "__file__", None) in files:
            for name, value in list(vars(module).items()):
                size = len(value) if isinstance(value, (list, dict, set)) else None
                found[f"{title}.{name}"] = (id(value), size)
    return found
