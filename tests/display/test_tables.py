"""Tests of the output of the commands, on studies built by hand."""

# ruff: noqa: RUF001  # the output has dashes

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from rich.cells import cell_len
from study_builder import LR, UNITS, StudyBuilder, rendered, trials_by_number, typical

from search.display import rows, space_page, tables, trial_page
from search.display.grid import Column, Grid, wrap_cells
from search.messages import Probed
from search.space.domain import Condition, Domain, Parameter
from search.study import records
from search.study.records import (
    EpochDone,
    ResultTold,
    SearchEnded,
    SearchStarted,
    SegmentEnded,
)

pytestmark = pytest.mark.core


# Tables ---------------------------------------------------------------------------------------------------------------


def test_trials_at_80_columns() -> None:
    study = typical().study
    assert rendered(tables.trials_table(study, trials_by_number(study), True)) == [
        "trial  state      epochs  val_accuracy  best epoch   pace  lr      units  layers",
        "    0  paused          3        0.9722           2  0.42s  0.003   64     3",
        "    1  completed       3        0.9500           2  0.42s  0.01    128    3",
        "    2  stopped         3        0.4000           2  0.42s  0.05    32     3",
        "    3  failed          0             –           –      –  0.1     512    3",
        "    4  running         3        0.6123           2  0.42s  0.0001  16     3",
        "    5  running         0             –           –      –",
        "1 failed: `search show digits 3` says why",
    ]


def test_peaks_of_device_memory_are_shown_if_there_are_any() -> None:
    builder = typical()
    builder.apply(SegmentEnded(4, 0, "interrupted", 3, peak_device_memory=3 * 2**30))
    study = builder.study
    heading, *lines = rendered(tables.trials_table(study, trials_by_number(study), True), 100)
    assert heading.split()[6:8] == ["pace", "memory"]
    assert [line.split()[6:8] for line in lines if line.split()[0] in "04"] == [["–", "0.003"], ["3.0", "GiB"]]
    assert rows.trial_row(study.trials[4], study, None, alive=True)["peak_device_memory"] == 3 * 2**30
    shown = rendered(trial_page.trial_details(study, study.trials[4], "", "", alive=True))
    assert "device memory: 3.0 GiB at its peak" in shown
    builder.apply(SearchStarted("box", 1, {}, {"keras_backend": "jax"}))
    shown = rendered(trial_page.trial_details(study, study.trials[4], "", "", alive=True), 100)
    assert "device memory: 3.0 GiB at its peak, or less: JAX counts all trials of a process" in shown


def study_of_many_params() -> StudyBuilder:
    builder = StudyBuilder()
    builder.request(0, 3)
    builder.values(0, lr=0.003, units=64, optimizer="adam", activation="relu", normalization="batch")
    builder.epochs(0, 0.9)
    return builder


def test_hyperparameters_that_do_not_fit_stand_below_their_trial() -> None:
    study = study_of_many_params().study
    table = tables.trials_table(study, trials_by_number(study), True)
    assert rendered(table) == [
        "trial  state    epochs  val_accuracy  best epoch   pace",
        "    0  running       1        0.9000           1  0.42s",
        "       lr=0.003, units=64, optimizer=adam, activation=relu, normalization=batch",
    ]
    whole = [
        "trial  state    epochs  val_accuracy  best epoch   pace  lr     units  optimizer  activation  normalization",
        "    0  running       1        0.9000           1  0.42s  0.003  64     adam       relu        batch",
    ]
    assert rendered(table, 120) == whole
    assert rendered(table, terminal=False) == whole


HOSTILE = {
    "n" * 200: "v" * 200,
    "名前" * 20: "値 🐳" * 20,
    "🧪": "🐳",
    **{f"parameter_{i}": i for i in range(600)},
}
"""Hyperparameters with long names, wide characters, and many of them."""


@pytest.mark.parametrize("width", [10, 80])
def test_no_table_hides_anything(width: int) -> None:
    builder = StudyBuilder()
    builder.request(0, 3)
    builder.values(0, **HOSTILE)
    builder.epochs(0, 0.5)
    study = builder.study
    trial = study.trials[0]
    for page in (
        tables.trials_table(study, [trial], True),
        tables.leaderboard(study, 3),
        trial_page.trial_details(study, trial, "", "", alive=True),
        space_page.parameters_table(trial.parameters),
    ):
        lines = rendered(page, width)
        assert max(map(cell_len, lines)) <= width
        squeezed = "".join("".join(lines).split())
        whole = "".join("".join(rendered(page, terminal=False)).split())
        for text in (squeezed, whole):
            assert "…" not in text
            for name, value in HOSTILE.items():
                assert "".join(name.split()) in text
                assert "".join(str(value).split()) in text


