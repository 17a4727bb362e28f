"""The exceptions that a user can meet, and nothing else.

    SearchError                     base of them all
    ├── UserError                   the input is wrong: one clear line, exit code 2
    │   ├── SpaceError              … in the space file (or the factory and data given to `search.run`)
    │   ├── OptionError             … in an option of the command line, of `search_options` or of `search.run`
    │   ├── StudyError              … about a study: it exists, it does not, its space has changed
    │   └── TrackingRefused         the tracking server says no (401, 403)
    ├── JournalError                a journal cannot be read or written, or another process writes it
    ├── NoResult                    the search has no trial with an objective, exit code 1
    ├── FallsShort                  the best trial does not fulfil `--require`, exit code 3
    ├── Unfinished                  the search has stopped before its job's end, exit code 75
    └── Unavailable                 something outside is out of reach for now: warn and go on

    Infeasible                      raised by the user's code: this configuration is not to be trained

Every message is one line that says what is wrong, where, and what to do.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

__all__ = [
    "FALLS_SHORT",
    "UNFINISHED",
    "FallsShort",
    "Infeasible",
    "JournalError",
    "NoResult",
    "OptionError",
    "SearchError",
    "SpaceError",
    "StudyError",
    "TrackingRefused",
    "Unavailable",
    "Unfinished",
    "UserError",
    "nearest",
]


FALLS_SHORT = 3
"""The exit code of a search that is done, and whose best trial does not fulfil `--require`."""

UNFINISHED = 75
"""The exit code of a search that goes on with the same command later (`EX_TEMPFAIL` of sysexits.h)."""


class SearchError(Exception):
    """Base of every error that `search` raises on purpose. Its text is one line that says what to do.

    Example:
        A script that goes on without the search's result::

            import search

            try:
                study = search.load_study("nothing")
            except search.SearchError as error:
                print(error)      # it names the studies that there are
    """


class UserError(SearchError):
    """The user's input is wrong; the message is one line that says what, where and what to do."""


class SpaceError(UserError):
    """The space file, or the factory and data in its place, has an error."""


class OptionError(UserError):
    """An option has a value that cannot be used."""


class StudyError(UserError):
    """A study exists already, does not exist, or does not fit the space file or the options."""


class TrackingRefused(UserError):
    """The tracking server refuses these credentials."""


class JournalError(SearchError):
    """A journal is damaged, or another process writes it."""


class NoResult(SearchError):
    """No trial has an objective."""


class FallsShort(SearchError):
    """The search is done, and its best trial does not fulfil `require`; `load_study` has the results.

    Example:
        ::

            import search

            try:
                search.run("space.py", study="strict", max_epochs=1, max_trials=1, require="val_accuracy>=1.1", seed=0)
            except search.FallsShort as error:
                print(error)
                study = search.load_study("strict")
    """


class Unfinished(SearchError):
    """The search has stopped in order before its job's end; it goes on with `resume=True`.

    Example:
        A batch script that asks Slurm to run it again, by the exit code 75::

            import sys

            import search

            try:
                search.run("space.py", study="requeued", max_epochs=1, max_trials=1, resume=True, progress=False)
            except search.Unfinished as error:
                sys.exit(75)
    """


class Unavailable(SearchError):
    """A service is out of reach for now; the work can be done later."""


class Infeasible(Exception):
    """The user's code raises it in `build_model` to refuse a configuration.

    The trial ends as `infeasible`. It costs no epoch and counts as no failure; samplers learn from it as from the worst
    value. Raised after a trial's first epoch, it is an error like any other.

    Args:
        reason: one line for people, such as "the kernel is larger than the image"; "" by default.

    Example:
        ::

            import search

            def build_model(hp):
                kernel, pools = hp.Choice("kernel", [3, 5, 7]), hp.Int("pools", 1, 4)
                if 28 // 2**pools < kernel:
                    raise search.Infeasible(f"{pools} pools leave nothing for a kernel of {kernel}")
                ...
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)


def nearest(word: str, candidates: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the candidate nearest to `word`, or "" if none is near.

    A candidate of the same words in another order is the nearest.
    """
    known = list(candidates)
    matches = [each for each in known if _words(each) == _words(word)]
    matches = matches or difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" Did you mean '{matches[0]}'?" if matches else ""


def _words(name: str) -> list[str]:
    return sorted(re.findall(r"[^\W_]+", name.lower()))
