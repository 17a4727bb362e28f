"""MLflow goes away: a server that hangs, answers nonsense or late, a locked database, a process killed while it ships.

Whatever happens, every point arrives once when MLflow is back, and no run is there twice or left RUNNING.
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
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from by_hand import FINISHED, opening, shown, whole
from places import ROOT
from test_syncer import Server, address, story

from search import cli
from search.errors import Unavailable
from search.study.paths import StudyPaths, local_store
from search.study.records import Exported, Record
from search.tracking.mlflow import database, store, syncer
from search.tracking.mlflow.position import Position
from search.tracking.mlflow.syncer import Syncer

Write = Callable[..., StudyPaths]

_UIDS = count(1)


@pytest.fixture
def uid() -> str:
    """A study of one's own, on a server that several tests share."""
    return f"{next(_UIDS):016x}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, pristine: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copyfile(pristine, folder / "mlflow.db")
    one = Server(folder)
    one.start()
    yield one
    one.kill()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The syncer looks and tries again often, and requests are given up after a second."""
    monkeypatch.setattr(syncer, "LATEST", 0.01)
    monkeypatch.setattr(syncer, "MODELS_INTERVAL", 0.1)
    monkeypatch.setattr(syncer, "_PATIENCE", (0.2, 0.5))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")


def until(done: Callable[[], Any], seconds: float = 30) -> None:
    """Wait for something that will be so."""
    for _ in range(int(seconds / 0.02)):
        if done():
            return
        time.sleep(0.02)
    raise TimeoutError


TRIALS = 5


def trial(number: int) -> list[Record]:
    return whole(number, [0.01 * number + 0.001 * step for step in range(1, 6)])


def check(uri: str, uid: str, trials: int = TRIALS) -> None:
    """Every point of `trial(0)`, `trial(1)`, … is there once, and no run but theirs."""
    client = store.connect(uri)
    seen = shown(client, uid)
    assert sorted(seen) == ["digits", *(f"trial-{number:04d}" for number in range(trials))]
    assert {run["status"] for run in seen.values()} == {"FINISHED"}
    for number in range(trials):
        points = seen[f"trial-{number:04d}"]["points"]
        assert points.keys() == {"loss", "val_accuracy", "objective", "best_epoch"}
        for history in points.values():
            assert [step for step, _, _ in history] == [1, 2, 3, 4, 5]
        assert [value for _, _, value in points["val_accuracy"]] == [0.01 * number + 0.001 * s for s in range(1, 6)]
    # The whole search's best so far, at each epoch that improved it.
    assert len(seen["digits"]["points"]["objective"]) == 5 + (trials - 1) * 5


# A server that hangs --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_hung_server_gets_every_point_once(write: Write, server: Server, uid: str) -> None:
    paths = write(opening(uid=uid))
    warnings: list[str] = []
    one = Syncer(paths, server.uri, warn=warnings.append)
    one.start()
    try:
        for number in range(TRIALS):
            if number == 2:
                until(lambda: "trial-0001" in shown(store.connect(server.uri), uid))
                server.signal(signal.SIGSTOP)
            write(trial(number))  # the hung server is asked to make this run, and will, late
            one.wake()
            time.sleep(0.05)
            if number == 3:
                until(lambda: warnings)
                time.sleep(2.5)  # in which it is asked again
                server.signal(signal.SIGCONT)
        write([FINISHED])
        assert one.finish(60)
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
    how: str, write: Write, server: Server, uid: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    monkeypatch.setattr(syncer, "LEAVE_SECONDS", 1.0)
    paths = write([*opening(uid=uid), *trial(0)])
    one = Syncer(paths, server.uri, warn=lambda _: None)
    one.start()
    until(lambda: "trial-0000" in shown(store.connect(server.uri), uid))
    server.signal(signal.SIGSTOP)
    try:
        for number in range(1, TRIALS):
            write(trial(number))
        write([FINISHED])
        one.wake()
        time.sleep(0.5)  # until the first request is out
        begin = time.monotonic()
        if how == "finish":
            assert not one.finish(1.0)
        else:
            one.stop()
        assert time.monotonic() - begin < 3

        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        begin = time.monotonic()
        words = ["sync", "digits", "--runs", str(paths.folder.parent), "--tracking-uri", server.uri]
        capfd.readouterr()
        assert cli.main(words) == 2
        assert time.monotonic() - begin < 8
        said = capfd.readouterr()
        assert said.out == ""
        assert said.err == f"search: MLflow at {server.uri} is out of reach (no answer in time)\n"
    finally:
        server.signal(signal.SIGCONT)
    assert cli.main(words) == 0
    check(server.uri, uid)
    assert cli.main(words) == 0
    check(server.uri, uid)


# A server that answers nonsense, or late ------------------------------------------------------------------------------


class Front:
    """What stands before a server, as a proxy does. `meddle(method, path, pass_on)` may answer in the server's place:
    it returns a status, a type and a body; None closes the connection."""

    def __init__(self, uri: str) -> None:
        there = urlsplit(uri)
        self.asked: list[str] = []
        self.meddle: Callable[[str, Callable[[], Any]], Any] = lambda path, pass_on: pass_on()
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = urlsplit(self.path).path.rpartition("mlflow/")[2]
                front.asked.append(f"{self.command} {path}")
                answer = front.meddle(path, lambda: self.pass_on(body))
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
                    self.close_connection = True  # who asked has given up

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
def front(server: Server) -> Iterator[Front]:
    one = Front(server.uri)
    yield one
    one.close()


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
    status: int, kind: str, body: bytes, write: Write, front: Front, uid: str, capfd: pytest.CaptureFixture[str]
) -> None:
    paths = write([*opening(uid=uid), *trial(0)])
    warnings: list[str] = []
    one = Syncer(paths, front.uri, warn=warnings.append)
    one.start()
    until(lambda: "trial-0000" in shown(store.connect(front.uri), uid))
    front.meddle = lambda path, pass_on: (status, kind, body)
    for number in range(1, TRIALS):
        write(trial(number))
        one.wake()
        if number == TRIALS - 2:
            until(lambda: warnings)
            time.sleep(0.5)
            front.meddle = lambda path, pass_on: pass_on()
    write([FINISHED])
    assert one.finish(60)
    check(front.uri, uid)
    (warning,) = warnings
    assert "out of reach" in warning
    assert "\n" not in warning
    assert capfd.readouterr() == ("", "")


def held_back(front: Front, request: str) -> list[Callable[[], Any]]:
    """Have the server not hear of a request until it is asked the same again; the request, once for each of both."""
    held: list[Callable[[], Any]] = []

    def meddle(path: str, pass_on: Callable[[], Any]) -> Any:
        if path == request and not held:
            held.append(pass_on)
            return None
        if path == request and len(held) == 1:
            held.append(held[0])
            held[0]()
        return pass_on()

    front.meddle = meddle
    return held


@pytest.mark.slow
@pytest.mark.parametrize("request_", ["experiments/create", "runs/create"])
def test_a_request_that_is_carried_out_late_makes_nothing_twice(
    request_: str, write: Write, front: Front, uid: str
) -> None:
    """As a hung server does it, or a proxy that waits longer than we do."""
    held = held_back(front, request_)
    paths = write([*opening(uid=uid), *trial(0)])
    warnings: list[str] = []
    one = Syncer(paths, front.uri, warn=warnings.append)
    one.start()
    for number in range(1, TRIALS):
        write(trial(number))
    write([FINISHED])
    assert one.finish(60)
    assert len(held) == 2
    check(front.uri, uid)
    assert len(warnings) == 1


def with_winner(write: Write, uid: str) -> StudyPaths:
    """A whole study of one trial, with a model file that MLflow is sent (and nobody loads)."""
    tensor = {"name": None, "dtype": "float32", "shape": [-1, 4]}
    winner = Exported(0, 0, 5, {"inputs": [tensor], "outputs": [tensor]}, ("keras==3.15.0",))
    paths = write([*opening(uid=uid), *trial(0), winner, FINISHED])
    with zipfile.ZipFile(paths.model, "w") as file:
        file.writestr("config.json", "{}")
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("request_", ["logged-models", "registered-models/create", "model-versions/create"])
def test_a_winner_that_is_made_late_is_there_once(request_: str, write: Write, front: Front, uid: str) -> None:
    held = held_back(front, request_)
    paths = with_winner(write, uid)
    name = f"winner of {uid}"
    one = Syncer(paths, front.uri, register=name, warn=pytest.fail)
    with pytest.raises(Unavailable):
        one.drain()
    one.drain()
    assert len(held) == 2
    client = store.connect(front.uri)
    experiment = client.search_experiments(filter_string=f"tags.`search.study_uid` = '{uid}'")[0].experiment_id
    assert [str(model.status) for model in client.search_logged_models([experiment])] == ["READY"]
    (version,) = client.search_model_versions(f"name = '{name}'")
    assert client.get_model_version_by_alias(name, "champion").version == version.version
    check(front.uri, uid, 1)


@pytest.mark.slow
def test_who_was_killed_before_a_late_run_was_made_leaves_none_running(write: Write, front: Front, uid: str) -> None:
    held: list[Callable[[], Any]] = []

    def meddle(path: str, pass_on: Callable[[], Any]) -> Any:
        if path == "runs/create" and len(front.made) == 2:
            held.append(pass_on)
            return None
        if path == "runs/create":
            front.made.append(path)
        return pass_on()

    front.made = []  # type: ignore[attr-defined]
    front.meddle = meddle
    paths = write([*opening(uid=uid), *(record for number in range(TRIALS) for record in trial(number)), FINISHED])
    with pytest.raises(Unavailable):
        Syncer(paths, front.uri, warn=pytest.fail).drain()  # and is no more
    (late,) = held

    def then(path: str, pass_on: Callable[[], Any]) -> Any:
        if path == "runs/create" and held:
            held.clear()
            late()
        return pass_on()

    front.meddle = then
    Syncer(paths, front.uri, warn=pytest.fail).drain()
    assert not held
    check(front.uri, uid)


@pytest.mark.slow
def test_a_syncer_that_was_told_to_stop_sends_no_more(
    write: Write, front: Front, uid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would go on beside a `search sync`, and both would make the same runs."""
    monkeypatch.setattr(syncer, "LEAVE_SECONDS", 5.0)
    paths = write([*opening(uid=uid), *(record for number in range(TRIALS) for record in trial(number)), FINISHED])

    def slowly(path: str, pass_on: Callable[[], Any]) -> Any:
        time.sleep(0.3)
        return pass_on()

    front.meddle = slowly
    one = Syncer(paths, front.uri, warn=pytest.fail)
    one.start()
    until(lambda: front.asked.count("POST runs/create") == 2)
    one.stop()
    sent = len(front.asked)
    time.sleep(1.0)
    assert len(front.asked) == sent
    assert front.asked.count("POST runs/create") == 2
    front.meddle = lambda path, pass_on: pass_on()
    Syncer(paths, front.uri, warn=pytest.fail).drain()
    check(front.uri, uid)


