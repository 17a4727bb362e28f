"""The removal of a study from a real MLflow store: its own runs, and nothing of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from by_hand import SEARCH_ENDED, completed_trial, shown_runs, study_start
from commands import Command
from stores import BreakingClient, WriteStudy, local_address, sync

from search.errors import Unavailable
from search.tracking.mlflow import store
from search.tracking.mlflow.removal import delete_runs, find_runs

pytestmark = pytest.mark.usefixtures("unflushed")

UID, OTHER = "0123456789abcdef", "fedcba9876543210"


def write_both(write: WriteStudy, **options: Any) -> Any:
    """Ship two studies of two trials each. Return a client of their store."""
    for name, uid in (("digits", UID), ("other", OTHER)):
        records = [*study_start(name, uid), *completed_trial(0, [0.5]), *completed_trial(1, [0.6]), SEARCH_ENDED]
        paths = write(records, name)
        sync(paths, **options)
    return store.connect(local_address(paths.folder.parent))


def test_the_studys_runs_and_its_own_experiment_go(write: WriteStudy, runs: Path, command: Command) -> None:
    client = write_both(write)
    others = shown_runs(client, OTHER)
    outcome = command("rm", "digits", "--yes", "--runs", runs)
    assert outcome.code == 0, outcome.err
    assert "3 runs in MLflow at sqlite:///" in outcome.out
    assert "mlflow gc" in outcome.err
    assert shown_runs(client, UID) == {}
    assert client.get_experiment_by_name("digits").lifecycle_stage == "deleted"
    assert shown_runs(client, OTHER) == others
    assert not (runs / "digits").exists()


def test_an_experiment_with_others_runs_stays(write: WriteStudy) -> None:
    client = write_both(write)
    experiment = client.get_experiment_by_name("digits").experiment_id
    mine = client.create_run(experiment, run_name="a run of my own").info.run_id
    found = find_runs(client, UID)
    assert (found.own, found.shared) == (None, ("digits",))
    assert delete_runs(found) == ["experiment digits stays: it has other runs, or was made by others"]
    assert client.get_run(mine).info.lifecycle_stage == "active"
    assert client.get_experiment(experiment).lifecycle_stage == "active"
    assert f"mlflow.sharedViewState.search-{UID}" not in client.get_experiment(experiment).tags
    assert shown_runs(client, UID) == {}


def test_an_experiment_that_somebody_else_made_stays(write: WriteStudy, runs: Path) -> None:
    client = store.connect(local_address(runs))
    client.create_experiment("ours", str(runs / "mlartifacts"))
    write_both(write, experiment="ours")
    others = shown_runs(client, OTHER)
    delete_runs(find_runs(client, UID))
    assert client.get_experiment_by_name("ours").lifecycle_stage == "active"
    assert (shown_runs(client, UID), shown_runs(client, OTHER)) == ({}, others)


def test_a_removal_that_breaks_is_finished_by_the_next(write: WriteStudy) -> None:
    client = write_both(write)
    found = find_runs(BreakingClient(client, 2, "done", "delete_run"), UID)
    with pytest.raises(Unavailable):
        delete_runs(found)
    again = find_runs(client, UID)
    assert len(again.run_ids) == 1
    delete_runs(again)
    assert shown_runs(client, UID) == {}


def test_a_registered_model_stays_and_can_be_loaded(write: WriteStudy) -> None:
    client = write_both(write)
    found = find_runs(client, UID)
    run = client.get_run(found.run_ids[-1])
    logged = client.create_logged_model(
        run.info.experiment_id, name="digits", source_run_id=run.info.run_id, tags={"search.study_uid": UID}
    )
    client.finalize_logged_model(logged.model_id, "READY")
    client.create_registered_model("digits")
    client.create_model_version(
        "digits", source=logged.artifact_location, run_id=run.info.run_id, tags={"search.study_uid": UID},
        model_id=logged.model_id,
    )  # fmt: skip
    lines = delete_runs(find_runs(client, UID))
    assert lines[0] == "registered model digits version 1 stays"
    assert client.get_logged_model(logged.model_id).model_id == logged.model_id
    assert client.get_experiment(run.info.experiment_id).lifecycle_stage == "active"
