"""One decision: the training that is worth most.

Half of the decisions maximise the expected improvement of the final value over the best value, per cost. They finish
what is begun. The others maximise the probability that the next epochs, a random number, bring an improvement by a
random amount ("MFPI-random": Rakotoarison et al. 2024, "In-Context Freeze-Thaw Bayesian Optimization for Hyperparameter
Optimization", ICML, section 4.2). They look for what rises soon, and trust the model's end of a curve less. Each alone
was worse than the two in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from search.backends.freeze_thaw.acquisition import log_expected_improvement, log_probability_of_improvement
from search.backends.freeze_thaw.candidates import Candidates
from search.backends.freeze_thaw.cost import Costs
from search.backends.freeze_thaw.memory import Memory
from search.backends.freeze_thaw.surrogate import NEW, Hyperparameters, Surrogate, observe

__all__ = ["Choice", "Model"]

Array = NDArray[np.float64]

MAX_PAUSED = 200
"""The most paused trials that are scored: those with the best values."""

LOOKAHEAD_SHARE = 0.5
"""The probability that a decision is by the probability of improvement within a random number of epochs."""

LEAST_GAIN, MOST_GAIN = -4.0, -1.0
"""The range of the logarithm (base 10) of the improvement of z that such a decision looks for."""


class _Rule(Protocol):
    """A rule of decision."""

    def scores(self, model: Model, table: Array, places: Sequence[int]) -> Array:
        """Return the worth of trainings; arguments as in `Model.improvements`."""


class _ImprovementPerCost:
    """The expected improvement at epoch R, per predicted cost."""

    def scores(self, model: Model, table: Array, places: Sequence[int]) -> Array:
        return model.improvements(table, places) - np.log(model.costs.of(table, places))


class _Lookahead:
    """The probability of an improvement by `gain` within `epochs`."""

    def __init__(self, max_epochs: int, rng: np.random.Generator) -> None:
        self._epochs = int(rng.integers(1, max_epochs + 1))
        self._gain = 10 ** rng.uniform(LEAST_GAIN, MOST_GAIN)

    def scores(self, model: Model, table: Array, places: Sequence[int]) -> Array:
        reached = np.minimum(model.epochs(places) + self._epochs, model.max_epochs)
        mean, sd = model.predict(table, places, reached)
        scores = log_probability_of_improvement(mean, sd, model.threshold + self._gain)
        return scores - np.log(model.costs.paces(table, places))


@dataclass(frozen=True, slots=True)
class Choice:
    """A training to make.

    Attributes:
        place: the trial's place in the memory, `NEW` for a new one.
        row: the configuration of a new trial.
    """

    place: int
    row: Array | None = None


class Model:
    """The model's view of a search at one moment.

    Args:
        memory: the trials; not changed here.
        found: the hyperparameters.
        max_epochs: R, the epochs of a whole training.
        by_seconds: costs are in seconds, and not in epochs.
        rng: for draws.
    """

    def __init__(
        self,
        memory: Memory,
        found: Hyperparameters | None,
        max_epochs: int,
        *,
        by_seconds: bool,
        rng: np.random.Generator,
    ) -> None:
        self._memory = memory
        self.max_epochs = max_epochs
        self._rng = rng
        observed = observe(memory, max_epochs, rng)
        self._surrogate = None if observed is None else Surrogate(memory, observed, found)
        self.costs = Costs(memory, max_epochs, by_seconds=by_seconds)

    @property
    def knows(self) -> bool:
        """True if there is a value to learn from. Without one, nothing can be predicted."""
        return self._surrogate is not None

    # Decisions ------------------------------------------------------------------------------------------------------

    def choose(self, candidates: Candidates | None) -> Choice | None:
        """Return the best training by one of the two rules; None if there is none.

        Args:
            candidates: for new trials; None if there may be none.
        """
        lookahead = self._rng.random() < LOOKAHEAD_SHARE and not self._memory.whole
        rule: _Rule = _Lookahead(self.max_epochs, self._rng) if lookahead else _ImprovementPerCost()
        continued = self._best_paused(rule)
        if candidates is not None:
            found = candidates.best(lambda table: rule.scores(self, table, [NEW] * len(table)), self._rng)
            if found is not None and (continued is None or found[0] > continued[0]):
                return Choice(NEW, found[1])
        return None if continued is None else Choice(continued[1])

    def _best_paused(self, rule: _Rule) -> tuple[float, int] | None:
        """Return the score and the place of the paused trial that is worth most to continue."""
        paused = self._memory.paused(MAX_PAUSED)
        if not paused:
            return None
        scores = rule.scores(self, self._memory.table(paused), paused)
        index = int(np.argmax(scores))
        return float(scores[index]), paused[index]

    def hope(self) -> float:
        """Return the largest log expected improvement of a paused trial; −∞ without one."""
        paused = self._memory.paused(MAX_PAUSED)
        return float(self.improvements(self._memory.table(paused), paused).max()) if paused else -np.inf

    # Predictions ----------------------------------------------------------------------------------------------------

    def improvements(self, table: Array, places: Sequence[int]) -> Array:
        """Return the log expected improvements of z at epoch R over the best value.

        Args:
            table: shape (rows, parameters).
            places: the trials' places in the memory, `NEW` for new ones.
        """
        mean, sd = self.predict(table, places, np.full(len(table), float(self.max_epochs)))
        return log_expected_improvement(mean, sd, self.threshold)

    def predict(self, table: Array, places: Sequence[int], epochs: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation of z after `epochs`."""
        assert self._surrogate is not None
        return self._surrogate.predict(table, np.array(places, dtype=np.int64), epochs)

    @property
    def threshold(self) -> float:
        """z of the best value."""
        assert self._surrogate is not None
        return self._surrogate.threshold

    def epochs(self, places: Sequence[int]) -> Array:
        """Return the epochs that trials have been trained for."""
        return np.array([0 if place == NEW else self._memory.trials[place].curve.epochs for place in places], float)
