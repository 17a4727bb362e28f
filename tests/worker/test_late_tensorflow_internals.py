"""On JAX Keras imports no TensorFlow to seed and to serialize, and TensorFlow has its seed if it is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import forks
import pytest

CODE = """
import importlib.util, os, random, sys
import keras, numpy as np
import renames
from search.worker.capabilities import lines_of_off
from search.worker.keras_session import seeded, session
from search.worker.late_tensorflow_internals import serialize_without_import

def draw():
    return random.random(), np.random.rand(), keras.random.uniform((2,)).tolist()

def with_tensorflow():
    import tensorflow as tf
    assert type(tf.__loader__) is type(keras.__loader__) and tf.__spec__.loader is tf.__loader__
    return draw(), [float(tf.random.normal(())) for _ in range(2)]

if os.fork() == 0:  # the name has gone
    renames.hide("keras.src.utils.rng_utils.tf")
    serialize_without_import()
    with session(5):
        assert "tensorflow" in sys.modules
        print(*lines_of_off(), sep="|", flush=True)
    os._exit(0)
os.wait()
serialize_without_import()
adam = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 9), name="adam")
with seeded(4), session(5):
    found = draw()
    serialized = keras.saving.serialize_keras_object(adam)
    assert "tensorflow" not in sys.modules
    importlib.util.find_spec("tensorflow")  # to look for it is no import
with session(5):
    once = with_tensorflow()
import tensorflow as tf
assert keras.saving.serialize_keras_object(adam) == serialized
written = [keras.saving.serialize_keras_object(each) for each in (tf.float32, tf.TensorShape((1, None)))]
assert written == ["float32", [1, None]], written
keras.utils.set_random_seed(5)
assert draw() == found, (draw(), found)
keras.utils.set_random_seed(5)
assert with_tensorflow() == once
with session(5):
    assert with_tensorflow() == once
print("equal")
"""


@pytest.mark.slow
def test_on_jax_tensorflow_is_seeded_when_the_users_code_imports_it() -> None:
    paths = os.pathsep.join([str(Path(forks.__file__).parent), *sys.path])
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    lines, equal = done.stdout.splitlines()
    off = [line.partition(" is off, as Keras")[0] for line in lines.split("|")]
    assert {"seeding without TensorFlow", "serialization without TensorFlow"} <= set(off)
    assert equal == "equal"
