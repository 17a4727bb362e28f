"""The syncer with real MLflow stores: their content, and the effects of crashes and outages."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from by_hand import (
    SEARCH_ENDED,
    completed_trial,
    epochs,
    eventful_search,
    header,
    reached,
    requested,
    shown_runs,
    started,
    study_start,
)
from stores import BreakingClient, Server, WriteStudy, local_address, make_runs, sync, wait_until

from search.errors import Unavailable
from search.study.journal import read_all
from search.study.paths import StudyPaths, local_store
from search.study.records import (
    BackendChanged,
    Built,
    Checkpointed,
    EpochDone,
    SearchEnded,
    SearchStarted,
    SegmentEnded,
    SpaceChanged,
    TrialEnded,
)
from search.tracking.mlflow import feed, store, syncer
from search.tracking.mlflow.position import Position
from search.tracking.mlflow.retrieve import download_weights, find_remote_study, rank_remote_trials
from search.tracking.mlflow.syncer import Syncer

pytestmark = pytest.mark.usefixtures("unflushed")

# Content --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory, pristine: Path) -> StudyPaths:
    """Return a study whose eventful search was sent to a local store without any error. Tests only read it."""
    paths = WriteStudy(make_runs(tmp_path_factory.mktemp("shipped") / "runs", pristine))(eventful_search())
    assert sync(paths) == []
    return paths


def shown_in_store(paths: StudyPaths) -> dict[str, Any]:
    """Return the study's runs in the local store; see `shown_runs`."""
    return shown_runs(store.connect(local_address(paths.folder.parent)))


def test_a_study_is_a_parent_run_and_each_trial_a_run(shipped: StudyPaths) -> None:
    seen = shown_in_store(shipped)
    assert sorted(seen) == ["digits", *(f"trial-{number:04d}" for number in range(5))]

    parent = seen["digits"]
    assert parent["params"] == {"seed": "7", "max_epochs": "9", "factor": "3"}
    assert parent["tags"].items() >= {
        "search.kind": "study", "search.study_uid": "0123456789abcdef", "search.backend": "hyperband",
        "search.objective": "val_accuracy", "search.direction": "max", "search.seed": "7", "search.best_trial": "0",
        "search.digest": "digest-1", "search.state": "interrupted", "search.reason": "interrupted",
        "mlflow.user": "me", "mlflow.source.name": "/home/me/digits.py", "mlflow.source.type": "LOCAL",
    }.items()  # fmt: skip
    assert [point[2] for point in parent["points"]["objective"]] == [0.5, 0.6, 0.6, 0.7, 0.8]

    promoted = seen["trial-0000"]
    assert promoted["params"] == {"units": "8", "relu": "True"}
    assert [(step, value) for step, _, value in promoted["points"]["val_accuracy"]] == [
        (1, 0.5), (2, 0.6), (3, 0.65), (4, 0.8),
    ]  # fmt: skip
    assert [value for _, _, value in promoted["points"]["objective"]] == [0.5, 0.6, 0.65, 0.8]
    assert promoted["points"]["best_epoch"][-1][2] == 4
    assert promoted["tags"].items() >= {
        "search.trial": "0", "search.trial_key": "0123456789abcdef/0", "search.state": "completed",
        "search.bracket": "2", "search.rung": "1", "search.seed": "100", "search.weights": "1234",
        "search.runner": "fused", "search.epochs": "4", "search.backend": "hyperband",
    }.items()  # fmt: skip
    assert promoted["times"][0] < promoted["points"]["loss"][0][1] < promoted["times"][1]

    assert {name: (run["status"], run["tags"]["search.state"]) for name, run in seen.items()} == {
        "digits": ("FINISHED", "interrupted"),
        "trial-0000": ("FINISHED", "completed"),
        "trial-0001": ("FAILED", "failed"),
        "trial-0002": ("FINISHED", "completed"),
        "trial-0003": ("FINISHED", "stopped"),
        "trial-0004": ("FINISHED", "paused"),
    }
    assert seen["trial-0001"]["tags"]["search.error"] == "ValueError: units are odd"


