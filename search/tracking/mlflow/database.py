"""The local store's database: made once, safely, and brought up to date.

Two processes that let MLflow itself open a fresh sqlite file at once spoil its migration for good. So it is made under
a file lock, in a temporary file that is renamed when whole.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from search.errors import OptionError, Unavailable

NETWORK = frozenset(
    (
        *("9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.sshfs", "glusterfs", "gpfs"),
        *("lustre", "ncpfs", "nfs", "nfs4", "pvfs2", "smb", "smb2", "smb3", "smbfs"),
    )
)
"""File systems whose clients do not share memory, which sqlite's write-ahead log needs."""


def initialise(file: Path) -> str | None:
    """Make the database where there is none; bring an older one up to date, after a copy beside it. Idempotent.

    Returns:
        A line for the user where the folder is on a network file system, so that the database works in plain mode.

    Raises:
        OptionError: it cannot be written, is no database of MLflow's, or a newer MLflow's.
        Unavailable: another process holds it.
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
        raise OptionError(
            f"{file} is no database that MLflow can use ({error}): move it away, or give another"
        ) from None
    except OSError as error:
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
"""Where MLflow writes down the places of artifacts, as absolute paths."""


def relocate(file: Path, root: Path) -> None:
    """Correct the artifacts' addresses where the store's folder has been moved, so that MLflow itself finds them.

    Args:
        root: the folder of the store's artifacts, as it stands now. Addresses below a folder of the same name elsewhere
            are changed where their experiment's folder is below `root`.

    Raises:
        Unavailable: another process holds the database.
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
    """What the artifacts' folder was called, and is called now."""
    moves = set()
    for (address,) in connection.execute("SELECT artifact_location FROM experiments"):
        before, name, below = str(address).rpartition(f"/{root.name}/")
        now = root.as_uri() if address.startswith("file:") else str(root)
        folder = root / (unquote(below) if now.startswith("file:") else below)
        if name and f"{before}/{root.name}" != now and folder.is_dir():
            moves.add((f"{before}/{root.name}", now))
    return moves


def network_file_system(path: Path, mounts: str | None = None) -> str | None:
    """The kind of network file system that holds `path`, None where it is local.

    Args:
        path: need not exist.
        mounts: text in the form of /proc/mounts, which is read where this is None.
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
        # Spaces stand as octal escapes.
        point = Path(fields[1].encode().decode("unicode_escape"))
        if path.is_relative_to(point) and len(point.parts) >= best:  # a later mount hides an earlier one
            best, kind = len(point.parts), fields[2]
    return kind if kind in NETWORK else None


def _is_current(file: Path) -> bool:
    """Whether `file` has the newest schema."""
    from mlflow.store.db.utils import _get_latest_schema_revision

    newest: str = _get_latest_schema_revision()
    return _revision(file) == newest


def _revision(file: Path) -> str | None:
    """The schema's revision, None where there is no database yet."""
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
    """Make `file`, or bring it up to date after a copy of it was put beside it."""
    from alembic.util import CommandError

    before = _revision(file)
    if before is None:
        _make(file, wal)
        return
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("BEGIN IMMEDIATE")  # what is locked is left as it is, and not copied at each attempt
        connection.rollback()
    backup = file.with_name(f"{file.name}.{before}-{int(time.time())}.bak")
    _copy(file, backup)
    try:
        _migrate(file, fresh=False)
    except CommandError:
        backup.unlink()
        raise OptionError(f"{file} was written by a newer MLflow: upgrade with `pip install -U mlflow`") from None


_making = threading.Lock()
_fresh = b""


def prepare() -> bytes:
    """A fresh database's bytes, made once a process.

    That takes seconds (the 69 migrations of MLflow's), which may pass before it is known where the database will be.
    """
    global _fresh
    with _making:
        if not _fresh:
            with tempfile.TemporaryDirectory(prefix="search-") as folder:
                file = Path(folder) / "fresh.db"
                _migrate(file, fresh=True)
                _fresh = file.read_bytes()
        return _fresh


def warm() -> None:
    """Import what MLflow imports when it opens a database, and have SQLAlchemy arrange its classes: seconds of a
    processor. Nothing is opened."""
    from mlflow.store.db.utils import _get_latest_schema_revision
    from sqlalchemy.orm import configure_mappers

    _get_latest_schema_revision()
    importlib.import_module("mlflow.store.tracking.sqlalchemy_store")
    configure_mappers()


def _make(file: Path, wal: bool) -> None:
    """A fresh database, in a temporary file that is renamed when whole."""
    work = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        work.write_bytes(prepare())
        with closing(sqlite3.connect(work)) as connection:
            connection.execute(f"PRAGMA journal_mode={'WAL' if wal else 'DELETE'}")
        with work.open("rb") as stream:
            os.fsync(stream.fileno())
        work.replace(file)
    finally:
        for left in file.parent.glob(f"{work.name}*"):
            left.unlink()


def _copy(source: Path, target: Path) -> None:
    """A consistent copy, whatever other processes do to `source` meanwhile."""
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


def _migrate(file: Path, fresh: bool) -> None:
    from mlflow.store.db import utils
    from sqlalchemy import event
    from sqlalchemy.exc import OperationalError

    engine = utils.create_sqlalchemy_engine(f"sqlite:///{file}")
    if fresh:

        @event.listens_for(engine, "connect")
        def in_haste(connection: Any, _: Any) -> None:
            # Nobody sees the file before it is whole and flushed; 69 migrations each wait for the disk otherwise.
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute("PRAGMA journal_mode=MEMORY")

    try:
        (utils._initialize_tables if fresh else utils._upgrade_db)(engine)
    except OperationalError as error:
        raise error.orig or error from None
    finally:
        engine.dispose()
