"""Checkpoints: a training continues from one with the same bits, and unusable ones are refused in one line."""

import json
import os
import sys
from pathlib import Path

import forks
import keras
import numpy as np
import pytest
from keras import layers

from search.errors import SearchError, SpaceError
from search.worker import checkpoint
from search.worker.data.arrays import prepare_data
from search.worker.runners.choose import choose_runner, create_weights

rng = np.random.default_rng(0)
X = rng.normal(size=(90, 6)).astype("float32")
Y = (X[:, 0] + rng.normal(size=90) > 0).astype("int64")
DATA = prepare_data(((X[:70], Y[:70]), (X[70:], Y[70:])))
EPOCHS, PAUSE = 6, 3


def make_model(width=8, **options):
    keras.utils.set_random_seed(5)
    keras.backend.clear_session()
    model = keras.Sequential(
        [layers.Dense(width, "relu"), layers.BatchNormalization(), layers.Dropout(0.3), layers.Dense(2, "softmax")]
    )
    model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy", metrics=["accuracy"], **options)
    create_weights(model, DATA.train)
    return model


def user_callbacks():
    return [
        keras.callbacks.ReduceLROnPlateau(monitor="val_loss", patience=2, factor=0.5, min_delta=0.02),
        keras.callbacks.EarlyStopping("val_loss", patience=4, min_delta=0.03, restore_best_weights=True),
    ]


class Save(keras.callbacks.Callback):
    """A callback that saves and restores as the recorder does."""

    def __init__(self, callbacks, save_to=None, resume=None):
        super().__init__()
        self.callbacks, self.save_to, self.resume, self.logs = callbacks, save_to, resume, []

    def on_train_begin(self, logs=None):
        if self.resume is not None:
            self.resume.restore_callbacks(self.callbacks)

    def on_epoch_end(self, epoch, logs=None):
        self.logs.append(logs)
        if self.save_to is not None and epoch + 1 == PAUSE:
            options = {
                "owner": {},
                "history": [{"epoch": n + 1} for n in range(epoch + 1)],
                "best_epoch": 2,
                "best_value": logs["val_loss"],
            }
            state = checkpoint.capture_state(self.model, self.callbacks)
            assert state.lost == []
            checkpoint.save_checkpoint(self.save_to, state, **options)


def train(fuse, save_to=None, resume_from=None):
    model, callbacks = make_model(), user_callbacks()
    resume = checkpoint.load_checkpoint(resume_from) if resume_from else None
    if resume:
        resume.restore(model)
    save = Save(callbacks, save_to, resume)
    runner = choose_runner(model, DATA, {"batch_size": 16}, 11, [*callbacks, save], fuse)
    runner.run(resume.epoch if resume else 0, EPOCHS, [*callbacks, save])
    state = [*checkpoint.copy_weights(model), *map(keras.ops.convert_to_numpy, model.optimizer.variables)]
    return state, save.logs


def continue_all(folder):
    """Continue the checkpoint of each runner with each runner. A process of its own runs this."""
    for saved in (True, False):
        for fuse in (True, False):
            state, logs = train(fuse, resume_from=folder / f"{saved}.npz")
            np.savez(folder / f"{saved}-{fuse}.npz", *state)
            (folder / f"{saved}-{fuse}.json").write_text(json.dumps(logs))


@pytest.mark.core
@pytest.mark.slow
def test_a_new_process_continues_with_the_same_bits(tmp_path, templates):
    state, logs = train(True, save_to=tmp_path / "True.npz")
    train(False, save_to=tmp_path / "False.npz")
    # Both callbacks act after the pause, by counts that start before it.
    assert PAUSE < len(logs) < EPOCHS
    assert logs[-1]["learning_rate"] < logs[0]["learning_rate"]
    code = f"import runpy; runpy.run_path({__file__!r}, run_name='__main__')"
    process = forks.start(templates.address("keras"), [sys.executable, "-c", code, str(tmp_path)])
    assert process.wait(120) == 0
    for combination in ("True-True", "True-False", "False-True", "False-False"):
        assert json.loads((tmp_path / f"{combination}.json").read_text()) == logs[PAUSE:]
        with np.load(tmp_path / f"{combination}.npz") as found:
            assert all(np.array_equal(a, b) for a, b in zip(state, found.values(), strict=True))


