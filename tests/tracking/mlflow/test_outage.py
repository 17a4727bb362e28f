"""A server out of reach: it hangs, or answers late, or with nonsense.

In each case every point arrives once when MLflow is back, and no run exists twice or stays RUNNING.
"""

from __future__ import annotations

import http.client
import re
import signal
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from by_hand import SEARCH_ENDED, study_start
from stores import TRIALS, Server, WriteStudy, all_trials, check_trials, trial, wait_until, wait_until_shipped

from search import cli
from search.errors import Unavailable
from search.study.paths import StudyPaths
from search.study.records import Exported
from search.tracking.mlflow import store, syncer
from search.tracking.mlflow.position import Position
from search.tracking.mlflow.syncer import Syncer

pytestmark = pytest.mark.usefixtures("short_times")

# A server that hangs --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_hung_server_gets_every_point_once(
    write: WriteStudy, server: Server, uid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write(study_start(uid=uid))
    warnings: list[str] = []
    follower = Syncer(paths, server.uri, warn=warnings.append)
    attempts = 0
    sync_once = follower.sync_once

    def counted(**options: bool) -> bool:
        nonlocal attempts
        attempts += 1
        return sync_once(**options)

    monkeypatch.setattr(follower, "sync_once", counted)
    follower.start()
    try:
        for number in range(TRIALS):
            if number == 2:
                wait_until_shipped(paths)
                server.signal(signal.SIGSTOP)
            # The hung server gets the request to create this run, and does it late.
            write(trial(number), follower=follower)
            time.sleep(0.05)
            if number == 3:
                wait_until(lambda: warnings)
                again = attempts + 2
                wait_until(lambda again=again: attempts >= again)  # the request is repeated, and given up again
                server.signal(signal.SIGCONT)
        write([SEARCH_ENDED], follower=follower)
        assert follower.finish(60)
    finally:
        server.signal(signal.SIGCONT)
    check_trials(server.uri, uid)
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
    wait_until_shipped(paths)
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
    check_trials(server.uri, uid)
    assert cli.main(words) == 0
    check_trials(server.uri, uid)


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


NONSENSE = {
    "500": (500, "application/json", b'{"error_code": "INTERNAL_ERROR", "message": "oh"}'),
    "503": (503, "text/html", PAGE),
    "page": (200, "text/html", PAGE),
    "404": (404, "text/html", PAGE),
    "405": (405, "text/html", PAGE),
    "429": (429, "text/plain", b"slow down"),
    "torn": (200, "application/json", b'{"runs": 7'),
}


