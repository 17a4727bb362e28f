"""Secrets in texts that leave this machine: a report is mailed, and shipped to a server."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from search.tracking.mlflow.store import hide_users

__all__ = ["hide_secrets"]

HIDDEN = "***"

_SECRET_NAME = (
    r"(?:[\w.-]*(?:password|passwd|passphrase|secret|credential|access[_-]?key|api[_-]?key|account[_-]?key|"
    r"private[_-]?key|auth[_-]?token|access[_-]?token|session[_-]?token|sas[_-]?token)[\w.-]*|(?:[\w.-]*[_-])?token|"
    r"pwd|sig|signature)"
)
"""Names whose values are secrets. `key_dim` and `token_dropout` are hyperparameters, and none of them."""

_IN_QUERY = re.compile(rf"([?&](?:{_SECRET_NAME}|key)=)[^&\s\"'<>]+", re.IGNORECASE)
_ASSIGNED = re.compile(
    rf"(?<![\w.-])([\"']?{_SECRET_NAME}[\"']?\s*(?:=|:)\s*)(?:(?P<quote>[\"'])(?:(?!(?P=quote)).)+(?P=quote)"
    r"|(?![\"'\s({\[]|\w+[.(])[^\s,;&)\]}]{6,})",
    re.IGNORECASE,
)
_HEADER = re.compile(r"\b((?:Bearer|Basic|Token)\s+)[A-Za-z0-9._~+/=-]{8,}")
_TOKEN = re.compile(
    r"\b(?:AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|hf_[A-Za-z0-9]{20,}"
    r"|sk-[\w-]{20,}|xox[abprs]-[\w-]{10,}|dapi[0-9a-f]{32}|AIza[\w-]{30,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
)
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_MAY_HOLD = re.compile(
    r"://|=|: |AKIA|gh[pousr]_|github_pat_|glpat-|hf_|sk-|xox|dapi|AIza|eyJ|Bearer|Basic|Token|-----"
)

_SHORTEST = 8
"""The fewest characters of an environment variable's value that is searched in texts: `yes` is no secret."""


def hide_secrets(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return `text` with `***` in the place of each secret.

    Secrets are the users and passwords of addresses, the values of names such as `AWS_SECRET_ACCESS_KEY`, tokens of
    known forms, private keys, and the values that variables of `environment` with such names have.
    """
    for secret in _values(environment):
        if secret in text:
            text = text.replace(secret, HIDDEN)
    if not _MAY_HOLD.search(text):
        return text
    if "://" in text:
        text = _IN_QUERY.sub(rf"\g<1>{HIDDEN}", hide_users(text))
    text = _HEADER.sub(rf"\g<1>{HIDDEN}", _PRIVATE_KEY.sub(HIDDEN, text))
    return _TOKEN.sub(HIDDEN, _ASSIGNED.sub(_hide_assigned, text))


def _hide_assigned(found: re.Match[str]) -> str:
    quote = found["quote"] or ""
    return f"{found[1]}{quote}{HIDDEN}{quote}"


_NAME = re.compile(_SECRET_NAME, re.IGNORECASE)
_NO_SECRET = re.compile(r"(?:OLD)?PWD|.*_(?:FILE|PATH|DIR)", re.IGNORECASE)
"""Names of variables that hold a path: the working directory stands in each line of a traceback."""

_known: tuple[Mapping[str, str], int, list[str]] | None = None


def _values(environment: Mapping[str, str]) -> list[str]:
    """Return the secrets of `environment`, the longest first."""
    global _known
    if _known is None or _known[0] is not environment or _known[1] != len(environment):
        secret = {name for name in environment if _NAME.fullmatch(name) and not _NO_SECRET.fullmatch(name)}
        found = {environment[name] for name in secret if len(environment[name]) >= _SHORTEST}
        _known = environment, len(environment), sorted(found, key=len, reverse=True)
    return _known[2]
