"""The URLs of storage, and the file systems of fsspec's behind them.

fsspec is imported when a URL is used, and the package of the URL's protocol with it. Credentials come from the
environment. A URL may hold some, too: they are used, and neither stored nor shown.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlencode

from search.errors import OptionError, SearchError, Unavailable, nearest
from search.space.error_text import summarize_error

__all__ = ["describe", "drop_credentials", "join_url", "needs_folders", "open_url", "protocol_of", "storage_errors"]

_OPEN_OPTIONS = ("endpoint_url", "profile", "project", "account_name", "requester_pays")
"""Options of file systems that are no secrets. All others in a URL's query may be."""

_NAMES_BEFORE_AT = ("abfs", "abfss", "az", "ftp", "hdfs", "sftp", "smb", "ssh", "webhdfs")
"""Protocols whose URLs have a container's or a user's name before `@`. Elsewhere it may be a token."""

_OBJECT_STORES = ("abfs", "abfss", "az", "gcs", "gs", "oci", "oss", "s3", "s3a", "tos")
"""Protocols without folders: making one would make a bucket."""

_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "sftp": "paramiko", "ssh": "paramiko"}
_PACKAGES |= {"abfs": "adlfs", "abfss": "adlfs", "az": "adlfs", "smb": "smbprotocol", "hdfs": "pyarrow"}
_PACKAGES |= {"oci": "ocifs", "oss": "ossfs", "tos": "tosfs", "webdav": "webdav4", "hf": "huggingface_hub"}


def protocol_of(url: str) -> str:
    """Return the protocol of a URL; `file` for a path."""
    protocol, separator, _ = url.partition("://")
    return protocol.rpartition("::")[2] if separator else "file"


def needs_folders(url: str) -> bool:
    """Return whether a folder must be made before a file is written into it."""
    return protocol_of(url) not in _OBJECT_STORES


def join_url(url: str, *parts: str) -> str:
    """Return the URL of a place below `url`, with the same query."""
    base, mark, query = url.partition("?") if "://" in url else (url, "", "")
    return "/".join([base.rstrip("/"), *parts]) + mark + query


def drop_credentials(url: str) -> str:
    """Return a URL as it may be journaled and shown: without user, password, tokens and keys."""
    if "://" not in url:
        return url
    base, _, query = url.partition("?")
    # A password may have unescaped slashes. Digits after a host's colon are a port, not a password.
    base = re.sub(r"://[^\s/:@]*:(?!\d+(?:/|$))\S*@", "://", base)
    if protocol_of(url) not in _NAMES_BEFORE_AT:
        base = re.sub(r"://[^\s/@]*@", "://", base)
    kept = {name: drop_credentials(value) for name, value in parse_qsl(query) if name in _OPEN_OPTIONS}
    return base + ("?" + urlencode(kept, safe=":/") if kept else "")


def open_url(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it. The URL's query has options of the file system.

    Raises:
        OptionError: a package is not installed, or the protocol is not known.
    """
    try:
        import fsspec
    except ImportError:
        raise OptionError("--storage needs fsspec: pip install fsspec") from None
    base, _, query = url.partition("?") if "://" in url else (url, "", "")
    protocol = protocol_of(url)
    if protocol not in fsspec.available_protocols():
        known = nearest(protocol, fsspec.available_protocols())
        raise OptionError(f"--storage {drop_credentials(url)}: fsspec does not know the protocol {protocol}.{known}")
    try:
        fs, path = fsspec.url_to_fs(base, **dict(parse_qsl(query)))
    except ImportError as error:
        package = _PACKAGES.get(protocol) or str(error.name or protocol)
        raise OptionError(f"--storage {drop_credentials(url)} needs {package}: pip install {package}") from None
    return fs, path


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Raise Unavailable, without credentials, for an exception of a file system's that is raised within.

    A missing file stays a FileNotFoundError, and a full disk of this machine's an OSError.
    """
    try:
        yield
    except (FileNotFoundError, SearchError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        # Neither the traceback nor a cause may follow: they may name the URL.
        raise Unavailable(f"storage {drop_credentials(url)} does not answer ({describe(error, url)})") from None


def describe(error: Exception, url: str) -> str:
    """Return an exception of a file system's in one line, without the credentials of `url`."""
    text = summarize_error(error)
    for secret in sorted(_credentials(url), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _credentials(url: str) -> set[str]:
    """Return the credentials in a URL, as texts that may turn up in messages."""
    base, _, query = url.partition("?")
    found = {value for name, value in parse_qsl(query) if name not in _OPEN_OPTIONS}
    open_part = drop_credentials(base).partition("://")[2]
    user = base.partition("://")[2].removesuffix(open_part).removesuffix("@")
    return {text for text in found | {user, *user.split(":", 1)[1:]} if text}