@pytest.mark.slow
@pytest.mark.parametrize("request_", ["artifacts/model/weights.npz", "logged-models", "registered-models/create"])
def test_a_proxy_that_finds_nothing_while_files_are_sent_is_waited_for(
    request_: str, write: Write, front: Front, uid: str
) -> None:
    """An older server may not have models at all; only what every server has tells that from one that is away."""
    away = False

    def meddle(path: str, pass_on: Callable[[], Any]) -> Any:
        nonlocal away
        away = away or path.endswith(request_)
        return (404, "text/html", PAGE) if away else pass_on()

    front.meddle = meddle
    paths = with_winner(write, uid)
    one = Syncer(paths, front.uri, register=f"winner of {uid}", warn=pytest.fail)
    with pytest.raises(Unavailable):
        one.drain()
    front.meddle = lambda path, pass_on: pass_on()
    one.drain()
    client = store.connect(front.uri)
    position = Position.load(paths.tracking)
    weights = store.artifacts(client, client.get_run(position.trials[0])).list_artifacts("model")
    assert [item.path for item in weights] == ["model/trial.json", "model/weights.npz"]
    assert len(client.search_model_versions(f"name = 'winner of {uid}'")) == 1
    check(front.uri, uid, 1)


@pytest.mark.slow
def test_every_kind_of_request_is_given_up_in_time_and_is_not_repeated_by_mlflow(
    write: Write, front: Front, uid: str
) -> None:
    """Uploads and the registry's too: one that hangs costs one timeout, and the next sync goes on from there."""
    paths = with_winner(write, uid)

    def one() -> Syncer:
        return Syncer(paths, front.uri, register=f"winner of {uid}", warn=pytest.fail)

    def kind(request: str) -> str:
        return re.sub(r"(m-)?[0-9a-f]{32}|(?<=/)\d+(?=/)", "*", request)

    hung: set[str] = set()
    released = threading.Event()

    def meddle(request: str, pass_on: Callable[[], Any]) -> Any:
        if kind(request) in hung:
            return pass_on()
        hung.add(kind(request))
        released.wait(20)
        return None

    front.meddle = meddle
    before = -1
    while len(hung) > before:
        before = len(hung)
        released.clear()
        front.asked.clear()
        begin = time.monotonic()
        try:
            one().drain()
        except Unavailable as error:
            assert "is out of reach (no answer in time)" in str(error)  # noqa: PT017
            assert len(hung) == before + 1
        assert time.monotonic() - begin < 6
        released.set()
    front.meddle = lambda request, pass_on: pass_on()
    files = {request.rpartition("/")[2] for request in hung if "artifacts" in request}
    assert files >= {"digits.py", "study.json", "weights.npz", "model.keras", "MLmodel"}
    assert hung >= {
        *("experiments/search", "experiments/create", "runs/create", "runs/search", "runs/log-batch", "runs/update"),
        *("logged-models", "registered-models/create", "model-versions/create", "registered-models/alias"),
    }
    check(front.uri, uid, 1)


