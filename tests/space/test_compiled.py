"""`search.compiled`: one factory, and what it is compiled with kept apart, as often as it is called."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import search
from search.errors import SpaceError
from search.worker.hp import LazyHyperParameters

X, Y = np.ones((8, 3), "float32"), np.ones((8, 1), "float32")


def body(hp: Any, width: int = 1) -> Any:
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(hp.Int("units", 2, 8)), keras.layers.Dense(width)])


def test_values_and_functions_of_hp() -> None:
    build = search.compiled(
        body,
        optimizer=lambda hp: keras.optimizers.SGD(hp.Float("rate", 0.01, 0.1)),
        loss=["mse"],
        metrics=["mae", lambda hp: hp.Choice("metric", ["mape"])],
    )
    assert build.__name__ == "body"
    hp = LazyHyperParameters(values={"units": 4, "rate": 0.05})
    model = build(hp)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.05)
    assert [parameter.name for parameter in hp.parameters] == ["units", "rate", "metric"]
    assert set(model.train_on_batch(X, Y, return_dict=True)) == {"loss", "mae", "mape"}


def test_instances_are_made_anew_for_every_model() -> None:
    """Keras refuses an optimizer that has seen another model."""
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    given: dict[str, Any] = {
        "optimizer": keras.optimizers.Adam(schedule),
        "loss": keras.losses.Huber(delta=2.0),
        "metrics": [keras.metrics.MeanAbsoluteError(name="error")],
    }
    build = search.compiled(body, **given)
    models = [build(LazyHyperParameters(values={"units": units})) for units in (3, 5)]
    for model in models:
        model.fit(X, Y, epochs=2, verbose=0)
        assert model.optimizer is not given["optimizer"]
        assert model.optimizer.get_config() == given["optimizer"].get_config()
        assert float(model.loss(np.zeros(1), np.full(1, 2.0))) == pytest.approx(2.0)
    assert int(given["optimizer"].iterations) == 0
    assert models[0].optimizer is not models[1].optimizer


def test_a_loss_may_be_a_function_of_two() -> None:
    def cubic(y_true: Any, y_pred: Any) -> Any:
        return keras.ops.mean(keras.ops.abs(y_true - y_pred) ** 3)

    model = search.compiled(body, optimizer="sgd", loss=cubic)(LazyHyperParameters())
    assert model.loss is cubic
    assert model.train_on_batch(X, Y) >= 0


def test_arguments_are_passed_through() -> None:
    build = search.compiled(body, optimizer="sgd", loss="mse")
    assert build(LazyHyperParameters(), 3).output_shape == (None, 3)
    assert build(LazyHyperParameters(), width=2).output_shape == (None, 2)


def test_what_cannot_be_cloned_is_one_line() -> None:
    class Secret(keras.metrics.Metric):
        def __init__(self, secret: Any) -> None:
            super().__init__()
            self.secret = secret

        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
            pass

        def result(self) -> Any:
            return 0.0

    build = search.compiled(body, optimizer="sgd", loss="mse", metrics=[Secret(1)])
    with pytest.raises(SpaceError, match=r"metrics Secret cannot be cloned.*give a function of hp that makes one"):
        build(LazyHyperParameters())
    with pytest.raises(SpaceError, match=r"returned NoneType: return a keras\.Model"):
        search.compiled(lambda hp: None, loss="mse")(LazyHyperParameters())
