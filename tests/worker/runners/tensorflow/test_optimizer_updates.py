"""An update that is traced for one variable trains all variables of any width as `model.fit` does, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, optimizers

from search.worker.data.arrays import prepare_data
from search.worker.keras_session import session
from search.worker.runners.choose import choose_runner
from search.worker.runners.graph_cache import cached_graphs, clear_graph_cache, make_model_key
from search.worker.runners.tensorflow import internals
from search.worker.runners.tensorflow.optimizer_updates import UpdateTemplate, repeated_updates

pytestmark = pytest.mark.core

RNG = np.random.default_rng(0)
WORDS = RNG.integers(0, 9, (32, 4)).astype("int32")
LABELS = RNG.integers(0, 3, 32).astype("int32")
DATA = ((WORDS, LABELS), None)

Make = Callable[[], Any]


def train(make: Make, fuse: bool, units: int = 7) -> list[Any]:
    """Train two epochs, fused by a graph that could be shared or by `fit`; return all variables."""
    data = prepare_data(DATA)
    with session(units):
        x = inputs = keras.Input((4,), dtype="int32")
        x = layers.Embedding(9, 5)(x)  # its gradient is no tensor
        x = layers.Dense(units, activation="tanh")(layers.Flatten()(x))
        model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
        model.compile(make(), "sparse_categorical_crossentropy")
        model_key = make_model_key(model, [])
        assert model_key is not None
        choose_runner(model, data, {"batch_size": 8}, 1, [], fuse=fuse, model_key=model_key).run(0, 2, [])
        return [np.array(variable) for variable in (*model.variables, *model.optimizer.variables)]


def equal(ones: list[Any], others: list[Any]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(ones, others, strict=True))


@pytest.fixture
def repeated(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that gets the tensors of each repetition of an update."""
    clear_graph_cache()
    repeated: list[Any] = []
    repeat = UpdateTemplate.repeat

    def note(template: UpdateTemplate, own: Any) -> None:
        repeated.append(own)
        repeat(template, own)

    monkeypatch.setattr(UpdateTemplate, "repeat", note)
    return repeated


OPTIMIZERS: list[Make] = [
    lambda: optimizers.Adadelta(1.0),
    lambda: optimizers.Adagrad(0.01),
    optimizers.Adam,
    lambda: optimizers.Adam(0.01, amsgrad=True, clipnorm=0.1),
    lambda: optimizers.Adam(
        optimizers.schedules.ExponentialDecay(0.01, 3, 0.9), use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=2
    ),
    lambda: optimizers.Adam(gradient_accumulation_steps=2),
    lambda: optimizers.Adamax(0.01, global_clipnorm=0.1),
    optimizers.AdamW,
    lambda: optimizers.Ftrl(0.1, l2_regularization_strength=0.01),
    optimizers.Lion,
    lambda: optimizers.Nadam(0.01, clipvalue=0.01),
    optimizers.RMSprop,
    lambda: optimizers.RMSprop(0.01, momentum=0.9, centered=True, global_clipnorm=0.5),
    optimizers.SGD,
    lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
]


@pytest.mark.slow
@pytest.mark.parametrize("make", OPTIMIZERS, ids=lambda make: make().name)
def test_variables_equal_those_of_fit(make: Make, repeated: list[Any]) -> None:
    train(make, fuse=True)
    # Of five variables, one is traced for the others, and the embedding's by itself if its gradient is no tensor.
    assert len(repeated) in (3, 4)
    trained = train(make, fuse=True, units=20)
    # The graph takes another width, except if gradients are accumulated in slots of known widths.
    assert len(cached_graphs()) == (2 if make().gradient_accumulation_steps else 1)
    assert None not in cached_graphs()
    assert equal(trained, train(make, fuse=False, units=20))


def test_an_optimizer_with_unknown_slots_is_traced_as_it_is(
    repeated: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(internals, "SLOT_ATTRIBUTES", ("_momentums",))
    trained = train(optimizers.Adam, fuse=True)
    assert not repeated
    assert equal(trained, train(optimizers.Adam, fuse=False))


def test_optimizers_that_are_not_elementwise_are_left_alone() -> None:
    class Own(optimizers.Adam):
        """A user's optimizer. Its update may depend on the shapes of variables."""

    for optimizer in (Own(), optimizers.Adafactor(), optimizers.Muon()):
        before = dict(vars(optimizer))
        with repeated_updates(optimizer):
            assert vars(optimizer) == before
