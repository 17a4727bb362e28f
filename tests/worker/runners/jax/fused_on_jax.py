"""A comparison of fused epochs on JAX with `model.fit`, for many kinds of models. Run it with KERAS_BACKEND=jax."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from keras import layers

from search.worker.data.arrays import prepare_data
from search.worker.runners.choose import choose_runner
from search.worker.runners.jax import epoch_functions
from search.worker.runners.jax.values_internals import sharing_programs

rng = np.random.default_rng(0)
X = rng.normal(size=(70, 6)).astype("float32")
Y = (X[:, 0] + X[:, 1] > 0).astype("int64") + (X[:, 2] > 1)
WEIGHT = rng.uniform(0.1, 2, 70).astype("float32")
PLAIN = ((X, Y), (X[:27], Y[:27]))
EVEN = ((X[:64], Y[:64]), (X[:32], Y[:32]))
WEIGHTED = ((X, Y, WEIGHT), (X[:27], Y[:27], WEIGHT[:27]))
NESTED = (
    ({"a": X[:64], "b": X[:64, :2]}, {"u": Y[:64], "v": X[:64, :1]}, WEIGHT[:64]),
    ({"a": X[:32], "b": X[:32, :2]}, {"u": Y[:32], "v": X[:32, :1]}),
)


class Record(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped
    def __init__(self) -> None:
        super().__init__()
        self.logs: list[dict[str, float]] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.logs.append(dict(logs))


class Own(keras.Model):  # type: ignore[misc]
    """A model whose step returns logs of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.out = layers.Dense(3, activation="softmax")

    def call(self, x: Any) -> Any:
        return self.out(x)

    def train_step(self, state: Any, data: Any) -> Any:
        logs, state = super().train_step(state, data)
        return {**logs, "rows": keras.ops.cast(data[0].shape[0], "float32")}, state


def sequential(*stack: Any, optimizer: Any = "adam", **options: Any) -> Any:
    model = keras.Sequential([*stack, layers.Dense(3, activation="softmax")])
    model.compile(optimizer, "sparse_categorical_crossentropy", **{"metrics": ["accuracy"], **options})
    return model


def regularised() -> Any:
    dense = layers.Dense(8, kernel_regularizer="l2", activity_regularizer="l1")
    return sequential(keras.Input((6,)), dense, layers.BatchNormalization(), layers.ReLU(), layers.Dropout(0.3))


def averaged() -> Any:
    rate = keras.optimizers.schedules.ExponentialDecay(0.01, 3, 0.9)
    optimizer = keras.optimizers.AdamW(rate, use_ema=True, ema_momentum=0.9, gradient_accumulation_steps=2, clipnorm=1)
    return sequential(keras.Input((6,)), layers.Dense(8, "relu"), optimizer=optimizer)


def deferred() -> Any:
    return sequential(layers.Reshape((3, 2, 1)), layers.RandomFlip(), layers.Conv2D(4, 2), layers.Flatten())


def weighted() -> Any:
    return sequential(keras.Input((6,)), optimizer="rmsprop", weighted_metrics=["accuracy"], metrics=None)


def own() -> Any:
    model = Own()
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def two_heads() -> Any:
    a, b = keras.Input((6,), name="a"), keras.Input((2,), name="b")
    hidden = layers.Dropout(0.2)(layers.Dense(8, "relu")(layers.Concatenate()([a, b])))
    heads = {"u": layers.Dense(3, "softmax", name="u")(hidden), "v": layers.Dense(1, name="v")(hidden)}
    model = keras.Model({"a": a, "b": b}, heads)
    losses = {"u": "sparse_categorical_crossentropy", "v": "mse"}
    model.compile("adam", losses, metrics={"u": ["accuracy"], "v": ["mae"]})
    return model


