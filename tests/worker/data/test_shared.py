"""Large shared arrays: a worker that maps them has the loaded data and does not load them itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from search.executors.inline import InlineExecutor
from search.messages import Probe, Probed, Segment
from search.space.file import SpaceRef
from search.study.trial import Objective
from search.testing.conversation import Conversation
from search.worker.data import shared
from search.worker.data.arrays import Data, Split, prepare_data

SPACE = """
import pathlib
import keras
import numpy as np

NAMES = []


def load_data():
    with pathlib.Path(__file__).with_name("loads").open("a") as file:
        file.write("x")
    x = np.random.default_rng(0).normal(size=(600, 4)).astype("float32")
    SIDE_EFFECT
    return (x[:400], x[:400, :1]), (x[400:500], x[400:500, :1]), (x[500:], x[500:, :1])


def build_model(hp):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(hp.Int("units", 2, 8)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model
"""


def test_saved_arrays_are_mapped(tmp_path: Path) -> None:
    x, y = np.arange(12, dtype="float32").reshape(6, 2), np.arange(6)
    data = prepare_data((({"a": x, "b": x[:, :1]}, [y, y + 1]), (x, None), None))
    assert shared.load_arrays(tmp_path / "none") is None
    shared.save_arrays(tmp_path / "data", data)
    found = shared.load_arrays(tmp_path / "data")
    assert isinstance(found, Data)
    assert isinstance(found.train, Split)
    assert set(found.train.x) == {"a", "b"}
    assert np.array_equal(found.train.x["a"], x)
    assert isinstance(found.train.y, tuple)
    assert np.array_equal(found.train.y[1], y + 1)
    assert isinstance(found.validation, Split)
    assert (found.validation.y, found.test) == (None, None)
    base = found.train.x["a"]
    while getattr(base, "base", None) is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)


@pytest.mark.parametrize(
    ("side_effect", "is_shared"),
    [("pass", True), ("NAMES.append(1)", False), ("global FOUND; FOUND = 3", False)],
)
def test_the_arrays_of_a_probe_are_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side_effect: str, is_shared: bool
) -> None:
    monkeypatch.setattr(shared, "LARGE_BYTES", 1000)
    (tmp_path / "space.py").write_text(SPACE.replace("SIDE_EFFECT", side_effect))
    ref = SpaceRef(str(tmp_path / "space.py"))
    probed = InlineExecutor().probe(Probe(ref, str(tmp_path / "data")))
    assert isinstance(probed, Probed), probed
    assert probed.shared is is_shared
    assert probed.tested

    def train(data: str | None) -> list[dict[str, float]]:
        options = {"space": ref, "values": {"units": 3}, "seed": 1, "from_epoch": 0, "to_epoch": 2, "data": data}
        folder = str(tmp_path / f"trial-{data is None}")
        segment = Segment(trial=0, execution=0, objective=Objective("val_loss", "min"), folder=folder, **options)  # type: ignore[arg-type]
        return Conversation(InlineExecutor()).run(segment).curve

    before = (tmp_path / "loads").read_text()
    mapped = train(str(tmp_path / "data") if is_shared else None)
    assert len((tmp_path / "loads").read_text()) - len(before) == (0 if is_shared else 1)
    assert mapped == train(None)


def test_small_arrays_are_not_shared(tmp_path: Path) -> None:
    (tmp_path / "space.py").write_text(SPACE.replace("SIDE_EFFECT", "pass"))
    probed = InlineExecutor().probe(Probe(SpaceRef(str(tmp_path / "space.py")), str(tmp_path / "data")))
    assert isinstance(probed, Probed)
    assert not probed.shared
    assert not (tmp_path / "data").exists()
