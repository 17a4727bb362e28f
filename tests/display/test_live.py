"""The view of a running search, on studies built by hand, with the time as an argument."""

# ruff: noqa: RUF001  # what is shown holds dashes

from __future__ import annotations

import io
import math
import subprocess
import sys
import time as clock
from collections.abc import Mapping

import pytest
from rich.cells import cell_len
from rich.console import Console

from search.display import live as progress
from search.display.live import Pace, Size, budgets, frame, make
from search.options import Options
from search.space.domain import Domain, Parameter, Value
from search.study.records import (
    BackendChanged,
    Built,
    EpochDone,
    Header,
    ParameterSet,
    ResultTold,
    SearchStarted,
    SegmentEnded,
    SegmentRequested,
    SegmentStarted,
    TrialEnded,
)
from search.study.study import Study
from search.study.trial import Objective, State

START = 1_000_000.0

LR = Parameter("lr", Domain("float", 1e-4, 1e-1, sampling="log"))
UNITS = Parameter("units", Domain("int", 16, 512))
LAYERS = Parameter("layers", Domain("fixed", values=(3,)))


class Story:
    """A study told record by record; every record takes a second, unless `at` says when it happens."""

    def __init__(
        self, backend: str = "hyperband", direction: str = "max", told: Mapping[str, object] | None = None
    ) -> None:
        self.study = Study()
        self.now = START
        header = Header(
            1, "uid", "digits", 7, (Objective("val_accuracy", direction),), "digits.py", "digest", (LR, UNITS, LAYERS), {}  # type: ignore[arg-type]
        )  # fmt: skip
        self.apply(header)
        self.apply(BackendChanged(backend, {}))
        self.apply(SearchStarted("box", 4321, told or {}))

    def apply(self, record: object, at: float | None = None) -> None:
        self.now = self.now + 1 if at is None else at
        self.study.apply(record, self.now)  # type: ignore[arg-type]

    def ask(
        self, trial: int, to: int, slot: int | None = 0, bracket: int | None = None, rung: int | None = None
    ) -> None:
        """Ask for a trial, and start it in `slot`."""
        begun = self.study.trials.get(trial)
        self.apply(SegmentRequested(trial, begun.epochs if begun else 0, to, bracket, rung, False, 100 + trial))
        if slot is not None:
            self.apply(SegmentStarted(trial, 0, 0, slot, 0, to))

    def values(self, trial: int, **values: Value) -> None:
        for name, value in values.items():
            known = {parameter.name: parameter for parameter in (LR, UNITS, LAYERS)}
            parameter = known.get(name, Parameter(name, Domain("choice", values=(value, "other"))))
            self.apply(ParameterSet(trial, parameter, value))
        self.apply(Built(trial, 12345, "fit"))

    def epochs(self, trial: int, *objectives: float, seconds: float = 0.42, **logs: float) -> None:
        begun = self.study.trials[trial].epochs
        for i, value in enumerate(objectives):
            self.apply(EpochDone(trial, 0, begun + i + 1, {"loss": 0.5, "val_accuracy": value, **logs}, seconds))

    def reach(self, trial: int, end: State | None = None) -> None:
        """The segment reached its last epoch; with `end`, the trial ends too."""
        found = self.study.trials[trial]
        self.apply(SegmentEnded(trial, 0, "reached", found.epochs))
        self.apply(ResultTold(trial, found.epochs, found.objective, "reached"))
        if end is not None:
            self.apply(TrialEnded(trial, end))

    def fail(self, trial: int, error: str) -> None:
        self.apply(SegmentEnded(trial, 0, "failed", self.study.trials[trial].epochs, error))
        self.apply(ResultTold(trial, self.study.trials[trial].epochs, None, "failed"))
        self.apply(TrialEnded(trial, "failed"))


