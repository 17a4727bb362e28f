"""MLflow's private names, behind functions with public names. This module imports MLflow only when it is used.

A private name may change with any release of MLflow. So each capability tests itself the first time that a process uses
it. If the test fails, the capability is off: MLflow's public way is used, and `capabilities_off` says so.
"""

from __future__ import annotations

import functools
import importlib
import sqlite3
import subprocess
import sys
import threading
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

__all__ = [
    "PRIVATE_NAMES",
    "artifact_repository",
    "capabilities_off",
    "import_whole",
    "is_autologging",
    "make_schema",
    "newest_revision",
    "upgrade_schema",
    "warm_up_store",
    "without_autologging",
]

_DATABASE = "mlflow.store.db.utils"
_STORE = "mlflow.store.tracking.sqlalchemy_store"
_ARTIFACTS = "mlflow.store.artifact.artifact_repository_registry"
_AUTOLOGGING = "mlflow.utils.autologging_utils"

PRIVATE_NAMES = {
    _DATABASE: ("_get_latest_schema_revision", "_initialize_tables", "_upgrade_db"),
    _ARTIFACTS: ("get_artifact_repository",),
    _AUTOLOGGING: ("autologging_is_disabled", "disable_autologging"),
}
"""The private names that this module uses, by the module that defines them."""

_CONSEQUENCES = {
    _DATABASE: "the schema of a local database is made by MLflow's commands, which takes some seconds more",
    _ARTIFACTS: "files are sent by MLflow's client, and models that are no longer among the best stay in MLflow",
    _AUTOLOGGING: "mlflow.autolog of the user's code is not seen, so the probe may leave a run in MLflow",
}

_off: set[str] = set()

_importing = threading.Lock()
"""Held while a thread of ours imports MLflow. A search in this process must not see half of it."""


def import_whole() -> None:
    """Import MLflow. Whoever asks for its internals in another thread meanwhile, waits."""
    with _importing:
        importlib.import_module("mlflow")
        with suppress(ImportError):
            importlib.import_module(_AUTOLOGGING)


def capabilities_off() -> list[str]:
    """Return a line for each capability that this process has tried and found to be off."""
    if not _off:
        return []
    import mlflow

    return [f"MLflow {mlflow.__version__} has other internals: {_CONSEQUENCES[module]}" for module in sorted(_off)]


def _private(module: str, name: str) -> Any:
    """Return a private function of MLflow's, or None. Then the capability of its module is off."""
    with suppress(ImportError, AttributeError):
        return getattr(importlib.import_module(module), name)
    _off.add(module)
    return None


# The schema of a database ---------------------------------------------------------------------------------------------


@functools.cache
def newest_revision() -> str | None:
    """Return the newest schema's revision, None if it cannot be known. The first call reads MLflow's 69 migrations."""
    find = _private(_DATABASE, "_get_latest_schema_revision")
    with suppress(Exception):
        if find is not None and (revision := find()):
            return str(revision)
    _off.add(_DATABASE)
    return None


def make_schema(file: Path) -> None:
    """Give the new database `file`, which nobody else sees, the newest schema."""
    if not _migrate(file, "_initialize_tables", fresh=True):
        file.unlink(missing_ok=True)
        _run("-c", f"import mlflow; mlflow.MlflowClient('sqlite:///{file}').search_experiments(max_results=1)")


def upgrade_schema(file: Path) -> None:
    """Bring the database `file` up to the newest schema.

    Raises:
        CommandError: a newer MLflow has written it.
        sqlite3.DatabaseError: it is locked, or no database of MLflow's.
    """
    if not _migrate(file, "_upgrade_db", fresh=False):
        _run("-m", "mlflow", "db", "upgrade", f"sqlite:///{file}")


