"""Tests of wrong input: exit code 2, a line that says what is wrong, where, and what to do, and no file but a log."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from commands import Command, assert_refused
from places import TINY

from search import cli
from search.study.lock import Lock
from search.study.paths import StudyPaths

TEXT = TINY.read_text()
SHORT = ("--study", "t", "--max-epochs", "1", "--max-trials", "1", "--workers", "1", "--no-progress")

pytestmark = pytest.mark.usefixtures("workplace")


@pytest.fixture
def space(workplace: Path) -> Path:
    """Return a space file without errors."""
    return write(workplace, TEXT)


@pytest.fixture
def study(command: Command, space: Path) -> Path:
    """Return the folder of a finished study, `t`, of that space file."""
    assert command("run", space, *SHORT).code == 0
    return space.parent / "runs" / "t"


@pytest.fixture(scope="module")
def searched(zygote: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a finished study, `t`, for tests that change nothing."""
    folder = tmp_path_factory.mktemp("searched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("search.executors.selection.shared_zygote", zygote)
        patch.chdir(folder)
        assert cli.main(["run", str(write(folder, TEXT)), *SHORT]) == 0
    return folder


def write(folder: Path, text: str, name: str = "space.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def edited(old: str, new: str) -> str:
    """Return the tiny space with one replacement."""
    assert TEXT.count(old) == 1
    return TEXT.replace(old, new)


# The space file -------------------------------------------------------------------------------------------------------

IGNORE = "\n\ndef ignore(*_, **__): ...\n"
LONG = '"a first line\\n  a second\\n" + "and on " * 500'
RAISES = f"raise RuntimeError({LONG})  # here"

FILES = {
    # Files that Python cannot read.
    "syntax": (TEXT + "\ndef broken(:  # here\n", ("space.py:{here}: invalid syntax", "correct")),
    "null bytes": (TEXT + "\0", ("space.py is not a Python file", "null bytes")),
    "binary": (b"\x7fELF\xff\xfe\x00\x01", ("space.py",)),
    "empty": ("", ("space.py: there is no build_model", "add a function build_model")),
    # Files that raise when they are imported.
    "import error": ("import no_such_module  # here\n" + TEXT, ("space.py:{here}: ModuleNotFoundError", "no_such_mod")),
    "name error": (TEXT + "\nmissing  # here\n", ("space.py:{here}: NameError: name 'missing'", "search.log")),
    "exit": ("import sys\n\nsys.exit(3)  # here\n", ("space.py:{here}: sys.exit(3) was called",)),
    "exit quietly": ("import sys\n\nsys.exit()  # here\n", ("space.py:{here}: sys.exit() was called",)),
    "argparse": (
        "import argparse\n\nparser = argparse.ArgumentParser()\nparser.add_argument('--data', required=True)\n"
        "parser.parse_args()  # here\n",
        ("space.py:{here}: sys.exit(2) was called by argparse", "required: --data", "default"),
    ),
    "process ended": ("import os\n\nos._exit(3)\n", ("ended its process", "exit code 3", "search.log")),
    "process killed": ("import os\n\nos.kill(os.getpid(), 11)\n", ("ended its process", "SIGSEGV", "search.log")),
    # Parts that are missing, or cannot be called.
    "no build_model": (edited("def build_model", "def build_modle"), ("no build_model", "Did you mean 'build_modle'?")),
    "no load_data": (edited("def load_data", "def laod_data"), ("no load_data", "Did you mean 'laod_data'?")),
    "no hp": (edited("build_model(hp)", "build_model()"), ("space.py: build_model", "def build_model(hp)")),
    "two arguments": (
        edited("build_model(hp)", "build_model(hp, x)"),
        ("space.py: build_model", "def build_model(hp)"),
    ),
    "no function": ("build_model = 3\n\n\ndef load_data(): ...\n", ("build_model is an int", "make it a function")),
    "load_data's arguments": (edited("load_data()", "load_data(path)"), ("space.py: load_data", "def load_data()")),
    "compile_model": (TEXT + "\ndef compile_model(hp): ...\n", ("space.py: compile_model", "(hp, model)")),
    "options": (TEXT + "\nsearch_options = ['max_epochs']\n", ("space.py: search_options is a list", "dict")),
    # Functions with a wrong result.
    "no model": (edited("    return model\n", ""), ("space.py: build_model returned None", "return a keras.Model")),
    "text": (edited("return model", "return 'model'"), ("space.py: build_model returned a str: return a keras.Model",)),
    "a class": (
        edited("return model", "return keras.Model"),
        ("build_model returned the class Model: return a",),
    ),
    "Keras 2": (
        edited("return model", "return type('Old', (), {'__module__': 'tf_keras.src.engine.training'})()"),
        ("build_model returned a Keras 2 model; search trains with Keras 3: import keras in place of tf_keras",),
    ),
    "a callback of Keras 2": (
        TEXT + "\ndef callbacks(hp):\n    return [type('Old', (), {'__module__': 'tf_keras.src.callbacks'})()]\n",
        ("callbacks returned a Keras 2 callback; search trains with Keras 3",),
    ),
    "Optuna's hp": (
        edited('hp.Int("units", 2, 8), activation="relu"),', 'hp.suggest_int("units", 9, 3)),  # here'),
        ("space.py:{here}: AttributeError: hp has no 'suggest_int'. Did you mean 'hp.Int'?",),
    ),
    "asks for nothing": (
        edited('hp.Int("units", 2, 8)', "3").replace('hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")', "0.1"),
        ("space.py: build_model asks hp for nothing", "hp.Int"),
    ),
    "not compiled": (
        edited("model.compile(", "ignore(") + IGNORE,
        ("space.py: the model is not compiled", "compile_model"),
    ),
    "compiles nothing": (
        edited("model.compile(", "ignore(") + IGNORE + "\ndef compile_model(hp, model): ...\n",
        ("space.py: the model is not compiled",),
    ),
    "fit_options": (TEXT + "\ndef fit_options(hp): ...\n", ("space.py: fit_options returned None", "return a dict")),
    "fit_options' epochs": (
        TEXT + "\ndef fit_options(hp):\n    return {'epochs': 3}\n",
        ("space.py: fit_options returned 'epochs'", "leave it out"),
    ),
    "fit_options' name": (
        TEXT + "\ndef fit_options(hp):\n    return {'batchsize': 3}\n",
        ("fit_options returned 'batchsize'", "Did you mean 'batch_size'?"),
    ),
    "callbacks": (TEXT + "\ndef callbacks(hp): ...\n", ("space.py: callbacks returned None", "return a list")),
    "callbacks' items": (
        TEXT + "\ndef callbacks(hp):\n    return [keras.callbacks.EarlyStopping]\n",
        ("callbacks returned a list with <class", "EarlyStopping", "return a list of Keras callbacks"),
    ),
    # Functions that raise when they are called.
    "load_data raises": (
        edited("    x = ", f"    {RAISES}\n    x = "),
        ("space.py:{here}: RuntimeError: a first line a",),
    ),
    "build_model raises": (edited("    model = ", f"    {RAISES}\n    model = "), ("space.py:{here}: RuntimeError",)),
    "compile_model raises": (TEXT + f"\ndef compile_model(hp, model):\n    {RAISES}\n", ("space.py:{here}: Runtime",)),
    "fit_options raises": (TEXT + f"\ndef fit_options(hp):\n    {RAISES}\n", ("space.py:{here}: RuntimeError",)),
    "callbacks raises": (TEXT + f"\ndef callbacks(hp):\n    {RAISES}\n", ("space.py:{here}: RuntimeError",)),
    "build_model exits": (
        edited("    return model", "    raise SystemExit('enough')  # here"),
        ("space.py:{here}: sys.exit('enough') was called",),
    ),
    "every configuration is rejected": (
        edited(
            "    return model", "    from keras_tuner.errors import FailedTrialError as E; raise E('small')  # here"
        ),
        ("space.py: 20 configurations were built", "space.py:{here}: FailedTrialError: small: reject fewer"),
    ),
    "a fatal error": (
        edited("    return model", "    from keras_tuner.errors import FatalError as E; raise E('no data')  # here"),
        ("space.py:{here}: FatalError: no data",),
    ),
    "Keras raises": (
        edited('activation="relu"),', 'activation="rleu"),  # here'),
        ("space.py:{here}: ValueError: Could not interpret", "rleu"),
    ),
    "a domain that cannot be": (
        edited('hp.Int("units", 2, 8), activation="relu"),', 'hp.Int("units", 9, 3), activation="relu"),  # here'),
        ("space.py:{here}: hyperparameter 'units'", "9", "3"),
    ),
    # Data that cannot be trained on.
    "no data": (edited("    return (x[:48], y[:48]), (x[48:], y[48:])", ""), ("space.py: load_data returned None",)),
    "no splits": (edited("(x[:48], y[:48]), (x[48:], y[48:])", "x, y"), ("space.py: load_data: train is a ndarray",)),
    "lists": (edited("(x[:48], y[:48]), (x[48:], y[48:])", "[x, y], [x, y]"), ("load_data: train is a list",)),
    "numbers": (edited("(x[:48], y[:48]),", "(x.tolist(), y.tolist()),"), ("train x holds a float", "numpy arrays")),
    "lengths": (edited("(x[:48], y[:48])", "(x[:48], y[:40])"), ("x has 48, y has 40", "the same number")),
    "splits crosswise": (
        edited("(x[:48], y[:48]), (x[48:], y[48:])", "(x, x[:9]), (y, y[:9])"),
        ("x has 64, y has 9",),
    ),
    "no samples": (edited("(x[:48], y[:48])", "(x[:0], y[:0])"), ("load_data: train has no samples",)),
    "text for targets": (edited('.astype("int32")', ".astype(str)"), ("load_data: train y is of dtype <U", "encode")),
    "a generator": (
        edited("(x[:48], y[:48]), (x[48:], y[48:])", "((x, y) for _ in range(3)), None"),
        ("load_data: train is a generator", "return the function that makes it"),
    ),
    "x and y swapped": (
        edited("(x[:48], y[:48]), (x[48:], y[48:])", "(y, x), (y, x)"),
        ("space.py: the model cannot be trained on what load_data returned (x (64,), y (64, 4))", "(None, 4)"),
    ),
    "another width": (
        edited("size=(64, 4)", "size=(64, 5)"),
        ("cannot be trained on what load_data returned (x (48, 5), y (48,))", "received input with shape (32, 5)"),
    ),
    "labels out of range": (
        edited('.astype("int32")', '.astype("int32") + 7'),
        ("cannot be trained on what load_data returned", "outside the valid range of [0, 2)"),
    ),
    # Objectives and options.
    "no validation": (
        edited("(x[48:], y[48:])", "None"),
        ("space.py: objective 'val_accuracy' needs validation data", "(train, validation)", "--objective", "loss"),
    ),
    "objective": (
        TEXT + "\nsearch_options = {'objective': 'val_acuracy'}\n",
        ("space.py: objective 'val_acuracy'", "accuracy, loss, val_accuracy, val_loss", "Did you mean 'val_accuracy'?"),
    ),
    "direction": (
        edited('metrics=["accuracy"]', "metrics=[wobble]")
        + "\ndef wobble(y, p):\n    return keras.ops.mean(p)\n\n\nsearch_options = {'objective': 'val_wobble'}\n",
        ("space.py", "more or less of 'val_wobble'", "--direction max or min"),
    ),
    "option": (
        TEXT + "\nsearch_options = dict(max_epoch=3)\n",
        ("space.py: unknown option 'max_epoch'", "Did you mean 'max_epochs'?"),
    ),
    "option that is no name": (TEXT + "\nsearch_options = {3: 4}\n", ("space.py: unknown option 3",)),
    "option's value": (TEXT + "\nsearch_options = dict(timeout='soon')\n", ("space.py: --timeout is 'soon'", "30m")),
    "option's limit": (TEXT + "\nsearch_options = dict(factor=1)\n", ("space.py: --factor is 1", "at least 2")),
    "option's kind": (TEXT + "\nsearch_options = dict(fuse='no')\n", ("space.py: fuse is 'no'", "True or False")),
    "sampler": (
        TEXT + "\nsearch_options = dict(backend='optuna', sampler='tpee')\n",
        ("space.py: --sampler 'tpee' is not known", "Did you mean 'tpe'?"),
    ),
    "GPU": (TEXT + "\nsearch_options = dict(gpus='77')\n", ("space.py: --gpus 77: there is no GPU",)),
    "Keras's back end": (
        TEXT + "\nsearch_options = dict(\n    keras_backend='tensorflo',  # here\n)\n",
        ("space.py:{here}: --keras-backend 'tensorflo'", "Did you mean 'tensorflow'?"),
    ),
    "folder that is not written out": (
        TEXT + "\nsearch_options = dict(\n    runs=str(3),  # here\n)\n",
        ("space.py:{here}: runs must be known before the file is run",),
    ),
}


@pytest.mark.parametrize(("text", "words"), FILES.values(), ids=FILES)
def test_a_wrong_space_file_is_refused(
    command: Command, workplace: Path, text: str | bytes, words: tuple[str, ...]
) -> None:
    content = text if isinstance(text, bytes) else text.encode()
    (workplace / "space.py").write_bytes(content)
    lines = content.split(b"\n")
    here = next((number for number, line in enumerate(lines, 1) if b"# here" in line), 0)
    line = assert_refused(
        command, "run", "space.py", "--workers", 1, "--no-progress", words=tuple(w.format(here=here) for w in words)
    )
    assert len(line) < 1000
    assert not list(workplace.rglob("journal.jsonl")) + list(workplace.rglob("mlflow.db"))


@pytest.mark.parametrize("text", ["x = 1\nraise ValueError('bad')  # here\n", "x = 1\ny = (  # here\n"])
def test_an_error_in_a_module_beside_the_space_file_is_located(command: Command, workplace: Path, text: str) -> None:
    write(workplace, text, "beside.py")
    write(workplace, "import beside\n" + TEXT)
    assert_refused(command, "run", "space.py", *SHORT, words=("beside.py:2: ",))


def test_the_output_of_a_space_file_goes_to_the_log(command: Command, workplace: Path) -> None:
    write(workplace, "print('noise ' * 9999)\nimport os\nos.system('echo more of it')\n" + RAISES)
    assert_refused(command, "run", "space.py", *SHORT, words=("RuntimeError",))
    log = (workplace / "runs" / "t" / "search.log").read_text()
    assert "noise noise" in log
    assert "more of it" in log
    assert "Traceback" in log


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nosuch.py", ("no such space file: nosuch.py", "Python file")),
        ("spcae.py", ("no such space file: spcae.py", "Did you mean 'space.py'?")),
        ("nowhere/space.py", ("no such space file: nowhere/space.py",)),
        ("space.py/x.py", ("space.py/x.py",)),
        (".", (". is a folder: give the space file in it",)),
    ],
)
def test_a_missing_space_file_is_refused(command: Command, space: Path, path: str, words: tuple[str, ...]) -> None:
    assert_refused(command, "run", path, *SHORT, words=words)
    assert_refused(command, "check", path, words=words)


