"""Addresses, the local database, connections and their errors."""

from __future__ import annotations

import errno
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import forks
import pytest
from by_hand import OLD_REVISION

from search.errors import OptionError, TrackingRefused, Unavailable
from search.study.paths import local_store
from search.tracking.mlflow import database, store
from search.tracking.mlflow.admission import describe_other_store
from search.tracking.mlflow.position import Position

pytestmark = pytest.mark.usefixtures("unflushed")

# Addresses ------------------------------------------------------------------------------------------------------------


def test_the_address_is_the_given_one_or_that_of_the_environment_or_local(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert store.resolve_uri(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there:5000")
    assert store.resolve_uri(None, tmp_path) == "http://there:5000"
    assert store.resolve_uri("https://here", tmp_path) == "https://here"


def test_a_relative_database_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert store.resolve_uri("sqlite:///a/b.db", tmp_path) == f"sqlite:///{tmp_path}/a/b.db"
    assert store.resolve_uri("sqlite:////a/b.db", tmp_path) == "sqlite:////a/b.db"


@pytest.mark.parametrize(
    "uri", ["./mlruns", "/x/mlruns", "file:///x/mlruns", "sqlite://", "sqlite:///:memory:", "ftp://x"]
)
def test_an_address_that_mlflow_cannot_use_is_refused_in_one_line(uri: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="give sqlite") as caught:
        store.resolve_uri(uri, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("sqlite://mlflow.db", "give sqlite:///mlflow.db"),
        ("sqlite://a/b.db", "give sqlite:///a/b.db"),
        ("sqlite:b.db", "give sqlite:///b.db"),
        ("http:/me:T0KEN@host", "give http://***@host"),
        ("http://me:T0KEN@[::1", "tracking address 'http://***@[::1' has no valid host or port"),
        ("http://host:port", "has no valid host or port"),
    ],
)
def test_a_misspelt_address_is_refused_with_the_right_spelling(uri: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError) as caught:
        store.resolve_uri(uri, tmp_path)
    assert words in str(caught.value)
    assert "T0KEN" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://me:secret@host:5000/x", "http://***@host:5000/x"),
        ("postgresql+psycopg2://me:se/cr@et@host/db", "postgresql+psycopg2://***@host/db"),
        ("failed for https://token@host: no", "failed for https://***@host: no"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("http://host/?token=T0KEN: check it", "http://host/?token=***: check it"),
        ("postgresql://u:p@h/db?sslmode=require&password=T0KEN", "postgresql://***@h/db?sslmode=require&password=***"),
        ("Max retries exceeded with url: /?a=T0KEN/api/2.0 (", "Max retries exceeded with url: /?a=*** ("),
    ],
)
def test_passwords_are_removed(text: str, expected: str) -> None:
    assert store.redact(text) == expected


@pytest.mark.parametrize(
    ("uri", "stored"),
    [
        ("http://me:T0KEN@host:5000/x?token=T0KEN&y=T0KEN#T0KEN", "http://host:5000/x"),
        ("postgresql://u:T0KEN@h/db?sslmode=require&password=T0KEN", "postgresql://h/db?sslmode=require"),
        ("http://host:5000", "http://host:5000"),
    ],
)
def test_an_address_is_written_down_without_credentials(uri: str, stored: str) -> None:
    assert store.without_credentials(uri) == stored


# The database ---------------------------------------------------------------------------------------------------------


@pytest.mark.core
def test_a_fresh_database_has_the_write_ahead_log_and_is_made_once(tmp_path: Path, pristine: Path) -> None:
    with closing(sqlite3.connect(pristine)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    before = pristine.stat()
    assert database.initialise(pristine) is None
    assert (pristine.stat().st_ino, pristine.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [path.name for path in pristine.parent.glob(".*")] == []


@pytest.mark.parametrize(
    ("error", "free", "words"),
    [
        (sqlite3.OperationalError("disk I/O error"), 0, "the disk of MLflow's database .* is full: make room"),
        (sqlite3.OperationalError("unable to open database file"), 0, "is full: make room"),
        (sqlite3.OperationalError("database or disk is full"), 1 << 30, "is full: make room"),
        (OSError(errno.ENOSPC, "No space left on device"), 0, "is full: make room"),
        (sqlite3.OperationalError("disk I/O error"), 1 << 30, "is no database that MLflow can use"),
    ],
)
def test_a_full_disk_is_named_and_its_database_is_not_blamed(
    error: Exception, free: int, words: str, pristine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: Path) -> str:
        raise error

    monkeypatch.setattr(database, "schema_revision", fail)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free))
    with pytest.raises(OptionError, match=words):
        database.initialise(pristine)


