"""A comparison of programs with dynamic scalars with each trial's own programs. Run it with KERAS_BACKEND=jax.

The first argument is a folder for JAX's compiled programs. With "again" as the second, trials are trained whose
programs are there already.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import jax
import keras
import numpy as np
from keras import layers, optimizers, regularizers
from keras.optimizers import schedules

from search.worker.data.arrays import prepare_data
from search.worker.runners.choose import choose_runner, create_weights
from search.worker.runners.graph_cache import cached_graphs, clear_graph_cache, make_model_key
from search.worker.runners.jax import epoch_functions

rng = np.random.default_rng(0)
ROWS = rng.normal(size=(64, 12)).astype("float32")
IMAGES = rng.normal(size=(64, 8, 8, 2)).astype("float32")
Y = (ROWS[:, 0] + ROWS[:, 1] > 0).astype("int64") + (ROWS[:, 2] > 1)
VALUES = (0.1, 1 / 3, 0.25, 1e-4, 0.999, 0.6)
STEPS = (3, 7, 10, 1000, 33, 17)

Draw = Callable[[int], float]
"""A function that returns a value for the scalar of this number in the present trial."""


def trained(shape: tuple[int, ...], stack: list[Any], optimizer: Any) -> Any:
    model = keras.Sequential([keras.Input(shape), *stack, layers.Dense(3, "softmax")])
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def dense(v: Draw) -> Any:
    stack = [
        layers.Dense(16, kernel_regularizer=regularizers.L1L2(v(3), v(5)), bias_regularizer=regularizers.L1(v(1))),
        layers.Dropout(v(0)),
        layers.BatchNormalization(momentum=v(2), epsilon=v(3)),
        layers.LeakyReLU(v(1)),
        layers.Dropout(v(3)),
        layers.Dense(12, "tanh", kernel_regularizer=regularizers.L2(v(4))),
        layers.Dropout(v(2)),
        layers.Dense(8, "relu"),
        layers.ELU(v(2)),
    ]
    adam = optimizers.Adam(0.01, v(1), v(4), v(3), clipvalue=v(0))
    return trained((12,), stack, adam)


def images(v: Draw) -> Any:
    stack = [
        layers.Conv2D(4, 3, activation="relu", kernel_regularizer=regularizers.L2(v(4))),
        layers.SpatialDropout2D(v(0)),
        layers.MaxPooling2D(),
        layers.Dropout(v(1)),
        layers.Conv2D(4, 2, activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dropout(v(2)),
    ]
    return trained((8, 8, 2), stack, optimizers.SGD(0.01, v(3), nesterov=True))


def noisy(v: Draw) -> Any:
    stack = [
        layers.Dense(16),
        layers.GaussianDropout(v(0)),
        layers.Dense(12, "relu"),
        layers.GaussianNoise(v(1)),
        layers.LayerNormalization(epsilon=v(2)),
    ]
    adamw = optimizers.AdamW(0.01, beta_1=v(4), amsgrad=True, use_ema=True, ema_momentum=v(1))
    return trained((12,), stack, adamw)


def plain(optimizer: Callable[[Draw, int], Any]) -> Callable[[Draw], Any]:
    return lambda v: trained((12,), [layers.Dense(8, "relu")], optimizer(v, STEPS[VALUES.index(v(3))]))


CASES = {
    "dense": dense,
    "images": images,
    "noisy": noisy,
    "nadam": plain(lambda v, n: optimizers.Nadam(0.01, v(0), v(1), v(2))),
    "adamax": plain(lambda v, n: optimizers.Adamax(0.01, v(0), v(1), v(2))),
    "adagrad": plain(lambda v, n: optimizers.Adagrad(schedules.PolynomialDecay(v(1), n, v(2), v(4)), epsilon=v(0))),
    "exponential": plain(lambda v, n: optimizers.SGD(schedules.ExponentialDecay(v(2), n, v(4)))),
    "lion": plain(lambda v, n: optimizers.Lion(0.01, v(0), v(1))),
}

CONSTANT = {
    "a rate of 0": lambda v: trained((12,), [layers.Dense(8), layers.Dropout(v(0) if v(0) > 0.2 else 0.0)], "sgd"),
    "a rate of 0.5": lambda v: trained((12,), [layers.Dense(8), layers.Dropout(0.1 if v(0) == 0.1 else 0.5)], "sgd"),
    "a rate behind a normalization": lambda v: trained(
        (12,), [layers.BatchNormalization(), layers.Dropout(v(0))], "sgd"
    ),
    "a cosine": plain(lambda v, n: optimizers.SGD(schedules.CosineDecay(v(0), 10))),
    "clipnorm": plain(lambda v, n: optimizers.SGD(0.01, clipnorm=v(0))),
    "weight decay": plain(lambda v, n: optimizers.AdamW(0.01, v(0))),
    "rho": plain(lambda v, n: optimizers.RMSprop(0.01, v(0))),
}
"""Models with scalars that stay constants, so that each value has a graph of its own."""


def rematerialized(v: Draw) -> Any:
    """Return a model whose steps have a program within, in which numbers stay constants."""
    with keras.RematScope(mode="full"):
        return trained((12,), [layers.Dense(8), layers.LeakyReLU(v(0))], "sgd")


def train(make: Callable[[Draw], Any], number: int, shared: bool) -> tuple[Any, list[Any]]:
    """Train the trial of this number. Return its key, and the bits of all variables."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(number)
    model = make(lambda scalar: VALUES[(scalar + number) % len(VALUES)])
    x = IMAGES if len(model.input_shape) == 4 else ROWS
    data = prepare_data(((x, Y), (x[:16], Y[:16])))
    create_weights(model, data.train)
    key = make_model_key(model, [])
    runner = choose_runner(model, data, {"batch_size": 16}, number, [], model_key=key if shared else None)
    assert runner.name == "fused"
    runner.run(0, 3, [])
    variables = [*model.variables, *model.optimizer.variables]
    return key, [np.asarray(variable.value).tobytes() for variable in variables]


