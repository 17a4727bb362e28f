"""Back ends that learn from each other, from another study, and from an earlier phase of the same study."""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from places import TINY

import search
from search import cli
from search.backends.hyperband import Hyperband
from search.backends.optuna import Optuna
from search.driver.study_handle import StudyHandle
from search.driver.warm_start import import_trials
from search.errors import OptionError, StudyError
from search.options import Options, resolve_options
from search.scheduler.limits import Limits
from search.study.journal import Entry, Journal, format_line, parse_line
from search.study.paths import StudyPaths
from search.study.records import Header, TrialImported
from search.study.study import Study
from search.study.trial import Objective
from search.testing import Scenario, Simulation
from search.tracking.mlflow.layout import PARENT, Projection

MIN = Objective("val_loss", "min")


def two(hp: Any) -> None:
    hp.Float("x", 0.0, 1.0)
    hp.Float("y", 0.0, 1.0)


def regret(params: Any) -> float:
    return float((params["x"] - 0.3) ** 2 + (params["y"] - 0.7) ** 2)


BOWL = Scenario(
    two,
    lambda params, epoch: regret(params) + 0.3 / epoch,
    fails=lambda params: 2 if params["x"] > 0.9 else None,
    finishes=lambda params: 4 if params["y"] > 0.95 else None,
)


def random(study: Study) -> Optuna:
    return Optuna(study.objective, study.seed, max_epochs=9, sampler="random", pruner="none")


def tpe(study: Study) -> Optuna:
    return Optuna(study.objective, study.seed, max_epochs=9, sampler="tpe", parameters=study.parameters)