def typical(backend: str = "hyperband") -> Story:
    """Two trials run, one is paused, one stopped, one completed, one failed."""
    story = Story(backend)
    for trial, (lr, units, score) in enumerate([(0.003, 64, 0.9722), (0.01, 128, 0.95), (0.05, 32, 0.4)]):
        story.ask(trial, 3, bracket=3, rung=0)
        story.values(trial, lr=lr, units=units, layers=3)
        story.epochs(trial, score - 0.1, score, score - 0.05)
        story.reach(trial, [None, "completed", "stopped"][trial])  # type: ignore[arg-type]
    story.ask(3, 3, bracket=3, rung=0)
    story.values(3, lr=0.1, units=512, layers=3)
    story.fail(3, "ValueError: no such layer")
    story.ask(4, 9, slot=0, bracket=2, rung=0)
    story.values(4, lr=0.0001, units=16, layers=3)
    story.epochs(4, 0.5, 0.61234, 0.6)
    story.ask(5, 9, slot=1, bracket=2, rung=0)
    return story


def pace(story: Story, options: Options) -> Pace:
    """As if measuring had begun when the process did."""
    return Pace(START, budgets(Study(), options, START))


def drawn(story: Story, options: Options, slots: int = 2, width: int = 80, height: int = 24) -> list[str]:
    labels = [f"GPU {i}" for i in range(slots)]
    size = Size(width, height)
    return [line.plain for line in frame(story.study, options, labels, pace(story, options), story.now, size)]


# Values as text -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"), (math.nan, "–"), (0, "0s"), (0.0004, "0s"), (0.42, "0.42s"), (3.14159, "3.1s"), (9.97, "10s"),
        (12.4, "12s"), (59.6, "1m 00s"), (185, "3m 05s"), (7440, "2h 04m"), (97200, "1d 03h"), (-1, "0s"),
    ],
)  # fmt: skip
def test_seconds(seconds: float | None, text: str) -> None:
    assert progress.format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.97222222, "0.9722"), (64, "64"), (123456789, "123456789"), (0.003, "0.003"), (1e-5, "1e-05"), (1.0, "1"),
        (12345.678, "12346"), (math.nan, "nan"), (math.inf, "inf"), (True, "True"), (None, "None"), ("relu", "relu"),
        ("a\nb\x1b[2J", "a b [2J"),
    ],
)  # fmt: skip
def test_values(value: Value, text: str) -> None:
    assert progress.format_value(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (0.95, "0.9500"), (1.0, "1.000"), (0, "0"), (-12.5, "-12.50"), (99999.4, "99999"), (1e-7, "1e-07"),
        (math.nan, "nan"),
    ],
)  # fmt: skip
def test_objectives_keep_their_zeros(value: float | None, text: str) -> None:
    assert progress.format_objective(value) == text


def test_params_are_left_out_whole_where_they_do_not_fit() -> None:
    params: dict[str, Value] = {"lr": 0.003, "units": 464, "activation": "relu"}
    assert progress.format_params(params) == "lr=0.003 units=464 activation=relu"
    assert progress.format_params(params, 34) == "lr=0.003 units=464 activation=relu"
    assert progress.format_params(params, 33) == "lr=0.003 units=464 …"
    assert progress.format_params(params, 19) == "lr=0.003 …"
    assert progress.format_params(params, 6) == "lr=0.…"
    assert progress.format_params(params, 0) == ""
    assert progress.format_params({}) == ""


@pytest.mark.parametrize("width", range(12))
def test_cut_never_exceeds_the_width(width: int) -> None:
    assert cell_len(progress.cut("数据 abc 数据", width)) <= width


