"""The commands, as they are used: a search, what is read of it, and its models in another process."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import TINY

import search
from search import cli
from search.errors import NoResult, SpaceError, StudyError
from search.study.paths import StudyPaths

RUN = ("--study", "t", "--max-epochs", "3", "--max-trials", "3", "--workers", "1", "--seed", "5", "--no-progress")
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


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process."""

    def run(*arguments: object) -> Said:
        capfd.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        return Said(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="module")
def searched(zygote: object, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A folder with the finished study `t`, only ever read, and the exit code of its search."""
    folder = tmp_path_factory.mktemp("searched")
    shutil.copy(TINY, folder / "space.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("search.executors.selection.shared_zygote", zygote)
        patch.chdir(folder)
        code = cli.main(["run", "space.py", *RUN, "--objective", "val_loss"])
    return folder, code


@pytest.fixture
def study(searched: tuple[Path, int], monkeypatch: pytest.MonkeyPatch) -> search.StudyResults:
    """The study `t`; its folder is the current one. To be read, not changed."""
    folder, code = searched
    assert code == 0
    monkeypatch.chdir(folder)
    return search.load_study("t")


@pytest.fixture
def space(workplace: Path) -> Path:
    """A space file in an empty folder."""
    return Path(shutil.copy(TINY, workplace / "space.py"))


def trials(command: Run, name: str = "t") -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(command("trials", name, "--json").out)
    return listed


def python(code: str, folder: Path, *arguments: object) -> str:
    """What a fresh process prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Searching ------------------------------------------------------------------------------------------------------------


def test_a_run_says_what_it_will_do_and_what_came_of_it(command: Run, space: Path) -> None:
    said = command("run", "space.py", *RUN)
    assert said.code == 0
    lines = said.err.splitlines()
    assert lines[0].startswith("study t in ")
    assert lines[1].startswith("objective val_accuracy, max")
    assert "hyperband" in lines[2]
    assert "3 trials" in lines[2]
    assert lines[-1].startswith("ended: ")
    assert said.out.splitlines()[0].split()[:3] == ["rank", "trial", "val_accuracy"]
    for next_command in ("search best t", "search show t ", "search ui", "search export t --to model.keras"):
        assert next_command in said.out


def test_a_study_is_called_after_its_file(command: Run, space: Path) -> None:
    assert command("run", space, *AGAIN, "--max-epochs", 1).code == 0
    assert StudyPaths.of("runs", "space").journal.exists()


def test_options_of_the_file_are_defaults(command: Run, space: Path) -> None:
    space.write_text(
        space.read_text() + "\nsearch_options: dict = {'runs': 'there', 'study': 'named', 'backend': 'optuna', "
        "'max_epochs': 2, 'objective': 'val_loss', 'max_trials': 9}\n"
    )
    said = command("run", "space.py", *AGAIN, "--max-trials", 1, "--sampler", "random")
    assert said.code == 0
    assert "search best named --runs " in said.out
    found = search.load_study("named", "there")
    assert [trial.epochs for trial in found.trials] == [2]
    assert found.objective.name == "val_loss"
    assert found.study.phases[0].backend == "optuna"
    assert found.study.phases[0].options["sampler"] == "random"
    assert sorted(path.name for path in Path("there").iterdir() if path.is_dir()) == ["mlartifacts", "named"]
    assert not Path("runs").exists()


@pytest.mark.slow
def test_a_finished_study_is_resumed(command: Run, space: Path) -> None:
    assert command("run", "space.py", *RUN).code == 0
    before = trials(command)
    assert command("resume", "t", *AGAIN).code == 0
    assert command("run", "space.py", *RUN, "--resume").code == 0
    assert trials(command) == before
    assert command("resume", "t", *AGAIN, "--max-trials", 4).code == 0
    after = trials(command)
    assert after[: len(before)] == before
    assert len(after) == 4


def test_resume_creates_the_study_where_there_is_none(command: Run, space: Path) -> None:
    assert command("run", "space.py", *RUN, "--resume").code == 0
    assert len(trials(command)) == 3


@pytest.mark.slow
def test_overwrite_begins_anew(command: Run, space: Path) -> None:
    assert command("run", "space.py", *RUN).code == 0
    before = trials(command)
    assert command("run", "space.py", *RUN, "--overwrite", "--seed", 6, "--max-trials", 2).code == 0
    after = trials(command)
    assert len(after) == 2
    assert {t["seed"] for t in after}.isdisjoint(t["seed"] for t in before)
    assert {t["mlflow_run_id"] for t in after}.isdisjoint(t["mlflow_run_id"] for t in before)
    assert not StudyPaths.of("runs", "t").trial(2).folder.exists()


def test_a_resumed_study_keeps_its_back_end_and_takes_its_options(command: Run, space: Path) -> None:
    assert command("run", "space.py", *RUN, "--backend", "optuna", "--max-trials", 1).code == 0
    assert command("resume", "t", *AGAIN, "--max-trials", 2, "--sampler", "random", "--pruner", "none").code == 0
    found = search.load_study("t")
    assert [phase.backend for phase in found.study.phases] == ["optuna", "optuna"]
    assert found.study.phases[1].options["pruner"] == "none"
    assert len(found.trials) == 2


def test_a_search_that_finds_nothing(command: Run, space: Path) -> None:
    space.write_text(
        space.read_text()
        + "\n\nclass Stumble(keras.callbacks.Callback):\n    def on_epoch_end(self, epoch, logs=None):\n"
        "        raise RuntimeError('stumbled')  # here\n\n\ndef callbacks(hp):\n    return [Stumble()]\n"
    )
    said = command("run", "space.py", *RUN)
    assert said.code == 1
    assert "no trial has an objective" in said.err.splitlines()[-1]
    assert "Traceback" not in said.err
    listed = trials(command)
    assert {t["state"] for t in listed} == {"failed"}
    here = 1 + space.read_text().split("# here")[0].count("\n")
    assert {t["error"] for t in listed} == {f"{space}:{here}: RuntimeError: stumbled"}
    shown = command("show", "t", 0)
    assert shown.code == 0
    assert "Traceback" in shown.out
    for arguments in (("best", "t"), ("export", "t", "--to", "model.keras")):
        said = command(*arguments)
        assert (said.code, said.out) == (1, "")
        assert "no trial with an objective" in said.err
    assert json.loads(command("best", "t", "--json").out) == []
    with pytest.raises(NoResult):
        search.load_study("t").get_best_models()


# Looking --------------------------------------------------------------------------------------------------------------


def test_trials_as_json(command: Run, study: search.StudyResults) -> None:
    said = command("trials", "t", "--json")
    assert (said.code, said.err) == (0, "")
    listed = json.loads(said.out)
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


def test_trials_as_csv(command: Run, study: search.StudyResults) -> None:
    said = command("trials", "t", "--csv")
    assert (said.code, said.err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(said.out)))
    assert [int(row["trial"]) for row in rows] == [0, 1, 2]
    assert [float(row["objective"]) for row in rows] == [trial.objective for trial in study.trials]
    assert [int(row["params_units"]) for row in rows] == [trial.params["units"] for trial in study.trials]


