"""The choice of the process that trains the trials of a factory: a fork of this one, a new Python, or this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.executors.forked_process import ForkOptions
from search.options import Options

__all__ = ["Placement", "choose_place"]


@dataclass(frozen=True, slots=True)
class Placement:
    """The process that trains.

    Attributes:
        fork: how worker processes are forked from this process; None for others.
        early: this process's early fork is the origin of worker processes.
        inline: this process trains, although the user has not asked for it.
        refused: why the parts that cannot be pickled reach no worker; None if they do, or if there are none.
        lines: what the user is told.
    """

    fork: ForkOptions | None = None
    early: bool = False
    inline: bool = False
    refused: str | None = None
    lines: tuple[str, ...] = ()

    @property
    def imported(self) -> bool:
        """True if the worker processes' origin has imported the framework already."""
        return self.fork is not None or self.early


def choose_place(
    opts: Options,
    given: Mapping[str, Any],
    *,
    inherited: Sequence[str],
    unsafe: str | None,
    different: str | None = None,
    early: bool = False,
) -> Placement:
    """Return where the trials of a factory are trained.

    Args:
        opts: the options known so far.
        given: the options that the user gave, by name.
        inherited: the parts that cannot be pickled, for people.
        unsafe: why this process cannot be forked, as of `why_unsafe`; None if it can.
        different: why the results of a fork might differ; it counts only if another process could train.
        early: this process has an early fork that serves the search.
    """
    if opts.executor == "inline":
        return Placement()
    if opts.executor != "local":
        return Placement(refused=f"--executor {opts.executor} trains in other processes" if inherited else None)
    if not inherited:
        return Placement(fork=ForkOptions()) if unsafe is None and different is None else Placement(early=early)
    if unsafe is None:
        return Placement(fork=ForkOptions(files=True))
    several = opts.workers is not None and opts.workers > 1
    devices = opts.gpus not in ("auto", "none") or opts.gpus_per_trial != 1 or opts.logical_devices != 1
    if several or devices or given.get("executor") is not None:
        return Placement(refused=unsafe)
    line = f"{', '.join(inherited)} cannot be sent to worker processes, and {unsafe}: trials run here, one at a time"
    return Placement(inline=True, lines=(line,))
