"""The directions of metrics: by the metric object, else by the words of the name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

from search.worker import keras_internals
from search.worker.metrics import compiled_metrics, directions_of_metrics

pytestmark = pytest.mark.core

M = keras.metrics


def odd(y: Any, p: Any) -> Any:
    """Return a number that says nothing, as a metric's function."""
    return keras.ops.mean(p, axis=-1)


def direction_of(metric: Any, loss: Any = None) -> str | None:
    """Return the direction of the only metric of a model."""
    model = SimpleNamespace(metrics=[metric], loss=loss)
    found = directions_of_metrics(model, (metric.name, f"val_{metric.name}"))
    assert found.keys() <= {metric.name}
    return found.get(metric.name)


def named(name: str, function: Any) -> Any:
    return M.MeanMetricWrapper(function, name=name)


# Keras's own ----------------------------------------------------------------------------------------------------------

DIRECTIONS: dict[str, str | None] = {
    "AUC": "max",
    "Accuracy": "max",
    "BinaryAccuracy": "max",
    "BinaryCrossentropy": "min",
    "BinaryIoU": "max",
    "CategoricalAccuracy": "max",
    "CategoricalCrossentropy": "min",
    "CategoricalHinge": "min",
    "ConcordanceCorrelation": "max",
    "CosineSimilarity": "max",
    "F1Score": "max",
    "FBetaScore": "max",
    "FalseNegatives": None,
    "FalsePositives": None,
    "Hinge": "min",
    "IoU": "max",
    "KLDivergence": "min",
    "LogCoshError": "min",
    "Mean": None,
    "MeanAbsoluteError": "min",
    "MeanAbsolutePercentageError": "min",
    "MeanIoU": "max",
    "MeanMetricWrapper": None,
    "MeanSquaredError": "min",
    "MeanSquaredLogarithmicError": "min",
    "Metric": None,
    "OneHotIoU": "max",
    "OneHotMeanIoU": "max",
    "PearsonCorrelation": "max",
    "Poisson": "min",
    "Precision": "max",
    "PrecisionAtRecall": "max",
    "R2Score": "max",
    "Recall": "max",
    "RecallAtPrecision": "max",
    "RootMeanSquaredError": "min",
    "SensitivityAtSpecificity": "max",
    "SparseCategoricalAccuracy": "max",
    "SparseCategoricalCrossentropy": "min",
    "SparseTopKCategoricalAccuracy": "max",
    "SpecificityAtSensitivity": "max",
    "SquaredHinge": "min",
    "Sum": None,
    "TopKCategoricalAccuracy": "max",
    "TrueNegatives": None,
    "TruePositives": None,
}

ARGUMENTS: dict[str, dict[str, Any]] = {
    "IoU": {"num_classes": 2, "target_class_ids": [0]},
    "MeanIoU": {"num_classes": 2},
    "MeanMetricWrapper": {"fn": odd},
    "OneHotIoU": {"num_classes": 2, "target_class_ids": [0]},
    "OneHotMeanIoU": {"num_classes": 2},
    "PrecisionAtRecall": {"recall": 0.5},
    "RecallAtPrecision": {"precision": 0.5},
    "SensitivityAtSpecificity": {"specificity": 0.5},
    "SpecificityAtSensitivity": {"sensitivity": 0.5},
}
"""The arguments that a class must have."""


def test_no_metric_class_of_keras_is_forgotten() -> None:
    exported = {name for name, value in vars(M).items() if isinstance(value, type) and issubclass(value, M.Metric)}
    assert exported == set(DIRECTIONS)


@pytest.mark.parametrize(("name", "direction"), DIRECTIONS.items())
def test_every_metric_of_keras_has_its_direction_under_any_name(name: str, direction: str | None) -> None:
    make = functools.partial(getattr(M, name), **ARGUMENTS.get(name, {}))
    assert direction_of(make()) == direction
    assert direction_of(make(name="odd")) == direction
    if direction is not None:
        assert direction_of(make(name={"max": "loss", "min": "accuracy"}[direction] + "_of_mine")) == direction


