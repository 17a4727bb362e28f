"""Tests of tracking servers that refuse, are no MLflow, or are out of reach."""

from __future__ import annotations

import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Command, assert_refused, contents
from places import TINY

from search.driver import prepared

SHORT = ("--study", "t", "--max-epochs", "1", "--max-trials", "1", "--workers", "1", "--no-progress")


@pytest.fixture
def space(workplace: Path) -> Path:
    """Return a space file in an empty folder."""
    return Path(shutil.copy(TINY, workplace / "space.py"))


@pytest.fixture
def server() -> Iterator[type[http.server.BaseHTTPRequestHandler]]:
    """Yield the handler of a running server, which answers every request with its `status`, at its `address`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        status = 401
        address = ""

        def do_GET(self) -> None:
            self.send_response(self.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        Handler.address = f"127.0.0.1:{running.server_port}"
        yield Handler
        running.shutdown()


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_refuses_the_credentials(command: Command, space: Path, server: type, status: int) -> None:
    server.status = status
    address = f"http://me:secret@{server.address}"
    words = (f"http://***@{server.address} refuses these credentials ({status})", "MLFLOW_TRACKING_TOKEN")
    line = assert_refused(command, "run", "space.py", *SHORT, "--tracking-uri", address, words=words)
    assert "secret" not in line


def test_a_server_named_by_the_environment_or_the_file(
    command: Command, space: Path, server: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{server.address}")
    assert_refused(command, "run", "space.py", *SHORT, words=("refuses these credentials (401)",))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    space.write_text(space.read_text() + f"\nsearch_options = dict(tracking_uri='http://{server.address}')\n")
    assert_refused(command, "run", "space.py", *SHORT, words=("refuses these credentials (401)",))


def test_a_server_that_is_not_mlflow_is_refused(command: Command, space: Path, server: type) -> None:
    server.status = 404
    address = f"http://{server.address}"
    assert_refused(
        command, "run", "space.py", *SHORT, "--tracking-uri", address, words=("no MLflow tracking server at", "404")
    )


def test_a_server_out_of_reach_is_a_warning(
    command: Command, space: Path, server: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "SYNC_SECONDS", 0.5)
    server.status = 503
    outcome = command("run", "space.py", *SHORT, "--tracking-uri", f"http://me:secret@{server.address}")
    assert outcome.code == 0
    assert outcome.err.count("is out of reach") == 1
    assert "search sync t" in outcome.err
    runs = space.parent / "runs"
    assert not (runs / "mlflow.db").exists()
    # No file has the password.
    assert "secret" not in outcome.err
    assert not any(b"secret" in content for content in contents(runs).values())
    assert command("sync", "t", "--tracking-uri", "sqlite:///later.db").code == 0
    assert (space.parent / "later.db").exists()
