"""TensorBoard's log, read by TensorBoard's own readers: its content, after a resume, and if it cannot be written."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from by_hand import completed_trial, epochs, evaluated, failed_trial, reached, requested, started, study_start
from places import TINY
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2 as api
from tensorboard.plugins.hparams import metadata

import search
from search import cli
from search.errors import OptionError
from search.space.domain import Domain, Parameter
from search.study.journal import Entry, read_all
from search.study.paths import StudyPaths
from search.study.records import Built, EpochDone, ParameterSet, Record, SearchStarted, TrialEnded
from search.tracking.tensorboard import TensorBoardLog

# Without this, the readers import TensorFlow.
sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))

TRIALS = [*completed_trial(0, [0.5, 0.9, 0.7]), *failed_trial(1), *requested(2), *epochs(2, [0.25])]


def entries(records: Iterable[Record]) -> list[Entry]:
    """Return `records` as entries of a journal, one a second."""
    return [Entry(record, 1000.0 + number, 0) for number, record in enumerate(records)]


def follow(folder: Path, records: Iterable[Record], before: Iterable[Record] = ()) -> TensorBoardLog:
    """Return the log of a process that finds `before` in its journal, and journals `records`."""
    log = TensorBoardLog(folder, entries(before), pytest.fail)
    for entry in entries(records):
        log.take([entry])
        log.flushed()
    return log


class Shown:
    """The content of a log's folder, as TensorBoard reads it."""

    def __init__(self, folder: Path) -> None:
        self._runs = {path.name: EventAccumulator(str(path)).Reload() for path in sorted(folder.iterdir())}

    @property
    def trials(self) -> list[str]:
        return [name for name in self._runs if not name.startswith("space.")]

    def points(self, run: str) -> dict[str, list[tuple[int, float]]]:
        scalars = self._runs[run].Tags()["scalars"]
        return {tag: [(p.step, round(p.value, 5)) for p in self._runs[run].Scalars(tag)] for tag in scalars}

    def times(self, run: str, tag: str) -> list[float]:
        return [point.wall_time for point in self._runs[run].Scalars(tag)]

    def start(self, run: str) -> Any:
        return metadata.parse_session_start_info_plugin_data(self._content(run, metadata.SESSION_START_INFO_TAG))

    def values(self, run: str) -> dict[str, Any]:
        return {name: getattr(value, value.WhichOneof("kind")) for name, value in self.start(run).hparams.items()}

    def status(self, run: str) -> Any:
        """Return the status that the run ended with; None if it has not ended."""
        content = self._content(run, metadata.SESSION_END_INFO_TAG)
        return content and metadata.parse_session_end_info_plugin_data(content).status

    @property
    def experiment(self) -> Any:
        (space,) = (name for name in self._runs if name.startswith("space."))
        return metadata.parse_experiment_plugin_data(self._content(space, metadata.EXPERIMENT_TAG))

    def _content(self, run: str, tag: str) -> bytes | None:
        return dict(self._runs[run].PluginTagToContent("hparams")).get(tag)

    def all(self) -> dict[str, Any]:
        return {run: (self.points(run), self.values(run), self.status(run)) for run in self.trials}


# The log's content ----------------------------------------------------------------------------------------------------


@pytest.mark.core
def test_a_trial_is_a_run_with_values_curves_and_status(tmp_path: Path) -> None:
    follow(tmp_path, [*study_start(), *TRIALS])
    shown = Shown(tmp_path)
    assert shown.trials == ["0000", "0001", "0002"]
    assert shown.points("0000") == {
        "loss": [(1, 1.0), (2, 0.5), (3, 0.33333)],
        "val_accuracy": [(1, 0.5), (2, 0.9), (3, 0.7)],
        "objective": [(1, 0.5), (2, 0.9), (3, 0.9)],
    }
    times = [
        e.time for e in entries([*study_start(), *TRIALS]) if isinstance(e.record, EpochDone) and e.record.trial == 0
    ]
    assert shown.times("0000", "objective") == times
    assert shown.values("0000") == {"units": 8, "relu": True}
    assert shown.values("0001") == {"units": 9, "relu": False}
    assert shown.points("0001") == {}
    statuses = [shown.status(run) for run in shown.trials]
    assert statuses == [api.STATUS_SUCCESS, api.STATUS_FAILURE, None]