def compare(name: str, trials: int) -> None:
    """Train trials by one graph, and all but the first of them by programs of their own."""
    clear_graph_cache()
    keys = [train(CASES[name], 0, True)[0]]
    for number in range(1, trials):
        key, bits = train(CASES[name], number, True)
        assert key.description == keys[0].description
        assert bits == train(CASES[name], number, False)[1], (name, number)
    assert len(cached_graphs()) == 1
    assert cached_graphs() != [None]
    for scalar in keys[0].dynamic_sizes.scalars:
        print(name, type(scalar.owner).__name__, scalar.name, "the same")


def constant(name: str) -> None:
    models = [CONSTANT[name](lambda scalar, number=number: VALUES[number]) for number in (0, 1)]
    one, other = (make_model_key(model, []) for model in models)
    assert one.description != other.description, name


def shared_if_equal() -> None:
    """Train two trials with equal numbers, and one with another."""
    clear_graph_cache()
    for number in (0, len(VALUES), 1):
        bits = train(rematerialized, number, True)[1]
        assert bits == train(rematerialized, number, False)[1]
    assert [graph is None for graph in cached_graphs()] == [False, True, False]


def count_misses() -> list[str]:
    """Return a list that grows with each program that is compiled, and not read from the folder."""
    events: list[str] = []
    jax.monitoring.register_event_listener(lambda event, **_: events.append(event) if "cache_miss" in event else None)
    return events


def main(folder: str, again: bool) -> None:
    assert keras.config.backend() == "jax"
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    misses = count_misses()
    if again:
        layers.Dense(1), layers.Dropout(0.5)  # the others have other names than before
        for name in ("dense", "images"):
            train(CASES[name], 3, True)
        print(len(misses), "programs compiled")
        return
    for name in CASES:
        compare(name, 3 if name == "dense" else 2)
    for name in CONSTANT:
        constant(name)
    shared_if_equal()
    epoch_functions.may_loop = lambda step, states: False  # each batch is a call, as with convolutions
    compare("dense", 2)
    epoch_functions.may_loop = lambda step, states: True  # as on a GPU
    compare("images", 2)
    print(len(misses), "programs compiled")


if __name__ == "__main__":
    main(sys.argv[1], "again" in sys.argv)