class Unfreeze(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            for layer in self.model.layers:
                layer.trainable = True
            self.model.compile(keras.optimizers.RMSprop(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])


@pytest.mark.slow
@pytest.mark.parametrize("fuse", [True, False])
def test_layers_that_a_callback_unfroze_stay_unfrozen(tmp_path, fuse):
    """The factory freezes the layers, and a training that continues calls the factory again."""

    def make_frozen():
        model = make_model()
        model.layers[0].trainable = model.layers[1].trainable = False
        model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    def train(save_to=None, resume_from=None):
        model, callbacks = make_frozen(), [Unfreeze()]
        resume = checkpoint.load_checkpoint(resume_from) if resume_from else None
        if resume:
            resume.restore(model)
        save = Save(callbacks, save_to, resume)
        runner = choose_runner(model, DATA, {"batch_size": 16}, 11, [*callbacks, save], fuse)
        runner.run(resume.epoch if resume else 0, EPOCHS, [*callbacks, save])
        return [*checkpoint.copy_weights(model), *map(keras.ops.convert_to_numpy, model.optimizer.variables)], save.logs

    whole, logs = train(save_to=tmp_path / "state.npz")
    continued, rest = train(resume_from=tmp_path / "state.npz")
    assert rest == logs[PAUSE:]
    assert all(np.array_equal(a, b) for a, b in zip(whole, continued, strict=True))


def save(path, model, callbacks=(), **changes):
    options = {
        "owner": {},
        "history": [{"epoch": 1, "logs": {"loss": 0.5}, "seconds": 0.1}],
        "best_epoch": None,
        "best_value": None,
        **changes,
    }
    state = checkpoint.capture_state(model, callbacks)
    checkpoint.save_checkpoint(path, state, **options)
    return state.lost


@pytest.mark.core
def test_a_checkpoint_holds_all_optimizer_variables_and_seeds(tmp_path):
    def make_compiled():
        model = make_model()
        inner = keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(0.1, 100), use_ema=True, gradient_accumulation_steps=2
        )
        model.compile(keras.optimizers.LossScaleOptimizer(inner), "sparse_categorical_crossentropy")
        return model

    model = make_compiled()
    choose_runner(model, DATA, {}, 0, []).run(0, 2, [])
    save(tmp_path / "c.npz", model)
    other = make_compiled()
    checkpoint.load_checkpoint(tmp_path / "c.npz").restore(other)
    for saved, restored in ((model, other), (model.optimizer, other.optimizer)):
        assert [v.name for v in saved.variables] == [v.name for v in restored.variables]
        assert all(np.array_equal(a, b) for a, b in zip(saved.variables, restored.variables, strict=True))
    assert any("seed_generator_state" in variable.path for variable in model.variables)
    assert int(other.optimizer.inner_optimizer.iterations) > 0


@pytest.mark.core
def test_dtypes_are_restored(tmp_path):
    def make_mixed():
        model = keras.Sequential([keras.Input((6,)), layers.Dense(3, dtype="bfloat16"), layers.Dense(1)])
        model.compile("sgd", "mse")
        return model

    model = make_mixed()
    save(tmp_path / "c.npz", model)
    other = make_mixed()
    checkpoint.load_checkpoint(tmp_path / "c.npz").restore(other)
    assert other.variables[0].dtype == "bfloat16"
    for a, b in zip(model.variables, other.variables, strict=True):
        assert np.array_equal(keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b))


class Odd(keras.callbacks.Callback):
    def __init__(self, fill):
        super().__init__()
        self.function = len
        if fill:
            self.nested = {"a": [1, (2.5, None)], 3: True, "nan": float("nan")}
            self.scalar = np.float32(0.1)
            self.flag = np.bool_(True)
            self.arrays = [np.arange(3, dtype="int8"), np.array(["x", "yz"])]
            self.file = sys.stdout
            self.mixed = [np.zeros(2), object()]
            self.objects = np.array([None])
            self.last = (np.ones((2, 2)),)


