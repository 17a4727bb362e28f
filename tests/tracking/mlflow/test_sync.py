"""`search sync` after real searches: after an outage, and into an empty store."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from by_hand import shown_runs
from places import SLOW, TINY
from stores import Server, wait_until

import search
from search import cli
from search.driver import prepared
from search.results.study_results import StudyResults
from search.study.paths import StudyPaths
from search.tracking.mlflow import store

OPTIONS: dict[str, Any] = {
    "backend": "hyperband",
    "seed": 0,
    "workers": 1,
    "progress": False,
    "objective": "val_accuracy",
}


def check(uri: str, study: StudyResults) -> None:
    """Assert that the store has exactly the study's runs, with one point for each metric of each epoch."""
    seen = shown_runs(store.connect(uri), study.study.uid)
    assert sorted(seen) == sorted([study.study.name, *(f"trial-{trial.number:04d}" for trial in study.trials)])
    for trial in study.trials:
        run = seen[f"trial-{trial.number:04d}"]
        assert run["status"] == ("FAILED" if trial.state == "failed" else "FINISHED")
        assert run["params"].items() >= {name: str(value) for name, value in trial.params.items()}.items()
        for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
            points = [(step, value) for step, _, value in run["points"][name]]
            assert points == [(epoch.epoch, epoch.logs[name]) for epoch in trial.curve]
        assert [step for step, _, _ in run["points"]["objective"]] == [epoch.epoch for epoch in trial.curve]
    assert seen[study.study.name]["status"] == "FINISHED"


# A server that comes and goes -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_search_goes_on_without_its_server_and_a_sync_sends_the_rest(
    workplace: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prepared, "SYNC_SECONDS", 1.0)
    shutil.copy(SLOW, workplace / "space.py")
    options = {**OPTIONS, "tracking_uri": server.uri, "study": "s"}
    journal = StudyPaths.of("runs", "s").journal

    def trained() -> int:
        return journal.read_bytes().count(b'"kind":"epoch_done"') if journal.exists() else 0

    def kill_in_the_middle() -> None:
        wait_until(lambda: trained() >= 3, 120)
        client = store.connect(server.uri)
        wait_until(lambda: client.search_experiments(filter_string="name = 's'"), 60)
        (experiment,) = client.search_experiments(filter_string="name = 's'")
        wait_until(lambda: client.search_runs([experiment.experiment_id]), 60)
        server.kill()

    killer = threading.Thread(target=kill_in_the_middle)
    killer.start()
    # The search ends although the server stays away: training does not wait.
    study = search.run("space.py", max_trials=6, **options)
    killer.join()
    assert len(study.trials) == 6
    output = capfd.readouterr().err
    assert output.count("is out of reach") == 1
    words = ["sync", "s", "--tracking-uri", server.uri]
    assert cli.main(words) == 2
    output = capfd.readouterr().err
    assert output.startswith(f"search: MLflow at {server.uri} is out of reach (")
    assert output.count("\n") == 1

    starter = threading.Timer(0.5, server.start)  # while the search goes on
    starter.start()
    study = search.run("space.py", max_trials=10, resume=True, **options)
    starter.join()
    assert len(study.trials) > 6
    for _ in range(2):
        assert cli.main(words) == 0
        check(server.uri, study)
    (ours,), (theirs,) = study.get_best_models(), search.get_best_models("s", tracking_uri=server.uri, trust_code=True)
    assert all(np.array_equal(a, b) for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True))


# An empty store -------------------------------------------------------------------------------------------------------


def content(file: Path) -> dict[str, list[Any]]:
    """Return the rows of a store's tables, sorted, without random values and times of the upload."""
    queries = {
        "runs": "SELECT name, status, start_time, end_time, lifecycle_stage FROM runs",
        "metrics": "SELECT name, key, value, timestamp, step FROM metrics JOIN runs USING (run_uuid)",
        "params": "SELECT name, key, value FROM params JOIN runs USING (run_uuid)",
        "tags": "SELECT name, key, value FROM tags JOIN runs USING (run_uuid) WHERE key != 'mlflow.parentRunId'",
        "experiments": "SELECT name, lifecycle_stage FROM experiments",
        "pages": "SELECT key, value FROM experiment_tags",
        "models": "SELECT name, status, lifecycle_stage FROM logged_models",
        "model metrics": "SELECT metric_name, metric_value, metric_timestamp_ms, metric_step FROM logged_model_metrics",
        "versions": "SELECT name, version, status FROM model_versions",
        "aliases": "SELECT name, alias, version FROM registered_model_aliases",
    }
    with closing(sqlite3.connect(file)) as connection:
        found = {name: sorted(connection.execute(query).fetchall()) for name, query in queries.items()}
        runs = connection.execute("SELECT run_uuid, name FROM runs").fetchall()
    # A page names the run of the best trial by its id.
    for id_, name in runs:
        found["pages"] = [(key, value.replace(id_, name)) for key, value in found["pages"]]
    return found


def artifacts(folder: Path) -> list[str]:
    """Return the files' folders and names, without the names of runs and models."""
    return sorted("/".join(file.relative_to(folder).parts[-2:]) for file in folder.rglob("*") if file.is_file())


@pytest.mark.slow
def test_a_sync_rebuilds_the_whole_experiment_in_an_empty_store(
    workplace: Path, pristine: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = workplace / "runs", workplace / "second"
    for folder in (first, second):
        folder.mkdir()
        shutil.copyfile(pristine, folder / "mlflow.db")
    study = search.run(TINY, study="t", max_epochs=4, factor=2, max_trials=5, **OPTIONS, tracking_uri=None)
    before, files = content(first / "mlflow.db"), artifacts(first / "mlartifacts")
    assert len(before["runs"]) == 6
    assert before["versions"] == [("t", 1, "READY")]
    # Only the study's own folder is left to build the experiment from.
    aside = workplace / "aside"
    aside.mkdir()
    for path in (*first.glob("mlflow.db*"), first / "mlartifacts"):
        path.rename(aside / path.name)
    ours = study.get_best_models(3)  # here the framework may write to stderr, when it is imported
    capfd.readouterr()

    elsewhere = f"sqlite:///{second}/mlflow.db"
    for _ in range(2):
        assert cli.main(["sync", "t", "--tracking-uri", elsewhere]) == 0
        assert content(second / "mlflow.db") == before
        assert artifacts(second / "mlartifacts") == files
    check(elsewhere, study)
    theirs = search.get_best_models("t", 3, tracking_uri=elsewhere)
    assert len(theirs) == 3
    for one, two in zip(ours, theirs, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one.get_weights(), two.get_weights(), strict=True))

    for path in list(aside.iterdir()):
        path.rename(first / path.name)
    for _ in range(2):
        assert cli.main(["sync", "t"]) == 0
        assert content(first / "mlflow.db") == before
        assert artifacts(first / "mlartifacts") == files
    assert capfd.readouterr().err == ""
