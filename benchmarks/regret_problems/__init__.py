"""The problems of `benchmarks/regret.py`: spaces with learning curves that need no training.

A `ProblemId` names one, so that any process can load it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from regret_problems.problem import Problem, ProblemError

__all__ = ["FAMILIES", "Problem", "ProblemError", "ProblemId", "load_problem"]

FAMILIES = {
    "lcbench": "LCBench",
    "noise": "LCBench, with the noise of 400 validation samples",
    "pools": "recorded pools",
    "synthetic": "synthetic curves",
    "conditional": "conditional space",
}
"""The families of problems by name, as `--problems` takes them, with the headings of their tables."""


@dataclass(frozen=True, order=True)
class ProblemId:
    """The name of a problem.

    Attributes:
        family: a key of `FAMILIES`.
        name: of the problem within its family.
        folder: the folder of its data, "" if it has none.
    """

    family: str
    name: str
    folder: str = ""


@functools.cache
def load_problem(which: ProblemId) -> Problem:
    """Return a problem, which is loaded once in each process. ProblemError if its data cannot be used."""
    if which.family in ("lcbench", "noise"):
        from regret_problems.lcbench import LCBench

        return LCBench(which.folder, int(which.name), noisy=which.family == "noise")
    if which.family == "pools":
        from regret_problems.pools import RecordedPool

        return RecordedPool(which.folder, which.name)
    if which.family == "synthetic":
        from regret_problems.synthetic import Synthetic

        return Synthetic(which.name)
    from regret_problems.synthetic import Conditional

    return Conditional()
