"""KerasTuner's Hyperband: its oracle, which a tuner asks for trials. A promotion is another trial of KerasTuner's."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from regret_problems.problem import Config, Problem
from regret_problems.space import Choices, ask_one, only_active

from regret_methods.peer import Job
from search.space.domain import Domain, Value


class KerasTunerHyperband:
    """Hyperband by KerasTuner's oracle, which repeats its plan without end.

    It draws at random. So of a pool, a new trial gets a random configuration of those left.

    Args:
        problem: the problem.
        seed: of the search.
        choices: the configurations that are left.
    """

    def __init__(self, problem: Problem, seed: int, choices: Choices) -> None:
        os.environ.setdefault("KERAS_BACKEND", "numpy")  # nothing is trained, and TensorFlow takes seconds to import
        import keras_tuner

        self._problem, self._choices = problem, choices
        self._rng = random.Random(seed)
        self._numbers = itertools.count()
        self._oracle = _quiet(keras_tuner.oracles.HyperbandOracle)(
            objective=keras_tuner.Objective(problem.objective.name, problem.objective.direction),
            max_epochs=problem.max_epochs,
            factor=3,
            hyperband_iterations=10**6,
            seed=seed + 1,  # KerasTuner takes 0 for no seed
            hyperparameters=_declare(keras_tuner.HyperParameters(), problem),
            max_consecutive_failed_trials=10**6,
        )

    def ask(self) -> Job | None:
        """Return KerasTuner's next trial."""
        if not self._choices.left:
            return None
        trial = self._oracle.create_trial(f"worker-{next(self._numbers)}")
        if trial.status != "RUNNING":
            return None
        values = trial.hyperparameters.values
        begin, end = values["tuner/initial_epoch"], values["tuner/epochs"]
        if begin == 0 and self._problem.configs is not None:
            values.update(self._encoded(self._choices.draw(self._rng)))
        return Job(only_active(self._problem.parameters, self._decoded(values)), begin, end, trial)

    def _encoded(self, config: Config) -> dict[str, Value]:
        domains = {each.name: each.domain for each in self._problem.parameters}
        return {name: _encode(domains[name], value) for name, value in config.items()}

    def _decoded(self, values: Mapping[str, Any]) -> dict[str, Value]:
        """Return the values of the space's parameters among KerasTuner's."""
        return {
            each.name: each.domain.value(values[each.name]) if _by_index(each.domain) else values[each.name]
            for each in self._problem.parameters
            if each.name in values
        }

    def tell(self, job: Job, epoch: int, value: float) -> bool:
        """Report the value. An oracle stops no trial."""
        self._oracle.update_trial(job.trial.trial_id, {self._problem.objective.name: value}, step=epoch - 1)
        return False

    def end(self, job: Job, epoch: int, *, failed: bool) -> None:
        """End KerasTuner's trial."""
        job.trial.status = "FAILED" if failed else "COMPLETED"
        self._oracle.end_trial(job.trial)


def _by_index(domain: Domain) -> bool:
    """Return whether KerasTuner gets the indices of choices: it takes none that are None or of several types."""
    return domain.kind == "choice" and (None in domain.values or len(set(map(type, domain.values))) > 1)


def _encode(domain: Domain, value: Value) -> Value:
    return domain.index(value) if _by_index(domain) else value


def _declare(hp: Any, problem: Problem) -> Any:
    """Return `hp` with all parameters of the space, under their conditions."""
    domains = {each.name: each.domain for each in problem.parameters}
    for parameter in problem.parameters:
        domain = parameter.domain
        with ExitStack() as scopes:
            for condition in _all_conditions(problem, parameter):
                values = [_encode(domains[condition.name], value) for value in condition.values]
                scopes.enter_context(hp.conditional_scope(condition.name, values))
            if _by_index(domain):
                hp.Choice(parameter.name, list(range(len(domain.values))), ordered=domain.ordered)
            else:
                ask_one(parameter, hp)
    return hp


def _all_conditions(problem: Problem, parameter: Any) -> list[Any]:
    """Return the conditions of a parameter after those of the parameters that they name."""
    known = {each.name: each for each in problem.parameters}
    found: list[Any] = []
    for condition in parameter.conditions:
        found += [*_all_conditions(problem, known[condition.name]), condition]
    return found


def _quiet(oracle: Any) -> type[Any]:
    """Return a subclass that writes no files and prints nothing."""

    class Quiet(oracle):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self._display.verbose = 0

        def save(self, *args: Any, **options: Any) -> None:
            pass

        def _save_trial(self, trial: Any) -> None:
            pass

    return Quiet