# A locked database ----------------------------------------------------------------------------------------------------


@contextmanager
def locked(file: Path, how: str = "EXCLUSIVE") -> Iterator[None]:
    """Another process has `file` for itself."""
    code = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)\n"
        f"connection.execute('BEGIN {how}')\n"
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
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Who meets a locked database waits for a third of a second, in place of MLflow's 20, and of our 5 and 30."""
    from sqlalchemy import Engine, event

    def shorten(_c: Any, _u: Any, statement: str, parameters: Any, _x: Any, _m: Any) -> tuple[str, Any]:
        return statement.replace("busy_timeout = 20000", "busy_timeout = 300"), parameters

    connect = sqlite3.connect
    for module in (sqlite3, sqlite3.dbapi2):
        monkeypatch.setattr(module, "connect", lambda *words, **options: connect(*words, **{**options, "timeout": 0.3}))
    event.listen(Engine, "before_cursor_execute", shorten, retval=True)
    yield
    event.remove(Engine, "before_cursor_execute", shorten)


def make_plain(file: Path) -> None:
    """Without the write-ahead log, as on a network file system: who writes locks readers out, too."""
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA journal_mode=DELETE").fetchone() == ("delete",)


def through_a_lock(write: Write, runs: Path, at: int, seconds: float) -> list[str]:
    """Ship `TRIALS` trials, while another process locks the store from trial `at` on; the warnings."""
    paths = write(opening())
    warnings: list[str] = []
    one = Syncer(paths, address(runs), warn=warnings.append)
    for number in range(at):
        write(trial(number))
    if at:
        one.start()
        until(lambda: f"trial-{at - 1:04d}" in shown(store.connect(address(runs))))
    with locked(local_store(runs)):
        if not at:
            one.start()
        for number in range(at, TRIALS - 1):
            write(trial(number))
            one.wake()
        until(lambda: warnings, 120)
        time.sleep(seconds)
    write([*trial(TRIALS - 1), FINISHED])
    assert one.finish(120)
    check(address(runs), "0123456789abcdef")
    return warnings


