"""The check that only islands name private parts of other packages."""

from __future__ import annotations

from pathlib import Path

import pytest
from private_names import check_package, check_source, is_island


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("model._flatten_layers()", ["model._flatten_layers"]),
        ("self._x = 1\nother._x", []),
        ("class Own(Base):\n    def run(self): return self._hook()", ["self._hook"]),
        ("def _helper(): ...\nmodule._helper", []),
        ("model.__dict__, record._replace(a=1)", []),
        ("from keras.src.utils import naming", ["import of keras.src.utils.naming"]),
        ("import tensorflow.python.eager.context", ["import of tensorflow.python.eager.context"]),
        ("from optuna.storages import _in_memory", ["import of optuna.storages._in_memory"]),
        ("from keras.utils import set_random_seed\nimport os._private", []),
        ("getattr(layer, '_tracker', None)", ["'_tracker'"]),
        ("operator.attrgetter('a._b')", ["'a._b'"]),
        ("NAMES = ('_a', '_b')\nfor name in NAMES: getattr(model, name)", ["'_a'", "'_b'"]),
        ("NAMES = ('_a', '_b')", []),
        ("name.endswith('_loss'), getattr(model, name)", []),
    ],
)
def test_private_names_are_found(source: str, found: list[str]) -> None:
    assert [what for _, what in check_source(source)] == found


def test_islands_and_the_attributes_of_own_base_classes_are_left_out(tmp_path: Path) -> None:
    package = tmp_path / "search"
    files = {
        "base.py": "class Base:\n    def __init__(self):\n        self._x = 1",
        "sub.py": "from search.base import Base\n\nclass Sub(Base):\n    def y(self): return self._x, model._x",
        "worker/keras_internals.py": "model._y",
        "worker/runners/internals/graphs.py": "model._y",
        "compat/refusals.py": "model._y",
        "worker/other.py": "\nmodel._y",
    }
    for name, source in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(source)
    assert check_package(package) == [f"{package}/sub.py:4: model._x", f"{package}/worker/other.py:2: model._y"]
    assert not is_island(Path("worker/internals_of_keras.py"))
