"""What a sampler learns of trials that are trained to different epochs: BOHB's way (Falkner, Klein and Hutter 2018,
"BOHB: Robust and Efficient Hyperparameter Optimization at Scale", ICML, section 4 and algorithm 2).

Scores of different budgets are not comparable. So each budget b of the plan has its own observations D_b, and a draw is
made from a model of the largest b that has enough of them: |D_b| ≥ N_min + 2 with N_min = d + 1 (algorithm 2, line 2),
where d is the number of parameters, and no fewer than the sampler's own `n_startup_trials`, without which it draws at
random. Until a budget has enough, the sampler sees the lowest. A third of the trials is drawn at random throughout
(line 1), so that a model which is misled by early epochs does not mislead the search; but not where a sampler goes
through the space by itself, and learns nothing.

A trial's score at b is its best value up to epoch b; so one that was trained to 9 epochs counts at 1, 3 and 9. A failed
trial is the worst at every b, and no observation where they are counted. A trial that is being trained for the first
time shows as running where it has no score yet; one that waits for its promotion, or was promoted beyond b, does not:
samplers take what runs for bad, and that one is among the best. One whose training a callback of the user's has ended
gave all that it has, at every b.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence

from optuna.trial import FrozenTrial, TrialState

from search.backends.base import draw_uniformly, fitting, learns, running_best
from search.backends.samplers import Draws, SamplerMaker, hidden
from search.space.domain import Parameter, Value
from search.study.records import EpochDone, ParameterSet, Record, ResultTold, SegmentRequested
from search.study.study import Trial
from search.study.trial import Draw, Objective, derive_seed

RANDOM_SHARE = 1 / 3
"""Of algorithm 2, rho: as its authors have it."""


class RungModel:
    """Draws for trials that meet at rungs.

    Args:
        objective, seed: of the study.
        sampler: `name` or `name:key=value,…`, names as in `samplers.SAMPLERS`.
        budgets: the epochs at which trials are compared, ascending.
        parameters: those that the probe saw.

    Raises:
        OptionError: the sampler is not known, or does not take these arguments.
    """

    def __init__(
        self, objective: Objective, seed: int, sampler: str, budgets: Sequence[int], parameters: Sequence[Parameter]
    ) -> None:
        self._objective = objective
        self._seed = seed
        self._random_share = RANDOM_SHARE if learns(sampler) else 0.0
        self._parameters = parameters
        make_sampler = SamplerMaker(sampler, seed, parameters)
        self._startup = make_sampler.startup
        self._draws = Draws(objective, seed, make_sampler, look=self._look)
        self._budgets = tuple(budgets)
        self._observed: dict[int, dict[int, FrozenTrial]] = {budget: {} for budget in budgets}
        self._scored: dict[int, set[int]] = {budget: set() for budget in budgets}
        self._hidden: dict[int, FrozenTrial] = {}
        self._training: dict[int, tuple[int, float | None]] = {}
        self._budget_of: dict[int, int] = {}
        self._dimensions = 0

    # Questions --------------------------------------------------------------------------------------------------------

    def draw(self, trial: int, parameter: Parameter, explored: Collection[Value] = ()) -> Draw:
        if derive_seed(self._seed, "at random", trial) / 2**31 < self._random_share:
            return draw_uniformly(self._seed, trial, parameter, explored)
        return self._draws.draw(trial, parameter, explored)

    @property
    def modelled(self) -> int:
        """The budget whose observations the next draw is made from."""
        enough = max(self._dimensions + 3, self._startup)
        found = [budget for budget in self._budgets if len(self._scored[budget]) >= enough]
        return found[-1] if found else self._budgets[0]

    # Facts ------------------------------------------------------------------------------------------------------------

    def apply(self, record: Record) -> None:
        match record:
            case SegmentRequested():
                if record.trial not in self._training:
                    self._draws.begin(record.trial)
                    self._training[record.trial] = (0, None)
                self._budget_of[record.trial] = record.to_epoch
            case ParameterSet() if record.trial in self._training:
                self._draws.valued(record)
            case EpochDone() if record.trial in self._training:
                self._epoch(record)
            case ResultTold() if record.trial in self._training:
                self._told(record)

    def learn(self, trials: Sequence[Trial]) -> None:
        """Each trial counts at every budget that its epochs reached, with its best value up to there."""
        for trial in trials:
            values = fitting(trial, self._parameters)
            if values is None:
                continue
            number = self._draws.add(values, state=TrialState.RUNNING)
            self._dimensions = max(self._dimensions, len(values))
            if trial.failed:
                self._failed(number)
                continue
            best = running_best(trial, self._objective)
            for budget in self._budgets:
                if budget <= len(best) or trial.exhausted:
                    self._observe(number, budget, best[min(budget, len(best)) - 1])
            self._hide(number)

    def _epoch(self, record: EpochDone) -> None:
        if record.execution:
            return  # until all of them are trained, the first stands for the trial
        epochs, best = self._training[record.trial]
        if record.epoch != epochs + 1:
            return  # trained again after a crash: the first record stands
        value = record.logs.get(self._objective.name)
        if value is not None and self._objective.cost(value) < self._objective.cost(best):
            best = value
        self._training[record.trial] = record.epoch, best
        if record.epoch in self._observed:
            self._observe_own(record.trial, record.epoch, best)

    def _told(self, record: ResultTold) -> None:
        number = self._draws.number(record.trial)
        if record.outcome == "failed":
            self._failed(number)
            return
        budget = self._budget_of[record.trial]
        if budget in self._observed:
            self._observe_own(record.trial, budget, record.score)
        if record.outcome == "stopped_by_callback":
            for budget in self._budgets:
                if number not in self._observed[budget]:
                    self._observe_own(record.trial, budget, record.score)
        self._hide(number)

    # How --------------------------------------------------------------------------------------------------------------

    def _observe_own(self, trial: int, budget: int, score: float | None) -> None:
        if score is None:
            return
        self._draws.succeeded(trial)
        self._dimensions = max(self._dimensions, len(self._draws.frozen(trial).params))
        self._observe(self._draws.number(trial), budget, score)

    def _observe(self, number: int, budget: int, score: float | None) -> None:
        if score is not None:
            self._observed[budget][number] = _complete(self._draws.storage.get_trial(number), score)
            self._scored[budget].add(number)

    def _failed(self, number: int) -> None:
        worst = _complete(self._draws.storage.get_trial(number), self._objective.worst)
        for budget in self._budgets:
            self._observed[budget][number] = worst
            self._scored[budget].discard(number)

    def _hide(self, number: int) -> None:
        self._hidden[number] = hidden(self._draws.storage.get_trial(number))

    def _look(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        observed, rest = self._observed[self.modelled], self._hidden
        return [observed.get(t._trial_id) or rest.get(t._trial_id) or t for t in trials]


def _complete(trial: FrozenTrial, score: float) -> FrozenTrial:
    trial = copy.copy(trial)
    trial.state, trial.values = TrialState.COMPLETE, [score]
    return trial