# The plan -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (Options(), "hyperband, max_epochs 27, factor 3: 49 trials, 375 epochs in 4 brackets"),
        (
            Options(iterations=2, max_trials=20, timeout=7200.0, target=0.98),
            "hyperband, max_epochs 27, factor 3: 98 trials, 750 epochs in 2 × 4 brackets; "
            "ends earlier after 20 trials or 2h or when the objective is 0.98",
        ),
        (
            Options(max_epochs=1, max_total_epochs=1),
            "hyperband, max_epochs 1, factor 3: 1 trial, 1 epoch in 1 bracket; ends earlier after 1 epoch",
        ),
        (Options(backend="optuna"), "optuna, tpe sampler, hyperband pruner: up to 375 epochs, 27 a trial"),
        (
            Options(backend="optuna", pruner="none", sampler="random", max_trials=50, timeout=90.0),
            "optuna, random sampler, no pruner: up to 50 trials or 1m 30s, 27 epochs a trial",
        ),
        (
            Options(backend="optuna", target=0.98),
            "optuna, tpe sampler, hyperband pruner: 27 epochs a trial; ends when the objective is 0.98",
        ),
    ],
)
def test_the_plan_in_a_line(options: Options, text: str) -> None:
    assert progress.describe_plan(options) == text


# The budget -----------------------------------------------------------------------------------------------------------


def test_hyperband_charges_what_was_granted() -> None:
    """Of Hyperband's plan, a failed trial uses up all that it was given; of --max-total-epochs, what it trained."""
    story = typical()
    plan, total = budgets(story.study, Options(max_total_epochs=100), story.now)
    assert str(plan) == "15/375 epochs"  # 3 × 3 reached, 3 failed, 3 of 9 run
    assert str(total) == "12/100 epochs"


def test_hyperband_counts_its_own_era() -> None:
    story = typical()
    story.apply(BackendChanged("hyperband", {"max_epochs": 9}))
    assert budgets(story.study, Options(), story.now)[0].done == 0
    story.ask(6, 3)
    story.epochs(6, 0.5)
    assert budgets(story.study, Options(), story.now)[0].done == 1


def test_an_exhausted_trial_has_used_up_its_rung() -> None:
    story = Story()
    story.ask(0, 9)
    story.epochs(0, 0.5, 0.6)
    story.apply(SegmentEnded(0, 0, "stopped_by_callback", 2))
    assert budgets(story.study, Options(), story.now)[0].done == 9


def test_the_limit_that_ends_it_soonest_is_shown() -> None:
    story = typical("optuna")
    options = Options(backend="optuna", max_total_epochs=1000, max_trials=6, timeout=86400.0)
    measured = Pace(START, budgets(Study(), options, START))
    # 12 epochs and 3 trials in 40 s: 40 s for the other 3 trials.
    budget, left = measured.soonest(budgets(story.study, options, START + 40), START + 40)
    assert str(budget) == "3/6 trials"
    assert left == pytest.approx(40)
    hasty = Options(backend="optuna", max_total_epochs=1000, max_trials=6, timeout=40.0)
    budget, left = measured.soonest(budgets(story.study, hasty, START + 38), START + 38)
    assert budget is not None
    assert budget.unit == "seconds"
    assert left == pytest.approx(40 - story.study.seconds(START + 38))


def test_no_time_left_is_told_before_the_first_epochs() -> None:
    story = Story()
    options = Options(timeout=3600.0)
    budget, left = pace(story, options).soonest(budgets(story.study, options, story.now), story.now)
    assert (str(budget), left) == ("0/375 epochs", None)


def test_a_resumed_search_is_measured_from_its_resume() -> None:
    story = typical()
    options = Options()
    resumed = Pace(story.now, budgets(story.study, options, story.now))
    story.epochs(4, 0.7, 0.71)  # two epochs in two seconds, 358 to go
    budget, left = resumed.soonest(budgets(story.study, options, story.now), story.now)
    assert (str(budget), left) == ("17/375 epochs", pytest.approx(358))


def test_without_a_limit_there_is_no_bar() -> None:
    story = typical("optuna")
    lines = drawn(story, Options(backend="optuna", target=0.99))
    assert lines[0].endswith("target 0.99")
    assert lines[-1] == f"12 epochs · {progress.format_seconds(story.study.seconds(story.now))}"


# The live area --------------------------------------------------------------------------------------------------------


