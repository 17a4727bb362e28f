"""The choice of the runner, training plans, and fused epochs beside those of `model.fit`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from search.errors import SpaceError
from search.study.trial import derive_seed
from search.worker.data.arrays import prepare_data
from search.worker.runners.choose import choose_runner, create_weights
from search.worker.runners.fit import make_training_plan

rng = np.random.default_rng(0)
X = rng.normal(size=(70, 6)).astype("float32")
Y = (X[:, 0] + X[:, 1] > 0).astype("int64") + (X[:, 2] > 1)
WEIGHT = rng.uniform(0.1, 2, 70).astype("float32")
PLAIN = ((X, Y), (X[:27], Y[:27]))
WEIGHTED = ((X, Y, WEIGHT), (X[:27], Y[:27], WEIGHT[:27]))
# If all batches are whole, `fit` traces half as much.
WHOLE = ((X[:64], Y[:64]), (X[:32], Y[:32]))
WHOLE_WEIGHTED = tuple((x[:32], y[:32], weight[:32]) for x, y, weight in WEIGHTED)
NESTED = (
    ({"a": X[:64], "b": X[:64, :2]}, {"u": Y[:64], "v": X[:64, :1]}, WEIGHT[:64]),
    ({"a": X[:32], "b": X[:32, :2]}, {"u": Y[:32], "v": X[:32, :1]}),
)
LISTS = tuple(([x, x[:, :2]], [y, x[:, :1]]) for x, y in WHOLE)


class Record(keras.callbacks.Callback):
    """All calls of hooks, except those of batches, with their arguments."""

    def __init__(self):
        super().__init__()
        self.events = []

    def on_train_begin(self, logs=None):
        self.events.append(("train_begin", dict(self.params), logs))

    def on_train_end(self, logs=None):
        self.events.append(("train_end", logs))

    def on_epoch_begin(self, epoch, logs=None):
        self.events.append(("epoch_begin", epoch, logs))

    def on_epoch_end(self, epoch, logs=None):
        assert all(type(value) is float for value in logs.values())
        self.events.append(("epoch_end", epoch, list(logs.items())))

    def on_test_begin(self, logs=None):
        self.events.append(("test_begin", logs))

    def on_test_end(self, logs=None):
        self.events.append(("test_end", list(logs.items())))


def sequential(*stack, optimizer="adam", **options):
    model = keras.Sequential([*stack, layers.Dense(3, activation="softmax")])
    model.compile(optimizer, "sparse_categorical_crossentropy", **{"metrics": ["accuracy"], **options})
    return model


def regularised():
    return sequential(
        keras.Input((6,)),
        layers.Dense(8, kernel_regularizer="l2", activity_regularizer="l1"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Dropout(0.3),
    )


def weighted():
    return sequential(
        keras.Input((6,)), layers.Dense(8, "relu"), optimizer="rmsprop", weighted_metrics=["accuracy"], metrics=None
    )


def averaged():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.01, 3, 0.9)
    optimizer = keras.optimizers.AdamW(
        schedule, use_ema=True, ema_momentum=0.9, gradient_accumulation_steps=2, clipnorm=1
    )
    return sequential(keras.Input((6,)), layers.Dense(8, "relu"), optimizer=optimizer)


def deferred():
    return sequential(
        layers.Reshape((3, 2, 1)), layers.RandomFlip(), layers.Conv2D(4, 2, padding="same"), layers.Flatten()
    )


def mixed():
    layer = layers.Dense(8, "relu", dtype="mixed_float16")
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1, momentum=0.9))
    return sequential(keras.Input((6,)), layer, layers.GaussianNoise(0.1), optimizer=optimizer)


class Subclass(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(8, "relu")
        self.drop = layers.Dropout(0.3)
        self.out = layers.Dense(3)
        self.seen = keras.metrics.Mean(name="seen")

    def call(self, x, training=False):
        return self.out(self.drop(self.hidden(tf.reshape(x, (tf.shape(x)[0], 6))), training=training))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        self.seen.update_state(keras.ops.mean(y_pred))
        return super().compute_loss(x, y, y_pred, sample_weight, training) + 0.01 * keras.ops.mean(y_pred**2)


def subclass():
    model = Subclass()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


def two_heads(kind):
    a, b = keras.Input((6,), name="a"), keras.Input((2,), name="b")
    hidden = layers.Dropout(0.2)(layers.Dense(8, "relu")(layers.Concatenate()([a, b])))
    u, v = layers.Dense(3, "softmax", name="u")(hidden), layers.Dense(1, name="v")(hidden)
    losses, metrics = ["sparse_categorical_crossentropy", "mse"], [["accuracy"], ["mae"]]
    if kind == "dict":
        model = keras.Model({"a": a, "b": b}, {"u": u, "v": v})
        losses, metrics = dict(zip("uv", losses, strict=True)), dict(zip("uv", metrics, strict=True))
    else:
        model = keras.Model([a, b], [u, v])
    model.compile("adam", losses, metrics=metrics, weighted_metrics=metrics, loss_weights=None)
    return model


class OwnStep(keras.Sequential):
    """A model with steps of its own, which may return logs of their own."""

    extra = False

    def train_step(self, data):
        logs = super().train_step(data)
        return {**logs, "rows": keras.ops.cast(tf.shape(data[0])[0], "float32")} if self.extra else logs

    def test_step(self, data):
        logs = super().test_step(data)
        return {"twice": 2 * logs["loss"], "loss": logs["loss"]} if self.extra else logs


def own_step(extra=False):
    model = OwnStep([keras.Input((6,)), layers.Dense(8, "relu"), layers.Dropout(0.2), layers.Dense(3, "softmax")])
    model.extra = extra
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def train(make, raw, options, fuse, epochs=((0, 3),), extra=list):
    """Train a new model; return all that must be equal: variables, events of callbacks, history."""
    keras.utils.set_random_seed(3)
    keras.utils.clear_session(free_memory=False)
    model, record = make(), Record()
    callbacks = [*extra(), record]
    runner = choose_runner(model, prepare_data(raw), options, 7, callbacks, fuse)
    for start, end in epochs:
        runner.run(start, end, callbacks)
    assert runner.name == ("fused" if fuse else "fit: asked for")
    arrays = [keras.ops.convert_to_numpy(variable) for variable in (*model.variables, *model.optimizer.variables)]
    return arrays, record.events, model.history.history


def assert_equal(one, other):
    assert one[1:] == other[1:]
    assert len(one[0]) == len(other[0])
    for a, b in zip(one[0], other[0], strict=True):
        assert np.array_equal(a, b), np.abs(a - b).max()


@pytest.mark.core
@pytest.mark.parametrize(
    ("make", "raw", "options"),
    [
        pytest.param(regularised, PLAIN, {"batch_size": 16}, id="regularised"),
        pytest.param(
            regularised,
            (WHOLE[0], PLAIN[1]),
            {"class_weight": {0: 1.0, 1: 3.0}, "validation_batch_size": 5},
            id="class weight",
            marks=pytest.mark.slow,
        ),
        pytest.param(weighted, WEIGHTED, {"batch_size": 16}, id="sample weights", marks=pytest.mark.slow),
        pytest.param(averaged, WHOLE, {"batch_size": 16}, id="schedule, EMA, accumulation", marks=pytest.mark.slow),
        pytest.param(
            deferred, PLAIN, {"batch_size": 100, "shuffle": False}, id="deferred, one batch", marks=pytest.mark.slow
        ),
        pytest.param(mixed, ((X, Y), None), {"batch_size": 35}, id="loss scale, no validation", marks=pytest.mark.slow),
        pytest.param(subclass, PLAIN, {"batch_size": 16}, id="subclass"),
        pytest.param(own_step, WHOLE, {"batch_size": 16}, id="own steps", marks=pytest.mark.slow),
        pytest.param(lambda: own_step(extra=True), PLAIN, {"batch_size": 16}, id="own logs"),
        pytest.param(
            lambda: own_step(extra=True), PLAIN, {"batch_size": 35}, id="own logs, even batches", marks=pytest.mark.slow
        ),
        pytest.param(
            lambda: own_step(extra=True), PLAIN, {"batch_size": 100}, id="own logs, one batch", marks=pytest.mark.slow
        ),
        pytest.param(lambda: two_heads("dict"), NESTED, {"batch_size": 16}, id="dicts", marks=pytest.mark.slow),
        pytest.param(lambda: two_heads("list"), LISTS, {"batch_size": 16}, id="lists"),
    ],
)
def test_fused_equals_fit_to_the_last_bit(make, raw, options):
    assert_equal(train(make, raw, options, fuse=True), train(make, raw, options, fuse=False))


@pytest.mark.core
def test_both_equal_plain_keras_in_the_same_order():
    ours = train(weighted, WHOLE_WEIGHTED, {"batch_size": 16}, fuse=True)
    keras.utils.set_random_seed(3)
    keras.utils.clear_session(free_memory=False)
    model, losses = weighted(), []
    for epoch in range(3):
        order = np.random.default_rng(derive_seed(7, "order", epoch)).permutation(32)
        x, y, weight = X[order], Y[order], WEIGHT[order]
        losses += model.fit(x, y, sample_weight=weight, batch_size=16, shuffle=False, verbose=0).history["loss"]
    assert ours[2]["loss"] == losses
    assert all(np.array_equal(a, keras.ops.convert_to_numpy(b)) for a, b in zip(ours[0], model.variables, strict=False))


@pytest.mark.core
@pytest.mark.parametrize("fuse", [True, False])
def test_a_training_in_segments_equals_one_in_whole(fuse):
    whole = train(regularised, WHOLE, {}, fuse)
    parts = train(regularised, WHOLE, {}, fuse, epochs=((0, 1), (1, 3)))
    assert_equal((whole[0], 0), (parts[0], 0))


class Unfreeze(keras.callbacks.Callback):
    def __init__(self, hook, epoch):
        super().__init__()
        setattr(self, hook, self.act)
        self.epoch = epoch

    def act(self, epoch, logs=None):
        if epoch == self.epoch:
            self.model.layers[0].trainable = not self.model.layers[0].trainable
            self.model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"])


def schedule(epoch, rate):
    return rate / (epoch + 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "extra",
    [
        pytest.param(
            lambda: [Unfreeze("on_epoch_begin", 1), Unfreeze("on_epoch_end", 2)],
            id="compiles in on_epoch_begin and on_epoch_end",
        ),
        pytest.param(
            lambda: [
                keras.callbacks.LearningRateScheduler(schedule),
                keras.callbacks.EarlyStopping("loss", patience=0, min_delta=0.1, restore_best_weights=True),
                keras.callbacks.SwapEMAWeights(swap_on_epoch=False),
            ],
            id="rate, stop, restore, swap in validation",
        ),
    ],
)
def test_callbacks_act_alike(extra):
    def make():
        optimizer = keras.optimizers.Adam(0.02, use_ema=True, ema_momentum=0.5)
        return sequential(keras.Input((6,)), layers.Dense(8, "relu"), optimizer=optimizer)

    ends = ((0, 8),)
    fused, fit = (train(make, WHOLE, {}, fuse, ends, extra) for fuse in (True, False))
    assert_equal(fused, fit)
    if isinstance(extra()[0], keras.callbacks.LearningRateScheduler):
        assert 1 < len(fused[2]["loss"]) < 8
        rates = fused[2]["learning_rate"]
        assert rates[1] == pytest.approx(rates[0] / 2)


def test_with_steps_per_epoch_an_epoch_continues_the_pass():
    options = {"batch_size": 16, "steps_per_epoch": 3}
    plan = make_training_plan(prepare_data(PLAIN), options, 7)
    assert (plan.steps, plan.batches_per_pass) == (3, 5)
    models = []
    for epochs in (((0, 4),), ((0, 1), (1, 4))):
        keras.utils.set_random_seed(3)
        model = weighted()
        runner = choose_runner(model, prepare_data(PLAIN), options, 7, [])
        assert runner.name == "fit: steps_per_epoch"
        for start, end in epochs:
            runner.run(start, end, [])
        models.append(model)
    assert int(models[0].optimizer.iterations) == 12
    for a, b in zip(*(model.get_weights() for model in models), strict=True):
        assert np.array_equal(a, b)


class Own(keras.Sequential):
    def make_train_function(self, force=False):
        return super().make_train_function(force)


def patched():
    model = weighted()
    model.fit = None
    return model


def own():
    model = Own([keras.Input((6,)), layers.Dense(3)])
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize(
    ("make", "callbacks", "options", "name"),
    [
        (weighted, [], {"verbose": 2, "batch_size": None}, "fused"),
        (patched, [keras.callbacks.ModelCheckpoint("x.keras")], {"validation_freq": 1}, "fused"),
        (own, [], {}, "fit: own make_train_function"),
        (weighted, [keras.callbacks.TerminateOnNaN()], {}, "fit: TerminateOnNaN.on_batch_end"),
        (
            weighted,
            [keras.callbacks.ModelCheckpoint("x.keras", save_freq=3)],
            {},
            "fit: ModelCheckpoint.on_train_batch_end",
        ),
        (
            weighted,
            [keras.callbacks.LambdaCallback(on_train_batch_end=print)],
            {},
            "fit: LambdaCallback.on_train_batch_end",
        ),
        (lambda: sequential(run_eagerly=True), [], {}, "fit: run_eagerly"),
        (lambda: sequential(steps_per_execution=2), [], {}, "fit: steps_per_execution"),
        (lambda: sequential(keras.Input(batch_shape=(10, 6)), layers.Dense(2)), [], {}, "fit: fixed batch size"),
        (weighted, [], {"validation_steps": 2}, "fit: validation_steps"),
    ],
)
def test_only_equivalent_trainings_are_fused(make, callbacks, options, name):
    assert choose_runner(make(), prepare_data(PLAIN), options, 0, callbacks).name == name


def test_large_data_are_not_fused():
    huge = np.broadcast_to(np.float32(0), (2**20, 6, 50))
    assert (
        choose_runner(sequential(layers.Flatten()), prepare_data(((huge, np.zeros(2**20)), None)), {}, 0, []).name
        == "fit: 1.2 GiB of data"
    )


def test_a_distribute_strategy_is_not_fused():
    with tf.distribute.OneDeviceStrategy("cpu").scope():
        model = weighted()
    assert choose_runner(model, prepare_data(PLAIN), {}, 0, []).name == "fit: distribute strategy"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 3}, "the search decides it"),
        ({"validation_freq": 2}, "every epoch is compared"),
        ({"callbacks": []}, "callbacks(hp)"),
        ({"validation_split": 1.5}, "a fraction between 0 and 1"),
        ({"batchsize": 3}, "Did you mean 'batch_size'?"),
        ({"batch_size": 0}, "whole number of at least 1"),
        ({"batch_size": 3.5}, "whole number of at least 1"),
        ({"shuffle": "batch"}, "True or False"),
        ({"class_weight": [1, 2]}, "no dict"),
    ],
)
def test_unusable_options_are_refused_in_one_line(options, message):
    with pytest.raises(SpaceError, match="fit_options returned") as caught:
        make_training_plan(prepare_data(PLAIN), options, 0)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_class_weights_become_the_sample_weights_of_keras():
    weights = {0: 0.5, 2: 3.0}
    expected = np.array([weights.get(int(label), 1.0) for label in Y], dtype="float32")
    for y in (Y, Y[:, None], np.eye(3)[Y], Y.astype("float32")):
        assert np.array_equal(
            make_training_plan(prepare_data(((X, y), None)), {"class_weight": weights}, 0).train.sample_weight, expected
        )
    for raw in (WEIGHTED, LISTS, ((X,), None)):
        with pytest.raises(SpaceError, match="class_weight"):
            make_training_plan(prepare_data(raw), {"class_weight": weights}, 0)


def test_created_weights_leave_the_batch_size_dynamic_and_draw_nothing():
    keras.utils.set_random_seed(1)
    model = deferred()
    train = prepare_data(PLAIN).train
    create_weights(model, train)
    assert model.input_shape == (None, 6)
    other = subclass()
    create_weights(other, train)
    assert other.built
    state = [keras.ops.convert_to_numpy(v) for v in other.variables if "seed" in v.path]
    create_weights(other, train)
    assert np.array_equal(state, [keras.ops.convert_to_numpy(v) for v in other.variables if "seed" in v.path])


@pytest.mark.parametrize("options", [{}, {"class_weight": {0: 1.0, 1: 5.0}}])
def test_a_validation_split_is_that_of_fit(options):
    options = {"validation_split": 0.3, "shuffle": False, **options}
    plain = same_start().fit(X, Y, epochs=2, verbose=0, **options).history
    for fuse in (True, False):
        record, model = Record(), same_start()
        choose_runner(model, prepare_data(((X, Y), None)), options, 1, [record], fuse).run(0, 2, [record])
        found = [dict(event[2]) for event in record.events if event[0] == "epoch_end"]
        for name, values in plain.items():
            assert [logs[name] for logs in found] == pytest.approx(values, rel=1e-5), name


def same_start():
    keras.utils.set_random_seed(3)
    return sequential(layers.Input((6,)))


def test_trials_share_the_parts_of_a_validation_split():
    data = prepare_data(((X, Y), None))
    first, second = (make_training_plan(data, {"validation_split": 0.3}, seed) for seed in (1, 2))
    assert first.train is second.train
    assert (first.arrays.samples, first.validation.samples) == (49, 21)
    given = prepare_data(((X, Y), (X[:5], Y[:5])))
    assert make_training_plan(given, {"validation_split": 0.3}, 1).validation.samples == 5, "as in fit"
    for nothing in (0, 0.0, None):
        assert make_training_plan(data, {"validation_split": nothing}, 1).validation is None