def test_a_trials_run_is_a_child_of_the_parent_run(shipped: StudyPaths) -> None:
    client, position = store.connect(local_address(shipped.folder.parent)), Position.load(shipped.tracking)
    for run_id in position.trials.values():
        assert client.get_run(run_id).data.tags["mlflow.parentRunId"] == position.run_id
    assert position.offset == shipped.journal.stat().st_size


def test_the_parent_run_has_the_space_file(write: WriteStudy, runs: Path) -> None:
    paths = write(study_start())
    (paths.space / "__pycache__").mkdir()
    (paths.space / "__pycache__" / "layers.pyc").write_text("")
    sync(paths)
    client = store.connect(local_address(runs))
    run_id = Position.load(paths.tracking).run_id
    repository = store.run_artifacts(client, client.get_run(run_id))
    assert {item.path for item in repository.list_artifacts("space")} == {"space/digits.py", "space/layers.py"}
    (paths.space / "layers.py").write_text("WIDTH = 2\n")
    write([SpaceChanged("digest-2", header().parameters)])
    (paths.space / "layers.py").write_text("WIDTH = 2\n")
    sync(paths)
    assert "WIDTH = 2" in Path(repository.download_artifacts("space/layers.py")).read_text()
    assert json.loads(Path(repository.download_artifacts("study.json")).read_text())["digest"] == "digest-2"


def test_a_black_box_has_no_epochs(write: WriteStudy, runs: Path) -> None:
    box = Built(0, 7, "black box: begins anew for each segment", own_fit=True, black_box=True)
    done = EpochDone(0, 0, 9, {"val_accuracy": 0.5}, 1.0, trained=9)
    start = [header(), BackendChanged("optuna", {}), SearchStarted("h", 1, {})]
    assert sync(write([*start, *requested(0, 0, 9), box, done, SEARCH_ENDED])) == []
    client = store.connect(local_address(runs))
    seen = shown_runs(client)
    assert seen["trial-0000"]["points"].keys() == {"val_accuracy", "objective"}
    assert not any("search.epochs" in run["tags"] for run in seen.values())
    (trial,) = rank_remote_trials(find_remote_study(client, "digits"))
    assert (trial.objective, trial.best_epoch, trial.epochs) == (0.5, None, None)


def test_values_that_mlflow_refuses_are_changed_to_fit(write: WriteStudy, runs: Path) -> None:
    nan, inf = float("nan"), float("inf")
    logs = {"f1@5": 0.5, "a//b": 0.25, "loss": nan, "val_accuracy": inf}
    long = BackendChanged("optuna", {"note": "x" * 7000, **{f"option{i}": i for i in range(230)}})
    records = [header(), long, SearchStarted("h", 1, {}), *requested(0, 0, 3), EpochDone(0, 0, 1, logs, 0.1)]
    assert sync(write([*records, *epochs(0, [0.5], 1), SEARCH_ENDED])) == []
    seen = shown_runs(store.connect(local_address(runs)))
    assert len(seen["digits"]["params"]) == 232
    assert len(seen["digits"]["params"]["note"]) == 6000
    assert seen["trial-0000"]["points"].keys() == {"f1_5", "a__b", "loss", "val_accuracy", "objective", "best_epoch"}
    assert [step for step, _, _ in seen["trial-0000"]["points"]["loss"]] == [2]
    assert seen["trial-0000"]["tags"]["search.nonfinite"] == "loss,val_accuracy"


def test_more_points_than_fit_into_one_request(write: WriteStudy, runs: Path) -> None:
    assert sync(write([*study_start(), *requested(0, 0, 700), *epochs(0, [0.5] * 700), SEARCH_ENDED])) == []
    points = shown_runs(store.connect(local_address(runs)))["trial-0000"]["points"]
    assert {name: len(history) for name, history in points.items()} == dict.fromkeys(points, 700)


def test_options_of_a_later_backend_phase_have_names_of_their_own(write: WriteStudy, runs: Path) -> None:
    sync(
        write(
            [
                *study_start(),
                SEARCH_ENDED,
                BackendChanged("optuna", {"factor": 4}),
                SearchStarted("h", 2, {}),
                SEARCH_ENDED,
            ]
        )
    )
    parent = shown_runs(store.connect(local_address(runs)))["digits"]
    assert parent["params"].items() >= {"factor": "3", "phase1/factor": "4"}.items()
    assert parent["tags"]["search.backend"] == "optuna"


