"""A sampler's view of trials that are trained to different numbers of epochs (BOHB: Falkner, Klein and Hutter 2018,
"BOHB: Robust and Efficient Hyperparameter Optimization at Scale", ICML, section 4 and algorithm 2).

Scores at different budgets, counted in epochs, are not comparable. So each budget b of the plan has its own
observations D_b, and a draw is made from a model of the largest b with enough of them: |D_b| ≥ N_min + 2 with
N_min = d + 1 (algorithm 2, line 2), where d is the number of parameters. There must also be at least as many as the
sampler's own `n_startup_trials`: with fewer it draws at random. Until a budget has enough, the sampler sees the lowest.
A third of the trials is drawn at random throughout (line 1): a model that early epochs mislead does not mislead the
search. A sampler that goes through the space by itself, and learns nothing, gets no random draws.

A trial's score at b is its best value up to epoch b, so a trial that was trained to 9 epochs counts at 1, 3 and 9. A
failed trial is the worst at every b, and does not count as an observation. A trial that is trained for the first time
shows as running until it has a score. A trial that waits for its promotion, or was promoted, is hidden at each b at
which it has no score: samplers take running trials for bad ones, and this one is among the best. A trial whose training
a callback of the user's has ended has its final score at every b.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence

from optuna.trial import FrozenTrial, TrialState

from search.backends.base import draw_uniformly, running_best, sampler_learns, values_in_space
from search.backends.lazy_sampler import LazySampler, hidden_copy
from search.backends.samplers import SamplerFactory
from search.space.domain import Parameter, Value
from search.study.records import EpochDone, ParameterSet, Record, ResultTold, SegmentRequested
from search.study.trial import Draw, Objective, derive_seed
from search.study.trials import Trial

RANDOM_SHARE = 1 / 3
"""The parameter rho of algorithm 2, as its authors set it: the share of trials drawn at random."""


class RungModel:
    """A sampler that draws for trials which are compared at rungs.

    Args:
        objective, seed: of the study.
        sampler: `name` or `name:key=value,…`, names as in `samplers.SAMPLERS`.
        budgets: the epochs at which trials are compared, ascending.
        parameters: those that the probe saw.

    Attributes:
        sampler: the Optuna sampler and its trials.

    Raises:
        OptionError: the sampler is not known, or does not take these arguments.
    """

    def __init__(
        self, objective: Objective, seed: int, sampler: str, budgets: Sequence[int], parameters: Sequence[Parameter]
    ) -> None:
        self._objective = objective
        self._seed = seed
        self._random_share = RANDOM_SHARE if sampler_learns(sampler) else 0.0
        self._parameters = parameters
        make_sampler = SamplerFactory(sampler, seed, parameters)
        self._startup_trials = make_sampler.startup_trials
        self.sampler = LazySampler(objective, seed, make_sampler, substitute=self._at_modelled_budget)
        self._budgets = tuple(budgets)
        self._observations: dict[int, dict[int, FrozenTrial]] = {budget: {} for budget in budgets}
        self._scored: dict[int, set[int]] = {budget: set() for budget in budgets}
        self._hidden: dict[int, FrozenTrial] = {}
        self._training: dict[int, tuple[int, float | None]] = {}
        self._budget_of: dict[int, int] = {}
        self._dimensions = 0

    # Queries --------------------------------------------------------------------------------------------------------

    def draw(self, trial: int, parameter: Parameter, explored: Collection[Value] = ()) -> Draw:
        """Return a value of `parameter` for `trial`, none of `explored`."""
        if derive_seed(self._seed, "at random", trial) / 2**31 < self._random_share:
            return draw_uniformly(self._seed, trial, parameter, explored)
        return self.sampler.draw(trial, parameter, explored)

    @property
    def modelled_budget(self) -> int:
        """The budget, in epochs, whose observations the next draw is made from."""
        enough = max(self._dimensions + 3, self._startup_trials)
        found = [budget for budget in self._budgets if len(self._scored[budget]) >= enough]
        return found[-1] if found else self._budgets[0]

    @property
    def observations(self) -> Mapping[int, Mapping[int, FrozenTrial]]:
        """For each budget b, D_b and the failed trials, by number in Optuna's storage."""
        return self._observations

    # Facts ----------------------------------------------------------------------------------------------------------

    def apply(self, record: Record) -> None:
        """Take in a journal record of a trial that the back end asked for."""
        match record:
            case SegmentRequested():
                if record.trial not in self._training:
                    self.sampler.begin_trial(record.trial)
                    self._training[record.trial] = (0, None)
                self._budget_of[record.trial] = record.to_epoch
            case ParameterSet() if record.trial in self._training:
                self.sampler.set_value(record)
            case EpochDone() if record.trial in self._training:
                self._note_epoch(record)
            case ResultTold() if record.trial in self._training:
                self._note_result(record)

    def learn(self, trials: Sequence[Trial]) -> None:
        """Import trials. Each counts at every budget that its epochs reached, with its best value up to there.

        A trial that continued another one counts from its first own epoch on.
        """
        for trial in trials:
            values = values_in_space(trial, self._parameters)
            if values is None:
                continue
            number = self.sampler.import_trial(values, state=TrialState.RUNNING)
            self._dimensions = max(self._dimensions, len(values))
            if trial.worthless:
                self._observe_failure(number)
                continue
            best = running_best(trial, self._objective)
            for budget in self._budgets:
                if budget <= len(best) or trial.exhausted:
                    self._observe(number, budget, best[min(budget, len(best)) - 1])
            self._hide(number)

    def _note_epoch(self, record: EpochDone) -> None:
        if record.execution:
            return  # until all executions are trained, the first stands for the trial
        epochs, best = self._training[record.trial]
        if record.epoch != epochs + 1:
            return  # trained again after a crash: the first record stands
        value = record.logs.get(self._objective.name)
        if value is not None and self._objective.cost(value) < self._objective.cost(best):
            best = value
        self._training[record.trial] = record.epoch, best
        if record.epoch in self._observations:
            self._observe_own(record.trial, record.epoch, best)

    def _note_result(self, record: ResultTold) -> None:
        number = self.sampler.storage_number(record.trial)
        if record.score is None:
            self._observe_failure(number)
            return
        budget = self._budget_of[record.trial]
        if budget in self._observations:
            self._observe_own(record.trial, budget, record.score)
        if record.outcome == "stopped_by_callback":
            for budget in self._budgets:
                if number not in self._observations[budget]:
                    self._observe_own(record.trial, budget, record.score)
        self._hide(number)

    # Observations ---------------------------------------------------------------------------------------------------

    def _observe_own(self, trial: int, budget: int, score: float | None) -> None:
        if score is None:
            return
        self.sampler.note_success(trial)
        self._dimensions = max(self._dimensions, len(self.sampler.frozen_trial(trial).params))
        self._observe(self.sampler.storage_number(trial), budget, score)

    def _observe(self, number: int, budget: int, score: float | None) -> None:
        if score is not None:
            self._observations[budget][number] = _complete(self.sampler.storage.get_trial(number), score)
            self._scored[budget].add(number)

    def _observe_failure(self, number: int) -> None:
        worst = _complete(self.sampler.storage.get_trial(number), self._objective.worst)
        for budget in self._budgets:
            self._observations[budget][number] = worst
            self._scored[budget].discard(number)

    def _hide(self, number: int) -> None:
        self._hidden[number] = hidden_copy(self.sampler.storage.get_trial(number))

    def _at_modelled_budget(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """Return each trial with its score at the modelled budget, hidden, or as it is."""
        observed, hidden = self._observations[self.modelled_budget], self._hidden
        return [observed.get(t.number) or hidden.get(t.number) or t for t in trials]


def _complete(trial: FrozenTrial, score: float) -> FrozenTrial:
    """Return `trial` as a complete one with `score`."""
    trial = copy.copy(trial)
    trial.state, trial.values = TrialState.COMPLETE, [score]
    return trial
