"""A finished KerasTuner project becomes a study."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import Command, assert_refused
from saved_projects import OPTIMIZER, SPACE, UNITS, VALUES, older, trial, write_project

import search
from search.compat.projects.importing import import_project
from search.compat.projects.saved_space import read_space
from search.driver.study_handle import StudyHandle
from search.driver.warm_start import import_trials
from search.errors import NoResult, OptionError, StudyError
from search.options import Options
from search.space.domain import Condition, Domain
from search.study.journal import read_all
from search.study.paths import StudyPaths
from search.study.records import SegmentStarted
from search.study.repair import repair_journal
from search.study.study import Study, read_study
from search.study.trial import Objective

ACCURACY = Objective("val_accuracy", "max")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def imported(folder: Path, **options: Any) -> Study:
    """Import a project, and return the study as its journal tells it."""
    found = import_project(folder, "runs", **options)
    study = read_study(found.paths.journal)
    assert study.trials.keys() == found.study.trials.keys()
    assert repair_journal(found.paths) is None
    return study


def three(place: Path) -> Path:
    """Return a project of three trials, of which one has failed."""
    failure = 'Traceback (most recent call last):\n  File "a.py", line 1, in b\n    raise\nValueError: no\nmore lines\n'
    return write_project(
        place / "kt" / "mlp",
        [
            trial("0", score=0.7, step=4, val_accuracy=0.7, val_loss=0.5),
            trial("1", {**VALUES, "opt": "adam"}, score=0.9, step=2, val_accuracy=0.9, val_loss=0.3),
            trial("2", status="FAILED", message=failure),
        ],
        start_order=["0", "1", "2"],
        end_order=["0", "1", "2"],
    )


# What a trial becomes -------------------------------------------------------------------------------------------------


def test_a_trial_has_its_values_its_best_epoch_and_its_metrics(place: Path) -> None:
    study = imported(three(place))
    first, second, third = study.trials.values()
    assert (study.name, study.objective, study.best) == ("mlp", ACCURACY, second)
    assert first.params == VALUES
    assert second.params == {"units": 16, "lr": 0.01, "opt": "adam"}, "its momentum was inactive"
    assert [(epoch.epoch, dict(epoch.logs)) for epoch in first.curve] == [(5, {"val_accuracy": 0.7, "val_loss": 0.5})]
    assert (first.state, first.objective, first.best_epoch, first.exhausted) == ("completed", 0.7, 5, True)
    assert (third.state, third.error, third.objective) == ("failed", "ValueError: no", None)
    assert study.end is not None
    assert study.end.complete
    assert study.seconds() == 2.0


def test_parameters_are_read_with_their_domains_and_conditions() -> None:
    units, rate, optimizer, momentum = read_space({"space": SPACE, "values": VALUES}).parameters
    assert units.domain == Domain("int", 8, 64, step=8)
    assert units.default == 8
    assert rate.domain == Domain("float", 1e-4, 0.1, sampling="log")
    assert optimizer.domain == Domain("choice", values=("sgd", "adam"))
    assert momentum.domain == Domain("float", 0.0, 1.0, step=0.1)
    assert momentum.conditions == (Condition("opt", ("sgd",)),)


def test_a_value_outside_of_its_domain_counts_as_fixed() -> None:
    used = dict(read_space({"space": [UNITS], "values": {"units": 99, "set": "by hand"}}).used)
    assert {p.name: (p.domain.kind, value) for p, value in used.items()} == {
        "units": ("fixed", 99),
        "set": ("fixed", "by hand"),
    }


def test_a_whole_number_may_be_saved_as_a_float() -> None:
    ((parameter, value),) = read_space({"space": [UNITS], "values": {"units": 16.0}}).used
    assert (parameter.domain.kind, type(value)) == ("int", int)


def test_a_trial_without_a_finite_score_has_failed(place: Path) -> None:
    trials = [trial("0", score=0.5, val_loss=0.5), trial("1", score=float("nan"), val_loss=float("nan"))]
    study = imported(write_project(place / "p", trials))
    assert [(t.state, t.error) for t in study.trials.values()] == [
        ("completed", None),
        ("failed", "the objective is nan"),
    ]


def test_trials_keep_the_order_of_their_begin(place: Path) -> None:
    trials = [trial(id, {"units": units}, score=0.1, val_loss=0.1) for id, units in (("a", 8), ("b", 16), ("c", 24))]
    study = imported(write_project(place / "p", trials, start_order=["c", "a", "b"], end_order=["a", "b", "c"]))
    assert [t.params["units"] for t in study.trials.values()] == [24, 8, 16]


def test_times_come_from_the_display(place: Path) -> None:
    starts = {"0": "2020-09-13T12:00:00", "1": "2020-09-13T12:00:30"}
    trials = [trial("0", score=0.1, val_loss=0.1), trial("1", score=0.2, val_loss=0.2)]
    study = imported(write_project(place / "p", trials, display={"trial_start": starts}))
    began = [t.began_at for t in study.trials.values()]
    assert began[0] is not None
    assert began[1] == began[0] + 30


def test_trials_that_ran_at_a_time_have_slots_of_their_own(place: Path) -> None:
    starts = {"0": "2020-09-10T12:00:00", "1": "2020-09-10T12:00:30"}
    trials = [trial("0", score=0.1, val_loss=0.1), trial("1", score=0.2, val_loss=0.2)]
    orders = {"start_order": ["0", "1"], "end_order": ["1", "0"]}
    found = import_project(write_project(place / "p", trials, display={"trial_start": starts}, **orders), "runs")
    records = [entry.record for entry in read_all(found.paths.journal)]
    assert [record.slot for record in records if isinstance(record, SegmentStarted)] == [0, 1]


def test_the_pace_of_epochs_is_unknown(place: Path) -> None:
    study = imported(three(place))
    assert [t.seconds_per_epoch for t in study.trials.values()] == [None, None, None]


# Older versions -------------------------------------------------------------------------------------------------------


def test_version_1_0_has_conditions_in_names_and_no_epochs(place: Path) -> None:
    kernel = {"class_name": "Int", "config": {"name": "opt=sgd/size", "min_value": 1, "max_value": 9, "step": 1}}
    log = {"class_name": "Int", "config": {**UNITS["config"], "name": "top/n", "step": 1, "sampling": "log"}}
    space = [UNITS, OPTIMIZER, kernel, log]
    values = {"units": 16, "opt": "sgd", "opt=sgd/size": 3, "top/n": 9}
    trials = [
        older(trial("b7c1", values, space=space, score=0.8, val_accuracy=0.8, val_loss=0.6)),
        older(trial("9f20", {**values, "opt": "adam"}, space=space, score=0.9, val_accuracy=0.9, val_loss=0.2)),
        older(trial("1234", values, space=space, status="INVALID")),
    ]
    study = imported(write_project(place / "p", trials))
    first, second, third = study.trials.values()
    assert first.params == {"units": 16, "opt": "sgd", "size": 3, "top/n": 9}
    assert second.params == {"units": 16, "opt": "adam", "top/n": 9}
    assert first.parameters[2].conditions == (Condition("opt", ("sgd",)),)
    assert first.parameters[3].domain == Domain("int", 8, 64, sampling="log")
    assert (first.known_epochs, first.best_epoch, first.objective) == (None, None, 0.8)
    assert third.state == "failed"
    assert "no reason" in str(third.error)


def test_several_steps_become_epochs(place: Path) -> None:
    data = trial("0", score=0.2, val_loss=0.5)
    steps = [{"value": [0.5], "step": 0}, {"value": [0.1, 0.3], "step": 1}, {"value": [0.4], "step": 2}]
    data["metrics"]["metrics"]["val_loss"]["observations"] = steps
    (found,) = imported(write_project(place / "p", [data])).trials.values()
    assert [(epoch.epoch, epoch.logs["val_loss"]) for epoch in found.curve] == [(1, 0.5), (2, 0.2), (3, 0.4)]
    assert (found.objective, found.best_epoch, found.epochs) == (0.2, 2, 3)


# Hyperband ------------------------------------------------------------------------------------------------------------


def a_round(id: str, score: float | None, number: int, *, after: str | None = None, **more: Any) -> dict[str, Any]:
    """Return a trial of KerasTuner's Hyperband: round 0 has 2 epochs, round 1 ends at 6."""
    values: dict[str, Any] = {"units": 8 * (1 + number), "tuner/epochs": (2, 6)[number]}
    values |= {"tuner/initial_epoch": (0, 2)[number], "tuner/bracket": 1, "tuner/round": number}
    if after is not None:
        values |= {"units": 8, "tuner/trial_id": after}
    logs = {} if score is None else {"val_loss": score}
    return trial(id, values, space=[UNITS], score=score, step=number, **more, **logs)


