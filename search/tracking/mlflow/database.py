"""The database of a local store: created once, safely, and brought up to date.

If two processes let MLflow itself open a fresh sqlite file at the same time, its migration is spoiled for good. So the
database is made under a file lock, in a temporary file that is renamed when whole.

An older database is a file of the user's. Its copy is migrated, and sqlite copies the result back in one transaction:
killed at any time, the database is the old one or the new one. A rename would do so too, but other processes may have
the file open, and what they write would be lost.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import unquote

from search.errors import OptionError, Unavailable
from search.tracking.mlflow import internals

NETWORK = frozenset(
    (
        *("9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.sshfs", "glusterfs", "gpfs"),
        *("lustre", "ncpfs", "nfs", "nfs4", "pvfs2", "smb", "smb2", "smb3", "smbfs"),
    )
)
"""Network file systems. Their clients do not share memory, which sqlite's write-ahead log needs."""


def initialise(file: Path) -> str | None:
    """Make the database if there is none, and bring an older one up to date, after a copy beside it. Idempotent.

    Returns:
        A line for the user if the folder is on a network file system, as the database then works in plain mode.

    Raises:
        OptionError: the file cannot be written, is no database of MLflow, or belongs to a newer MLflow.
        Unavailable: another process has locked the database.
    """
    kind = network_file_system(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not _is_current(file):
            with _locked(file):
                if not _is_current(file):
                    _upgrade(file, wal=kind is None)
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            raise Unavailable(f"MLflow's database {file} is locked by another process") from None
        if _is_disk_full(error, file):
            raise OptionError(_full(file)) from None
        raise OptionError(f"{file} is no database that MLflow can use ({error}): {_remedy(file)}") from None
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise OptionError(_full(file)) from None
        raise OptionError(f"cannot write MLflow's database {file} ({error.strerror}): give another --runs") from None
    if kind is None:
        return None
    return f"{file.parent} is on a network file system ({kind}): MLflow's database works in plain mode, which is slower"


_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns in which MLflow records the places of artifacts, as absolute paths."""


def relocate(file: Path, root: Path) -> None:
    """Correct the artifacts' addresses after the store's folder was moved, so that MLflow itself finds them.

    Args:
        root: the current folder of the store's artifacts. An address below a folder of the same name elsewhere changes
            if the folder of its experiment is below `root` now.

    Raises:
        Unavailable: another process has locked the database.
    """
    change = "UPDATE {0} SET {1} = ? || substr({1}, ?) WHERE substr({1}, 1, ?) = ?"
    try:
        with closing(sqlite3.connect(file, timeout=30)) as connection, connection:
            for before, after in _moves(connection, root):
                values = (after, len(before) + 1, len(before) + 1, f"{before}/")
                for table, column in _ADDRESSES:
                    connection.execute(change.format(table, column), values)
    except sqlite3.OperationalError as error:
        raise Unavailable(f"MLflow's database {file} cannot be written ({error})") from None


def _moves(connection: sqlite3.Connection, root: Path) -> set[tuple[str, str]]:
    """Return the recorded addresses of the artifacts' folder, each with the current one."""
    moves = set()
    for (address,) in connection.execute("SELECT artifact_location FROM experiments"):
        before, name, below = str(address).rpartition(f"/{root.name}/")
        now = root.as_uri() if address.startswith("file:") else str(root)
        folder = root / (unquote(below) if now.startswith("file:") else below)
        if name and f"{before}/{root.name}" != now and folder.is_dir():
            moves.add((f"{before}/{root.name}", now))
    return moves


def network_file_system(path: Path, mounts: str | None = None) -> str | None:
    """Return the kind of the network file system of `path`, None for a local file system.

    Args:
        path: need not exist.
        mounts: text in the form of /proc/mounts; None to read that file.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/mounts").read_text(errors="replace")
        except OSError:
            return None
    path = path.resolve()
    best, kind = -1, ""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        # Spaces are written as octal escapes.
        point = Path(fields[1].encode().decode("unicode_escape"))
        if path.is_relative_to(point) and len(point.parts) >= best:  # a later mount hides an earlier one
            best, kind = len(point.parts), fields[2]
    return kind if kind in NETWORK else None


def _is_current(file: Path) -> bool:
    """Return whether `file` has the newest schema."""
    return schema_revision(file) == _newest_revision()


@functools.cache
def _newest_revision() -> str:
    """Return the newest schema's revision."""
    revision = internals.newest_revision()
    if revision is None:
        with tempfile.TemporaryDirectory(prefix="search-") as folder:
            file = Path(folder) / "fresh.db"
            file.write_bytes(make_fresh_database())
            revision = schema_revision(file)
    assert revision is not None
    return revision


def schema_revision(file: Path) -> str | None:
    """Return the schema's revision, None if there is no database yet."""
    if not file.exists() or file.stat().st_size == 0:
        return None
    with closing(sqlite3.connect(file)) as connection:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0]) if row else None


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.with_name(f"{file.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _upgrade(file: Path, wal: bool) -> None:
    """Make the database `file`, or bring it up to date, with a copy of the old one beside it."""
    from alembic.util import CommandError

    before = schema_revision(file)
    if before is None:
        _make_database(file, wal)
        return
    work, copy = (file.with_name(f".{file.name}.{os.getpid()}.{use}") for use in ("new", "old"))
    with _removed(file), closing(sqlite3.connect(file)) as watched:
        watched.execute("BEGIN IMMEDIATE")  # fails if the database is locked, before anything is copied
        watched.rollback()
        for _ in range(_ATTEMPTS):
            version = _data_version(watched)
            _copy(file, work)
            try:
                internals.upgrade_schema(work)
            except CommandError:
                raise OptionError(
                    f"{file} was written by a newer MLflow: upgrade with `pip install -U mlflow`"
                ) from None
            _copy(file, copy)
            if _data_version(watched) == version:
                copy.replace(file.with_name(f"{file.name}.{before}-{int(time.time())}{_BACKUP}"))
                _copy(work, file)
                return
    raise sqlite3.OperationalError("database is locked")  # by a process that writes again and again


_ATTEMPTS = 3
"""Migrations of a database that another process changes meanwhile, at most."""

_BACKUP = ".bak"
"""The end of the name of an old database's copy."""

_COPY_SECONDS = 60.0
"""Seconds that a copy waits for the locks of other processes."""


@contextmanager
def _removed(file: Path) -> Iterator[None]:
    """Remove the temporary files beside `file` at the end, and those of killed processes."""
    try:
        yield
    finally:
        for rest in file.parent.glob(f".{file.name}.*"):
            rest.unlink(missing_ok=True)


def _data_version(connection: sqlite3.Connection) -> int:
    """Return a number that changes if another connection changes the database."""
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

_LITTLE_SPACE = 1 << 20
"""Bytes that are free on a full disk at most: sqlite writes small files beside the database before it reads it."""


def _is_disk_full(error: sqlite3.Error, file: Path) -> bool:
    """Return whether a full disk is the cause. On one, sqlite cannot make the files beside the database either."""
    if "disk is full" in str(error):
        return True
    unwritten = "unable to open" in str(error) or "disk I/O" in str(error)
    return unwritten and shutil.disk_usage(file.parent).free < _LITTLE_SPACE


def _full(file: Path) -> str:
    return f"the disk of MLflow's database {file} is full: make room, and try again"


def _remedy(file: Path) -> str:
    """Return what to do about a damaged database."""
    copies = sorted(file.parent.glob(f"{file.name}.*{_BACKUP}"), key=lambda path: path.stat().st_mtime)
    if copies:
        return f"put its newest copy, {copies[-1].name}, in its place, and then `search sync` each study"
    return "move it away, or give another"


_fresh_lock = threading.Lock()
_fresh = b""


def make_fresh_database() -> bytes:
    """Return the bytes of a fresh database, which is made once a process.

    MLflow's 69 migrations take seconds. They can run before the place of the database is known.
    """
    global _fresh
    with _fresh_lock:
        if not _fresh:
            with tempfile.TemporaryDirectory(prefix="search-") as folder:
                file = Path(folder) / "fresh.db"
                internals.make_schema(file)
                _fresh = file.read_bytes()
        return _fresh


def warm_up() -> None:
    """Import the modules that MLflow needs to open a database, and have SQLAlchemy map its classes.

    That takes seconds of a processor. No database is opened.
    """
    from sqlalchemy.orm import configure_mappers

    _newest_revision()
    internals.warm_up_store()
    configure_mappers()


def _make_database(file: Path, wal: bool) -> None:
    """Write a fresh database to a temporary file, and rename that to `file` when it is whole."""
    work = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        work.write_bytes(make_fresh_database())
        with closing(sqlite3.connect(work)) as connection:
            connection.execute(f"PRAGMA journal_mode={'WAL' if wal else 'DELETE'}")
        with work.open("rb") as stream:
            os.fsync(stream.fileno())
        work.replace(file)
    finally:
        for rest in file.parent.glob(f"{work.name}*"):
            rest.unlink()


def _copy(source: Path, target: Path) -> None:
    """Copy a database in one transaction of `target`, whatever other processes do to both meanwhile.

    Raises:
        sqlite3.OperationalError: another process has locked one of them.
    """
    end = time.monotonic() + _COPY_SECONDS

    def check(status: int, remaining: int, total: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() > end:
            raise sqlite3.OperationalError("database is locked")

    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new, progress=check)
