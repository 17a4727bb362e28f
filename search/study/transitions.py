"""The status of a trial, and the one table of its transitions.

A trial's status is finer than the state that users see. `Study.apply` moves each trial by this table, so a record that
does not fit is found where it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from search.errors import JournalError
from search.study.trial import State

__all__ = ["ENDS", "RUNNING", "TRANSITIONS", "VISIBLE", "Event", "Status", "UnfitRecord", "next_status"]

Status = Literal[
    "requested",
    "running",
    "stopping",
    "expiring",
    "halted",
    "expired",
    "raised",
    "failing",
    "refused",
    "paused",
    "completed",
    "stopped",
    "failed",
    "infeasible",
]
"""The status of a trial.

`requested`: its back end wants it trained, and no segment runs. A segment runs: `running`; `stopping` if the back end
has decided that the trial stops; `expiring` if its time is used up. A segment has ended, and the result is to be told:
`halted` after a stop, `expired` after a timeout, `failing` after a failure for good, `refused` if the trial is
infeasible. `raised`: an exception of the user's code ended the segment, and the trial may be tried again. `paused`: the
result is told, and the back end may want more. The last four are the ends."""

Event = Literal[
    "requested",
    "started",
    "told to stop",
    "out of time",
    "ended",
    "stopped by its back end",
    "ended by an exception",
    "ended by a failure",
    "refused",
    "abandoned",
    "told",
    "completed",
    "stopped",
    "failed",
    "infeasible",
]
"""An event in a trial's life. `abandoned`: the search's process died. The last four end the trial."""

TRANSITIONS: Mapping[Event, Mapping[Status, Status]] = {
    "requested": {"paused": "requested"},
    "started": {"requested": "running", "raised": "running"},
    "told to stop": {"running": "stopping", "expiring": "stopping"},
    "out of time": {"running": "expiring", "stopping": "stopping"},
    "ended": {"running": "requested", "stopping": "halted", "expiring": "expired"},
    "stopped by its back end": {"running": "halted", "stopping": "halted", "expiring": "halted"},
    "ended by an exception": {"running": "raised", "stopping": "failing", "expiring": "failing"},
    "ended by a failure": {"running": "failing", "stopping": "failing", "expiring": "failing"},
    "refused": {"running": "refused", "expiring": "refused"},
    "abandoned": {"running": "requested", "stopping": "halted", "expiring": "expired"},
    "told": dict.fromkeys(("requested", "halted", "expired", "raised", "failing", "refused"), "paused"),
    # A trial of an earlier back end phase ends without a result.
    "completed": dict.fromkeys(("paused", "requested", "expired", "raised"), "completed"),
    "stopped": dict.fromkeys(("paused", "requested", "expired", "raised", "halted"), "stopped"),
    "failed": dict.fromkeys(("paused", "failing"), "failed"),
    "infeasible": dict.fromkeys(("paused", "refused"), "infeasible"),
}
"""By event, the status after each status in which the event may happen."""

RUNNING: frozenset[Status] = frozenset(("running", "stopping", "expiring"))
ENDS: frozenset[Status] = frozenset(("completed", "stopped", "failed", "infeasible"))

VISIBLE: Mapping[Status, State] = {
    **dict.fromkeys(("running", "stopping", "expiring"), "running"),
    **dict.fromkeys(("requested", "halted", "expired", "raised", "failing", "refused", "paused"), "paused"),
    "completed": "completed",
    "stopped": "stopped",
    "failed": "failed",
    "infeasible": "infeasible",
}
"""The state that users see, by status."""


class UnfitRecord(JournalError):
    """A record cannot follow those before it. A reader of a journal adds the line to the message."""


def next_status(trial: int, status: Status, event: Event) -> Status:
    """Return the status of trial number `trial` after `event`. UnfitRecord if `event` cannot happen in `status`."""
    try:
        return TRANSITIONS[event][status]
    except KeyError:
        raise UnfitRecord(f"trial {trial} was {event} while it was {status}") from None
