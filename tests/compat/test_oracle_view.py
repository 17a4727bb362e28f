"""An oracle of KerasTuner's that shows a study, and keeps nothing itself."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import keras_tuner
import pytest
from keras_tuner.engine.trial import Trial

import search.compat.keras_tuner as kt
from search.compat.oracle_options import is_own_oracle
from search.compat.oracle_view import attach_view
from search.space import pickling
from search.space.old_names import Unpickler


class Shown:
    """A source of one trial, which counts the looks at the space."""

    def __init__(self, score: float = 1.0) -> None:
        self.looks = 0
        trial = Trial(keras_tuner.HyperParameters(), trial_id="0", status="COMPLETED")
        trial.score = score
        self.trials = {"0": trial}

    def study_trials(self) -> dict[str, Any]:
        return self.trials

    def fill_space(self) -> None:
        self.looks += 1


def make_oracle(source: Any, **options: Any) -> Any:
    oracle = keras_tuner.oracles.RandomSearchOracle("val_loss", max_trials=5, seed=3, **options)
    attach_view(oracle, source)
    return oracle


def test_the_oracle_stays_of_its_class_and_shows_the_source() -> None:
    source = Shown()
    oracle = make_oracle(source)
    assert isinstance(oracle, keras_tuner.oracles.RandomSearchOracle)
    assert type(oracle).__name__ == "RandomSearchOracle"
    assert not is_own_oracle(oracle)
    assert oracle.trials is source.trials
    assert oracle.get_best_trials() == [*source.trials.values()]
    assert oracle.remaining_trials() == 4
    source.trials = {}
    assert oracle.remaining_trials() == 5


def test_each_look_at_the_space_asks_the_source() -> None:
    hp = keras_tuner.HyperParameters()
    hp.Int("units", 1, 9)
    source = Shown()
    oracle = make_oracle(source, hyperparameters=hp)
    assert source.looks == 0
    assert oracle.hyperparameters is hp
    assert oracle.get_space().values == {"units": 1}
    assert source.looks == 2


def test_assigned_trials_are_shown_until_a_reload() -> None:
    source = Shown()
    oracle = make_oracle(source)
    oracle.trials = {}
    assert oracle.get_best_trials() == []
    oracle.reload()
    assert oracle.trials is source.trials


def test_another_tuner_may_take_the_oracle_over() -> None:
    first, second = Shown(), Shown()
    oracle = make_oracle(first)
    cls = type(oracle)
    attach_view(oracle, second)
    assert oracle.trials is second.trials
    assert type(oracle) is cls


def test_nothing_is_written(tmp_path: Path) -> None:
    oracle = make_oracle(Shown())
    oracle._set_project_dir(tmp_path, "mine")
    oracle.save()
    oracle._save_trial(oracle.trials["0"])
    assert [*tmp_path.rglob("*.json")] == []


@pytest.mark.parametrize("how", ["pickled", "copied"])
def test_a_worker_gets_the_oracle_without_trials(how: str) -> None:
    hp = keras_tuner.HyperParameters()
    hp.Int("units", 1, 9)
    source = Shown()
    oracle = make_oracle(source, hyperparameters=hp)
    sent: Any = copy.deepcopy(oracle)
    if how == "pickled":
        sent = Unpickler(io.BytesIO(pickling.dumps(oracle))).load()
    assert type(sent) is keras_tuner.oracles.RandomSearchOracle
    assert (sent.trials, sent.seed, sent.max_trials) == ({}, oracle.seed, 5)
    assert sent.objective.name == "val_loss"
    assert sent.hyperparameters.values == {"units": 1}
    assert source.looks == 0


def test_the_space_of_a_tuner_is_known_before_the_search_by_one_look(tmp_path: Path) -> None:
    builds = tmp_path / "builds"

    def build(hp: Any) -> Any:
        with builds.open("a") as file:
            file.write("build\n")
        return hp.Int("units", 1, 9), hp.Float("rate", 0.0, 1.0)

    tuner = kt.RandomSearch(build, "val_loss", directory=tmp_path)
    assert not builds.exists()
    for _ in range(2):
        assert [parameter.name for parameter in tuner.oracle.hyperparameters.space] == ["units", "rate"]
        assert tuner.oracle.get_space().get("units") == 1
    assert builds.read_text() == "build\n"
    assert (tuner.oracle.trials, tuner.remaining_trials) == ({}, 10)


def test_default_values_that_fail_leave_the_space_unknown(tmp_path: Path) -> None:
    def build(hp: Any) -> Any:
        hp.Int("units", 1, 9)
        raise kt.errors.FailedTrialError("not the defaults")

    tuner = kt.RandomSearch(build, "val_loss", directory=tmp_path)
    assert tuner.oracle.hyperparameters.space == []
    tuner.search_space_summary()
