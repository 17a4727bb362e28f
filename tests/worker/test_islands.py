"""Private names that disappear: training goes on with the results of plain `fit`, and a line says what is off."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import forks
import pytest
from places import SPACES

import search.worker.runners.tensorflow.epochs  # noqa: F401  # imports all islands that train on TensorFlow
from search.worker import keras_internals
from search.worker.capabilities import CAPABILITIES, Capability, describe_off, lines_of_off, public_calls_only
from search.worker.runners.tensorflow import internals as tensorflow_internals

SPACE = """
import keras
import numpy as np
from keras import layers

RNG = np.random.default_rng(0)
X, Y = RNG.random((64, 4)).astype("float32"), RNG.integers(0, 3, 64).astype("int32")


def load_data():
    return (X[:48], Y[:48]), (X[48:], Y[48:])


def build_model(hp):
    inputs = keras.Input((4,))
    x = layers.Dense(hp.Int("units", 4, 9), activation="relu")(inputs)
    x = layers.Dropout(hp.Float("rate", 0.1, 0.5))(x)
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    optimizer = keras.optimizers.Adam(hp.Float("lr", 1e-3, 1e-1))
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
"""

USES = {use: each.name for each in CAPABILITIES for use in each.uses}
"""The private names that the islands use on TensorFlow, each with a capability that needs it."""

KERNELS = ("tensorflow.python.eager.context.pywrap_tfe.TFE_ContextClearCaches",)
VARIABLES = ("keras.optimizers.Optimizer._trainable_variables",)

Train = Callable[..., "Future[dict[str, Any]]"]


@pytest.fixture(scope="module")
def train(templates: forks.Templates, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Yield a function that trains a space in a process of its own, with private names hidden. Two train at once."""
    address = templates.address("worker")
    pool = ThreadPoolExecutor(2)

    def run(space: Path, uses: tuple[str, ...], plainly: bool) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("trained")
        result, arguments = folder / "result.json", ["plainly" if plainly else "fused"]
        command = ["python", "-c", "import renames; renames.main()", str(space), str(folder), "2", *arguments]
        with open(folder / "log", "w") as log:
            forks.start(address, [*command, str(result), *uses], cwd=folder, output=log.fileno()).wait()
        assert result.exists(), (folder / "log").read_text()[-2000:]
        found: dict[str, Any] = json.loads(result.read_text())
        return found

    yield lambda space, *uses, plainly=False: pool.submit(run, space, uses, plainly)
    pool.shutdown(cancel_futures=True)


# Every name on TensorFlow ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(train: Train, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Future[dict[str, Any]]]:
    """Return the training without each name, the plain one as "plainly", and the one with all names as ""."""
    space = tmp_path_factory.mktemp("space") / "space.py"
    space.write_text(SPACE)
    return {
        "plainly": train(space, plainly=True),
        "": train(space),
        **{use: train(space, use) for use in USES},
    }


@pytest.mark.slow
def test_one_graph_trains_all_trials_if_all_names_are_there(trained: dict[str, Future[dict[str, Any]]]) -> None:
    with_all, plainly = trained[""].result(), trained["plainly"].result()
    assert with_all["logs"] == plainly["logs"]
    assert len(plainly["logs"]) == 5
    assert (with_all["graphs"], plainly["graphs"]) == (1, 0)
    assert set(with_all["runners"]) == {"fused"}
    assert set(plainly["runners"]) == {"fit: asked for"}
    assert with_all["lines"] == plainly["lines"] == []


@pytest.mark.slow
@pytest.mark.parametrize("use", USES)
def test_without_a_private_name_results_are_those_of_fit_and_a_line_says_so(
    use: str, trained: dict[str, Future[dict[str, Any]]]
) -> None:
    without = trained[use].result()
    assert without["errors"] == []
    assert without["logs"] == trained["plainly"].result()["logs"]
    off = [line.partition(" is off")[0] for line in without["lines"]]
    assert len(set(off)) == len(off)
    if USES[use] == "global seeds":
        return  # only the process of a script uses it, and no trial
    assert USES[use] in off
    # So does `search show`, which has the runner of each trial.
    assert all(USES[use] in runner for runner in without["runners"])


@pytest.mark.slow
@pytest.mark.parametrize("space", ["digits", "images"])
def test_ready_spaces_train_without_the_names_that_matter_most(space: str, train: Train) -> None:
    path = SPACES / f"{space}.py"
    plainly = train(path, plainly=True)
    others = [train(path, *uses) for uses in (KERNELS, VARIABLES, KERNELS + VARIABLES)]
    for other in others:
        assert other.result()["logs"] == plainly.result()["logs"]
        assert other.result()["errors"] == []
        assert other.result()["lines"]


