"""The objective of a search: its direction, a metric with several values, and what a resumed study keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from commands import Command, assert_refused
from places import TINY

from search import cli
from search.study.journal import format_lines, read
from search.study.records import Header
from search.study.study import read_study
from search.study.trial import Objective

F1 = (
    TINY.read_text()
    .replace('"sparse_categorical_crossentropy", metrics=["accuracy"]', '"mse", metrics=[keras.metrics.F1Score()]')
    .replace('y = (x.sum(axis=1) > 0).astype("int32")', "y = np.eye(2)[(x.sum(axis=1) > 0).astype(int)]")
)
"""A space whose metric has one value for each of two classes."""

MACRO = F1.replace("F1Score()", 'F1Score(average="macro")')
SHORT = ("--workers", "1", "--no-progress", "--seed", "1", "--max-epochs", "1", "--backend", "optuna")
JOURNAL = Path("runs") / "macro" / "journal.jsonl"


@pytest.fixture(scope="module")
def searched(zygote: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a study, `macro`, of four trials with F1 scores."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "macro.py").write_text(MACRO)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("search.executors.selection.shared_zygote", zygote)
        patch.chdir(folder)
        assert cli.main(["run", "macro.py", *SHORT, "--max-trials", "4"]) == 0
    return folder


@pytest.fixture
def study(searched: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the journal of the study, in the current folder."""
    monkeypatch.chdir(searched)
    return searched / JOURNAL


def set_objective(journal: Path, objective: Objective) -> None:
    """Rewrite a journal as that of a study with another objective."""
    records = [entry.record for entry in read(journal)]
    records = [replace(record, objectives=(objective,)) if isinstance(record, Header) else record for record in records]
    journal.write_bytes(b"".join(format_lines(records, 1.0)))


def test_the_best_f1_score_is_the_highest(study: Path, command: Command) -> None:
    ranked = json.loads(command("best", "macro", "-n", 9, "--json").out)
    values = [trial["objective"] for trial in ranked]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]
    found = read_study(study)
    assert found.objective == Objective("val_f1_score", "max")
    for trial in found.trials.values():
        assert trial.objective == max(epoch.logs["val_f1_score"] for epoch in trial.curve)


@pytest.mark.slow
def test_a_resumed_study_keeps_its_direction_and_says_if_a_new_one_had_another(study: Path, command: Command) -> None:
    again = ("resume", "macro", "--workers", 1, "--no-progress", "--max-trials")
    assert "as journaled" not in command(*again, 4).err
    set_objective(study, Objective("val_f1_score", "min"))
    outcome = command(*again, 5)
    assert outcome.code == 0
    assert "this study minimises val_f1_score, as journaled; a new study would maximise it\n" in outcome.err
    assert read_study(study).objective == Objective("val_f1_score", "min")
    ranked = json.loads(command("best", "macro", "-n", 9, "--json").out)
    values = [trial["objective"] for trial in ranked]
    assert len(values) == 5
    assert values == sorted(values)
    assert "as journaled" not in command(*again, 6, "--direction", "min").err  # the user said so
    assert "as journaled" not in command(*again, 7).err  # and had said so before
    set_objective(study, Objective("val_f1_score", "max"))


@pytest.mark.parametrize(
    "given", [(), ("--objective", "val_f1_score"), ("--objective", "f1_score", "--direction", "max")]
)
def test_a_metric_with_several_values_is_no_objective(
    workplace: Path, command: Command, given: tuple[str, ...]
) -> None:
    (workplace / "vector.py").write_text(F1 + "\ndef callbacks(hp):\n    return [keras.callbacks.TerminateOnNaN()]\n")
    words = ("vector.py: objective '", "f1_score' has 2 values", "average='macro'", "--objective")
    assert_refused(command, "run", "vector.py", *SHORT, *given, words=words)
    assert not list(workplace.rglob("journal.jsonl"))
    if not given:
        assert_refused(command, "check", "vector.py", words=words)


OWN_FIT = """

def fit(hp, model, train, validation, **options):
    model.fit(*train, validation_data=validation, verbose=0, **options)
    return {"val_f1_score": model.evaluate(*validation, verbose=0, return_dict=True)["f1_score"].mean()}
"""


def test_a_fit_of_the_users_own_may_return_one_value_for_such_a_metric(workplace: Path, command: Command) -> None:
    (workplace / "own.py").write_text(F1 + OWN_FIT)
    assert_refused(command, "run", "own.py", *SHORT, words=("own.py: objective 'val_f1_score' has 2 values",))
    outcome = command("run", "own.py", *SHORT, "--max-trials", 1, "--objective", "val_f1_score")
    assert outcome.code == 0
    assert "objective val_f1_score, max\n" in outcome.err
