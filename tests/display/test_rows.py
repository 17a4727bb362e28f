"""Trials as JSON, CSV and frames, of studies built by hand."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest
from study_builder import StudyBuilder, rendered, trials_by_number, typical

import search
from search.display import rows, tables, trial_page
from search.display.text import NONE
from search.study import records
from search.study.paths import StudyPaths
from search.study.records import (
    Built,
    CheckpointDropped,
    EpochDone,
    SearchStarted,
    SegmentEnded,
    TrialEnded,
)
from search.study.study import Study

pytestmark = pytest.mark.core


def test_the_json_entry_of_a_trial() -> None:
    study = typical().study
    assert rows.trial_fields(study.trials[0], study, "run0", alive=True) == {
        "trial": 0,
        "state": "paused",
        "epochs": 3,
        "objective": 0.9722,
        "best_epoch": 2,
        "params": {"lr": 0.003, "units": 64, "layers": 3},
        "error": None,
        "seed": 100,
        "mlflow_run_id": "run0",
        "trained": 3,
        "executions": [0.9722],
        "objective_std": None,
        "test": None,
        "bracket": 3,
        "rung": 0,
        "runner": "fit",
        "seconds": 1.26,
        "seconds_per_epoch": 0.42,
        "peak_device_memory": None,
        "parameters": 12345,
        "unused_initial_values": None,
        "parent": None,
        "backend": "hyperband",
    }


def test_the_json_entry_of_a_failed_trial() -> None:
    study = typical().study
    found = rows.trial_fields(study.trials[3], study, None, alive=True)
    assert (found["state"], found["objective"], found["best_epoch"]) == ("failed", None, None)
    assert found["error"] == "ValueError: no such layer"
    assert found["mlflow_run_id"] is None


def test_json_is_standard_json() -> None:
    builder = StudyBuilder()
    builder.request(0, 3)
    builder.values(0, scale=math.inf, shift=math.nan, units=16)
    builder.epochs(0, math.nan, math.inf, seconds=math.nan)
    builder.fail(0, "diverged:\nloss is nan")
    text = json.dumps(rows.trial_fields(builder.study.trials[0], builder.study, None, alive=True), allow_nan=False)
    found = json.loads(text)
    # A value can be typed in again, and so it is text; what was measured is null.
    assert found["params"] == {"scale": "inf", "shift": "nan", "units": 16}
    assert found["objective"] is None
    assert found["error"] == "diverged: loss is nan"


def test_epochs_that_are_trained_again_are_trained_epochs() -> None:
    builder = StudyBuilder()
    builder.request(0, 3)
    builder.epochs(0, 0.5, 0.6)
    builder.apply(builder.study.trials[0].curve[1])
    found = rows.trial_fields(builder.study.trials[0], builder.study, None, alive=True)
    assert (found["epochs"], found["trained"]) == (2, 3)
    lines = tables.status_lines(builder.study, True, builder.now)
    assert lines[3] == "2/375 epochs, 1 epoch trained again, 5s"


def black_box() -> StudyBuilder:
    """Return a study whose trial is trained by a user's `fit` that shows only its result."""
    builder = StudyBuilder("optuna", options={"backend": "optuna", "max_trials": 3})
    builder.request(0, 1000)
    builder.values(0, lr=0.003)
    builder.apply(Built(0, 12345, "black box: begins anew for each segment", own_fit=True, black_box=True))
    builder.apply(EpochDone(0, 0, 1000, {"val_accuracy": 0.9}, 4.2, trained=1000))
    return builder


