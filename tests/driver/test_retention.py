"""Retention: the files of trials that may go on, and of the best trials, stay on disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from places import SLOW

import search
from search.backends.hyperband import Hyperband
from search.backends.optuna import Optuna
from search.driver.retention import Retention
from search.scheduler.limits import Limits
from search.study.paths import StudyPaths
from search.study.study import Study
from search.testing import Scenario, Simulation
from search.testing.backends import noise

KEEP = 3


def ask(hp: Any) -> None:
    hp.Float("x", 0.0, 1.0)
    hp.Int("seed", 0, 2**30)


def hyperband(study: Study) -> Hyperband:
    return Hyperband(study.objective, study.seed, max_epochs=9)


def optuna(study: Study) -> Optuna:
    return Optuna(study.objective, study.seed, max_epochs=9, sampler="random", pruner="median:n_startup_trials=2")


def touch(paths: StudyPaths, study: Study) -> None:
    """Write the files that workers would have written by now."""
    for trial in study.trials.values():
        files = paths.trial(trial.number)
        files.folder.mkdir(parents=True, exist_ok=True)
        for number, execution in enumerate(trial.executions):
            if not trial.ended and execution.epochs:
                files.checkpoint(number).touch()
                files.best(number).touch()


@pytest.mark.parametrize("make", [hyperband, optuna])
@pytest.mark.parametrize("seed", range(3))
def test_after_any_record_the_best_trials_and_those_that_may_go_on_have_their_files(
    make: Any, seed: int, tmp_path: Path
) -> None:
    scenario = Scenario(ask, lambda run, epoch: run["x"] + 1 / epoch + 0.3 * noise(run, epoch))  # type: ignore[operator]
    scenario = scenario.disturbed(failing=0.02, seed=seed)
    limits = Limits(max_trials=25, executions=2 if seed == 2 else 1)
    entries = Simulation(scenario, make, seed=seed, slots=3, limits=limits).run().entries
    study, paths = Study(), StudyPaths(tmp_path)
    cleaner = Retention(study, paths, KEEP)
    deleted = False
    for entry in entries:
        study.apply(entry.record, entry.time)
        touch(paths, study)
        cleaner.take([entry])
        cleaner.flushed()
        for trial in study.ranked()[:KEEP]:
            assert paths.trial(trial.number).best(trial.best.execution).exists()
        for trial in study.trials.values():
            files = paths.trial(trial.number)
            if not trial.ended and trial.epochs:
                assert files.checkpoint(0).exists()
                assert files.best(0).exists()
            elif trial.ended:
                assert not list(files.folder.glob("checkpoint-*"))
                deleted |= not list(files.folder.glob("best-*"))
    assert deleted
    left = {path.parent.name for path in tmp_path.glob("trials/*/best-*")}
    assert left == {paths.trial(trial.number).folder.name for trial in study.ranked()[:KEEP]}


def test_another_process_deletes_the_files_that_were_left(tmp_path: Path) -> None:
    scenario = Scenario(ask, lambda run, epoch: run["x"] + 1 / epoch)  # type: ignore[operator]
    study, paths = (
        Simulation(scenario, hyperband, slots=2, limits=Limits(max_trials=9)).run().study,
        StudyPaths(tmp_path),
    )
    for trial in study.trials.values():
        files = paths.trial(trial.number)
        files.folder.mkdir(parents=True)
        for path in (files.checkpoint(0), files.best(0), files.log, files.folder / ".best-0.npz.1234.tmp"):
            path.touch()
    Retention(study, paths, KEEP).flushed()
    assert not list(tmp_path.glob("trials/*/checkpoint-*"))
    assert not list(tmp_path.glob("trials/*/.*"))
    assert len(list(tmp_path.glob("trials/*/best-*"))) == KEEP
    assert len(list(tmp_path.glob("trials/*/log.txt"))) == len(study.trials)


@pytest.mark.slow
def test_a_search_keeps_files_of_trials_that_may_go_on_and_at_the_end_only_the_best(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EPOCH_SECONDS", "0")
    shutil.copy(SLOW, workplace / "slow.py")
    options: dict[str, Any] = {"study": "kept", "seed": 0, "workers": 1, "progress": False, "keep_models": 2}
    study = search.run(workplace / "slow.py", max_total_epochs=9, **options)
    paused = {trial.number for trial in study.trials if trial.state == "paused"}
    assert paused
    checkpoints = {int(path.parent.name) for path in study.paths.trials.glob("*/checkpoint-*")}
    assert checkpoints == paused
    study = search.run(workplace / "slow.py", max_total_epochs=1000, resume=True, **options)
    assert not list(study.paths.trials.glob("*/checkpoint-*"))
    best = {int(path.parent.name) for path in study.paths.trials.glob("*/best-*")}
    assert best == {trial.number for trial in study.best_trials(2)}
    assert len(study.get_best_models(2)) == 2
    with pytest.warns(UserWarning, match=r"there are 2: a search keeps 3 with keep_models=3"):
        assert len(study.get_best_models(3)) == 2