def test_the_test_data_have_a_column_if_a_trial_was_tested() -> None:
    builder = typical()
    before = rendered(tables.leaderboard(builder.study, 2))[0]
    assert "test" not in before
    builder.apply(records.Tested(0, 0, 2, {"loss": 0.25, "accuracy": 0.9321}))
    study = builder.study
    for table, row in (
        (tables.leaderboard(study, 2), 1),
        (tables.trials_table(study, trials_by_number(study), True), 1),
    ):
        heading, *lines = rendered(table, 120)
        assert "test accuracy" in heading
        assert "0.9321" in lines[row - 1]
        assert "0.9321" not in lines[row]


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("", 5, []),
        ("one two three", 7, ["one two", "three"]),
        ("abcdefgh ij", 3, ["abc", "def", "gh", "ij"]),
        ("名前名前", 5, ["名前", "名前"]),
        ("名前", 1, ["名", "前"]),
    ],
)
def test_text_is_wrapped_by_cells(text: str, width: int, lines: list[str]) -> None:
    assert wrap_cells(text, width) == lines


def test_a_grid_that_fits_exactly_is_not_stacked() -> None:
    grid = Grid([Column("a", ["1"])], [Column("b", ["2"])])
    assert [line.plain for line in grid.lines(4)] == ["a  b", "1  2"]
    assert [line.plain for line in grid.lines(3)] == ["a", "1", "b=2"]


