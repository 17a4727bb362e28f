"""The user's side of steering: send a request to a running search, and tell the truth about what became of it."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Mapping
from typing import Any

from search.errors import OptionError, StudyError, Unavailable
from search.options import check_option, option_flag
from search.space.configurations import parse_configurations
from search.study import journal, lock
from search.study.paths import StudyPaths
from search.study.request_files import SentRequest
from search.study.requests import (
    STEERED_LIMITS,
    Action,
    AddConfigurations,
    ChangeLimits,
    ContinueSearch,
    PauseSearch,
    Reply,
    StopTrial,
)

__all__ = ["RunningSearch"]

WAIT_SECONDS = 5.0
"""Seconds that a reply is waited for."""

LOOK_SECONDS = 0.05
"""Seconds between two looks for a reply."""


class RunningSearch:
    """The running search of a study, for another process that steers it.

    Each method returns a line that says what was done, and when it takes effect.

    Args:
        paths: the study's files.
        uid: the study's uid.
        wait: seconds to wait for a reply. A request that the search has not taken by then is withdrawn.

    Raises:
        StudyError: by all methods: the search does not run, or refuses. Nothing has changed.
        Unavailable: by all methods: the search does not reply. The message says what became of the request.
    """

    def __init__(self, paths: StudyPaths, uid: str, wait: float = WAIT_SECONDS) -> None:
        self._paths = paths
        self._uid = uid
        self._wait = wait

    def add(self, configurations: Any) -> str:
        """Have `configurations` tried next: values by name, a list of these, JSON text, or a .json file."""
        return self._ask(AddConfigurations(parse_configurations(configurations, "add")))

    def stop(self, trial: int) -> str:
        """Train `trial` no further. It keeps its best value and its place."""
        return self._ask(StopTrial(operator.index(trial)))

    def pause(self) -> str:
        """End the running epochs, and begin no work."""
        return self._ask(PauseSearch())

    def go_on(self) -> str:
        """Let a paused search go on."""
        return self._ask(ContinueSearch())

    def set(self, options: Mapping[str, Any]) -> str:
        """Give the search other limits, by name. None leaves one as it is. OptionError if one cannot be used."""
        checked = {name: check_option(name, value) for name, value in options.items() if value is not None}
        if not checked:
            flags = [option_flag(name) for name in STEERED_LIMITS]
            raise OptionError(f"no limit is given: give {', '.join(flags[:-1])} or {flags[-1]}")
        return self._ask(ChangeLimits(checked))

    def _ask(self, action: Action) -> str:
        return _Conversation(self._paths, self._uid, action, self._wait).hold()


class _Conversation:
    """One request, from its sending to the user's line."""

    def __init__(self, paths: StudyPaths, uid: str, action: Action, wait: float) -> None:
        self._paths = paths
        self._name = paths.folder.name
        self._wait = wait
        self._until = time.monotonic() + wait
        if not self._runs:
            raise StudyError(
                f"study {self._name!r} is not being searched now: begin with search resume {self._name}, with new "
                "limits or --try-first"
            )
        self._sent = self._send(uid, action)

    @property
    def _runs(self) -> bool:
        """True if the search runs, as far as this machine knows: on another machine, it may have died."""
        return lock.is_held(self._paths.lock) or lock.holder_elsewhere(self._paths.lock) is not None

    def _send(self, uid: str, action: Action) -> SentRequest:
        # A search that begins makes the folder after its checks.
        self._wait_for(self._paths.requests.is_dir)
        try:
            return SentRequest(self._paths.requests, uid, action)
        except FileNotFoundError:
            raise Unavailable(
                f"study {self._name!r} takes no requests: its search is still beginning, or runs with an older "
                "version; try again later"
            ) from None
        except OSError as error:
            raise StudyError(
                f"{self._paths.requests} cannot be written ({error.strerror}): only who may write there can steer the "
                "search"
            ) from None

    def hold(self) -> str:
        try:
            self._wait_for(lambda: self._sent.reply() or not self._runs)
            return self._conclude()
        except KeyboardInterrupt:
            fate = "the request was withdrawn" if self._sent.withdraw() else "the search has taken the request"
            raise KeyboardInterrupt(f"stopped; {fate}") from None

    def _conclude(self) -> str:
        """Return the line for the user after the wait, or raise the error."""
        if (reply := self._sent.reply()) is not None:
            return self._read(reply)
        if self._sent.withdraw():
            if not self._runs:
                raise StudyError(f"the search of {self._name!r} has ended, and did not take the request")
            where = lock.holder_elsewhere(self._paths.lock)
            about = f", which may be dead: {where} ran it last" if where is not None else ""
            raise Unavailable(
                f"the search of {self._name!r}{about} did not answer in {self._wait:g} s: the request is withdrawn, "
                "nothing has changed; try again"
            )
        # The search has taken it: its reply is on the way, or its process has died.
        self._until = time.monotonic() + self._wait
        self._wait_for(lambda: self._sent.reply() or not (self._runs and self._sent.is_claimed))
        if (reply := self._sent.reply()) is not None:
            return self._read(reply)
        return self._consult_journal()

    def _consult_journal(self) -> str:
        """Return the line for a request that was taken and not replied to, from what the journal says of it."""
        runs, claimed = self._runs, self._sent.is_claimed
        entries = journal.read_all(self._paths.journal)
        if any(getattr(entry.record, "request", None) == self._sent.id for entry in entries):
            then = "" if runs else f"; the search has ended since, and search resume {self._name} goes on with it"
            return f"the request was carried out, though no answer came{then}"
        if runs and claimed:
            raise Unavailable(
                f"the search of {self._name!r} has taken the request and does not answer: see search status "
                f"{self._name} before you ask again"
            )
        raise StudyError(f"the search of {self._name!r} has not carried out the request: nothing has changed")

    def _read(self, reply: Reply) -> str:
        if not reply.accepted:
            raise StudyError(reply.text)
        return reply.text

    def _wait_for(self, condition: Callable[[], object]) -> None:
        """Wait until `condition()` is true, or the time is over."""
        while not condition() and time.monotonic() < self._until:
            time.sleep(LOOK_SECONDS)
