"""Queries in the addresses of servers and databases: they may hold tokens, which are neither stored nor shown."""

from __future__ import annotations

import re

__all__ = ["drop_queries", "hide_queries"]

_OPEN_IN_QUERIES = (
    *("application_name", "charset", "connect_timeout", "driver", "encrypt", "host", "page", "port", "ssl", "ssl_ca"),
    *("sslcert", "sslkey", "sslmode", "sslrootcert", "timeout", "trustservercertificate", "unix_socket"),
)
"""Names of values in a database's or a server's query that are no secrets. All others may be."""

_IN_QUERY = re.compile(r"([?&])([\w.%\[\]-]+)=([^&#\s\"'<>]*[^&#\s\"'<>.,:;)\]])")


def hide_queries(text: str) -> str:
    """Return `text` with `***` in the place of each value that may be a secret in the query of an address."""
    return _IN_QUERY.sub(lambda found: found[0] if _is_open(found) else f"{found[1]}{found[2]}=***", text)


def drop_queries(url: str) -> str:
    """Return the address of a database or a server without the values of its query that may be secrets."""
    base, _, query = url.partition("?")
    kept = [part for part in query.partition("#")[0].split("&") if part.partition("=")[0].lower() in _OPEN_IN_QUERIES]
    return base + ("?" + "&".join(kept) if kept else "")


def _is_open(found: re.Match[str]) -> bool:
    return found[2].lower() in _OPEN_IN_QUERIES