@pytest.mark.parametrize("width", [10, 40, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    study = study_of_many_params().study
    shown = [
        tables.trials_table(study, trials_by_number(study), True),
        tables.leaderboard(study, 3),
        trial_page.trial_details(study, study.trials[0], "", "", alive=True),
    ]
    for renderable in shown:
        assert max(map(len, rendered(renderable, width))) <= width


def test_the_leaderboard_is_best_first_without_failures_and_constants() -> None:
    builder = typical()
    builder.request(6, 3)
    builder.values(6, lr=0.01, units=128, layers=3)
    builder.epochs(6, 0.97)
    builder.fail(6, "ValueError: no such layer")
    assert rendered(tables.leaderboard(builder.study, 3)) == [
        "rank  trial  val_accuracy  best epoch  epochs  time  lr      units",
        "   1      0        0.9722           2       3  1.3s  0.003   64",
        "   2      1        0.9500           2       3  1.3s  0.01    128",
        "   3      4        0.6123           2       3  1.3s  0.0001  16",
    ]


def test_the_leaderboard_of_a_minimized_objective() -> None:
    builder = StudyBuilder(direction="min")
    for trial, value in enumerate([0.5, 0.2, 0.3]):
        builder.request(trial, 1)
        builder.epochs(trial, value)
        builder.reach(trial, "completed")
    assert [line.split()[1] for line in rendered(tables.leaderboard(builder.study, 9))[1:]] == ["1", "2", "0"]


def test_tables_of_an_empty_study() -> None:
    study = StudyBuilder().study
    assert rendered(tables.leaderboard(study, 3)) == ["no trial has an objective"]
    assert rendered(tables.trials_table(study, [], True)) == ["no trials"]


def test_text_of_the_user_is_neither_markup_nor_a_terminal_command() -> None:
    builder = StudyBuilder()
    builder.request(0, 3)
    builder.values(0, **{"[bold]x[/bold]": "[red]y\x1b[2J\n"})
    builder.epochs(0, 0.5, **{"[link]m": 1.0})
    builder.apply(SegmentEnded(0, 0, "lost", 1, "[/nope] \x1b[31mgone\r\n"))
    study = builder.study
    text = "\n".join(
        [
            *rendered(tables.trials_table(study, trials_by_number(study), True)),
            *rendered(tables.leaderboard(study, 1)),
            *rendered(
                trial_page.trial_details(
                    study, study.trials[0], "[/x] \x1b[31mred\x1b[2J", "[a] 1\r2\b\x07", alive=True
                )
            ),
        ]
    )
    assert "[bold]x[/bold]" in text
    assert "[red]y" in text
    assert "[link]m" in text
    assert "[/nope]" in text
    assert "[/x] red" in text
    assert "\x1b" not in text


# One study ------------------------------------------------------------------------------------------------------------


def test_the_status_of_a_running_study() -> None:
    builder = typical()
    assert tables.status_lines(builder.study, True, builder.now + 60) == [
        "digits: running, process 4321 on box",
        "hyperband · max val_accuracy · seed 7",
        "6 trials: 2 running, 1 paused, 1 completed, 1 stopped, 1 failed",
        "15/375 epochs, 1m 55s",
        "best val_accuracy 0.9722 · trial 0 · epoch 2 · lr=0.003 units=64",
        "last failure: trial 3: ValueError: no such layer",
    ]


def test_the_status_of_a_study_whose_process_is_gone() -> None:
    builder = typical()
    lines = tables.status_lines(builder.study, False, builder.now + 86400)
    assert lines[0] == "digits: its process is gone; `search resume digits` goes on"
    assert lines[2] == "6 trials: 3 paused, 1 completed, 1 stopped, 1 failed"
    assert lines[3] == "15/375 epochs, 55s"  # the time of the run only, without the day since


@pytest.mark.parametrize(
    ("end", "line"),
    [
        (SearchEnded("the back end is done", True, 0), "digits: done, the back end is done"),
        (
            SearchEnded("stopped by the user", False, 130),
            "digits: ended, stopped by the user; `search resume digits` goes on",
        ),
    ],
)
def test_the_status_of_a_study_that_ended(end: SearchEnded, line: str) -> None:
    builder = typical()
    builder.apply(end)
    assert tables.status_lines(builder.study, False, builder.now)[0] == line


def test_the_status_uses_the_options_of_the_last_run() -> None:
    builder = StudyBuilder(
        "optuna", options={"backend": "optuna", "max_total_epochs": 50, "study": "digits", "of_a_later_version": 1}
    )
    assert tables.status_lines(builder.study, True, builder.now)[3:] == ["0/50 epochs, 0s", "best: none yet"]


# One trial ------------------------------------------------------------------------------------------------------------


def test_the_details_of_a_trial() -> None:
    builder = typical()
    trial = builder.study.trials[4]
    assert rendered(trial_page.trial_details(builder.study, trial, "", "Epoch 1\nEpoch 2\n", alive=True)) == [
        "trial 4 of digits: running, 3 of 9 epochs",
        "val_accuracy 0.6123 at epoch 2",
        "bracket 2, rung 0",
        "model: 12,345 weights, runner fit",
        "worker: running in slot 0, 1 segment, 1.3s of training, 0.42s an epoch",
        "seed 104",
        "",
        "hyperparameter  value   domain",
        "lr              0.0001  Float(0.0001..0.1, log)",
        "units           16      Int(16..512)",
        "layers          3       Fixed(3)",
        "",
        "val_accuracy  ▁█▇",
        "epoch   time  val_accuracy    loss",
        "    1  0.42s        0.5000  0.5000",
        "   *2  0.42s        0.6123  0.5000",
        "    3  0.42s        0.6000  0.5000",
        "",
        "end of the log",
        "Epoch 1",
        "Epoch 2",
    ]


def test_the_details_of_a_failed_trial() -> None:
    study = typical().study
    traceback = 'Traceback (most recent call last):\n  File "space.py", line 3\nValueError: no such layer\n'
    lines = rendered(trial_page.trial_details(study, study.trials[3], traceback, "", alive=False))
    assert lines[-6:] == ["error: ValueError: no such layer", "", "traceback", *traceback.splitlines()]
    assert "end of the log" not in lines


def long_curve() -> StudyBuilder:
    """Return a study with a trial of 500 epochs, the best in their midst."""
    builder = StudyBuilder()
    builder.request(0, 500)
    builder.epochs(0, *(0.9 if epoch == 123 else epoch / 1000 for epoch in range(1, 501)))
    return builder


def curve_rows(lines: list[str]) -> list[str]:
    return [line.split()[0] for line in lines if line.split()[1:2] == ["0.42s"]]


def test_a_long_curve_keeps_its_first_best_and_last_epoch_unless_all_are_asked_for() -> None:
    study = long_curve().study
    lines = rendered(trial_page.trial_details(study, study.trials[0], "", "", alive=True))
    found = curve_rows(lines)
    assert len(found) <= 12
    assert (found[0], found[-1]) == ("1", "500")
    assert "*123" in found
    assert "12 of 500 epochs; `search show digits 0 --curve` has all" in lines
    whole = rendered(trial_page.trial_details(study, study.trials[0], "", "", alive=True, whole_curve=True))
    assert [row.strip("*") for row in curve_rows(whole)] == [str(epoch) for epoch in range(1, 501)]
    assert "--curve" not in "".join(whole)


def test_the_document_of_a_trial_has_each_epoch_of_each_execution() -> None:
    builder = StudyBuilder(options={"backend": "hyperband", "executions_per_trial": 2})
    builder.request(0, 2)
    builder.epochs(0, 0.5, math.nan, loss_b=math.inf)
    builder.study.trials[0].begin_execution(1)
    builder.apply(EpochDone(0, 1, 1, {"loss": 0.25, "val_accuracy": 0.75}, 0.1))
    trial = builder.study.trials[0]
    fields = rows.trial_fields(trial, builder.study, "run", alive=True)
    document = json.loads(json.dumps(trial_page.trial_document(trial, fields, "Traceback"), allow_nan=False))
    assert {name: document[name] for name in fields} == fields
    assert [(entry["execution"], entry["epoch"]) for entry in document["curve"]] == [(0, 1), (0, 2), (1, 1)]
    assert document["curve"][1]["logs"] == {"loss": 0.5, "val_accuracy": None, "loss_b": None}
    assert document["curve"][2] == {
        "epoch": 1, "execution": 1, "seconds": 0.1, "logs": {"loss": 0.25, "val_accuracy": 0.75}
    }  # fmt: skip
    assert document["traceback"] == "Traceback"


def test_a_curve_of_many_metrics_goes_on_in_further_tables() -> None:
    builder = StudyBuilder()
    builder.request(0, 3)
    names = [f"val_metric_{i}" for i in range(20)]
    builder.epochs(0, 0.5, **dict.fromkeys(names, 0.5))
    page = trial_page.trial_details(builder.study, builder.study.trials[0], "", "", alive=True)
    headings = [line.split() for line in rendered(page) if line.lstrip().startswith("epoch ")]
    assert headings[0] == ["epoch", "time", "val_accuracy", "loss", *names[:3]]
    assert [heading[0] for heading in headings] == ["epoch"] * len(headings)
    assert [name for heading in headings for name in heading[1:]] == ["time", "val_accuracy", "loss", *names]
    assert sum(line.lstrip().startswith("epoch ") for line in rendered(page, terminal=False)) == 1


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([], ""),
        ([0.5], "▅"),
        ([1.0, 1.0], "▅▅"),
        ([0.0, 0.5, 1.0], "▁▅█"),
        ([0.0, math.nan, 1.0], "▁ █"),
        ([math.nan, math.inf], "  "),
        ([-1.7e308, 1.7e308], "▁█"),
    ],
)
def test_sparkline(values: list[float], line: str) -> None:
    assert trial_page.sparkline(values) == line


