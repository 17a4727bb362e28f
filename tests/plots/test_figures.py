"""Each figure shows the study's own numbers: of every state, direction and kind of space, of few and many trials."""

from __future__ import annotations

import builtins
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import plot_studies
import pytest
from plot_studies import ACTIVATION, LR, UNITS, Made

from search.errors import NoResult, OptionError, StudyError
from search.plots.compare import plot_comparison
from search.plots.curves import MAX_CURVES, plot_curves
from search.plots.dimensions import dimension, log_ticks
from search.plots.history import plot_history
from search.plots.importance import importances, plot_importance
from search.plots.interaction import plot_interaction
from search.plots.parallel import branches, plot_parallel
from search.plots.shown import scored_trials
from search.plots.slices import plot_slices
from search.plots.timeline import plot_timeline
from search.space.domain import Domain, Parameter
from search.study.study import Study

ALL: list[Callable[[Study], Any]] = [
    plot_curves,
    plot_history,
    plot_importance,
    plot_parallel,
    plot_slices,
    plot_interaction,
    plot_timeline,
    lambda study: plot_comparison([study]),
]


@pytest.fixture(scope="module")
def digits() -> Study:
    return plot_studies.digits(30).study


def named(figure: Any, name: str) -> Any:
    return next(trace for trace in figure.data if trace.name == name)


# Nothing to show ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plot", ALL)
def test_a_study_without_trials_is_one_line(plot: Callable[[Study], Any]) -> None:
    with pytest.raises(NoResult) as caught:
        plot(Made("empty").study)
    assert "\n" not in str(caught.value)


def test_a_study_without_an_objective_says_why() -> None:
    made = Made()
    made.trial([(LR, 0.1)], [math.nan], end="failed")
    for plot in (plot_importance, plot_parallel, plot_slices, plot_interaction):
        with pytest.raises(NoResult, match="study 'study' cannot be plotted: no trial has an objective yet"):
            plot(made.study)
    with pytest.raises(NoResult, match="no epoch has a finite val_accuracy"):
        plot_curves(made.study)
    assert [trace.name for trace in plot_history(made.study).data] == ["failed"]
    assert len(plot_timeline(made.study).data) == 1


def test_one_configuration_has_nothing_that_varies() -> None:
    made = Made()
    for _ in range(5):
        made.trial([(LR, 0.1), (Parameter("depth", Domain("fixed", values=(3,))), 3)], [0.5])
    for plot in (plot_importance, plot_parallel, plot_slices, plot_interaction):
        with pytest.raises(NoResult, match="no hyperparameter has different values"):
            plot(made.study)


def test_an_interaction_needs_two_hyperparameters() -> None:
    made = Made()
    for lr in (0.1, 0.2):
        made.trial([(LR, lr), (ACTIVATION, "relu")], [lr])
    with pytest.raises(NoResult, match="needs two hyperparameters"):
        plot_interaction(made.study)
    with pytest.raises(OptionError, match=r"no hyperparameter 'lrr'\. Did you mean 'lr'"):
        plot_interaction(made.study, ["lrr", "activation"])
    with pytest.raises(OptionError, match="of two hyperparameters"):
        plot_interaction(made.study, ["lr"])
    with pytest.raises(NoResult, match="'activation' has the same value"):
        plot_interaction(made.study, ["lr", "activation"])


