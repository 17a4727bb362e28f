"""An update that was traced for one variable trains all of them as `model.fit` does, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, optimizers

from search.worker.data import arrays as datas
from search.worker.keras_session import session
from search.worker.runners import choose as runner
from search.worker.runners import graph_cache as graphs
from search.worker.runners.tensorflow import optimizer_updates as updates

RNG = np.random.default_rng(0)
WORDS = RNG.integers(0, 9, (50, 4)).astype("int32")
LABELS = RNG.integers(0, 3, 50).astype("int32")
DATA = ((WORDS, LABELS), None)

Make = Callable[[], Any]


def train(make: Make, fuse: bool) -> list[Any]:
    """Two epochs of an optimizer, fused by a graph that could be shared, or by `fit`; all variables thereafter."""
    data = datas.prepare(DATA)
    with session(1):
        x = inputs = keras.Input((4,), dtype="int32")
        x = layers.Embedding(9, 5)(x)  # whose gradient is no tensor
        x = layers.Dense(7, activation="tanh")(layers.Flatten()(x))
        model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
        model.compile(make(), "sparse_categorical_crossentropy")
        signature = graphs.sign(model, [])
        assert signature is not None
        runner.choose(model, data, {"batch_size": 8}, 1, [], fuse=fuse, signature=signature).run(0, 2, [])
        return [np.array(variable) for variable in (*model.variables, *model.optimizer.variables)]


def equal(ones: list[Any], others: list[Any]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(ones, others, strict=True))


@pytest.fixture
def repeats(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """For each repetition what it was for."""
    graphs.drop_all()
    made: list[Any] = []
    repeat = updates._Template.repeat

    def count(template: Any, own: Any) -> None:
        made.append(own)
        repeat(template, own)

    monkeypatch.setattr(updates._Template, "repeat", count)
    return made


OPTIMIZERS: list[Make] = [
    optimizers.Adadelta,
    optimizers.Adagrad,
    optimizers.Adam,
    lambda: optimizers.Adam(amsgrad=True, clipnorm=0.1),
    lambda: optimizers.Adam(optimizers.schedules.ExponentialDecay(0.01, 3, 0.9), use_ema=True, ema_momentum=0.9),
    lambda: optimizers.Adam(gradient_accumulation_steps=2),
    optimizers.Adamax,
    optimizers.AdamW,
    optimizers.Ftrl,
    optimizers.Lion,
    optimizers.Nadam,
    optimizers.RMSprop,
    lambda: optimizers.RMSprop(momentum=0.9, centered=True, global_clipnorm=0.5),
    optimizers.SGD,
    lambda: optimizers.SGD(momentum=0.9, nesterov=True),
]


@pytest.mark.slow
@pytest.mark.parametrize("make", OPTIMIZERS, ids=lambda make: make().name)
def test_variables_are_those_of_fit(make: Make, repeats: list[Any]) -> None:
    trained = train(make, fuse=True)
    # Of five variables the embedding's is traced by itself where its gradient is no tensor, and one for the others.
    assert len(repeats) in (3, 4)
    assert equal(trained, train(make, fuse=False))


def test_an_optimizer_whose_variables_are_not_all_known_is_traced_as_it_is(
    repeats: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(updates, "_SLOTS", ("_momentums",))
    trained = train(optimizers.Adam, fuse=True)
    assert not repeats
    assert equal(trained, train(optimizers.Adam, fuse=False))


def test_others_than_those_of_keras_are_left_alone() -> None:
    class Own(optimizers.Adam):
        """A user's, whose update may treat variables by their shapes."""

    for optimizer in (Own(), optimizers.Adafactor(), optimizers.Muon()):
        before = dict(vars(optimizer))
        with updates.repeated(optimizer):
            assert vars(optimizer) == before
