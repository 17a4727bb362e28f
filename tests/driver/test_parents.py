"""Trials that have parents, trained for real: killed and resumed, shown, retrieved, sent to MLflow, learned from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from places import TINY

import search
from search import cli
from search.backends.base import running_best
from search.backends.optuna import Optuna
from search.backends.rungs import RungModel
from search.driver.hand_on import Files
from search.driver.hand_on import hand_on as carry_out
from search.driver.retention import Retention
from search.driver.warm_start import _imported
from search.errors import StudyError
from search.results.study_results import StudyResults
from search.scheduler.events import HandOn
from search.space.domain import Domain, Parameter
from search.study.journal import Entry, Journal
from search.study.paths import StudyPaths
from search.study.records import FORMAT, EpochDone, Header, ParameterSet, Record, SegmentRequested, TrialEnded
from search.study.study import Study
from search.study.trial import Objective
from search.tracking.mlflow import store

OPTIONS: dict[str, Any] = {
    "backend": "population:PopulationBased:size=3,step=2", "objective": "val_loss", "max_epochs": 6, "max_trials": 6,
    "seed": 3, "workers": 1, "progress": False,
}  # fmt: skip


LOSS = Objective("val_loss", "min")
X = Parameter("x", Domain("float", 0.0, 1.0))


class Killed(BaseException):
    """The end of the driver, as by a kill."""


@pytest.fixture(scope="module")
def place(zygote: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a folder, made current, with a space file."""
    folder = tmp_path_factory.mktemp("parents")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("search.executors.selection.shared_zygote", zygote)
        # The widths of a member's model must not change.
        space = TINY.read_text().replace('hp.Int("units", 2, 8)', "5")
        (folder / "space.py").write_text(space)
        yield folder


@pytest.fixture(scope="module")
def study(place: Path) -> StudyResults:
    return search.run(place / "space.py", study="whole", **OPTIONS)


def described(study: StudyResults) -> list[Any]:
    return [
        (t.number, t.params, t.state, t.parent and t.parent.trial, [(e.epoch, dict(e.logs)) for e in t.curve])
        for t in study.trials
    ]