@pytest.mark.core
def test_the_hparams_page_lists_domains_and_metrics_with_the_objective_first(tmp_path: Path) -> None:
    follow(tmp_path, [*study_start(), *TRIALS])
    experiment = Shown(tmp_path).experiment
    assert [(m.name.tag, m.display_name) for m in experiment.metric_infos] == [
        ("objective", "best val_accuracy"),
        ("loss", "loss"),
        ("val_accuracy", "val_accuracy"),
    ]
    units, relu = experiment.hparam_infos
    assert (units.name, units.type) == ("units", api.DATA_TYPE_FLOAT64)
    assert (units.domain_interval.min_value, units.domain_interval.max_value) == (8, 64)
    assert (relu.name, relu.type) == ("relu", api.DATA_TYPE_BOOL)
    assert [value.bool_value for value in relu.domain_discrete.values] == [True, False]
    assert experiment.name == "digits"


def test_a_new_parameter_moves_the_lists_to_a_new_folder(tmp_path: Path) -> None:
    log = follow(tmp_path, [*study_start(), *completed_trial(0, [0.5])])
    before = [path.name for path in tmp_path.glob("space.*")]
    deep = Parameter("units_2", Domain("int", 1, 4))
    head, *rest = requested(1)
    epoch = EpochDone(1, 0, 1, {"lr": 0.1, "val_accuracy": 0.5}, 0.1)
    log.take(entries([head, ParameterSet(1, deep, 2), *rest, epoch]))
    log.flushed()
    (after,) = (path.name for path in tmp_path.glob("space.*"))
    assert [after] != before
    experiment = Shown(tmp_path).experiment
    assert {info.name for info in experiment.hparam_infos} == {"units", "relu", "units_2"}
    assert "lr" in {info.name.tag for info in experiment.metric_infos}
    # A later process must not use the name of a folder that a running TensorBoard has read.
    follow(tmp_path, [], before=[*study_start(), *TRIALS])
    (last,) = (path.name for path in tmp_path.glob("space.*"))
    assert [last] not in (before, [after])


def with_domains(*domains: Domain) -> list[Record]:
    """Return the records of one trial for each domain: its parameter `x` has the domain's first value."""
    written: list[Record] = []
    for trial, domain in enumerate(domains):
        head, *rest = requested(trial)
        value = domain.low if domain.is_range else domain.values[0]
        written += [head, ParameterSet(trial, Parameter("x", domain), value), *rest]
    return written


def listed_parameter(folder: Path, name: str) -> Any:
    """Return the entry of a parameter on the HParams page."""
    (info,) = (info for info in Shown(folder).experiment.hparam_infos if info.name == name)
    return info


def test_a_parameter_with_several_domains_is_listed_with_the_values_of_all(tmp_path: Path) -> None:
    one, other = Domain("int", 8, 64), Domain("int", 1, 16)
    log = follow(tmp_path / "ranges", [*study_start(), *with_domains(one, other)])
    interval = listed_parameter(tmp_path / "ranges", "x").domain_interval
    assert (interval.min_value, interval.max_value) == (1, 64)
    before = list((tmp_path / "ranges").glob("space.*"))
    log.take(entries(with_domains(other)))
    log.flushed()
    assert list((tmp_path / "ranges").glob("space.*")) == before

    letters = Domain("choice", values=("a", "b"))
    follow(tmp_path / "choices", [*study_start(), *with_domains(letters, Domain("choice", values=("b", "c")))])
    values = listed_parameter(tmp_path / "choices", "x").domain_discrete.values
    assert [value.string_value for value in values] == ["a", "b", "c"]
    follow(tmp_path / "mixed", [*study_start(), *with_domains(letters, one)])
    assert listed_parameter(tmp_path / "mixed", "x").WhichOneof("domain") is None


