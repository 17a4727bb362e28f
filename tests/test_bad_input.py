"""Wrong input: exit code 2, one line that says what, where and what to do, and nothing written but a log."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from places import TINY

from search import cli
from search.driver import launch
from search.study.lock import Lock
from search.study.paths import StudyPaths

TEXT = TINY.read_text()
SHORT = ("--study", "t", "--max-epochs", "1", "--max-trials", "1", "--workers", "1", "--no-progress")


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def search(workplace: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in the workplace."""

    def run(*arguments: object) -> Said:
        capfd.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        return Said(code, *capfd.readouterr())

    return run


@pytest.fixture
def space(workplace: Path) -> Path:
    """A space file that can be searched."""
    return write(workplace, TEXT)


@pytest.fixture
def study(search: Run, space: Path) -> Path:
    """A finished study, `t`, of that space file."""
    assert search("run", space, *SHORT).code == 0
    return space.parent / "runs" / "t"


@pytest.fixture(scope="module")
def searched(zygote: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished study, `t`, for what is refused before anything is changed."""
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
    """The tiny space with one thing wrong."""
    assert TEXT.count(old) == 1
    return TEXT.replace(old, new)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but logs and caches."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.suffix != ".log"}


def refused(search: Run, *arguments: object, words: tuple[str, ...]) -> str:
    """Run a command that must be refused. Returns its line."""
    before = contents(Path.cwd())
    said = search(*arguments)
    assert said.code == 2
    assert said.out == ""
    assert said.err.endswith("\n")
    line = said.err.removesuffix("\n")
    assert "\n" not in line
    assert line.startswith("search: ")
    for word in words:
        assert word in line
    for ugly in ("Traceback", "╭", "\x1b", "{{"):
        assert ugly not in line
    assert contents(Path.cwd()) == before
    return line


# The space file -------------------------------------------------------------------------------------------------------

IGNORE = "\n\ndef ignore(*_, **__): ...\n"
LONG = '"a first line\\n  a second\\n" + "and on " * 500'
RAISES = f"raise RuntimeError({LONG})  # here"

FILES = {
    # What Python cannot read.
    "syntax": (TEXT + "\ndef broken(:  # here\n", ("space.py:{here}: invalid syntax", "correct")),
    "null bytes": (TEXT + "\0", ("space.py is not a Python file", "null bytes")),
    "binary": (b"\x7fELF\xff\xfe\x00\x01", ("space.py",)),
    "empty": ("", ("space.py: there is no build_model", "add a function build_model")),
    # What raises as it is imported.
    "import error": ("import no_such_module  # here\n" + TEXT, ("space.py:{here}: ModuleNotFoundError", "no_such_mod")),
    "name error": (TEXT + "\nmissing  # here\n", ("space.py:{here}: NameError: name 'missing'", "search.log")),
    "exit": ("import sys\n\nsys.exit(3)  # here\n", ("space.py:{here}: sys.exit(3) was called",)),
    "exit quietly": ("import sys\n\nsys.exit()  # here\n", ("space.py:{here}: sys.exit() was called",)),
    "process ended": ("import os\n\nos._exit(3)\n", ("ended its process", "exit code 3", "search.log")),
    "process killed": ("import os\n\nos.kill(os.getpid(), 11)\n", ("ended its process", "SIGSEGV", "search.log")),
    # What is not there, or cannot be called.
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
    # What returns something else.
    "no model": (edited("    return model\n", ""), ("space.py: build_model returned None", "return a keras.Model")),
    "text": (edited("return model", "return 'model'"), ("space.py: build_model returned a str",)),
    "asks for nothing": (
        edited('hp.Int("units", 2, 8)', "3").replace('hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")', "0.1"),
        ("space.py: build_model asks hp for nothing", "hp.Int"),
    ),
    "asks for what is fixed": (
        edited('hp.Int("units", 2, 8)', 'hp.Fixed("units", 3)').replace(
            'hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")', "0.1"
        ),
        ("space.py: build_model asks hp for nothing",),
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
    # What raises when it is called.
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
def test_space_file(search: Run, workplace: Path, text: str | bytes, words: tuple[str, ...]) -> None:
    content = text if isinstance(text, bytes) else text.encode()
    (workplace / "space.py").write_bytes(content)
    lines = content.split(b"\n")
    here = next((number for number, line in enumerate(lines, 1) if b"# here" in line), 0)
    line = refused(
        search, "run", "space.py", "--workers", 1, "--no-progress", words=tuple(w.format(here=here) for w in words)
    )
    assert len(line) < 1000
    assert not list(workplace.rglob("journal.jsonl")) + list(workplace.rglob("mlflow.db"))


@pytest.mark.parametrize("text", ["x = 1\nraise ValueError('bad')  # here\n", "x = 1\ny = (  # here\n"])
def test_a_module_beside_the_space_file(search: Run, workplace: Path, text: str) -> None:
    write(workplace, text, "beside.py")
    write(workplace, "import beside\n" + TEXT)
    refused(search, "run", "space.py", *SHORT, words=("beside.py:2: ",))


def test_what_a_file_prints_goes_to_the_log(search: Run, workplace: Path) -> None:
    write(workplace, "print('noise ' * 9999)\nimport os\nos.system('echo more of it')\n" + RAISES)
    refused(search, "run", "space.py", *SHORT, words=("RuntimeError",))
    log = (workplace / "runs" / "t" / "search.log").read_text()
    assert "noise noise" in log
    assert "more of it" in log
    assert "Traceback" in log


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nosuch.py", ("no such space file: nosuch.py", "Python file")),
        ("spcae.py", ("no such space file: spcae.py", "Did you mean 'space'?")),
        ("nowhere/space.py", ("no such space file: nowhere/space.py",)),
        ("space.py/x.py", ("space.py/x.py",)),
        (".", (". is a folder: give the space file in it",)),
    ],
)
def test_no_space_file(search: Run, space: Path, path: str, words: tuple[str, ...]) -> None:
    refused(search, "run", path, *SHORT, words=words)
    refused(search, "check", path, words=words)


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
        ("--checkpoint-every -1", ("--checkpoint-every is -1", "at least 0")),
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
        ("--executor locl", ("--executor 'locl'", "Did you mean 'local'?")),
        ("--direction up", ("--direction 'up'", "min, max")),
        ("--objective val_acuracy", ("objective 'val_acuracy' is not among", "Did you mean 'val_accuracy'?")),
        ("--keras-backend tensorflo", ("--keras-backend 'tensorflo'", "Did you mean 'tensorflow'?")),
        ("--study a/b", ("study name 'a/b' cannot be used", "--study")),
        ("--study ../t", ("study name '../t' cannot be used",)),
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
def test_option(search: Run, space: Path, arguments: str, words: tuple[str, ...]) -> None:
    refused(search, "run", "space.py", *SHORT, *arguments.split(), words=words)


def test_a_name_that_no_folder_may_have(search: Run, workplace: Path) -> None:
    write(workplace, TEXT, "my space.py")
    refused(search, "run", "my space.py", words=("study name 'my space'", "give --study"))


def test_keras_backend_that_is_not_installed(search: Run, space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused(search, "run", "space.py", *SHORT, "--keras-backend", "jax", words=("jax is not installed", "pip install"))
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    refused(search, "run", "space.py", *SHORT, words=("KERAS_BACKEND=torch: torch is not installed", "pip install"))
    monkeypatch.setenv("KERAS_BACKEND", "openvino")
    refused(search, "run", "space.py", *SHORT, words=("KERAS_BACKEND=openvino: a search trains with tensorflow, jax",))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("run", ("Missing argument 'SPACE.py'", "search run --help")),
        ("rnu space.py", ("No such command 'rnu'", "Did you mean 'run'?")),
        ("trials", ("Missing argument 'STUDY'", "search trials --help")),
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
def test_command(search: Run, workplace: Path, arguments: str, words: tuple[str, ...]) -> None:
    refused(search, *arguments.split(), words=words)


@pytest.mark.parametrize("name", ["syntax", "no hp", "not compiled", "load_data raises", "no validation", "sampler"])
def test_check_says_what_run_says(search: Run, workplace: Path, name: str) -> None:
    text, words = FILES[name]
    write(workplace, str(text))
    here = next((number for number, line in enumerate(str(text).split("\n"), 1) if "# here" in line), 0)
    refused(search, "check", "space.py", words=tuple(word.format(here=here) for word in words))
    assert not (workplace / "runs").exists()


# Studies --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("run space.py --study t", ("study 't' exists", "--resume", "--overwrite", "--study")),
        ("trials tt", ("no study 'tt'", "Did you mean 't'?")),
        ("trials t --json --csv", ("--json and --csv",)),
        ("show t 99", ("study 't' has no trial 99",)),
        ("show t first", ("TRIAL", "search show --help")),
        ("best t -n 0", ("-n", "search best --help")),
        ("export t --to model.pdf", ("--to model.pdf", ".keras")),
        ("export t --to nowhere/model.keras", ("--to nowhere/model.keras: there is no folder",)),
        ("export t --to model.keras --rank 9", ("--rank 9", "1 trial")),
        ("resume t --max-epochs 0", ("--max-epochs is 0",)),
        ("resume t --objective val_loss", ("compares val_accuracy (max)", "--study")),
        ("resume t --seed 7", ("has the seed", "--study")),
        ("resume t --pruner median", ("--pruner goes with --backend optuna",)),
    ],
)
def test_study(
    search: Run, searched: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(searched)
    refused(search, *arguments.split(), words=words)


def test_a_study_that_another_process_runs(search: Run, study: Path) -> None:
    lock = Lock(StudyPaths(study).lock)
    try:
        words = ("study 't' is being run by process", str(os.getpid()), "stop")
        refused(search, "resume", "t", "--no-progress", words=words)
        refused(search, "run", "space.py", "--study", "t", "--resume", words=words)
        refused(search, "run", "space.py", "--study", "t", "--overwrite", words=words)
    finally:
        lock.release()


def test_a_space_file_that_has_changed(search: Run, study: Path, space: Path) -> None:
    again = ("--workers", 1, "--no-progress")
    space.write_text(edited('"units", 2, 8', '"units", 2, 16').replace('"relu"', 'hp.Choice("act", ["relu", "tanh"])'))
    words = ("space.py has changed since study 't' began", "act is new", "units was Int(2..8) and is Int(2..16)")
    refused(search, "resume", "t", *again, words=(*words, "--accept-changes", "--overwrite", "--study"))
    refused(search, "run", "space.py", "--study", "t", "--resume", *again, words=words)
    assert search("resume", "t", "--accept-changes", *again).code == 0
    assert search("resume", "t", *again).code == 0
    space.write_text(space.read_text() + "# a remark\n")
    refused(search, "resume", "t", *again, words=("its parameters are the same, its code", "--accept-changes"))
    space.write_text(edited('hp.Int("units", 2, 8)', "3"))
    refused(search, "resume", "t", *again, words=("units is gone", "act is gone"))


def test_journals_that_cannot_be_read(search: Run, study: Path) -> None:
    journal = StudyPaths(study).journal
    lines = journal.read_bytes().splitlines(keepends=True)
    for order in ([*lines[:3], *lines[4:]], [*lines[:3], lines[4], lines[3], *lines[5:]]):
        journal.write_bytes(b"".join(order))
        for command in ("trials", "status", "resume"):
            refused(search, command, "t", words=("journal.jsonl, line 4 is damaged", "head -n 3"))
    journal.write_text("rubbish\nrubbish\n")
    for command in ("trials", "status", "resume"):
        refused(search, command, "t", words=("journal.jsonl, line 1 is damaged",))
    journal.write_text("")
    refused(search, "resume", "t", words=("study 't' has not begun", "search run"))
    refused(search, "trials", "t", words=("journal.jsonl is empty", "delete its folder"))


# Tracking servers -----------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[type[http.server.BaseHTTPRequestHandler]]:
    """A server that answers everything with `status`, at `address`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        status = 401
        address = ""

        def do_GET(self) -> None:
            self.send_response(self.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        Handler.address = f"127.0.0.1:{running.server_port}"
        yield Handler
        running.shutdown()


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_refuses(search: Run, space: Path, server: type, status: int) -> None:
    server.status = status
    address = f"http://me:secret@{server.address}"
    words = (f"http://***@{server.address} refuses these credentials ({status})", "MLFLOW_TRACKING_TOKEN")
    line = refused(search, "run", "space.py", *SHORT, "--tracking-uri", address, words=words)
    assert "secret" not in line


def test_a_server_named_by_the_environment_or_the_file(
    search: Run, workplace: Path, server: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(workplace, TEXT)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{server.address}")
    refused(search, "run", "space.py", *SHORT, words=("refuses these credentials (401)",))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    write(workplace, TEXT + f"\nsearch_options = dict(tracking_uri='http://{server.address}')\n")
    refused(search, "run", "space.py", *SHORT, words=("refuses these credentials (401)",))


def test_what_answers_is_not_mlflow(search: Run, space: Path, server: type) -> None:
    server.status = 404
    address = f"http://{server.address}"
    refused(search, "run", "space.py", *SHORT, "--tracking-uri", address, words=("no MLflow tracking server at", "404"))


def test_a_server_out_of_reach_is_a_warning(
    search: Run, space: Path, server: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "SYNC_SECONDS", 0.5)
    server.status = 503
    said = search("run", "space.py", *SHORT, "--tracking-uri", f"http://me:secret@{server.address}")
    assert said.code == 0
    assert said.err.count("is out of reach") == 1
    assert "search sync t" in said.err
    runs = space.parent / "runs"
    assert not (runs / "mlflow.db").exists()
    # Passwords are never written down.
    assert "secret" not in said.err
    assert not any(b"secret" in content for content in contents(runs).values())
    assert search("sync", "t", "--tracking-uri", "sqlite:///later.db").code == 0
    assert (space.parent / "later.db").exists()
