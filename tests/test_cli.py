"""Tests of the commands in use: a search, its trials and status, and its models in another process."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import Command, without_waits
from places import TINY

import search
from search import cli, options
from search.cli.arguments import complete_space
from search.driver import launch
from search.driver.prepared import SearchStopped
from search.errors import NoResult, SpaceError
from search.study.paths import StudyPaths
from search.tracking.mlflow import store

SHORT = ("--max-epochs", "3", "--max-trials", "3", "--workers", "1", "--seed", "5", "--no-progress")
RUN = ("--study", "t", "--backend", "hyperband", *SHORT)
AGAIN = ("--workers", "1", "--no-progress")
TRIAL_KEYS = {
    "trial",
    "state",
    "epochs",
    "objective",
    "best_epoch",
    "params",
    "error",
    "seed",
    "mlflow_run_id",
    "trained",
}


@pytest.fixture(scope="module")
def searched(zygote: object, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """Return a folder with the finished study `t`, which no test changes, and the exit code of its search."""
    folder = tmp_path_factory.mktemp("searched")
    shutil.copy(TINY, folder / "space.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("search.executors.selection.shared_zygote", zygote)
        patch.chdir(folder)
        code = cli.main(["run", "space.py", *RUN, "--objective", "val_loss"])
    return folder, code


@pytest.fixture
def study(searched: tuple[Path, int], monkeypatch: pytest.MonkeyPatch) -> search.StudyResults:
    """Return the study `t` in the current folder; no test changes it."""
    folder, code = searched
    assert code == 0
    monkeypatch.chdir(folder)
    return search.load_study("t")


@pytest.fixture
def space(workplace: Path) -> Path:
    """Return a space file in an empty folder."""
    return Path(shutil.copy(TINY, workplace / "space.py"))


def trials(command: Command, name: str = "t") -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(command("trials", name, "--json").out)
    return listed


def run_python(code: str, folder: Path, *arguments: object) -> str:
    """Return the output of Python code in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Searching ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def copied(searched: tuple[Path, int], workplace: Path) -> Path:
    """Return an empty folder with a copy of the study `t`, which a test may change."""
    shutil.copytree(searched[0] / "runs" / "t", workplace / "runs" / "t")
    return workplace


@pytest.mark.core
def test_a_run_announces_its_plan_and_reports_its_result(command: Command, space: Path) -> None:
    outcome = command("run", space, *SHORT)
    assert outcome.code == 0
    # The study is named after the file.
    assert StudyPaths.of("runs", "space").journal.exists()
    lines = outcome.err.splitlines()
    assert lines[0].startswith("study space in ")
    assert lines[1].startswith("objective val_accuracy, max")
    assert "hyperband" in lines[2]
    assert "3 trials" in lines[2]
    assert lines[-1].startswith("ended: ")
    assert outcome.out.splitlines()[0].split()[:3] == ["rank", "trial", "val_accuracy"]
    for next_command in (
        "search best space",
        "search show space ",
        "search ui",
        "search export space --to model.keras",
    ):
        assert next_command in outcome.out


@pytest.mark.core
def test_options_of_the_file_are_defaults(command: Command, space: Path) -> None:
    space.write_text(
        space.read_text() + "\nsearch_options: dict = {'runs': 'there', 'study': 'named', 'backend': 'optuna', "
        "'max_epochs': 2, 'objective': 'val_loss', 'max_trials': 9}\n"
    )
    outcome = command("run", "space.py", *AGAIN, "--max-trials", 1, "--sampler", "random")
    assert outcome.code == 0
    assert "search best named --runs " in outcome.out
    found = search.load_study("named", "there")
    assert [trial.epochs for trial in found.trials] == [2]
    assert found.objective.name == "val_loss"
    assert found.study.phases[0].backend == "optuna"
    assert found.study.phases[0].options["sampler"] == "random"
    assert sorted(path.name for path in Path("there").iterdir() if path.is_dir()) == ["mlartifacts", "named"]
    assert not Path("runs").exists()


