"""Optuna's private names and undocumented ways, behind functions with public names.

A private name may change with any release of Optuna. So each capability tests itself on a tiny example, the first time
that a process uses it. If the test fails, the capability is off: Optuna's public way gives the same decisions in more
time, and `capabilities_off` says so.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.pruners import BasePruner, HyperbandPruner
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial

__all__ = ["PRIVATE_NAMES", "capabilities_off", "hyperband_pruner", "set_intermediate_value", "set_param"]

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


# A trial's values -----------------------------------------------------------------------------------------------------

# Optuna's storage copies a whole trial for each value, for readers in other threads. But the trial that it returns is
# its own, without a word in its documentation.


@_tested("each value of a trial is set in a copy of the trial, with the same results, so a resume takes longer")
def _trials_are_live() -> bool:
    """Test whether a change of the trial that a storage returns is a change of the storage's."""
    storage = InMemoryStorage()
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))
    number = study.ask().number
    trial, distribution = storage.get_trial(number), FloatDistribution(0.0, 1.0)
    trial.intermediate_values[1], trial.params["x"], trial.distributions["x"] = 0.25, 0.5, distribution
    (found,) = study.get_trials(deepcopy=False)
    return (found.intermediate_values, found.params, found.distributions) == (
        {1: 0.25},
        {"x": 0.5},
        {"x": distribution},
    )


def set_param(storage: InMemoryStorage, number: int, name: str, value: Any, distribution: BaseDistribution) -> None:
    """Set a parameter of trial `number` in the only study of `storage`. `value` is as the user of Optuna sees it."""
    internal = distribution.to_internal_repr(value)
    if _trials_are_live():
        trial = storage.get_trial(number)
        trial.params[name], trial.distributions[name] = distribution.to_external_repr(internal), distribution
    else:
        storage.set_trial_param(number, name, internal, distribution)


def set_intermediate_value(storage: InMemoryStorage, number: int, epoch: int, value: float) -> None:
    """Set the objective of trial `number` after an epoch, if it has none yet."""
    found = storage.get_trial(number).intermediate_values
    if epoch in found:
        return
    if _trials_are_live():
        found[epoch] = value
    else:
        storage.set_trial_intermediate_value(number, epoch, value)


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