@pytest.mark.slow
def test_two_processes_may_make_the_database_at_once(tmp_path: Path, templates: forks.Templates) -> None:
    code = (
        "import sys; from search.tracking.mlflow import store\n"
        "client = store.connect(store.resolve_uri(None, sys.argv[1]))\n"
        "client.create_experiment(sys.argv[2])"
    )
    address = templates.address("mlflow")
    both = [forks.start(address, [sys.executable, "-c", code, str(tmp_path), name]) for name in ("a", "b")]
    assert [process.wait(120) for process in both] == [0, 0]
    client = store.connect(f"sqlite:///{local_store(tmp_path)}")
    assert {item.name for item in client.search_experiments()} == {"Default", "a", "b"}


@pytest.mark.core
def test_an_older_database_is_migrated_after_a_copy(older: Path, pristine: Path) -> None:
    assert database.schema_revision(older) == OLD_REVISION
    client = store.connect(f"sqlite:///{older}")
    assert database.schema_revision(older) == database.schema_revision(pristine)
    run = client.get_run("a" * 32)
    assert (run.data.params, run.data.tags["search.kind"]) == ({"units": "8"}, "study")
    assert [point.value for point in client.get_metric_history(run.info.run_id, "objective")] == [0.5, 0.75]
    # Features that this version needs work.
    again = client.create_run(client.get_experiment_by_name("digits").experiment_id)
    client.log_metric(again.info.run_id, "objective", 1.0)
    client.create_registered_model("digits")
    client.set_experiment_tag("1", "page", "x" * 5000)
    (backup,) = older.parent.glob("*.bak")
    assert database.schema_revision(backup) == OLD_REVISION
    with closing(sqlite3.connect(backup)) as connection:
        assert connection.execute("SELECT value FROM metrics").fetchall() == [(0.5,), (0.75,)]
    store.connect(f"sqlite:///{older}")
    assert len(list(older.parent.glob("*.bak"))) == 1


def points(file: Path) -> list[tuple[float]]:
    """Return the recorded values, after a check of the whole database."""
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return connection.execute("SELECT value FROM metrics").fetchall()


