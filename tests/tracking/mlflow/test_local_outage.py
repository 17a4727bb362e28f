"""The local store out of reach: a database that another process has locked, and a syncer that is killed.

In each case every point arrives once in the end, and no run exists twice or stays RUNNING.
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import forks
import pytest
from by_hand import SEARCH_ENDED, eventful_search, shown_runs, study_start
from stores import (
    TRIALS,
    WriteStudy,
    all_trials,
    check_trials,
    local_address,
    trial,
    wait_until,
    wait_until_shipped,
)

from search import cli
from search.errors import Unavailable
from search.study.paths import StudyPaths, local_store
from search.tracking.mlflow import database, store
from search.tracking.mlflow.syncer import Syncer

pytestmark = pytest.mark.usefixtures("short_times")

# A locked database ----------------------------------------------------------------------------------------------------


@contextmanager
def locked(file: Path, mode: str = "EXCLUSIVE") -> Iterator[None]:
    """Have another process lock the database `file`."""
    code = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)\n"
        f"connection.execute('BEGIN {mode}')\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        yield
        process.communicate()


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Wait for a locked database for 0.3 seconds, instead of MLflow's 20, and our 5 and 30.

    Yield the list of errors of MLflow's statements, one for each wait.
    """
    from sqlalchemy import Engine, event

    def shorten(_c: Any, _u: Any, statement: str, parameters: Any, _x: Any, _m: Any) -> tuple[str, Any]:
        return statement.replace("busy_timeout = 20000", "busy_timeout = 300"), parameters

    connect = sqlite3.connect
    for module in (sqlite3, sqlite3.dbapi2):
        monkeypatch.setattr(module, "connect", lambda *words, **options: connect(*words, **{**options, "timeout": 0.3}))
    errors: list[str] = []

    def note(context: Any) -> None:
        errors.append(str(context.original_exception))

    event.listen(Engine, "before_cursor_execute", shorten, retval=True)
    event.listen(Engine, "handle_error", note)
    yield errors
    event.remove(Engine, "handle_error", note)
    event.remove(Engine, "before_cursor_execute", shorten)


def make_plain(file: Path) -> None:
    """Turn the write-ahead log off, as on a network file system: a writer locks out readers, too."""
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA journal_mode=DELETE").fetchone() == ("delete",)


def ship_through_lock(write: WriteStudy, runs: Path, at: int, seconds: float) -> list[str]:
    """Ship `TRIALS` trials, while another process locks the store from trial `at` on. Return the warnings."""
    paths = write(study_start())
    warnings: list[str] = []
    follower = Syncer(paths, local_address(runs), warn=warnings.append)
    for number in range(at):
        write(trial(number))
    if at:
        follower.start()
        wait_until_shipped(paths)
    with locked(local_store(runs)):
        if not at:
            follower.start()
        for number in range(at, TRIALS - 1):
            write(trial(number), follower=follower)
        wait_until(lambda: warnings, 120)
        time.sleep(seconds)
    write([*trial(TRIALS - 1), SEARCH_ENDED], follower=follower)
    assert follower.finish(120)
    check_trials(local_address(runs), "0123456789abcdef")
    return warnings


@pytest.mark.parametrize("plain", [False, True], ids=["wal", "plain"])
@pytest.mark.parametrize("at", [0, 3], ids=["from the beginning", "in the middle"])
def test_a_locked_database_gets_every_point_once(
    at: int, plain: bool, write: WriteStudy, runs: Path, short_waits: None, capfd: pytest.CaptureFixture[str]
) -> None:
    if plain:
        make_plain(local_store(runs))
    (warning,) = ship_through_lock(write, runs, at, 1.0)
    assert "locked" in warning
    assert "the search goes on, and MLflow is told when it is back" in warning
    assert "\n" not in warning
    assert len(warning) < 300
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("at", "plain"), [(0, True), (3, False)], ids=["from the beginning, plain", "in the middle, wal"]
)
def test_a_database_that_is_locked_for_longer_than_mlflow_and_sqlite_wait_gets_every_point_once(
    at: int, plain: bool, write: WriteStudy, runs: Path
) -> None:
    """As above, with the real waiting times of MLflow, 20 seconds, and of sqlite, 5 seconds.

    The lock lasts until the first of these waits has failed, and a second longer.
    """
    if plain:
        make_plain(local_store(runs))
    assert len(ship_through_lock(write, runs, at, 1.0)) == 1


