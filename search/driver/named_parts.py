"""The parts that the options name: checked before anything is written, and made so that none can harm a search."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from search.errors import OptionError
from search.options import Options
from search.plugins.loading import BACKENDS, EXECUTORS, FOLLOWERS, STOP_RULES, Registry
from search.plugins.spec import split_spec
from search.scheduler.stopping import CountingStopRule, StopRule
from search.study.records import Record, SearchEnded
from search.study.study import Study
from search.tracking.followers import FollowerSetup, FollowerThread

__all__ = ["check_parts", "make_followers", "make_rules", "package_versions"]

Report = Callable[[str, str], None]
"""A function that shows the user a line; its second argument is a traceback, or ""."""


def check_parts(opts: Options, before: Mapping[str, str]) -> None:
    """Load every part that the options name, and make each stop rule.

    Args:
        before: the versions of the study's last process: with them a message says which package is missing.

    Raises:
        OptionError: a part cannot be loaded, or does not take its arguments.
    """
    for registry, spec in _named(opts):
        try:
            registry.load(spec)
        except OptionError as error:
            source = before.get(_version_key(spec))
            hint = f" (the study last ran with it from {source})" if source else ""
            raise OptionError(f"{error}{hint}") from error
    for spec in opts.stop_rule:
        _make_rule(spec)


def package_versions(opts: Options) -> dict[str, str]:
    """Return the packages that the parts of other packages come from, to be journaled with the libraries' versions."""
    sources = {_version_key(spec): registry.source(spec) for registry, spec in _named(opts)}
    return {key: source for key, source in sources.items() if source is not None}


def _named(opts: Options) -> Iterator[tuple[Registry, str]]:
    """Yield each part that the options name, with its registry."""
    yield BACKENDS, opts.backend
    yield EXECUTORS, opts.executor
    yield from ((STOP_RULES, spec) for spec in opts.stop_rule)
    yield from ((FOLLOWERS, spec) for spec in opts.follow)


def _version_key(spec: str) -> str:
    return f"plug-in {split_spec(spec)[0]}"


# Stop rules -----------------------------------------------------------------------------------------------------------


def make_rules(opts: Options, report: Report) -> list[StopRule]:
    """Return the stop rules that the options name."""
    return [_guarded(split_spec(spec)[0], _make_rule(spec), report) for spec in opts.stop_rule]


def _make_rule(spec: str) -> Any:
    part = STOP_RULES.load(spec)
    try:
        return part.make(**part.arguments)
    except Exception as error:
        raise OptionError(
            f"--stop-rule {spec!r} cannot be used ({type(error).__name__}: {error}): check its arguments"
        ) from error


def _guarded(name: str, rule: Any, report: Report) -> StopRule:
    return _GuardedCountingRule(name, rule, report) if hasattr(rule, "apply") else _GuardedRule(name, rule, report)


class _GuardedRule:
    """A stop rule whose first exception ends the rule, and not the search.

    Args:
        name: of the rule, for messages.
        rule: the rule.
        report: shows the user a line.
    """

    protocol = 1

    def __init__(self, name: str, rule: StopRule, report: Report) -> None:
        self._name = name
        self._rule: Any = rule
        self._report = report

    def check(self, study: Study, now: float) -> SearchEnded | None:
        """Return the rule's answer."""
        if self._rule is None:
            return None
        try:
            end = self._rule.check(study, now)
        except Exception as error:
            self._drop(f"it failed ({type(error).__name__}: {error})", traceback.format_exc())
            return None
        if end is None or isinstance(end, SearchEnded):
            return end
        self._drop(f"its check gave {end!r}, which is neither a SearchEnded nor None")
        return None

    def _drop(self, why: str, details: str = "") -> None:
        self._rule = None
        self._report(f"stop rule {self._name} decides nothing more: {why}; the search goes on", details)


class _GuardedCountingRule(_GuardedRule):
    """The same for a rule that counts."""

    _rule: CountingStopRule | None

    def apply(self, record: Record, study: Study) -> None:
        """Let the rule take in a record."""
        if self._rule is None:
            return
        try:
            self._rule.apply(record, study)
        except Exception as error:
            self._drop(f"it failed ({type(error).__name__}: {error})", traceback.format_exc())


# Followers ------------------------------------------------------------------------------------------------------------


def make_followers(opts: Options, setup: FollowerSetup, report: Report) -> list[FollowerThread]:
    """Return the followers that the options name, not yet started."""
    made = []
    for spec in opts.followers:
        part = FOLLOWERS.load(spec)

        def make(setup: FollowerSetup, part: Any = part) -> Any:
            return part.make(setup, **part.arguments)

        made.append(FollowerThread(part.name, make, setup, copies=not part.own, report=report))
    return made