def test_a_promoted_trial_of_hyperband_is_one_trial_with_one_curve(place: Path) -> None:
    trials = [a_round("0", 0.5, 0), a_round("1", 0.6, 0), a_round("2", 0.3, 1, after="0")]
    study = imported(write_project(place / "p", trials, max_epochs=6))
    promoted, other = study.trials.values()
    assert promoted.params == {"units": 8}
    assert [(epoch.epoch, dict(epoch.logs)) for epoch in promoted.curve] == [
        (1, {"val_loss": 0.5}),
        (2, {}),
        (4, {"val_loss": 0.3}),
        (6, {}),
    ]
    assert (promoted.state, promoted.objective, promoted.best_epoch, promoted.epochs) == ("completed", 0.3, 4, 6)
    assert (promoted.progress.bracket, promoted.progress.rung, promoted.progress.segments) == (1, 1, 2)
    assert (other.state, other.epochs) == ("stopped", 2)


def test_a_worse_round_keeps_the_better_result(place: Path) -> None:
    trials = [a_round("0", 0.5, 0), a_round("1", 0.7, 1, after="0")]
    (found,) = imported(write_project(place / "p", trials, max_epochs=6)).trials.values()
    assert (found.objective, found.best_epoch) == (0.5, 1)


def test_a_promoted_trial_that_failed_is_a_child(place: Path) -> None:
    trials = [a_round("0", 0.5, 0), a_round("1", None, 1, after="0", status="FAILED", message="OOM")]
    study = imported(write_project(place / "p", trials, max_epochs=6))
    first, second = study.trials.values()
    assert (first.state, first.objective) == ("stopped", 0.5)
    assert second.parent is not None
    assert (second.parent.trial, second.state, second.error) == (0, "failed", "OOM")