def _migrate(file: Path, name: str, *, fresh: bool) -> bool:
    """Migrate a database by a private function of MLflow's. Return whether there is one that takes an engine."""
    from sqlalchemy import create_engine, event
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    migrate = _private(_DATABASE, name)
    if migrate is None:
        return False
    engine = create_engine(f"sqlite:///{file}", poolclass=NullPool)
    if fresh:
        event.listen(engine, "connect", _write_fast)
    try:
        migrate(engine)
    except SQLAlchemyError as error:
        failure = getattr(error, "orig", None)  # sqlite's own
        raise failure or sqlite3.DatabaseError(f"its migration failed: {type(error).__name__} {error}") from None
    except (AttributeError, ImportError, TypeError):
        _off.add(_DATABASE)
        return False
    finally:
        engine.dispose()
    return True


def _write_fast(connection: Any, _: Any) -> None:
    # Nobody sees the file before it is whole and flushed. Otherwise each of 69 migrations waits for the disk.
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute("PRAGMA journal_mode=MEMORY")


def _run(*arguments: str) -> None:
    """Run Python with `arguments`. Raise what `upgrade_schema` raises."""
    from alembic.util import CommandError

    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    if done.returncode == 0:
        return
    if "Can't locate revision" in done.stderr:
        raise CommandError("a newer MLflow has written the database")
    locked = "database is locked" in done.stderr
    last = (done.stderr.strip() or "MLflow's command failed").splitlines()[-1]
    raise sqlite3.OperationalError("database is locked") if locked else sqlite3.DatabaseError(last)


def warm_up_store() -> None:
    """Import the modules that MLflow needs to open a database, if they have their present names."""
    with suppress(ImportError):
        importlib.import_module(_STORE)


# Artifacts ------------------------------------------------------------------------------------------------------------


def artifact_repository(client: Any, uri: str, *, run_id: str | None = None, model_id: str | None = None) -> Any:
    """Return the artifact repository at the address `uri`, which belongs to a run or to a logged model.

    MLflow's client knows the artifacts of a run or model only, at the address that MLflow has recorded.
    """
    make = _private(_ARTIFACTS, "get_artifact_repository")
    with suppress(AttributeError, ImportError, TypeError):
        if make is not None:
            repository = make(uri, tracking_uri=client.tracking_uri)
            if all(hasattr(repository, name) for name in vars(_ClientArtifacts) if not name.startswith("_")):
                return repository
    _off.add(_ARTIFACTS)
    return _ClientArtifacts(client, uri, run_id, model_id)


class _ClientArtifacts:
    """The artifacts of a run or of a logged model, by MLflow's client, with the methods of a repository of MLflow's."""

    def __init__(self, client: Any, uri: str, run_id: str | None, model_id: str | None) -> None:
        self._client = client
        self._uri = uri
        self._run_id = run_id
        self._model_id = model_id

    def log_artifact(self, file: str, path: str | None = None) -> None:
        self._client.log_artifact(self._run_id, file, path)

    def log_artifacts(self, folder: str, path: str | None = None) -> None:
        if self._model_id is not None:
            self._client.log_model_artifacts(self._model_id, folder, path)
        else:
            self._client.log_artifacts(self._run_id, folder, path)

    def list_artifacts(self, path: str | None = None) -> Any:
        return self._client.list_artifacts(self._run_id, path)

    def download_artifacts(self, path: str, folder: str) -> str:
        import mlflow

        address = f"{self._uri.rstrip('/')}/{path}"
        found = mlflow.artifacts.download_artifacts(
            artifact_uri=address, dst_path=folder, tracking_uri=self._client.tracking_uri
        )
        return str(found)

    def delete_artifacts(self, path: str) -> None:
        raise NotImplementedError("MLflow's client deletes no artifacts")


# Autologging ----------------------------------------------------------------------------------------------------------


def without_autologging() -> AbstractContextManager[Any]:
    """Return a context in which MLflow logs nothing by itself, if the user's code has imported it."""
    with _importing:
        disable = _private(_AUTOLOGGING, "disable_autologging") if "mlflow" in sys.modules else None
    context: AbstractContextManager[Any] = nullcontext() if disable is None else disable()
    return context


def is_autologging() -> bool:
    """Return whether the user's code has switched on autologging of `model.fit`."""
    with _importing:
        is_off = _private(_AUTOLOGGING, "autologging_is_disabled") if _AUTOLOGGING in sys.modules else None
    return is_off is not None and not all(map(is_off, ("keras", "tensorflow")))
