"""Digests of factories and data: equal for what is the same, and different for every change that matters."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

from search.space.digests import digest_object
from search.space.local_modules import digest_module, module_file

FACTORY = """
RATE = 0.1
def helper(x):
    return x + RATE
class Block:
    size = 3
    def make(self):
        return helper(self.size)
def build_model(hp):
    block = Block()
    def inner():
        return block.make()
    return inner()
"""


def factory(code: str, name: str = "build_model") -> Any:
    """Return an object of a notebook whose cells hold `code`."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code, "<cell>", "exec"), namespace)
    return namespace[name]


def test_comments_blank_lines_and_the_place_of_a_cell_change_no_digest() -> None:
    moved = "\n\n# a comment\n" + FACTORY.replace("    return x + RATE", "    # this adds\n\n    return x + RATE")
    assert moved != FACTORY
    assert digest_object(factory(moved)) == digest_object(factory(FACTORY)) != ""
    assert digest_object(factory(FACTORY + "\nunused = 3\n")) == digest_object(factory(FACTORY))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("RATE = 0.1", "RATE = 0.2"),
        ("return x + RATE", "return x - RATE"),
        ("size = 3", "size = 4"),
        ("return helper(self.size)", "return helper(self.size + 1)"),
        ("return block.make()", "return 2 * block.make()"),
        ("block = Block()", "block = Block"),
        ("def build_model(hp):", "def build_model(hp, more=1):"),
        ("RATE = 0.1", "import numpy as RATE"),
    ],
)
def test_a_change_of_what_a_factory_uses_changes_its_digest(old: str, new: str) -> None:
    assert old in FACTORY
    assert digest_object(factory(FACTORY.replace(old, new))) != digest_object(factory(FACTORY))


def test_what_a_closure_a_partial_and_an_object_hold_counts() -> None:
    def make(width: int) -> Callable[[], int]:
        return lambda: width

    assert digest_object(make(3)) == digest_object(make(3)) != digest_object(make(4))
    partials = [digest_object(functools.partial(make, width)) for width in (3, 3, 4)]
    assert partials[0] == partials[1] != partials[2]
    block = factory(FACTORY, "Block")
    same, other = block(), block()
    assert digest_object(same) == digest_object(other)
    other.size = 9
    assert digest_object(same) != digest_object(other)


def test_functions_that_use_each_other_have_a_digest() -> None:
    code = "def a(n):\n    return b(n)\ndef b(n):\n    return a(n - {}) if n else 0\n"
    assert digest_object(factory(code.format(1), "a")) == digest_object(factory(code.format(1), "a")) != ""
    assert digest_object(factory(code.format(1), "a")) != digest_object(factory(code.format(2), "a"))


def test_an_object_without_a_digest_is_never_the_same() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    assert digest_object(nested) == ""

    class Hostile:
        @property
        def iloc(self) -> None:
            raise RuntimeError

    assert digest_object(Hostile()) == ""
    assert digest_object(threading.Lock()) != ""  # the type of one that cannot be pickled


def test_a_digest_is_the_same_in_another_process() -> None:
    code = (
        "from search.space.digests import digest_object\n"
        f"exec({FACTORY!r})\n"
        "print(digest_object([build_model, {'a', 'b', 'c'}, {'x': 1.5}]))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def table(value: int) -> Any:
    import pandas as pd

    return pd.DataFrame({"a": [1, value], "b": ["x", None]})


class Batches(keras.utils.PyDataset):
    def __init__(self, value: int) -> None:
        super().__init__()
        self.x = np.full(4, value)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return self.x


@pytest.mark.parametrize(
    "make",
    [
        lambda value: np.arange(value),
        lambda value: np.array([1, value], dtype=object),
        lambda value: (np.zeros((2, value)), None),
        lambda value: {"x": np.full(3, value)},
        lambda value: tf.constant([1, value]),
        lambda value: tf.constant([str(value)]),
        lambda value: tf.ragged.constant([[1], [2, value]]),
        lambda value: tf.data.Dataset.from_tensor_slices([1, 2, 3]).map(lambda x: x * value).batch(2),
        lambda value: scipy.sparse.eye(value, format="csr"),
        lambda value: keras.layers.Dense(value),
        lambda value: Batches(value),
        table,
    ],
)
def test_data_and_layers_are_told_by_their_content(make: Callable[[int], Any]) -> None:
    assert digest_object(make(5)) == digest_object(make(5)) != ""
    assert digest_object(make(5)) != digest_object(make(6))


def test_types_and_shapes_of_arrays_count() -> None:
    arrays = [np.zeros(4, "int32"), np.zeros(4, "float32"), np.zeros((2, 2), "int32"), np.zeros(5, "int32")]
    assert len({digest_object(array) for array in arrays}) == len(arrays)


def test_a_dataset_that_is_shuffled_anew_is_told_by_its_form() -> None:
    def shuffled(count: int) -> Any:
        return tf.data.Dataset.range(count).shuffle(50).batch(5)

    assert digest_object(shuffled(100)) == digest_object(shuffled(100)) != digest_object(shuffled(200))


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder on the module path, with a package `digested` and a module `digested_too`."""
    (tmp_path / "digested").mkdir()
    (tmp_path / "digested" / "__init__.py").write_text("from .inner import f\n")
    (tmp_path / "digested" / "inner.py").write_text("import digested_too, keras\ndef f():\n    return 1\n")
    (tmp_path / "digested_too.py").write_text("N = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_local_module_counts_with_those_that_it_imports(modules: Path) -> None:
    assert module_file("digested.inner") == modules / "digested" / "inner.py"
    assert module_file("keras") is module_file("os") is module_file("nothing_of_this_name") is None
    uses = factory("def build_model(hp):\n    import digested\n    return digested.f()\n")
    before = digest_object(uses), digest_module("digested.inner")
    assert before == (digest_object(uses), digest_module("digested.inner"))
    (modules / "digested_too.py").write_text("N = 2\n")
    assert digest_object(uses) != before[0]
    assert digest_module("digested.inner") != before[1]
    assert "digested" not in sys.modules  # nothing is imported to find out


def test_a_function_of_a_local_module_counts_by_its_file(modules: Path) -> None:
    uses = factory("from digested.inner import f\ndef build_model(hp):\n    return f()\n")
    try:
        before = digest_object(uses)
        (modules / "digested" / "inner.py").write_text("def f():\n    return 2\n")
        assert digest_object(uses) != before
    finally:
        for name in [name for name in sys.modules if name.startswith("digested")]:
            del sys.modules[name]