# The objective --------------------------------------------------------------------------------------------------------


def test_the_objective_is_the_metric_with_the_scores(place: Path) -> None:
    trials = [trial("0", score=0.5, val_loss=0.5, loss=0.5), trial("1", score=0.4, val_loss=0.4, loss=0.3)]
    assert imported(write_project(place / "p", trials)).objective == Objective("val_loss", "min")


def test_an_objective_that_the_files_do_not_show_is_asked_for(place: Path) -> None:
    folder = write_project(place / "p", [trial("0", score=0.5, val_loss=0.5, val_mae=0.5)])
    with pytest.raises(StudyError, match=r"the scores are those of val_loss and of val_mae: give it with --objective"):
        import_project(folder, "runs")
    with pytest.raises(OptionError, match=r"--objective val_los: .* Did you mean 'val_loss'"):
        import_project(folder, "runs", objective="val_los")
    with pytest.raises(OptionError, match="--direction up: give min or max"):
        import_project(folder, "runs", objective="val_loss", direction="up")
    assert imported(folder, objective="val_mae").objective == Objective("val_mae", "min")


def test_a_project_of_failures_needs_an_objective(place: Path) -> None:
    folder = write_project(place / "p", [trial("0", status="FAILED", message="no")])
    with pytest.raises(StudyError, match="no trial has a score"):
        import_project(folder, "runs")
    with pytest.raises(OptionError, match="say --direction"):
        import_project(folder, "runs", objective="val_loss")
    study = imported(folder, objective="val_loss", direction="min")
    assert study.end is not None
    assert (study.best, study.end.exit_code) == (None, 1)


# A study like any other -----------------------------------------------------------------------------------------------