@pytest.mark.slow
def test_nonsense_from_a_proxy_loses_nothing(
    write: WriteStudy, proxy: Proxy, uid: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A study meets every kind of nonsense in turn. Each is an outage with a warning of its own."""
    paths = write([*study_start(uid=uid), *trial(0)])
    warnings: list[str] = []
    follower = Syncer(paths, proxy.uri, warn=warnings.append)
    follower.start()
    for number, (name, nonsense) in enumerate(NONSENSE.items(), 1):
        wait_until_shipped(paths)
        proxy.answer = lambda path, pass_on, nonsense=nonsense: nonsense
        write(trial(number), follower=follower)
        wait_until(lambda number=number: len(warnings) == number)
        before = len(proxy.requests)
        wait_until(lambda before=before: len(proxy.requests) >= before + 2)  # some are repeated meanwhile
        proxy.answer = lambda path, pass_on: pass_on()
        assert "out of reach" in warnings[-1], name
        assert "\n" not in warnings[-1], name
    write([SEARCH_ENDED], follower=follower)
    assert follower.finish(60)
    check_trials(proxy.uri, uid, 1 + len(NONSENSE))
    assert len(warnings) == len(NONSENSE)
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
    check_trials(proxy.uri, uid)
    assert len(warnings) == 1


def study_with_winner(write: WriteStudy, uid: str, study: str = "digits") -> StudyPaths:
    """Write a completed study of one trial, with a model file that is uploaded, but not loaded."""
    tensor = {"name": None, "dtype": "float32", "shape": [-1, 4]}
    winner = Exported(0, 0, 5, {"inputs": [tensor], "outputs": [tensor]}, ("keras==3.15.0",))
    paths = write([*study_start(study, uid), *trial(0), winner, SEARCH_ENDED], study)
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
    check_trials(proxy.uri, uid, 1)


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
    check_trials(proxy.uri, uid)


@pytest.mark.slow
def test_a_stopped_syncer_sends_no_more(
    write: WriteStudy, proxy: Proxy, uid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a `search sync` beside it would create the same runs."""
    monkeypatch.setattr(syncer, "STOP_SECONDS", 5.0)
    paths = write([*study_start(uid=uid), *all_trials(), SEARCH_ENDED])

    def answer_slowly(path: str, pass_on: Callable[[], Answer]) -> Answer:
        time.sleep(0.1)
        return pass_on()

    proxy.answer = answer_slowly
    follower = Syncer(paths, proxy.uri, warn=pytest.fail)
    follower.start()
    wait_until(lambda: proxy.requests.count("POST runs/create") == 2)
    follower.stop()
    sent = len(proxy.requests)
    time.sleep(0.5)  # enough for several requests
    assert len(proxy.requests) == sent
    assert proxy.requests.count("POST runs/create") == 2
    proxy.answer = lambda path, pass_on: pass_on()
    Syncer(paths, proxy.uri, warn=pytest.fail).drain()
    check_trials(proxy.uri, uid)


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
    check_trials(proxy.uri, uid, 1)


def kind(request: str) -> str:
    """Return the path of a request without the ids in it."""
    return re.sub(r"(m-)?[0-9a-f]{32}|(?<=/)\d+(?=/)", "*", request)


def hang_at_each_kind(paths: StudyPaths, uid: str, proxy: Proxy, is_ours: Callable[[str], bool]) -> set[str]:
    """Sync a study with a winner until no request hangs any more. Return the kinds of requests that hung.

    Of each kind for which `is_ours` is true, the first request hangs: its sync gives up, and the next one goes on.
    """
    hung: set[str] = set()
    released = threading.Event()

    def answer(request: str, pass_on: Callable[[], Answer]) -> Answer:
        if kind(request) in hung or not is_ours(kind(request)):
            return pass_on()
        hung.add(kind(request))
        released.wait(20)
        return None

    proxy.answer = answer
    before = -1
    while len(hung) > before:
        before = len(hung)
        released.clear()
        begin = time.monotonic()
        try:
            Syncer(paths, proxy.uri, register=f"winner of {uid}", warn=pytest.fail).drain()
        except Unavailable as error:
            assert "is out of reach (no answer in time)" in str(error)  # noqa: PT017
            assert len(hung) == before + 1
        assert time.monotonic() - begin < 6
        released.set()
    return hung


@pytest.mark.slow
def test_every_kind_of_request_is_given_up_in_time_and_is_not_repeated_by_mlflow(
    write: WriteStudy, server: Server, uid: str
) -> None:
    """Uploads and requests to the registry, too: each costs one timeout, and the next sync goes on from there.

    Four studies share the kinds, and wait for their timeouts at the same time.
    """
    uids = [f"{number}{uid[1:]}" for number in range(1, 5)]
    studies = [study_with_winner(write, each, f"digits-{number}") for number, each in enumerate(uids)]
    studies_of_kinds: dict[str, int] = {}
    lock = threading.Lock()

    def choose_study(kind: str) -> int:
        with lock:
            return studies_of_kinds.setdefault(kind, len(studies_of_kinds) % len(uids))

    def hang(number: int) -> set[str]:
        with closing(Proxy(server.uri)) as proxy:
            return hang_at_each_kind(studies[number], uids[number], proxy, lambda kind: choose_study(kind) == number)

    with ThreadPoolExecutor(len(uids)) as pool:
        hung = {each for kinds in pool.map(hang, range(len(uids))) for each in kinds}
    assert hung == studies_of_kinds.keys()
    files = {request.rpartition("/")[2] for request in hung if "artifacts" in request}
    assert files >= {"digits.py", "study.json", "weights.npz", "model.keras", "MLmodel"}
    assert hung >= {
        *("experiments/search", "experiments/create", "runs/create", "runs/search", "runs/log-batch", "runs/update"),
        *("logged-models", "registered-models/create", "model-versions/create", "registered-models/alias"),
    }
    for number, each in enumerate(uids):
        check_trials(server.uri, each, 1, f"digits-{number}")