@pytest.mark.slow
def test_a_finished_study_is_resumed(command: Command, space: Path) -> None:
    assert command("run", "space.py", *RUN).code == 0
    before = trials(command)
    assert command("resume", "t", *AGAIN).code == 0
    assert command("run", "space.py", *RUN, "--resume").code == 0
    assert trials(command) == before
    assert command("resume", "t", *AGAIN, "--max-trials", 4).code == 0
    after = trials(command)
    assert after[: len(before)] == before
    assert len(after) == 4


@pytest.mark.slow
def test_a_study_hangs_under_a_run_of_the_users(command: Command, space: Path) -> None:
    client = store.connect(store.resolve_uri(None, "runs"))
    own = client.create_run(client.create_experiment("ours", str(Path("runs/ours").absolute())))
    assert command("run", "space.py", *RUN, "--max-trials", 1, "--parent-run", "nosuch").code == 2
    assert not StudyPaths.of("runs", "t").journal.exists()
    assert command("run", "space.py", *RUN, "--max-trials", 1, "--parent-run", own.info.run_id).code == 0
    filter_ = f"tags.`mlflow.parentRunId` = '{own.info.run_id}'"
    (parent,) = client.search_runs([own.info.experiment_id], filter_)
    assert parent.data.tags["search.study"] == "t"


@pytest.mark.slow
def test_overwrite_begins_anew(command: Command, space: Path) -> None:
    assert command("run", "space.py", *RUN).code == 0
    before = trials(command)
    assert command("run", "space.py", *RUN, "--overwrite", "--seed", 6, "--max-trials", 2).code == 0
    after = trials(command)
    assert len(after) == 2
    assert {t["seed"] for t in after}.isdisjoint(t["seed"] for t in before)
    assert {t["mlflow_run_id"] for t in after}.isdisjoint(t["mlflow_run_id"] for t in before)
    assert not StudyPaths.of("runs", "t").trial(2).folder.exists()


def test_a_resumed_study_keeps_its_back_end_and_takes_its_options(command: Command, space: Path) -> None:
    # The first --resume creates the study.
    assert command("run", "space.py", *RUN, "--backend", "optuna", "--max-trials", 1, "--resume").code == 0
    assert len(trials(command)) == 1
    more = ["--max-trials", 2, "--sampler", "random", "--pruner", "none"]
    outcome = command("resume", "t", *AGAIN, *more, "--require", "val_accuracy>=2")
    assert outcome.code == 3
    assert outcome.err.splitlines()[-1].startswith("search: the best trial, ")
    found = search.load_study("t")
    assert [phase.backend for phase in found.study.phases] == ["optuna", "optuna"]
    assert found.study.phases[1].options["pruner"] == "none"
    assert len(found.trials) == 2


def test_a_search_whose_trials_all_fail(command: Command, space: Path) -> None:
    space.write_text(
        space.read_text()
        + "\n\nclass Stumble(keras.callbacks.Callback):\n    def on_epoch_end(self, epoch, logs=None):\n"
        "        raise RuntimeError('stumbled')  # here\n\n\ndef callbacks(hp):\n    return [Stumble()]\n"
    )
    outcome = command("run", "space.py", *RUN)
    assert outcome.code == 1
    assert "no trial has an objective" in outcome.err.splitlines()[-1]
    assert "Traceback" not in outcome.err
    listed = trials(command)
    assert {t["state"] for t in listed} == {"failed"}
    here = 1 + space.read_text().split("# here")[0].count("\n")
    assert {t["error"] for t in listed} == {f"{space}:{here}: RuntimeError: stumbled"}
    shown = command("show", "t", 0)
    assert shown.code == 0
    assert "Traceback" in shown.out
    for arguments in (("best", "t"), ("export", "t", "--to", "model.keras")):
        outcome = command(*arguments)
        assert (outcome.code, outcome.out) == (1, "")
        assert "no trial with an objective" in outcome.err
    assert json.loads(command("best", "t", "--json").out) == []
    with pytest.raises(NoResult):
        search.load_study("t").get_best_models()


# Reading studies ------------------------------------------------------------------------------------------------------