def test_the_commands_know_the_study(place: Path, command: Command) -> None:
    folder = three(place)
    (folder / "trial_1" / "checkpoint.weights.h5").touch()
    found = command("import", folder.relative_to(place), "--study", "before")
    assert found.code == 0
    assert found.out == "study before has 3 trials of kt/mlp; best val_accuracy 0.9000, trial 1\n"
    assert "load kt/mlp/trial_1/checkpoint.weights.h5" in found.err
    assert "--warm-start before" in found.err
    rows = json.loads(command("trials", "before", "--json").out)
    assert [row["state"] for row in rows] == ["completed", "completed", "failed"]
    assert "imported from KerasTuner's project" in command("status", "before").out
    assert "imported · max val_accuracy" in command("status", "before").out
    assert "momentum" in command("show", "before", "0").out
    assert command("best", "before").code == 0
    for arguments in (("best", "before"), ("show", "before", "2"), ("report", "before")):
        assert command(*arguments).code == 0


def test_it_ships_to_mlflow(place: Path, command: Command) -> None:
    mlflow = pytest.importorskip("mlflow")
    folder = three(place)
    assert command("import", folder).code == 0
    assert command("sync", "mlp").code == 0
    client = mlflow.MlflowClient(f"sqlite:///{place}/runs/mlflow.db")
    (experiment,) = [each for each in client.search_experiments() if each.name == "mlp"]
    runs = client.search_runs([experiment.experiment_id], "tags.`search.kind` = 'trial'")
    states = {run.data.tags["search.trial"]: (run.info.status, run.data.metrics.get("objective")) for run in runs}
    assert states == {"0": ("FINISHED", 0.7), "1": ("FINISHED", 0.9), "2": ("FAILED", None)}


def test_no_search_of_its_own_goes_on(place: Path, command: Command) -> None:
    import_project(three(place), "runs")
    (place / "space.py").write_text("def load_data(): ...\ndef build_model(hp): ...\n")
    for arguments in (("resume", "mlp"), ("run", "space.py", "--study", "mlp", "--resume")):
        found = command(*arguments)
        assert found.code == 2
        assert "was imported, and no search of its own can go on" in found.err
        assert "--warm-start mlp" in found.err
    found = command("export", "mlp", "--to", "model.keras")
    assert found.code == 1
    assert "was imported without code and weights" in found.err
    with pytest.raises(NoResult, match="imported without code and weights"):
        search.load_study("mlp").get_best_models()


def test_a_warm_start_knows_the_epochs_of_the_values(place: Path) -> None:
    trials = [a_round("0", 0.5, 0), a_round("1", 0.3, 1, after="0")]
    import_project(write_project(place / "hyper", trials, max_epochs=6), "runs")
    own = StudyHandle(StudyPaths.of("runs", "own"))
    objective = Objective("val_loss", "min")
    learning = Options(runs="runs", sampler="tpe")
    (found,) = import_trials(replace(learning, warm_start="hyper"), objective, own)
    assert (found.begins_after, found.curve) == (0, (0.5, 0.5, 0.5, 0.3, 0.3, 0.3))

    import_project(write_project(place / "late", [trial("0", score=0.5, step=7, val_loss=0.5)]), "runs")
    (found,) = import_trials(replace(learning, warm_start="late", max_epochs=27), objective, own)
    assert (found.begins_after, found.curve, found.stopped_by_callback) == (7, (0.5,), True)
    (found,) = import_trials(replace(learning, warm_start="late", max_epochs=3), objective, own)
    assert (found.begins_after, found.curve) == (2, (0.5,)), "it is learnt from, at the last epoch of the search"


# Wrong input ----------------------------------------------------------------------------------------------------------


def test_a_wrong_folder_is_refused_by_one_line(place: Path, command: Command) -> None:
    three(place)
    (place / "empty").mkdir()
    write_project(place / "none", [])
    assert_refused(command, "import", "kt/mpl", words=("there is no folder kt/mpl", "oracle.json"))
    assert_refused(command, "import", "empty", words=("empty is no KerasTuner project",))
    assert_refused(command, "import", "kt", words=("it has one: give kt/mlp",))
    assert_refused(command, "import", "none", words=("none has no trial_*/trial.json",))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "Expecting property name"),
        ("[]", "list indices"),
        ('{"trial_id": "0"}', "it has no 'hyperparameters'"),
        (
            json.dumps({**trial("0"), "hyperparameters": {"space": [{"class_name": "X", "config": {}}], "values": {}}}),
            "'name'",
        ),
        (json.dumps({**trial("0"), "metrics": {"metrics": {"a": {"direction": "up", "observations": []}}}}), "'up'"),
        (json.dumps(trial("0", score=0.1, step=-1, val_loss=0.1)), "-1 is no number of an epoch"),
    ],
)
def test_a_damaged_file_is_named(place: Path, command: Command, text: str, words: str) -> None:
    folder = three(place)
    (folder / "trial_1" / "trial.json").write_text(text)
    rest = "move kt/mlp/trial_1 away to import the other trials"
    assert_refused(command, "import", "kt/mlp", words=("kt/mlp/trial_1/trial.json is damaged", words, rest))