def train(make: Any, raw: Any, fuse: bool) -> tuple[str, list[dict[str, float]], list[Any]]:
    keras.utils.clear_session()
    keras.utils.set_random_seed(3)
    model, record = make(), Record()
    runner = choose_runner(model, prepare_data(raw), {"batch_size": 16}, 7, [record], fuse)
    runner.run(0, 3, [record])
    variables = [*model.variables, *model.optimizer.variables]
    return runner.name, record.logs, [keras.ops.convert_to_numpy(variable.value) for variable in variables]


# If all batches are whole, JAX compiles half as much.
CASES = [
    (regularised, PLAIN),
    (averaged, EVEN),
    (deferred, EVEN),
    (weighted, WEIGHTED),
    (own, PLAIN),
    (own, EVEN),
    (two_heads, NESTED),
]


may_loop = epoch_functions.may_loop
looped: list[bool] = []


def decide(*step: Any) -> bool:
    looped.append(may_loop(*step))
    return looped[-1]


def check_decision() -> None:
    """Check the decision for steps that hide a convolution in nested functions, and for one that cannot be repeated."""

    def convolve(x: Any) -> Any:
        return keras.ops.conv(x, jnp.ones((2, 1, 1)), padding="same")

    steps: dict[str, tuple[Callable[[Any], Any], bool]] = {
        "plain": (lambda x: x * 2, True),
        "plain branches": (lambda x: jax.lax.cond(x.sum() > 0, lambda: x, lambda: x * 2), True),
        "convolution": (convolve, False),
        "in a branch": (lambda x: jax.lax.cond(x.sum() > 0, lambda: x, lambda: convolve(x)), False),
        "in a loop of a jitted function": (
            jax.jit(lambda x: jax.lax.fori_loop(0, 3, lambda _, y: convolve(y), x)),
            False,
        ),
        "remat": (jax.grad(lambda x: jax.checkpoint(convolve)(x).sum()), False),
        "another type": (lambda x: x.astype("float16"), False),
        "another shape": (lambda x: x[:1], False),
    }
    for name, (step, expected) in steps.items():
        traced = jax.jit(step).trace(jnp.ones((2, 4, 1)))
        assert may_loop(traced.jaxpr, 1) is expected, name


def initial_values() -> list[Any]:
    shapes = (1,), (7,), (64, 33), (3, 3, 2, 5), (1000, 17), (1024,), (1025,), (2, 0)
    return [np.asarray(values) for shape in shapes for values in draws_of(shape)]


def draws_of(shape: tuple[int, ...]) -> Iterator[Any]:
    yield keras.random.uniform(shape, -0.123, 0.456, seed=1)
    yield keras.random.normal(shape, 0.1, 0.3, seed=2)
    yield keras.random.truncated_normal(shape, 0.0, 0.7, seed=3)
    yield keras.ops.zeros(shape)
    yield keras.ops.zeros(shape, "int32")


def compare_initial_values() -> None:
    own = initial_values()
    with sharing_programs():
        shared = initial_values()
        traced = jax.jit(lambda: keras.random.uniform((3, 2), seed=1))()
    for one, other in zip((*own, traced), (*shared, keras.random.uniform((3, 2), seed=1)), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    print("initial values the same")


def main() -> None:
    assert keras.config.backend() == "jax"
    compare_initial_values()
    check_decision()
    for make, raw in CASES:
        name, logs, arrays = train(make, raw, False)
        assert name == "fit: asked for"
        assert len(logs) == 3
        looped.clear()
        for each in (decide, lambda *step: not decide(*step)):  # as it is done on a processor, and the other way
            epoch_functions.may_loop = each
            fused_name, fused_logs, fused = train(make, raw, True)
            assert fused_name == "fused"
            for one, other in zip(fused_logs, logs, strict=True):
                assert list(one) == list(other)
                np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-6, err_msg=make.__name__)
            for array, fitted in zip(fused, arrays, strict=True):
                np.testing.assert_allclose(array, fitted, rtol=1e-5, atol=1e-6, err_msg=make.__name__)
            print(make.__name__, "the same")
        # Training and validation decide alike.
        assert looped == [make is not deferred] * 4, make.__name__


if __name__ == "__main__":
    main()
