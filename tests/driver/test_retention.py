"""Retention: the files of trials that may go on, and of the best trials, stay on disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from places import SLOW

import search
from search.backends.asha import Asha
from search.backends.hyperband import Hyperband
from search.backends.optuna import Optuna
from search.driver.retention import Retention
from search.scheduler.limits import Limits
from search.study.journal import Entry
from search.study.paths import StudyPaths
from search.study.records import CheckpointDropped, Record, ResultTold, SegmentRequested, SegmentStarted
from search.study.study import Study
from search.testing import Scenario, Simulation
from search.testing.backends import noise

KEEP = 3


def ask(hp: Any) -> None:
    hp.Float("x", 0.0, 1.0)
    hp.Int("seed", 0, 2**30)


def hyperband(study: Study) -> Hyperband:
    return Hyperband(study.objective, study.seed, max_epochs=9)


def asha(study: Study) -> Asha:
    return Asha(study.objective, study.seed, max_epochs=9)


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


@pytest.mark.parametrize("make", [hyperband, asha, optuna])
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


def journaled(*records: Record) -> list[Entry]:
    return [Entry(record, 1.0, 0) for record in records]


@pytest.fixture
def dropping(tmp_path: Path) -> tuple[Study, StudyPaths, Retention]:
    """Return a study with a paused trial that has its files."""
    scenario = Scenario(ask, lambda run, epoch: 1 / epoch)
    limits = Limits(executions=2)
    study = Simulation(scenario, hyperband, limits=limits).run(until=lambda r: isinstance(r, ResultTold)).study
    paths = StudyPaths(tmp_path)
    paths.trial(0).folder.mkdir(parents=True)
    for number in range(2):
        paths.trial(0).checkpoint(number).touch()
        paths.trial(0).best(number).touch()
    return study, paths, Retention(study, paths, KEEP)


def apply(study: Study, retention: Retention, *records: Record) -> None:
    entries = journaled(*records)
    for entry in entries:
        study.apply(entry.record, entry.time)
    retention.take(entries)


DROPPED = CheckpointDropped(0)
AGAIN = (SegmentRequested(0, 1, 3, 0, 1, False, 0, 2), SegmentStarted(0, 0, 2, 0, 1, 3))


def test_a_dropped_checkpoint_is_deleted_when_the_disk_has_the_record(dropping: Any) -> None:
    study, paths, retention = dropping
    apply(study, retention, DROPPED)
    assert paths.trial(0).checkpoint(1).exists()
    retention.flushed()
    assert not list(paths.trials.glob("*/checkpoint-*"))
    assert len(list(paths.trials.glob("*/best-*"))) == 2


@pytest.mark.parametrize("together", [True, False])
def test_a_dropped_checkpoint_is_deleted_before_its_trial_goes_on_and_the_next_one_stays(
    dropping: Any, together: bool
) -> None:
    study, paths, retention = dropping
    if together:
        apply(study, retention, DROPPED, *AGAIN)
    else:
        apply(study, retention, DROPPED)
        apply(study, retention, *AGAIN)
    assert not list(paths.trials.glob("*/checkpoint-*")), "a worker would find it"
    paths.trial(0).checkpoint(0).touch()
    retention.flushed()
    assert paths.trial(0).checkpoint(0).exists(), "the worker has written it since"


def test_the_next_process_deletes_a_dropped_checkpoint_unless_its_trial_went_on(dropping: Any) -> None:
    study, paths, retention = dropping
    apply(study, retention, DROPPED)
    Retention(study, paths, KEEP).flushed()
    assert not list(paths.trials.glob("*/checkpoint-*"))
    apply(study, retention, *AGAIN)
    paths.trial(0).checkpoint(0).touch()  # ahead of the journal
    Retention(study, paths, KEEP).flushed()
    assert paths.trial(0).checkpoint(0).exists()


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
