"""The syncer against real MLflow stores: what is shown, what a crash may do to it, and what an outage."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from by_hand import FINISHED, asked, closed, epochs, failed, header, opening, shown, started, whole

from search.errors import Unavailable
from search.study import records as facts
from search.study.paths import StudyPaths, local_store
from search.study.records import (
    BackendChanged,
    Checkpointed,
    EpochDone,
    Record,
    SearchEnded,
    SearchStarted,
    SegmentEnded,
    SpaceChanged,
    TrialEnded,
)
from search.tracking.mlflow import store, syncer
from search.tracking.mlflow.position import Position
from search.tracking.mlflow.retrieve import download, find_study, ranked
from search.tracking.mlflow.syncer import Syncer

Write = Callable[..., StudyPaths]


def address(runs: Path) -> str:
    return f"sqlite:///{local_store(runs)}"


def sync(paths: StudyPaths, **options: Any) -> list[str]:
    """Ship what is missing; the warnings."""
    warnings: list[str] = []
    Syncer(paths, address(paths.folder.parent), warn=warnings.append, **options).drain()
    return warnings


def story() -> list[Record]:
    """A search with a promotion, a failure, a stop, a resume and an epoch that was trained twice."""
    return [
        *opening(),
        *asked(0, 0, 2), *epochs(0, [0.5, 0.6]), *closed(0, 2, 2, 0.6),
        *failed(1),
        *whole(2, [0.7, 0.4]),
        *asked(0, 2, 4, 1), *epochs(0, [0.65], 2),
        SearchStarted("host", 43, {"workers": 1}),
        started(0, 2, 4), *epochs(0, [0.65, 0.8], 2), *closed(0, 4, 4, 0.8), TrialEnded(0, "completed"),
        *asked(3, 0, 2), *epochs(3, [0.3]), SegmentEnded(3, 0, "stopped", 1), TrialEnded(3, "stopped"),
        *asked(4, 0, 3), *epochs(4, [0.55]), Checkpointed(4, 0, 1, 1), SegmentEnded(4, 0, "interrupted", 1),
        facts.Tested(0, 0, 4, {"accuracy": 0.75}),
        SearchEnded("interrupted", False, 130),
    ]  # fmt: skip


# What is shown --------------------------------------------------------------------------------------------------------


def test_a_study_is_a_parent_run_and_a_trial_one_run(write: Write, runs: Path) -> None:
    assert sync(write(story())) == []
    seen = shown(store.connect(address(runs)))
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
        "search.bracket": "2", "search.rung": "1", "search.seed": "100", "search.parameters": "1234",
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


def test_child_runs_hang_below_the_parent(write: Write, runs: Path) -> None:
    paths = write(story())
    sync(paths)
    client, position = store.connect(address(runs)), Position.load(paths.tracking)
    for run_id in position.trials.values():
        assert client.get_run(run_id).data.tags["mlflow.parentRunId"] == position.run_id
    assert position.offset == paths.journal.stat().st_size


def test_the_space_travels_with_the_parent(write: Write, runs: Path) -> None:
    paths = write(opening())
    (paths.space / "__pycache__").mkdir()
    (paths.space / "__pycache__" / "layers.pyc").write_text("")
    sync(paths)
    client = store.connect(address(runs))
    run_id = Position.load(paths.tracking).run_id
    repository = store.artifacts(client, client.get_run(run_id))
    assert {item.path for item in repository.list_artifacts("space")} == {"space/digits.py", "space/layers.py"}
    (paths.space / "layers.py").write_text("WIDTH = 2\n")
    write([SpaceChanged("digest-2", header().parameters)])
    (paths.space / "layers.py").write_text("WIDTH = 2\n")
    sync(paths)
    assert "WIDTH = 2" in Path(repository.download_artifacts("space/layers.py")).read_text()
    assert json.loads(Path(repository.download_artifacts("study.json")).read_text())["digest"] == "digest-2"


def test_values_that_mlflow_cannot_take_are_made_to_fit(write: Write, runs: Path) -> None:
    nan, inf = float("nan"), float("inf")
    logs = {"f1@5": 0.5, "a//b": 0.25, "loss": nan, "val_accuracy": inf}
    long = BackendChanged("optuna", {"note": "x" * 7000, **{f"option{i}": i for i in range(230)}})
    records = [header(), long, SearchStarted("h", 1, {}), *asked(0, 0, 3), EpochDone(0, 0, 1, logs, 0.1)]
    assert sync(write([*records, *epochs(0, [0.5], 1), FINISHED])) == []
    seen = shown(store.connect(address(runs)))
    assert len(seen["digits"]["params"]) == 232
    assert len(seen["digits"]["params"]["note"]) == 6000
    assert seen["trial-0000"]["points"].keys() == {"f1_5", "a__b", "loss", "val_accuracy", "objective", "best_epoch"}
    assert [step for step, _, _ in seen["trial-0000"]["points"]["loss"]] == [2]
    assert seen["trial-0000"]["tags"]["search.nonfinite"] == "loss,val_accuracy"


def test_more_points_than_one_request_takes(write: Write, runs: Path) -> None:
    assert sync(write([*opening(), *asked(0, 0, 700), *epochs(0, [0.5] * 700), FINISHED])) == []
    points = shown(store.connect(address(runs)))["trial-0000"]["points"]
    assert {name: len(history) for name, history in points.items()} == dict.fromkeys(points, 700)


def test_a_later_era_keeps_its_options_apart(write: Write, runs: Path) -> None:
    sync(write([*opening(), FINISHED, BackendChanged("optuna", {"factor": 4}), SearchStarted("h", 2, {}), FINISHED]))
    parent = shown(store.connect(address(runs)))["digits"]
    assert parent["params"].items() >= {"factor": "3", "era1/factor": "4"}.items()
    assert parent["tags"]["search.backend"] == "optuna"


# States ---------------------------------------------------------------------------------------------------------------


def test_a_run_is_running_while_its_trial_is_and_none_at_the_end(write: Write, runs: Path) -> None:
    paths = write([*opening(), *whole(0, [0.5]), *asked(1, 0, 3), *epochs(1, [0.4]), *asked(2, 0, 3)])
    client = store.connect(address(runs))

    def status() -> dict[str, str]:
        sync(paths)
        return {name: run["status"] for name, run in shown(client).items()}

    running = {"digits": "RUNNING", "trial-0000": "FINISHED", "trial-0001": "RUNNING", "trial-0002": "RUNNING"}
    assert status() == running
    write([SearchEnded("interrupted", False, 130)])
    assert set(status().values()) == {"FINISHED"}
    write([SearchStarted("host", 2, {}), started(1, 1, 3)])
    assert status() == {**running, "trial-0002": "FINISHED"}
    # … killed, without a word.
    write([SearchStarted("host", 3, {})])
    assert status() == {**dict.fromkeys(running, "FINISHED"), "digits": "RUNNING"}
    write([SearchEnded("no trial has an objective", True, 1)])
    assert status()["digits"] == "FAILED"


def test_what_a_killed_search_left_running_is_ended_by_a_later_sync(write: Write, runs: Path) -> None:
    paths = write([*opening(), *asked(0, 0, 3), *epochs(0, [0.4])])
    for _ in range(2):
        Syncer(paths, address(runs), warn=print).drain(dead=True)
        seen = shown(store.connect(address(runs)))
        assert {run["status"] for run in seen.values()} == {"FINISHED"}
        # They ended when the last word was heard of them, whenever it is that this is found out.
        assert {run["times"][1] for run in seen.values()} == {seen["trial-0000"]["points"]["loss"][-1][1]}
    assert seen["digits"]["tags"]["search.state"] == "interrupted"
    write([SearchStarted("host", 3, {}), started(0, 1, 3)])
    sync(paths)
    assert {run["status"] for run in shown(store.connect(address(runs))).values()} == {"RUNNING"}


# Crashes --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def expected(write: Write, runs: Path) -> dict[str, Any]:
    """What the story looks like when nothing goes wrong; the store is empty again afterwards."""
    sync(write(story()))
    return renew(runs)


def renew(runs: Path) -> dict[str, Any]:
    """What the store shows; then it is made empty."""
    client = store.connect(address(runs))
    seen = shown(client)
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
    forget: bool, write: Write, runs: Path, expected: dict[str, Any]
) -> None:
    journal = StudyPaths.of(runs, "digits").journal
    lines = journal.read_bytes().splitlines(keepends=True)
    for cut in range(1, len(lines), 3):
        paths = StudyPaths.of(runs, "digits")
        paths.tracking.unlink()
        journal.write_bytes(b"".join(lines[:cut]) + lines[cut][:10])  # its writer died in a line
        sync(paths)
        journal.write_bytes(b"".join(lines))
        if forget:
            paths.tracking.unlink()
        sync(paths)
        assert renew(runs) == expected, f"cut after line {cut}"


class Shaky:
    """A client of a real store whose connection breaks at one request.

    `effect` says what the store does with that request: "none", "done", or "late", some requests later.
    """

    def __init__(self, client: Any, at: int, effect: str, method: str = "") -> None:
        self._client, self._left, self._effect, self._method = client, at, effect, method
        self._later: list[Callable[[], Any]] = []
        self.broken = False

    def __getattr__(self, name: str) -> Any:
        thing = getattr(self._client, name)
        if not callable(thing):
            return thing

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._later and len(self._later) < 3:
                self._later.append(lambda: None)
            elif self._later:
                self._later.pop(0)()
                self._later.clear()
            self._left -= self._method in ("", name)
            if self._left or self.broken:
                return thing(*args, **kwargs)
            self.broken = True
            if self._effect == "done":
                thing(*args, **kwargs)
            elif self._effect == "late":
                self._later.append(lambda: thing(*args, **kwargs))
            raise ConnectionError("the connection broke")

        return call


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
    write: Write,
    runs: Path,
    expected: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = StudyPaths.of(runs, "digits")
    real = store.connect(address(runs))
    for at in range(1, 100):
        paths.tracking.unlink(missing_ok=True)
        shaky = Shaky(real, at, effect, method)
        with monkeypatch.context() as patch:
            patch.setattr(store, "connect", lambda uri, shaky=shaky: shaky)
            one = Syncer(paths, address(runs), warn=pytest.fail)
            try:
                one.drain()
            except Unavailable:
                (Syncer(paths, address(runs), warn=pytest.fail) if killed else one).drain()
        assert renew(runs) == expected, f"broken at request {at}"
        if not shaky.broken:
            assert at > {"create_run": 6, "create_experiment": 1}.get(method, 20)
            return
    pytest.fail("the connection always broke")


def test_a_store_that_was_wiped_is_filled_again(write: Write, runs: Path) -> None:
    paths = write(story())
    sync(paths)
    before = renew(runs)
    sync(paths)
    assert shown(store.connect(address(runs))) == before


def test_a_new_study_in_the_same_folder_starts_afresh(write: Write, runs: Path) -> None:
    paths = write(story())
    sync(paths)
    paths.journal.unlink()
    write([*opening(uid="fedcba9876543210"), *whole(0, [0.9]), FINISHED])
    sync(paths)
    client = store.connect(address(runs))
    assert len(shown(client)) == 6
    assert len(shown(client, "fedcba9876543210")) == 2


# Experiments ----------------------------------------------------------------------------------------------------------


def names(runs: Path) -> set[str]:
    return {item.name for item in store.connect(address(runs)).search_experiments()} - {"Default"}


def test_two_studies_of_one_name_never_mix(write: Write, runs: Path) -> None:
    sync(write(opening()))
    shutil.rmtree(StudyPaths.of(runs, "digits").folder)
    sync(write(opening(uid="fedcba9876543210")))
    assert names(runs) == {"digits", "digits-fedcba"}


def test_an_experiment_that_no_study_owns_is_joined_only_where_it_is_named(write: Write, runs: Path) -> None:
    client = store.connect(address(runs))
    team = client.create_experiment("team", artifact_location=str(runs / "mlartifacts" / "team"))
    client.create_experiment("digits")
    sync(write(opening()))
    sync(write(opening("mnist", "fedcba9876543210"), "mnist"), experiment="team")
    assert names(runs) == {"digits", "digits-012345", "team"}
    assert [run.data.tags["search.study"] for run in client.search_runs([team])] == ["mnist"]
    sync(write(opening("iris", "aaaaaaaaaaaaaaaa"), "iris"), experiment="digits-012345")
    assert names(runs) == {"digits", "digits-012345", "team", "digits-012345-aaaaaa"}


# Weights --------------------------------------------------------------------------------------------------------------


def held(paths: StudyPaths) -> dict[int, bytes]:
    """The trials whose weights MLflow holds, and those weights."""
    client = store.connect(address(paths.folder.parent))
    found = {}
    for number, run_id in Position.load(paths.tracking).trials.items():
        repository = store.artifacts(client, client.get_run(run_id))
        files = {item.path for item in repository.list_artifacts("model")}
        if files:
            assert files == {"model/weights.npz", "model/trial.json"}
            found[number] = Path(repository.download_artifacts("model/weights.npz")).read_bytes()
    return found


def test_the_best_trials_hold_their_weights_as_the_ranking_changes(write: Write) -> None:
    paths = write([*opening(), *whole(0, [0.1]), *whole(1, [0.2]), *asked(2, 0, 1), *epochs(2, [0.9])])
    sync(paths, keep_models=2)
    assert held(paths) == {0: b"weights of 0/1", 1: b"weights of 1/1"}  # trial 2's are not on disk yet
    write([*closed(2, 1, 1, 0.9), *whole(3, [0.05])])
    sync(paths, keep_models=2)
    assert held(paths) == {1: b"weights of 1/1", 2: b"weights of 2/1"}
    write([*asked(0, 1, 3, 1), *epochs(0, [0.15, 0.95], 1), *closed(0, 3, 3, 0.95)])
    paths.tracking.unlink()  # what is held is known from the runs' tags too
    sync(paths, keep_models=2)
    assert held(paths) == {2: b"weights of 2/1", 0: b"weights of 0/3"}
    study = find_study(store.connect(address(paths.folder.parent)), "digits")
    best = ranked(study)[0]
    assert (best.number, best.objective, best.best_epoch, best.model_epoch) == (0, 0.95, 3, 3)
    weights, said = download(study, best, paths.folder / "down")
    assert weights.read_bytes() == b"weights of 0/3"
    assert (said["params"], said["objective"], said["best_epoch"]) == ({"units": 8, "relu": True}, 0.95, 3)


def test_a_failed_best_trial_loses_its_place(write: Write) -> None:
    paths = write([*opening(), *whole(0, [0.1]), *asked(1, 0, 2), *epochs(1, [0.9]), Checkpointed(1, 0, 1, 1)])
    sync(paths, keep_models=1)
    assert list(held(paths)) == [1]
    write([SegmentEnded(1, 0, "failed", 1, "loss is NaN"), TrialEnded(1, "failed")])
    sync(paths, keep_models=1)
    assert list(held(paths)) == [0]
    parent = shown(store.connect(address(paths.folder.parent)))["digits"]
    assert parent["tags"]["search.best_trial"] == "0"
    assert parent["points"]["objective"][-1][2] == 0.1


def test_weights_that_were_cleaned_away_are_no_error(write: Write) -> None:
    paths = write([*opening(), *whole(0, [0.1])])
    shutil.rmtree(paths.trials)
    assert sync(paths) == []
    assert held(paths) == {}


# The thread -----------------------------------------------------------------------------------------------------------


def test_the_thread_follows_a_growing_journal(write: Write, runs: Path) -> None:
    paths = write(opening())
    warnings: list[str] = []
    one = Syncer(paths, address(runs), warn=warnings.append)
    one.start()
    for record in story()[3:]:
        write([record])
        one.wake()
        time.sleep(0.005)
    assert one.finish(60)
    assert warnings == []
    seen = shown(store.connect(address(runs)))
    assert len(seen) == 6
    assert [step for step, _, _ in seen["trial-0000"]["points"]["loss"]] == [1, 2, 3, 4]
    assert "RUNNING" not in {run["status"] for run in seen.values()}
    assert sorted(held(paths)) == [0, 2, 4]


def test_a_server_out_of_reach_is_one_warning_and_not_all_is_shipped(write: Write) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        warnings: list[str] = []
        one = Syncer(write(story()), f"http://127.0.0.1:{taken.getsockname()[1]}", warn=warnings.append)
        one.start()
        time.sleep(2.5)
        begin = time.monotonic()
        assert not one.finish(1.0)
    assert time.monotonic() - begin < 2
    assert len(warnings) == 1
    assert "out of reach" in warnings[0]


def test_a_run_deleted_by_its_user_is_one_warning_and_the_others_go_on(write: Write, runs: Path) -> None:
    paths = write([*opening(), *asked(0, 0, 2), *asked(1, 0, 2)])
    warnings: list[str] = []
    one = Syncer(paths, address(runs), warn=warnings.append)
    one.drain()
    client = store.connect(address(runs))
    client.delete_run(Position.load(paths.tracking).trials[0])
    write([*epochs(0, [0.5, 0.6]), *epochs(1, [0.4])])
    one.drain()
    write([*epochs(0, [0.5], 2), *epochs(1, [0.5], 1), FINISHED])
    one.drain()
    assert len(warnings) == 1
    assert "trial 0" in warnings[0]
    seen = shown(client)
    assert sorted(seen) == ["digits", "trial-0001"]
    assert [step for step, _, _ in seen["trial-0001"]["points"]["loss"]] == [1, 2]
    assert {run["status"] for run in seen.values()} == {"FINISHED"}


# A real server --------------------------------------------------------------------------------------------------------


class Server:
    """`mlflow server` on this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"),
            *("--port", str(self._port), "--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db"),
            *("--artifacts-destination", str(self._folder / "artifacts")),
        ]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, cwd=self._folder, stdout=log, stderr=log, start_new_session=True
            )
        for _ in range(600):
            with closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            time.sleep(0.2)
        raise TimeoutError((self._folder / "server.log").read_text()[-2000:])

    def signal(self, number: int) -> None:
        """Send a signal to all of its processes."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        if self._process is not None:
            self.signal(9)
            self._process.wait()
            self._process = None


@pytest.fixture
def server(tmp_path: Path, pristine: Path) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copyfile(pristine, folder / "mlflow.db")
    one = Server(folder)
    one.start()
    yield one
    one.kill()


def test_mlflow_gets_a_tenth_of_a_processor_and_is_at_most_ten_seconds_late() -> None:
    assert [syncer.pause(used) for used in (0.0, 0.02, 0.2, 60.0)] == [0.5, 0.5, 2.0, 10.0]


@pytest.mark.slow
def test_a_server_killed_and_restarted_in_the_middle_gets_every_point_once(
    write: Write, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(syncer, "LATEST", 0.01)
    monkeypatch.setattr(syncer, "MODELS_INTERVAL", 0.1)
    paths = write(opening())
    warnings: list[str] = []
    one = Syncer(paths, server.uri, warn=warnings.append)
    one.start()
    for number in range(12):
        write(whole(number, [0.01 * number + 0.001 * step for step in range(1, 6)]))
        one.wake()
        time.sleep(0.1)
        if number == 5:
            server.kill()
            time.sleep(1.5)
        if number == 8:
            server.start()
    write([FINISHED])
    assert one.finish(90)
    assert len(warnings) == 1
    assert "out of reach" in warnings[0]

    client = store.connect(server.uri)
    seen = shown(client)
    assert len(seen) == 13
    assert {run["status"] for run in seen.values()} == {"FINISHED"}
    for number in range(12):
        points = seen[f"trial-{number:04d}"]["points"]
        assert points.keys() == {"loss", "val_accuracy", "objective", "best_epoch"}
        for history in points.values():
            assert [step for step, _, _ in history] == [1, 2, 3, 4, 5]
    study = find_study(client, "digits")
    models = [trial for trial in ranked(study) if trial.model_epoch is not None]
    assert [trial.number for trial in models] == [11, 10, 9]
    weights, said = download(study, models[0], tmp_path / "down")
    assert weights.read_bytes() == b"weights of 11/5"
    assert said["params"] == {"units": 19, "relu": False}
    repository = store.artifacts(client, client.get_run(ranked(study)[5].run_id))
    assert repository.list_artifacts("model") == []
    assert capfd.readouterr() == ("", "")