# States ---------------------------------------------------------------------------------------------------------------


def test_a_run_is_running_while_its_trial_is_open_and_no_run_after_the_end(write: WriteStudy, runs: Path) -> None:
    paths = write(
        [*study_start(), *completed_trial(0, [0.5]), *requested(1, 0, 3), *epochs(1, [0.4]), *requested(2, 0, 3)]
    )
    client = store.connect(local_address(runs))

    def status() -> dict[str, str]:
        sync(paths)
        return {name: run["status"] for name, run in shown_runs(client).items()}

    running = {"digits": "RUNNING", "trial-0000": "FINISHED", "trial-0001": "RUNNING", "trial-0002": "RUNNING"}
    assert status() == running
    write([SearchEnded("interrupted", False, 130)])
    assert set(status().values()) == {"FINISHED"}
    write([SearchStarted("host", 2, {}), started(1, 1, 3)])
    assert status() == {**running, "trial-0002": "FINISHED"}
    # The process was killed.
    write([SearchStarted("host", 3, {})])
    assert status() == {**dict.fromkeys(running, "FINISHED"), "digits": "RUNNING"}
    write([SearchEnded("no trial has an objective", True, 1)])
    assert status()["digits"] == "FAILED"


def test_a_later_sync_ends_the_runs_of_a_killed_search(write: WriteStudy, runs: Path) -> None:
    paths = write([*study_start(), *requested(0, 0, 3), *epochs(0, [0.4])])
    for _ in range(2):
        Syncer(paths, local_address(runs), warn=print).drain(dead=True)
        seen = shown_runs(store.connect(local_address(runs)))
        assert {run["status"] for run in seen.values()} == {"FINISHED"}
        # They end at the time of the last record, whenever the sync runs.
        assert {run["times"][1] for run in seen.values()} == {seen["trial-0000"]["points"]["loss"][-1][1]}
    assert seen["digits"]["tags"]["search.state"] == "interrupted"
    write([SearchStarted("host", 3, {}), started(0, 1, 3)])
    sync(paths)
    assert {run["status"] for run in shown_runs(store.connect(local_address(runs))).values()} == {"RUNNING"}


# Crashes --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def expected(write: WriteStudy, shipped: StudyPaths) -> dict[str, Any]:
    """Write the eventful search, which is not sent yet, and return what the store has of `shipped`."""
    write(eventful_search())
    return shown_in_store(shipped)


def empty_store(runs: Path) -> dict[str, Any]:
    """Delete the content of the store, and return it."""
    client = store.connect(local_address(runs))
    seen = shown_runs(client)
    with closing(sqlite3.connect(local_store(runs))) as connection, connection:
        for table in ("metrics", "latest_metrics", "params", "tags", "runs", "experiment_tags"):
            connection.execute(f"DELETE FROM {table}")
        connection.execute("DELETE FROM experiments WHERE experiment_id != 0")
    shutil.rmtree(runs / "mlartifacts")
    return seen


