"""Capabilities: uses of private names of Keras and of its frameworks, each of which tests itself.

A private name may change with any release. So a capability tries itself on a tiny example, the first time that a
process uses it. If the test fails, the capability is off in this process: the public way is used, and one line says so.

Private names stand in modules called `internals` (or `…_internals`) only. Capabilities with one name are parts of one
thing for the user: one line says that it is off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

__all__ = ["CAPABILITIES", "Capability", "capability", "describe_off", "lines_of_off", "public_calls_only"]

CAPABILITIES: list[Capability] = []
"""The capabilities of the islands that this process has imported."""

_public_only = False


class Capability:
    """A use of private names.

    Args:
        name: a noun for users, such as "graph sharing".
        without: the consequence if it is off, for users.
        uses: the private names, dotted from their package on. The last part is the name itself.
        test: returns whether the names do what is needed here. An exception means that they do not.
        packages: returns the packages that the names belong to, with their versions.
        for_speed: it makes training faster and changes nothing else. So `public_calls_only` does without it.

    Attributes:
        reason: the reason why it is off; None if it is on, or if it is not tested yet.
    """

    def __init__(
        self,
        test: Callable[[], bool],
        *,
        name: str,
        without: str,
        uses: tuple[str, ...],
        packages: Callable[[], str],
        for_speed: bool,
    ) -> None:
        self.name = name
        self.uses = uses
        self.for_speed = for_speed
        self.reason: str | None = None
        self._without = without
        self._packages = packages
        self._test = test
        self._is_tested = False
        CAPABILITIES.append(self)

    @property
    def works(self) -> bool:
        """True if the private names may be used. The first time in a process, they are tested."""
        if self.for_speed and _public_only:
            return False
        if not self._is_tested:
            self._is_tested = True
            # In a thread of its own: the scope of a distribution strategy, or a graph, ends at its thread.
            with ThreadPoolExecutor(1) as thread:
                works = thread.submit(self._passes).result()
            if not works:
                self.turn_off(f"{self._packages()} has other internals")
        return self.reason is None

    def _passes(self) -> bool:
        try:
            return self._test()
        except Exception:
            return False

    def turn_off(self, reason: str) -> None:
        """Do without the capability in this process from now on."""
        self._is_tested, self.reason = True, self.reason or reason

    def forget(self) -> None:
        """Test the capability again when it is used next."""
        self._is_tested, self.reason = False, None

    @property
    def line(self) -> str:
        """One line for the user, if the capability is off."""
        return f"{self.name} is off, as {self.reason}: {self._without}"


def capability(
    name: str, *, without: str, uses: tuple[str, ...], packages: Callable[[], str], for_speed: bool = False
) -> Callable[[Callable[[], bool]], Capability]:
    """Return a decorator that makes a capability of its test. The arguments are those of `Capability`."""

    def decorate(test: Callable[[], bool]) -> Capability:
        return Capability(test, name=name, without=without, uses=uses, packages=packages, for_speed=for_speed)

    return decorate


def lines_of_off() -> list[str]:
    """Return a line for each capability that is off in this process. Those that were not tested yet are tested."""
    return list(_lines().values())


def describe_off(runner: str) -> str:
    """Return a runner's name with the capabilities that are off in this process."""
    return f"{runner} (off: {', '.join(_lines())})" if _lines() else runner


def _lines() -> dict[str, str]:
    """Return one line for each name of capabilities that are off."""
    off = [each for each in CAPABILITIES if not each.works and each.reason is not None]
    return {each.name: each.line for each in reversed(off)}


@contextmanager
def public_calls_only(active: bool = True) -> Iterator[None]:
    """Do without the capabilities that are there for speed, if `active`."""
    global _public_only
    before, _public_only = _public_only, _public_only or active
    try:
        yield
    finally:
        _public_only = before
