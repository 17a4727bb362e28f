"""MLflow's autologging in a space file: the probe leaves no run, and a line says that fused epochs bypass it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

import search
from search.worker.autologging import BYPASSED

SPACE = """
import keras
import mlflow
import numpy as np

mlflow.set_tracking_uri("sqlite:///{folder}/own.db")
mlflow.set_experiment("own")
mlflow.autolog()

def load_data():
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    return (x, x.sum(1)), (x[:16], x[:16].sum(1))

def build_model(hp):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(hp.Int("units", 1, 9)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model
"""


@pytest.mark.slow
def test_autologging_gets_no_run_of_the_probe_nor_of_fused_epochs(
    workplace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (workplace / "space.py").write_text(SPACE.replace("{folder}", str(workplace)))
    search.run("space.py", max_trials=2, max_epochs=1, workers=1, progress=False)
    with sqlite3.connect(workplace / "own.db") as database:
        assert database.execute("select name from experiments where name = 'own'").fetchall() == [("own",)]
        assert database.execute("select name, status from runs").fetchall() == []
    assert capfd.readouterr().err.count(BYPASSED.partition("; --no-fuse")[0]) == 1
