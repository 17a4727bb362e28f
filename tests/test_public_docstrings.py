"""Docstrings of the public names: each has a summary, its arguments, its result and its errors; examples run."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import functools
import inspect
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import search
from search import errors, messages, options, plugins, testing
from search.compat import keras_tuner as compat
from search.study import records, trial, trials
from tests.places import ROOT, TINY

MODULES: dict[str, ModuleType] = {"search": search, "search.plugins": plugins, "search.testing": testing}
"""The modules whose `__all__` lists public names. Each of their functions and classes has an example."""

GROUPS_OF_A_TRIAL = (trials.Best, trials.End, trials.Execution, trials.Progress, trials.Resources, trials.Values)
FURTHER: dict[str, type] = {
    "search.errors": errors.SearchError,
    **{f"search.errors.{name}": getattr(errors, name) for name in errors.__all__ if name[0].isupper() and "_" not in name},
    **{f"search.study.trials.{each.__name__}": each for each in GROUPS_OF_A_TRIAL},
    "search.study.trial.Parent": trial.Parent,
    "search.tuners.Tuner": compat.Tuner,
}
FURTHER = {name: each for name, each in FURTHER.items() if isinstance(each, type)}
"""Classes that public names give or raise. They need no example."""

DATA = [
    *(each for each in vars(messages).values() if isinstance(each, type) and each.__module__ == messages.__name__),
    *(each for each in vars(records).values() if isinstance(each, type) and each.__module__ == records.__name__),
]
"""The messages and the records."""

COMMON = {
    "attempt": "the number of times that the trial was started before",
    "backend": "the back end's name",
    "epoch": "an epoch of the trial, from 1",
    "execution": "the number of the execution, from 0",
    "options": "options by name",
    "slot": "the number of the worker's slot, from 0",
    "trial": "the trial's number, from 0",
}
"""Fields of messages and records that mean the same everywhere, as the reference says once."""

FORBIDDEN = {"how", "it", "that", "they", "those", "what", "where", "whether"}
"""Words that no docstring opens with."""

SECTIONS = ("Args", "Attributes", "Example", "Raises", "Returns", "Yields")


def _is_ours(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).partition(".")[0] == "search"


@functools.cache
def public_objects() -> dict[str, Any]:
    """Return the public functions and classes by name. KerasTuner's own classes are documented there."""
    found = {
        f"{name}.{each}": getattr(module, each)
        for name, module in MODULES.items()
        for each in module.__all__
        if not each.startswith("_")
    }
    return {name: each for name, each in found.items() if _is_ours(each) and callable(each)} | FURTHER


def members(name: str, owner: type) -> Iterator[tuple[str, Any]]:
    """Yield the public methods and properties of a class, except tests and fixtures of a kit."""
    seen: set[str] = set()
    for base in owner.__mro__:
        if not _is_ours(base) or issubclass(base, tuple) and base is not owner:
            continue
        for attribute, value in vars(base).items():
            plain = inspect.unwrap(getattr(value, "__func__", value))
            wanted = isinstance(value, property | functools.cached_property) or inspect.isfunction(plain)
            if attribute.startswith(("_", "test_")) or attribute in seen or not wanted:
                continue
            seen.add(attribute)
            yield f"{name}.{attribute}", getattr(owner, attribute) if not isinstance(value, property) else value


@functools.cache
def documented() -> dict[str, Any]:
    """Return all that must have a docstring, by name."""
    found = dict(public_objects())
    for name, each in public_objects().items():
        if isinstance(each, type):
            found.update(members(name, each))
    found.update((f"{each.__module__}.{each.__name__}", each) for each in DATA)
    return found


def sections(text: str) -> dict[str, str]:
    """Return the sections of a docstring by name; the text before the first is the section ""."""
    parts = re.split(rf"^({'|'.join(SECTIONS)}):$", text, flags=re.MULTILINE)
    return {"": parts[0], **{name: textwrap.dedent(body) for name, body in zip(parts[1::2], parts[2::2], strict=True)}}


def entries(section: str) -> set[str]:
    """Return the names that a section of arguments, attributes or errors explains."""
    found = re.findall(r"^(\*{0,2}\w[\w.]*(?:, \*{0,2}\w[\w.]*)*):(?:\s|$)", section, re.MULTILINE)
    return {name.strip().lstrip("*") for group in found for name in group.split(",")}