def test_a_migration_that_breaks_off_leaves_the_database_as_it_was(
    older: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(file: Path) -> None:
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.execute("DROP TABLE tags")
        raise KeyboardInterrupt

    monkeypatch.setattr(database.internals, "upgrade_schema", half)
    with pytest.raises(KeyboardInterrupt):
        database.initialise(older)
    assert database.schema_revision(older) == OLD_REVISION
    assert points(older) == [(0.5,), (0.75,)]
    monkeypatch.undo()
    database.initialise(older)
    assert database.schema_revision(older) != OLD_REVISION
    assert len(list(older.parent.glob("*.bak"))) == 1
    assert list(older.parent.glob(".*.new*")) == []


def test_what_another_process_writes_during_a_migration_is_migrated(
    older: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate, written = database.internals.upgrade_schema, []

    def while_another_writes(file: Path) -> None:
        if not written:
            with closing(sqlite3.connect(older)) as connection, connection:
                connection.execute("UPDATE metrics SET value = 2 * value")
        written.append(file)
        migrate(file)

    monkeypatch.setattr(database.internals, "upgrade_schema", while_another_writes)
    with closing(sqlite3.connect(older)) as reader:  # has the file open, and sees the migrated one
        reader.execute("SELECT 1 FROM metrics").fetchall()
        database.initialise(older)
        assert reader.execute("SELECT value FROM metrics").fetchall() == [(1.0,), (1.5,)]
        assert reader.execute("SELECT version_num FROM alembic_version").fetchone() != (OLD_REVISION,)
    assert len(written) == 2


def test_a_database_that_a_killed_migration_broke_has_a_copy(older: Path) -> None:
    """As earlier versions migrated in place."""
    copy = older.with_name(f"{older.name}.{OLD_REVISION}-1.bak")
    copy.write_bytes(older.read_bytes())
    with closing(sqlite3.connect(older)) as connection, connection:
        connection.execute("DROP TABLE experiments")
    with pytest.raises(OptionError, match=rf"put its newest copy, {copy.name}, in its place"):
        database.initialise(older)
    assert [path.name for path in older.parent.glob("*.bak")] == [copy.name]


@pytest.mark.slow
def test_a_migration_that_is_killed_leaves_the_old_database_or_the_new_one(
    older: Path, pristine: Path, templates: forks.Templates
) -> None:
    code = (
        "import sys; from pathlib import Path; from search.tracking.mlflow import database\n"
        "database.initialise(Path(sys.argv[1]))"
    )
    first, newest = older.read_bytes(), database.schema_revision(pristine)
    address, found, whole = templates.address("mlflow"), set(), 0.0
    for part in (None, *(kill / 8 for kill in range(1, 12))):
        older.write_bytes(first)
        began = time.monotonic()
        process = forks.start(address, [sys.executable, "-c", code, str(older)])
        if part is None:
            assert process.wait(120) == 0
            whole = time.monotonic() - began
        else:
            with suppress(subprocess.TimeoutExpired):
                process.wait(part * whole)
            process.kill()
            process.wait(60)
        found.add(database.schema_revision(older))
        assert points(older) == [(0.5,), (0.75,)]
    assert found == {OLD_REVISION, newest}
    store.connect(f"sqlite:///{older}")
    assert database.schema_revision(older) == newest
    assert list(older.parent.glob(".*.new*")) == []


@pytest.mark.slow
def test_two_processes_that_find_an_older_database_migrate_it_once(
    older: Path, pristine: Path, templates: forks.Templates
) -> None:
    code = (
        "import sys; from search.tracking.mlflow import store\n"
        "assert store.connect(sys.argv[1]).get_run('a' * 32).data.params == {'units': '8'}"
    )
    command = [sys.executable, "-c", code, f"sqlite:///{older}"]
    both = [forks.start(templates.address("mlflow"), command) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    assert database.schema_revision(older) == database.schema_revision(pristine)
    assert len(list(older.parent.glob("*.bak"))) == 1


def test_a_newer_database_is_refused(runs: Path) -> None:
    file = local_store(runs)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    with pytest.raises(OptionError, match="newer MLflow"):
        store.connect(f"sqlite:///{file}")
    assert not list(runs.glob("*.bak"))


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    file.write_text("hello " * 1000)
    with pytest.raises(OptionError, match="no database"):
        store.connect(f"sqlite:///{file}")
    assert file.read_text().startswith("hello")


def test_a_reader_makes_no_store(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no MLflow database"):
        store.connect(f"sqlite:///{tmp_path}/typo/mlflow.db", create=False)
    assert not list(tmp_path.iterdir())


MOUNTS = """\
/dev/sda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb /home/local ext4 rw 0 0
me@box:/x /mnt/with\\040space fuse.sshfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me/runs", "nfs4"),
        ("/home/local/runs", None),
        ("/homely", None),
        ("/mnt/with space/runs", "fuse.sshfs"),
        ("/var", None),
    ],
)
def test_network_file_systems_are_found_among_the_mounts(path: str, kind: str | None) -> None:
    assert database.network_file_system(Path(path), MOUNTS) == kind


def test_on_a_network_file_system_the_database_is_plain_and_a_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "network_file_system", lambda path: "nfs4")
    line = database.initialise(local_store(tmp_path))
    assert line is not None
    assert "nfs4" in line
    assert "\n" not in line
    with closing(sqlite3.connect(local_store(tmp_path))) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


@pytest.mark.parametrize("name", ["plain", "with space", "50% #1"])
def test_artifacts_of_a_moved_store_are_found_beside_it(name: str, tmp_path: Path, pristine: Path) -> None:
    old, new = tmp_path / "old" / name, tmp_path / "new" / name
    old.mkdir(parents=True)
    shutil.copyfile(pristine, local_store(old))
    client = store.connect(f"sqlite:///{local_store(old)}")
    root = store.artifact_root(local_store(old)) / "digits"
    run = client.create_run(client.create_experiment("e", artifact_location=str(root)))
    (tmp_path / "a.txt").write_text("a")
    store.run_artifacts(client, run).log_artifact(str(tmp_path / "a.txt"), "model")
    assert list(root.glob("*/artifacts/model/a.txt"))

    shutil.copytree(old, new)
    client = store.connect(f"sqlite:///{local_store(new)}")
    moved = store.run_artifacts(client, client.get_run(run.info.run_id))
    assert moved.artifact_uri.startswith(str(new))
    shutil.rmtree(old)
    assert [item.path for item in moved.list_artifacts("model")] == ["model/a.txt"]


@pytest.mark.core
@pytest.mark.parametrize("name", ["plain", "with space", "50% #1"])
def test_addresses_in_a_moved_store_are_corrected(name: str, tmp_path: Path, pristine: Path) -> None:
    old, new = tmp_path / "old" / name, tmp_path / "new" / name
    old.mkdir(parents=True)
    shutil.copyfile(pristine, local_store(old))
    client = store.connect(f"sqlite:///{local_store(old)}")
    root = store.artifact_root(local_store(old))
    ours = client.create_experiment("ours", artifact_location=str(root / "digits"))
    theirs = client.create_experiment("theirs", artifact_location=str(tmp_path / "elsewhere" / root.name / "x"))
    runs = [client.create_run(experiment) for experiment in (ours, theirs)]
    logged = client.create_logged_model(ours, source_run_id=runs[0].info.run_id)
    client.create_registered_model("digits")
    client.create_model_version("digits", logged.artifact_location, runs[0].info.run_id)
    (tmp_path / "a.txt").write_text("a")
    store.run_artifacts(client, runs[0]).log_artifact(str(tmp_path / "a.txt"))

    new.parent.mkdir()
    old.rename(new)
    file = local_store(new)
    for _ in range(2):
        database.relocate(file, store.artifact_root(file))
    client = store.connect(f"sqlite:///{file}")
    here = store.artifact_root(file)
    version = client.get_model_version("digits", "1")
    addresses = [
        client.get_experiment(ours).artifact_location,
        client.get_run(runs[0].info.run_id).info.artifact_uri,
        client.get_logged_model(logged.model_id).artifact_location,
        version.source,
        client.get_model_version_download_uri("digits", "1"),
    ]
    for address in addresses:
        place = Path(unquote(urlsplit(address).path) if address.startswith("file:") else address)
        assert place.is_relative_to(here / "digits"), address
    assert client.list_artifacts(runs[0].info.run_id)[0].path == "a.txt"
    assert client.get_run(runs[1].info.run_id).info.artifact_uri == runs[1].info.artifact_uri


# Servers --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def refusing() -> Iterator[tuple[str, list[int], list[str]]]:
    """Yield the address of a server, the status that it answers with, and the credentials of its requests."""
    status, seen = [401], []
    bodies = {403: b"Invalid Host header - possible DNS rebinding attack detected"}  # MLflow's own words

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization", ""))
            self.send_response(status[0])
            self.end_headers()
            self.wfile.write(bodies.get(status[0], b"You are not authenticated."))

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", status, seen
    server.shutdown()
    server.server_close()


def test_a_resume_with_another_store_says_so(tmp_path: Path) -> None:
    position, local = tmp_path / "tracking.json", f"sqlite:///{tmp_path}/mlflow.db"
    assert describe_other_store(position, local) == []
    Position(uri="http://mlflow.example:5000").save(position)
    assert describe_other_store(position, "http://me:secret@mlflow.example:5000") == []
    (line,) = describe_other_store(position, local)
    assert line.startswith(f"MLflow was http://mlflow.example:5000 so far, and is {local} now")
    Position(uri=local).save(position)
    moved = f"sqlite:///{tmp_path}/moved/mlflow.db"
    assert describe_other_store(position, moved) == []
    (tmp_path / "mlflow.db").touch()
    assert len(describe_other_store(position, moved)) == 1


@pytest.mark.parametrize(("code", "advice"), [(401, "MLFLOW_TRACKING_USERNAME"), (403, "--allowed-hosts")])
def test_a_server_that_refuses_is_reported_in_one_line(
    code: int, advice: str, refusing: tuple[str, list[int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, status, seen = refusing
    status[0] = code
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    with pytest.raises(TrackingRefused, match=advice) as caught:
        store.connect(uri)
    assert str(code) in str(caught.value)
    assert "secret" not in str(caught.value)
    assert seen[-1].startswith("Basic ")


def test_a_token_is_sent(refusing: tuple[str, list[int], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    uri, _, seen = refusing
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abc")
    with pytest.raises(TrackingRefused):
        store.connect(uri)
    assert seen == ["Bearer abc"]


def test_a_server_that_is_not_mlflow_is_an_error(refusing: tuple[str, list[int], list[str]]) -> None:
    uri, status, _ = refusing
    status[0] = 404
    with pytest.raises(OptionError, match="no MLflow tracking server"):
        store.connect(uri)


def test_a_server_with_an_error_is_out_of_reach(refusing: tuple[str, list[int], list[str]]) -> None:
    uri, status, _ = refusing
    status[0] = 502
    with pytest.raises(Unavailable):
        store.connect(uri)


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_an_address_that_refuses_connections_is_tried_once(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[object] = []

    class Counted(socket.socket):
        def connect(self, address: object) -> None:
            attempts.append(address)
            super().connect(address)  # type: ignore[arg-type]

    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        address = bound.getsockname()
        monkeypatch.setattr(socket, "socket", Counted)
        with pytest.raises(Unavailable, match="refused") as caught:
            store.connect(f"{scheme}://me:secret@127.0.0.1:{address[1]}/db")
    assert attempts == [address]
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