LOSSES = {name: value for name, value in vars(keras.losses).items() if callable(value) and name not in ("Loss", "get")}
FUNCTIONS = [name for name in LOSSES if name.islower() and "serialize" not in name]
CLASSES = [name for name, value in LOSSES.items() if isinstance(value, type)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_loss_function_of_keras_is_to_go_down_as_a_metric(name: str) -> None:
    assert direction_of(named(name, LOSSES[name])) == "min"
    assert direction_of(named("dice", functools.partial(LOSSES[name]))) == "min"


@pytest.mark.parametrize("name", CLASSES)
def test_every_loss_object_of_keras_is_to_go_down_as_a_metric(name: str) -> None:
    assert len(CLASSES) > 15
    assert direction_of(named("dice", LOSSES[name]())) == "min"


# A user's own ---------------------------------------------------------------------------------------------------------


class OwnLoss(keras.losses.Loss):
    def call(self, y: Any, p: Any) -> Any:
        return odd(y, p)


class ErrorRate(M.BinaryAccuracy):
    """An accuracy that is turned around, and inherits the direction."""

    def result(self) -> Any:
        return 1 - super().result()


class LabelIoU(M.MeanIoU):
    """An IoU of labels, with more arguments than Keras's."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(num_classes=2, **arguments)


class Downward(M.BinaryAccuracy):
    """A metric that sets the direction itself."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._direction = "down"


class Upward(M.Mean):
    _direction = "up"


class NegativeError(M.MeanMetricWrapper):
    """An error that is turned around, and says so."""

    def __init__(self, direction: str, **arguments: Any) -> None:
        super().__init__(keras.losses.mean_squared_error, **arguments)
        self._direction = direction

    def result(self) -> Any:
        return -super().result()


class Inverse(M.MeanMetricWrapper):
    def __init__(self, **arguments: Any) -> None:
        super().__init__(keras.losses.mean_squared_error, **arguments)

    def result(self) -> Any:
        return 1 / super().result()


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        (lambda: named("f1_score", odd), "max"),
        (lambda: named("r2_score", odd), "max"),
        (lambda: named("odd", odd), None),
        (lambda: named("neg_loss", odd), None),
        (lambda: named("dice", OwnLoss()), "min"),
        (lambda: M.Mean(name="dice"), "max"),
        (lambda: M.Mean(name="kl_loss"), "min"),
        (lambda: M.Sum(name="errors_and_accuracy"), "max"),
        (lambda: M.TruePositives(name="precision"), "max"),
        (ErrorRate, None),
        (lambda: ErrorRate(name="rate"), None),
        (lambda: LabelIoU(name="overlap"), "max"),
        (lambda: LabelIoU(name="false_iou"), None),
        (lambda: Downward(name="accuracy"), "min"),
        (lambda: Upward(name="loss_of_mine"), "max"),
        (lambda: NegativeError("up", name="mse"), "max"),
        (lambda: Inverse(name="quality"), None),
    ],
)
def test_a_metric_of_the_user_has_the_direction_of_its_object_or_its_name(
    metric: Callable[[], Any], direction: str | None
) -> None:
    assert direction_of(metric()) == direction


def test_the_function_that_the_model_minimises_is_to_go_down_as_a_metric() -> None:
    assert direction_of(named("dice", odd)) == "max"
    assert direction_of(named("dice", odd), loss=odd) == "min"
    assert direction_of(named("dice", odd), loss={"a": "mse", "b": odd}) == "min"
    own = OwnLoss()
    assert direction_of(named("dice", own.call), loss=own.call) == "min"  # two objects for one method


# Names in the logs ----------------------------------------------------------------------------------------------------


class Several(M.Metric):
    """A metric with several named values, each from a metric of its own."""

    def __init__(self) -> None:
        super().__init__(name="several")
        self.metrics = {"my_f1": M.Mean(name="a"), "my_error": M.Mean(name="b"), "odd": M.AUC(name="c")}

    def update_state(self, y: Any, p: Any, sample_weight: Any = None) -> None: ...

    def result(self) -> Any:
        return {name: metric.result() for name, metric in self.metrics.items()}


