"""The back end `freeze-thaw` (Swersky, Snoek and Adams 2014, "Freeze-Thaw Bayesian Optimization", arXiv:1406.3896).

A trial pauses after every few epochs. Then this back end decides anew which paused trial to continue, or which
configuration to begin. A Gaussian process over (configuration, epoch) predicts the final value of each of them
(`gaussian_process`, `surrogate`). The training with the highest expected improvement per cost goes on, to the next
power of two (`decision`).

A share of the decisions is ASHA's (`search.backends.ladder`). ASHA needs no model, and so keeps the search safe if the
model is wrong: random configurations begin again and again, and a trial that does well is never forgotten.

A decision is a function of the records so far. It is made in `ask`; a new trial's whole configuration is decided there,
travels with the suggestion, and answers the questions of the model factory.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from search.backends.base import draw_uniformly
from search.backends.freeze_thaw.candidates import Candidates, Pool, Space
from search.backends.freeze_thaw.decision import Choice, Model
from search.backends.freeze_thaw.first_round import first_round
from search.backends.freeze_thaw.fitting import Fits
from search.backends.freeze_thaw.memory import Known, Memory
from search.backends.freeze_thaw.observations import powers_of_two
from search.backends.freeze_thaw.surrogate import NEW, Observed, observe
from search.backends.ladder import Ladder
from search.errors import OptionError
from search.space.domain import Parameter, Value
from search.study.records import Computed, Record, ResultTold, SegmentRequested, TrialEnded
from search.study.trial import Computation, Decision, Done, Draw, Objective, Suggestion, Wait, derive_seed
from search.study.trials import Trial

__all__ = ["FreezeThaw"]

ASHA_SHARE = 0.25
"""The probability that ASHA decides."""

NEGLIGIBLE = math.log(0.01)
"""The log expected improvement, in standard deviations of z, below which a search without new trials ends."""


class FreezeThaw:
    """The `freeze-thaw` back end.

    Args:
        objective: the metric to compare.
        seed: of the study.
        max_epochs: R, the most epochs that one trial gets.
        factor: η of ASHA's share.
        parameters: those that the probe saw.
        cost: "seconds" or "epochs", by which trainings are compared. Seconds are measured: with them a search with one
            worker is a function of its journal, with epochs it is one of its seed.
        pool: configurations, values by name: each new trial has one of them, and none is tried twice. By default a
            trial may have any configuration of the space.

    Raises:
        OptionError: `cost` is neither, or `pool` holds anything else.
    """

    protocol = 1

    def __init__(
        self,
        objective: Objective,
        seed: int,
        *,
        max_epochs: int = 27,
        factor: int = 3,
        parameters: Sequence[Parameter] = (),
        cost: str = "seconds",
        pool: Sequence[Mapping[str, Value]] | None = None,
    ) -> None:
        if cost not in ("seconds", "epochs"):
            raise OptionError(f"--backend freeze-thaw: cost is {cost!r}: give seconds or epochs")
        if pool is not None and not (isinstance(pool, Sequence) and all(isinstance(one, Mapping) for one in pool)):
            raise OptionError(f"--backend freeze-thaw: pool is {pool!r}: give a list of configurations from Python")
        self._objective = objective
        self._seed = seed
        self._max_epochs = max_epochs
        self._by_seconds = cost == "seconds"
        self._targets = powers_of_two(max_epochs)
        self._first_trials, self._first_epochs = first_round(max_epochs, factor)
        self._memory = Memory(objective, parameters, max_epochs)
        self._ladder = Ladder(max_epochs, factor)
        self._fits = Fits()
        self._candidates: Candidates = Space(self._memory, seed) if pool is None else Pool(self._memory, pool, seed)
        self._answers: dict[bool, Suggestion | Wait | Done] = {}

    # Queries --------------------------------------------------------------------------------------------------------

    def ask(self, *, new: bool, child: bool) -> Suggestion | Wait | Done:
        """Return the next training: of a first trial, or as ASHA or the model decides."""
        if new not in self._answers:
            with _one_thread():
                self._answers[new] = self._decide(new)
        return self._answers[new]

    def suggest(self, trial: int, parameter: Parameter, explored: Collection[Value] = ()) -> Draw:
        """Return the value that was decided for the trial, or a random one for a parameter that was not foreseen."""
        planned = self._memory.find(trial).planned
        value = planned.get(parameter.key, planned.get(parameter.name))
        domain = parameter.domain
        if domain.is_range and isinstance(value, (int, float)) and not isinstance(value, bool):
            value = min(max(value, domain.low), domain.high)  # a range may depend on other values
        if domain.contains(value) and value not in explored:
            return Draw(value)
        return draw_uniformly(self._seed, trial, parameter, explored)

    def judge(self, trial: int, epoch: int) -> Decision:
        """Let every trial go on: it pauses by itself."""
        return Decision()

    def computation(self) -> Computation | None:
        """Return the fit to be made."""
        return self._fits.due

    def expendable(self, trials: Collection[int]) -> Sequence[int]:
        """Return `trials`, the one least likely to be trained further first: by the predicted final value."""
        places = [self._memory.place(number) for number in trials]
        with _one_thread():
            model = self._model(self._rng("expendable"))
            if not model.knows:
                return sorted(trials)
            ends = np.full(len(places), float(self._max_epochs))
            mean, _ = model.predict(self._memory.table(places), places, ends)
        return [number for _, number in sorted(zip(mean.tolist(), trials, strict=True))]

    # Facts ----------------------------------------------------------------------------------------------------------

    def apply(self, record: Record) -> Sequence[int]:
        """Take in a record. A trial is given up when it failed, reached R, or was ended by a callback."""
        self._answers.clear()
        if isinstance(record, Computed):
            self._fits.apply(record)
            return ()
        self._memory.apply(record)
        if isinstance(record, SegmentRequested):
            self._ladder.send(record.trial, record.to_epoch)
            self._fits.note(self._memory.points, self._observe)
        elif isinstance(record, ResultTold) and record.trial in self._memory:
            return self._told(record)
        elif isinstance(record, TrialEnded) and record.trial in self._memory:
            self._ladder.withdraw(record.trial)
        return ()

    def learn(self, trials: Sequence[Trial]) -> None:
        """Take in trials of earlier phases and of other studies: the model sees them, and ASHA does not."""
        self._answers.clear()
        self._memory.learn(trials)

    def _told(self, record: ResultTold) -> Sequence[int]:
        trial = self._memory.find(record.trial)
        self._climb(record, trial)
        trial.ended = trial.curve.failed or trial.curve.exhausted or record.epoch >= self._max_epochs
        if trial.ended:
            self._ladder.withdraw(record.trial)
        return [record.trial] if trial.ended else ()

    def _climb(self, record: ResultTold, trial: Known) -> None:
        """Count a trial at the rungs that it has reached."""
        if record.outcome == "failed":
            self._ladder.note(record.trial, trial.to_epoch, math.inf)
        if record.score is not None:
            for rung in self._ladder.rungs:
                if rung.epochs <= trial.curve.epochs:
                    self._ladder.note(record.trial, rung.epochs, -trial.curve.best_until(rung.epochs))

    def _observe(self) -> Observed | None:
        return observe(self._memory, self._max_epochs, self._rng("fit"))

    # The decision ---------------------------------------------------------------------------------------------------

    def _decide(self, new: bool) -> Suggestion | Wait | Done:
        running = self._memory.running()
        if self._fits.due is not None and not running:
            return Wait()
        if new and self._memory.informative < self._first_trials and self._memory.begun < self._first_trials:
            return self._begin(self._candidates.first(self._memory.begun), self._first_epochs)
        rng = self._rng("decide")
        by_asha = rng.random() < ASHA_SHARE
        if new and by_asha:
            return self._by_asha(running, rng)
        model = self._model(rng)
        if not model.knows:
            return self._begin(self._candidates.random(rng) if new else None, self._first_epochs)
        if not new and self._memory.finished and model.hope() < NEGLIGIBLE:
            return Wait() if running else Done()
        choice = model.choose(self._candidates if new else None)
        if choice is None:
            return self._begin(self._candidates.random(rng) if new else None, self._first_epochs)
        return self._suggestion(choice)

    def _by_asha(self, running: Sequence[int], rng: np.random.Generator) -> Suggestion | Wait | Done:
        """Return ASHA's promotion, else a new random trial for the lowest rung."""
        excluded = {number for place in running if (number := self._memory.trials[place].number) is not None}
        promotion = None if self._memory.whole else self._ladder.promotion(excluded)
        if promotion is None:
            return self._begin(self._candidates.random(rng), self._ladder.rungs[0].epochs)
        number, to_epoch = promotion
        return Suggestion(number, self._memory.find(number).to_epoch, to_epoch)

    def _suggestion(self, choice: Choice) -> Suggestion | Wait | Done:
        if choice.place == NEW:
            return self._begin(choice.row, self._first_epochs)
        trial = self._memory.trials[choice.place]
        following = next(epoch for epoch in self._targets if epoch > trial.to_epoch)
        return Suggestion(trial.number, trial.to_epoch, self._max_epochs if self._memory.whole else following)

    def _begin(self, row: NDArray[np.float64] | None, epochs: int) -> Suggestion | Wait | Done:
        """Return a new trial with the configuration `row`; without one, the best paused trial goes on."""
        if row is None:
            paused = self._memory.paused(1)
            if not paused:
                return Wait() if self._memory.running() else Done()
            return self._suggestion(Choice(paused[0]))
        to_epoch = self._max_epochs if self._memory.whole else min(epochs, self._max_epochs)
        return Suggestion(None, 0, to_epoch, attributes={"values": dict(self._candidates.values(row))})

    def _model(self, rng: np.random.Generator) -> Model:
        found = self._fits.hyperparameters
        return Model(self._memory, found, self._max_epochs, by_seconds=self._by_seconds, rng=rng)

    def _rng(self, purpose: str) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self._seed, purpose, self._memory.requests))


def _one_thread() -> AbstractContextManager[object]:
    """Let linear algebra use one thread meanwhile: the matrices are small, and the workers need the cores."""
    limit: AbstractContextManager[object] = _threads().limit(limits=1, user_api="blas")
    return limit


@functools.cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()
