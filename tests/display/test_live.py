"""Tests of the view of a running search, on studies built by hand and with the time as an argument."""

# ruff: noqa: RUF001  # the output has dashes

from __future__ import annotations

import io
import math
import subprocess
import sys
from collections.abc import Iterable

import pytest
from rich.cells import cell_len
from rich.console import Console
from study_builder import START, StudyBuilder, typical

from search.display import live
from search.display.area import TerminalSize, render_live_area
from search.display.live import make_view
from search.display.plan import describe_plan
from search.display.progress import Pace, budget_progress
from search.display.text import format_objective, format_params, format_seconds, format_value, truncate
from search.options import Options
from search.space.domain import Value
from search.study.records import BackendChanged, SegmentEnded, TrialEnded
from search.study.study import Study
from search.study.trials import Trial

pytestmark = pytest.mark.core

HYPERBAND = Options(backend="hyperband")


def pace(options: Options) -> Pace:
    """Return the pace as if measuring began with the process."""
    return Pace(START, budget_progress(Study(), options, START))


def draw_lines(builder: StudyBuilder, options: Options, slots: int = 2, width: int = 80, height: int = 24) -> list[str]:
    labels = [f"GPU {i}" for i in range(slots)]
    size = TerminalSize(width, height)
    lines = render_live_area(builder.study, options, labels, pace(options), builder.now, size)
    return [line.plain for line in lines]


# Values as text -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"), (math.nan, "–"), (0, "0s"), (0.0004, "0s"), (0.42, "0.42s"), (3.14159, "3.1s"), (9.97, "10s"),
        (12.4, "12s"), (59.6, "1m"), (185, "3m 5s"), (7440, "2h 4m"), (97200, "1d 3h"), (-1, "0s"),
    ],
)  # fmt: skip
def test_seconds_are_formatted(seconds: float | None, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.97222222, "0.9722"), (64, "64"), (123456789, "123456789"), (0.003, "0.003"), (1e-5, "1e-05"), (1.0, "1"),
        (12345.678, "12346"), (math.nan, "nan"), (math.inf, "inf"), (True, "True"), (None, "None"), ("relu", "relu"),
        ("a\nb\x1b[2J", "a b [2J"),
    ],
)  # fmt: skip
def test_values_are_formatted(value: Value, text: str) -> None:
    assert format_value(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (0.95, "0.9500"), (1.0, "1.000"), (0, "0"), (-12.5, "-12.50"), (99999.4, "99999"), (1e-7, "1e-07"),
        (math.nan, "nan"),
    ],
)  # fmt: skip
def test_objectives_keep_trailing_zeros(value: float | None, text: str) -> None:
    assert format_objective(value) == text


def test_hyperparameters_that_do_not_fit_are_left_out_whole() -> None:
    params: dict[str, Value] = {"lr": 0.003, "units": 464, "activation": "relu"}
    assert format_params(params) == "lr=0.003 units=464 activation=relu"
    assert format_params(params, 34) == "lr=0.003 units=464 activation=relu"
    assert format_params(params, 33) == "lr=0.003 units=464 …"
    assert format_params(params, 19) == "lr=0.003 …"
    assert format_params(params, 6) == "lr=0.…"
    assert format_params(params, 0) == ""
    assert format_params({}) == ""


@pytest.mark.parametrize("width", range(12))
def test_truncated_text_never_exceeds_the_width(width: int) -> None:
    assert cell_len(truncate("数据 abc 数据", width)) <= width


