"""Keras on JAX and on PyTorch: real trainings that are disturbed and resumed, and the retrieval of models.

All other tests train with TensorFlow.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

import search
from search import cli
from search.devices.slots import Slot
from search.executors.local import LocalExecutor
from search.executors.zygotes import Zygote
from search.messages import Interrupt, Probe, Probed, Segment, Verdict
from search.space.file import SpaceRef
from search.study import journal
from search.study.records import Built, EpochDone, SegmentEnded
from search.study.trial import Objective
from search.testing import Conversation

pytestmark = pytest.mark.slow  # two more frameworks to import, and JAX compiles every model

SPACE = """
import os
import signal
from pathlib import Path

import keras
import numpy as np
from keras import layers

import search


def load_data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 8)).astype("float32")
    y = (x[:, 0] * x[:, 1] > 0).astype("int32")
    return (x[:60], y[:60]), (x[60:], y[60:])


def build_model(hp):
    model = keras.Sequential([
        keras.Input((8,)),
        layers.GaussianNoise(0.1),
        layers.Dense(hp.Int("units", 8, 16), activation="relu"),
        layers.BatchNormalization(),
        layers.Dropout(0.3),
        layers.Dense(2, activation="softmax"),
    ])
    rate = hp.Float("rate", 1e-3, 1e-1, sampling="log")
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


