"""MLflow out of reach: a server that hangs, answers nonsense or late, a locked database, a killed syncer.

In each case every point arrives once when MLflow is back, and no run exists twice or stays RUNNING.
"""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from by_hand import SEARCH_ENDED, completed_trial, eventful_search, shown_runs, study_start
from places import ROOT
from stores import Server, WriteStudy, local_address, wait_until

from search import cli
from search.errors import Unavailable
from search.study.paths import StudyPaths, local_store
from search.study.records import Exported, Record
from search.tracking.mlflow import database, store, syncer
from search.tracking.mlflow.position import Position
from search.tracking.mlflow.syncer import Syncer


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the syncer work and try again often, and give requests up after a second."""
    monkeypatch.setattr(syncer, "MAX_PAUSE", 0.01)
    monkeypatch.setattr(syncer, "MODELS_INTERVAL", 0.1)
    monkeypatch.setattr(syncer, "RETRY_SECONDS", (0.2, 0.5))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")


TRIALS = 5


def trial(number: int) -> list[Record]:
    return completed_trial(number, [0.01 * number + 0.001 * step for step in range(1, 6)])


def all_trials() -> list[Record]:
    return [record for number in range(TRIALS) for record in trial(number)]


def check(uri: str, uid: str, trials: int = TRIALS) -> None:
    """Assert that the store has every point of `trial(0)`, `trial(1)`, … once, and no other runs."""
    client = store.connect(uri)
    seen = shown_runs(client, uid)
    assert sorted(seen) == ["digits", *(f"trial-{number:04d}" for number in range(trials))]
    assert {run["status"] for run in seen.values()} == {"FINISHED"}
    for number in range(trials):
        points = seen[f"trial-{number:04d}"]["points"]
        assert points.keys() == {"loss", "val_accuracy", "objective", "best_epoch"}
        for history in points.values():
            assert [step for step, _, _ in history] == [1, 2, 3, 4, 5]
        assert [value for _, _, value in points["val_accuracy"]] == [0.01 * number + 0.001 * s for s in range(1, 6)]
    # The best objective of the whole search, at each epoch that improved it.
    assert len(seen["digits"]["points"]["objective"]) == 5 + (trials - 1) * 5


# A server that hangs --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_hung_server_gets_every_point_once(write: WriteStudy, server: Server, uid: str) -> None:
    paths = write(study_start(uid=uid))
    warnings: list[str] = []
    follower = Syncer(paths, server.uri, warn=warnings.append)
    follower.start()
    try:
        for number in range(TRIALS):
            if number == 2:
                wait_until(lambda: "trial-0001" in shown_runs(store.connect(server.uri), uid))
                server.signal(signal.SIGSTOP)
            write(
                trial(number), follower=follower
            )  # the hung server gets the request to create this run, and does it late
            time.sleep(0.05)
            if number == 3:
                wait_until(lambda: warnings)
                time.sleep(2.5)  # the request is repeated meanwhile
                server.signal(signal.SIGCONT)
        write([SEARCH_ENDED], follower=follower)
        assert follower.finish(60)
    finally:
        server.signal(signal.SIGCONT)
    check(server.uri, uid)
    (warning,) = warnings
    assert warning == (
        f"MLflow at {server.uri} is out of reach (no answer in time): the search goes on, and MLflow is told when it "
        "is back"
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", ["finish", "stop"])
def test_the_end_of_a_search_does_not_wait_for_a_hung_server(
    how: str,
    write: WriteStudy,
    server: Server,
    uid: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    monkeypatch.setattr(syncer, "STOP_SECONDS", 1.0)
    paths = write([*study_start(uid=uid), *trial(0)])
    follower = Syncer(paths, server.uri, warn=lambda _: None)
    follower.start()
    wait_until(lambda: "trial-0000" in shown_runs(store.connect(server.uri), uid))
    server.signal(signal.SIGSTOP)
    try:
        for number in range(1, TRIALS):
            write(trial(number), follower=follower)
        write([SEARCH_ENDED], follower=follower)
        time.sleep(0.5)  # the first request is sent
        begin = time.monotonic()
        if how == "finish":
            assert not follower.finish(1.0)
        else:
            follower.stop()
        assert time.monotonic() - begin < 3

        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        begin = time.monotonic()
        words = ["sync", "digits", "--runs", str(paths.folder.parent), "--tracking-uri", server.uri]
        capfd.readouterr()
        assert cli.main(words) == 2
        assert time.monotonic() - begin < 8
        output = capfd.readouterr()
        assert output.out == ""
        assert output.err == f"search: MLflow at {server.uri} is out of reach (no answer in time)\n"
    finally:
        server.signal(signal.SIGCONT)
    assert cli.main(words) == 0
    check(server.uri, uid)
    assert cli.main(words) == 0
    check(server.uri, uid)


# A server that answers nonsense, or late ------------------------------------------------------------------------------


Answer = tuple[int, str, bytes] | None


class Proxy:
    """An HTTP proxy before a server.

    Attributes:
        requests: the methods and paths of all requests.
        answer: gets a request's path, and a function that passes the request on to the server. Returns the status, the
            content type and the body; None closes the connection.
    """

    def __init__(self, uri: str) -> None:
        there = urlsplit(uri)
        self.requests: list[str] = []
        self.answer: Callable[[str, Callable[[], Answer]], Answer] = lambda path, pass_on: pass_on()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = urlsplit(self.path).path.rpartition("mlflow/")[2]
                proxy.requests.append(f"{self.command} {path}")
                answer = proxy.answer(path, lambda: self.pass_on(body))
                if answer is None:
                    self.close_connection = True
                    return
                status, kind, content = answer
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", kind)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    self.close_connection = True  # the client has given up

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

            def pass_on(self, body: bytes) -> tuple[int, str, bytes]:
                with closing(http.client.HTTPConnection(there.hostname or "", there.port, timeout=30)) as connection:
                    headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                    connection.request(self.command, self.path, body, headers)
                    answer = connection.getresponse()
                    return answer.status, answer.getheader("Content-Type") or "", answer.read()

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    made = Proxy(server.uri)
    yield made
    made.close()


PAGE = b"<html><head><title>Sorry</title></head><body>We will be back soon.</body></html>"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "kind", "body"),
    [
        (500, "application/json", b'{"error_code": "INTERNAL_ERROR", "message": "oh"}'),
        (503, "text/html", PAGE),
        (200, "text/html", PAGE),
        (404, "text/html", PAGE),
        (405, "text/html", PAGE),
        (429, "text/plain", b"slow down"),
        (200, "application/json", b'{"runs": 7'),
    ],
    ids=["500", "503", "page", "404", "405", "429", "torn"],
)
def test_nonsense_from_a_proxy_loses_nothing(
    status: int, kind: str, body: bytes, write: WriteStudy, proxy: Proxy, uid: str, capfd: pytest.CaptureFixture[str]
) -> None:
    paths = write([*study_start(uid=uid), *trial(0)])
    warnings: list[str] = []
    follower = Syncer(paths, proxy.uri, warn=warnings.append)
    follower.start()
    wait_until(lambda: "trial-0000" in shown_runs(store.connect(proxy.uri), uid))
    proxy.answer = lambda path, pass_on: (status, kind, body)
    for number in range(1, TRIALS):
        write(trial(number), follower=follower)
        if number == TRIALS - 2:
            wait_until(lambda: warnings)
            time.sleep(0.5)
            proxy.answer = lambda path, pass_on: pass_on()
    write([SEARCH_ENDED], follower=follower)
    assert follower.finish(60)
    check(proxy.uri, uid)
    (warning,) = warnings
    assert "out of reach" in warning
    assert "\n" not in warning
    assert capfd.readouterr() == ("", "")


def delay_request(proxy: Proxy, request: str) -> list[Callable[[], Answer]]:
    """Delay the first request with the path `request` until the second, which is passed on after it.

    Return a list that gets an entry for each of both.
    """
    delayed: list[Callable[[], Answer]] = []

    def answer(path: str, pass_on: Callable[[], Answer]) -> Answer:
        if path == request and not delayed:
            delayed.append(pass_on)
            return None
        if path == request and len(delayed) == 1:
            delayed.append(delayed[0])
            delayed[0]()
        return pass_on()

    proxy.answer = answer
    return delayed


@pytest.mark.slow
@pytest.mark.parametrize("request_", ["experiments/create", "runs/create"])
def test_a_request_that_is_carried_out_late_makes_nothing_twice(
    request_: str, write: WriteStudy, proxy: Proxy, uid: str
) -> None:
    """A hung server does that, or a proxy that waits longer than the syncer."""
    delayed = delay_request(proxy, request_)
    paths = write([*study_start(uid=uid), *trial(0)])
    warnings: list[str] = []
    follower = Syncer(paths, proxy.uri, warn=warnings.append)
    follower.start()
    for number in range(1, TRIALS):
        write(trial(number), follower=follower)
    write([SEARCH_ENDED], follower=follower)
    assert follower.finish(60)
    assert len(delayed) == 2
    check(proxy.uri, uid)
    assert len(warnings) == 1


def study_with_winner(write: WriteStudy, uid: str) -> StudyPaths:
    """Write a completed study of one trial, with a model file that is uploaded, but not loaded."""
    tensor = {"name": None, "dtype": "float32", "shape": [-1, 4]}
    winner = Exported(0, 0, 5, {"inputs": [tensor], "outputs": [tensor]}, ("keras==3.15.0",))
    paths = write([*study_start(uid=uid), *trial(0), winner, SEARCH_ENDED])
    with zipfile.ZipFile(paths.model, "w") as file:
        file.writestr("config.json", "{}")
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("request_", ["logged-models", "registered-models/create", "model-versions/create"])
def test_a_winner_that_is_created_late_exists_once(request_: str, write: WriteStudy, proxy: Proxy, uid: str) -> None:
    delayed = delay_request(proxy, request_)
    paths = study_with_winner(write, uid)
    name = f"winner of {uid}"
    follower = Syncer(paths, proxy.uri, register=name, warn=pytest.fail)
    with pytest.raises(Unavailable):
        follower.drain()
    follower.drain()
    assert len(delayed) == 2
    client = store.connect(proxy.uri)
    experiment = client.search_experiments(filter_string=f"tags.`search.study_uid` = '{uid}'")[0].experiment_id
    assert [str(model.status) for model in client.search_logged_models([experiment])] == ["READY"]
    (version,) = client.search_model_versions(f"name = '{name}'")
    assert client.get_model_version_by_alias(name, "champion").version == version.version
    check(proxy.uri, uid, 1)


@pytest.mark.slow
def test_a_run_that_is_created_after_the_syncer_was_killed_does_not_stay_running(
    write: WriteStudy, proxy: Proxy, uid: str
) -> None:
    delayed: list[Callable[[], Answer]] = []
    created: list[str] = []

    def answer(path: str, pass_on: Callable[[], Answer]) -> Answer:
        if path == "runs/create" and len(created) == 2:
            delayed.append(pass_on)
            return None
        if path == "runs/create":
            created.append(path)
        return pass_on()

    proxy.answer = answer
    paths = write([*study_start(uid=uid), *all_trials(), SEARCH_ENDED])
    with pytest.raises(Unavailable):
        Syncer(paths, proxy.uri, warn=pytest.fail).drain()  # then its process is killed
    (late,) = delayed

    def answer_later(path: str, pass_on: Callable[[], Answer]) -> Answer:
        if path == "runs/create" and delayed:
            delayed.clear()
            late()
        return pass_on()

    proxy.answer = answer_later
    Syncer(paths, proxy.uri, warn=pytest.fail).drain()
    assert not delayed
    check(proxy.uri, uid)


@pytest.mark.slow
def test_a_stopped_syncer_sends_no_more(
    write: WriteStudy, proxy: Proxy, uid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a `search sync` beside it would create the same runs."""
    monkeypatch.setattr(syncer, "STOP_SECONDS", 5.0)
    paths = write([*study_start(uid=uid), *all_trials(), SEARCH_ENDED])

    def answer_slowly(path: str, pass_on: Callable[[], Answer]) -> Answer:
        time.sleep(0.3)
        return pass_on()

    proxy.answer = answer_slowly
    follower = Syncer(paths, proxy.uri, warn=pytest.fail)
    follower.start()
    wait_until(lambda: proxy.requests.count("POST runs/create") == 2)
    follower.stop()
    sent = len(proxy.requests)
    time.sleep(1.0)
    assert len(proxy.requests) == sent
    assert proxy.requests.count("POST runs/create") == 2
    proxy.answer = lambda path, pass_on: pass_on()
    Syncer(paths, proxy.uri, warn=pytest.fail).drain()
    check(proxy.uri, uid)


