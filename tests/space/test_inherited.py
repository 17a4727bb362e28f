"""Parts that do not pickle: the pickle names them, and only their process and its forks have them."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import pytest

from search.errors import SpaceError
from search.space import inherited, pickling
from search.space.file import SpaceRef, read_space
from search.space.old_names import Unpickler


@dataclass(frozen=True)
class Call:
    """The arguments of a call, which can be taken apart."""

    x: Any
    callbacks: tuple[Any, ...]

    def leaves(self) -> list[tuple[str, Any]]:
        return [("x", self.x), *((f"callbacks[{i}]", part) for i, part in enumerate(self.callbacks))]


def test_containers_and_calls_are_taken_apart() -> None:
    lock = threading.Lock()
    data = ([1, lock], {"image": 2}, Call([3], (4, 5)))
    assert list(inherited.leaves_of("data", data)) == [
        ("data[0][0]", 1),
        ("data[0][1]", lock),
        ("data[1]['image']", 2),
        ("x[0]", 3),
        ("callbacks[0]", 4),
        ("callbacks[1]", 5),
    ]


def test_only_the_kept_parts_stay_in_memory() -> None:
    lock, rows = threading.Lock(), [1, 2]
    keys = inherited.keep({"x": lock})
    pickle = pickling.dumps((rows, [lock]), keys)
    found, (same,) = Unpickler(io.BytesIO(pickle)).load()
    assert found == rows
    assert found is not rows
    assert same is lock
    inherited.forget(keys)
    _, (missing,) = Unpickler(io.BytesIO(pickle)).load()
    with pytest.raises(SpaceError, match=r"^x of this study came from its script's memory: run the script again"):
        missing()


def build(hp: Any) -> Any:
    return None


ELSEWHERE = """
import sys
from search.errors import SpaceError
from search.space.file import SpaceRef, read_space
try:
    space = read_space(SpaceRef(pickle=sys.argv[1]))
    print("factory", space.build_model(None))
    space.load_data()
except SpaceError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [("data[1]", "factory None\ndata[1] of this study"), ("build_model", "build_model of this study")],
)
def test_another_process_lacks_them(tmp_path: Path, name: str, words: str) -> None:
    """A missing part of the data leaves the factory usable."""
    lock = threading.Lock()
    parts = {"build_model": (lambda hp: lock) if name == "build_model" else build}
    data = ([1], lock if name != "build_model" else [2])
    keys = inherited.keep({name: parts["build_model"] if name == "build_model" else lock})
    path = tmp_path / "factory.pkl"
    path.write_bytes(pickling.dumps_factory(parts, keys) + pickling.dumps(data, keys))
    read = read_space(SpaceRef(pickle=str(path)))
    assert read.load_data()[0] == [1]
    code = f"import sys; sys.path[:] = {sys.path!r}\n" + ELSEWHERE
    said = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout
    assert said.startswith(words), said
    assert len(said.splitlines()) == words.count("\n") + 1


def test_keras_settings_travel_with_the_factory(tmp_path: Path) -> None:
    """A script that trains in mixed precision means its trials, too."""
    path = tmp_path / "factory.pkl"
    before = keras.config.dtype_policy()
    assert pickling.keras_settings() == {}
    try:
        keras.config.set_dtype_policy("mixed_float16")
        keras.config.set_epsilon(1e-5)
        path.write_bytes(pickling.dumps_factory({"build_model": build}))
    finally:
        keras.config.set_dtype_policy(before)
        keras.config.set_epsilon(1e-7)
    try:
        read_space(SpaceRef(pickle=str(path)))
        assert pickling.keras_settings() == {"epsilon": 1e-5, "dtype_policy": "mixed_float16"}
    finally:
        keras.config.set_dtype_policy(before)
        keras.config.set_epsilon(1e-7)