@pytest.mark.parametrize("plain", [False, True], ids=["wal", "plain"])
def test_a_database_that_is_locked_while_mlflow_opens_it_counts_as_an_outage(
    plain: bool, write: WriteStudy, runs: Path, short_waits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if plain:
        make_plain(local_store(runs))
    write([*study_start(), *all_trials(), SEARCH_ENDED])
    initialise, calls = database.initialise, 0
    with ExitStack() as lock:

        def initialise_and_lock(file: Path) -> str | None:
            nonlocal calls
            calls += 1
            note = initialise(file)
            if calls == 2:  # the last access before MLflow's own
                lock.enter_context(locked(file))
            return note

        monkeypatch.setattr(database, "initialise", initialise_and_lock)
        paths = StudyPaths.of(runs, "digits")
        follower = Syncer(paths, local_address(runs), warn=pytest.fail)
        with pytest.raises(Unavailable, match=r"is out of reach \(its database is locked by another process\)$"):
            follower.drain()
        assert 1 <= len(short_waits) <= 3  # MLflow would try dozens of times
    follower.drain()
    check_trials(local_address(runs), "0123456789abcdef")


@pytest.mark.slow
def test_an_older_database_that_is_locked_is_brought_up_to_date_later(older: Path, short_waits: None) -> None:
    with (
        locked(older, "IMMEDIATE"),  # readers are not locked out, so it could be copied
        pytest.raises(Unavailable, match=r"is locked by another process$"),
    ):
        store.connect(f"sqlite:///{older}")
    assert list(older.parent.glob("*.bak")) == []
    assert store.connect(f"sqlite:///{older}").get_run("a" * 32).data.params == {"units": "8"}
    assert len(list(older.parent.glob("*.bak"))) == 1


def test_sync_says_in_one_line_that_the_database_is_locked(
    write: WriteStudy, runs: Path, short_waits: None, capfd: pytest.CaptureFixture[str]
) -> None:
    write([*study_start(), *all_trials(), SEARCH_ENDED])
    make_plain(local_store(runs))
    words = ["sync", "digits", "--runs", str(runs), "--tracking-uri", local_address(runs)]
    with locked(local_store(runs)):
        assert cli.main(words) == 2
    output = capfd.readouterr()
    assert output.out == ""
    assert output.err == f"search: MLflow's database {local_store(runs)} is locked by another process\n"
    assert cli.main(words) == 0
    check_trials(local_address(runs), "0123456789abcdef")


# A process killed while it ships --------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from mlflow import MlflowClient
from search.study.paths import StudyPaths
from search.tracking.mlflow import store
from search.tracking.mlflow.syncer import Syncer

def killing(name, at, carried_out):
    real, left = getattr(MlflowClient, name), [at]
    def call(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            if carried_out:
                real(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    setattr(MlflowClient, name, call)

runs, uri, *orders = sys.argv[1:]
store.configure_mlflow()
for order in orders:
    # Each goes on after the one before was killed.
    if not (child := os.fork()):
        name, at, carried_out = order.split("/")
        killing(name, int(at), carried_out == "after")
        Syncer(StudyPaths.of(runs, "digits"), uri, warn=print).drain()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, order
"""


@pytest.mark.slow
def test_a_sync_completes_the_store_after_the_syncer_was_killed(
    write: WriteStudy, runs: Path, pristine: Path, templates: forks.Templates, capfd: pytest.CaptureFixture[str]
) -> None:
    write(eventful_search())
    orders = [
        *("create_run/1/after", "log_batch/1/before", "log_batch/3/after", "set_tag/1/after"),
    ]
    command = [sys.executable, "-c", KILLED, str(runs), local_address(runs), *orders]
    assert forks.start(templates.address("mlflow"), command).wait() == 0
    words = ["sync", "digits", "--runs", str(runs), "--tracking-uri", local_address(runs)]
    assert cli.main(words) == 0
    assert capfd.readouterr().err == ""
    after = shown_runs(store.connect(local_address(runs)))
    other = f"sqlite:///{shutil.copyfile(pristine, runs / 'other.db')}"
    assert cli.main([*words[:-1], other]) == 0  # without any disturbance
    assert after == shown_runs(store.connect(other))
    # Each point has one row, however often it was sent.
    with closing(sqlite3.connect(local_store(runs))) as one, closing(sqlite3.connect(runs / "other.db")) as two:
        rows = "SELECT key, value, timestamp, step FROM metrics ORDER BY key, step, timestamp, value"
        assert one.execute(rows).fetchall() == two.execute(rows).fetchall()
        assert one.execute("SELECT COUNT(*) FROM runs").fetchone() == (6,)