@pytest.mark.slow
@pytest.mark.parametrize(
    "forget", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["goes-on", "tracking.json-lost"]
)
def test_a_crash_at_any_record_changes_nothing(
    forget: bool, write: WriteStudy, runs: Path, expected: dict[str, Any]
) -> None:
    journal = StudyPaths.of(runs, "digits").journal
    lines = journal.read_bytes().splitlines(keepends=True)
    for cut in range(1, len(lines), 3):
        paths = StudyPaths.of(runs, "digits")
        paths.tracking.unlink(missing_ok=True)
        journal.write_bytes(b"".join(lines[:cut]) + lines[cut][:10])  # the process died while it wrote a line
        sync(paths)
        journal.write_bytes(b"".join(lines))
        if forget:
            paths.tracking.unlink()
        sync(paths)
        assert empty_store(runs) == expected, f"cut after line {cut}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("effect", "killed", "method"),
    [
        *(("none", False, ""), ("done", False, ""), ("done", True, "")),
        *(("late", False, "create_run"), ("late", True, "create_run")),
        *(("late", False, "create_experiment"), ("late", True, "create_experiment")),
    ],
    ids=[
        *("unheard", "unanswered", "unanswered, then killed", "made twice", "killed, then made twice"),
        *("experiment made late", "killed, then experiment made late"),
    ],
)
def test_a_broken_connection_at_any_request_changes_nothing(
    effect: str,
    killed: bool,
    method: str,
    write: WriteStudy,
    runs: Path,
    expected: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = StudyPaths.of(runs, "digits")
    real = store.connect(local_address(runs))
    for at in range(1, 100):
        paths.tracking.unlink(missing_ok=True)
        client = BreakingClient(real, at, effect, method)
        with monkeypatch.context() as patch:
            patch.setattr(store, "connect", lambda uri, client=client: client)
            follower = Syncer(paths, local_address(runs), warn=pytest.fail)
            try:
                follower.drain()
            except Unavailable:
                (Syncer(paths, local_address(runs), warn=pytest.fail) if killed else follower).drain()
        assert empty_store(runs) == expected, f"broken at request {at}"
        if not client.has_broken:
            assert at > {"create_run": 6, "create_experiment": 1}.get(method, 20)
            return
    pytest.fail("the connection always broke")


def test_an_emptied_store_is_filled_again(write: WriteStudy, runs: Path) -> None:
    paths = write(eventful_search())
    sync(paths)
    before = empty_store(runs)
    sync(paths)
    assert shown_runs(store.connect(local_address(runs))) == before


def test_a_new_study_in_the_same_folder_gets_new_runs(write: WriteStudy, runs: Path) -> None:
    paths = write(eventful_search())
    sync(paths)
    paths.journal.unlink()
    write([*study_start(uid="fedcba9876543210"), *completed_trial(0, [0.9]), SEARCH_ENDED])
    sync(paths)
    client = store.connect(local_address(runs))
    assert len(shown_runs(client)) == 6
    assert len(shown_runs(client, "fedcba9876543210")) == 2


# Experiments ----------------------------------------------------------------------------------------------------------


def experiment_names(runs: Path) -> set[str]:
    return {item.name for item in store.connect(local_address(runs)).search_experiments()} - {"Default"}


def test_two_studies_of_one_name_have_experiments_of_their_own(write: WriteStudy, runs: Path) -> None:
    sync(write(study_start()))
    shutil.rmtree(StudyPaths.of(runs, "digits").folder)
    sync(write(study_start(uid="fedcba9876543210")))
    assert experiment_names(runs) == {"digits", "digits-fedcba"}


def test_an_experiment_that_no_study_owns_is_joined_only_if_the_user_named_it(write: WriteStudy, runs: Path) -> None:
    client = store.connect(local_address(runs))
    team = client.create_experiment("team", artifact_location=str(runs / "mlartifacts" / "team"))
    client.create_experiment("digits")
    sync(write(study_start()))
    sync(write(study_start("mnist", "fedcba9876543210"), "mnist"), experiment="team")
    assert experiment_names(runs) == {"digits", "digits-012345", "team"}
    assert [run.data.tags["search.study"] for run in client.search_runs([team])] == ["mnist"]
    sync(write(study_start("iris", "aaaaaaaaaaaaaaaa"), "iris"), experiment="digits-012345")
    assert experiment_names(runs) == {"digits", "digits-012345", "team", "digits-012345-aaaaaa"}


# Weights --------------------------------------------------------------------------------------------------------------


def uploaded_weights(paths: StudyPaths) -> dict[int, bytes]:
    """Return the weights in MLflow, by trial."""
    client = store.connect(local_address(paths.folder.parent))
    found = {}
    for number, run_id in Position.load(paths.tracking).trials.items():
        repository = store.run_artifacts(client, client.get_run(run_id))
        files = {item.path for item in repository.list_artifacts("model")}
        if files:
            assert files == {"model/weights.npz", "model/trial.json"}
            found[number] = Path(repository.download_artifacts("model/weights.npz")).read_bytes()
    return found


def test_the_weights_in_mlflow_follow_the_ranking(write: WriteStudy) -> None:
    paused = [*requested(0, 0, 1), *epochs(0, [0.1]), *reached(0, 1, 1, 0.1)]
    paths = write([*study_start(), *paused, *completed_trial(1, [0.2]), *requested(2, 0, 1), *epochs(2, [0.9])])
    sync(paths, keep_models=2)
    assert uploaded_weights(paths) == {0: b"weights of 0/1", 1: b"weights of 1/1"}  # trial 2's are not on disk yet
    write([*reached(2, 1, 1, 0.9), *completed_trial(3, [0.05])])
    sync(paths, keep_models=2)
    assert uploaded_weights(paths) == {1: b"weights of 1/1", 2: b"weights of 2/1"}
    write([*requested(0, 1, 3, 1), *epochs(0, [0.15, 0.95], 1), *reached(0, 3, 3, 0.95)])
    paths.tracking.unlink()  # the runs' tags say which weights there are
    sync(paths, keep_models=2)
    assert uploaded_weights(paths) == {2: b"weights of 2/1", 0: b"weights of 0/3"}
    study = find_remote_study(store.connect(local_address(paths.folder.parent)), "digits")
    best = rank_remote_trials(study)[0]
    assert (best.number, best.objective, best.best_epoch, best.model_epoch) == (0, 0.95, 3, 3)
    weights, description = download_weights(study, best, paths.folder / "down")
    assert weights.read_bytes() == b"weights of 0/3"
    assert description["params"] == {"units": 8, "relu": True}
    assert (description["objective"], description["best_epoch"]) == (0.95, 3)


def test_a_failed_trial_is_not_the_best_any_more(write: WriteStudy) -> None:
    paths = write(
        [*study_start(), *completed_trial(0, [0.1]), *requested(1, 0, 2), *epochs(1, [0.9]), Checkpointed(1, 0, 1, 1)]
    )
    sync(paths, keep_models=1)
    assert list(uploaded_weights(paths)) == [1]
    write([SegmentEnded(1, 0, "failed", 1, "loss is NaN"), TrialEnded(1, "failed")])
    sync(paths, keep_models=1)
    assert list(uploaded_weights(paths)) == [0]
    parent = shown_runs(store.connect(local_address(paths.folder.parent)))["digits"]
    assert parent["tags"]["search.best_trial"] == "0"
    assert parent["points"]["objective"][-1][2] == 0.1


def test_deleted_weights_are_no_error(write: WriteStudy) -> None:
    paths = write([*study_start(), *completed_trial(0, [0.1])])
    shutil.rmtree(paths.trials)
    assert sync(paths) == []
    assert uploaded_weights(paths) == {}


# The thread -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [feed.CAPACITY, 3], ids=["queued", "dropped"])
def test_the_thread_follows_a_search(
    capacity: int, write: WriteStudy, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "CAPACITY", capacity)
    paths = write(study_start())
    warnings: list[str] = []
    follower = Syncer(paths, local_address(runs), warn=warnings.append)
    follower.start()
    for record in eventful_search()[3:]:
        write([record], follower=follower)
        time.sleep(0.005)
    assert follower.finish(60)
    assert warnings == []
    seen = shown_runs(store.connect(local_address(runs)))
    assert len(seen) == 6
    assert [step for step, _, _ in seen["trial-0000"]["points"]["loss"]] == [1, 2, 3, 4]
    assert "RUNNING" not in {run["status"] for run in seen.values()}
    assert sorted(uploaded_weights(paths)) == [0, 2, 4]
    assert Position.load(paths.tracking).offset == paths.journal.stat().st_size


def test_entries_that_the_thread_is_told_need_no_file(write: WriteStudy, runs: Path) -> None:
    paths = write(study_start())
    follower = Syncer(paths, local_address(runs), warn=pytest.fail)
    follower.start()
    client = store.connect(local_address(runs))
    wait_until(lambda: "digits" in shown_runs(client))
    write([*completed_trial(0, [0.5]), SEARCH_ENDED])
    entries = read_all(paths.journal)
    paths.journal.unlink()
    follower.take(entries[len(study_start()) :])
    assert follower.finish(60)
    assert shown_runs(client)["trial-0000"]["tags"]["search.state"] == "completed"
    assert Position.load(paths.tracking).offset == entries[-1].end


def test_a_server_out_of_reach_is_one_warning_and_the_end_is_not_delayed(
    write: WriteStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, attempts = store.connect, []

    def counted(uri: str) -> Any:
        attempts.append(uri)
        return connect(uri)

    monkeypatch.setattr(syncer, "RETRY_SECONDS", (0.1, 0.2))
    monkeypatch.setattr(store, "connect", counted)
    warnings: list[str] = []
    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{bound.getsockname()[1]}"
        follower = Syncer(write(eventful_search()), uri, warn=warnings.append)
        follower.start()
        wait_until(lambda: len(attempts) > 3)
        before = len(attempts)
        assert not follower.finish(1.0)
    assert len(attempts) - before <= syncer.LAST_TRIES
    assert len(warnings) == 1
    assert "out of reach" in warnings[0]


def test_a_run_that_its_user_deleted_is_one_warning_and_the_others_go_on(write: WriteStudy, runs: Path) -> None:
    paths = write([*study_start(), *requested(0, 0, 2), *requested(1, 0, 2)])
    warnings: list[str] = []
    follower = Syncer(paths, local_address(runs), warn=warnings.append)
    follower.drain()
    client = store.connect(local_address(runs))
    client.delete_run(Position.load(paths.tracking).trials[0])
    write([*epochs(0, [0.5, 0.6]), *epochs(1, [0.4])])
    follower.drain()
    write([*epochs(0, [0.5], 2), *epochs(1, [0.5], 1), SEARCH_ENDED])
    follower.drain()
    assert len(warnings) == 1
    assert "trial 0" in warnings[0]
    seen = shown_runs(client)
    assert sorted(seen) == ["digits", "trial-0001"]
    assert [step for step, _, _ in seen["trial-0001"]["points"]["loss"]] == [1, 2]
    assert {run["status"] for run in seen.values()} == {"FINISHED"}


# A real server --------------------------------------------------------------------------------------------------------


def test_mlflow_gets_a_tenth_of_a_processor_and_is_at_most_ten_seconds_late() -> None:
    assert [syncer.pause_seconds(used) for used in (0.0, 0.02, 0.2, 60.0)] == [0.5, 0.5, 2.0, 10.0]


@pytest.mark.slow
def test_a_server_killed_and_restarted_in_the_middle_gets_every_point_once(
    write: WriteStudy,
    server: Server,
    uid: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(syncer, "MAX_PAUSE", 0.01)
    monkeypatch.setattr(syncer, "MODELS_INTERVAL", 0.1)
    monkeypatch.setattr(syncer, "RETRY_SECONDS", (0.2, 0.5))
    paths = write(study_start(uid=uid))
    warnings: list[str] = []
    follower = Syncer(paths, server.uri, warn=warnings.append)
    follower.start()
    for number in range(12):
        write(completed_trial(number, [0.01 * number + 0.001 * step for step in range(1, 6)]), follower=follower)
        if number == 5:
            wait_until(lambda: Position.load(paths.tracking).trials)
            server.kill()
        if number == 8:
            wait_until(lambda: warnings)
            server.start()
    write([SEARCH_ENDED], follower=follower)
    assert follower.finish(90)
    assert len(warnings) == 1
    assert "out of reach" in warnings[0]

    client = store.connect(server.uri)
    seen = shown_runs(client, uid)
    assert len(seen) == 13
    assert {run["status"] for run in seen.values()} == {"FINISHED"}
    for number in range(12):
        points = seen[f"trial-{number:04d}"]["points"]
        assert [step for step, _, _ in points.pop("seconds_per_epoch")] == [5]
        assert [value for _, _, value in points.pop("last_epoch")] == [5]
        assert points.keys() == {"loss", "val_accuracy", "objective", "best_epoch"}
        for history in points.values():
            assert [step for step, _, _ in history] == [1, 2, 3, 4, 5]
    study = find_remote_study(client, uid)
    models = [trial for trial in rank_remote_trials(study) if trial.model_epoch is not None]
    assert [trial.number for trial in models] == [11, 10, 9]
    weights, description = download_weights(study, models[0], tmp_path / "down")
    assert weights.read_bytes() == b"weights of 11/5"
    assert description["params"] == {"units": 19, "relu": False}
    repository = store.run_artifacts(client, client.get_run(rank_remote_trials(study)[5].run_id))
    assert repository.list_artifacts("model") == []
    assert capfd.readouterr() == ("", "")