# Options --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--workers 0", ("--workers is 0", "at least 1")),
        ("--workers many", ("--workers is 'many'", "whole number")),
        ("--seed -1", ("--seed is -1", "at least 0")),
        ("--seed 1.5", ("--seed is '1.5'", "whole number")),
        ("--max-epochs 0", ("--max-epochs is 0", "at least 1")),
        ("--max-trials 0", ("--max-trials is 0", "at least 1")),
        ("--max-total-epochs 0", ("--max-total-epochs is 0", "at least 1")),
        ("--factor 1", ("--factor is 1", "at least 2")),
        ("--iterations 0", ("--iterations is 0", "at least 1")),
        ("--timeout abc", ("--timeout is 'abc'", "30m")),
        ("--timeout 0", ("--timeout is '0'", "more than 0")),
        ("--target nan", ("--target is 'nan'", "give a number")),
        ("--retries -1", ("--retries is -1", "at least 0")),
        ("--keep-models 0", ("--keep-models is 0", "at least 1")),
        ("--checkpoint-every -1", ("--checkpoint-every is '-1'", "at least 0")),
        ("--max-consecutive-failures 0", ("--max-consecutive-failures is 0", "at least 1")),
        ("--gpus 77", ("--gpus 77: there is no GPU '77'", "Give auto, none")),
        ("--gpus-per-trial 0", ("--gpus-per-trial is 0", "more than 0")),
        ("--gpus-per-trial 2 --gpus none", ("--gpus-per-trial 2",)),
        ("--backend hyperbnad", ("--backend 'hyperbnad'", "Did you mean 'hyperband'?")),
        ("--backend optuna --sampler tpee", ("--sampler 'tpee' is not known", "Did you mean 'tpe'?")),
        ("--backend optuna --sampler tpe:foo=1", ("--sampler 'tpe' takes no argument 'foo'", "n_startup_trials")),
        ("--backend optuna --sampler tpe:n_startup_trials=x", ("--sampler tpe:n_startup_trials=x", "TypeError")),
        ("--backend optuna --pruner median:n_warmup_steps=x", ("--pruner 'median:n_warmup_steps=x' cannot be used",)),
        ("--backend optuna --pruner medain", ("--pruner 'medain' is not known", "Did you mean 'median'?")),
        ("--backend optuna --iterations 2", ("--iterations goes with --backend hyperband",)),
        ("--backend hyperband --sampler tpr", ("--sampler 'tpr' is not known", "Did you mean 'tpe'?")),
        ("--backend hyperband --pruner median", ("--pruner goes with --backend optuna",)),
        ("--backend hyperband --disk 20GB", ("--disk goes with --backend asha", "this search uses hyperband")),
        ("--backend optuna --disk 20GB", ("--disk goes with --backend asha", "this search uses optuna")),
        ("--backend freeze-thaw --sampler tpe", ("--sampler goes with --backend hyperband",)),
        ("--backend freeze-thaw --pruner median", ("--pruner goes with --backend optuna",)),
        ("--backend freeze-thaw --iterations 2", ("--iterations goes with --backend hyperband",)),
        ("--backend freeze-thaw:cost=money", ("cost is 'money'", "give seconds or epochs")),
        ("--backend freeze-thaw:pool=3", ("pool is 3", "give a list of configurations")),
        ("--backend freeze-thaw:horizon=3", ("takes no argument 'horizon'", "cost, pool")),
        (
            "--backend freeze-thaw --max-epochs 27 --max-total-epochs 17",
            ("begins with 9 trials of 2 epochs", "give at least 18"),
        ),
        ("--backend freeze-thaw --disk 100B", ("space.py: --disk is 100B, and the checkpoint of one trial takes",)),
        ("--backend asha --disk 20XB", ("--disk is '20XB'", "a size such as 500MB")),
        ("--backend asha --disk 0", ("--disk is '0': it must be more than 0",)),
        ("--backend asha --disk 100B", ("space.py: --disk is 100B, and the checkpoint of one trial takes",)),
        ("--backend ahsa", ("--backend 'ahsa'", "Did you mean 'asha'?")),
        ("--backend asha --pruner median", ("--pruner goes with --backend optuna",)),
        ("--backend asha --iterations 2", ("--iterations goes with --backend hyperband",)),
        ("--backend asha --sampler tpr", ("--sampler 'tpr' is not known", "Did you mean 'tpe'?")),
        ("--backend asha:factor=4", ("--backend 'asha'", "give --factor")),
        ("--backend asha:grace_period=2", ("--backend 'asha' takes no argument",)),
        ("--executor locl", ("--executor 'locl'", "Did you mean 'local'?")),
        ("--direction up", ("--direction 'up'", "min, max")),
        ("--require test_accuracy>.9", ("--require test_accuracy>.9: 'test_accuracy' is not among",)),
        ("--objective val_acuracy", ("objective 'val_acuracy' is not among", "Did you mean 'val_accuracy'?")),
        ("--keras-backend tensorflo", ("--keras-backend 'tensorflo'", "Did you mean 'tensorflow'?")),
        ("--study a/b", ("study name 'a/b' cannot be used", "--study")),
        ("--study ../t", ("study name '../t' cannot be used",)),
        ("--study mlflow.db", ("study name 'mlflow.db' is a file name of the local MLflow store", "--study")),
        ("--study MLArtifacts", ("study name 'MLArtifacts' is a file name of the local MLflow store",)),
        ("--tracking-uri sqlite://mlflow.db", ("tracking address 'sqlite://mlflow.db'", "give sqlite:///mlflow.db")),
        ("--tracking-uri http://me:x@[::1", ("tracking address 'http://***@[::1'", "--tracking-uri")),
        ("--runs space.py/runs", ("space.py/runs/t cannot be written (Not a directory)", "--runs")),
        ("--runs space.py/runs --overwrite", ("space.py/runs/t cannot be written",)),
        ("--tracking-uri ftp://there", ("tracking address 'ftp://there'", "sqlite:///PATH")),
        ("--tracking-uri ./mlruns", ("tracking address './mlruns' is a folder", "sqlite:///")),
        ("--resume --overwrite", ("--resume and --overwrite exclude each other",)),
        ("--max-epoch 3", ("No such option: --max-epoch", "--max-epochs", "search run --help")),
        ("--max-epochs", ("--max-epochs", "requires an argument", "--help")),
        ("more", ("unexpected extra argument", "more", "search run --help")),
    ],
)
def test_a_wrong_option_is_refused(command: Command, space: Path, arguments: str, words: tuple[str, ...]) -> None:
    assert_refused(command, "run", "space.py", *SHORT, *arguments.split(), words=words)


