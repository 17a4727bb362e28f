"""The fingerprint of data: their shapes, dtypes and checksums, as texts that a later process compares.

Of a stream the fingerprint has the number of batches, if it is known, and the shapes of a batch. The checksum of its
first batch is there only if two readings agree: an unseeded shuffle makes them differ.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from search.worker.data import kinds
from search.worker.data.arrays import Data, Split
from search.worker.data.streams import Stream

__all__ = ["fingerprint_data"]

SAMPLE_BYTES = 1 << 24
"""Bytes of an array that are read for its checksum. Of a larger array, evenly spaced rows are read."""

_NAMES = ("x", "y", "sample_weight")


def fingerprint_data(data: Data, *, read_streams: bool = False) -> dict[str, dict[str, str]]:
    """Return the fingerprint of each split: for each part a text, such as "float32[1437,64] 5a3f0c11".

    Args:
        read_streams: whether the first batch of streams is read, which may advance their shuffle.
    """
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    return {name: _fingerprint(part, read_streams) for name, part in splits.items() if part is not None}


def _fingerprint(part: Split | Stream, read_streams: bool) -> dict[str, str]:
    if isinstance(part, Split):
        return _describe(dict(zip(_NAMES, part.packed, strict=False)))
    found = {"batches": "endless"} if part.endless else {}
    if part.batches is not None:
        found["batches"] = str(part.batches)
    if part.kind == "dataset":
        found["batch"] = str(part.source.element_spec).replace(" ", "")
    if read_streams:
        first, second = (_first_batch(part) for _ in range(2))
        repeats = first == second
        found |= {f"first {name}": text if repeats else text.partition(" ")[0] for name, text in first.items()}
    return found


def _first_batch(stream: Stream) -> dict[str, str]:
    return _describe(dict(zip(_NAMES, stream.first, strict=False)))


def _describe(parts: Mapping[str, Any]) -> dict[str, str]:
    """Return the text of each array by its name: "x", or "x 0" and so on if there are several."""
    found = {}
    for name, part in parts.items():
        leaves = keras.tree.flatten(part)
        for number, leaf in enumerate(leaves):
            if leaf is not None:
                found[name if len(leaves) == 1 else f"{name} {number}"] = f"{_type_of(leaf)} {_checksum(leaf)}"
    return found


def _type_of(leaf: Any) -> str:
    """Return the kind, dtype and shape of an array, as "float32[1437,64]" or "sparse:float32[1437,64]"."""
    kind = kinds.kind_of(leaf).partition(" ")[0]
    array = np.asarray(leaf) if kind == "numbers" else leaf
    dtype, shape = (array.dtype, ",".join(map(str, array.shape)))
    return f"{dtype}[{shape}]" if kind == "numbers" else f"{kind}:{dtype.name}[{shape}]"


def _checksum(leaf: Any) -> str:
    """Return a checksum of an array of any kind, 8 hexadecimal digits."""
    found = 0
    for array in kinds.plain_parts(leaf):
        if array.nbytes > SAMPLE_BYTES and array.ndim:
            array = array[:: math.ceil(array.nbytes / SAMPLE_BYTES)]
        found = zlib.crc32(np.ascontiguousarray(array).tobytes(), found)
    return f"{found:08x}"
