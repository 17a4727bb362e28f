"""Configurations that the user's code or a limit refuses before their first epoch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Command
from mlflow import MlflowClient

import search

SPACE = """
import keras
import numpy as np

import search

def load_data():
    x = np.random.default_rng(0).normal(size=(48, 3)).astype("float32")
    y = x.sum(1, keepdims=True)
    return (x[:32], y[:32]), (x[32:], y[32:])


def build_model(hp):
    units = hp.Int("units", 2, 9, default=9)
    if units % 2:
        raise search.Infeasible(f"{units} is odd")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(hp.Float("rate", 1e-3, 1e-1, sampling="log")), "mse")
    return model


def refuse(epoch, logs):
    if LATE and epoch > 0:
        raise search.Infeasible("late")


def callbacks(hp):
    return [keras.callbacks.LambdaCallback(on_epoch_begin=refuse)]
"""
WEIGHTS_OF_6 = 6 * 3 + 6 + 6 + 1


@pytest.fixture(scope="module")
def searched(zygote: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a study whose configurations with odd `units`, or more than 6, are infeasible."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "space.py").write_text("LATE = False\n" + SPACE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("search.executors.selection.shared_zygote", zygote)
        patch.chdir(folder)
        options = {"backend": "hyperband", "max_epochs": 3, "max_weights": WEIGHTS_OF_6, "seed": 1, "workers": 2}
        search.run("space.py", progress=False, **options)
    return folder


def test_infeasible_trials_cost_nothing_and_leave_no_gap(searched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(searched)
    study = search.load_study("space")
    infeasible = [trial for trial in study.trials if trial.state == "infeasible"]
    trained = [trial for trial in study.trials if trial.state != "infeasible"]
    for trial in infeasible:
        units = trial.params["units"]
        assert isinstance(units, int)
        reason = f"{units} is odd" if units % 2 else "the model has 41 weights, more than the 31 of --max-weights"
        assert (trial.error, trial.epochs, trial.objective) == (reason, 0, None)
    assert {trial.params["units"] for trial in trained} <= {2, 4, 6}
    assert {trial.params["units"] for trial in infeasible} >= {8}
    # Hyperband's plan for three epochs: 3 trials of one epoch, the best of them and 2 more of three.
    assert sorted(trial.epochs for trial in trained) == [1, 1, 3, 3, 3]
    assert study.study.end is not None
    assert study.study.end.exit_code == 0
    assert study.best_trials(99) == sorted(trained, key=lambda trial: trial.objective or 0)


def test_infeasible_trials_are_shown_as_that(searched: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(searched)
    rows = json.loads(command("trials", "space", "--json").out)
    number, reason = next((row["trial"], row["error"]) for row in rows if row["state"] == "infeasible")
    assert f"infeasible: {reason}" in command("show", "space", number).out
    status = command("status", "space").out
    count = sum(row["state"] == "infeasible" for row in rows)
    assert f" {count} infeasible" in status
    assert "11/11 epochs" in status
    assert "fail" not in status
    client = MlflowClient(f"sqlite:///{searched}/runs/mlflow.db")
    run = client.get_run(rows[number]["mlflow_run_id"])
    tags = {name: run.data.tags[f"search.{name}"] for name in ("state", "error")}
    assert (run.info.status, tags) == ("FINISHED", {"state": "infeasible", "error": reason})


def test_a_trial_that_has_trained_fails_if_it_is_refused(workplace: Path) -> None:
    (workplace / "space.py").write_text("LATE = True\n" + SPACE)
    options = {"backend": "hyperband", "max_epochs": 3, "max_weights": WEIGHTS_OF_6, "seed": 1, "workers": 1}
    study = search.run("space.py", progress=False, **options)
    late = [trial for trial in study.trials if trial.error == "late"]
    assert late
    assert all(trial.state == "failed" and trial.epochs == 1 for trial in late)


def test_a_space_without_a_feasible_configuration_is_refused(workplace: Path, command: Command) -> None:
    (workplace / "space.py").write_text("LATE = False\n" + SPACE.replace("if units % 2:", "if units:"))
    done = command("run", "space.py")
    assert done.code == 2
    assert "20 configurations were built, that of the default values first, and each was rejected: " in done.err
    assert not (workplace / "runs" / "space" / "journal.jsonl").exists()