def test_a_file_name_that_cannot_name_a_study_is_refused(command: Command, workplace: Path) -> None:
    write(workplace, TEXT, "my space.py")
    assert_refused(command, "run", "my space.py", words=("study name 'my space'", "give --study"))


def test_a_missing_keras_back_end_is_refused(command: Command, space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert_refused(
        command, "run", "space.py", *SHORT, "--keras-backend", "jax", words=("jax is not installed", "pip install")
    )
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    assert_refused(
        command, "run", "space.py", *SHORT, words=("KERAS_BACKEND=torch: torch is not installed", "pip install")
    )
    monkeypatch.setenv("KERAS_BACKEND", "openvino")
    assert_refused(
        command, "run", "space.py", *SHORT, words=("KERAS_BACKEND=openvino: a search trains with tensorflow, jax",)
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("run", ("Missing argument 'SPACE.py'", "search run --help")),
        ("rnu space.py", ("No such command 'rnu'", "Did you mean 'run'?")),
        ("trials", ("there is no study in", "search run SPACE.py")),
        ("trials nosuch", ("no study 'nosuch'", "--runs")),
        ("best nosuch", ("no study 'nosuch'", "--runs")),
        ("show nosuch 0", ("no study 'nosuch'", "--runs")),
        ("status nosuch", ("no study 'nosuch'", "--runs")),
        ("status", ("there is no study in", "search run SPACE.py")),
        ("resume nosuch", ("no study 'nosuch'", "--runs")),
        ("sync nosuch", ("no study 'nosuch'", "--runs")),
        ("export nosuch --to model.keras", ("no study 'nosuch'", "--runs")),
        ("trials a/b", ("study name 'a/b' cannot be used",)),
        ("check", ("Missing argument 'SPACE.py'", "search check --help")),
        ("devices --gpus 77", ("--gpus 77: there is no GPU '77'",)),
        ("devices --workers 0", ("--workers is 0",)),
        ("--versio", ("No such option: --versio", "--version")),
    ],
)
def test_a_wrong_command_is_refused(command: Command, workplace: Path, arguments: str, words: tuple[str, ...]) -> None:
    assert_refused(command, *arguments.split(), words=words)