# All names of the islands ---------------------------------------------------------------------------------------------

ISLANDS = (keras_internals, tensorflow_internals)

RECOGNIZED = {
    *tensorflow_internals.SLOT_ATTRIBUTES,  # an update with other variables is not repeated
    *keras_internals.TRACKING_ATTRIBUTES,  # models with branches share fewer graphs
    "_iterations",
    "_u_product",
    "_class",
    "_omit_frequent_tracing_warning",  # a warning in the log
    "_summary_module",  # new attributes of a callback count as state
    "_writers",
    "_model",
    "_parameters",  # of PyTorch
    "_buffers",
    "_torch_params",
    "_seed",  # of TensorFlow's context; the capability looks for both
    "_rng",
}
"""Private names that are only recognized where they are: without them nothing is off."""


@pytest.mark.parametrize("island", ISLANDS, ids=lambda island: island.__name__.rpartition("search.worker.")[2])
def test_each_private_name_of_an_island_belongs_to_a_capability(island: ModuleType) -> None:
    assert island.__file__ is not None
    listed = {use.rpartition(".")[2] for use in USES} | RECOGNIZED
    for node in ast.walk(ast.parse(Path(island.__file__).read_text())):
        name = ""
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls"):
            name = node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            name = node.value
        elif isinstance(node, ast.ImportFrom) and node.module and ".src" in node.module + ".":
            assert any(use.startswith(node.module) for use in USES), node.module
        if name.startswith("_") and not name.endswith("__"):
            assert name in listed, name


# JAX ------------------------------------------------------------------------------------------------------------------

ON_JAX = """
import os, sys, renames
from search.worker.capabilities import lines_of_off
from search.worker.keras_session import session
from search.worker.runners import model_key
from search.worker.runners.jax.internals import cut_each_batch, own_cuts, unrolled_draws
from search.worker.runners.jax.values_internals import shared_draws
import jax
for use in (None, *own_cuts.uses, *unrolled_draws.uses, *shared_draws.uses):
    sys.stdout.flush()
    if os.fork() == 0:
        if use is not None:
            renames.hide(use)
        cut_each_batch()
        with session(1):
            rolled = "while" in jax.jit(lambda key: jax.random.bits(key, (5,))).lower(jax.random.key(1)).as_text()
        print(use, rolled, *lines_of_off(), sep="|", flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.slow
def test_on_jax_a_line_says_which_capability_is_off() -> None:
    paths = os.pathsep.join([str(Path(forks.__file__).parent), *sys.path])
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", ON_JAX], env=environment, capture_output=True, text=True, check=True)
    found = dict(line.split("|", 1) for line in done.stdout.splitlines())
    assert found.pop("None") == "False"
    assert len(found) == 10
    for use, line in found.items():
        rolled, _, off = line.partition("|")
        if "threefry" not in use and "lowerings" not in use:
            assert rolled == "False"
            assert off.startswith(
                "uneven batches is off, as Keras" if "trainer" in use else "initial values by few programs is off, as"
            )
        else:
            assert rolled == "True"
            assert off.startswith("unrolled random numbers is off, as JAX")


# Capabilities ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def make() -> Any:
    """Yield a function that makes a capability of a test."""
    before = list(CAPABILITIES)

    def make(test: Callable[[], bool], *, for_speed: bool = False) -> Capability:
        return Capability(
            test, name="a thing", without="another", uses=(), packages=lambda: "Keras 9", for_speed=for_speed
        )

    yield make
    CAPABILITIES[:] = before


def test_a_capability_is_tested_once(make: Any) -> None:
    calls = []
    thing = make(lambda: not calls.append(1))
    assert thing.works
    assert thing.works
    assert calls == [1]
    assert lines_of_off() == []
    assert describe_off("fused") == "fused"


@pytest.mark.parametrize("error", [AttributeError, ImportError, TypeError, RecursionError])
def test_an_exception_of_the_test_turns_a_capability_off(make: Any, error: type[Exception]) -> None:
    def fail() -> bool:
        raise error("the name has gone")

    make(fail)
    make(lambda: False)  # of the same name
    assert lines_of_off() == ["a thing is off, as Keras 9 has other internals: another"]
    assert describe_off("fused") == "fused (off: a thing)"


def test_public_calls_only_leaves_out_what_is_there_for_speed(make: Any) -> None:
    quick, needed = make(lambda: True, for_speed=True), make(lambda: True)
    with public_calls_only():
        assert not quick.works
        assert needed.works
        with public_calls_only(False):
            assert not quick.works
        assert lines_of_off() == []  # it is not off, it is not wanted
    assert quick.works
    with public_calls_only(False):
        assert quick.works
