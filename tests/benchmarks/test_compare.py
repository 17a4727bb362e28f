"""The benchmark of real searches: its spaces of streams, and the GPU's utilisation, without a GPU."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks/contenders"))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import common
import compare
import processes

SPACES = compare.HERE / "spaces"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
@pytest.mark.parametrize("name", ["stream", "pydataset"])
def test_the_contenders_train_on_streams_of_the_same_samples(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())  # spaces import each other
    space = common.load_space(SPACES / f"{name}.py")
    arrays, streams = common.load_space(SPACES / "mlp.py").load_data(), space.load_data()
    for (x, y), stream in zip(arrays, streams, strict=True):
        batches = [stream[i] for i in range(len(stream))] if name == "pydataset" else list(stream)
        assert [len(batch[0]) for batch in batches] == [32] * (len(x) // 32) + [len(x) % 32]
        found = np.concatenate([np.column_stack(batch) for batch in batches])
        assert sorted(found.tolist()) == sorted(np.column_stack([x, y]).tolist())
    hp = common.RecordedHp({"layers": 1, "units_0": 16, "activation": "relu", "dropout": 0.0, "lr": 0.01})
    model = space.build_model(hp)
    model.run_eagerly = True  # nothing is traced
    steps = {"steps_per_epoch": 2, "validation_steps": 1}
    train, validation = streams
    history = model.fit(
        *common.inputs(train), validation_data=validation, verbose=0, **steps, **space.fit_options(hp)
    ).history
    assert list(history) == ["accuracy", "loss", "val_accuracy", "val_loss"]
    assert common.inputs(arrays[0]) is arrays[0]


@pytest.mark.parametrize(
    ("name", "names"), [("scalars", "dropout l2 lr beta_1 beta_2"), ("large_batch", "width dropout lr")]
)
def test_the_spaces_for_jax_can_be_trained(name: str, names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import keras_tuner

    monkeypatch.setattr(sys, "path", sys.path.copy())
    space, hp = common.load_space(SPACES / f"{name}.py"), keras_tuner.HyperParameters()
    model = space.build_model(hp)
    model.run_eagerly = True
    assert list(hp.values) == names.split()
    (x, y), (x_validation, y_validation) = space.load_data()
    assert x.dtype == x_validation.dtype == "float32"
    model.evaluate(x_validation[:8], y_validation[:8], verbose=0)
    assert model.train_on_batch(x[:8], y[:8])[0] > 0


@pytest.mark.slow
def test_the_gpus_utilisation_is_that_during_the_search(tmp_path: Path) -> None:
    numbers = itertools.chain([None], itertools.count(10.0))
    command = [sys.executable, "-c", "import time; time.sleep(1.2)"]
    ran = processes.run(command, {}, tmp_path, 30, lambda: next(numbers))
    assert ran.code == 0
    assert [used for _, used in ran.samples] == [10.0 + number for number in range(len(ran.samples))]
    assert len(ran.samples) >= 1
    assert all(time.time() - 30 < moment <= time.time() for moment, _ in ran.samples)
    assert processes.run([*command[:2], "pass"], {}, tmp_path, 30).samples == ()
    samples = [(1.0, 0.0), (2.0, 40.0), (3.0, 60.0), (4.5, 5.0)]
    assert compare.utilisation(samples, 2.0, 2.0) == 50
    assert compare.utilisation(samples, 5.0, 2.0) is None


def test_the_driver_is_asked_for_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    output = "GPU-1, 87\nGPU-2, [N/A]\n\n"
    assert processes.parse_utilisation(output, "GPU-1") == (87.0,)
    assert processes.parse_utilisation(output, "GPU-2") == processes.parse_utilisation("", "GPU-1") == ()

    class Nvml:
        def nvmlDeviceGetHandleByUUID(self, uuid: bytes) -> str:
            return uuid.decode()

        def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
            return argparse.Namespace(gpu={"GPU-1": 93}[handle], memory=5)

    monkeypatch.setattr(processes, "ask_nvml", lambda question: tuple(question(Nvml())))
    assert processes.gpu_sampler("GPU-1")() == 93.0
    monkeypatch.setattr(processes, "ask_nvml", lambda question: None)
    monkeypatch.setattr(processes, "run_smi", lambda query: output)
    assert processes.gpu_sampler("GPU-1")() == 87.0
    assert processes.gpu_sampler("GPU-2")() is None


def row(contender: str, search: float, **more: Any) -> dict[str, Any]:
    figures = {"command": search + 5, "imports": 4.0, "search": search, "trials": 3, "epochs": 9, "best": 0.9}
    return {"contender": contender, "memory": 100, **figures, **more}


@pytest.mark.parametrize("gpu", [False, True])
def test_the_table_has_a_column_for_the_gpu_only_on_a_gpu(gpu: bool) -> None:
    given = argparse.Namespace(contenders=["ours", "fit", "arithmetic"], workers=2, gpu=gpu)
    rows = [row("ours", 2.0, utilisation=61.6), row("ours", 2.0, utilisation=70.0), row("fit", 8.0)]
    lines = compare.table(rows, given).splitlines()
    assert len(lines) == 4  # streams have no arithmetic
    assert ("GPU %" in lines[0]) == gpu
    assert lines[2].endswith("| 1.00 | 1.00 | 66 |" if gpu else "| 1.00 | 1.00 |")
    assert lines[3].endswith("| 4.00 | 1.86 | - |" if gpu else "| 4.00 | 1.86 |")
    assert {line.count("|") for line in lines} == {len(compare.COLUMNS) + 1 + gpu}


def test_contenders_without_a_meaning_for_a_space_do_not_run() -> None:
    assert [space for space in compare.MAX_EPOCHS if not compare.applies("arithmetic", space)] == [
        "stream",
        "pydataset",
    ]
    assert all(compare.applies("fit", space) for space in compare.MAX_EPOCHS)
    assert all((SPACES / f"{space}.py").exists() for space in compare.MAX_EPOCHS)
