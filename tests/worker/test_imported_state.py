"""Objects that the user's code makes while it is imported: each trial begins with them as if it were the first."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.executors.inline import InlineExecutor
from search.messages import Probe, Probed, Segment
from search.space.file import SpaceRef
from search.study.trial import Objective
from search.testing.conversation import Conversation
from search.worker.segment import clear_caches
from search.worker.user_code import adapts_objects

SPACE = """
import keras
import numpy as np

augment = keras.Sequential([keras.layers.RandomFlip(), keras.layers.RandomRotation(0.1)])
normalize = keras.layers.Normalization()
x = np.random.default_rng(0).normal(size=(48, 6, 6, 1)).astype("float32")


class Head:
    def __init__(self):
        self.dropout = keras.layers.Dropout(0.3)


head, SHARED = Head(), keras.layers.Dense(3)


def load_data():
    normalize.adapt(x)
    return (x[:32], x[:32].sum((1, 2))), (x[32:], x[32:].sum((1, 2)))


def build_model(hp):
    inputs = keras.Input((6, 6, 1))
    flat = keras.layers.Flatten()(augment(normalize(inputs)))
    if hp.Boolean("shares"):
        flat = SHARED(flat)
    model = keras.Model(inputs, keras.layers.Dense(1)(head.dropout(flat)))
    model.compile("adam", "mse")
    return model
"""


@pytest.mark.parametrize("shares", [False, True])
def test_a_trial_does_not_depend_on_those_before_it(tmp_path: Path, shares: bool) -> None:
    ref = SpaceRef(str(tmp_path / "space.py"))
    Path(str(ref.path)).write_text(SPACE)

    def curve(name: str, to_epoch: int, from_epoch: int = 0, seed: int = 5) -> list[dict[str, float]]:
        numbers = {"trial": 0, "execution": 0, "from_epoch": from_epoch, "to_epoch": to_epoch, "seed": seed}
        objective, folder = Objective("val_loss", "min"), str(tmp_path / name)
        segment = Segment(
            space=ref, values={"shares": shares}, objective=objective, folder=folder, cached_trials=(0,), **numbers
        )
        conversation = Conversation(InlineExecutor()).run(segment)
        assert conversation.end.outcome == "reached", conversation.end.error
        return conversation.curve

    alone = curve("alone", 3)
    clear_caches()
    first = curve("first", 1)
    curve("other", 2, seed=6)
    assert curve("again", 3) == alone
    assert first + curve("first", 3, from_epoch=1) == alone  # it was promoted
    clear_caches()


def test_data_whose_loading_adapts_a_layer_are_not_mapped_from_files(tmp_path: Path) -> None:
    ref = SpaceRef(str(tmp_path / "space.py"))
    Path(str(ref.path)).write_text(SPACE)
    probed = InlineExecutor().probe(Probe(ref, str(tmp_path / "data")))
    assert isinstance(probed, Probed), probed
    assert adapts_objects(ref)
    clear_caches()
