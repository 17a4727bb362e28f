"""The example of a follower that posts to a web hook, against a real HTTP server."""

from __future__ import annotations

import importlib.util
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from by_hand import SEARCH_ENDED, completed_trial, failed_trial, study_start
from places import SPACES

from search.study.journal import Entry
from search.study.records import Record
from search.testing import FollowerContract
from search.tracking.followers import Follower, FollowerSetup, FollowerThread


def load_webhook() -> Any:
    spec = importlib.util.spec_from_file_location("webhook", SPACES / "followers" / "webhook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Webhook


Webhook = load_webhook()


class Hook(ThreadingHTTPServer):
    """A web hook that keeps its posts, and answers with `status` after `delay` seconds."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.posts: list[dict[str, Any]] = []
        self.status, self.delay = 200, 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["Content-Type"] == "application/json"
        self.server.posts.append(json.loads(body))
        time.sleep(self.server.delay)
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def entries(records: list[Record]) -> list[Entry]:
    return [Entry(record, float(second), 0) for second, record in enumerate(records)]


def setup(folder: Path, lines: list[str], earlier: list[Record] | None = None) -> FollowerSetup:
    return FollowerSetup("digits", folder, entries(earlier or []), lines.append)


class TestWebhook(FollowerContract):
    @pytest.fixture(autouse=True)
    def _hook(self, hook: Hook) -> None:
        self._url = hook.url

    def make(self, setup: FollowerSetup) -> Follower:
        made: Follower = Webhook(setup, self._url, pause=0)
        return made


def test_bests_failures_and_the_end_are_posted_when_the_disk_has_them(hook: Hook, tmp_path: Path) -> None:
    lines: list[str] = []
    follower = Webhook(setup(tmp_path, lines), hook.url, pause=0)
    follower.take(entries([*study_start(), *completed_trial(0, [0.5, 0.6])]))
    assert hook.posts == []
    follower.flushed()
    follower.take(entries([*failed_trial(1), *completed_trial(2, [0.55, 0.6]), SEARCH_ENDED]))
    follower.flushed()
    follower.close()
    assert [(post["event"], post.get("trial"), post.get("value")) for post in hook.posts] == [
        ("new best", 0, 0.6), ("failed", 1, None), ("ended", None, 0.6),
    ]  # fmt: skip
    assert hook.posts[1]["text"] == "digits: trial 1 failed: ValueError: units are odd"
    assert lines == []


def test_a_resumed_search_posts_only_what_is_new(hook: Hook, tmp_path: Path) -> None:
    earlier = [*study_start(), *completed_trial(0, [0.5]), *failed_trial(1), SEARCH_ENDED]
    follower = Webhook(setup(tmp_path, [], earlier), hook.url, pause=0)
    follower.take(entries(completed_trial(2, [0.4])))
    follower.flushed()
    assert hook.posts == []
    follower.take(entries(completed_trial(3, [0.7])))
    follower.close()
    assert [post["trial"] for post in hook.posts] == [3]


def test_many_bests_within_the_pause_are_one_post(hook: Hook, tmp_path: Path) -> None:
    follower = Webhook(setup(tmp_path, []), hook.url, pause=60)
    follower.take(entries(study_start()))
    for number in range(5):
        follower.take(entries(completed_trial(number, [0.1 * (number + 1)])))
        follower.flushed()
    assert [post["trial"] for post in hook.posts] == [0]
    follower.close()
    assert [post["trial"] for post in hook.posts] == [0, 4]


def test_the_end_is_posted_after_the_last_best(hook: Hook, tmp_path: Path) -> None:
    follower = Webhook(setup(tmp_path, []), hook.url, pause=60)
    for number in range(2):
        follower.take(entries([*(study_start() if number == 0 else []), *completed_trial(number, [0.1 + number])]))
        follower.flushed()
    follower.take(entries([SEARCH_ENDED]))
    follower.flushed()
    follower.close()
    assert [post["event"] for post in hook.posts] == ["new best", "new best", "ended"]


@pytest.mark.parametrize(("status", "posts"), [(500, 2), (404, 1)])
def test_a_hook_that_refuses_is_named_once_without_its_address(
    hook: Hook, tmp_path: Path, status: int, posts: int
) -> None:
    lines: list[str] = []
    hook.status = status
    follower = Webhook(setup(tmp_path, lines), hook.url, pause=0)
    follower.take(entries([*study_start(), *failed_trial(0)]))
    follower.flushed()
    assert len(hook.posts) == posts
    follower.take(entries(failed_trial(1)))
    follower.flushed()
    assert lines == [f"the web hook does not take posts (HTTP status {status}): the search goes on"]


def test_a_hook_that_hangs_delays_no_search(hook: Hook, tmp_path: Path) -> None:
    hook.delay = 30.0
    lines: list[str] = []

    def report(line: str, details: str) -> None:
        lines.append(line)

    thread = FollowerThread(
        "webhook",
        lambda given: Webhook(given, hook.url, timeout=0.2, tries=1),
        setup(tmp_path, lines),
        copies=True,
        report=report,
    )
    thread.start()
    began = time.monotonic()
    thread.take(entries([*study_start(), *failed_trial(0)]))
    thread.flushed()
    assert time.monotonic() - began < 0.1
    thread.close(5)
    assert lines == ["the web hook does not take posts (timed out): the search goes on"]


def test_without_an_address_it_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEARCH_WEBHOOK", raising=False)
    with pytest.raises(ValueError, match="set SEARCH_WEBHOOK"):
        Webhook(setup(tmp_path, []))
