"""Optuna's private names, behind functions with public names.

A private name may change with any release of Optuna. So each capability tests itself on a tiny example, the first time
that a process uses it. If the test fails, the capability is off: Optuna's public way gives the same decisions in more
time, and `capabilities_off` says so.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import optuna
from optuna.pruners import BasePruner, HyperbandPruner
from optuna.trial import FrozenTrial

__all__ = ["PRIVATE_NAMES", "capabilities_off", "hyperband_pruner"]

PRIVATE_NAMES = {"optuna.pruners._hyperband": ("_get_bracket_id",)}
"""The private names that this module uses, by the module that defines them."""


def capabilities_off() -> tuple[str, ...]:
    """Return a line for each capability that this process has tried and found to be off."""
    return tuple(_off)


_off: list[str] = []


def _tested(line: str) -> Callable[[Callable[[], bool]], Callable[[], bool]]:
    """Make a self-test run once a process. If it fails or raises, `line` is among `capabilities_off`."""

    def decorate(test: Callable[[], bool]) -> Callable[[], bool]:
        @functools.cache
        def works() -> bool:
            try:
                if test():
                    return True
            except Exception:
                pass  # it fails
            _off.append(f"Optuna {optuna.__version__}: {line}")
            return False

        return works

    return decorate


# Hyperband's brackets -------------------------------------------------------------------------------------------------

# Optuna's pruner computes the bracket of every trial again at each decision: milliseconds with thousands of trials.


class _CachedBrackets(HyperbandPruner):
    """Optuna's pruner, which computes each trial's bracket once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.brackets: dict[int, int] = {}
        self._is_begun = False

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        if not self._is_begun:  # until its first decision, Optuna puts all trials into one bracket
            self.brackets.clear()
            self._is_begun = True
        return super().prune(study, trial)

    def _get_bracket_id(self, study: optuna.Study, trial: FrozenTrial) -> int:
        bracket = self.brackets.get(trial.number)
        if bracket is None:
            bracket = self.brackets[trial.number] = super()._get_bracket_id(study, trial)
        return bracket


_TEST_TRIALS = 12


@_tested("the pruner hyperband computes all brackets again at each decision, with the same results")
def _brackets_can_be_cached() -> bool:
    """Test whether the pruner asks for the bracket of each trial, and decides as Optuna's own."""
    cached, own = _CachedBrackets(1, 9, 3), HyperbandPruner(1, 9, 3)
    return _decisions(cached) == _decisions(own) and len(cached.brackets) == _TEST_TRIALS


def _decisions(pruner: BasePruner) -> list[bool]:
    """Return the decisions of `pruner` on the first epochs of a few trials."""
    study = optuna.create_study(study_name="self-test", sampler=optuna.samplers.RandomSampler(seed=0), pruner=pruner)
    found = []
    for number in range(_TEST_TRIALS):
        trial = study.ask()
        for epoch in (1, 2, 3):
            trial.report(float(number * 7 % 5), epoch)
            found.append(trial.should_prune())
    return found


def hyperband_pruner(
    min_resource: int = 1, max_resource: str | int = "auto", reduction_factor: int = 3, bootstrap_count: int = 0
) -> BasePruner:
    """Return Optuna's Hyperband pruner, which stays fast with thousands of trials. The arguments are Optuna's.

    With `max_resource="auto"` the brackets change with the trials, and it is Optuna's own.
    """
    cls = _CachedBrackets if isinstance(max_resource, int) and _brackets_can_be_cached() else HyperbandPruner
    pruner: BasePruner = cls(min_resource, max_resource, reduction_factor, bootstrap_count)
    return pruner
