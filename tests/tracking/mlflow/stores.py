"""MLflow stores for tests: local ones, a real server, and clients that break."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from by_hand import Clock, completed_trial, shown_runs

from search.study.journal import Journal
from search.study.paths import StudyPaths, local_store
from search.study.records import Checkpointed, Record
from search.tracking.followers import Follower
from search.tracking.mlflow import store
from search.tracking.mlflow.position import Position
from search.tracking.mlflow.syncer import Syncer


def make_runs(folder: Path, pristine: Path) -> Path:
    """Make a folder of studies with an empty local store, a copy of `pristine`. Return it."""
    folder.mkdir()
    shutil.copyfile(pristine, local_store(folder))
    return folder


class WriteStudy:
    """A function that writes a study's folder in `runs`; called again, it appends.

    A follower is told of the new entries, as the driver does it.
    """

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._clock = Clock()

    def __call__(
        self, records: Iterable[Record], study: str = "digits", *, follower: Follower | None = None
    ) -> StudyPaths:
        paths = StudyPaths.of(self._runs, study)
        paths.space.mkdir(parents=True, exist_ok=True)
        (paths.space / "digits.py").write_text("import layers\n")
        (paths.space / "layers.py").write_text("WIDTH = 1\n")
        journal = Journal(paths.journal, self._clock)
        for record in records:
            entries = journal.append([record])
            if isinstance(record, Checkpointed):
                best = paths.trial(record.trial).best(record.execution)
                best.parent.mkdir(parents=True, exist_ok=True)
                best.write_bytes(b"weights of %d/%d" % (record.trial, record.best_epoch or 0))
            if follower is not None:
                follower.take(entries)
        journal.close()
        return paths


def local_address(runs: Path) -> str:
    """Return the tracking address of the local store in `runs`."""
    return f"sqlite:///{local_store(runs)}"


def sync(paths: StudyPaths, **options: Any) -> list[str]:
    """Ship the study's missing entries to the local store. Return the warnings."""
    warnings: list[str] = []
    Syncer(paths, local_address(paths.folder.parent), warn=warnings.append, **options).drain()
    return warnings


def wait_until(condition: Callable[[], Any], seconds: float = 30) -> None:
    """Wait for `condition` to become true."""
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        time.sleep(0.02)
    raise TimeoutError


def wait_until_shipped(paths: StudyPaths) -> None:
    """Wait until the syncer has noted that MLflow has the whole journal. No request disturbs it meanwhile."""
    wait_until(lambda: Position.load(paths.tracking).offset == paths.journal.stat().st_size)


class Server:
    """A process `mlflow server` on this machine, with its store in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, unless it runs, and wait until it answers."""
        if self._process is not None:
            self.signal(signal.SIGCONT)
            return
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
        """Send a signal to all processes of the server."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """Kill the server, if it runs."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


class BreakingClient:
    """A client of a real store whose connection breaks at one request.

    Args:
        client: the real client.
        at: the number of the request, from 1.
        effect: what the store does with that request: "none", "done", or "late", which is some requests later.
        method: counts only requests of this method, "" for all.
    """

    def __init__(self, client: Any, at: int, effect: str, method: str = "") -> None:
        self._client, self._left, self._effect, self._method = client, at, effect, method
        self._later: list[Callable[[], Any]] = []
        self.has_broken = False

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._client, name)
        if not callable(attribute):
            return attribute

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._later and len(self._later) < 3:
                self._later.append(lambda: None)
            elif self._later:
                self._later.pop(0)()
                self._later.clear()
            self._left -= self._method in ("", name)
            if self._left or self.has_broken:
                return attribute(*args, **kwargs)
            self.has_broken = True
            if self._effect == "done":
                attribute(*args, **kwargs)
            elif self._effect == "late":
                self._later.append(lambda: attribute(*args, **kwargs))
            raise ConnectionError("the connection broke")

        return call


# Trials to be shipped -------------------------------------------------------------------------------------------------

TRIALS = 5


def trial(number: int) -> list[Record]:
    """Return all records of a trial with five epochs."""
    return completed_trial(number, [0.01 * number + 0.001 * step for step in range(1, 6)])


def all_trials() -> list[Record]:
    """Return all records of `TRIALS` trials."""
    return [record for number in range(TRIALS) for record in trial(number)]


def check_trials(uri: str, uid: str, trials: int = TRIALS, study: str = "digits") -> None:
    """Assert that the store has every point of `trial(0)`, `trial(1)`, … once, and no other runs."""
    client = store.connect(uri)
    seen = shown_runs(client, uid)
    assert sorted(seen) == [study, *(f"trial-{number:04d}" for number in range(trials))]
    assert {run["status"] for run in seen.values()} == {"FINISHED"}
    for number in range(trials):
        points = seen[f"trial-{number:04d}"]["points"]
        assert [step for step, _, _ in points.pop("seconds_per_epoch")] == [5]
        assert [value for _, _, value in points.pop("last_epoch")] == [5]
        assert points.keys() == {"loss", "val_accuracy", "objective", "best_epoch"}
        for history in points.values():
            assert [step for step, _, _ in history] == [1, 2, 3, 4, 5]
        assert [value for _, _, value in points["val_accuracy"]] == [0.01 * number + 0.001 * s for s in range(1, 6)]
    # The best objective of the whole search, at each epoch that improved it.
    assert len(seen[study]["points"]["objective"]) == 5 + (trials - 1) * 5