# The plan -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (HYPERBAND, "hyperband, max_epochs 27, factor 3: 49 trials, 375 epochs in 4 brackets"),
        (
            Options(backend="hyperband", iterations=2, max_trials=20, timeout=7200.0, target=0.98),
            "hyperband, max_epochs 27, factor 3: 98 trials, 750 epochs in 2 × 4 brackets; "
            "ends earlier after 20 trials or 2h or when the objective is 0.98",
        ),
        (
            Options(backend="hyperband", max_epochs=1, max_total_epochs=1),
            "hyperband, max_epochs 1, factor 3: 1 trial, 1 epoch in 1 bracket; ends earlier after 1 epoch",
        ),
        (Options(backend="freeze-thaw"), "freeze-thaw: up to 375 epochs, at most 27 a trial"),
        (Options(backend="freeze-thaw", seed=1, max_epochs=1), "freeze-thaw: up to 1 epoch, at most 1 a trial"),
        (Options(backend="freeze-thaw", max_trials=1), "freeze-thaw: up to 1 trial, at most 27 epochs a trial"),
        (Options(backend="asha"), "asha, random sampler: up to 375 epochs, at most 27 a trial"),
        (Options(backend="optuna"), "optuna, tpe sampler, hyperband pruner: up to 375 epochs, at most 27 a trial"),
        (
            Options(backend="optuna", pruner="none", sampler="random", max_trials=50, timeout=90.0),
            "optuna, random sampler, no pruner: up to 50 trials or 1m 30s, at most 27 epochs a trial",
        ),
        (
            Options(backend="optuna", target=0.98),
            "optuna, tpe sampler, hyperband pruner: at most 27 epochs a trial; ends when the objective is 0.98",
        ),
    ],
)
def test_the_plan_is_described_in_one_line(options: Options, text: str) -> None:
    assert describe_plan(options) == text


def test_a_plan_counts_the_trials_of_other_options_apart() -> None:
    plan = describe_plan(Options(backend="hyperband", max_epochs=9), earlier=9)
    assert plan.endswith(": 17 trials, 75 epochs in 3 brackets, beside 9 trials of other options")


def test_a_grid_without_a_limit_is_every_combination() -> None:
    options = Options(backend="optuna", pruner="none", sampler="grid", max_trials=100_000)
    assert describe_plan(options).endswith(": every combination, at most 27 epochs a trial")
    assert budget_progress(Study(), options, START) == ()


def test_a_plan_names_no_epochs_that_a_fit_decides_on() -> None:
    options = Options(backend="optuna", pruner="none", sampler="random", max_trials=2, max_epochs=1000)
    plan = "optuna, random sampler, no pruner: up to 2 trials"
    assert describe_plan(options) == f"{plan}, at most 1000 epochs a trial"
    assert describe_plan(options, own_fit=True) == f"{plan}, as many epochs a trial as fit trains"


# The budget -----------------------------------------------------------------------------------------------------------


def test_hyperband_charges_granted_epochs() -> None:
    """A failed trial uses up its granted epochs of Hyperband's plan, but of --max-total-epochs only those trained."""
    builder = typical()
    plan, total = budget_progress(builder.study, Options(backend="hyperband", max_total_epochs=100), builder.now)
    assert str(plan) == "15/375 epochs"  # 3 × 3 reached, 3 failed, 3 of 9 trained
    assert str(total) == "12/100 epochs"


def test_hyperband_counts_its_own_phase() -> None:
    builder = typical()
    builder.apply(BackendChanged("hyperband", {"max_epochs": 9}))
    assert budget_progress(builder.study, HYPERBAND, builder.now)[0].done == 0
    builder.request(6, 3)
    builder.epochs(6, 0.5)
    assert budget_progress(builder.study, HYPERBAND, builder.now)[0].done == 1


def test_an_exhausted_trial_has_used_up_its_rung() -> None:
    builder = StudyBuilder()
    builder.request(0, 9)
    builder.epochs(0, 0.5, 0.6)
    builder.apply(SegmentEnded(0, 0, "stopped_by_callback", 2))
    assert budget_progress(builder.study, HYPERBAND, builder.now)[0].done == 9


def test_the_limit_that_ends_the_search_first_is_shown() -> None:
    builder = typical("optuna")
    options = Options(backend="optuna", max_total_epochs=1000, max_trials=6, timeout=86400.0)
    measured = Pace(START, budget_progress(Study(), options, START))
    # 12 epochs, 3 ended trials and a paused one in 40 s: 20 s for the other 2 trials.
    budget, left = measured.soonest(budget_progress(builder.study, options, START + 40), START + 40)
    assert str(budget) == "4/6 trials"
    assert left == pytest.approx(20)
    short = Options(backend="optuna", max_total_epochs=1000, max_trials=6, timeout=40.0)
    budget, left = measured.soonest(budget_progress(builder.study, short, START + 38), START + 38)
    assert budget is not None
    assert budget.unit == "seconds"
    assert left == pytest.approx(40 - builder.study.seconds(START + 38))