def test_trials_as_a_table(command: Run, study: search.StudyResults) -> None:
    said = command("trials", "t")
    assert (said.code, said.err) == (0, "")
    assert len(said.out.splitlines()) == 4


def test_best(command: Run, study: search.StudyResults) -> None:
    listed = json.loads(command("best", "t", "--json").out)
    assert [t["objective"] for t in listed] == sorted(t["objective"] for t in listed)
    by_number = {t["trial"]: t for t in trials(command)}
    assert listed == [by_number[t["trial"]] for t in listed]
    assert json.loads(command("best", "t", "-n", 1, "--json").out) == listed[:1]
    said = command("best", "t")
    assert (said.code, said.err) == (0, "")
    assert [line.split()[1] for line in said.out.splitlines()[1:]] == [str(t["trial"]) for t in listed]


def test_show(command: Run, study: search.StudyResults) -> None:
    said = command("show", "t", 1)
    assert (said.code, said.err) == (0, "")
    trial = study.trials[1]
    for words in (
        "trial 1 of t",
        "learning_rate",
        repr(trial.params["learning_rate"]),
        "val_loss",
        f"seed {trial.seed}",
    ):
        assert words in said.out


def test_status(command: Run, study: search.StudyResults) -> None:
    said = command("status", "t")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("t: done")
    assert command("status").out == said.out
    one = json.loads(command("status", "t", "--json").out)
    assert isinstance(one, dict)
    assert [each.keys() for each in json.loads(command("status", "--json").out)] == [one.keys()]


def test_a_journal_that_cannot_be_read_hides_no_other_study(command: Run, space: Path) -> None:
    assert command("run", "space.py", *RUN).code == 0
    broken = StudyPaths.of("runs", "broken").journal
    broken.parent.mkdir()
    broken.write_text("rubbish\nrubbish\n")
    said = command("status")
    assert said.out.startswith("t: done")
    assert said.err.startswith("search: broken: ")


def test_check_writes_nothing(command: Run, space: Path) -> None:
    said = command("check", "space.py")
    assert (said.code, said.err) == (0, "")
    for words in ("units", "Int(2..8)", "learning_rate", "val_accuracy", "accuracy"):
        assert words in said.out
    assert "16" in said.out  # weights of the default model, two units wide: 4 · 2 + 2 and 2 · 2 + 2
    assert list(space.parent.iterdir()) == [space]


