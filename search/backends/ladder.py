"""The rungs of ASHA as data (Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning", MLSys,
algorithm 2).

Rungs are at epochs 1, η, η², … below R, and at R itself. A trial that was trained to any epoch, by any policy, counts
at each rung that it reached, with its best value up to there. A trial is promoted from a rung if it is among the
⌊n/η⌋ best of the n trials that ever counted there. A trial keeps its place among these when it is promoted, fails
later or is given up.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Collection
from dataclasses import dataclass, field


def ladder_epochs(max_epochs: int, factor: int) -> tuple[int, ...]:
    """Return the epochs of the rungs, ascending: the powers of `factor` below `max_epochs`, then `max_epochs`.

    Raises:
        ValueError: `max_epochs` is below 1, or `factor` below 2.
    """
    if max_epochs < 1 or factor < 2:
        raise ValueError(f"need max_epochs ≥ 1 and factor ≥ 2, not {max_epochs} and {factor}")
    epochs = []
    power = 1
    while power < max_epochs:
        epochs.append(power)
        power *= factor
    return (*epochs, max_epochs)


@dataclass(slots=True)
class LadderRung:
    """One rung.

    Attributes:
        epochs: the epoch at which trials are compared.
        costs: for each trial that ever counted here, its lowest cost up to `epochs`.
        ranked: (cost, trial) of the same trials, best first.
        waiting: those of `ranked` that were not sent to the next rung, best first.
    """

    epochs: int
    costs: dict[int, float] = field(default_factory=dict)
    ranked: list[tuple[float, int]] = field(default_factory=list)
    waiting: list[tuple[float, int]] = field(default_factory=list)

    def add(self, trial: int, cost: float, *, waits: bool) -> None:
        """Count `trial` with `cost`."""
        self.costs[trial] = cost
        bisect.insort(self.ranked, (cost, trial))
        if waits:
            bisect.insort(self.waiting, (cost, trial))

    def remove(self, trial: int) -> None:
        """Count `trial` no longer."""
        self.stop_waiting(trial)
        _discard(self.ranked, (self.costs.pop(trial), trial))

    def stop_waiting(self, trial: int) -> None:
        """Take `trial` for promoted. Do nothing if it already is, or does not count here."""
        if trial in self.costs:
            _discard(self.waiting, (self.costs[trial], trial))

    def best_waiting(self, excluded: Collection[int]) -> tuple[float, int] | None:
        """Return (cost, trial) of the best that waits and is not `excluded`; None if there is none."""
        return next((item for item in self.waiting if item[1] not in excluded), None)

    def has_at_top(self, item: tuple[float, int], factor: int) -> bool:
        """Return whether `item`, a (cost, trial) of `ranked`, is among the best of `factor` parts."""
        places = len(self.ranked) // factor
        return places > 0 and item <= self.ranked[places - 1]


class Ladder:
    """The rungs of ASHA, and the trials on them.

    A query looks at the best waiting trial of each rung, so it takes microseconds with ten thousand trials.

    Args:
        max_epochs: R, the most epochs that one trial gets.
        factor: η, an integer of at least 2; one trial in η is promoted at each rung.

    Attributes:
        rungs: ascending by epochs.

    Raises:
        ValueError: one of them is too small.
    """

    def __init__(self, max_epochs: int, factor: int) -> None:
        self.rungs = [LadderRung(epochs) for epochs in ladder_epochs(max_epochs, factor)]
        self._factor = factor
        self._counted: dict[int, int] = {}
        self._sent: dict[int, int] = {}

    # Facts ----------------------------------------------------------------------------------------------------------

    def note(self, trial: int, epoch: int, cost: float) -> None:
        """Count `trial` at the rungs up to `epoch`.

        Args:
            trial: its number.
            epoch: 1-based. The last value of a trial that its own callback ended is also that of any later epoch:
                it may be noted there.
            cost: the lowest up to `epoch`, infinity if the trial failed. It stands at each rung at which the trial did
                not count yet. At the rung of `epoch` itself it replaces an earlier cost.
        """
        count = self._counted.get(trial, 0)
        if count and self.rungs[count - 1].epochs == epoch:
            self.rungs[count - 1].remove(trial)
            count -= 1
        while count < len(self.rungs) and self.rungs[count].epochs <= epoch:
            self.rungs[count].add(trial, cost, waits=self._waits(trial, count))
            count += 1
        self._counted[trial] = count

    def send(self, trial: int, to_epoch: int) -> None:
        """Take in that `trial` is trained to the end of `to_epoch`: it waits at no rung whose next one it comes to."""
        self._sent[trial] = max(to_epoch, self.sent_to(trial))
        for index in range(self._counted.get(trial, 0)):
            if not self._waits(trial, index):
                self.rungs[index].stop_waiting(trial)

    def withdraw(self, trial: int) -> None:
        """Take in that `trial` is never trained again. It still counts at the rungs that it reached."""
        self.send(trial, self.rungs[-1].epochs)

    # Queries --------------------------------------------------------------------------------------------------------

    def sent_to(self, trial: int) -> int:
        """Return the epoch that `trial` was last sent to: 0 before the first, the last rung's once it is withdrawn."""
        return self._sent.get(trial, 0)

    def standing(self, trial: int) -> tuple[int, float]:
        """Return the number of rungs at which `trial` counts, and its cost at the highest; (0, inf) without any."""
        count = self._counted.get(trial, 0)
        return count, self.rungs[count - 1].costs[trial] if count else math.inf

    def promotion(self, excluded: Collection[int] = ()) -> tuple[int, int] | None:
        """Return (trial, epoch to train it to) of the promotion from the highest rung that has one; None without any.

        Args:
            excluded: trials that may not be promoted now, as those that run.
        """
        for index in range(len(self.rungs) - 2, -1, -1):
            rung = self.rungs[index]
            best = rung.best_waiting(excluded)
            if best and rung.has_at_top(best, self._factor):
                return best[1], self.rungs[index + 1].epochs
        return None

    def best_waiting(self) -> tuple[int, int] | None:
        """Return (trial, epoch of the next rung) of the best trial that waits at the highest rung; None without any."""
        for index in range(len(self.rungs) - 2, -1, -1):
            if best := self.rungs[index].best_waiting(()):
                return best[1], self.rungs[index + 1].epochs
        return None

    def _waits(self, trial: int, index: int) -> bool:
        """Return whether `trial`, if it counts at rung `index`, was not sent to the next rung."""
        return index + 1 < len(self.rungs) and self.sent_to(trial) < self.rungs[index + 1].epochs


def _discard(items: list[tuple[float, int]], item: tuple[float, int]) -> None:
    """Remove `item` from the sorted `items`, if it is there."""
    place = bisect.bisect_left(items, item)
    if place < len(items) and items[place] == item:
        del items[place]