def test_no_remaining_time_is_shown_before_the_first_epochs() -> None:
    builder = StudyBuilder()
    options = Options(backend="hyperband", timeout=3600.0)
    budget, left = pace(options).soonest(budget_progress(builder.study, options, builder.now), builder.now)
    assert (str(budget), left) == ("0/375 epochs", None)


def test_the_pace_of_a_resumed_search_starts_at_its_resume() -> None:
    builder = typical()
    options = HYPERBAND
    resumed = Pace(builder.now, budget_progress(builder.study, options, builder.now))
    builder.epochs(4, 0.7, 0.71)  # two epochs in two seconds, 358 to go
    budget, left = resumed.soonest(budget_progress(builder.study, options, builder.now), builder.now)
    assert (str(budget), left) == ("17/375 epochs", pytest.approx(358))


def test_without_a_limit_there_is_no_bar() -> None:
    builder = typical("optuna")
    lines = draw_lines(builder, Options(backend="optuna", target=0.99))
    assert lines[0].endswith("target 0.99")
    assert lines[-1] == f"12 epochs · {format_seconds(builder.study.seconds(builder.now))}"


# The live area --------------------------------------------------------------------------------------------------------


def test_the_live_area_at_80_columns() -> None:
    assert draw_lines(typical(), HYPERBAND) == [
        "digits · hyperband · max val_accuracy · seed 7",
        "slot   trial  rung   epoch     now    best  s/epoch  hyperparameters",
        "GPU 0      4  b2 r0    3/9  0.6000  0.6123     0.42  lr=0.0001 units=16",
        "GPU 1      5  b2 r0    0/9       –       –        –  building",
        "best val_accuracy 0.9722 · trial 0 · epoch 2 · lr=0.003 units=64",
        "6 trials: 2 running, 1 paused, 1 completed, 1 stopped, 1 failed",
        "━" + "─" * 39 + "  15/375 epochs · 55s, about 24m left",
    ]


def test_hyperparameters_that_do_not_fit_stand_below_their_slot() -> None:
    builder = StudyBuilder()
    builder.request(0, 3, bracket=3, rung=0)
    builder.values(0, lr=0.003, units=64, optimizer="adam", activation="relu", normalization="batch")
    builder.epochs(0, 0.9)
    builder.request(1, 3, slot=1)
    builder.values(1, lr=0.01, units=64)
    assert draw_lines(builder, HYPERBAND, slots=3)[1:-2] == [
        "slot   trial  rung   epoch     now    best  s/epoch",
        "GPU 0      0  b3 r0    1/3  0.9000  0.9000     0.42",
        "       lr=0.003 units=64 optimizer=adam activation=relu normalization=batch",
        "GPU 1      1           0/3       –       –        –  first epoch",
        "       lr=0.01 units=64",
        "GPU 2      –                                         free",
        "best val_accuracy 0.9000 · trial 0 · epoch 1 · lr=0.003 units=64",
        "       optimizer=adam activation=relu normalization=batch",
    ]
    low = draw_lines(builder, HYPERBAND, slots=3, height=9)
    assert low[2].endswith("0.42  lr=0.003 units=64 …")
    assert low[5].startswith("best val_accuracy 0.9000")
    assert low[5].endswith("…")


def test_the_live_area_names_a_stage_without_trials() -> None:
    builder, size = typical(), TerminalSize(120, 24)
    lines = render_live_area(builder.study, HYPERBAND, ["GPU 0"], pace(HYPERBAND), builder.now, size, "evaluating")
    assert lines[-2].plain.endswith("1 failed · evaluating …")


