"""A follower that posts to a web hook: each new best trial, each failed trial, and the end of the search.

Copy this file beside your space file and name it, with the address in the environment, as it may be a secret:

    SEARCH_WEBHOOK=https://hooks.example.com/… search run space.py --follow webhook:Webhook

The address may be an argument, too, which the study's journal keeps: `--follow webhook:Webhook:url=http://host/path`.

Each post is one JSON object: `study`, `event` (`new best`, `failed` or `ended`), `text` (a line for people, as Slack,
Mattermost and Discord's Slack-compatible hooks show it) and further fields of the event.

A follower lives in a thread of its own, so a slow server never delays the search. A post is given up after `timeout`
seconds, and tried `tries` times. A new best is posted once the disk has it, and at most one each `pause` seconds: of
several in between only the last is posted.
"""

import json
import math
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from search.plugins import records

FAILURES = 10
"""The most failed trials that are posted one by one: if all fail, nobody wants a thousand posts."""

CLOSING_SECONDS = 8.0
"""Seconds for the last posts. A search that has ended waits ten seconds for a follower."""


class Webhook:
    """Post the events of a search.

    Args:
        setup: the search, as each follower gets it.
        url: the address; by default that of the environment variable SEARCH_WEBHOOK.
        timeout: seconds for one post.
        tries: attempts for one post.
        pause: seconds between two new bests, at least.
    """

    protocol = 1

    def __init__(self, setup: Any, url: str = "", timeout: float = 5.0, tries: int = 2, pause: float = 10.0) -> None:
        self._url = url or os.environ.get("SEARCH_WEBHOOK", "")
        if not self._url.startswith(("http://", "https://")):
            raise ValueError("the web hook has no address: set SEARCH_WEBHOOK to one that begins with https://")
        self._study, self._say = setup.study, setup.say
        self._timeout, self._tries, self._pause = timeout, tries, pause
        self._better = max
        self._metric = ""
        self._best: float | None = None
        self._waiting: list[dict[str, Any]] = []
        self._new_best: dict[str, Any] | None = None
        self._next_best_at = 0.0
        self._failures = 0
        self._has_warned = False
        self._take_in(setup.entries)
        self._waiting.clear()  # an earlier process has posted these
        self._new_best = None

    def take(self, entries: Sequence[Any]) -> None:
        """Note the events in `entries`; they are posted when the disk has them."""
        self._take_in(entries)

    def flushed(self) -> None:
        """Post what has happened so far."""
        while self._waiting:
            event = self._waiting.pop(0)
            if event["event"] == "ended" and self._new_best is not None:
                self._post_best()
            self._post(event)
        if self._new_best is not None and time.monotonic() >= self._next_best_at:
            self._post_best()

    def close(self) -> None:
        """Post the rest, the end of the search last."""
        self._timeout, self._tries = min(self._timeout, CLOSING_SECONDS / 2), 1
        if self._new_best is not None:
            self._post_best()
        self.flushed()

    def _take_in(self, entries: Sequence[Any]) -> None:
        for entry in entries:
            match entry.record:
                case records.Header(objectives=objectives):
                    self._metric = objectives[0].name
                    self._better = max if objectives[0].direction == "max" else min
                case records.EpochDone() as epoch:
                    self._take_epoch(epoch)
                case records.SegmentEnded(outcome="failed" | "raised" | "fatal") as ended:
                    self._take_failure(ended)
                case records.SearchEnded() as ended:
                    best = (
                        "no trial has an objective" if self._best is None else f"best {self._metric} {self._best:.6g}"
                    )
                    self._note("ended", f"ended: {ended.reason}; {best}", reason=ended.reason, value=self._best)

    def _take_epoch(self, epoch: Any) -> None:
        value = epoch.logs.get(self._metric)
        if value is None or not math.isfinite(value):
            return
        if self._best is not None and (value == self._best or self._better(value, self._best) != value):
            return
        self._best = value
        text = f"new best {self._metric} {value:.6g} (trial {epoch.trial}, epoch {epoch.epoch})"
        fields = {"trial": epoch.trial, "epoch": epoch.epoch, "metric": self._metric, "value": value}
        self._new_best = self._event("new best", text, fields)

    def _take_failure(self, ended: Any) -> None:
        self._failures += 1
        if self._failures > FAILURES:
            return
        error = str(ended.error or "unknown").strip().splitlines()[0]
        more = "; further failures are not posted" if self._failures == FAILURES else ""
        self._note("failed", f"trial {ended.trial} failed: {error}{more}", trial=ended.trial, error=error)

    def _note(self, event: str, text: str, **fields: Any) -> None:
        self._waiting.append(self._event(event, text, fields))

    def _event(self, event: str, text: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {"study": self._study, "event": event, "text": f"{self._study}: {text}", **fields}

    def _post_best(self) -> None:
        found, self._new_best = self._new_best, None
        self._next_best_at = time.monotonic() + self._pause
        if found is not None:
            self._post(found)

    def _post(self, event: Mapping[str, Any]) -> None:
        body = json.dumps(event).encode()
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"}, method="POST")
        reason = ""
        for _ in range(self._tries):
            try:
                with urllib.request.urlopen(request, timeout=self._timeout):
                    return
            except urllib.error.HTTPError as error:
                reason = f"HTTP status {error.code}"
                if error.code < 500:
                    break  # it will not be accepted later, either
            except OSError as error:
                reason = str(getattr(error, "reason", error))
        if not self._has_warned:
            self._has_warned = True
            # The address itself may be a secret.
            self._say(f"the web hook does not take posts ({reason}): the search goes on")