@pytest.mark.parametrize(("words", "value"), [((), None), (("--fuse",), True), (("--no-fuse",), False)])
def test_a_flag_says_yes_or_no_or_is_not_said(
    command: Run, space: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], value: bool | None
) -> None:
    given: dict[str, Any] = {}

    def run(source: object, said: dict[str, Any], **_: object) -> None:
        given.update(said)
        raise SpaceError("seen")

    monkeypatch.setattr("search.driver.launch.run", run)
    assert command("run", "space.py", *words).code == 2
    assert given["fuse"] is value


def test_help_and_version(command: Run, workplace: Path) -> None:
    assert command("--version").out == f"search {search.__version__}\n"
    said = command()
    assert (said.code, said.out) == (2, "")
    for name in ("run", "resume", "check", "trials", "best", "show", "status", "export", "sync", "ui", "devices"):
        assert f"  {name} " in said.err
    said = command("run", "--help")
    assert (said.code, said.err) == (0, "")
    for option in ("--study", "--max-epochs", "--no-fuse", "--accept-changes", "--resume"):
        assert option in said.out


LOOK = """
import sys
from search.cli import main
for arguments in (["trials", "t"], ["trials", "t", "--json"], ["best", "t"], ["status"], ["show", "t", "0"]):
    assert main(arguments) == 0
print([name for name in ("keras", "tensorflow", "keras_tuner", "mlflow", "optuna") if name in sys.modules])
"""


def test_looking_imports_no_framework(study: search.StudyResults) -> None:
    assert python(LOOK, Path.cwd()).splitlines()[-1] == "[]"


# Models ---------------------------------------------------------------------------------------------------------------