def hyperband_tpe(study: Study) -> Hyperband:
    return Hyperband(study.objective, study.seed, max_epochs=9, sampler="tpe", parameters=study.parameters)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a study `simulated` of thirty random trials. Return its runs folder."""
    runs = tmp_path_factory.mktemp("runs")
    done = Simulation(BOWL, random, seed=9, limits=Limits(max_trials=30)).run()
    (runs / "simulated").mkdir()
    write_journal(runs / "simulated", done.entries)
    return runs


def write_journal(folder: Path, entries: Sequence[Entry]) -> None:
    journal = Journal(folder / "journal.jsonl")
    for entry in entries:
        journal.append([entry.record], entry.time)
    journal.close()


def options(runs: Path, **given: Any) -> Options:
    base = {"runs": str(runs), "backend": "hyperband", "sampler": "tpe", "warm_start": "simulated"}
    return resolve_options({**base, **given}, {})


def imported(runs: Path, own: Path | None = None, objective: Objective = MIN, **given: Any) -> list[TrialImported]:
    """Return the trials that the study in the folder `own`, or a new one, imports."""
    return import_trials(options(runs, **given), objective, StudyHandle(StudyPaths(own or runs / "new")))


# Imported trials ------------------------------------------------------------------------------------------------------


def test_each_trial_is_one_record(source: Path) -> None:
    records = imported(source)
    there = Simulation(BOWL, random, seed=9, limits=Limits(max_trials=30)).run()
    assert [record.number for record in records] == list(range(30))
    for record, trial in zip(records, there.trials, strict=True):
        assert (record.params, record.parameters) == (trial.params, tuple(trial.parameters))
        assert record.curve == tuple(epoch.logs["val_loss"] for epoch in trial.curve)
        assert (record.state, record.stopped_by_callback) == (trial.state, trial.exhausted)
        assert parse_line(format_line(record, 1.0)) == (record, 1.0)
    assert {record.state for record in records} == {"completed", "failed"}
    assert any(record.stopped_by_callback for record in records)


def test_the_other_study_is_given_by_name_or_folder(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert imported(source) == imported(source / "elsewhere", warm_start=str(source / "simulated"))
    monkeypatch.chdir(source)
    assert imported(source) == imported(source / "elsewhere", warm_start="./simulated")


def test_each_trial_is_imported_once(source: Path, tmp_path: Path) -> None:
    records = imported(source)
    begun = Simulation(BOWL, tpe, imported=records[:20], limits=Limits(max_trials=2)).run()
    header, *others = begun.entries
    assert isinstance(header.record, Header)
    another = header._replace(record=dataclasses.replace(header.record, uid="another"))
    write_journal(tmp_path, [another, *others])
    assert imported(source, tmp_path) == records[20:]


def test_a_study_does_not_import_its_own_trials(source: Path) -> None:
    with pytest.raises(StudyError, match="a study knows its own trials"):
        imported(source, source / "simulated")


def test_imported_trials_are_not_the_studys_own(source: Path) -> None:
    search = Simulation(BOWL, tpe, imported=imported(source), limits=Limits(max_trials=3)).run()
    assert [trial.number for trial in search.trials] == [0, 1, 2]
    assert len(search.study.imported) == 30
    assert search.study.best in search.trials
    assert search.study.epochs == sum(trial.epochs for trial in search.trials)


@pytest.mark.parametrize("make", [tpe, hyperband_tpe])
def test_imported_trials_help_and_a_resume_does_not_need_the_other_study(
    make: Callable[[Study], Any], source: Path
) -> None:
    """Deterministic by its seeds."""
    records = imported(source)

    def drawn(search: Simulation) -> float:
        return statistics.median(regret(trial.params) for trial in search.trials)

    warm, cold = [], []
    for seed in range(3):
        with_it = Simulation(BOWL, make, seed=seed, imported=records, limits=Limits(max_trials=12)).run()
        warm.append(drawn(with_it))
        cold.append(drawn(Simulation(BOWL, make, seed=seed, limits=Limits(max_trials=12)).run()))
        for kept in range(40, len(with_it.entries), 30):
            resumed = Simulation(
                BOWL, make, seed=seed, entries=with_it.entries[:kept], limits=Limits(max_trials=12)
            ).run()
            assert resumed.history() == with_it.history(), f"after record {kept}"
    assert statistics.median(warm) < 0.6 * statistics.median(cold)


def test_trials_imported_at_the_start_of_a_phase_and_later_count_the_same(source: Path) -> None:
    records = imported(source)
    first = Simulation(BOWL, tpe, imported=records, limits=Limits(max_trials=4)).run()
    begun = Simulation(BOWL, random, backend="random", limits=Limits(max_trials=0)).run()
    entries = [*begun.entries, *(Entry(record, begun.entries[-1].time, 0) for record in records)]
    later = Simulation(BOWL, tpe, entries=entries, limits=Limits(max_trials=4)).run()
    assert [trial.params for trial in later.trials] == [trial.params for trial in first.trials]


def test_mlflow_is_told_of_the_source(source: Path) -> None:
    records = imported(source)
    projection = Projection()
    begun = Simulation(BOWL, tpe, imported=records, limits=Limits(max_trials=1)).run()
    tags: dict[str, str] = {}
    for entry in begun.entries:
        for run, change in projection.take(entry):
            if run is PARENT:
                tags |= change.tags
    assert tags["search.warm_start"] == records[0].source


@pytest.mark.parametrize(
    ("given", "objective", "words"),
    [
        ({"warm_start": "simulatd"}, MIN, ("simulatd: there is no such study", "Did you mean 'simulated'")),
        ({}, Objective("val_loss", "max"), ("compares val_loss (min)", "val_loss (max)", "--direction")),
        ({}, Objective("val_accuracy", "max"), ("compares val_loss (min)", "val_accuracy (max)", "--objective")),
        ({"sampler": None}, MIN, ("of no use", "--backend hyperband", "random", "--sampler tpe, gp or cmaes")),
        ({"sampler": "qmc", "backend": "optuna"}, MIN, ("of no use", "qmc sampler")),
    ],
)
def test_an_import_that_is_impossible_is_explained(given: Any, objective: Objective, words: Any, source: Path) -> None:
    with pytest.raises((OptionError, StudyError)) as caught:
        imported(source, objective=objective, **given)
    message = str(caught.value)
    assert message.startswith("--warm-start")
    assert "\n" not in message
    assert all(word in message for word in words), message


# From the command line ------------------------------------------------------------------------------------------------

RUN = ("--workers", "1", "--no-progress", "--max-epochs", "3", "--objective", "val_loss")
HYPERBAND = ("--backend", "hyperband")


@pytest.fixture
def space(workplace: Path) -> Path:
    return Path(shutil.copy(TINY, workplace / "space.py"))


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("--backend", "hyperband"), ("--backend", "optuna", "--sampler", "tpe:n_startup_trials=5")),
        (("--backend", "optuna"), ("--backend", "hyperband", "--sampler", "tpe:n_startup_trials=5")),
    ],
    ids=["hyperband-optuna", "optuna-hyperband"],
)
def test_a_study_goes_on_with_another_back_end(first: Any, second: Any, space: Path) -> None:
    assert run("run", space, "--study", "t", *RUN, "--seed", 1, "--max-trials", 5, *first) == 0
    assert run("resume", "t", "--workers", 1, "--no-progress", "--max-trials", 8, *second) == 0
    found = search.load_study("t")
    assert [trial.phase for trial in found.trials] == [0] * 5 + [1] * 3
    assert all(trial.ended for trial in found.trials)
    # Without the imported trials there would be too few for a joint draw.
    assert any(entry["attributes"].get("relative") for entry in journaled("t") if entry["kind"] == "parameter_set")


def journaled(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("runs", name, "journal.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_warm_start_and_configurations_to_try_first(
    space: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("run", space, "--study", "old", *RUN, *HYPERBAND, "--seed", 1, "--max-trials", 4) == 0
    more = (*HYPERBAND, "--sampler", "tpe:n_startup_trials=2", "--seed", 2, "--warm-start", "old")
    given = ("--try-first", '{"units": 3}', "--try-first", '{"units": 4, "learning_rate": 0.01}')
    capfd.readouterr()
    assert run("run", space, "--study", "new", *RUN, "--max-trials", 3, *more, *given) == 0
    said = capfd.readouterr().err
    assert "warm start: 4 trials of old are learnt from, 0 do not fit this space" in said
    found = search.load_study("new")
    assert [trial.params["units"] for trial in found.trials][:2] == [3, 4]
    assert found.trials[1].params["learning_rate"] == 0.01
    assert len(found.trials) == 3
    assert len(found.study.imported) == 4
    # The same command again, when the other study is gone.
    shutil.rmtree(Path("runs", "old"))
    assert run("run", space, "--study", "new", *RUN, "--max-trials", 4, *more, *given, "--resume") == 0
    assert run("resume", "new", "--workers", 1, "--no-progress", "--max-trials", 5) == 0
    later = search.load_study("new")
    assert [trial.params for trial in later.trials[:3]] == [trial.params for trial in found.trials]
    assert len(later.study.phases) == 1
    assert len(later.study.imported) == 4
    assert len([trial for trial in later.trials if trial.values.initial]) == 2
    assert run("run", space, "--study", "third", *RUN, "--try-first", '{"unitz": 3}') == 2
    assert run("run", space, "--study", "third", *RUN, "--warm-start", "gone") == 2
    assert run("run", space, "--study", "third", *RUN, *HYPERBAND, "--warm-start", "new") == 2
    assert not Path("runs", "third", "journal.jsonl").exists()
    errors = [line for line in capfd.readouterr().err.splitlines() if "--try-first" in line or "--warm-start" in line]
    assert len(errors) == 3
    assert "'unitz', which is not asked for: leave it out. Did you mean 'units'?" in errors[0]


def test_from_python(space: Path) -> None:
    study = search.run(
        space, study="p", max_epochs=1, max_trials=1, workers=1, progress=False, try_first=[{"units": 5}]
    )
    assert study.trials[0].params["units"] == 5


@pytest.mark.slow
def test_a_change_of_parameters_begins_a_phase_and_other_changes_do_not(space: Path) -> None:
    text = space.read_text().replace('hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")', "0.01")
    space.write_text(text)
    grid = ("--backend", "optuna", "--sampler", "grid", "--pruner", "none", "--seed", 1)
    again = ("--workers", 1, "--no-progress", "--accept-changes", "--max-trials")
    assert run("run", space, "--study", "t", *RUN, *grid, "--max-trials", 2) == 0
    space.write_text(text + "# a remark\n")
    assert run("resume", "t", *again, 3) == 0
    space.write_text(text.replace('"units", 2, 8', '"units", 20, 21'))
    assert run("resume", "t", *again, 5) == 0
    found = search.load_study("t")
    assert [trial.phase for trial in found.trials] == [0, 0, 0, 1, 1]
    assert sorted(trial.params["units"] for trial in found.trials[3:]) == [20, 21]
    records = [entry["kind"] for entry in journaled("t")]
    assert records.count("space_changed") == 2
    assert records[records.index("space_changed", records.index("space_changed") + 1) + 1] == "backend_changed"
