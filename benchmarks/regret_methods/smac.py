"""SMAC (Lindauer et al. 2022, JMLR 23), its multi-fidelity facade: Hyperband whose configurations a forest proposes."""

from __future__ import annotations

import tempfile
from typing import Any

import ConfigSpace
import smac
from regret_problems.problem import Config, Problem
from regret_problems.space import Choices, only_active
from smac.runhistory import StatusType, TrialValue

from regret_methods.peer import Job
from search.space.domain import Domain, Parameter, Value


class Smac:
    """SMAC by its ask-and-tell interface.

    SMAC starts a promoted configuration as a new trial. Here it goes on from its last epoch, as trials of others do.
    Of a pool, a new configuration stands for the one left that is nearest to it.

    Args:
        problem: the problem.
        seed: of the search.
        choices: the configurations that are left.
    """

    def __init__(self, problem: Problem, seed: int, choices: Choices) -> None:
        self._problem, self._choices = problem, choices
        self._folder = tempfile.TemporaryDirectory()
        scenario = smac.Scenario(
            _space(problem, seed),
            deterministic=True,
            n_trials=10**6,
            min_budget=1,
            max_budget=problem.max_epochs,
            seed=seed,
            output_directory=self._folder.name,
        )
        facade = smac.MultiFidelityFacade
        self._facade = facade(
            scenario,
            None,
            intensifier=facade.get_intensifier(scenario, eta=3),
            logging_level=False,
            overwrite=True,
        )
        self._configs: dict[Any, Config] = {}
        self._values: dict[Any, list[float]] = {}

    def ask(self) -> Job | None:
        """Return SMAC's next trial. One that needs no further epoch is answered at once."""
        while True:
            try:
                info = self._facade.ask()
            except StopIteration:
                return None
            if info.config not in self._configs:
                if not self._choices.left:
                    return None
                drawn = only_active(self._problem.parameters, self._decoded(info.config))
                self._configs[info.config] = self._choices.nearest(drawn)
                self._values[info.config] = []
            known, to_epoch = len(self._values[info.config]), max(1, round(info.budget))
            if known < to_epoch:
                return Job(self._configs[info.config], known, to_epoch, info)
            self._tell_best(info, to_epoch)

    def tell(self, job: Job, epoch: int, value: float) -> bool:
        """Note the value: SMAC hears of whole trials."""
        self._values[job.trial.config].append(value)
        return False

    def end(self, job: Job, epoch: int, *, failed: bool) -> None:
        """Tell SMAC the best value of the configuration so far."""
        if failed:
            self._facade.tell(job.trial, TrialValue(cost=float("inf"), status=StatusType.CRASHED), save=False)
        else:
            self._tell_best(job.trial, epoch)

    def _tell_best(self, info: Any, epoch: int) -> None:
        objective = self._problem.objective
        cost = objective.cost(objective.best(self._values[info.config][:epoch]))
        self._facade.tell(info, TrialValue(cost=cost), save=False)

    def _decoded(self, config: Any) -> dict[str, Value]:
        """Return the values of SMAC's configuration, those of active parameters."""
        known = dict(config)
        return {
            each.name: _decode(each.domain, known[each.name]) for each in self._problem.parameters if each.name in known
        }


# The space ------------------------------------------------------------------------------------------------------------


def _space(problem: Problem, seed: int) -> Any:
    """Return the space as SMAC has it."""
    space = ConfigSpace.ConfigurationSpace(seed=seed)
    made: dict[str, Any] = {}
    for parameter in problem.parameters:
        made[parameter.name] = _hyperparameter(parameter)
        space.add(made[parameter.name])
        conditions = []
        for condition in parameter.conditions:
            parent = next(each for each in problem.parameters if each.name == condition.name)
            values = [_encode(parent.domain, value) for value in condition.values]
            conditions.append(ConfigSpace.InCondition(made[parameter.name], made[condition.name], values))
        if conditions:
            space.add(conditions[0] if len(conditions) == 1 else ConfigSpace.AndConjunction(*conditions))
    return space


def _is_number(domain: Domain) -> bool:
    """Return whether SMAC has a range like `domain`; any other is the index of its values."""
    return (
        domain.is_range
        and domain.step in (None, 1)
        and domain.sampling in ("linear", "log")
        and domain.low < domain.high
    )


def _hyperparameter(parameter: Parameter) -> Any:
    name, domain = parameter.name, parameter.domain
    if _is_number(domain):
        kind = (
            ConfigSpace.UniformIntegerHyperparameter if domain.kind == "int" else ConfigSpace.UniformFloatHyperparameter
        )
        return kind(name, domain.low, domain.high, log=domain.sampling == "log")
    indices = list(range(domain.size or 1))
    if domain.is_range or domain.ordered:
        return ConfigSpace.OrdinalHyperparameter(name, indices)
    return ConfigSpace.CategoricalHyperparameter(name, indices)


def _encode(domain: Domain, value: Value) -> Any:
    return value if _is_number(domain) else domain.index(value)


def _decode(domain: Domain, value: Any) -> Value:
    if not _is_number(domain):
        return domain.value(int(value))
    return int(value) if domain.kind == "int" else float(value)