def test_the_live_area_at_80_columns() -> None:
    assert drawn(typical(), Options()) == [
        "digits · hyperband · max val_accuracy · seed 7",
        "slot   trial  rung   epoch     now    best  s/epoch  hyperparameters",
        "GPU 0      4  b2 r0    3/9  0.6000  0.6123     0.42  lr=0.0001 units=16",
        "GPU 1      5  b2 r0    0/9       –       –        –  building",
        "best val_accuracy 0.9722 · trial 0 · epoch 2 · lr=0.003 units=64",
        "6 trials: 2 running, 1 paused, 1 completed, 1 stopped, 1 failed",
        "━" + "─" * 39 + "  15/375 epochs · 55s, about 24m left",
    ]


@pytest.mark.parametrize("width", [20, 40, 80, 120])
@pytest.mark.parametrize("slots", [1, 8, 64])
@pytest.mark.parametrize("height", [5, 10, 24])
def test_the_live_area_fits_every_terminal(width: int, slots: int, height: int) -> None:
    story = Story()
    for slot in range(0, slots, 2):
        story.ask(slot, 27, slot=slot, bracket=0, rung=0)
        story.values(slot, lr=0.00123456, units=512, optimizer="adamw_with_a_long_name", 活性化="relu")
        story.epochs(slot, 0.5, 0.9)
    lines = drawn(story, Options(), slots, width, height)
    assert len(lines) < height
    assert max(map(cell_len, lines)) < width
    if slots == 8:
        assert len([line for line in lines if line.startswith("GPU")]) == {5: 0, 10: 3, 24: 8}[height]


def test_what_runs_is_shown_before_what_is_free() -> None:
    story = Story()
    story.ask(0, 3, slot=30)
    lines = drawn(story, Options(), slots=32, height=8)
    assert lines[2].startswith("GPU 30")
    assert lines[3] == "… and 31 more slots, 1 running in all"


def test_columns_that_nothing_fills_are_left_out() -> None:
    story = Story("optuna")
    story.ask(0, 27)
    story.values(0, lr=0.003)
    story.epochs(0, 0.5, math.nan, seconds=123.4)
    lines = drawn(story, Options(backend="optuna"), slots=1)
    assert lines[1:3] == [
        "slot   trial  epoch  now    best  s/epoch  hyperparameters",
        "GPU 0      0   2/27  nan  0.5000      123  lr=0.003",
    ]


def test_a_search_without_a_result_yet() -> None:
    lines = drawn(Story(), Options(), slots=1)
    assert lines[2:] == [
        "GPU 0      –  free",
        "best: none yet",
        "0 trials",
        "─" * 40 + "  0/375 epochs · 0s",
    ]


# Views ----------------------------------------------------------------------------------------------------------------


def terminal(width: int = 80, **given: object) -> Console:
    settings: dict[str, object] = {"force_terminal": True, "width": width, "height": 24, "_environ": {"TERM": "xterm"}}
    return Console(file=io.StringIO(), **{**settings, **given})  # type: ignore[arg-type]


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_live_view_draws_at_most_four_times_a_second() -> None:
    story, console = typical(), terminal()
    view = make(story.study, Options(), ["GPU 0", "GPU 1"], live=True, console=console)
    for i in range(50):
        view.update(story.now + i / 10)
    drawings = written(console).count("digits ·")
    assert 12 <= drawings <= 20
    view.say("trial 4 [bold]lost[/bold] its process")
    view.close()
    view.close()
    view.update(story.now + 100)
    view.say("after the end")
    text = written(console)
    assert "trial 4 [bold]lost[/bold] its process" in text
    assert text.endswith("after the end\n")
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is back


def test_the_last_drawing_shows_no_slots() -> None:
    story, console = typical(), terminal()
    view = make(story.study, Options(), ["GPU 0", "GPU 1"], live=True, console=console)
    view.update(story.now)
    before = len(written(console))
    view.close()
    assert "GPU 0" not in written(console)[before:]
    assert "best val_accuracy 0.9722" in written(console)[before:]


