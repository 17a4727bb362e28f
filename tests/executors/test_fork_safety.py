"""The decision whether this process may be forked: pure, and on processes that have done what scripts do."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import forks
import pytest

from search.executors.fork_safety import ProcessFacts, why_different, why_unsafe

SAFE = ProcessFacts(keras_backend="tensorflow", native_unnamed=2, blas_threads=2)


def test_a_process_that_has_only_imported_is_safe() -> None:
    assert why_unsafe(SAFE) is None
    assert why_unsafe(SAFE, "tensorflow") is None
    assert why_unsafe(replace(SAFE, keras_backend=None), "jax") is None
    assert why_different(SAFE) is None


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (replace(SAFE, platform="darwin"), "only Linux"),
        (replace(SAFE, interactive=True), "notebook"),
        (replace(SAFE, traced=True), "debugger"),
        (replace(SAFE, main_thread=False), "a thread of this one"),
        (replace(SAFE, python_threads=("watcher",)), r"started threads \(watcher\)"),
        (replace(SAFE, gpu_files=True), "opened a GPU"),
        (replace(SAFE, native_threads=("tf_Compute",)), "^TensorFlow is running"),
        (replace(SAFE, native_threads=("tf_XLAEigen",), keras_backend="jax"), "^JAX is running"),
        (replace(SAFE, native_threads=("grpc_poll",)), r"started threads in this one \(grpc_poll\)"),
        (replace(SAFE, native_unnamed=3), "without a name"),
    ],
)
def test_anything_else_is_not(facts: ProcessFacts, words: str) -> None:
    assert re.search(words, str(why_unsafe(facts)))


def test_keras_with_another_back_end_is_not_safe() -> None:
    assert why_unsafe(SAFE, "jax") == "this one has imported Keras with tensorflow, and the search is for jax"


def test_tensorflow_without_onednn_gives_other_results() -> None:
    assert "oneDNN" in str(why_different(replace(SAFE, onednn=False)))
    assert why_unsafe(replace(SAFE, onednn=False)) is None


TELL = """
import sys
from pathlib import Path
from search.executors.fork_safety import process_facts, why_unsafe
Path(sys.argv[1]).write_text(str(why_unsafe(process_facts())))
"""


def told(templates: forks.Templates, folder: Path, code: str) -> str:
    """Return what a process that has imported Keras, and run `code`, says of itself."""
    command = ["python", "-c", code + TELL, str(folder / "told")]
    process = forks.start(templates.address("keras"), command)
    assert process.wait(60) == 0
    return (folder / "told").read_text()


@pytest.mark.parametrize(
    "code",
    [
        "",
        "import keras; keras.utils.set_random_seed(1); keras.mixed_precision.set_dtype_policy('mixed_float16')\n",
        "import tensorflow as tf; tf.random.set_seed(1); tf.config.list_physical_devices()\n",
        "import numpy as np; a = np.ones((500, 500)); a @ a; np.linalg.inv(a + np.eye(500))\n",
        "import scipy.linalg, numpy as np; scipy.linalg.inv(np.ones((300, 300)) + np.eye(300))\n",
        "import keras_tuner, pandas, sklearn.metrics\n",
    ],
)
def test_imports_seeds_and_arrays_are_safe(templates: forks.Templates, tmp_path: Path, code: str) -> None:
    assert told(templates, tmp_path, code) == "None"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import keras; keras.optimizers.Adam()\n", "TensorFlow is running"),
        ("import tensorflow as tf; tf.data.Dataset.range(2)\n", "TensorFlow is running"),
        ("import keras; keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])\n", "TensorFlow is running"),
        ("import tensorflow as tf; tf.constant(1)\n", "TensorFlow is running"),
        (
            "import sklearn.cluster, numpy as np; sklearn.cluster.KMeans(3).fit(np.random.rand(3000, 5))\n",
            "libraries have started threads in this one (without a name)",
        ),
        (
            "import threading; threading.Thread(target=threading.Event().wait, name='mine', daemon=True).start()\n",
            "this one has started threads (mine)",
        ),
        ("import sys; sys.settrace(lambda *_: None)\n", "a debugger watches this one"),
    ],
)
def test_what_starts_threads_is_not(templates: forks.Templates, tmp_path: Path, code: str, words: str) -> None:
    assert words in told(templates, tmp_path, code)


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("jax", "import keras; keras.utils.set_random_seed(1)\n", "None"),
        ("jax", "import jax.numpy as jnp; jnp.ones(2)\n", "JAX is running in this one"),
        ("torch", "import torch; torch.manual_seed(1); torch.ones(3)\n", "None"),
        ("torch", "import torch; a = torch.ones(2000, 2000); a @ a\n", "libraries have started threads"),
    ],
)
@pytest.mark.slow
def test_other_frameworks_sleep_until_they_compute(tmp_path: Path, name: str, code: str, words: str) -> None:
    set_backend = f"import os; os.environ['KERAS_BACKEND'] = {name!r}; import keras\n"
    subprocess.run([sys.executable, "-c", set_backend + code + TELL, str(tmp_path / "told")], check=True, timeout=120)
    assert words in (tmp_path / "told").read_text()