class Fate(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        # `stop`: Ctrl-C for the driver in the first epoch. `kill`: the worker of a promoted trial dies, once.
        if self.once("stop"):
            os.kill(int(os.environ["DRIVER"]), signal.SIGINT)
        if epoch == 2 and self.once("kill"):
            os.kill(os.getpid(), signal.SIGKILL)

    def once(self, name):
        order = Path(__file__).with_name(name)
        if not order.exists():
            return False
        order.unlink()
        return True


def callbacks(hp):
    return [Fate(), keras.callbacks.ReduceLROnPlateau(monitor="val_loss", patience=1, factor=0.5)]


search_options = dict(backend="hyperband", max_epochs=4, factor=4, max_trials=3, objective="val_loss")
"""

OPTIONS = {"seed": 0, "workers": 1, "progress": False}


@dataclass(frozen=True)
class Site:
    """A folder with a space file, and a zygote whose Keras runs on `backend`."""

    backend: str
    folder: Path
    zygote: Zygote

    def run(self, study: str, **options: Any) -> search.StudyResults:
        arguments = {**OPTIONS, "keras_backend": self.backend, "runs": str(self.folder / "runs"), **options}
        return search.run(self.folder / "space.py", study=study, **arguments)

    def python(self, code: str, *arguments: object) -> str:
        """Run `code` in a new process without a choice of Keras's backend, and return its last line of output."""
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=self.folder,
            env={name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module", params=["jax", "torch"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"needs {request.param}")
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "space.py").write_text(SPACE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRIVER", str(os.getpid()))
        patch.setenv("TMPDIR", str(folder))
        patch.chdir(folder)
        patch.setenv("OPENBLAS_NUM_THREADS", "1")
        zygote = Zygote(folder / "zygote.log", request.param)
        patch.setattr("search.executors.selection.shared_zygote", zygote)
        yield Site(request.param, folder, zygote)
        zygote.close()
        assert not compiled(folder), "the zygote deletes JAX's compiled programs when it ends"


def compiled(folder: Path) -> list[Path]:
    """Return the files that JAX has compiled for the workers of a zygote."""
    return list(folder.glob("search-jax-*/*"))


@pytest.fixture(scope="module")
def whole(site: Site) -> search.StudyResults:
    """Run an undisturbed search."""
    return site.run("whole")


def history(study: search.StudyResults) -> list[Any]:
    return [
        (trial.number, trial.params, trial.state, [(epoch.epoch, dict(epoch.logs)) for epoch in trial.curve])
        for trial in study.trials
    ]


@pytest.mark.core
def test_a_search_on_another_keras_backend(whole: search.StudyResults, site: Site) -> None:
    assert whole.study.versions["keras_backend"] == site.backend
    assert whole.study.versions[site.backend]
    built = [entry.record for entry in journal.read(whole.paths.journal) if isinstance(entry.record, Built)]
    assert {record.runner for record in built} == {"fused" if site.backend == "jax" else "fit: Keras runs on torch"}
    assert sorted(trial.epochs for trial in whole.trials) == [1, 1, 4]
    assert all(trial.progress.trained == trial.epochs for trial in whole.trials)
    assert bool(compiled(site.folder)) == (site.backend == "jax")


@pytest.mark.core
def test_a_killed_and_stopped_search_has_the_same_results(whole: search.StudyResults, site: Site) -> None:
    for name in ("kill", "stop"):
        (site.folder / name).touch()
    with pytest.raises(KeyboardInterrupt, match="stopped by the user"):
        site.run("disturbed")
    stopped = search.load_study("disturbed", site.folder / "runs")
    assert not (site.folder / "stop").exists()
    assert stopped.study.epochs < whole.study.epochs
    resumed = site.run("disturbed", resume=True)
    assert not (site.folder / "kill").exists()
    ends = [entry.record for entry in journal.read(stopped.paths.journal) if isinstance(entry.record, SegmentEnded)]
    assert [end.outcome for end in ends].count("lost") == 1
    assert history(resumed) == history(whole)


def executor_of(site: Site, threads: int = 1) -> LocalExecutor:
    slot = Slot(0, (), tuple(range(os.cpu_count() or 1)), threads, "CPU")
    return LocalExecutor([slot], site.folder / "log", zygote=site.zygote)


def segment(folder: Path, trial: int, from_epoch: int = 0, *, to_epoch: int = 4, judged: bool = False) -> Segment:
    return Segment(
        trial=trial,
        execution=0,
        space=SpaceRef(path=str(folder / "space.py")),
        values={"units": 9, "rate": 0.02},
        seed=7,
        from_epoch=from_epoch,
        to_epoch=to_epoch,
        objective=Objective("val_loss", "min"),
        folder=str(folder / f"trial-{trial}"),
        judged=judged,
    )


STATE = """

class Tools:
    pass


def train_tools(tools):
    tools.net(np.ones((1, 2), "float32"))
    tools.optimizer.apply([keras.ops.ones((2, 1)) * keras.random.uniform((), seed=tools.seeds)], [tools.net.kernel])
    tools.numbers = tools.numbers + 1
    if hasattr(tools, "raw"):
        import torch

        tools.raw(torch.ones((4, 2)) * float(tools.net.kernel[0, 0]))  # its statistics are buffers
        tools.kept.add_(1)
        loss = ((tools.raw.weight - 3) ** 2).sum()
        tools.raw_optimizer.zero_grad()
        loss.backward()
        tools.raw_optimizer.step()
        return float(tools.raw.running_mean[0] + tools.raw.weight[0] + tools.kept[0])
    return 0.0


class Train(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        tools = self.model.tools[0]
        logs["raw"] = train_tools(tools)
        logs["steps"], logs["kernel"] = int(tools.optimizer.iterations), float(tools.net.kernel[0, 0])
        logs["numbers"] = float(tools.numbers[0])


build_stock_model = build_model


def build_model(hp):
    model = build_stock_model(hp)
    tools = Tools()
    tools.net = layers.Dense(1)
    tools.net.build((None, 2))
    tools.optimizer = keras.optimizers.Adam(0.1)
    tools.seeds, tools.numbers = keras.random.SeedGenerator(3), keras.ops.zeros((2,))
    if keras.config.backend() == "torch":
        import torch

        tools.raw, tools.kept = torch.nn.BatchNorm1d(2), torch.zeros(1)
        tools.raw_optimizer = torch.optim.Adam(tools.raw.parameters())
    model.tools = (tools,)
    return model


def callbacks(hp):
    return [Train()]
"""


def test_state_that_keras_does_not_track_continues(site: Site, tmp_path: Path) -> None:
    (tmp_path / "space.py").write_text(SPACE + STATE)
    curves = []
    with contextlib.closing(executor_of(site)) as executor:
        for trial, cuts in enumerate([(0, 4), (0, 2, 3, 4)]):
            curves.append([])
            for begin, end in itertools.pairwise(cuts):
                conversation = Conversation(executor).run(segment(tmp_path, trial, begin, to_epoch=end))
                assert conversation.end.outcome == "reached", conversation.end
                assert "Notice" not in conversation.kinds, conversation.messages
                curves[-1] += conversation.curve
    assert curves[0] == curves[1]
    assert [logs["steps"] for logs in curves[0]] == [logs["numbers"] for logs in curves[0]] == [1, 2, 3, 4]
    assert len({logs["kernel"] for logs in curves[0]}) == 4


def test_a_training_continues_with_the_same_bits_in_another_process(site: Site) -> None:
    def react(message: EpochDone) -> Verdict | Interrupt:
        return Interrupt() if message.epoch == 2 else Verdict(False)

    first, second = executor_of(site), executor_of(site)
    try:
        curve = Conversation(first).run(segment(site.folder, 0)).curve
        before = Conversation(first, react=react).run(segment(site.folder, 1, judged=True))
        assert (before.end.outcome, before.end.epoch) == ("interrupted", 2)
        after = Conversation(second).run(segment(site.folder, 1, 2))
        assert first.pids() != second.pids()
        assert before.curve + after.curve == curve
    finally:
        first.close()
        second.close()


def test_nothing_runs_in_the_zygote_before_it_forks(whole: search.StudyResults, site: Site) -> None:
    """XLA's client and PyTorch's pools start threads, and a forked child that needs their locks would hang."""
    assert psutil.Process(site.zygote.pid).num_threads() <= 5


def test_compiled_programs_stay_in_their_folder(site: Site) -> None:
    if site.backend == "torch":
        pytest.skip("PyTorch compiles nothing")
    kept = site.folder / "kept"
    slot = Slot(0, (), tuple(range(os.cpu_count() or 1)), 1, "CPU")
    executor = LocalExecutor([slot], site.folder / "log", site.backend, kept)
    Conversation(executor).run(segment(site.folder, 10, to_epoch=1))
    executor.close()
    assert list(kept.glob("jax-*/*"))


def test_a_worker_computes_with_its_slots_threads(site: Site) -> None:
    counts = []
    for threads in (1, 4):
        executor = executor_of(site, threads)
        Conversation(executor).run(segment(site.folder, threads, to_epoch=1))
        counts.append(psutil.Process(executor.pids()[0]).num_threads())
        executor.close()
    assert counts[0] < counts[1]


SHAPES = """
import functools
from pathlib import Path

import keras
import numpy as np
from keras import layers


def load_data():
    with Path(__file__).with_name("loads").open("a") as file:
        file.write("loaded\\n")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 8)).astype("float32")
    y = (x[:, 0] > 0).astype("int32")
    return (x[:60], y[:60]), (x[60:], y[60:])


@functools.cache
def shared():
    return layers.Dense(7, name="shared")


def build_model(hp):
    kind = hp.Choice("kind", ["linear", "deep"])
    stack = [layers.Flatten()] if OPEN else [keras.Input((8,)), layers.Flatten()]
    if kind == "deep":
        stack += [shared()] if KEEP else []
        stack += [layers.Dense(hp.Int(f"units_{i}", 16, 256, sampling="log")) for i in range(hp.Int("layers", 1, 2))]
        stack += [layers.Dense(hp.Int("rounded", 32, 256) // 32 * 32)]
    stack += [layers.Dropout(hp.Float("dropout", 0.0, 0.5)), layers.Dense(2, activation="softmax")]
    model = keras.Sequential(stack)
    rate = hp.Float("rate", 1e-3, 1e-1, sampling="log")
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def fit_options(hp):
    return {"batch_size": hp.Int("batch_size", 8, 64, step=8) * hp.Int("more", 1, 17)}


search_options = dict(backend="optuna", max_epochs=1, max_trials=1, try_first=[{"kind": "deep"}])
"""


def test_hyperparameters_that_change_shapes_are_named_on_jax(
    site: Site, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if site.backend != "jax":
        pytest.skip("nothing is compiled")
    space = tmp_path / "space.py"
    space.write_text("OPEN = KEEP = False\n" + SHAPES)
    with contextlib.closing(executor_of(site)) as executor:
        for asked in (True, False):
            probed = executor.probe(Probe(SpaceRef(path=str(space)), shapes=asked))
            assert isinstance(probed, Probed), probed
            names = [parameter.name for parameter in probed.shape_parameters]
            assert names == (["more", "units_0", "units_1"] if asked else [])
    assert (tmp_path / "loads").read_text() == "loaded\n"
    # A layer that a traced build has made outlives it: the worker runs the file anew.
    space.write_text("OPEN = KEEP = True\n" + SHAPES)
    runs = ("--runs", str(tmp_path / "runs"), "--workers", "1", "--no-progress")
    said = []
    for command in (("run", str(space), "--study", "kept", "--keras-backend", "jax"), ("resume", "kept")):
        assert cli.main([*command, *runs]) == 0
        said.append([line for line in capfd.readouterr().err.splitlines() if line.startswith("JAX: ")])
    assert said == [
        [
            "JAX: units_0 has 241 values, each compiles anew; step=2 would leave 5",
            "JAX: units_1 has 241 values, each compiles anew; step=2 would leave 5",
            "JAX: more has 17 values, each compiles anew; step=2 would leave 9",
        ],
        [],
    ]
    (trial,) = search.load_study("kept", tmp_path / "runs").trials
    assert (trial.state, trial.params["kind"]) == ("completed", "deep")


ELSEWHERE = """
import json, sys
import search
from search.space.file import SpaceRef, read_space

folder, = sys.argv[1:]
models = {"runs": search.get_best_models("whole", runs=folder + "/runs")}
models["store"] = search.get_best_models("whole", tracking_uri=f"sqlite:///{folder}/runs/mlflow.db")
_, (x, y) = read_space(SpaceRef(path=folder + "/space.py")).load_data()
losses = {source: [model.evaluate(x, y, verbose=0)[0] for model in found] for source, found in models.items()}
alone = {"executor": "inline", "workers": 1, "max_total_epochs": 1}
inline = search.run("space.py", study="inline", seed=0, progress=False, **alone)
losses["inline"] = [epoch.logs["val_loss"] for epoch in inline.trials[0].curve]
import keras
print(json.dumps([keras.config.backend(), losses]))
"""


@pytest.mark.core
def test_another_process_retrieves_models_and_searches_inline(whole: search.StudyResults, site: Site) -> None:
    backend, losses = json.loads(site.python(ELSEWHERE, site.folder))
    assert backend == site.backend
    best = [whole.best_trials()[0].objective]
    assert losses["runs"] == pytest.approx(best, abs=1e-5)
    assert losses["store"] == pytest.approx(best, abs=1e-5)
    assert losses["inline"][0] == pytest.approx(whole.trials[0].curve[0].logs["val_loss"], abs=1e-5)


@pytest.mark.usefixtures("forked_checks")
def test_models_are_retrieved_with_another_keras_backend(
    whole: search.StudyResults, site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    from search.space.file import read_space

    note = f"the study ran with Keras on {site.backend}, this process runs it on tensorflow: the weights are the same"
    with pytest.warns(UserWarning, match=note) as warned:
        (model,) = whole.get_best_models()
    assert len(warned) == 1
    _, (x, y) = read_space(whole.space_ref).load_data()
    assert model.evaluate(x, y, verbose=0)[0] == pytest.approx(whole.best_trials()[0].objective, abs=1e-4)
    to = site.folder / "model"
    assert cli.main(["export", "whole", "--to", str(to), "--runs", str(site.folder / "runs")]) == 0
    assert f"note: {note}" in capfd.readouterr().err
    assert (to / "saved_model.pb").exists()