def test_without_colour_the_bar_can_still_be_read() -> None:
    story, console = typical(), terminal(_environ={"TERM": "xterm", "NO_COLOR": "1"})
    view = make(story.study, Options(max_total_epochs=24), ["GPU 0"], live=True, console=console)
    view.update(story.now)
    view.close()
    assert "\x1b[32m" not in written(console)
    assert "━" in written(console)
    assert "─" in written(console)


def test_a_study_that_has_not_begun_is_not_drawn() -> None:
    console = terminal()
    view = make(Study(), Options(), ["GPU 0"], live=True, console=console)
    view.update(START)
    view.close()
    assert written(console) == ""


def test_plain_lines_for_what_is_no_terminal() -> None:
    plain = progress.PlainView
    study, pipe = typical().study, Console(file=io.StringIO())
    assert isinstance(make(study, Options(), [], live=True, console=pipe), plain)
    assert isinstance(make(study, Options(), [], live=True, console=terminal(_environ={"TERM": "dumb"})), plain)
    assert isinstance(make(study, Options(), [], live=False, console=terminal()), plain)


def test_plain_lines() -> None:
    story, console = Story(), Console(file=io.StringIO(), width=80)
    view = make(story.study, Options(), ["CPU 0"], live=True, console=console)
    view.update(START)
    story.ask(0, 3)
    story.values(0, lr=0.003, units=64, layers=3, optimizer="a_long_name_that_makes_the_line_longer_than_80_columns")
    story.epochs(0, 0.5)
    view.update(START + 1)
    view.update(START + 2)  # nothing new
    story.epochs(0, 0.4, 0.9722)
    view.update(START + 9.9)
    view.update(START + 10)
    view.update(START + 20)  # nothing has changed
    story.reach(0)
    for i in range(100):
        view.update(START + 30 + i / 10)
    view.say("a message")
    view.close()
    params = "lr=0.003 units=64 optimizer=a_long_name_that_makes_the_line_longer_than_80_columns"
    assert written(console).splitlines() == [
        f"best val_accuracy 0.5000 · trial 0 · epoch 1 · {params}",
        f"best val_accuracy 0.9722 · trial 0 · epoch 3 · {params}",
        "3/375 epochs · 1 trial: 1 running · best 0.9722 · 7s, about 21m left",
        "3/375 epochs · 1 trial: 1 paused · best 0.9722 · 27s, about 1h 02m left",
        "a message",
    ]


def test_a_resumed_search_does_not_tell_its_old_best_again() -> None:
    story, console = typical(), Console(file=io.StringIO())
    view = make(story.study, Options(), [], live=False, console=console)
    view.update(story.now)
    assert written(console) == ""


def test_a_failure_of_the_best_trial_is_no_new_best() -> None:
    story, console = typical(), Console(file=io.StringIO())
    view = make(story.study, Options(), [], live=False, console=console)
    story.apply(TrialEnded(0, "failed"))
    view.update(story.now)
    assert written(console) == ""


@pytest.mark.parametrize("live", [True, False])
def test_an_update_that_is_not_due_costs_nothing(live: bool) -> None:
    story = Story()
    for trial in range(5000):
        story.ask(trial, 3, slot=trial % 8)
        story.epochs(trial, trial / 5000)
        story.reach(trial, "stopped")
    view = make(story.study, Options(), [f"GPU {i}" for i in range(8)], live=live, console=terminal())
    view.update(START)
    begin = clock.process_time()
    for i in range(100):
        view.update(START + i / 1000)
    assert (clock.process_time() - begin) / 100 < 1e-3
    view.close()


def test_no_framework_is_imported() -> None:
    code = (
        "import sys, search.display.live, search.display.tables\n"
        "print(sorted({'keras', 'tensorflow', 'mlflow', 'optuna', 'pandas', 'numpy', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
