"""`search.compiled`: a factory and its compile arguments, which make many models."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import search
from search.errors import SpaceError
from search.worker.hp import LazyHyperParameters

X, Y = np.ones((8, 3), "float32"), np.ones((8, 1), "float32")


def build(hp: Any, width: int = 1) -> Any:
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(hp.Int("units", 2, 8)), keras.layers.Dense(width)])


def test_arguments_are_values_or_functions_of_hp() -> None:
    build_model = search.compiled(
        build,
        optimizer=lambda hp: keras.optimizers.SGD(hp.Float("rate", 0.01, 0.1)),
        loss=["mse"],
        metrics=["mae", lambda hp: hp.Choice("metric", ["mape"])],
    )
    assert build_model.__name__ == "build"
    hp = LazyHyperParameters(values={"units": 4, "rate": 0.05})
    model = build_model(hp)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.05)
    assert [parameter.name for parameter in hp.parameters] == ["units", "rate", "metric"]
    assert set(model.train_on_batch(X, Y, return_dict=True)) == {"loss", "mae", "mape"}


def test_instances_are_cloned_for_every_model() -> None:
    """Keras refuses an optimizer that has seen another model."""
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    arguments: dict[str, Any] = {
        "optimizer": keras.optimizers.Adam(schedule),
        "loss": keras.losses.Huber(delta=2.0),
        "metrics": [keras.metrics.MeanAbsoluteError(name="error")],
    }
    build_model = search.compiled(build, **arguments)
    models = [build_model(LazyHyperParameters(values={"units": units})) for units in (3, 5)]
    for model in models:
        model.fit(X, Y, epochs=2, verbose=0)
        assert model.optimizer is not arguments["optimizer"]
        assert model.optimizer.get_config() == arguments["optimizer"].get_config()
        assert float(model.loss(np.zeros(1), np.full(1, 2.0))) == pytest.approx(2.0)
    assert int(arguments["optimizer"].iterations) == 0
    assert models[0].optimizer is not models[1].optimizer


def test_a_loss_may_be_a_function_of_two_arguments() -> None:
    def cubic(y_true: Any, y_pred: Any) -> Any:
        return keras.ops.mean(keras.ops.abs(y_true - y_pred) ** 3)

    model = search.compiled(build, optimizer="sgd", loss=cubic)(LazyHyperParameters())
    assert model.loss is cubic
    assert model.train_on_batch(X, Y) >= 0


def test_extra_arguments_go_to_the_factory() -> None:
    build_model = search.compiled(build, optimizer="sgd", loss="mse")
    assert build_model(LazyHyperParameters(), 3).output_shape == (None, 3)
    assert build_model(LazyHyperParameters(), width=2).output_shape == (None, 2)


def test_an_instance_that_cannot_be_cloned_and_a_missing_model_are_refused() -> None:
    class Secret(keras.metrics.Metric):
        def __init__(self, secret: Any) -> None:
            super().__init__()
            self.secret = secret

        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
            pass

        def result(self) -> Any:
            return 0.0

    build_model = search.compiled(build, optimizer="sgd", loss="mse", metrics=[Secret(1)])
    with pytest.raises(SpaceError, match=r"metrics Secret cannot be cloned.*give a function of hp that makes one"):
        build_model(LazyHyperParameters())
    with pytest.raises(SpaceError, match=r"returned NoneType: return a keras\.Model"):
        search.compiled(lambda hp: None, loss="mse")(LazyHyperParameters())