@pytest.mark.parametrize("name", ["syntax", "no hp", "not compiled", "load_data raises", "no validation", "sampler"])
def test_check_refuses_with_the_words_of_run(command: Command, workplace: Path, name: str) -> None:
    text, words = FILES[name]
    write(workplace, str(text))
    here = next((number for number, line in enumerate(str(text).split("\n"), 1) if "# here" in line), 0)
    assert_refused(command, "check", "space.py", words=tuple(word.format(here=here) for word in words))
    assert not (workplace / "runs").exists()


SOMETIMES = """
    from keras_tuner.errors import FailedTrialError
    if hp.Boolean("rejected"):
        raise FailedTrialError("not these")
    if hp.Choice("kind", ["fine", "wrong"]) == "wrong":
        raise KeyError("no such kind")  # here
    return model
"""


def test_check_names_the_values_of_a_build_that_fails_in_some_trials(command: Command, workplace: Path) -> None:
    text = TEXT.replace("\n    return model\n", SOMETIMES)
    here = next(number for number, line in enumerate(text.split("\n"), 1) if "# here" in line)
    write(workplace, text)
    words = ("rejected=False", "kind='wrong'", f"space.py:{here}: KeyError: 'no such kind'", "change the domains")
    assert_refused(command, "check", "space.py", words=words)
    write(workplace, text.replace("raise KeyError", "raise FailedTrialError"))
    assert command("check", "space.py").code == 0