@pytest.mark.parametrize("width", [20, 40, 80, 120])
@pytest.mark.parametrize("slots", [1, 8, 64])
@pytest.mark.parametrize("height", [5, 10, 24])
def test_the_live_area_fits_every_terminal(width: int, slots: int, height: int) -> None:
    builder = StudyBuilder()
    for trial, slot in enumerate(range(0, slots, 2)):
        builder.request(trial, 27, slot=slot, bracket=0, rung=0)
        builder.values(trial, lr=0.00123456, units=512, optimizer="adamw_with_a_long_name", 活性化="relu")
        builder.epochs(trial, 0.5, 0.9)
    lines = draw_lines(builder, HYPERBAND, slots, width, height)
    assert len(lines) < height
    assert max(map(cell_len, lines)) < width
    if slots == 8:
        assert len([line for line in lines if line.startswith("GPU")]) == {5: 0, 10: 3, 24: 8}[height]


def test_busy_slots_are_shown_before_free_ones() -> None:
    builder = StudyBuilder()
    builder.request(0, 3, slot=30)
    lines = draw_lines(builder, HYPERBAND, slots=32, height=8)
    assert lines[2].startswith("GPU 30")
    assert lines[3] == "… and 31 more slots, 1 running in all"


def test_empty_columns_are_left_out() -> None:
    builder = StudyBuilder("optuna")
    builder.request(0, 27)
    builder.values(0, lr=0.003)
    builder.epochs(0, 0.5, math.nan, seconds=123.4)
    lines = draw_lines(builder, Options(backend="optuna"), slots=1)
    assert lines[1:3] == [
        "slot   trial  epoch  now    best  s/epoch  hyperparameters",
        "GPU 0      0   2/27  nan  0.5000      123  lr=0.003",
    ]


def test_the_live_area_before_the_first_result() -> None:
    lines = draw_lines(StudyBuilder(), HYPERBAND, slots=1)
    assert lines[2:] == [
        "GPU 0      –  free",
        "best: none yet",
        "0 trials",
        "─" * 40 + "  0/375 epochs · 0s",
    ]


# Views ----------------------------------------------------------------------------------------------------------------


def terminal(width: int = 80, **overrides: object) -> Console:
    settings: dict[str, object] = {"force_terminal": True, "width": width, "height": 24, "_environ": {"TERM": "xterm"}}
    return Console(file=io.StringIO(), **{**settings, **overrides})  # type: ignore[arg-type]


def output_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_live_view_draws_at_most_four_times_a_second() -> None:
    builder, console = typical(), terminal()
    view = make_view(builder.study, HYPERBAND, ["GPU 0", "GPU 1"], live=True, console=console)
    for i in range(50):
        view.update(builder.now + i / 10)
    drawings = output_of(console).count("digits ·")
    assert 12 <= drawings <= 20
    view.say("trial 4 [bold]lost[/bold] its process")
    view.close()
    view.close()
    view.update(builder.now + 100)
    view.say("after the end")
    text = output_of(console)
    assert "trial 4 [bold]lost[/bold] its process" in text
    assert text.endswith("after the end\n")
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is back


def test_new_slots_are_shown_in_whichever_order_they_open() -> None:
    builder, console = typical(), terminal()
    view = make_view(builder.study, HYPERBAND, ["GPU 0", "GPU 1"], live=True, console=console)
    view.name_slot(3, "GPU 3")
    view.name_slot(2, "GPU 2")
    view.name_slot(3, None)
    view.name_slot(1, "GPU 1 again")
    view.update(builder.now)
    assert [label in output_of(console) for label in ("GPU 1 again", "GPU 2", "GPU 3")] == [True, True, False]


def test_the_last_drawing_shows_no_slots() -> None:
    builder, console = typical(), terminal()
    view = make_view(builder.study, HYPERBAND, ["GPU 0", "GPU 1"], live=True, console=console)
    view.update(builder.now)
    before = len(output_of(console))
    view.close()
    assert "GPU 0" not in output_of(console)[before:]
    assert "best val_accuracy 0.9722" in output_of(console)[before:]


