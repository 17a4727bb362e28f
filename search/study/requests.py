"""Requests of the user to a running search, the replies to them, and their JSON.

Only the search's driver carries a request out: it decides a record, journals it, and then replies.
`search.study.request_files` brings requests to the driver, and replies back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search.errors import SearchError, nearest
from search.space.configurations import parse_configurations
from search.space.domain import Value

__all__ = [
    "STEERED_LIMITS",
    "Action",
    "AddConfigurations",
    "ChangeLimits",
    "ContinueSearch",
    "PauseSearch",
    "Reply",
    "Request",
    "StopTrial",
    "decode_reply",
    "decode_request",
    "encode_reply",
    "encode_request",
]

STEERED_LIMITS = ("max_trials", "timeout", "max_total_epochs", "target")
"""The options of a running search that may be changed."""


@dataclass(frozen=True, slots=True)
class AddConfigurations:
    """Try these configurations next, in this order: values by name."""

    configurations: tuple[Mapping[str, Value], ...]


@dataclass(frozen=True, slots=True)
class StopTrial:
    """A trial has given its best: train it no further, and keep its value."""

    trial: int


@dataclass(frozen=True, slots=True)
class PauseSearch:
    """End the running epochs, and begin no work."""


@dataclass(frozen=True, slots=True)
class ContinueSearch:
    """Go on with a paused search."""


@dataclass(frozen=True, slots=True)
class ChangeLimits:
    """Give options of `STEERED_LIMITS` new values, by name."""

    options: Mapping[str, Any]


Action = AddConfigurations | StopTrial | PauseSearch | ContinueSearch | ChangeLimits

_KINDS: dict[str, type[Action]] = {
    "add": AddConfigurations,
    "stop": StopTrial,
    "pause": PauseSearch,
    "continue": ContinueSearch,
    "set": ChangeLimits,
}


@dataclass(frozen=True, slots=True)
class Request:
    """A request.

    Attributes:
        id: its unique id.
        study: the uid of the study that it is for.
        action: the user's wish.
    """

    id: str
    study: str
    action: Action


@dataclass(frozen=True, slots=True)
class Reply:
    """The driver's reply to a request.

    Attributes:
        accepted: the request was carried out, or there was nothing to do.
        text: one line for the user: what was done and when it takes effect, or the reason of a refusal.
    """

    accepted: bool
    text: str


def encode_request(request: Request) -> str:
    """Return a request as JSON, without its id: that is its file's name."""
    action = request.action
    kind = next(kind for kind, cls in _KINDS.items() if type(action) is cls)
    data: dict[str, Any] = {"study": request.study, "kind": kind}
    match action:
        case AddConfigurations():
            data["configurations"] = [dict(values) for values in action.configurations]
        case StopTrial():
            data["trial"] = action.trial
        case ChangeLimits():
            data["options"] = dict(action.options)
    return json.dumps(data)


def decode_request(text: str, id: str) -> Request:
    """Return the request that `text` holds. ValueError, with a line for the user, if there is none in it."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if type(data) is not dict or type(data.get("study")) is not str:
        raise ValueError("it is no request")
    study, kind = data.pop("study"), data.pop("kind", None)
    if type(kind) is not str or kind not in _KINDS:
        raise ValueError(f"this version of search knows no request {str(kind)[:50]!r}.{nearest(str(kind), _KINDS)}")
    return Request(id, study, _decode_action(kind, data))


def _decode_action(kind: str, data: dict[str, Any]) -> Action:
    expected = {"add": {"configurations"}, "stop": {"trial"}, "set": {"options"}}.get(kind, set())
    if data.keys() != expected:
        raise ValueError(f"a request {kind!r} of this version of search has other fields")
    match kind:
        case "add":
            return AddConfigurations(_configurations(data["configurations"]))
        case "stop":
            if type(data["trial"]) is not int:
                raise ValueError(f"trial is {str(data['trial'])[:50]!r}: give the trial's number")
            return StopTrial(data["trial"])
        case "set":
            if type(data["options"]) is not dict or not data["options"]:
                raise ValueError("it names no limits")
            return ChangeLimits(data["options"])
        case "pause":
            return PauseSearch()
    return ContinueSearch()


def _configurations(data: Any) -> tuple[Mapping[str, Value], ...]:
    if type(data) is not list or not data or not all(type(values) is dict for values in data):
        raise ValueError("it has no configurations")
    try:
        return parse_configurations(data, "search add")
    except SearchError as error:
        raise ValueError(str(error)) from None


def encode_reply(reply: Reply) -> str:
    """Return a reply as JSON."""
    return json.dumps({"accepted": reply.accepted, "text": reply.text})


def decode_reply(text: str) -> Reply:
    """Return the reply that `text` holds. ValueError if there is none in it."""
    data = json.loads(text)
    if type(data) is not dict or type(data.get("accepted")) is not bool or type(data.get("text")) is not str:
        raise ValueError("it is no reply")
    return Reply(data["accepted"], data["text"])