# Studies --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("run space.py --study t", ("study 't' exists", "--resume", "--overwrite", "--study")),
        ("trials tt", ("no study 'tt'", "Did you mean 't'?")),
        ("trials t --json --csv", ("--json and --csv",)),
        ("show t 99", ("study 't' has no trial 99",)),
        ("show t first", ("study 't' has no trial first", "it has 1, numbered from 0")),
        ("best t -n 0", ("-n", "search best --help")),
        ("export t --to model.pdf", ("--to model.pdf", ".keras")),
        ("export t --to nowhere/model.keras", ("--to nowhere/model.keras: there is no folder",)),
        ("export t --to model.keras --rank 9", ("--rank 9", "1 trial")),
        ("export t", ("--to PATH", "--optuna URL")),
        ("export t --to model.keras --optuna sqlite:///x.db", ("one of --to PATH", "--optuna URL")),
        ("export t --optuna sqlite:///x.db --rank 2", ("--optuna writes the whole study",)),
        ("export t --optuna x.db", ("'x.db' is no address", "sqlite:///x.db")),
        ("resume t --max-epochs 0", ("--max-epochs is 0",)),
        ("resume t --objective val_loss", ("compares val_accuracy (max)", "--study")),
        ("resume t --seed 7", ("has the seed", "--study")),
        ("resume t --pruner median", ("--pruner goes with --backend optuna",)),
    ],
)
def test_a_wrong_request_for_a_study_is_refused(
    command: Command, searched: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(searched)
    assert_refused(command, *arguments.split(), words=words)


def test_a_study_that_another_process_runs_is_refused(command: Command, study: Path) -> None:
    lock = Lock(StudyPaths(study).lock)
    try:
        words = ("study 't' is being run by process", str(os.getpid()), "stop")
        assert_refused(command, "resume", "t", "--no-progress", words=words)
        assert_refused(command, "run", "space.py", "--study", "t", "--resume", words=words)
        assert_refused(command, "run", "space.py", "--study", "t", "--overwrite", words=words)
    finally:
        lock.release()


def test_a_changed_space_file_is_refused_until_accepted(command: Command, study: Path, space: Path) -> None:
    again = ("--workers", 1, "--no-progress")
    space.write_text(edited('"units", 2, 8', '"units", 2, 16').replace('"relu"', 'hp.Choice("act", ["relu", "tanh"])'))
    words = ("space.py has changed since study 't' began", "act is new", "units was Int(2..8) and is Int(2..16)")
    assert_refused(command, "resume", "t", *again, words=(*words, "--accept-changes", "--overwrite", "--study"))
    assert_refused(command, "run", "space.py", "--study", "t", "--resume", *again, words=words)
    assert command("resume", "t", "--accept-changes", *again).code == 0
    assert command("resume", "t", *again).code == 0
    space.write_text(space.read_text() + "# a remark\n")
    assert_refused(command, "resume", "t", *again, words=("its parameters are the same, its code", "--accept-changes"))
    space.write_text(edited('hp.Int("units", 2, 8)', "3"))
    assert_refused(command, "resume", "t", *again, words=("units is gone", "act is gone"))


def test_damaged_journals_are_refused(command: Command, study: Path) -> None:
    journal = StudyPaths(study).journal
    lines = journal.read_bytes().splitlines(keepends=True)
    for order in ([*lines[:3], *lines[4:]], [*lines[:3], lines[4], lines[3], *lines[5:]]):
        journal.write_bytes(b"".join(order))
        for name in ("trials", "status", "resume"):
            assert_refused(command, name, "t", words=("journal.jsonl, line 4 is damaged", "`search repair t`"))
    journal.write_text("rubbish\nrubbish\n")
    for name in ("trials", "status", "resume"):
        assert_refused(command, name, "t", words=("journal.jsonl, line 1 is damaged",))
    journal.write_text("")
    assert_refused(command, "resume", "t", words=("study 't' has not begun", "search run"))
    assert_refused(command, "trials", "t", words=("journal.jsonl is empty", "delete its folder"))
