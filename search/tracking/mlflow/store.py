"""Where MLflow keeps what it is told: the address, the local database, connections and their errors."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from search.errors import OptionError, SearchError, TrackingRefused, Unavailable
from search.study import paths
from search.tracking.mlflow import database

REACH_SECONDS = 3.0

_SERVERS = ("http", "https")
_DATABASES = ("postgresql", "mysql", "mssql")
_LATER = (408, 425, 429)
"""Statuses that say: try it later."""
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}

# Read by MLflow when it is imported or called; the user's own settings win. No retries of MLflow's: it would repeat a
# `create_run` whose answer was late, and make two runs; the syncer retries, and looks for the run first.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class Rejected(SearchError):
    """MLflow will never accept this one request; others it may."""


# Addresses ------------------------------------------------------------------------------------------------------------


def resolve_uri(given: str | None, runs: str | Path) -> str:
    """The tracking address: `given`, else MLFLOW_TRACKING_URI, else the local store `sqlite:///RUNS/mlflow.db`.

    Paths in it come back absolute. OptionError for an address that MLflow cannot use.
    """
    uri = given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{paths.local_store(runs)}"
    scheme = uri.partition(":")[0].partition("+")[0] if "://" in uri else ""
    if scheme == "sqlite":
        file = uri.partition("://")[2].partition("?")[0][1:]
        if file in ("", ":memory:"):
            raise OptionError(f"tracking address {uri!r} names no file: give sqlite:///PATH/mlflow.db")
        return f"sqlite:///{Path(file).absolute()}"
    if scheme in (*_SERVERS, *_DATABASES, "databricks") or uri == "databricks":
        return uri
    if scheme in ("", "file"):
        folder = Path(unquote(urlsplit(uri).path) if scheme else uri).absolute()
        raise OptionError(
            f"tracking address {uri!r} is a folder, and MLflow no longer keeps runs in files: "
            f"give sqlite:///{folder}/mlflow.db, or a server's http:// address"
        )
    raise OptionError(
        f"tracking address {redact(uri)!r} is of no kind that MLflow knows: give sqlite:///PATH or http://…"
    )


def redact(text: str) -> str:
    """`text` without the user names and passwords of the addresses in it."""
    # A password may hold unescaped slashes; the digits of a port are none.
    return re.sub(r"://(?:[^\s/?#]*|[^\s/:@]*:(?!\d+/)\S*)@", "://***@", text)


def local_database(uri: str) -> Path | None:
    """The database file of a local store, None for any other address."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def initialise_local(runs: str | Path) -> str | None:
    """Make the local store under `runs`, or bring it up to date; see `database.initialise`."""
    prepare()
    return database.initialise(paths.local_store(runs))


# Connections ----------------------------------------------------------------------------------------------------------


