"""Features of the ready spaces: images, text, transfer, scikit-learn's estimators, KerasTuner's models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import pytest
from places import SPACES
from sklearn.base import clone
from sklearn.datasets import load_diabetes

from search.executors.inline import InlineExecutor
from search.messages import Segment
from search.space.file import SPACE_MODULE, SpaceRef, read_space
from search.study.trial import Objective
from search.testing.conversation import Conversation


def run_space(name: str) -> Any:
    """Run a ready space, and return its module."""
    read_space(SpaceRef(path=str(SPACES / f"{name}.py")))
    return sys.modules[SPACE_MODULE]


def hp_with(**values: Any) -> keras_tuner.HyperParameters:
    hp = keras_tuner.HyperParameters()
    hp.values = values
    return hp


def test_images_of_any_size_are_classified() -> None:
    module = run_space("images")
    model = module.build_model(hp_with())
    assert model.input_shape == (None, None, None, 3)
    for height, width in ((28, 32), (40, 24)):
        assert model.predict(np.zeros((2, height, width, 3), "uint8"), verbose=0).shape == (2, 1)
    (_, _, test) = module.load_data()
    metrics = model.evaluate(*test, return_dict=True, verbose=0)
    assert set(metrics) == {"loss", "precision", "recall", "auc"}


@pytest.mark.parametrize("freeze", [True, False])
def test_compile_model_freezes_the_vectors(freeze: bool) -> None:
    module = run_space("text_cnn")
    hp = hp_with(freeze_vectors=freeze, optimizer="sgd")
    model = module.build_model(hp)
    assert not model.compiled
    module.compile_model(hp, model)
    assert isinstance(model.optimizer, keras.optimizers.SGD)
    assert "momentum" in hp.values
    assert "adam_rate" not in hp.values
    (x, y), _ = module.load_data()
    model.fit(x[:64], y[:64], verbose=0)
    unchanged = np.array_equal(model.get_layer("vectors").get_weights()[0], module.pretrained_vectors())
    assert unchanged is freeze


@pytest.mark.parametrize(("classes", "shape"), [(2, (None, 1)), (3, (None, 3))])
def test_one_number_makes_transfer_binary_or_multiclass(classes: int, shape: tuple[Any, ...]) -> None:
    module = run_space("transfer")
    module.CLASSES = classes
    hp = hp_with()
    model = module.build_model(hp)
    module.compile_model(hp, model)
    assert model.output_shape == shape
    assert not model.get_layer("body").trainable_variables
    (x, y), _ = module.load_data()
    assert set(y) == set(range(classes))
    model.fit(x[:32], y[:32], verbose=0)


def test_the_body_is_unfrozen_later_without_its_batch_normalizations() -> None:
    module = run_space("transfer")
    hp = hp_with(frozen_epochs=2, fine_tuning_rate=0.002)
    model = module.build_model(hp)
    module.compile_model(hp, model)
    (callback,) = module.callbacks(hp)
    callback.set_model(model)
    body = model.get_layer("body")
    callback.on_epoch_begin(1)
    assert not body.trainable_variables
    callback.on_epoch_begin(2)
    assert body.trainable_variables
    assert not any(
        layer.trainable_variables for layer in body.layers if isinstance(layer, keras.layers.BatchNormalization)
    )
    assert float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)) == pytest.approx(0.002)


@pytest.mark.slow
def test_a_resumed_fine_tuning_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    def train(trial: int, from_epoch: int, to_epoch: int) -> Conversation:
        values = {"last_layer": "conv_pw_2_relu", "units": 16, "dropout": 0.2, "learning_rate": 0.01}
        segment = Segment(
            trial=trial,
            execution=0,
            space=SpaceRef(str(SPACES / "transfer.py")),
            values={**values, "frozen_epochs": 1, "fine_tuning_rate": 0.003},
            seed=3,
            from_epoch=from_epoch,
            to_epoch=to_epoch,
            objective=Objective("val_accuracy", "max"),
            folder=str(tmp_path / str(trial)),
        )
        return Conversation(InlineExecutor()).run(segment)

    uninterrupted = train(0, 0, 3)
    assert uninterrupted.end.outcome == "reached", uninterrupted.end.error
    # The cut is after the body was unfrozen.
    assert train(1, 0, 2).curve + train(1, 2, 3).curve == uninterrupted.curve


def test_a_configuration_makes_a_classifier_or_a_regressor() -> None:
    module = run_space("sklearn_estimator")
    hp = hp_with(layers=1, units_0=12)
    (x, y), (x_validation, y_validation) = module.load_data()
    keras.utils.set_random_seed(0)  # 8 of 8 seeds: at least 0.88
    classifier = clone(module.pipeline(hp))
    classifier.fit(x, y.argmax(axis=1), **module.fit_arguments(classifier, epochs=8, verbose=0))
    assert classifier.score(x_validation, y_validation.argmax(axis=1)) > 0.6
    regressor = module.pipeline(hp, regression=True)
    x, y = load_diabetes(return_X_y=True)
    regressor.fit(x, y, **module.fit_arguments(regressor, epochs=1, verbose=0))
    network = regressor[-1].model_
    assert (network.input_shape, network.output_shape) == ((None, 10), (None, 1))
    assert network.layers[1].units == 12


@pytest.mark.parametrize("place", ["pipeline", "model"])
def test_the_end_to_end_model_takes_strings(place: str, tmp_path: Path) -> None:
    module = run_space("text_pipeline")
    hp = hp_with(vectorize_in=place, ngrams=2)
    train, _ = module.load_data(hp)
    model = module.build_model(hp)
    model.fit(train.take(4), shuffle=False, verbose=0)
    assert model.inputs[0].dtype == ("string" if place == "model" else "int64")
    end_to_end = module.end_to_end(hp, model)
    end_to_end.save(tmp_path / "reviews.keras")
    texts = keras.ops.convert_to_tensor(["The plot was not bad!", "The cast was dull"])
    served = keras.saving.load_model(tmp_path / "reviews.keras").predict(texts, verbose=0)
    np.testing.assert_allclose(served, end_to_end.predict(texts, verbose=0), rtol=1e-6)


def test_the_hypermodel_from_kerastuner_is_small() -> None:
    hp = hp_with()
    model = run_space("hypermodel").hypermodel.build(hp)
    assert model.count_params() < 1_000_000
    assert hp.get("num_residual_blocks") == 2


def test_the_fit_of_the_hypermodel_adds_shifted_copies() -> None:
    module = run_space("hypermodel_fit")
    (x, y), validation = module.load_data()
    seen = {}

    class Model:
        def fit(self, x: Any, y: Any, **options: Any) -> None:
            seen.update(options, x=x, y=y)

    module.hypermodel.fit(hp_with(moved_copies=True), Model(), x, y, validation_data=validation)
    assert len(seen["x"]) == len(seen["y"]) == 3 * len(x)
    assert seen["batch_size"] == 32