def test_a_missing_plotly_is_one_line(digits: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *arguments: Any, **more: Any) -> Any:
        if name.startswith("plotly"):
            raise ImportError("No module named 'plotly'")
        return real(name, *arguments, **more)

    for module in [name for name in sys.modules if name.partition(".")[0] == "plotly"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(OptionError, match="pip install plotly"):
        plot_history(digits)


# Curves ---------------------------------------------------------------------------------------------------------------


def test_curves_are_grouped_by_rung_and_hold_every_epoch(digits: Study) -> None:
    figure = plot_curves(digits)
    assert [trace.name for trace in figure.data][:3] == ["rung 0", "rung 1", "rung 2"]
    shown = [value for trace in figure.data[:3] for value in trace.y if value is not None]
    assert sorted(shown) == sorted(
        record.logs["val_accuracy"] for trial in digits.trials.values() for record in trial.curve
    )
    assert digits.best is not None
    best = figure.data[3]
    assert best.name == f"the best, trial {digits.best.number}"
    assert [value for value in best.y if value is not None] == [r.logs["val_accuracy"] for r in digits.best.curve]


def test_many_curves_are_thinned_to_the_best_and_a_sample() -> None:
    large = plot_studies.digits(400, epochs=2).study
    figure = plot_curves(large)
    assert "300 of 360 curves" in figure.layout.title.text
    shown = {number for trace in figure.data[:3] for number in trace.customdata}
    assert len(shown) == MAX_CURVES
    assert {trial.number for trial in large.ranked(MAX_CURVES // 2)} <= shown
    failed = {number for number, trial in large.trials.items() if trial.state == "failed"}
    assert failed & shown


def test_curves_have_gaps_for_values_that_are_not_finite_and_a_range_without_a_diverging_one() -> None:
    made = Made(direction="min", metric="loss")
    for number in range(60):
        made.trial([(LR, 0.01 + number / 1000)], [1.0, 0.5 + number / 1000])
    made.trial([(LR, 0.1)], [1.0, 1e30, math.nan, math.inf], end="stopped")
    figure = plot_curves(made.study)
    assert figure.layout.yaxis.range[1] < 2
    stopped = named(figure, "up to epoch 4")
    assert list(stopped.y) == [1.0, 1e30, None, None, None]


def test_another_metric_has_curves_and_a_wrong_one_is_named() -> None:
    made = Made()
    made.trial([(LR, 0.1)], [0.5, 0.6], logs={"loss": 0.3})
    assert list(plot_curves(made.study, "loss").data[0].y[:2]) == [0.3, 0.3]
    with pytest.raises(NoResult, match=r"no epoch has the metric 'los', but val_accuracy, loss\. Did you mean 'loss'"):
        plot_curves(made.study, "los")


def test_each_execution_has_a_curve() -> None:
    made = Made()
    made.trial([(LR, 0.1)], [0.5, 0.6], executions=3)
    assert [value for value in plot_curves(made.study).data[0].y if value is not None] == pytest.approx(
        [0.5, 0.6, 0.49, 0.59, 0.48, 0.58]
    )


def test_a_black_box_has_no_curve_and_no_epochs_but_a_history() -> None:
    made = Made()
    made.trial([(LR, 0.1)], [0.5], black_box=True)
    with pytest.raises(NoResult, match="a fit of the user's shows no epochs"):
        plot_curves(made.study)
    figure = plot_history(made.study)
    assert figure.layout.xaxis.title.text == "epochs asked for, over all trials"
    assert "epochs unknown" in named(figure, "completed").text[0]


# History, comparison, timeline ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["max", "min"])
def test_the_best_so_far_never_gets_worse_and_ends_at_the_best(direction: Any) -> None:
    study = plot_studies.digits(30, direction).study
    line = named(plot_history(study), "the best so far")
    costs = [study.objective.cost(value) for value in line.y]
    assert costs == sorted(costs, reverse=True)
    assert study.best is not None
    assert line.y[-1] == study.best.objective
    assert line.x[-1] == study.epochs


def test_every_end_is_a_point_with_the_back_ends_part(digits: Study) -> None:
    figure = plot_history(digits, attributes={0: {"drawn together": "lr, units"}})
    counts = {trace.name: len(trace.x) for trace in figure.data if trace.mode == "markers"}
    assert counts == {"completed": 8, "stopped": 16, "failed": 3, "infeasible": 3}
    first = named(figure, "completed").text[0]
    for words in ("trial 0", "hyperband", "bracket 1", "rung 0", "drawn together: lr, units", "lr = "):
        assert words in first
    assert "it failed" in named(figure, "failed").text[0]
    worst = min(trial.objective for trial in scored_trials(digits) if trial.objective is not None)
    assert set(named(figure, "failed").y) == {worst}


def test_initial_configurations_and_test_values_are_marked() -> None:
    made = Made()
    made.trial([(LR, 0.1)], [0.5], initial={"lr": 0.1})
    made.trial([(LR, 0.2)], [0.7])
    made.test(1, 0.65)
    figure = plot_history(made.study)
    assert list(named(figure, "initial configuration").y) == [0.5]
    assert list(named(figure, "test data").y) == [0.65]


def test_time_stands_still_between_two_processes() -> None:
    made = Made()
    made.trial([(LR, 0.1)], [0.5])
    made.finish()
    made.resume()
    made.trial([(LR, 0.2)], [0.7])
    figure = plot_history(made.study, "time")
    assert max(named(figure, "completed").x) < 5
    timeline = plot_timeline(made.study)
    assert len(timeline.layout.shapes) == 1
    (bars,) = timeline.data
    assert bars.base[0] + bars.x[0] <= timeline.layout.shapes[0].x0 <= bars.base[1]
    with pytest.raises(OptionError, match="not by 'days'"):
        plot_history(made.study, "days")


def test_a_timeline_has_each_segment_in_its_slot(digits: Study) -> None:
    figure = plot_timeline(digits)
    assert {trace.name: len(trace.x) for trace in figure.data} == {"trained to its end": 24, "failed": 6}
    assert all(
        slot == int(number) % 2 for trace in figure.data for slot, number in zip(trace.y, trace.text, strict=True)
    )
    assert list(figure.layout.yaxis.ticktext) == ["slot 0", "slot 1"]


def test_a_running_segment_and_one_whose_process_died_are_on_the_timeline() -> None:
    made = Made()
    made.trial([(LR, 0.1)], [0.5], end=None, to=3)
    assert [trace.name for trace in plot_timeline(made.study).data] == ["running"]
    made.resume()
    (bars,) = plot_timeline(made.study).data
    assert bars.name == "interrupted"
    assert "its process died" in bars.hovertext[0]


def test_studies_are_compared_on_the_same_axes(digits: Study) -> None:
    other = plot_studies.digits(10, seed=5).study
    empty = Made("empty").study
    figure = plot_comparison([digits, other, empty])
    assert [trace.name for trace in figure.data] == [*["study (uid-stud)"] * 2, "empty: no objective yet"]
    assert figure.data[1].y[-1] == other.best.objective
    with pytest.raises(StudyError, match="different objectives cannot be compared"):
        plot_comparison([digits, plot_studies.digits(3, "min").study])


# Hyperparameters ------------------------------------------------------------------------------------------------------


def test_a_conditional_space_has_a_figure_for_each_branch() -> None:
    study = plot_studies.branching().study
    found = plot_parallel(study)
    assert [figure.layout.title.text for figure in found] == [
        "branching: optimizer = sgd, 20 trials",
        "branching: optimizer = adam, 10 trials",
    ]
    labels = [[axis.label for axis in figure.data[0].dimensions] for figure in found]
    assert "momentum" in labels[0]
    assert "momentum" not in labels[1]
    assert all("optimizer" not in each for each in labels)  # it has one value in each


def test_a_branch_that_no_value_explains_is_called_by_its_own_hyperparameters() -> None:
    made = Made()
    for number in range(6):
        extra = [(UNITS, 16 + number)] if number % 2 else []
        made.trial([(LR, 0.1 + number % 3), *extra], [0.5])
    found = branches(scored_trials(made.study), ["lr", "units"])
    assert [branch.condition for branch in found] == ["with no conditional hyperparameter", "with units"]


def test_axes_are_logarithmic_with_real_values_and_categories_have_ticks(digits: Study) -> None:
    (figure,) = plot_parallel(digits)
    axes = {axis.label: axis for axis in figure.data[0].dimensions}
    assert "0.001" in axes["lr"].ticktext
    trials = scored_trials(digits)
    assert list(axes["lr"].values) == pytest.approx([math.log10(float(trial.params["lr"])) for trial in trials])
    assert list(axes["activation"].ticktext) == ["relu", "tanh"]
    assert set(axes["activation"].values) == {0.0, 1.0}
    assert list(axes["<b>val_accuracy</b>"].values) == [trial.objective for trial in trials]


def test_true_is_not_one() -> None:
    made = Made()
    mixed = Parameter("mixed", Domain("choice", values=("a", True, None)))
    for value in ("a", True, None):
        made.trial([(mixed, value)], [0.5])
    found = dimension("mixed", made.study.trials.values())
    assert found.categories == ("a", True, None)
    assert found.coordinates(["a", True, None]) == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(-4, -1, [1e-4, 1e-3, 1e-2, 1e-1]), (0, 1, [1, 3, 10]), (1.2, 1.8, [20, 50]), (-30, 0, 7), (0.11, 0.12, 2)],
)
def test_log_ticks_are_round(low: float, high: float, ticks: Any) -> None:
    found = log_ticks(low, high)
    assert found == pytest.approx(ticks) if isinstance(ticks, list) else 2 <= len(found) <= ticks


def test_the_hyperparameter_that_decides_is_the_most_important(digits: Study) -> None:
    found = importances(digits, bootstraps=5)
    assert found[0].name == "lr"
    assert found[0].value > 0.6
    assert sum(item.value for item in found) == pytest.approx(1)
    assert all(0 <= item.low <= item.value <= item.high <= 1 for item in found)
    assert all(item.trials == 24 for item in found)
    assert found == importances(digits, bootstraps=5)  # the bootstraps are seeded
    assert plot_slices(digits).layout.xaxis.title.text == "lr"
    assert "uncertain with 24 trials" in plot_importance(digits).layout.title.text


def test_a_conditional_hyperparameter_has_its_own_trials() -> None:
    found = {item.name: item for item in importances(plot_studies.branching().study, bootstraps=2)}
    assert found["momentum"].trials == 20
    assert found["lr"].trials == 30


def test_too_few_trials_have_slices_but_no_importance() -> None:
    made = Made()
    for lr in (0.1, 0.2):
        made.trial([(LR, lr)], [lr])
    with pytest.raises(NoResult, match="needs 4 trials with an objective, and there are 2"):
        importances(made.study)
    assert list(plot_slices(made.study).data[0].y) == [0.1, 0.2]


def test_many_hyperparameters_are_cut_to_the_most_important() -> None:
    study = plot_studies.wide(12, 20).study
    assert len(importances(study, bootstraps=1)) == 15
    (figure,) = plot_parallel(study)
    assert len(figure.data[0].dimensions) == 13
    assert "12 of 20 hyperparameters" in figure.layout.title.text
    assert "12 of 20 hyperparameters" in plot_slices(study).layout.title.text


def test_an_interaction_shows_two_hyperparameters_of_each_trial(digits: Study) -> None:
    figure = plot_interaction(digits, ["lr", "activation"])
    (trace,) = figure.data
    assert len(trace.x) == 24
    assert trace.marker.color[-1] == digits.best.objective
    assert all(abs(place - round(place)) < 0.2 for place in trace.y)


@pytest.mark.slow
def test_figures_of_thousands_of_trials_are_made_quickly() -> None:
    study = plot_studies.digits(5_000, epochs=27).study
    plot_importance(study)  # imports Optuna's importance
    began = time.process_time()
    figures = [plot_curves(study), plot_history(study), plot_timeline(study), plot_importance(study)]
    figures += [*plot_parallel(study), plot_slices(study), plot_interaction(study)]
    assert time.process_time() - began < 10
    assert sum(len(figure.to_json()) for figure in figures) < 4_000_000
