"""MLflow stores: addresses, connections and their errors, and the places of artifacts."""

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
from search.space.error_text import escape_unprintable
from search.study import paths
from search.study.addresses import drop_queries, hide_queries
from search.tracking.mlflow import database, internals

REACH_SECONDS = 3.0
"""The longest time for the first connection to a server, in seconds."""

_SERVERS = ("http", "https")
_DATABASES = ("postgresql", "mysql", "mssql")
_LATER = (408, 425, 429)
"""HTTP statuses that ask for another attempt later."""
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}

# MLflow reads these when it is imported or called; the user's own settings win. MLflow itself must not retry: it would
# repeat a `create_run` whose answer was late, and create two runs. The syncer retries, and searches the run first.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class Rejected(SearchError):
    """MLflow will never accept this request. It may accept others."""


# Addresses ------------------------------------------------------------------------------------------------------------


def resolve_uri(given: str | None, runs: str | Path) -> str:
    """Return the tracking address: `given`, else MLFLOW_TRACKING_URI, else the local store `sqlite:///RUNS/mlflow.db`.

    Paths in it become absolute.

    Raises:
        OptionError: MLflow cannot use the address.
    """
    uri = given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{paths.local_store(runs)}"
    scheme = uri.partition(":")[0].partition("+")[0] if "://" in uri else ""
    if scheme == "sqlite":
        file = uri.partition("://")[2].partition("?")[0]
        if file and not file.startswith("/"):
            # Two slashes begin a host's name, of which sqlite knows none.
            raise OptionError(f"tracking address {uri!r} lacks a slash: give sqlite:///{file}")
        file = file[1:]
        if file in ("", ":memory:"):
            raise OptionError(f"tracking address {uri!r} names no file: give sqlite:///PATH/mlflow.db")
        return f"sqlite:///{Path(file).absolute()}"
    if scheme in (*_SERVERS, *_DATABASES, "databricks") or uri == "databricks":
        _check_host(uri)
        return uri
    kind, colon, rest = uri.partition(":")
    if not scheme and colon and kind.partition("+")[0] in ("sqlite", *_SERVERS, *_DATABASES):
        slashes = "///" if kind.startswith("sqlite") else "//"
        meant = redact(f"{kind}:{slashes}{rest.lstrip('/')}")
        raise OptionError(f"tracking address {kind}:… lacks slashes: give {meant}")
    if scheme in ("", "file"):
        folder = Path(unquote(urlsplit(uri).path) if scheme else uri).absolute()
        raise OptionError(
            f"tracking address {uri!r} is a folder, and MLflow no longer keeps runs in files: "
            f"give sqlite:///{folder}/mlflow.db, or a server's http:// address"
        )
    raise OptionError(
        f"tracking address {redact(uri)!r} is of no kind that MLflow knows: give sqlite:///PATH or http://…"
    )


def _check_host(uri: str) -> None:
    """Raise OptionError if the address has no host or port that can be read, such as `http://[::1`."""
    try:
        _ = urlsplit(uri).port
    except ValueError:
        raise OptionError(
            f"tracking address {redact(uri)!r} has no valid host or port: check --tracking-uri. An IPv6 host has "
            "brackets, as in http://[::1]:5000"
        ) from None


def redact(text: str) -> str:
    """Return `text` without the user names, the passwords and the tokens of the addresses in it."""
    # An error of an HTTP library's names the path alone, with the query.
    return hide_queries(hide_users(text))


def hide_users(text: str) -> str:
    """Return `text` without the user names and the passwords of the addresses in it."""
    # A password may have unescaped slashes. Digits after a host's colon are a port, not a password.
    return re.sub(r"://(?:[^\s/?#]*|[^\s/:@]*:(?!\d+/)\S*)@", "://***@", text)


def without_credentials(uri: str) -> str:
    """Return an address as it may be written down. A resume takes the credentials from the environment or the user."""
    return drop_queries(redact(uri).replace("://***@", "://"))


def local_database(uri: str) -> Path | None:
    """Return the database file of a local store, None for any other address."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


# Connections ----------------------------------------------------------------------------------------------------------


def configure_mlflow() -> None:
    """Set MLflow's environment variables and quieten its loggers. Call this before each import of mlflow."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # It logs a traceback for every locked database. The caller reports that in one line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def connect(uri: str, *, create: bool = True) -> Any:
    """Return an `MlflowClient` of a store that has answered once.

    Credentials for a server come from MLflow's environment variables.

    Args:
        uri: the tracking address, as `resolve_uri` gave it.
        create: make a local store if there is none.

    Raises:
        TrackingRefused: the server answers 401 or 403.
        Unavailable: nothing answers; known within seconds.
        OptionError: the server is not MLflow, or the local database cannot be used or is missing.
    """
    configure_mlflow()
    file = local_database(uri)
    if file is not None:
        if not create and not file.exists():
            raise OptionError(f"there is no MLflow database {file}: check --runs and --tracking-uri")
        database.initialise(file)
    else:
        _reach(uri)
    with translate_errors(uri):
        from mlflow import MlflowClient

        try:
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            with translate_errors(uri):
                client.search_experiments(max_results=1)
        except Rejected as error:
            raise OptionError(f"no MLflow tracking server at {redact(uri)}: {error}: check --tracking-uri") from None
    return client


