"""The effect of oneDNN on an epoch, by the kind of model: TensorFlow's own kernels against oneDNN, on one thread.

    python benchmarks/onednn.py [--epochs 15] [--models cnn,lstm]

TensorFlow decides once, when it is imported, if it uses oneDNN. So there are two processes for each model, which take
turns, an epoch each: a noisy machine slows both alike. Times are processor times. The first two epochs, of tracing and
of warming up, do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

CLASSES = 10
WARM_UP = 2


# In a process of its own ----------------------------------------------------------------------------------------------


def images(samples: int, *shape: int) -> Any:
    import numpy as np

    return np.random.default_rng(0).normal(size=(samples, *shape)).astype("float32")


def words(samples: int, length: int) -> Any:
    import numpy as np

    return np.random.default_rng(0).integers(0, 5000, (samples, length)).astype("int32")


def dense(width: int) -> tuple[Any, list[Any]]:
    from keras import layers

    return images(1500, 64), [layers.Dense(width, activation="relu"), layers.Dense(width, activation="relu")]


def cnn() -> tuple[Any, list[Any]]:
    from keras import layers

    blocks = [(layers.Conv2D(f, 3, padding="same", activation="relu"), layers.MaxPooling2D()) for f in (16, 32)]
    return images(600, 24, 24, 1), [*(layer for block in blocks for layer in block), layers.Flatten()]


def normalized_cnn() -> tuple[Any, list[Any]]:
    from keras import layers

    made: list[Any] = []
    for filters in (16, 32, 64):
        made += layers.Conv2D(filters, 3, padding="same"), layers.BatchNormalization(), layers.ReLU()
        made.append(layers.MaxPooling2D())
    return images(320, 32, 32, 3), [*made, layers.GlobalAveragePooling2D()]


def separable_cnn() -> tuple[Any, list[Any]]:
    from keras import layers

    made = [layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")]
    made += [layers.SeparableConv2D(filters, 3, padding="same", activation="relu") for filters in (32, 64)]
    return images(320, 32, 32, 3), [*made, layers.GlobalAveragePooling2D()]


def lstm() -> tuple[Any, list[Any]]:
    from keras import layers

    return images(640, 30, 8), [layers.LSTM(32)]


def gru() -> tuple[Any, list[Any]]:
    from keras import layers

    return images(640, 30, 8), [layers.GRU(64)]


def text_cnn() -> tuple[Any, list[Any]]:
    from keras import layers

    return words(640, 60), [layers.Embedding(5000, 32), layers.Conv1D(32, 3), layers.GlobalMaxPooling1D()]


def attention() -> tuple[Any, list[Any]]:
    import keras
    from keras import layers

    inputs = keras.Input((40, 32))
    attended = keras.Model(inputs, inputs + layers.MultiHeadAttention(2, 16)(inputs, inputs))
    made = [layers.Embedding(5000, 32), attended, layers.LayerNormalization(), layers.Dense(64, activation="gelu")]
    return words(640, 40), [*made, layers.GlobalAveragePooling1D()]


MODELS: dict[str, Callable[[], tuple[Any, list[Any]]]] = {
    "dense 32": lambda: dense(32),
    "dense 128": lambda: dense(128),
    "dense 512": lambda: dense(512),
    "cnn": cnn,
    "normalized cnn": normalized_cnn,
    "separable cnn": separable_cnn,
    "lstm": lstm,
    "gru": gru,
    "text cnn": text_cnn,
    "attention": attention,
}
"""For each model, its inputs and the layers between the inputs and the output."""


def train(name: str) -> None:
    """Train an epoch for each line of standard input, and print its seconds."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import keras
    import numpy as np
    import tensorflow as tf

    from search.worker.data.arrays import prepare_data
    from search.worker.runners.choose import choose_runner

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.utils.set_random_seed(0)
    x, hidden = MODELS[name]()
    split = x, np.random.default_rng(1).integers(0, CLASSES, len(x))
    model = keras.Sequential([*hidden, keras.layers.Dense(CLASSES, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")

    class Turns(keras.callbacks.Callback):
        began = 0.0

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if not sys.stdin.readline():
                sys.exit()
            self.began = time.process_time()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            print(json.dumps(time.process_time() - self.began), flush=True)

    turns = Turns()
    fused = choose_runner(model, prepare_data((split, None)), {"batch_size": 32}, 0, [turns])
    assert fused.name == "fused", fused.name
    fused.run(0, sys.maxsize, [turns])


# The comparison -------------------------------------------------------------------------------------------------------


def start(name: str, onednn: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "TF_ENABLE_ONEDNN_OPTS": onednn,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    command = [sys.executable, __file__, "--train", name]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)


def take_turn(process: subprocess.Popen[str]) -> float:
    """Have `process` train an epoch, and return its seconds."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return float(json.loads(process.stdout.readline()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--models", type=lambda text: text.split(","), default=list(MODELS))
    parser.add_argument("--train", choices=MODELS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        train(given.train)
        return
    print("| model | without, ms | with oneDNN, ms | times as fast | least | most |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in given.models:
        without, onednn = (start(name, flag) for flag in "01")
        turns = [(take_turn(without), take_turn(onednn)) for _ in range(WARM_UP + given.epochs)][WARM_UP:]
        for process in (without, onednn):
            process.communicate()
        one, other = (1e3 * statistics.median(seconds) for seconds in zip(*turns, strict=True))
        ratios = [before / after for before, after in turns]
        times = f"{statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f}"
        print(f"| {name} | {one:.1f} | {other:.1f} | {times} |", flush=True)


if __name__ == "__main__":
    main()