@pytest.mark.parametrize("plain", [False, True], ids=["wal", "plain"])
@pytest.mark.parametrize("at", [0, 3], ids=["from the beginning", "in the middle"])
def test_a_locked_database_gets_every_point_once(
    at: int, plain: bool, write: Write, runs: Path, impatient: None, capfd: pytest.CaptureFixture[str]
) -> None:
    if plain:
        make_plain(local_store(runs))
    (warning,) = through_a_lock(write, runs, at, 1.0)
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
    at: int, plain: bool, write: Write, runs: Path
) -> None:
    """As above, with the patience that MLflow and we really have."""
    if plain:
        make_plain(local_store(runs))
    assert len(through_a_lock(write, runs, at, 60.0)) == 1


@pytest.mark.parametrize("plain", [False, True], ids=["wal", "plain"])
def test_a_database_that_is_locked_while_mlflow_opens_it_is_waited_for(
    plain: bool, write: Write, runs: Path, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if plain:
        make_plain(local_store(runs))
    write([*opening(), *(record for number in range(TRIALS) for record in trial(number)), FINISHED])
    initialise, opened = database.initialise, 0
    with ExitStack() as lock:

        def then_locked(file: Path) -> str | None:
            nonlocal opened
            opened += 1
            note = initialise(file)
            if opened == 2:  # the last look before MLflow's own
                lock.enter_context(locked(file))
            return note

        monkeypatch.setattr(database, "initialise", then_locked)
        paths = StudyPaths.of(runs, "digits")
        one = Syncer(paths, address(runs), warn=pytest.fail)
        begin = time.monotonic()
        with pytest.raises(Unavailable, match=r"is out of reach \(its database is locked by another process\)$"):
            one.drain()
        assert time.monotonic() - begin < 20
    one.drain()
    check(address(runs), "0123456789abcdef")


@pytest.mark.slow
def test_an_older_database_that_is_locked_is_brought_up_to_date_later(older: Path, impatient: None) -> None:
    with (
        locked(older, "IMMEDIATE"),  # it can be read, and so copied
        pytest.raises(Unavailable, match=r"is locked by another process$"),
    ):
        store.connect(f"sqlite:///{older}")
    assert list(older.parent.glob("*.bak")) == []
    assert store.connect(f"sqlite:///{older}").get_run("a" * 32).data.params == {"units": "8"}
    assert len(list(older.parent.glob("*.bak"))) == 1


def test_sync_says_in_one_line_that_the_database_is_locked(
    write: Write, runs: Path, impatient: None, capfd: pytest.CaptureFixture[str]
) -> None:
    write([*opening(), *(record for number in range(TRIALS) for record in trial(number)), FINISHED])
    make_plain(local_store(runs))
    words = ["sync", "digits", "--runs", str(runs), "--tracking-uri", address(runs)]
    with locked(local_store(runs)):
        assert cli.main(words) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err == f"search: MLflow's database {local_store(runs)} is locked by another process\n"
    assert cli.main(words) == 0
    check(address(runs), "0123456789abcdef")


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
store.prepare()
for order in orders:
    # Forks share the import of MLflow. Each begins where the one before was killed.
    if not (child := os.fork()):
        name, at, carried_out = order.split("/")
        killing(name, int(at), carried_out == "after")
        Syncer(StudyPaths.of(runs, "digits"), uri, warn=print).drain()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, order
"""


@pytest.mark.slow
def test_who_is_killed_while_it_ships_leaves_a_store_that_a_sync_completes(
    write: Write, runs: Path, pristine: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(story())
    orders = [
        *("create_run/1/after", "log_batch/1/before", "log_batch/3/after", "set_tag/1/after"),
    ]
    command = [sys.executable, "-c", KILLED, str(runs), address(runs), *orders]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, check=True)
    words = ["sync", "digits", "--runs", str(runs), "--tracking-uri", address(runs)]
    assert cli.main(words) == 0
    assert capfd.readouterr().err == ""
    after = shown(store.connect(address(runs)))
    other = f"sqlite:///{shutil.copyfile(pristine, runs / 'other.db')}"
    assert cli.main([*words[:-1], other]) == 0  # which nobody disturbed
    assert after == shown(store.connect(other))
    # One row for a point, however often it was sent.
    with closing(sqlite3.connect(local_store(runs))) as one, closing(sqlite3.connect(runs / "other.db")) as two:
        rows = "SELECT key, value, timestamp, step FROM metrics ORDER BY key, step, timestamp, value"
        assert one.execute(rows).fetchall() == two.execute(rows).fetchall()
        assert one.execute("SELECT COUNT(*) FROM runs").fetchone() == (6,)