@pytest.mark.core
@pytest.mark.parametrize(
    ("values", "kind", "shown"),
    [
        ((1, 2.5), "number_value", [1, 2.5]),
        ((True, False), "bool_value", [True, False]),
        (("a", None), "string_value", ["a", "None"]),
        ((1, None), "string_value", ["1", "None"]),
    ],
)
def test_a_value_has_the_type_of_its_whole_domain(values: Any, kind: str, shown: list[Any], tmp_path: Path) -> None:
    parameter = Parameter("x", Domain("choice", values=values))
    written: list[Record] = []
    for trial, value in enumerate(values):
        head, *rest = requested(trial)
        written += [head, ParameterSet(trial, parameter, value), *rest]
    follow(tmp_path, [*study_start(), *written])
    log = Shown(tmp_path)
    found = [log.start(run).hparams["x"] for run in log.trials]
    assert [value.WhichOneof("kind") for value in found] == [kind] * len(values)
    assert [getattr(value, kind) for value in found] == shown


def test_executions_are_runs_in_one_group_each_with_its_own_objective(tmp_path: Path) -> None:
    again = [EpochDone(0, 1, 1, {"val_accuracy": 0.75}, 0.1), TrialEnded(0, "completed")]
    follow(tmp_path, [*study_start(), *requested(0), *epochs(0, [0.5]), *again])
    shown = Shown(tmp_path)
    assert shown.trials == ["0000", "0000-1"]
    assert [shown.start(run).group_name for run in shown.trials] == ["0000", "0000"]
    assert shown.values("0000-1") == shown.values("0000")
    assert shown.points("0000-1") == {"val_accuracy": [(1, 0.75)], "objective": [(1, 0.75)]}
    assert {shown.status(run) for run in shown.trials} == {api.STATUS_SUCCESS}


def test_the_users_own_fit_may_ask_for_values_after_the_build(tmp_path: Path) -> None:
    late = Parameter("batch", Domain("int", 1, 64))
    written = [*requested(0)[:-1], Built(0, 1, "fit", own_fit=True), ParameterSet(0, late, 32), *epochs(0, [0.5])]
    follow(tmp_path, [*study_start(), *written])
    assert Shown(tmp_path).values("0000") == {"units": 8, "relu": True, "batch": 32}


def test_nonfinite_numbers_are_omitted_and_test_data_have_metrics_of_their_own(tmp_path: Path) -> None:
    bad = EpochDone(0, 0, 2, {"loss": math.nan, "val_accuracy": math.inf}, 0.1)
    tested = evaluated(0, 1, {"accuracy": 0.25})
    follow(tmp_path, [*study_start(), *requested(0), *epochs(0, [0.5]), bad, tested])
    points = Shown(tmp_path).points("0000")
    assert points == {
        "loss": [(1, 1.0)],
        "val_accuracy": [(1, 0.5)],
        "objective": [(1, 0.5), (2, 0.5)],
        "test_accuracy": [(1, 0.25)],
    }


# Resumes --------------------------------------------------------------------------------------------------------------


def test_a_resume_after_any_record_writes_the_same_log(tmp_path: Path) -> None:
    written = [*study_start(), *TRIALS]
    follow(tmp_path / "whole", written)
    expected = Shown(tmp_path / "whole").all()
    for cut in range(len(written)):
        folder = tmp_path / "cut"
        # The process was killed while it wrote.
        follow(folder, written[:cut])
        for file in folder.glob("*/*"):
            file.write_bytes(file.read_bytes()[:-3])
        follow(folder, written[cut:], before=written[:cut])
        assert Shown(folder).all() == expected


def test_a_tensorboard_that_runs_during_a_resume_has_each_epoch_once(tmp_path: Path) -> None:
    written = [*study_start(), *requested(0), *epochs(0, [0.5, 0.6])]
    follow(tmp_path / "first", written)
    follow(tmp_path / "second", [], before=written)
    running = EventAccumulator(str(tmp_path / "first" / "0000")).Reload()
    assert [point.step for point in running.Scalars("objective")] == [1, 2]
    # It has the file of the first process open, and continues with that of the second.
    (first,), (second,) = (tmp_path / "first" / "0000").iterdir(), (tmp_path / "second" / "0000").iterdir()
    second.rename(f"{first}.later")
    running.Reload()
    assert [point.step for point in running.Scalars("objective")] == [1, 2]


