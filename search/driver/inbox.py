"""The driver's side of steering: requests become events of the controller, and its replies go back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from search.errors import SearchError, nearest
from search.options import Options, check_option, option_flag
from search.scheduler.events import Steer
from search.scheduler.limits import Limits
from search.space.domain import Parameter
from search.study.request_files import Received
from search.study.requests import STEERED_LIMITS, ChangeLimits, Reply, Request

__all__ = ["Inbox", "NoRequests", "Steering"]


class Inbox(Protocol):
    """The place where requests come in; `search.study.request_files.RequestFolder` is one."""

    def open(self) -> None:
        """Begin to accept requests. Those that are there already are never carried out."""

    def take(self) -> Sequence[Received]:
        """Return the requests that have come in, the oldest first. Cheap if there is none."""

    def reply(self, id: str, reply: Reply) -> None:
        """Reply to a request that was taken."""

    def close(self, reply: Reply) -> None:
        """Reply to all requests that were not taken."""


class NoRequests:
    """The inbox of a search that nobody steers."""

    def open(self) -> None:
        pass

    def take(self) -> Sequence[Received]:
        return ()

    def reply(self, id: str, reply: Reply) -> None:
        pass

    def close(self, reply: Reply) -> None:
        pass


class Steering:
    """The requests to a running search.

    Args:
        inbox: the place where they come in.
        options: the options of this process.
        limits_of: returns the limits that follow from options.
        parameters: hyperparameters that the space declares.
        frees_memory: the executor ends idle workers if it is told to.
    """

    def __init__(
        self,
        inbox: Inbox | None = None,
        options: Options | None = None,
        limits_of: Callable[[Options], Limits] = lambda options: Limits(),
        parameters: tuple[Parameter, ...] = (),
        *,
        frees_memory: bool = False,
    ) -> None:
        self._inbox: Inbox = NoRequests() if inbox is None else inbox
        self._options = Options() if options is None else options
        self._limits_of = limits_of
        self._parameters = parameters
        self._frees_memory = frees_memory

    def open(self) -> None:
        """Begin to accept requests."""
        self._inbox.open()

    def close(self, reason: str) -> None:
        """Refuse the requests that wait still: the search has ended because of `reason`."""
        self._inbox.close(Reply(False, f"the search has ended: {reason}"))

    def carry_out(self, handle: Callable[[Steer], Reply]) -> Iterator[Reply]:
        """Have each new request carried out, and reply to it. Yield the replies.

        Args:
            handle: lets the controller decide on a request, journals the decision, and returns the reply.
        """
        for received in self._inbox.take():
            event = None
            try:
                event = self._event(received)
                reply = handle(event)
            except _Unusable as error:
                reply = Reply(False, str(error))
            if event is not None and event.limits is not None and reply.accepted:
                assert isinstance(event.request.action, ChangeLimits)
                self._options = replace(self._options, **event.request.action.options)
            self._inbox.reply(received.id, reply)
            yield reply

    def _event(self, received: Received) -> Steer:
        """Return the event that a request is. `_Unusable` if it is none."""
        request = received.request
        if request is None:
            raise _Unusable(received.error)
        limits = None
        if isinstance(request.action, ChangeLimits):
            changed = checked_limits(request.action.options)
            request = Request(request.id, request.study, ChangeLimits(changed))
            limits = self._limits_of(replace(self._options, **changed))
        return Steer(request, limits, self._parameters, self._frees_memory)


class _Unusable(Exception):
    """A request cannot be used; the message is a line for the user."""


def checked_limits(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return new limits by name, each with its option's type. `_Unusable` if one cannot be used."""
    for name in options:
        if name not in STEERED_LIMITS:
            known = ", ".join(map(option_flag, STEERED_LIMITS))
            near = nearest(name, STEERED_LIMITS)
            raise _Unusable(f"{name[:50]!r} of a running search cannot be set: {known} can.{near}")
    try:
        return {name: check_option(name, value) for name, value in options.items()}
    except SearchError as error:
        raise _Unusable(str(error)) from None
