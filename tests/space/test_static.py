"""Tests of the faults that are seen in a space file without running it."""

from __future__ import annotations

from pathlib import Path

import pytest

from search import options
from search.driver.source import Source
from search.errors import OptionError, SearchError, SpaceError
from search.space.file import SpaceRef, describe_error, parse_file, read_space
from search.space.static import literal_options, static_module

PLAIN = "def build_model(hp): ...\n\n\ndef load_data(): ...\n"

FAULTS = {
    "empty": "",
    "no build_model": PLAIN.replace("build_model", "build_modle"),
    "no load_data": PLAIN.replace("load_data", "laod_data"),
    "a constant": "build_model = 3\n" + PLAIN.partition("\n\n")[2],
    "no hp": PLAIN.replace("(hp)", "()"),
    "two arguments": PLAIN.replace("(hp)", "(hp, model)"),
    "a keyword": PLAIN.replace("(hp)", "(hp, *, model)"),
    "load_data's arguments": PLAIN.replace("load_data()", "load_data(path)"),
    "compile_model": PLAIN + "\n\ndef compile_model(hp): ...\n",
    "a lambda": PLAIN + "\n\nfit_options = lambda: {}\n",
    "a dict": PLAIN + "\n\nfit_options = {'batch_size': 3}\n",
    "fit": PLAIN + "\n\ndef fit(hp, model, train): ...\n",
    "options": PLAIN + "\n\nsearch_options = ['max_epochs']\n",
}

NO_FAULTS = {
    "plain": PLAIN,
    "defaults": PLAIN.replace("(hp)", "(hp, size=3, *more, key=None, **rest)"),
    "positional": PLAIN.replace("(hp)", "(hp, /)"),
    "callbacks with a model": PLAIN + "\n\ndef callbacks(hp, model): ...\n",
    "none": PLAIN + "\n\nfit_options = None\nhypermodel = None\n",
    "in a block": "if True:\n    def build_model(hp): ...\n\n\ndef load_data(): ...\n",
    "a loop": PLAIN + "\n\nfor fit_options in [lambda hp: {}]:\n    pass\n",
    "twice": "build_model = None\n" + PLAIN,
    "decorated": "import functools\n\n\n@functools.partial(functools.partial)\ndef build_model(hp): ...\n" + PLAIN,
    "imported": "from functools import partial as build_model\n\n\ndef load_data(): ...\n",
    "star": "from os.path import *\n\nbuild_model = basename\n\n\ndef load_data(): ...\n",
    "exec": "exec('def build_model(hp): ...')\n\n\ndef load_data(): ...\n",
    "globals": "globals()['build_model'] = lambda hp: None\n\n\ndef load_data(): ...\n",
    "global": "def make():\n    global build_model\n    build_model = print\n\n\nmake()\n\n\ndef load_data(): ...\n",
    "getattr": "def __getattr__(name):\n    return {'build_model': print}.get(name)\n\n\ndef load_data(): ...\n",
    "options computed": PLAIN + "\n\nn = 3\nsearch_options = {'max_epochs': n, **{'seed': 1}}\n",
}


def run_fault(file: Path) -> str | None:
    """Return the message of the file's fault when it is run."""
    try:
        read_space(SpaceRef(path=str(file)))
    except SearchError as error:
        return describe_error(error, file, elsewhere=str(file))
    return None


def static_fault(file: Path) -> str | None:
    """Return the message of the file's fault that is seen without running it."""
    try:
        Source(path=file).check_written(())
    except SpaceError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", [*FAULTS, *NO_FAULTS])
def test_a_fault_has_the_message_of_a_file_that_was_run(tmp_path: Path, name: str) -> None:
    file = tmp_path / "space.py"
    file.write_text((FAULTS | NO_FAULTS)[name])
    assert static_fault(file) == run_fault(file)
    assert (static_fault(file) is not None) == (name in FAULTS)


@pytest.mark.parametrize(
    ("written", "literal"),
    [
        ("search_options = dict(max_epochs=3, target=-1)", {"max_epochs": 3, "target": -1}),
        ("search_options: dict = {'max_epochs': 3}", {"max_epochs": 3}),
        ("search_options = {**other, 'max_epochs': 3}", {}),
        ("search_options = dict(other, max_epochs=3)", {}),
        ("search_options = {'max_epochs': 3}\nsearch_options['seed'] = 1", {}),
        ("search_options = {'max_epochs': 3}\nsearch_options = {}", {}),
        ("if True:\n    search_options = {'max_epochs': 3}", {}),
        ("search_options = {1: 3}", {}),
        ("search_options = make()", {}),
    ],
)
def test_only_options_that_are_certain_are_read(tmp_path: Path, written: str, literal: dict[str, object]) -> None:
    (tmp_path / "space.py").write_text(written)
    assert literal_options(parse_file(tmp_path / "space.py")) == literal


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_epoch": 3},
        {"max_epochs": "many"},
        {"max_epochs": 0},
        {"direction": "up"},
        {"backend": "hyperbnd"},
        {"timeout": "soon"},
        {"fuse": 1},
    ],
)
def test_a_wrong_option_has_the_message_of_a_file_that_was_run(tmp_path: Path, wrong: dict[str, object]) -> None:
    file = tmp_path / "space.py"
    file.write_text(f"{PLAIN}\n\nsearch_options = {wrong!r}\n")
    with pytest.raises(OptionError) as run:
        options.resolve_options({}, wrong, where=str(file))
    with pytest.raises(OptionError) as written:
        Source(path=file).check_written(())
    assert str(written.value) == str(run.value)
    (name,) = wrong
    if name in options.FIELDS:
        Source(path=file).check_written({name})  # the user's value is used


def test_a_value_that_is_computed_is_not_refused(tmp_path: Path) -> None:
    file = tmp_path / "space.py"
    file.write_text(f"{PLAIN}\n\nmany = 3\nsearch_options = dict(max_epochs=many, backend='module:Class')\n")
    Source(path=file).check_written(())


def test_no_space_file_of_ours_is_refused() -> None:
    root = Path(__file__).parents[2]
    files = [*(root / "spaces").glob("*.py"), *(root / "tests" / "spaces").glob("*.py")]
    assert len(files) > 10
    for file in files:
        Source(path=file).check_written(())
        assert static_module(parse_file(file)) is not None