def test_words_decide_for_each_value_of_a_metric_with_several_named_values() -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=[Several()], run_eagerly=True)
    logs = train(model, np.ones((3, 1)))
    assert directions_of_metrics(model, logs) == {"loss": "min", "my_f1": "max", "my_error": "min"}
    assert direction_of(Several()) is None


def two_heads() -> Any:
    inputs = keras.Input((2,))
    outputs = {name: keras.layers.Dense(1, name=name)(inputs) for name in ("accuracy", "b")}
    model = keras.Model(inputs, outputs)
    model.compile(
        "sgd",
        {"accuracy": "mse", "b": "mse"},
        metrics={
            "accuracy": ["mae", M.AUC(name="score"), odd],
            "b": [M.AUC(name="score"), M.MeanSquaredError("score")],
        },
        weighted_metrics={"b": [M.MeanAbsoluteError(name="score")]},
        run_eagerly=True,
    )
    return model


def train(model: Any, y: Any) -> dict[str, Any]:
    logs: dict[str, Any] = model.train_on_batch(np.zeros((3, 2)), y, return_dict=True)
    return logs


def test_names_of_outputs_and_repeated_names_are_resolved() -> None:
    model = two_heads()
    logs = train(model, {"accuracy": np.ones((3, 1)), "b": np.ones((3, 1))})
    found = directions_of_metrics(model, [*logs, *(f"val_{name}" for name in logs)])
    assert found == {
        "loss": "min",
        "accuracy_loss": "min",
        "b_loss": "min",
        "accuracy_mae": "min",
        "accuracy_score": "max",
        "b_score": "max",
        "b_score_1": "min",
        "b_weighted_score": "min",
    }
    assert set(compiled_metrics(model, logs)) == set(logs) - {"loss", "accuracy_loss", "b_loss"}


def test_a_name_that_keras_knows_as_metric_and_as_loss_is_told_apart() -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    metrics = [
        "cosine_similarity",
        keras.losses.cosine_similarity,
        keras.losses.CosineSimilarity(),
        keras.losses.Dice(),
    ]
    model.compile("sgd", "mse", metrics=metrics, run_eagerly=True)
    logs = train(model, np.ones((3, 2)))
    assert directions_of_metrics(model, logs) == {
        "loss": "min",
        "cosine_similarity": "max",
        "cosine_similarity_1": "min",
        "cosine_similarity_2": "min",
        "dice": "min",
    }


class OwnStep(keras.Model):
    """A model with trackers, whose step logs names that no object has, too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = keras.layers.Dense(1)
        self.trackers = [M.Mean(name="dice"), M.AUC(name="score")]

    def call(self, x: Any) -> Any:
        return self.layer(x)

    def train_step(self, *arguments: Any) -> dict[str, Any]:
        return {"dice": 1.0, "score": 1.0, "my_error": 1.0, "wobble": 1.0, "loss": 1.0}


def test_names_of_an_own_training_step_are_those_of_its_trackers_or_their_words_decide() -> None:
    model = OwnStep()
    model.compile("sgd", "mse", metrics=["accuracy"], run_eagerly=True)
    logs = train(model, np.ones((3, 1)))
    assert directions_of_metrics(model, logs) == {"dice": "max", "score": "max", "my_error": "min", "loss": "min"}


# Another Keras --------------------------------------------------------------------------------------------------------


@pytest.fixture
def older_keras(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let metrics have no direction, as if Keras had renamed it."""
    for cls in (M.MeanSquaredError, M.BinaryAccuracy, M.AUC):
        monkeypatch.setattr(cls, "_direction", property(lambda self: None, lambda self, value: None), raising=False)
    keras_internals.directions.forget()
    yield
    keras_internals.directions.forget()


@pytest.mark.usefixtures("older_keras")
def test_words_decide_if_keras_names_no_direction() -> None:
    assert direction_of(M.AUC(name="auc_2")) == "max"
    assert direction_of(M.AUC(name="score")) is None
    assert direction_of(M.RootMeanSquaredError(name="accuracy")) == "max"
    assert "the words of their names decide" in keras_internals.directions.line