def test_an_epoch_that_is_trained_again_is_logged_once(tmp_path: Path) -> None:
    again = [SearchStarted("host", 43, {}), started(0, 0, 3), Built(0, 1234, "fused"), *epochs(0, [0.1, 0.2, 0.8])]
    written = [*requested(0, 0, 3), *epochs(0, [0.5, 0.6]), *again, *reached(0, 3, 3, 0.8), TrialEnded(0, "completed")]
    follow(tmp_path, [*study_start(), *written])
    assert Shown(tmp_path).points("0000")["val_accuracy"] == [(1, 0.5), (2, 0.6), (3, 0.8)]


# Errors ---------------------------------------------------------------------------------------------------------------


def test_a_full_disk_ends_the_log_with_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    log = TensorBoardLog(tmp_path / "log", (), warnings.append)

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    for entry in entries([*study_start(), *TRIALS]):
        log.take([entry])
        log.flushed()
    (line,) = warnings
    assert "No space left on device" in line
    assert "the search goes on" in line
    assert "\n" not in line


def test_a_folder_that_cannot_be_deleted_is_not_changed(tmp_path: Path) -> None:
    warnings: list[str] = []
    (tmp_path / "log").write_text("no folder")
    log = TensorBoardLog(tmp_path / "log", entries([*study_start(), *TRIALS]), warnings.append)
    log.take(entries(completed_trial(5, [0.5])))
    log.flushed()
    assert len(warnings) == 1
    assert (tmp_path / "log").read_text() == "no folder"


def test_without_the_package_no_study_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "search.tracking.tensorboard", None)
    monkeypatch.chdir(tmp_path)
    shutil.copy(TINY, "tiny.py")
    with pytest.raises(OptionError, match=r"tensorboard=True needs the package .*pip install tensorboard"):
        search.run("tiny.py", tensorboard=True, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.py"]


IMPORTED = """
import sys, search.tracking.tensorboard
print(*sorted(set(sys.modules) & {"tensorflow", "keras", "jax", "torch"}))
"""


def test_no_framework_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# A search -------------------------------------------------------------------------------------------------------------


def curves(study: search.StudyResults) -> dict[str, list[tuple[int, float]]]:
    return {
        f"{trial.number:04d}": [(epoch.epoch, round(epoch.logs["val_loss"], 5)) for epoch in trial.curve]
        for trial in study.trials
    }


@pytest.mark.slow
def test_a_log_that_a_resume_adds_has_all_epochs(workplace: Path) -> None:
    shutil.copy(TINY, "tiny.py")
    options = ["--backend", "hyperband", "--max-epochs", "3", "--seed", "5", "--objective", "val_loss"]
    again = ["--workers", "1", "--no-progress"]
    assert cli.main(["run", "tiny.py", "--study", "t", "--max-trials", "2", *options, *again]) == 0
    paths = StudyPaths.of("runs", "t")
    assert not paths.tensorboard.exists()
    assert cli.main(["resume", "t", "--max-trials", "3", "--tensorboard", *again]) == 0
    assert cli.main(["resume", "t", "--max-trials", "4", *again]) == 0
    shown, study = Shown(paths.tensorboard), search.load_study("t")
    assert len(study.trials) == 4
    assert {run: shown.points(run)["val_loss"] for run in shown.trials} == curves(study)
    assert shown.values("0003")["units"] == study.trials[3].params["units"]
    best = study.best_trials(1)[0]
    assert shown.points(f"{best.number:04d}")["objective"][-1][1] == pytest.approx(best.objective, abs=1e-5)
    # The log is a function of the journal.
    TensorBoardLog(workplace / "log", read_all(paths.journal), pytest.fail)
    assert Shown(workplace / "log").all() == shown.all()
    assert cli.main(["resume", "t", "--max-trials", "5", "--no-tensorboard", *again]) == 0
    assert len(Shown(paths.tensorboard).trials) == 4
    assert cli.main(["run", "tiny.py", "--study", "t", "--overwrite", "--max-trials", "1", *options, *again]) == 0
    assert not paths.tensorboard.exists()