@contextmanager
def translate_errors(uri: str, *, core: bool = False) -> Iterator[None]:
    """Turn MLflow's exceptions into TrackingRefused, Unavailable or Rejected, each one line without passwords.

    Args:
        core: every MLflow version has the requested endpoint. So a 404 that does not come from MLflow itself means that
            a proxy answers for a server that is away. Otherwise it may mean an older server.
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
                f"MLflow at {where} refuses this host name ({status}): start the server with it in --allowed-hosts"
                if "Invalid Host" in str(error)
                else f"MLflow at {where} refuses these credentials ({status}): set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            ) from None
        away = core and status == 404 and not _is_of_mlflow(error)
        if (status < 500 or status == 501) and not away:  # not implemented: never will be
            raise Rejected(what) from None
        raise Unavailable(f"MLflow at {where} is out of reach ({what})") from None


def _status(error: Exception) -> int | None:
    """Return the HTTP status that `error` stands for: 503 for a broken connection, None for other kinds of errors."""
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
    """Return whether MLflow's server or client raised `error`: then it has an error code of MLflow's."""
    from mlflow.exceptions import MlflowException, RestException

    return isinstance(error, RestException) or (
        isinstance(error, MlflowException) and error.error_code != "ENDPOINT_NOT_FOUND"
    )


def _cause(error: Exception) -> str:
    """Return the cause of `error` in a few words."""
    text = escape_unprintable(redact(" ".join(str(error).split())))
    if "database is locked" in text:
        return "its database is locked by another process"  # the rest of the text is a page of SQL
    if "database or disk is full" in text or "No space left" in text:
        return "its disk is full"
    if "timeout" in text.lower() or "timed out" in text:
        return "no answer in time"
    system = re.search(r"\[Errno -?\d+\] ([^'\")]+)", text)
    if system:
        return system[1]
    return text if len(text) <= 200 else f"{text[:197]}…"


def _reach(uri: str) -> None:
    """Open and close a connection to the host of `uri`, as MLflow's own attempts can take minutes to fail.

    Raises:
        Unavailable: the host does not answer.
        OptionError: the address has no valid port.
    """
    import requests

    address = urlsplit(uri)
    port = address.port or _PORTS.get(address.scheme.partition("+")[0])
    if address.hostname is None or port is None or requests.utils.get_environ_proxies(uri, no_proxy=None):
        return
    try:
        socket.create_connection((address.hostname, port), timeout=REACH_SECONDS).close()
    except OSError as error:
        what = "no answer in time" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise Unavailable(f"MLflow at {redact(uri)} is out of reach ({what})") from None


# Artifacts ------------------------------------------------------------------------------------------------------------


def run_artifacts(client: Any, run: Any) -> Any:
    """Return the artifact repository of an MLflow run. It is found even if a local store has been moved."""
    address = current_address(client, run.info.artifact_uri)
    return internals.artifact_repository(client, address, run_id=run.info.run_id)


def model_artifacts(client: Any, logged: Any) -> Any:
    """Return the artifact repository of a logged model. It is found even if a local store has been moved."""
    address = current_address(client, logged.artifact_location)
    return internals.artifact_repository(client, address, model_id=logged.model_id)


def current_address(client: Any, uri: str) -> str:
    """Return the artifact address that was recorded as `uri`; in a local store that was moved, the new address."""
    file = local_database(client.tracking_uri)
    return uri if file is None else relocated(uri, artifact_root(file))


def artifact_root(file: Path) -> Path:
    """Return the artifact folder of the local store with the database `file`."""
    return paths.local_artifacts(file.parent)


def relocated(uri: str, root: Path) -> str:
    """Return the artifact address `uri` of a local store, moved below `root` unless only the recorded place exists."""
    recorded = Path(unquote(urlsplit(uri).path) if uri.startswith("file:") else uri)
    if root.name not in recorded.parts or not recorded.is_absolute():
        return uri
    last = len(recorded.parts) - 1 - recorded.parts[::-1].index(root.name)
    here = root.joinpath(*recorded.parts[last + 1 :])
    return str(recorded if recorded.exists() and not here.exists() else here)
