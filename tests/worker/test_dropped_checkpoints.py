"""A training whose checkpoint is gone: it begins anew, with the same bits, and keeps the best weights that it had."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from places import TINY

from search.executors.inline import InlineExecutor
from search.messages import Interrupt, Segment
from search.space.file import SpaceRef
from search.study.paths import TrialPaths
from search.study.records import Checkpointed
from search.study.trial import Objective
from search.testing import Conversation
from search.worker.checkpoint import load_checkpoint, load_weights, read_best
from search.worker.variables import count_bytes, read_variables

VALUES = {"units": 4, "learning_rate": 0.05}


class Trials:
    """Trials of the tiny space, all with the same seed."""

    def __init__(self, executor: InlineExecutor, folder: Path) -> None:
        self.folder, self._executor = folder, executor

    def files(self, trial: int) -> TrialPaths:
        return TrialPaths(self.folder / str(trial))

    def train(self, trial: int, first: int, last: int, *, interrupt: bool = False, **options: Any) -> Conversation:
        segment = Segment(
            trial, 0, SpaceRef(str(TINY)), VALUES, 5, first, last, Objective("val_loss", "min"),
            str(self.files(trial).folder), checkpoint_every=0.0, **options
        )  # fmt: skip
        talk = Conversation(self._executor, react=lambda _: Interrupt() if interrupt else None)
        return talk.run(segment)


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    """Yield trials, of which trial 0 was trained for six epochs at once."""
    executor = InlineExecutor()
    made = Trials(executor, tmp_path_factory.mktemp("dropped"))
    made.train(0, 0, 6)
    yield made
    executor.close()


def sizes(talk: Conversation) -> list[int]:
    return [message.bytes for message in talk.messages if isinstance(message, Checkpointed)]


def best_weights(trials: Trials, trial: int) -> tuple[int, float, list[Any]]:
    weights = load_weights(trials.files(trial).best(0))
    return weights.epoch, weights.value, [array.tolist() for array in weights._arrays]


@pytest.mark.parametrize("cached", [(), pytest.param((1,), marks=pytest.mark.slow)], ids=["built-anew", "cached"])
def test_it_begins_anew_and_equals_a_training_that_lost_nothing(trials: Trials, cached: tuple[int, ...]) -> None:
    first = trials.train(1, 0, 3, cached_trials=cached)
    path = trials.files(1).checkpoint(0)
    assert sizes(first)[-1] == path.stat().st_size
    path.unlink()
    rest = trials.train(1, 3, 6, cached_trials=cached, best=read_best(trials.files(1).best(0)))
    assert rest.curve == trials.train(2, 0, 6).curve
    assert rest.curve[:3] == first.curve
    assert best_weights(trials, 1) == best_weights(trials, 0)
    states = [load_checkpoint(trials.files(trial).checkpoint(0)) for trial in (0, 1)]
    for group in ("model", "optimizer"):
        for whole, again in zip(*(state.arrays(group) for state in states), strict=True):
            np.testing.assert_array_equal(whole, again)
    assert states[0].best_epoch == states[1].best_epoch
    path.unlink()


def test_better_weights_of_a_later_epoch_are_not_replaced(trials: Trials) -> None:
    trials.train(3, 0, 3)
    best = read_best(trials.files(3).best(0))
    assert best is not None
    assert best[0] > 1
    trials.files(3).checkpoint(0).unlink()
    cut = trials.train(3, 3, 6, best=best, interrupt=True)
    assert (cut.end.outcome, cut.end.epoch) == ("interrupted", 1)
    assert read_best(trials.files(3).best(0)) == best
    assert [m.best_epoch for m in cut.messages if isinstance(m, Checkpointed)] == [best[0]]
    trials.train(3, 3, 6, best=best)
    assert best_weights(trials, 3) == best_weights(trials, 0)


@pytest.mark.slow
@pytest.mark.parametrize("stale", [(3, 0.0), None])
def test_weights_that_the_journal_does_not_know_are_replaced(trials: Trials, stale: tuple[int, float] | None) -> None:
    """The file holds weights of a trial whose journal was deleted by hand (`stale`), or is damaged (None)."""
    trials.train(4, 0, 3)
    trials.files(4).checkpoint(0).unlink()
    if stale is None:
        trials.files(4).best(0).write_bytes(b"damaged")
    trials.train(4, 3, 6, best=stale or (3, 0.5), interrupt=True)
    found = read_best(trials.files(4).best(0))
    assert found is not None
    assert found[0] == 1
    trials.files(4).checkpoint(0).unlink()


def test_the_variables_are_counted_in_bytes() -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, dtype="bfloat16"), keras.layers.Dropout(0.1)])
    assert {variable.dtype for variable in model.variables} > {"bfloat16"}
    assert count_bytes(model) == sum(array.nbytes for array in read_variables(model.variables))
    model.compile(keras.optimizers.Adam(), "mse")
    model.optimizer.build(model.trainable_variables)
    assert count_bytes(model) == sum(
        array.nbytes for array in read_variables([*model.variables, *model.optimizer.variables])
    )


def test_a_checkpoint_of_a_later_rung_is_left(trials: Trials) -> None:
    """As after a repair of the journal: the trial may not enter a rung with epochs that it has not earned."""
    trials.train(7, 0, 3)
    again = trials.train(7, 0, 1)
    assert again.curve == trials.train(8, 0, 1).curve
    assert load_checkpoint(trials.files(7).checkpoint(0)).epoch == 1
    assert trials.train(7, 1, 3).curve == trials.train(8, 1, 3).curve
