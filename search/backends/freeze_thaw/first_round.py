"""The first round: the trials that begin before there is a model. It imports nothing heavy, as options ask, too."""

from __future__ import annotations

from search.backends.brackets import plan_brackets

__all__ = ["FIRST_TRIALS", "first_round"]

FIRST_TRIALS, FIRST_EPOCHS = 9, 2
"""The most trials that begin before the model decides, and epochs of a new trial: at epoch 1 many curves mislead."""


def first_round(max_epochs: int, factor: int) -> tuple[int, int]:
    """Return the trials that begin before the model decides, and the epochs of each new trial.

    Both are smaller if `max_epochs` is: a trial begins with at most a quarter of it, and the first round takes at most
    half the epochs of Hyperband's plan, which is the budget of a search that is given none.
    """
    epochs = min(FIRST_EPOCHS, max(1, max_epochs // 4))
    trials = plan_brackets(max_epochs, factor).total_epochs // (2 * epochs)
    return min(FIRST_TRIALS, max(1, trials)), epochs
