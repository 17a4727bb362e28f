"""Features of some of the ready spaces; `test_ready` searches the spaces."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import keras_tuner
import numpy as np
import pytest
from places import ROOT, SPACES


def import_space(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"ready_{name}", SPACES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(module: ModuleType, **values: Any) -> Any:
    """Return the compiled model for `values`, with defaults for the other parameters."""
    keras.utils.set_random_seed(1)
    hp = keras_tuner.HyperParameters()
    for name, value in values.items():
        hp.Fixed(name, value)
    model = module.build_model(hp)
    if hasattr(module, "compile_model"):
        module.compile_model(hp, model)
    return model


# Two branches ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_branches() -> ModuleType:
    return import_space("two_branches")


@pytest.fixture(scope="module")
def shared(two_branches: ModuleType) -> Any:
    return build(two_branches, shared=True)


def test_a_shared_branch_is_one_layer(two_branches: ModuleType, shared: Any) -> None:
    apart = build(two_branches, shared=False)
    assert apart.count_params() - shared.count_params() == shared.get_layer("encoder").count_params()
    (x, _), _ = two_branches.load_data()
    scan = x["left"][:5]
    left, right = two_branches.middle(shared).predict([scan, scan], verbose=0)
    np.testing.assert_array_equal(left, right)
    left, right = two_branches.middle(apart).predict([scan, scan], verbose=0)
    assert np.abs(left - right).max() > 0.01


def test_inputs_may_be_dicts_or_lists(two_branches: ModuleType, shared: Any) -> None:
    x, y = two_branches.load_data()[1]
    x, y = ({name: array[:64] for name, array in part.items()} for part in (x, y))
    by_name = shared.evaluate(x, y, verbose=0, return_dict=True)
    by_list = shared.evaluate([x["left"], x["right"]], [y["same"], y["sum"]], verbose=0, return_dict=True)
    assert by_name == by_list
    assert {"same_accuracy", "sum_mae"} <= by_name.keys()


def test_missing_rows_are_skipped(two_branches: ModuleType, shared: Any) -> None:
    scan = two_branches.load_data()[1][0]["left"][:8].copy()
    scan[:, 5:] = 0
    encoder = shared.get_layer("encoder")
    np.testing.assert_allclose(encoder(scan), encoder.get_layer("lstm")(scan[:, :5]), atol=1e-6)


def test_weights_of_equal_names_and_shapes_are_copied(two_branches: ModuleType, shared: Any) -> None:
    other = build(two_branches, shared=False, hidden=20)
    assert two_branches.copy_weights(shared, other) == ["encoder"]
    same = build(two_branches, shared=False)
    assert two_branches.copy_weights(shared, same) == ["encoder", "hidden", "same", "sum"]
    for copied, original in zip(same.get_layer("encoder").weights, shared.get_layer("encoder").weights, strict=True):
        np.testing.assert_array_equal(copied, original)


def test_pairs_are_balanced(two_branches: ModuleType) -> None:
    for x, y in two_branches.load_data():
        assert 0.5 <= np.mean(y["same"]) < 0.6
        assert (x["left"][:, 5:] == 0).all(axis=(1, 2)).any()


# Centre loss ----------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_weighted_distance_to_the_class_centre() -> None:
    module = import_space("center_loss")
    model = build(module, loss_weight=0.5, features=3)
    layer = model.get_layer("distances")
    (x, y), _ = module.load_data()
    x, y = x[:20], y["distances"][:20]
    features = keras.Model(model.input, model.get_layer("features").output)(x)
    expected = 0.5 * np.sum((np.array(features) - np.array(layer.centres)[y]) ** 2, axis=1)
    np.testing.assert_allclose(layer.loss(y, model(x)["distances"]), expected, rtol=1e-5)
    assert [weight.name for weight in model.non_trainable_weights] == ["loss_weight"]


def test_a_callback_lowers_the_loss_weight() -> None:
    module = import_space("center_loss")
    model = build(module, loss_weight=0.5)
    centres = np.array(model.get_layer("distances").centres)
    hp = keras_tuner.HyperParameters()
    hp.Fixed("loss_weight_kept", 0.8)
    (x, y), _ = module.load_data()
    y = {name: array[:64] for name, array in y.items()}
    seen = model.fit(x[:64], y, epochs=3, callbacks=module.callbacks(hp), verbose=0).history
    assert seen["loss_weight"] == pytest.approx([0.5, 0.4, 0.32])
    assert np.abs(np.array(model.get_layer("distances").centres) - centres).max() > 1e-3
    # After a resume, the weight is the same as without an interruption.
    seen = model.fit(x[:64], y, initial_epoch=3, epochs=4, callbacks=module.callbacks(hp), verbose=0).history
    assert seen["loss_weight"] == pytest.approx([0.256])


# An objective by scikit-learn -----------------------------------------------------------------------------------------


def test_a_later_callback_sees_the_score() -> None:
    module = import_space("custom_metric")
    model = build(module)
    seen = []
    last = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs["val_f1"]))
    (x, y), _ = module.load_data()
    callbacks = module.callbacks(keras_tuner.HyperParameters())
    model.fit(x, y, epochs=1, callbacks=[*callbacks, last], verbose=0)
    assert seen == [module.score(model)]


def test_the_layers_halves_and_noise() -> None:
    module = import_space("custom_metric")
    x = np.arange(2 * 8 * 8, dtype="float32").reshape(2, 8, 8)
    upper, lower = module.Halves()(x)
    np.testing.assert_array_equal(np.concatenate([upper, lower], axis=1), x)
    noise = module.Noise(1.0)
    np.testing.assert_array_equal(noise(x), x)
    once, again = noise(x, training=True), noise(x, training=True)
    assert 0.8 < np.std(np.array(once) - x) < 1.2
    assert np.abs(np.array(once) - again).max() > 0.1


def test_the_learning_rate_warms_up() -> None:
    module = import_space("custom_metric")
    model = build(module, warm_up_epochs=2, batch_size=32, schedule="exponential", kept_each_epoch=1.0)
    schedule = model.optimizer._learning_rate
    assert [float(schedule(step)) for step in (0, 37, 75, 200)] == pytest.approx([1e-3 / 76, 5e-4, 1e-3, 1e-3])
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert float(again(37)) == float(schedule(37))


# Reuse of layers and models -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tied() -> ModuleType:
    return import_space("tied_autoencoder")


@pytest.fixture(scope="module")
def autoencoder(tied: ModuleType) -> Any:
    return build(tied, steps=2)


@pytest.fixture(scope="module")
def gaps(tied: ModuleType) -> Any:
    return tied.load_data()[1][0][:16]


def test_output_and_embedding_share_one_matrix(tied: ModuleType, autoencoder: Any) -> None:
    shapes = [tuple(weight.shape) for weight in autoencoder.trainable_weights]
    assert [shape for shape in shapes if tied.WORDS in shape] == [(tied.WORDS, 8)]
    vectors = np.random.default_rng(0).normal(size=(2, 3, 8)).astype("float32")
    words = autoencoder.get_layer("words")
    np.testing.assert_allclose(words(vectors, reverse=True), vectors @ np.array(words.vectors).T, atol=1e-5)


def test_a_layer_called_again_adds_no_weights(tied: ModuleType, autoencoder: Any) -> None:
    assert build(tied, steps=3).count_params() == autoencoder.count_params()


def test_head_and_tail_are_the_model(tied: ModuleType, autoencoder: Any, gaps: Any) -> None:
    head, tail = tied.head(autoencoder), tied.tail(autoencoder)
    np.testing.assert_allclose(tail(head(gaps)), autoencoder(gaps), atol=1e-5)
    assert tail.get_layer("decoder") is autoencoder.get_layer("decoder")


def test_a_tail_on_new_inputs_trains_only_the_new_layers(tied: ModuleType, autoencoder: Any) -> None:
    model = tied.describe_digits(autoencoder)
    assert model(np.zeros((2, 64), "float32")).shape == (2, tied.LENGTH, tied.WORDS)
    assert len(model.trainable_weights) == 2
    assert len(autoencoder.trainable_weights) == len(autoencoder.weights)


def test_clones_have_their_own_variables(tied: ModuleType, autoencoder: Any, gaps: Any) -> None:
    clone, new = tied.clone(autoencoder), tied.clone(autoencoder, weights=False)
    before = np.array(autoencoder(gaps))
    np.testing.assert_array_equal(clone(gaps), before)
    assert np.abs(np.array(new(gaps)) - before).max() > 1e-3
    assert len(clone.weights) == len(autoencoder.weights)  # tied like the original
    clone.get_layer("words").vectors.assign(np.zeros((tied.WORDS, 8)))
    np.testing.assert_array_equal(autoencoder(gaps), before)


def test_layers_are_replaced_and_inserted(tied: ModuleType, autoencoder: Any, gaps: Any) -> None:
    layers = [layer for layer in autoencoder.layers if layer.weights]
    doubled = tied.with_inserted(autoencoder, "narrow", keras.layers.Rescaling(2.0, name="doubled"))
    assert [layer for layer in doubled.layers if layer.weights] == layers
    assert doubled.get_layer("doubled").input is not None
    narrow = tied.with_replaced(autoencoder, "narrow", lambda layer: keras.layers.Dense(layer.units, name="other"))
    assert [layer.name for layer in narrow.layers if layer.weights] == ["words", "other", "step", "code", "decoder"]
    assert narrow.get_layer("decoder") is autoencoder.get_layer("decoder")
    for model in (doubled, narrow):
        assert np.abs(np.array(model(gaps)) - np.array(autoencoder(gaps))).max() > 1e-4


# A custom training step -----------------------------------------------------------------------------------------------

STEP = """
import sys
sys.path[:0] = {paths!r}
from test_spaces_models import three_steps
import numpy as np
np.savez({out!r}, *three_steps())
"""


def three_steps(radius: float = 0.05) -> list[Any]:
    """Return the loss and the sharpness of three training steps from fixed weights, and all weights after them."""
    module = import_space("custom_train_step")
    model = build(module, radius=radius, decorrelation=0.1)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.1, weight.shape).astype(weight.dtype) for weight in model.weights])
    (x, y), _ = module.load_data()
    logs = model.fit(x[:96], y[:96], shuffle=False, epochs=1, verbose=0).history
    return [np.array([logs["loss"][0], logs["sharpness"][0]]), *model.get_weights()]


def test_the_step_descends_at_the_worst_point_nearby() -> None:
    module = import_space("custom_train_step")
    model = build(module, radius=0.05, decorrelation=0.1)
    x = module.load_data()[0][0]
    model(x[:32])
    assert len(model.losses) == 1
    assert float(model.losses[0]) > 0
    assert "sharpness" in [metric.name for metric in model.metrics]
    sharp, flat = three_steps(), three_steps(radius=0.0)
    assert sharp[0][1] > 1e-3
    assert flat[0][1] == pytest.approx(0, abs=1e-6)
    assert any(np.abs(a - b).max() > 1e-5 for a, b in zip(sharp[1:], flat[1:], strict=True))


def test_with_radius_0_the_step_is_kerass(monkeypatch: pytest.MonkeyPatch) -> None:
    own = three_steps(radius=0.0)
    module = import_space("custom_train_step")
    del module.OnTensorFlow.train_step
    monkeypatch.setattr(sys.modules[__name__], "import_space", lambda name: module)
    plain = three_steps(radius=0.0)
    for a, b in zip(own[1:], plain[1:], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.slow  # another framework to import
def test_tensorflow_and_jax_take_the_same_steps(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    out = tmp_path / "jax.npz"
    code = STEP.format(paths=[str(Path(__file__).parent), str(ROOT / "tests")], out=str(out))
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=tmp_path)
    with np.load(out) as file:
        for tensorflow, jax in zip(three_steps(), file.values(), strict=True):
            np.testing.assert_allclose(tensorflow, jax, atol=1e-4)