@pytest.mark.core
def test_trials_as_json(command: Command, study: search.StudyResults) -> None:
    outcome = command("trials", "t", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    listed = json.loads(outcome.out)
    assert [t["trial"] for t in listed] == [0, 1, 2]
    for t, trial in zip(listed, study.trials, strict=True):
        assert t.keys() >= TRIAL_KEYS
        assert t["params"] == trial.params
        assert t["params"].keys() == {"units", "learning_rate"}
        assert t["state"] in ("completed", "stopped")
        assert t["objective"] == min(epoch.logs["val_loss"] for epoch in trial.curve)
        assert trial.curve[t["best_epoch"] - 1].logs["val_loss"] == t["objective"]
        assert t["epochs"] == t["trained"] == len(trial.curve)
        assert t["error"] is None
        assert t["mlflow_run_id"]
    assert len({t["mlflow_run_id"] for t in listed}) == 3


@pytest.mark.core
def test_trials_as_csv(command: Command, study: search.StudyResults) -> None:
    outcome = command("trials", "t", "--csv")
    assert (outcome.code, outcome.err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(outcome.out)))
    assert [int(row["trial"]) for row in rows] == [0, 1, 2]
    assert [float(row["objective"]) for row in rows] == [trial.objective for trial in study.trials]
    assert [int(row["params_units"]) for row in rows] == [trial.params["units"] for trial in study.trials]


@pytest.mark.core
def test_trials_as_a_table(command: Command, study: search.StudyResults) -> None:
    outcome = command("trials", "t")
    assert (outcome.code, outcome.err) == (0, "")
    assert len(outcome.out.splitlines()) == 4


@pytest.mark.core
def test_best_trials_as_json_and_as_a_table(command: Command, study: search.StudyResults) -> None:
    listed = json.loads(command("best", "t", "--json").out)
    assert [t["objective"] for t in listed] == sorted(t["objective"] for t in listed)
    by_number = {t["trial"]: t for t in trials(command)}
    assert listed == [by_number[t["trial"]] for t in listed]
    assert json.loads(command("best", "t", "-n", 1, "--json").out) == listed[:1]
    outcome = command("best", "t")
    assert (outcome.code, outcome.err) == (0, "")
    assert [line.split()[1] for line in outcome.out.splitlines()[1:]] == [str(t["trial"]) for t in listed]


@pytest.mark.core
def test_show_prints_a_trial(command: Command, study: search.StudyResults) -> None:
    outcome = command("show", "t", 1)
    assert (outcome.code, outcome.err) == (0, "")
    trial = study.trials[1]
    for words in (
        "trial 1 of t",
        "learning_rate",
        repr(trial.params["learning_rate"]),
        "val_loss",
        f"seed {trial.seed}",
    ):
        assert words in outcome.out


@pytest.mark.core
def test_status_of_a_finished_study(command: Command, study: search.StudyResults) -> None:
    outcome = command("status", "t")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("t: done")
    assert command("status").out == outcome.out
    one = json.loads(command("status", "t", "--json").out)
    assert isinstance(one, dict)
    assert [each.keys() for each in json.loads(command("status", "--json").out)] == [one.keys()]


@pytest.mark.core
def test_a_command_takes_the_newest_study_or_that_of_a_space_file(command: Command, study: search.StudyResults) -> None:
    best = study.best_trials(1)[0].number
    for name in (None, "space.py"):
        given = [] if name is None else [name]
        for wanted in ("trials", "best"):
            outcome = command(wanted, *given)
            assert (outcome.code, outcome.out) == (0, command(wanted, "t").out)
            assert outcome.err == f"study t, the newest {'in runs' if name is None else 'of space.py'}\n"
        outcome = command("show", *given)
        assert outcome.out == command("show", "t", best).out
        assert outcome.err.endswith(f"trial {best}, the best of t\n")
    assert command("show", "2").out == command("show", "t", 2).out
    assert command("status", "space.py").out == command("status", "t").out