def prepare() -> None:
    """Set MLflow's environment and quieten its loggers. To be called before each import of mlflow."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # It logs a traceback for every locked database; whoever calls says it in one line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def connect(uri: str, *, create: bool = True) -> Any:
    """An `MlflowClient` of the store at `uri` (as `resolve_uri` gave it), which has answered once.

    With `create`, a local store is made where there is none. Servers take credentials from MLflow's environment
    variables.

    Raises:
        TrackingRefused: the server says 401 or 403.
        Unavailable: nothing answers; known within seconds.
        OptionError: what answers is not MLflow, or the local database cannot be used, or is not there.
    """
    prepare()
    file = local_database(uri)
    if file is not None:
        if not create and not file.exists():
            raise OptionError(f"there is no MLflow database {file}: check --runs and --tracking-uri")
        database.initialise(file)
    else:
        _reach(uri)
    with translated(uri):
        from mlflow import MlflowClient

        try:
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            with translated(uri):
                client.search_experiments(max_results=1)
        except Rejected as error:
            raise OptionError(f"no MLflow tracking server at {redact(uri)}: {error}: check --tracking-uri") from None
    return client


@contextmanager
def translated(uri: str, *, core: bool = False) -> Iterator[None]:
    """Turn what MLflow raises into TrackingRefused, Unavailable or Rejected, each one line without passwords.

    Args:
        core: every MLflow has what is asked for. So where it is said not to be there, and not in MLflow's words, a
            proxy stands in for a server that is away; elsewhere the server may be an older one.
    """
    try:
        yield
    except SearchError:
        raise
    except ImportError:
        raise
    except Exception as error:
        status = _status(error)
        if status is None:
            raise
        where, what = redact(uri), _cause(error)
        if status in (401, 403):
            raise TrackingRefused(
                f"MLflow at {where} refuses these credentials ({status}): set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            ) from None
        away = core and status == 404 and not _is_of_mlflow(error)
        if (status < 500 or status == 501) and not away:  # not implemented: never will be
            raise Rejected(what) from None
        raise Unavailable(f"MLflow at {where} is out of reach ({what})") from None


def _status(error: Exception) -> int | None:
    """The HTTP status that `error` amounts to, 503 for a broken connection, None for an error of another kind."""
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import OperationalError

    if isinstance(error, requests.HTTPError) and error.response is not None:
        status = int(error.response.status_code)
        return 503 if status in _LATER else status
    if isinstance(error, MlflowException):
        status = int(error.get_http_status_code())
        return 503 if status in _LATER else status
    if isinstance(error, (ConnectionError, TimeoutError, requests.RequestException, OperationalError)):
        return 503
    return 400 if isinstance(error, OSError) else None


def _is_of_mlflow(error: Exception) -> bool:
    """Whether the server of MLflow itself said so, or its client: their words have a code of their own."""
    from mlflow.exceptions import MlflowException, RestException

    return isinstance(error, RestException) or (
        isinstance(error, MlflowException) and error.error_code != "ENDPOINT_NOT_FOUND"
    )


def _cause(error: Exception) -> str:
    """What went wrong, in a few words."""
    text = redact(" ".join(str(error).split()))
    if "database is locked" in text:
        return "its database is locked by another process"  # for the rest, it is a page of SQL
    if "database or disk is full" in text or "No space left" in text:
        return "its disk is full"
    if "timeout" in text.lower() or "timed out" in text:
        return "no answer in time"
    system = re.search(r"\[Errno -?\d+\] ([^'\")]+)", text)
    if system:
        return system[1]
    return text if len(text) <= 200 else f"{text[:197]}…"


def _reach(uri: str) -> None:
    """Open a connection to the address's host and close it: MLflow's own attempts can take minutes to fail."""
    import requests

    address = urlsplit(uri)
    try:
        port = address.port or _PORTS.get(address.scheme.partition("+")[0])
    except ValueError:
        raise OptionError(f"tracking address {redact(uri)!r} has no valid port: check --tracking-uri") from None
    if address.hostname is None or port is None or requests.utils.get_environ_proxies(uri, no_proxy=None):
        return
    try:
        socket.create_connection((address.hostname, port), timeout=REACH_SECONDS).close()
    except OSError as error:
        what = "no answer in time" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise Unavailable(f"MLflow at {redact(uri)} is out of reach ({what})") from None


# Artifacts ------------------------------------------------------------------------------------------------------------


def artifacts(client: Any, run: Any) -> Any:
    """The artifact repository of an MLflow run, found beside the database where a local store has been moved."""
    return repository(client, run.info.artifact_uri)


def repository(client: Any, uri: str) -> Any:
    """The artifact repository at `uri`, or where that has been moved to."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(placed(client, uri), tracking_uri=client.tracking_uri)


def placed(client: Any, uri: str) -> str:
    """An artifact address, beside the database where a local store has been moved."""
    file = local_database(client.tracking_uri)
    return uri if file is None else relocated(uri, artifact_root(file))


def artifact_root(file: Path) -> Path:
    """Where the local store of database `file` keeps artifacts."""
    return paths.local_artifacts(file.parent)


def relocated(uri: str, root: Path) -> str:
    """A local store's artifact address, under `root` unless only the recorded place exists."""
    recorded = Path(unquote(urlsplit(uri).path) if uri.startswith("file:") else uri)
    if root.name not in recorded.parts or not recorded.is_absolute():
        return uri
    last = len(recorded.parts) - 1 - recorded.parts[::-1].index(root.name)
    here = root.joinpath(*recorded.parts[last + 1 :])
    return str(recorded if recorded.exists() and not here.exists() else here)