def test_a_damaged_oracle_is_named(place: Path, command: Command) -> None:
    (three(place) / "oracle.json").write_text("\0")
    assert_refused(command, "import", "kt/mlp", words=("kt/mlp/oracle.json is damaged",))


def test_a_study_is_not_replaced(place: Path, command: Command) -> None:
    three(place)
    assert command("import", "kt/mlp").code == 0
    assert_refused(command, "import", "kt/mlp", words=("study 'mlp' exists", "--study"))


def test_trials_that_have_not_ended_are_left_out(place: Path, command: Command) -> None:
    trials = [
        trial("0", score=0.5, val_loss=0.5),
        trial("1", status="RUNNING"),
        trial("2", status="INVALID", message="again"),
        trial("3", score=0.4, val_loss=0.4),
    ]
    write_project(place / "p", trials, retry_queue=["2"])
    found = command("import", "p")
    assert found.out.startswith("study p has 2 trials of p;")
    assert "left out: 2 trials that had not ended" in found.err
    write_project(place / "q", [trial("0", status="RUNNING")])
    assert_refused(command, "import", "q", words=("none of the 1 trials of q has ended",))


def test_no_framework_is_imported(place: Path) -> None:
    three(place)
    heavy = "{'keras', 'keras_tuner', 'tensorflow', 'mlflow', 'optuna', 'numpy'}"
    code = f"import sys; from search import cli; cli.main(['import', 'kt/mlp']); print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


# The real KerasTuner --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["RandomSearch", "Hyperband", "BayesianOptimization", "GridSearch"])
def test_a_project_of_the_real_kerastuner(place: Path, kind: str) -> None:
    import keras
    import keras_tuner
    import numpy as np

    x = np.random.default_rng(0).random((32, 3), dtype="float32")
    y = x.sum(axis=1)

    def build_model(hp: Any) -> Any:
        width = hp.Int("units", 4, 16, step=4)
        if hp.Choice("opt", ["sgd", "adam"]) == "sgd":
            with hp.conditional_scope("opt", ["sgd"]):
                hp.Float("momentum", 0.1, 0.9)
        if width == 16:
            raise ValueError("too wide")
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(width), keras.layers.Dense(1)])
        model.compile(keras.optimizers.Adam(hp.Float("lr", 1e-3, 1e-1, sampling="log")), "mse", metrics=["mae"])
        return model

    budget = {"max_epochs": 3, "factor": 3} if kind == "Hyperband" else {"max_trials": 4}
    tuner = getattr(keras_tuner, kind)(
        build_model,
        objective="val_loss",
        seed=3,
        directory="kt",
        project_name="real",
        max_consecutive_failed_trials=99,
        **budget,
    )
    tuner.search(x, y, validation_data=(x, y), epochs=2, verbose=0)
    study = imported(place / "kt" / "real", objective="val_loss")
    best = tuner.oracle.get_best_trials(1)[0]
    assert study.best is not None
    assert study.best.objective == best.score
    own = {name: value for name, value in best.hyperparameters.values.items() if not name.startswith("tuner/")}
    assert study.best.params == own
    theirs = tuner.oracle.trials.values()
    assert sum(t.failed for t in study.trials.values()) == sum(t.status == "FAILED" for t in theirs)
    assert sum(t.progress.segments for t in study.trials.values()) == len(theirs)
    for trial_of_ours in study.trials.values():
        for parameter in trial_of_ours.parameters:
            assert parameter.domain.contains(trial_of_ours.params[parameter.name])
