"""Everything that MLflow is sent of one run, and the requests that it is cut into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

# MLflow's limits: entries of a request, of them params and tags each.
_MAX_ENTRIES = 1000
_MAX_PARAMS_OR_TAGS = 100


class Point(NamedTuple):
    """One value of a metric; `timestamp` in milliseconds since the epoch."""

    key: str
    value: float
    timestamp: int
    step: int


class NewRun(NamedTuple):
    """The arguments that create a run; `time` in milliseconds since the epoch."""

    name: str
    time: int
    tags: dict[str, str]


class LogRequest(NamedTuple):
    """The content of one `log_batch` request."""

    points: list[Point]
    params: dict[str, str]
    tags: dict[str, str]

    def halves(self) -> tuple[LogRequest, ...]:
        """Return the content in two halves; nothing if it is a single value."""
        points, params, tags = self.points, list(self.params.items()), list(self.tags.items())
        middle = (len(points) + len(params) + len(tags)) // 2
        if not middle:
            return ()
        cuts = [min(middle, len(points))]
        cuts.append(min(middle - cuts[0], len(params)))
        cuts.append(middle - sum(cuts))
        return (
            LogRequest(points[: cuts[0]], dict(params[: cuts[1]]), dict(tags[: cuts[2]])),
            LogRequest(points[cuts[0] :], dict(params[cuts[1] :]), dict(tags[cuts[2] :])),
        )


@dataclass(slots=True)
class Change:
    """Everything that one run must be sent.

    Attributes:
        points, params, tags: the new ones.
        status: the new status, None if it stays.
        time: when the status changed, in milliseconds since the epoch.
    """

    points: list[Point] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    status: str | None = None
    time: int = 0

    def merge(self, later: Change) -> None:
        """Add a later change of the same run."""
        self.points += later.points
        # Params cannot change in MLflow: if two names become the same key, the first value stays.
        self.params = {**later.params, **self.params}
        self.tags |= later.tags
        if later.status is not None:
            self.status, self.time = later.status, later.time

    @property
    def size(self) -> int:
        """The number of values in it."""
        return len(self.points) + len(self.params) + len(self.tags) + (self.status is not None)

    def outdate(self, later: Change) -> None:
        """Drop what a later change of the same run has replaced."""
        self.tags = {name: value for name, value in self.tags.items() if name not in later.tags}
        if later.status is not None:
            self.status = None

    def requests(self) -> Iterator[LogRequest]:
        """Yield the change in pieces that MLflow accepts: 1,000 entries, of them 100 params and 100 tags."""
        params, tags = list(self.params.items()), list(self.tags.items())
        points = self.points
        while points or params or tags:
            room = _MAX_ENTRIES - min(len(params), _MAX_PARAMS_OR_TAGS) - min(len(tags), _MAX_PARAMS_OR_TAGS)
            yield LogRequest(points[:room], dict(params[:_MAX_PARAMS_OR_TAGS]), dict(tags[:_MAX_PARAMS_OR_TAGS]))
            points, params, tags = points[room:], params[_MAX_PARAMS_OR_TAGS:], tags[_MAX_PARAMS_OR_TAGS:]