@pytest.mark.core
def test_the_attributes_of_callbacks_are_restored(tmp_path):
    callback = Odd(True)
    callback.set_params({"epochs": 3})
    model = make_model()
    callback.set_model(model)
    lost = save(
        tmp_path / "c.npz",
        model,
        [callback],
        owner={"seed": 3, "values": {"x": 0.1}},
        history=[{"epoch": 1, "logs": {"loss": float("inf")}, "seconds": 0.5}],
        best_epoch=3,
        best_value=0.25,
    )
    assert lost == ["Odd.file", "Odd.mixed", "Odd.objects"]
    read = checkpoint.load_checkpoint(tmp_path / "c.npz")
    assert (read.epoch, read.history[0]["logs"], read.best_epoch, read.best_value) == (
        1,
        {"loss": float("inf")},
        3,
        0.25,
    )
    fresh = Odd(False)
    read.restore_callbacks([fresh])
    assert fresh.nested.pop("nan") != 0
    assert fresh.nested == {"a": [1, (2.5, None)], 3: True}
    assert type(fresh.scalar) is np.float32
    assert fresh.scalar == callback.scalar
    assert type(fresh.flag) is np.bool_
    assert [array.dtype for array in fresh.arrays] == [array.dtype for array in callback.arrays]
    assert np.array_equal(fresh.last[0], np.ones((2, 2)))
    assert fresh.params is None
    with pytest.raises(SpaceError, match=r"callbacks \['Odd'\] and callbacks\(hp\) returned \[\]"):
        read.restore_callbacks([])


def test_the_min_delta_of_a_callback_keeps_its_sign(tmp_path):
    def make_callback():
        callback = keras.callbacks.EarlyStopping("loss", mode="min", min_delta=0.1, patience=5)
        callback.set_model(model)
        callback.on_train_begin()
        return callback

    model = make_model()
    callback = make_callback()
    callback.on_epoch_end(0, {"loss": 1.0})
    save(tmp_path / "c.npz", model, [callback])
    resumed = make_callback()
    checkpoint.load_checkpoint(tmp_path / "c.npz").restore_callbacks([resumed])
    for each in (callback, resumed):
        each.on_epoch_end(1, {"loss": 0.95})
        assert (each.wait, each.best, each.min_delta) == (1, 1.0, -0.1)


def test_a_different_model_is_refused_and_left_unchanged(tmp_path):
    save(tmp_path / "c.npz", make_model())
    read = checkpoint.load_checkpoint(tmp_path / "c.npz")
    wider = make_model(width=9)
    before = checkpoint.copy_weights(wider)
    with pytest.raises(
        SpaceError, match=r"float32\[6, 8\] for the model's variable .*kernel, which is float32\[6, 9\]"
    ):
        read.restore(wider)
    assert all(np.array_equal(a, b) for a, b in zip(before, checkpoint.copy_weights(wider), strict=True))
    deeper = keras.Sequential([keras.Input((6,)), make_model(), layers.Dense(1)])
    with pytest.raises(SpaceError, match="holds 9 variables of the model, the one that was built has 11") as caught:
        read.restore(deeper)
    assert "\n" not in str(caught.value)
    same = make_model()
    same.compile("sgd", "mse")
    with pytest.raises(SpaceError, match="of the optimizer"):
        read.restore(same)


@pytest.mark.core
def test_best_weights_are_saved_and_assigned(tmp_path):
    model = make_model()
    best = checkpoint.copy_weights(model)
    choose_runner(model, DATA, {}, 0, []).run(0, 1, [])
    assert not np.array_equal(best[0], checkpoint.copy_weights(model)[0])
    checkpoint.save_weights(tmp_path / "best.npz", best, 3, 0.75, inputs={"shape": [None, 6], "dtype": "float32"})
    loaded = checkpoint.load_weights(tmp_path / "best.npz")
    loaded.assign_to(model)
    assert (loaded.epoch, loaded.value, loaded.inputs) == (3, 0.75, {"shape": [None, 6], "dtype": "float32"})
    assert all(np.array_equal(a, b) for a, b in zip(best, checkpoint.copy_weights(model), strict=True))


def test_a_failed_write_leaves_the_previous_file(tmp_path, monkeypatch):
    path = tmp_path / "c.npz"
    save(path, make_model())

    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        save(path, make_model(), best_epoch=2)
    assert checkpoint.load_checkpoint(path).epoch == 1
    assert list(tmp_path.iterdir()) == [path]


def test_damaged_and_missing_files_are_refused(tmp_path):
    path = tmp_path / "c.npz"
    with pytest.raises(SearchError, match="missing or damaged"):
        checkpoint.load_checkpoint(path)
    save(path, make_model())
    whole = path.read_bytes()
    for content in (b"", b"junk", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(SearchError, match="missing or damaged"):
            checkpoint.load_checkpoint(path)


if __name__ == "__main__":
    continue_all(Path(sys.argv[1]))
