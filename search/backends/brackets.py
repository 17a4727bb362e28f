"""Hyperband's brackets as data, in integers (Li et al. 2018, "Hyperband: A Novel Bandit-Based Approach to
Hyperparameter Optimization", JMLR 18, algorithm 1), with the sizes of `keras_tuner.oracles.HyperbandOracle`.

With R = `max_epochs` and η = `factor`, s_max is the largest s with η^s ≤ R. Bracket s, s_max ≥ s ≥ 0, has s + 1 rungs;
rung i trains ⌈c · η^(s-i) / (s+1)⌉ trials to ⌈R / η^(s-i)⌉ epochs, where c = 1 + ⌈log_η R⌉. (The paper has s_max + 1
for c, which is the same if R is a power of η.) No logarithm is taken: `floor(log(243) / log(3))` is 4, and wrong.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rung:
    """A rung, at which `size` trials are compared, each trained to the end of epoch `epochs`."""

    size: int
    epochs: int


@dataclass(frozen=True, slots=True)
class Bracket:
    """Successive halving from `rungs[0]` on."""

    rungs: tuple[Rung, ...]

    @property
    def total_epochs(self) -> int:
        """Epochs trained in this bracket. A promoted trial counts only the epochs after its last rung."""
        before = 0
        total = 0
        for rung in self.rungs:
            total += rung.size * (rung.epochs - before)
            before = rung.epochs
        return total


@dataclass(frozen=True, slots=True)
class HyperbandPlan:
    """One iteration of Hyperband: its brackets, the most aggressive first."""

    brackets: tuple[Bracket, ...]

    @property
    def total_epochs(self) -> int:
        """Epochs trained in all brackets."""
        return sum(bracket.total_epochs for bracket in self.brackets)

    @property
    def trial_count(self) -> int:
        """Trials that begin in all brackets."""
        return sum(bracket.rungs[0].size for bracket in self.brackets)


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def plan_brackets(max_epochs: int, factor: int = 3) -> HyperbandPlan:
    """Return the plan of one iteration.

    Args:
        max_epochs: R, the most epochs that one trial gets; at least 1.
        factor: η, an integer of at least 2.

    Raises:
        ValueError: one of them is too small.
    """
    if max_epochs < 1 or factor < 2:
        raise ValueError(f"need max_epochs ≥ 1 and factor ≥ 2, not {max_epochs} and {factor}")
    s_max = 0
    while factor ** (s_max + 1) <= max_epochs:
        s_max += 1
    c = 1 + s_max + (factor**s_max < max_epochs)
    return HyperbandPlan(
        tuple(
            Bracket(
                tuple(
                    Rung(_ceil_div(c * factor ** (s - i), s + 1), _ceil_div(max_epochs, factor ** (s - i)))
                    for i in range(s + 1)
                )
            )
            for s in range(s_max, -1, -1)
        )
    )