def test_the_epochs_of_a_black_box_are_unknown() -> None:
    builder = black_box()
    study, trial = builder.study, builder.study.trials[0]
    found = rows.trial_fields(trial, study, None, alive=True)
    assert (found["epochs"], found["best_epoch"], found["trained"]) == (None, None, None)
    status = tables.status_fields(study, alive=True, now=builder.now)
    assert (status["epochs"], status["trained"], status["best"]) == (None, None, 0.9)
    (cells,) = csv.DictReader(io.StringIO(rows.trials_csv(study, [trial], {}, alive=True)))
    assert (cells["epochs"], cells["best_epoch"]) == ("", "")
    row = rendered(tables.trials_table(study, [trial], alive=True))[1]
    assert row.split() == ["0", "running", NONE, "0.9000", NONE, NONE, "0.003"]
    assert rendered(tables.leaderboard(study, 1))[1].split()[:5] == ["1", "0", "0.9000", NONE, NONE]
    assert tables.status_lines(study, True, builder.now)[3:] == [
        "epochs unknown, 6s",
        "best val_accuracy 0.9000 · trial 0 · lr=0.003",
    ]
    lines = rendered(trial_page.trial_details(study, trial, "", "", alive=True))
    assert lines[:5] == [
        "trial 0 of digits: running, epochs unknown",
        "val_accuracy 0.9000",
        "model: 12,345 weights, runner black box: begins anew for each segment",
        "fit: a black box; the result is what it returned, the model is as it ended",
        "worker: running in slot 0, 1 segment, 4.2s of training",
    ]
    assert lines[-2:] == ["asked for  time  val_accuracy", "    *1000  4.2s        0.9000"]
    builder.apply(SearchStarted("box", 4321, {"backend": "optuna", "max_total_epochs": 2000}))
    assert tables.status_lines(study, True, builder.now)[3] == "1000/2000 epochs asked for, 6s"


def test_a_trial_that_wants_no_more_epochs_has_as_many_as_it_had() -> None:
    builder = StudyBuilder()
    builder.request(0, 1000)
    builder.epochs(0, 0.5, 0.6)
    builder.apply(SegmentEnded(0, 0, "stopped_by_callback", 2))
    lines = rendered(trial_page.trial_details(builder.study, builder.study.trials[0], "", "", alive=True))
    assert lines[0] == "trial 0 of digits: paused, 2 epochs"


def test_a_paused_trial_says_that_its_checkpoint_was_dropped() -> None:
    builder = StudyBuilder()
    builder.request(0, 1)
    builder.epochs(0, 0.5)
    builder.reach(0)
    trial, line = (
        builder.study.trials[0],
        "checkpoint: dropped; if the trial goes on, it is trained again from its seed",
    )

    def shown() -> bool:
        return line in rendered(trial_page.trial_details(builder.study, trial, "", "", alive=True))

    assert not shown()
    builder.apply(CheckpointDropped(0))
    assert shown()
    builder.apply(TrialEnded(0, "stopped"))
    assert not shown()


@pytest.mark.parametrize(("alive", "state"), [(True, "running"), (False, "paused")])
def test_a_running_trial_is_paused_if_no_process_lives(alive: bool, state: str) -> None:
    study = typical().study
    trial = study.trials[4]
    assert rows.trial_fields(trial, study, None, alive=alive)["state"] == state
    assert f" {state} " in rendered(tables.trials_table(study, [trial], alive))[1]
    assert f": {state}," in rendered(trial_page.trial_details(study, trial, "", "", alive=alive))[0]
    assert ("2 running" in "\n".join(tables.status_lines(study, alive, 0.0))) == alive
    lines = list(csv.DictReader(io.StringIO(rows.trials_csv(study, [trial], {}, alive=alive))))
    assert lines[0]["state"] == state


def test_csv_has_a_column_for_each_hyperparameter() -> None:
    builder = StudyBuilder()
    builder.request(0, 3)
    builder.values(0, zeta="a, b", lr=0.1, state=None)
    builder.epochs(0, 0.5)
    builder.request(1, 3)
    builder.values(1, units=32)
    builder.fail(1, 'ValueError: "x"')
    text = rows.trials_csv(builder.study, trials_by_number(builder.study), {0: "abc"}, alive=True)
    lines = list(csv.DictReader(io.StringIO(text)))
    assert list(lines[0])[-4:] == ["params_lr", "params_units", "params_zeta", "params_state"]
    assert (lines[0]["params_zeta"], lines[0]["params_lr"], lines[0]["params_units"]) == ("a, b", "0.1", "")
    assert (lines[0]["params_state"], lines[1]["params_state"]) == ("None", "")
    assert (lines[0]["mlflow_run_id"], lines[0]["state"], lines[0]["objective"]) == ("abc", "running", "0.5")
    assert (lines[1]["error"], lines[1]["objective"], lines[1]["mlflow_run_id"]) == ('ValueError: "x"', "", "")


