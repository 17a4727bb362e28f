"""The figures of a study in a folder, as methods of its results."""

from __future__ import annotations

from pathlib import Path

import plot_studies
import pytest
from plot_studies import ACTIVATION, LR, Made

from search.errors import OptionError
from search.results.study_results import StudyResults
from search.study.journal import Journal
from search.study.paths import StudyPaths
from search.study.records import ParameterSet


def written(made: Made, folder: Path) -> StudyResults:
    """Return the results of a study whose journal is written to `folder`."""
    paths = StudyPaths.of(folder, made.study.name)
    paths.folder.mkdir()
    journal = Journal(paths.journal)
    for place, record in enumerate(made.records):
        journal.append([record], plot_studies.START + place / 10)
    journal.close()
    return StudyResults(paths)


def test_each_figure_is_a_method(tmp_path: Path) -> None:
    found = written(plot_studies.branching(), tmp_path)
    for figure in (
        found.plot_curves(),
        found.plot_curves("val_accuracy"),
        found.plot_history(),
        found.plot_history(by="time"),
        found.plot_importance(),
        found.plot_slices(),
        found.plot_interaction(),
        found.plot_interaction(["lr", "optimizer"]),
        found.plot_timeline(),
    ):
        assert len(figure.data) > 0
        assert figure.layout.title.text.startswith("branching: ")
    assert found.plot_parallel().layout.title.text == "branching: optimizer = sgd, 20 trials"
    assert found.plot_parallel(1).layout.title.text == "branching: optimizer = adam, 10 trials"
    with pytest.raises(OptionError, match="branch 2 of study 'branching' has no figure: there are 2"):
        found.plot_parallel(branch=2)
    assert {each.name for each in found.importances(bootstraps=0)} == {"lr", "optimizer", "momentum"}
    assert len(found.to_optuna().trials) == 30


def test_the_history_tells_what_the_back_end_noted(tmp_path: Path) -> None:
    made = Made()
    number = made.trial([(LR, 0.1)], [0.5], end=None)
    notes = {
        "relative": {"lr (float log)": 0.1, "units (int linear)": 3},
        "trial": {"completed_rung_0": 0.123456},
        "study": {"cma:optimizer": "8004" * 1000},
    }
    made.apply(ParameterSet(number, ACTIVATION, "relu", notes))
    second = made.trial([(LR, 0.1)], [0.7])
    found = written(made, tmp_path)
    assert second == 1
    from search.plots.attributes import noted_attributes
    from search.study import journal

    assert noted_attributes(journal.read(found.paths.journal)) == {
        0: {"drawn together": "lr, units", "completed_rung_0": "0.12346"}
    }