@pytest.mark.slow
def test_killed_whenever_a_child_is_journaled_a_search_equals_an_undisturbed_one(
    place: Path, study: StudyResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = 0
    append = Journal.append

    def append_and_die(self: Journal, records: Iterable[Record], time: float | None = None) -> list[Entry]:
        nonlocal kills
        entries = append(self, records, time)
        if any(isinstance(entry.record, SegmentRequested) and entry.record.parent is not None for entry in entries):
            kills += 1
            raise Killed
        return entries

    monkeypatch.setattr(Journal, "append", append_and_die)
    for _ in range(9):
        try:
            found = search.run(place / "space.py", study="killed", resume=True, **OPTIONS)
            break
        except Killed:
            continue
    assert kills >= 2
    assert described(found) == described(study)
    assert found.study.trained == found.study.epochs


@pytest.mark.slow
def test_a_child_is_seen_wherever_a_trial_is_seen(study: StudyResults, capfd: pytest.CaptureFixture[str]) -> None:
    child = next(trial for trial in study.trials if trial.parent is not None)
    assert child.parent is not None
    parent, epoch = child.parent.trial, child.parent.epochs[0]
    assert child.curve[0].epoch == epoch + 1
    capfd.readouterr()
    assert cli.main(["show", "whole", str(child.number)]) == 0
    assert f"continues trial {parent} after epoch {epoch}" in capfd.readouterr().out
    assert cli.main(["trials", "whole", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    assert (rows[child.number]["parent"], rows[0]["parent"]) == (parent, None)
    assert rows[child.number]["trained"] == len(child.curve) < rows[child.number]["epochs"]
    assert study.trials_dataframe()["parent"].iloc[child.number] == parent
    client = store.connect(f"sqlite:///{study.paths.folder.parent}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()], "tags.`search.study` = 'whole'")
    (run,) = [run for run in runs if run.data.tags.get("search.trial") == str(child.number)]
    assert run.data.tags["search.parent_trial"] == str(parent)
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "val_loss")]
    assert steps == [record.epoch for record in child.curve]
    (whole,) = [run for run in runs if run.data.tags["search.kind"] == "study"]
    assert whole.data.tags["search.epochs"] == str(sum(len(trial.curve) for trial in study.trials))


@pytest.mark.slow
def test_the_model_of_a_child_comes_back_and_no_file_of_its_parent_is_left(study: StudyResults, place: Path) -> None:
    ranked = study.best_trials(6)
    rank = next(i for i, trial in enumerate(ranked) if trial.parent is not None)
    model = study.get_best_models(rank + 1)[rank]
    scope: dict[str, Any] = {}
    exec((place / "space.py").read_text(), scope)
    _, validation = scope["load_data"]()
    assert model.evaluate(*validation, verbose=0)[0] == pytest.approx(ranked[rank].objective, rel=1e-5)
    assert not list(study.paths.trials.glob("*/parent-*"))
    assert not list(study.paths.trials.glob("*/checkpoint-*"))


@pytest.mark.slow
def test_a_child_whose_parents_state_is_gone_fails_with_one_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Files, "hand_on", lambda *_, **__: None)
    found = search.run(place / "space.py", study="cleaned", **OPTIONS)
    failed = [trial for trial in found.trials if trial.state == "failed"]
    assert failed
    for trial in failed:
        assert trial.parent is not None
        assert trial.error is not None
        assert f"trial {trial.number} cannot continue trial {trial.parent.trial} after epoch" in trial.error
        assert "parent-0.npz is missing" in trial.error
        assert "\n" not in trial.error


# Learning -------------------------------------------------------------------------------------------------------------


def imported() -> Study:
    """Return a study that has imported a trial which continued another one after epoch 4, for two epochs."""
    source = Study()
    source.apply(Header(FORMAT, "1", "source", 0, (LOSS,), "", "", (X,), {}), 0.0)
    source.apply(SegmentRequested(0, 0, 4, None, None, False, 7), 0.0)
    for epoch in range(1, 5):
        source.apply(EpochDone(0, 0, epoch, {"val_loss": 1.0}, 1.0), 0.0)
    source.apply(SegmentRequested(1, 4, 6, None, None, False, 8, parent=0), 0.0)
    source.apply(ParameterSet(1, X, 0.5), 0.0)
    for epoch, value in ((5, 0.4), (6, 0.3)):
        source.apply(EpochDone(1, 0, epoch, {"val_loss": value}, 1.0), 0.0)
    record = _imported(source, source.trials[1], 9)
    assert (record.begins_after, record.curve) == (4, (0.4, 0.3))
    study = Study()
    study.apply(Header(FORMAT, "2", "own", 0, (LOSS,), "", "", (X,), {}), 0.0)
    study.apply(record, 0.0)
    return study


def test_another_study_learns_nothing_from_a_child_about_its_parents_epochs() -> None:
    study = imported()
    (trial,) = study.imported.values()
    assert [epoch.epoch for epoch in trial.curve] == [5, 6]
    assert running_best(trial, LOSS) == [None, None, None, None, 0.4, 0.3]
    rungs = RungModel(LOSS, 0, "tpe", [1, 3, 5, 9], [X])
    rungs.learn([trial])
    scores = {budget: [each.value for each in found.values()] for budget, found in rungs.observations.items()}
    assert scores == {1: [], 3: [], 5: [0.4], 9: []}


@pytest.mark.parametrize(("max_epochs", "found"), [(9, [({5: 0.4, 6: 0.3}, 0.3)]), (5, [({5: 0.4}, 0.4)]), (3, [])])
def test_optuna_learns_the_own_epochs_of_a_child(max_epochs: int, found: list[Any]) -> None:
    optuna = Optuna(LOSS, 0, max_epochs=max_epochs, sampler="tpe", parameters=[X])
    optuna.learn([*imported().imported.values()])
    trials = optuna.sampler.storage.get_all_trials(0)
    assert [(trial.intermediate_values, trial.value) for trial in trials] == found


# Files ----------------------------------------------------------------------------------------------------------------


def child_of(paths: StudyPaths) -> Study:
    """Return a study whose trial 1 continues trial 0, which has a checkpoint on disk."""
    study = Study()
    study.apply(SegmentRequested(0, 0, 2, None, None, False, 7), 0.0)
    study.apply(SegmentRequested(1, 0, 2, None, None, False, 8, parent=0), 1.0)
    folder = paths.trial(0).folder
    folder.mkdir(parents=True)
    paths.trial(0).checkpoint(0).write_text("state")
    return study


def hand_on(study: Study, paths: StudyPaths, *, again: bool = False) -> None:
    carry_out(Files(), HandOn(1, again=again), study, paths)


@pytest.mark.parametrize("links", [True, False])
def test_a_child_keeps_its_parents_checkpoint_when_the_parent_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:

        def refuse(*_: object) -> None:
            raise PermissionError("this file system has no links")

        monkeypatch.setattr(os, "link", refuse)
    paths = StudyPaths(tmp_path)
    study = child_of(paths)
    hand_on(study, paths)
    later = tmp_path / "later"
    later.write_text("later state")
    later.replace(paths.trial(0).checkpoint(0))
    assert paths.trial(1).inherited(0).read_text() == "state"
    hand_on(study, paths, again=True)
    assert paths.trial(1).inherited(0).read_text() == "state", "a resume keeps the file that there is"
    paths.trial(0).checkpoint(0).unlink()
    hand_on(study, paths, again=True)
    assert [path.name for path in paths.trial(1).folder.iterdir()] == ["parent-0.npz"]


def test_a_stale_file_of_another_trial_is_replaced_or_deleted(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path)
    study = child_of(paths)
    paths.trial(1).folder.mkdir()
    paths.trial(1).inherited(0).write_text("stale")
    hand_on(study, paths)
    assert paths.trial(1).inherited(0).read_text() == "state"
    paths.trial(0).checkpoint(0).unlink()
    hand_on(study, paths)
    assert not paths.trial(1).inherited(0).exists()


def test_a_checkpoint_that_cannot_be_written_ends_the_search_with_one_line(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path)
    study = child_of(paths)
    paths.trial(1).folder.write_text("a file where a folder is to be")
    with pytest.raises(StudyError, match=r"parent-0.npz cannot be written .*: make that possible, and resume"):
        hand_on(study, paths)


def test_retention_keeps_an_inherited_checkpoint_until_the_child_has_ended(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path)
    study = child_of(paths)
    hand_on(study, paths)
    retention = Retention(study, paths, 3)
    for ended, left in ((0, True), (1, False)):
        record = TrialEnded(ended, "stopped")
        study.apply(record, 2.0)
        retention.take([Entry(record, 2.0, 0)])
        retention.flushed()
        assert paths.trial(1).inherited(0).exists() == left
