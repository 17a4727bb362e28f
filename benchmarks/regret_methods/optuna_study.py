"""Optuna's own study: its TPE sampler with one of its pruners, asked and told as its documentation shows."""

from __future__ import annotations

import warnings
from typing import Any

import optuna
from regret_problems.problem import Config, Problem
from regret_problems.space import Choices, walk_active

from regret_methods.peer import Job
from search.errors import OptionError
from search.space.domain import Domain, Value

PRUNERS = {
    "none": lambda _: optuna.pruners.NopPruner(),
    "median": lambda _: optuna.pruners.MedianPruner(),
    "hyperband": lambda epochs: optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs, reduction_factor=3),
    "halving": lambda _: optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
}
"""By name, a function that makes the pruner from the most epochs of a trial."""


class OptunaStudy:
    """TPE with a pruner.

    Of a pool, a trial gets the configuration left that is nearest to the sampler's, and the study is told that one.

    Args:
        problem: the problem.
        seed: of the search.
        choices: the configurations that are left.
        pruner: a key of `PRUNERS`.
    """

    def __init__(self, problem: Problem, seed: int, choices: Choices, *, pruner: str = "none") -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self._problem, self._choices = problem, choices
        self._storage = optuna.storages.InMemoryStorage()
        self._study = optuna.create_study(
            storage=self._storage,
            study_name=f"regret-{seed}",  # brackets of the Hyperband pruner follow from the name
            direction="maximize" if problem.objective.direction == "max" else "minimize",
            sampler=optuna.samplers.TPESampler(seed=seed),
            pruner=PRUNERS[pruner](problem.max_epochs),
        )
        self._best: dict[int, float] = {}
        self._pruned: set[int] = set()

    @staticmethod
    def check(*, pruner: str = "none") -> None:
        """Raise OptionError if there is no such pruner."""
        if pruner not in PRUNERS:
            raise OptionError(f"--methods optuna-study: pruner {pruner!r} is not known: use {', '.join(PRUNERS)}")

    def ask(self) -> Job | None:
        """Return a new trial for all epochs."""
        if not self._choices.left:
            return None
        trial = self._study.ask()
        drawn: dict[str, Value] = {}
        for parameter in walk_active(self._problem.parameters, drawn):
            drawn[parameter.name] = _suggest(trial, parameter.name, parameter.domain)
        config = self._choices.nearest(drawn)
        if config != drawn:
            self._correct(trial, config)
        return Job(config, 0, self._problem.max_epochs, trial)

    def tell(self, job: Job, epoch: int, value: float) -> bool:
        """Report the value, and return the pruner's decision."""
        job.trial.report(value, epoch)
        best = self._best.get(job.trial.number)
        if self._problem.objective.better(value, best):
            self._best[job.trial.number] = value
        pruned = epoch < job.to_epoch and bool(job.trial.should_prune())
        if pruned:
            self._pruned.add(job.trial.number)
        return pruned

    def end(self, job: Job, epoch: int, *, failed: bool) -> None:
        """Tell the study the trial's best value, or that it was pruned or failed."""
        states = optuna.trial.TrialState
        if failed:
            self._study.tell(job.trial, state=states.FAIL)
        elif job.trial.number in self._pruned:
            self._study.tell(job.trial, state=states.PRUNED)
        else:
            self._study.tell(job.trial, self._best[job.trial.number])

    def _correct(self, trial: Any, config: Config) -> None:
        """Write the values that are tried in place of those drawn."""
        study = self._storage.get_study_id_from_name(self._study.study_name)
        number = self._storage.get_trial_id_from_study_id_trial_number(study, trial.number)
        for parameter in self._problem.parameters:
            if parameter.name in config:
                distribution = _distribution(parameter.domain)
                internal = distribution.to_internal_repr(_encode(parameter.domain, config[parameter.name]))
                self._storage.set_trial_param(number, parameter.name, internal, distribution)


# A domain that Optuna lacks (steps on a logarithmic scale, a reversed one) is declared as an index or a probability.


def _is_native(domain: Domain) -> bool:
    return not domain.is_range or domain.sampling == "linear" or (domain.sampling == "log" and domain.step is None)


def _distribution(domain: Domain) -> Any:
    """Return a domain as Optuna's users declare it. Optuna's choices have no order."""
    if not domain.is_range:
        return optuna.distributions.CategoricalDistribution(domain.values)
    if not _is_native(domain):
        if domain.size is None:
            return optuna.distributions.FloatDistribution(0.0, 1.0)
        return optuna.distributions.IntDistribution(0, domain.size - 1)
    log = domain.sampling == "log"
    if domain.kind == "int":
        return optuna.distributions.IntDistribution(int(domain.low), int(domain.high), log, int(domain.step or 1))
    return optuna.distributions.FloatDistribution(domain.low, domain.high, log, domain.step)


def _encode(domain: Domain, value: Value) -> Value:
    if _is_native(domain):
        return value
    return domain.unit(value) if domain.size is None else domain.index(value)


def _decode(domain: Domain, value: Any) -> Value:
    if _is_native(domain):
        native: Value = value
        return native
    return domain.at(value) if domain.size is None else domain.value(value)


def _suggest(trial: Any, name: str, domain: Domain) -> Value:
    match _distribution(domain):
        case optuna.distributions.IntDistribution() as ints:
            value = trial.suggest_int(name, ints.low, ints.high, step=ints.step, log=ints.log)
        case optuna.distributions.FloatDistribution() as floats:
            value = trial.suggest_float(name, floats.low, floats.high, step=floats.step, log=floats.log)
        case _:
            value = trial.suggest_categorical(name, list(domain.values))
    return _decode(domain, value)