def test_a_long_sparkline_has_its_width() -> None:
    line = trial_page.sparkline([float(i) for i in range(1000)], 60)
    assert (len(line), line[0], line[-1]) == (60, "▁", "█")


def test_a_retried_trial_has_no_error() -> None:
    builder = typical()
    builder.apply(SegmentEnded(4, 0, "lost", 3, "the process died"))
    lines = rendered(trial_page.trial_details(builder.study, builder.study.trials[4], "", "", alive=True))
    assert "error: the process died" in lines
    assert "worker: not running, 1 segment, 1.3s of training, 0.42s an epoch" in lines
    builder.apply(ResultTold(4, 9, 0.61, "reached"))
    lines = rendered(trial_page.trial_details(builder.study, builder.study.trials[4], "", "", alive=True))
    assert "error" not in "\n".join(lines)


# A space --------------------------------------------------------------------------------------------------------------


def probed(*parameters: Parameter) -> Probed:
    return Probed(
        digest="d",
        files=(),
        parameters=parameters,
        options={},
        metrics=("loss", "accuracy", "val_loss", "val_accuracy"),
        compiled_metrics=("accuracy",),
        directions={"accuracy": "max"},
        weight_count=12345,
        summary="dense  Dense  (None, 10)",
        batch_size=32,
        samples=(1347, None),
        runner="fused",
        versions={},
    )


def test_the_details_of_a_space() -> None:
    momentum = Parameter(
        "momentum", Domain("choice", values=(0.8, 0.9)), 0.9, (Condition("optimizer", ("sgd", "nesterov")),)
    )
    assert rendered(space_page.space_details(probed(LR, UNITS, momentum)), 120) == [
        "hyperparameter  default  domain                   where",
        "lr              None     Float(0.0001..0.1, log)",
        "units           None     Int(16..512)",
        "momentum        0.9      Choice([0.8, 0.9])       optimizer in ['sgd', 'nesterov']",
        "",
        "dense  Dense  (None, 10)",
        "",
        "model: 12,345 weights, runner fused",
        "samples: 1,347 for training, unknown for validation; batch size 32",
        "metrics: loss, accuracy, val_loss, val_accuracy",
    ]
    on_jax = dataclasses.replace(probed(LR, UNITS), shape_parameters=(UNITS,))
    assert rendered(space_page.space_details(on_jax), 120)[-1] == (
        "JAX: units has 497 values, each compiles anew; step=64 would leave 8, from 16 to 464"
    )
    assert rendered(space_page.space_details(probed(momentum)), 60)[:4] == [
        "hyperparameter  default",
        "momentum        0.9",
        "                Choice([0.8, 0.9]) where optimizer in",
        "                ['sgd', 'nesterov']",
    ]


def test_batches_are_not_called_samples() -> None:
    shown = rendered(
        space_page.space_details(dataclasses.replace(probed(LR), samples=(43, 400), batched=(True, False)))
    )
    assert "samples: 43 batches for training, 400 for validation" in shown


def test_the_details_of_a_space_without_hyperparameters() -> None:
    assert rendered(space_page.space_details(probed()))[0] == "no hyperparameters"