@pytest.mark.slow
@pytest.mark.parametrize("request_", ["artifacts/model/weights.npz", "logged-models", "registered-models/create"])
def test_a_proxy_that_answers_404_to_an_upload_counts_as_an_outage(
    request_: str, write: WriteStudy, proxy: Proxy, uid: str
) -> None:
    """An older server may lack models. Only an endpoint of every server tells it from a server that is away."""
    is_away = False

    def answer(path: str, pass_on: Callable[[], Answer]) -> Answer:
        nonlocal is_away
        is_away = is_away or path.endswith(request_)
        return (404, "text/html", PAGE) if is_away else pass_on()

    proxy.answer = answer
    paths = study_with_winner(write, uid)
    follower = Syncer(paths, proxy.uri, register=f"winner of {uid}", warn=pytest.fail)
    with pytest.raises(Unavailable):
        follower.drain()
    proxy.answer = lambda path, pass_on: pass_on()
    follower.drain()
    client = store.connect(proxy.uri)
    position = Position.load(paths.tracking)
    weights = store.run_artifacts(client, client.get_run(position.trials[0])).list_artifacts("model")
    assert [item.path for item in weights] == ["model/trial.json", "model/weights.npz"]
    assert len(client.search_model_versions(f"name = 'winner of {uid}'")) == 1
    check(proxy.uri, uid, 1)