def test_a_study_may_be_called_like_a_trial(command: Command, copied: Path) -> None:
    shutil.copytree("runs/t", "runs/1")
    os.utime("runs/t/journal.jsonl")
    assert command("show", "1").out == command("show", "t", 1).out
    outcome = command("show", "1", "0")
    assert (outcome.code, outcome.err) == (0, "")
    assert json.loads(command("show", "1", "0", "--json").out)["trial"] == 0


@pytest.mark.core
def test_a_trial_as_json_has_its_whole_curve(command: Command, study: search.StudyResults) -> None:
    outcome = command("show", "t", 1, "--json")
    shown = json.loads(outcome.out)
    (entry,) = [each for each in trials(command) if each["trial"] == 1]
    assert {name: shown[name] for name in entry} == entry
    assert [(epoch["epoch"], epoch["logs"]) for epoch in shown["curve"]] == [
        (epoch.epoch, epoch.logs) for epoch in study.trials[1].curve
    ]
    assert shown["traceback"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "t", 9), "study 't' has no trial 9: it has 3, numbered from 0"),
        (("show", 9), "study 't' has no trial 9: it has 3, numbered from 0"),
        (("show", "t", "best"), "study 't' has no trial best"),
        (("show", "t", "-1"), "-1"),
        (("show", "other"), "no study 'other': there are t."),
        (("best", "other.py"), "searched other.py: there are t"),
        (("trials", "--runs", "nowhere"), "nowhere: begin one with search run SPACE.py"),
        (("best", "--runs", "nowhere"), "nowhere: begin one with search run SPACE.py"),
        (("show", 1, "--runs", "nowhere"), "nowhere: begin one with search run SPACE.py"),
        (("show", "t", 1, "--runs", "nowhere"), "there is none in "),
        (("sync", "--runs", "nowhere"), "nowhere: begin one with search run SPACE.py"),
        (("export", "--to", "model.keras", "--runs", "nowhere"), "nowhere: begin one with search run SPACE.py"),
    ],
)
def test_a_study_or_a_trial_that_is_not_there_takes_one_line(
    command: Command, study: search.StudyResults, arguments: tuple[object, ...], words: str
) -> None:
    outcome = command(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    *before, line = outcome.err.splitlines()
    assert line.startswith("search: ")
    assert words in line
    assert before in ([], ["study t, the newest in runs"])
    assert not Path("nowhere").exists()


@pytest.mark.core
def test_a_shell_completes_studies_and_space_files(study: search.StudyResults) -> None:
    for typed, words in (("trials --runs runs ", ["t"]), ("run sp", ["space.py"])):
        line = f"search {typed}"
        environment = {"_SEARCH_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        done = installed(Path.cwd(), **environment)
        assert done.stdout.split() == words, (typed, done)


def test_paths_of_space_files_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("space.py", "spa[ce.py", "sp.txt", ".hidden.py"):
        (tmp_path / name).touch()
    (tmp_path / "spaces").mkdir()
    monkeypatch.chdir(tmp_path)
    assert complete_space("sp") == ["spa[ce.py", "space.py", "spaces/"]
    assert complete_space("spa[") == ["spa[ce.py"]
    assert complete_space(f"{tmp_path}/space.") == [f"{tmp_path}/space.py"]
    assert complete_space("spaces/") == complete_space("no") == []


def test_an_unreadable_journal_hides_no_other_study(command: Command, copied: Path) -> None:
    broken = StudyPaths.of("runs", "broken").journal
    broken.parent.mkdir()
    broken.write_text("rubbish\nrubbish\n")
    outcome = command("status")
    assert outcome.out.startswith("t: done")
    assert outcome.err.startswith("search: broken: ")


def test_a_folder_that_no_study_can_be_called_like_is_named_and_hides_no_study(command: Command, copied: Path) -> None:
    shutil.copytree("runs/t", "runs/t (copy)")
    shutil.copytree("runs/t", "runs/\x1b[31mt")
    outcome = command("status")
    assert (outcome.code, outcome.out.count("done"), outcome.out[:2]) == (0, 1, "t:")
    assert outcome.err == (
        "search: the folder '\\x1b[31mt' in runs has a journal, but no study can have this name: rename it\n"
        "search: the folder 't (copy)' in runs has a journal, but no study can have this name: rename it\n"
    )
    assert "study t, the newest in runs" in command("trials").err
    assert "there are t. Another folder" in command("trials", "no").err


def test_commands_for_terminals_in_names_are_escaped(command: Command, copied: Path) -> None:
    folder = Path("\x1b]0;title\x07")
    folder.mkdir()
    shutil.move("runs/t", folder / "t")
    for arguments in (["trials", "no"], ["trials", "\x1b[2Jno"], ["run", "\x1b[2J.py"], ["report", "t"]):
        outcome = command(*arguments, "--runs", folder)
        assert "\x1b" not in outcome.out + outcome.err
    log = StudyPaths.of(folder, "t").trial(0).log
    log.write_text("\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b[2J \x9b2J\n")
    shown = command("show", "t", "0", "--runs", folder).out
    assert r"red \x1b]0;title\x07 \x1b[2J \x9b2J" in shown


def test_a_deleted_working_directory_is_named(command: Command, space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = space.parent / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for arguments in (["status"], ["run", space, *SHORT], ["trials"], ["resume", "t"], ["report"]):
        outcome = command(*arguments)
        assert (outcome.code, outcome.out) == (2, "")
        assert "search: the current folder was deleted: change to one that exists" in outcome.err
        assert "Traceback" not in outcome.err


def test_check_writes_nothing(command: Command, space: Path) -> None:
    outcome = command("check", "space.py")
    assert (outcome.code, outcome.err) == (0, "")
    for words in ("units", "Int(2..8)", "learning_rate", "val_accuracy", "accuracy"):
        assert words in outcome.out
    assert "16" in outcome.out  # weights of the default model, two units wide: 4 · 2 + 2 and 2 · 2 + 2
    assert list(space.parent.iterdir()) == [space]


@pytest.mark.parametrize(("flags", "value"), [((), None), (("--fuse",), True), (("--no-fuse",), False)])
def test_a_switch_is_on_or_off_or_not_given(
    command: Command, space: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], value: bool | None
) -> None:
    given: dict[str, Any] = {}

    def run(source: object, options: dict[str, Any], **_: object) -> None:
        given.update(options)
        raise SpaceError("seen")

    monkeypatch.setattr("search.driver.launch.run_search", run)
    assert command("run", "space.py", *flags).code == 2
    assert given["fuse"] is value


@pytest.mark.core
def test_help_and_version(command: Command, workplace: Path) -> None:
    assert command("--version").out == f"search {search.__version__}\n"
    outcome = command()
    assert (outcome.code, outcome.out) == (2, "")
    for name in ("run", "resume", "check", "trials", "best", "show", "status", "export", "sync", "ui", "devices"):
        assert f"  {name} " in outcome.err
    outcome = command("run", "-h")
    assert outcome == command("run", "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert max(map(len, outcome.out.splitlines())) <= 80
    headings = [line for line in outcome.out.splitlines() if line and not line.startswith(" ")]
    groups = [f"{group}:" for group in options.GROUPS]
    assert headings[1:] == ["Arguments:", *groups, "Other options:", "Examples:"]
    assert {field.metadata.get("group") for field in options.FIELDS.values()} <= {*options.GROUPS}
    for option in ("--study", "--max-epochs", "--no-fuse", "--accept-changes", "--resume"):
        assert option in outcome.out


READ_COMMANDS = """
import sys
from search.cli import main
for arguments in (["trials", "t"], ["trials", "t", "--json"], ["best", "t"], ["status"], ["show", "t", "0"]):
    assert main(arguments) == 0
print([name for name in ("keras", "tensorflow", "keras_tuner", "mlflow", "optuna") if name in sys.modules])
"""


def test_reading_a_study_imports_no_framework(study: search.StudyResults) -> None:
    assert run_python(READ_COMMANDS, Path.cwd()).splitlines()[-1] == "[]"


# Models ---------------------------------------------------------------------------------------------------------------

EVALUATE = """
import json, sys, warnings
import search
from search.space.file import SpaceRef, read_space

runs, store, exported, file = sys.argv[1:]
(_, (x, y)) = read_space(SpaceRef(path=file)).load_data()
losses = {}
for source, options in (("runs", {"runs": runs}), ("store", {"tracking_uri": store})):
    models = search.get_best_models("t", 2, **options)
    losses[source] = [model.evaluate(x, y, verbose=0)[0] for model in models]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    losses["all"] = len(search.get_best_models("t", 9, runs=runs))
losses["warned"] = [str(warning.message) for warning in caught if "asked for" in str(warning.message)]
import keras
losses["exported"] = keras.saving.load_model(exported).evaluate(x, y, verbose=0)[0]
print(json.dumps(losses))
"""


@pytest.mark.slow
def test_models_load_in_another_process(command: Command, study: search.StudyResults, tmp_path: Path) -> None:
    exported = tmp_path / "model.keras"
    outcome = command("export", "t", "--to", exported)
    best = study.best_trials(2)
    assert (outcome.code, outcome.out) == (
        0,
        f"{exported}: trial {best[0].number}, weights of epoch {best[0].best_epoch}\n",
    )
    # The store moves without the study.
    store = tmp_path / "store"
    shutil.copytree("runs", store, ignore=shutil.ignore_patterns("t", "*.lock"))
    uri = f"sqlite:///{store}/mlflow.db"
    printed = run_python(EVALUATE, tmp_path, Path("runs").absolute(), uri, exported, Path("space.py").absolute())
    found = json.loads(printed.splitlines()[-1])
    assert found["runs"] == pytest.approx([trial.objective for trial in best], abs=1e-4)
    assert found["store"] == pytest.approx([trial.objective for trial in best], abs=1e-4)
    assert found["exported"] == pytest.approx(best[0].objective, abs=1e-4)
    assert found["all"] == 3
    assert found["warned"] == ["9 models were asked for, and there are 3: a search keeps 9 with keep_models=9"]


@pytest.mark.usefixtures("forked_checks")
def test_weights_are_exported(command: Command, study: search.StudyResults, tmp_path: Path) -> None:
    assert command("export", "t", "--rank", 3, "--to", tmp_path / "model.weights.h5").code == 0
    assert (tmp_path / "model.weights.h5").exists()


def test_a_model_that_no_longer_builds_is_not_exported(command: Command, copied: Path) -> None:
    copy = StudyPaths.of("runs", "t").space / "space.py"
    copy.write_text(copy.read_text().replace("    model = ", "    raise RuntimeError('no more')\n    model = "))
    outcome = command("export", "t", "--to", "model.keras")
    assert outcome.code == 2
    assert outcome.err == f"search: {copy}:8: RuntimeError: no more\n"


def test_failed_trials_give_no_models(command: Command, space: Path) -> None:
    space.write_text(
        space.read_text().replace("    model = ", "    if hp.Boolean('bad'):\n        raise ValueError\n    model = ")
    )
    assert command("run", "space.py", *RUN, "--max-trials", 8).code == 0
    found = search.load_study("t")
    good = [trial for trial in found.trials if not trial.params["bad"]]
    assert 0 < len(good) < len(found.trials)
    assert sorted(trial.number for trial in found.best_trials()) == [trial.number for trial in good]
    assert [params["bad"] for params in found.get_best_hyperparameters(len(good))] == [False] * len(good)
    with pytest.warns(UserWarning, match=f"{len(good) + 1} models were asked for, and there are {len(good)}"):
        assert len(found.get_best_models(len(good) + 1)) == len(good)
    frame = found.trials_dataframe()
    assert list(frame["state"] == "failed") == list(frame["params_bad"])


# The command itself ---------------------------------------------------------------------------------------------------


def installed(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("search")), *arguments]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    return subprocess.run(command, cwd=folder, env=inherited | environment, capture_output=True, text=True, timeout=120)


def test_a_command_ends_without_a_last_look_for_garbage() -> None:
    code = """
import atexit, gc
atexit.register(lambda: print(gc.get_freeze_count() > 0))  # handlers run in reverse order
from search.cli import main
main(["--version"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split()[-1] == "True", done


@pytest.mark.core
@pytest.mark.slow
def test_the_installed_command_searches(tmp_path: Path) -> None:
    added = "\nimport os\nprint(f\"set: {os.environ.get('TF_ENABLE_ONEDNN_OPTS')}\")\n"
    (tmp_path / "space.py").write_text(TINY.read_text() + added)
    (tmp_path / "temporary").mkdir()
    done = installed(tmp_path, "run", "space.py", *RUN, TMPDIR=str(tmp_path / "temporary"))
    assert done.returncode == 0
    # Graph files and other temporary files go with the search.
    assert not list((tmp_path / "temporary").glob("search-*"))
    logs = "".join(path.read_text() for path in tmp_path.rglob("*log*") if path.is_file())
    assert f"set: {'1' if platform.machine() == 'x86_64' else None}" in logs
    waits = [line for line in done.stderr.splitlines() if line.endswith(" …")]
    assert "importing TensorFlow …" in waits
    assert len({*waits}) == len(waits)
    assert [line.split()[0] for line in without_waits(done.stderr).splitlines()][:2] == ["study", "objective"]
    # The framework's output is in the logs.
    for noise in ("tensorflow", "cuda", "oneDNN", "WARNING", "Traceback"):
        assert noise not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("wrong", "options", "message"),
    [
        ("def broken(:", (), "invalid syntax"),
        pytest.param(
            "missing", ("--executor", "inline"), "NameError: name 'missing' is not defined", marks=pytest.mark.slow
        ),
    ],
    ids=["before the framework is imported", "after"],
)
def test_the_installed_command_refuses_a_wrong_space(
    tmp_path: Path, wrong: str, options: tuple[str, ...], message: str
) -> None:
    text = TINY.read_text() + f"\n{wrong}\n"
    (tmp_path / "space.py").write_text(text)
    done = installed(tmp_path, "run", str(tmp_path / "space.py"), *RUN, *options)
    assert (done.returncode, done.stdout) == (2, "")
    where = f"{tmp_path}/space.py:{text.count(chr(10))}"
    said = without_waits(done.stderr)
    assert said.startswith(f"search: {where}: {message}")
    assert len(said.splitlines()) == 1
    assert ("importing" in done.stderr) == bool(options)
    files = {path.name for path in tmp_path.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert files == ({"space.py", "search.log"} if options else {"space.py"})


@pytest.mark.parametrize("arguments", [("run", "space.py"), ("run", "space.py", "--overwrite"), ("resume", "digits")])
def test_a_search_that_is_stopped_at_once_advises_a_command_that_works(
    arguments: tuple[str, ...], workplace: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(error: BaseException) -> Callable[..., Any]:
        def raise_error(*_: Any, **__: Any) -> Any:
            raise error

        return raise_error

    before, begun = KeyboardInterrupt(), SearchStopped(StudyPaths.of("elsewhere", "digits"))
    for error, line in (
        (before, "search: stopped before the search began: give the same command again\n"),
        (begun, "search: stopped; nothing journaled is lost: go on with: search resume digits --runs elsewhere\n"),
    ):
        monkeypatch.setattr(launch, "run_search", stop(error))
        monkeypatch.setattr(launch, "resume_search", stop(error))
        outcome = command(*arguments)
        assert (outcome.code, outcome.err) == (130, line)


def test_a_command_that_is_stopped_says_so(workplace: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "check_space", stop)
    outcome = command("check", "space.py")
    assert (outcome.code, outcome.err) == (130, "search: stopped\n")


@pytest.mark.core
def test_defaults_in_the_help_are_written_as_a_user_would_give_them(command: Command) -> None:
    shown = " ".join(command("run", "--help").out.split())
    for default in ("5m", "30s", "1"):
        assert f"[default: {default}]" in shown
    assert "replace a worker that gives no sign of life for this long. [default: 5m]" in shown.lower()
    assert ".0]" not in shown