def test_the_csv_of_no_trials_is_a_heading() -> None:
    text = rows.trials_csv(StudyBuilder().study, [], {}, alive=False)
    assert text.startswith("trial,state,epochs,objective,best_epoch,error,seed,mlflow_run_id,trained,")
    assert text.count("\n") == 1


AWKWARD = {"epochs": 9, "objective": "mse", "trial": 4, "state": "on", "seconds": 5, "x": 1, "params_x": 2, "params": 3}
"""Hyperparameters that are called like columns, and like each other's columns."""


def study_of_awkward_names() -> Study:
    builder = StudyBuilder()
    builder.request(0, 3)
    builder.values(0, **AWKWARD)
    builder.epochs(0, 0.5)
    builder.request(1, 3)
    builder.values(1, lr=0.25, epochs=None)
    return builder.study


def test_a_hyperparameter_may_be_called_like_a_column() -> None:
    study = study_of_awkward_names()
    entry = rows.trial_fields(study.trials[0], study, None, alive=True)
    line, other = csv.DictReader(io.StringIO(rows.trials_csv(study, trials_by_number(study), {}, alive=True)))
    assert entry["params"] == AWKWARD
    assert {name: line[f"params_{name}"] for name in AWKWARD} == {name: str(v) for name, v in AWKWARD.items()}
    for name in ("trial", "state", "epochs", "objective", "seconds"):
        assert line[name] == str(entry[name])
    assert [name for name in line if not name.startswith("params_")] == [name for name in entry if name != "params"]
    assert (other["params_epochs"], other["params_state"], other["epochs"]) == ("None", "", "0")
    heading = rendered(tables.trials_table(study, [study.trials[0]], True), 200)[0]
    assert heading.split()[:3] == ["trial", "state", "epochs"]
    assert heading.split()[-8:] == [
        *("params_epochs", "objective", "params_trial", "params_state", "seconds", "x", "params_x", "params")
    ]


def test_a_dataframe_has_the_columns_and_the_values_of_the_csv(tmp_path: Path) -> None:
    builder = StudyBuilder()
    first = {"epochs": 9, "state": "on", "params_lr": 2**60 + 1, "lr": 0.25, "units": None, "depth": 2}
    for trial, values in enumerate([first, {"lr": 0.5, "units": 32, "wide": True}]):
        builder.request(trial, 3)
        builder.values(trial, **values)
        builder.epochs(trial, 0.5, 0.75)
    frame = search.StudyResults(StudyPaths.of(tmp_path, "digits"), builder.study).trials_dataframe()
    columns, lines = rows.flat_rows(builder.study, trials_by_number(builder.study), {}, alive=False)
    assert list(frame.columns) == columns
    names = ["lr", "units", "epochs", "state", "params_lr", "depth", "wide"]
    assert columns[-7:] == [f"params_{name}" for name in names]
    for line, found in zip(lines, frame.to_dict("records"), strict=True):
        known = {name: value for name, value in line.items() if value is not None}
        assert {name: found[name] for name in known} == known
    assert list(frame["epochs"]) == [2, 2]
    assert frame["params_units"][0] is None  # a choice of None is a value
    assert frame["params_depth"].dtype == float
    assert [name for name in names if math.isnan(frame[f"params_{name}"][1])] == names[2:6]
    empty = search.StudyResults(StudyPaths.of(tmp_path, "digits"), StudyBuilder().study).trials_dataframe()
    assert list(empty.columns) == [name for name in columns if not name.startswith("params_")]
    assert len(empty) == 0
    described = search.StudyResults.trials_dataframe.__doc__ or ""
    assert [name for name in empty.columns if f"`{name}`" not in described] == []


def test_results_on_test_data_that_are_not_finite_are_standard_json() -> None:
    study = typical().study
    study.apply(records.Tested(0, 0, 2, {"loss": math.nan, "accuracy": 0.5}), 0.0)
    entry = rows.trial_fields(study.trials[0], study, None, alive=True)
    assert entry["test"] == {"loss": None, "accuracy": 0.5}
    (line,) = csv.DictReader(io.StringIO(rows.trials_csv(study, [study.trials[0]], {}, alive=True)))
    assert (json.loads(line["test"]), json.loads(line["executions"])) == (entry["test"], entry["executions"])