@pytest.mark.slow
def test_every_kind_of_request_is_given_up_in_time_and_is_not_repeated_by_mlflow(
    write: WriteStudy, proxy: Proxy, uid: str
) -> None:
    """Uploads and requests to the registry, too: each costs one timeout, and the next sync goes on from there."""
    paths = study_with_winner(write, uid)

    def new_syncer() -> Syncer:
        return Syncer(paths, proxy.uri, register=f"winner of {uid}", warn=pytest.fail)

    def kind(request: str) -> str:
        return re.sub(r"(m-)?[0-9a-f]{32}|(?<=/)\d+(?=/)", "*", request)

    hung: set[str] = set()
    released = threading.Event()

    def answer(request: str, pass_on: Callable[[], Answer]) -> Answer:
        if kind(request) in hung:
            return pass_on()
        hung.add(kind(request))
        released.wait(20)
        return None

    proxy.answer = answer
    before = -1
    while len(hung) > before:
        before = len(hung)
        released.clear()
        proxy.requests.clear()
        begin = time.monotonic()
        try:
            new_syncer().drain()
        except Unavailable as error:
            assert "is out of reach (no answer in time)" in str(error)  # noqa: PT017
            assert len(hung) == before + 1
        assert time.monotonic() - begin < 6
        released.set()
    proxy.answer = lambda request, pass_on: pass_on()
    files = {request.rpartition("/")[2] for request in hung if "artifacts" in request}
    assert files >= {"digits.py", "study.json", "weights.npz", "model.keras", "MLmodel"}
    assert hung >= {
        *("experiments/search", "experiments/create", "runs/create", "runs/search", "runs/log-batch", "runs/update"),
        *("logged-models", "registered-models/create", "model-versions/create", "registered-models/alias"),
    }
    check(proxy.uri, uid, 1)


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
        # A look into the store might lock the syncer out.
        wait_until(lambda: Position.load(paths.tracking).offset == paths.journal.stat().st_size)
    with locked(local_store(runs)):
        if not at:
            follower.start()
        for number in range(at, TRIALS - 1):
            write(trial(number), follower=follower)
        wait_until(lambda: warnings, 120)
        time.sleep(seconds)
    write([*trial(TRIALS - 1), SEARCH_ENDED], follower=follower)
    assert follower.finish(120)
    check(local_address(runs), "0123456789abcdef")
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
def test_a_database_that_is_locked_for_a_minute_gets_every_point_once(
    at: int, plain: bool, write: WriteStudy, runs: Path
) -> None:
    """As above, with the real waiting times of MLflow and of the syncer."""
    if plain:
        make_plain(local_store(runs))
    assert len(ship_through_lock(write, runs, at, 60.0)) == 1


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
        assert len(short_waits) == 1
    follower.drain()
    check(local_address(runs), "0123456789abcdef")


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
    check(local_address(runs), "0123456789abcdef")


# A process killed while it ships --------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
import mlflow.store.model_registry.sqlalchemy_store, mlflow.store.tracking.sqlalchemy_store
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
    # Forks share the import of MLflow. Each goes on after the one before was killed.
    if not (child := os.fork()):
        name, at, carried_out = order.split("/")
        killing(name, int(at), carried_out == "after")
        Syncer(StudyPaths.of(runs, "digits"), uri, warn=print).drain()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, order
"""


@pytest.mark.slow
def test_a_sync_completes_the_store_after_the_syncer_was_killed(
    write: WriteStudy, runs: Path, pristine: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(eventful_search())
    orders = [
        *("create_run/1/after", "log_batch/1/before", "log_batch/3/after", "set_tag/1/after"),
    ]
    command = [sys.executable, "-c", KILLED, str(runs), local_address(runs), *orders]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, check=True)
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