EVALUATE = """
import json, sys, warnings
import search
from search.space import file as space
from search.space.file import SpaceRef

runs, store, exported, file = sys.argv[1:]
(_, (x, y)) = space.load(SpaceRef(path=file)).load_data()
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
def test_models_come_back_elsewhere(command: Run, study: search.StudyResults, tmp_path: Path) -> None:
    exported = tmp_path / "model.keras"
    said = command("export", "t", "--to", exported)
    best = study.best_trials(2)
    assert (said.code, said.out) == (0, f"{exported}: trial {best[0].number}, weights of epoch {best[0].best_epoch}\n")
    # The store has been moved, without the study.
    store = tmp_path / "store"
    shutil.copytree("runs", store, ignore=shutil.ignore_patterns("t", "*.lock"))
    uri = f"sqlite:///{store}/mlflow.db"
    printed = python(EVALUATE, tmp_path, Path("runs").absolute(), uri, exported, Path("space.py").absolute())
    found = json.loads(printed.splitlines()[-1])
    assert found["runs"] == pytest.approx([trial.objective for trial in best], abs=1e-4)
    assert found["store"] == pytest.approx([trial.objective for trial in best], abs=1e-4)
    assert found["exported"] == pytest.approx(best[0].objective, abs=1e-4)
    assert found["all"] == 3
    assert found["warned"] == ["9 models were asked for, and there are 3: a search keeps 9 with --keep-models 9"]


def test_weights_are_exported(command: Run, study: search.StudyResults, tmp_path: Path) -> None:
    assert command("export", "t", "--rank", 3, "--to", tmp_path / "model.weights.h5").code == 0
    assert (tmp_path / "model.weights.h5").exists()


def test_a_model_that_cannot_be_built_again(command: Run, space: Path) -> None:
    assert command("run", "space.py", *RUN).code == 0
    copy = StudyPaths.of("runs", "t").space / "space.py"
    copy.write_text(copy.read_text().replace("    model = ", "    raise RuntimeError('no more')\n    model = "))
    said = command("export", "t", "--to", "model.keras")
    assert said.code == 2
    assert said.err == f"search: {copy}:8: RuntimeError: no more\n"


def test_trials_that_failed_give_no_models(command: Run, space: Path) -> None:
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
    assert list(frame["state"] == "failed") == list(frame["bad"])


# From Python ----------------------------------------------------------------------------------------------------------


def data() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    x = np.random.default_rng(0).normal(size=(64, 4))
    y = (x.sum(axis=1) > 0).astype("int32")
    return (x[:48], y[:48]), (x[48:], y[48:])


def factory(offset: int) -> Callable[[Any], Any]:
    """A closure: no name leads to it, so it must travel by value."""

    def classifier(hp: Any) -> Any:
        import keras

        layers = [keras.layers.Dense(hp.Int("units", 2, 8) + offset), keras.layers.Dense(2, activation="softmax")]
        model = keras.Sequential(layers)
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    return classifier


OPTIONS: dict[str, Any] = {"max_epochs": 3, "max_trials": 2, "workers": 1, "progress": False, "objective": "val_loss"}


def test_a_factory_and_arrays(workplace: Path) -> None:
    train, validation = data()
    found = search.run(factory(10), data=(train, validation), seed=3, **OPTIONS)
    assert found.name == "classifier"
    assert len(found.trials) == 2
    models = found.get_best_models(2)
    losses = [model.evaluate(*validation, verbose=0)[0] for model in models]
    assert losses == pytest.approx([trial.objective for trial in found.best_trials(2)], abs=1e-4)
    assert [model.layers[0].units for model in models] == [
        params["units"] + 10 for params in found.get_best_hyperparameters(2)
    ]
    assert len(search.get_best_models("classifier", tracking_uri="sqlite:///runs/mlflow.db")) == 1
    with pytest.raises(StudyError, match="exists"):
        search.run(factory(10), data=(train, validation), **OPTIONS)
    again = search.run(factory(10), data=(train, validation), resume=True, **{**OPTIONS, "max_trials": 3})
    assert len(again.trials) == 3


def test_a_factory_with_other_parameters_is_a_change(workplace: Path) -> None:
    search.run(factory(0), data=data(), **OPTIONS)

    def classifier(hp: Any) -> Any:
        hp.Boolean("more")
        return factory(0)(hp)

    pickled = StudyPaths.of("runs", "classifier").pickle.read_bytes()
    with pytest.raises(StudyError, match="the factory has changed since study 'classifier' began: more is new"):
        search.run(classifier, data=data(), resume=True, **OPTIONS)
    assert StudyPaths.of("runs", "classifier").pickle.read_bytes() == pickled


def test_a_factory_that_cannot_be_used_leaves_a_log_only(workplace: Path) -> None:
    def broken(hp: Any) -> Any:
        raise RuntimeError("oh")

    line = broken.__code__.co_firstlineno + 1
    with pytest.raises(SpaceError, match=rf"test_cli\.py:{line}: RuntimeError: oh"):
        search.run(broken, data=data(), **OPTIONS)
    lock = threading.Lock()

    def holding(hp: Any) -> Any:
        return lock

    with pytest.raises(SpaceError, match="cannot be sent to a worker"):
        search.run(holding, data=data(), **OPTIONS)
    assert {path.name for path in workplace.rglob("*") if path.is_file()} == {"search.log"}


@pytest.mark.parametrize(
    ("space", "options", "words"),
    [
        (factory(0), {}, "no data"),
        ("space.py", {"data": data()}, "belong into the file"),
        (3, {}, "was given an int"),
        ("space.py", {"max_epoch": 3}, "Did you mean 'max_epochs'"),
        ("space.py", {"max_epochs": 0}, "at least 1"),
    ],
)
def test_wrong_arguments(workplace: Path, space: Any, options: dict[str, Any], words: str) -> None:
    shutil.copy(TINY, "space.py")
    with pytest.raises(search.SearchError, match=words):
        search.run(space, **options)
    assert not Path("runs").exists()


# The command itself ---------------------------------------------------------------------------------------------------


def installed(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("search")), *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_the_installed_command(tmp_path: Path) -> None:
    says = "\nimport os\nprint(f\"set: {os.environ.get('TF_ENABLE_ONEDNN_OPTS')}\")\n"
    (tmp_path / "space.py").write_text(TINY.read_text() + says)
    done = installed(tmp_path, "run", "space.py", *RUN)
    assert done.returncode == 0
    logs = "".join(path.read_text() for path in tmp_path.rglob("*log*") if path.is_file())
    assert f"set: {'1' if platform.machine() == 'x86_64' else None}" in logs
    assert [line.split()[0] for line in done.stderr.splitlines()][:2] == ["study", "objective"]
    # What the framework has to say is in the logs.
    for noise in ("tensorflow", "cuda", "oneDNN", "WARNING", "Traceback"):
        assert noise not in done.stderr + done.stdout


def test_the_installed_command_refuses(tmp_path: Path) -> None:
    text = TINY.read_text() + "\nmissing\n"
    (tmp_path / "space.py").write_text(text)
    done = installed(tmp_path, "run", "space.py", *RUN, "--executor", "inline")
    assert (done.returncode, done.stdout) == (2, "")
    where = f"{tmp_path}/space.py:{text.count(chr(10))}"
    assert done.stderr.startswith(f"search: {where}: NameError: name 'missing' is not defined")
    assert len(done.stderr.splitlines()) == 1
    files = {path.name for path in tmp_path.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert files == {"space.py", "search.log"}