def test_the_bar_is_readable_without_colour() -> None:
    builder, console = typical(), terminal(_environ={"TERM": "xterm", "NO_COLOR": "1"})
    view = make_view(
        builder.study, Options(backend="hyperband", max_total_epochs=24), ["GPU 0"], live=True, console=console
    )
    view.update(builder.now)
    view.close()
    assert "\x1b[32m" not in output_of(console)
    assert "━" in output_of(console)
    assert "─" in output_of(console)


def test_a_study_that_has_not_begun_is_not_drawn() -> None:
    console = terminal()
    view = make_view(Study(), HYPERBAND, ["GPU 0"], live=True, console=console)
    view.update(START)
    view.close()
    assert output_of(console) == ""


def test_a_pipe_and_a_dumb_terminal_get_plain_lines() -> None:
    study, pipe = typical().study, Console(file=io.StringIO())
    assert isinstance(make_view(study, HYPERBAND, [], live=True, console=pipe), live.PlainView)
    assert isinstance(
        make_view(study, HYPERBAND, [], live=True, console=terminal(_environ={"TERM": "dumb"})), live.PlainView
    )
    assert isinstance(make_view(study, HYPERBAND, [], live=False, console=terminal()), live.PlainView)


def test_plain_lines_report_new_bests_and_progress() -> None:
    builder, console = StudyBuilder(), Console(file=io.StringIO(), width=80)
    view = make_view(builder.study, HYPERBAND, ["CPU 0"], live=True, console=console)
    view.update(START)
    builder.request(0, 3)
    builder.values(0, lr=0.003, units=64, layers=3, optimizer="a_long_name_that_makes_the_line_longer_than_80_columns")
    builder.epochs(0, 0.5)
    view.update(START + 1)
    view.update(START + 2)  # no change
    builder.epochs(0, 0.4, 0.9722)
    view.update(START + 9.9)
    view.update(START + 10)
    view.update(START + 20)  # no change
    builder.reach(0)
    for i in range(100):
        view.update(START + 30 + i / 10)
    view.say("a message")
    view.close()
    params = "lr=0.003 units=64 optimizer=a_long_name_that_makes_the_line_longer_than_80_columns"
    assert output_of(console).splitlines() == [
        f"best val_accuracy 0.5000 · trial 0 · epoch 1 · {params}",
        f"best val_accuracy 0.9722 · trial 0 · epoch 3 · {params}",
        "3/375 epochs · 1 trial: 1 running · best 0.9722 · 7s, about 21m left",
        "3/375 epochs · 1 trial: 1 paused · best 0.9722 · 27s, about 1h 2m left",
        "a message",
    ]


def test_a_resumed_search_does_not_report_its_old_best_again() -> None:
    builder, console = typical(), Console(file=io.StringIO())
    view = make_view(builder.study, HYPERBAND, [], live=False, console=console)
    view.update(builder.now)
    assert output_of(console) == ""


def test_the_failure_of_the_best_trial_is_no_new_best() -> None:
    builder, console = typical(), Console(file=io.StringIO())
    view = make_view(builder.study, HYPERBAND, [], live=False, console=console)
    builder.apply(TrialEnded(0, "failed"))
    view.update(builder.now)
    assert output_of(console) == ""


class CountingTrials(dict[int, Trial]):
    """A study's trials that count how often someone iterates over them."""

    scans = 0

    def values(self) -> Iterable[Trial]:  # type: ignore[override]
        self.scans += 1
        return super().values()


@pytest.mark.parametrize("is_live", [True, False])
def test_an_update_that_is_not_due_looks_at_no_trial(is_live: bool) -> None:
    builder = typical()
    trials = builder.study.trials = CountingTrials(builder.study.trials)
    view = make_view(builder.study, HYPERBAND, [f"GPU {i}" for i in range(8)], live=is_live, console=terminal())
    view.update(START)
    assert trials.scans > 0
    trials.scans = 0
    for i in range(100):
        view.update(START + i / 1000)
    assert trials.scans == 0
    view.close()


def test_the_display_imports_no_framework() -> None:
    code = (
        "import sys, search.display.live, search.display.tables\n"
        "print(sorted({'keras', 'tensorflow', 'mlflow', 'optuna', 'pandas', 'numpy', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