def arguments(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def doc(value: Any) -> str:
    return inspect.getdoc(value) or ""


NAMES = sorted(documented())


@pytest.mark.parametrize("name", NAMES)
def test_each_public_name_has_a_summary(name: str) -> None:
    summary = doc(documented()[name]).partition("\n\n")[0]
    assert summary, f"{name} has no docstring"
    assert summary.rstrip().endswith((".", ":")), f"the summary of {name} is no sentence"
    assert "\n" not in summary, f"the summary of {name} is longer than a line"
    assert summary.split()[0].lower().strip("`,") not in FORBIDDEN, f"{name} opens with {summary.split()[0]!r}"


FUNCTIONS = [name for name in NAMES if inspect.isroutine(documented()[name])]
CLASSES = [name for name in NAMES if isinstance(documented()[name], type)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_argument_of_a_function_is_documented(name: str) -> None:
    """A method of one line may name its arguments in that line."""
    function = documented()[name]
    parts = sections(doc(function))
    explained = entries(parts.get("Args", ""))
    if name not in public_objects():
        explained |= set(re.findall(r"`(\w+)`", parts[""]))
    assert set(arguments(function)) - explained == set(), name
    assert explained & entries(parts.get("Args", "")) - set(arguments(function)) == set(), name


@pytest.mark.parametrize("name", CLASSES)
def test_each_argument_and_field_of_a_class_is_documented(name: str) -> None:
    owner = documented()[name]
    parts = sections(doc(owner))
    explained = entries(parts.get("Args", "")) | entries(parts.get("Attributes", ""))
    explained |= set(re.findall(r"`(\w+)`", parts[""]))
    if dataclasses.is_dataclass(owner):
        needed = {field.name for field in dataclasses.fields(owner) if not field.name.startswith("_")}
    elif issubclass(owner, tuple):
        needed = set(owner._fields)  # type: ignore[attr-defined]
    else:
        own = owner.__init__ if _is_ours(owner.__init__) else None
        needed = set(arguments(own)) if own is not None and not getattr(owner, "_is_protocol", False) else set()
    known = set(COMMON) if owner in DATA else set()
    assert needed - explained - known == set(), name


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_result_is_documented(name: str) -> None:
    """The summary of a short function may say it: "Return …"."""
    function = documented()[name]
    text = doc(function)
    returned = inspect.signature(function).return_annotation
    if returned in (None, "None", inspect.Signature.empty):
        return
    says = text.startswith(("Return ", "Yield ")) or "Return" in sections(text)[""] or "Returns" in sections(text)
    assert says, f"{name} returns {returned}"


@functools.cache
def _errors_raised(function: Callable[..., Any]) -> frozenset[str]:
    """Return our errors that the code of a function names in a `raise`."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    called = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    named = {call.func.id for call in called if isinstance(call.func, ast.Name)}
    return frozenset(each for each in named if issubclass(getattr(errors, each, object), errors.SearchError))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_error_that_a_function_raises_is_documented(name: str) -> None:
    function = documented()[name]
    listed = entries(sections(doc(function)).get("Raises", ""))
    for raised in _errors_raised(function):
        bases = {base.__name__ for base in getattr(errors, raised).__mro__}
        assert bases & listed, f"{name} raises {raised}"


@pytest.mark.parametrize("name", NAMES)
def test_each_error_that_a_docstring_names_exists(name: str) -> None:
    known = {*dir(errors), *dir(__builtins__), *__builtins__}  # type: ignore[misc]
    assert entries(sections(doc(documented()[name])).get("Raises", "")) - known == set()


# Examples -------------------------------------------------------------------------------------------------------------


def with_examples() -> list[str]:
    """Return the public names that need an example, or have one."""
    return [name for name in NAMES if name in EXAMPLES or "Example" in sections(doc(documented()[name]))]


EXAMPLES = {name for name in public_objects() if name not in FURTHER}


def code_of(example: str) -> list[str]:
    """Return the code blocks of an example: those after a line that ends in `::`."""
    found = re.findall(r"::\n\n((?:(?: {4}.*)?\n?)+)", example + "\n")
    return [textwrap.dedent(block) for block in found if block.strip()]


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_each_public_function_and_class_has_an_example(name: str) -> None:
    example = sections(doc(documented()[name])).get("Example", "")
    assert ">>> " in example or code_of(example), f"{name} has no example"


def run_example(name: str, example: str) -> None:
    """Run the code of an example. What `>>>` prints must be what the example shows."""
    scope: dict[str, Any] = {"__name__": "example"}
    if ">>> " in example:
        parsed = doctest.DocTestParser().get_doctest(example, scope, name, name, 0)
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        told: list[str] = []
        runner.run(parsed, out=told.append, clear_globs=False)
        assert runner.failures == 0, "".join(told)
    for block in code_of(example):
        exec(compile(block, f"<example of {name}>", "exec"), scope)


SEARCHES = ("search.run(", "load_study(", "get_best_models(", ".search(", "trial_dir()")
"""Words of the examples that need the study."""


def _needs_study(name: str) -> bool:
    return any(word in sections(doc(documented()[name])).get("Example", "") for word in SEARCHES)


@pytest.mark.parametrize("name", [name for name in with_examples() if not _needs_study(name)])
def test_an_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_example(name, sections(doc(documented()[name]))["Example"])


@pytest.fixture(scope="module")
def searched(zygote: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a folder with `space.py` and the study `space`."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copy(TINY, folder / "space.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        patch.setattr("search.executors.selection.shared_zygote", zygote)
        search.run("space.py", max_epochs=3, seed=0, workers=1, progress=False)
        yield folder


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in with_examples() if _needs_study(name)])
def test_an_example_with_a_study_runs(name: str, searched: Path) -> None:
    run_example(name, sections(doc(documented()[name]))["Example"])
