"""Docstrings of the public names, and the reference made of them.

Each name has a summary, its arguments, its result, its errors, and an example that runs.
"""

from __future__ import annotations

import ast
import builtins
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
from docs import generated
from search import errors, messages, plugins, testing
from search.cli.program import COMMANDS
from search.study import records, trial, trials
from tests.places import TINY

MODULES: dict[str, ModuleType] = {"search": search, "search.plugins": plugins, "search.testing": testing}
"""The modules whose `__all__` lists public names. Each of their functions and classes has an example."""

FURTHER = (
    *(getattr(errors, name) for name in errors.__all__ if name != name.upper() and name[0].isupper()),
    *(trials.Best, trials.End, trials.Execution, trials.Progress, trials.Resources, trials.Values, trial.Parent),
)
"""Classes that public names give or raise. They need no example."""

DATA: tuple[type, ...] = tuple(
    each
    for module in (messages, records)
    for each in vars(module).values()
    if isinstance(each, type) and each.__module__ == module.__name__
)
"""The messages and the records."""

FORBIDDEN = {"how", "it", "that", "they", "those", "what", "where", "whether"}
"""Words that no docstring opens with."""

SECTIONS = ("Args", "Attributes", "Example", "Raises", "Returns", "Yields")


def _is_ours(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).partition(".")[0] == "search"


@functools.cache
def public_objects() -> dict[str, Any]:
    """Return the public functions and classes by name. KerasTuner's own classes are documented there."""
    found = {}
    for name, module in MODULES.items():
        for each in module.__all__:
            if getattr(module, "_EXPORTS", {}).get(each) != "keras_tuner":  # importing it takes seconds
                found[f"{name}.{each}"] = getattr(module, each)
    return {name: each for name, each in found.items() if _is_ours(each) and callable(each)}


def members(name: str, owner: type) -> Iterator[tuple[str, Any]]:
    """Yield the public methods and properties of a class, except tests and fixtures of a kit."""
    seen: set[str] = set()
    for base in owner.__mro__:
        for attribute, value in vars(base).items() if _is_ours(base) else ():
            plain = inspect.unwrap(getattr(value, "__func__", value))
            wanted = isinstance(value, property) or inspect.isfunction(plain)
            is_fixture = hasattr(value, "_fixture_function") or hasattr(value, "_pytestfixturefunction")
            if attribute.startswith(("_", "test_")) or attribute in seen or is_fixture or not wanted:
                continue
            seen.add(attribute)
            yield f"{name}.{attribute}", value if isinstance(value, property) else getattr(owner, attribute)


@functools.cache
def documented() -> dict[str, Any]:
    """Return all that must have a docstring, by name."""
    found = public_objects() | {f"{each.__module__}.{each.__name__}": each for each in (*FURTHER, *DATA)}
    found["search.tuners.Tuner"] = search.tuners.Tuner
    for name, each in list(found.items()):
        if isinstance(each, type):
            found.update(members(name, each))
    return found


def functions() -> dict[str, Callable[..., Any]]:
    return {name: each for name, each in documented().items() if inspect.isroutine(each)}


def doc(value: Any) -> str:
    return inspect.getdoc(value) or ""


def sections(text: str) -> dict[str, str]:
    """Return the sections of a docstring by name; the text before the first is the section ""."""
    parts = re.split(rf"^({'|'.join(SECTIONS)}):$", text, flags=re.MULTILINE)
    bodies = [textwrap.dedent(body) for body in parts[2::2]]
    return {"": parts[0], **dict(zip(parts[1::2], bodies, strict=True))}


def entries(section: str) -> set[str]:
    """Return the names that a section of arguments, attributes or errors explains."""
    found = re.findall(r"^(\w[\w.]*(?:, \w[\w.]*)*):\s", section, re.MULTILINE)
    return {name.strip() for group in found for name in group.split(",")}


def named(text: str) -> set[str]:
    """Return the names in backticks."""
    return set(re.findall(r"`(\w+)`", text))


def test_each_public_name_has_a_summary() -> None:
    """A summary is one line and a sentence, and begins with its subject."""
    for name, each in documented().items():
        summary = doc(each).partition("\n\n")[0]
        assert summary, f"{name} has no docstring"
        assert summary.endswith((".", ":", '."')), f"the summary of {name} is no sentence: {summary}"
        assert "\n" not in summary, f"the summary of {name} is longer than a line"
        assert summary.split()[0].lower() not in FORBIDDEN, f"{name}: {summary}"


def test_each_argument_of_a_function_is_documented() -> None:
    """A method of a few words may name its arguments in its summary."""
    missing, unknown = [], []
    for name, function in functions().items():
        parts = sections(doc(function))
        explained = entries(parts.get("Args", ""))
        arguments = {each for each in inspect.signature(function).parameters if each not in ("self", "cls")}
        unknown += [f"{name}: {each}" for each in explained - arguments]
        explained |= named(parts[""]) if name not in public_objects() else set()
        missing += [f"{name}: {each}" for each in arguments - explained]
    assert missing == []
    assert unknown == []


def test_each_argument_and_field_of_a_class_is_documented() -> None:
    missing = []
    for name, owner in documented().items():
        if not isinstance(owner, type) or getattr(owner, "_is_protocol", False) or issubclass(owner, Exception):
            continue
        parts = sections(doc(owner))
        explained = entries(parts.get("Args", "")) | entries(parts.get("Attributes", "")) | named(parts[""])
        if dataclasses.is_dataclass(owner):
            needed = {each.name for each in dataclasses.fields(owner) if not each.name.startswith("_")}
        elif issubclass(owner, tuple):
            needed = set(inspect.signature(owner).parameters)
        else:
            needed = set(inspect.signature(owner).parameters) if _is_ours(owner.__init__) else set()
        explained |= set(generated.COMMON) if owner in DATA else set()
        missing += [f"{name}: {each}" for each in needed - explained]
    assert missing == []


def test_each_result_is_documented() -> None:
    """The first sentence may say it: "Return …"."""
    missing = []
    for name, function in functions().items():
        returned = inspect.signature(function).return_annotation
        parts = sections(doc(function))
        says = parts[""].startswith(("Return ", "Yield ")) or " Return " in parts[""] or "Returns" in parts
        if returned not in (None, "None", inspect.Signature.empty) and not says:
            missing.append(f"{name}: {returned}")
    assert missing == []


def _errors_raised(function: Callable[..., Any]) -> set[str]:
    """Return our errors that the code of a function names in a `raise`."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    raised = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    found = {call.func.id for call in raised if isinstance(call.func, ast.Name)}
    return {each for each in found if each in vars(errors)}


def test_each_error_that_is_raised_is_documented() -> None:
    missing = []
    for name, each in documented().items():
        function = each.fget if isinstance(each, property) else each
        if not inspect.isroutine(function):
            continue
        listed = entries(sections(doc(each)).get("Raises", ""))
        for raised in _errors_raised(function):
            documented_as = {base.__name__ for base in getattr(errors, raised).__mro__}
            missing += [] if listed & documented_as else [f"{name}: {raised}"]
    assert missing == []


def test_each_error_that_a_docstring_names_exists() -> None:
    known = {*vars(errors), *vars(builtins)}
    for name, each in documented().items():
        assert entries(sections(doc(each)).get("Raises", "")) - known == set(), name


# The reference --------------------------------------------------------------------------------------------------------


def test_the_generated_parts_of_the_reference_are_current() -> None:
    pages = generated.pages()
    assert [page.name for page in pages] == ["commands.md", "files.md", "options.md"]
    for page in pages:
        text = page.read_text()
        assert generated.current(text) == text, f"{page} is not current: run python docs/generated.py"


def test_every_command_has_a_section_in_the_reference() -> None:
    text = (generated.PAGES / "commands.md").read_text()
    for name in COMMANDS:
        assert f"\n## search {name}\n" in text
        assert f"<!-- generated: command-{name} -->" in text


def test_every_public_name_is_in_the_reference() -> None:
    text = "".join((generated.PAGES / name).read_text() for name in ("python.md", "parts.md"))
    named_there = set(re.findall(r":: search\.(?:[\w.]+\.)?(\w+)$", text, re.MULTILINE)) | set(
        re.findall(r"`search\.(?:[\w.]+\.)?(\w+)`", text)
    )
    wanted = {name for module in MODULES.values() for name in module.__all__} - {"__version__"}
    assert wanted - named_there == set()


# Examples -------------------------------------------------------------------------------------------------------------


def examples() -> dict[str, str]:
    """Return the examples of all docstrings by name."""
    found = {name: sections(doc(each)).get("Example", "") for name, each in documented().items()}
    return {name: example for name, example in found.items() if example}


def code_of(example: str) -> list[str]:
    """Return the code of an example: that of `>>>` as one text, and the blocks after lines that end in `::`."""
    if ">>> " in example:
        return [example]
    found = re.findall(r"::\n\n((?: {4}.*\n|\n)+)", example + "\n")
    return [textwrap.dedent(block) for block in found]


def test_each_public_function_and_class_has_an_example() -> None:
    assert [name for name in public_objects() if not code_of(examples().get(name, ""))] == []


def run_example(name: str) -> None:
    """Run the code of an example. A line after `>>>` must print what the example shows."""
    scope: dict[str, Any] = {"__name__": "example"}
    for code in code_of(examples()[name]):
        if ">>> " not in code:
            exec(compile(code, f"<example of {name}>", "exec"), scope)
            continue
        told: list[str] = []
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        runner.run(doctest.DocTestParser().get_doctest(code, scope, name, None, None), out=told.append)
        assert runner.summarize(verbose=False).failed == 0, "".join(told)


SEARCHES = ("search.run(", "load_study(", "get_best_models(", "import keras")
"""Words of the examples that search, or train: these take seconds."""


def _searches(name: str) -> bool:
    return any(word in examples()[name] for word in SEARCHES)


def test_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in examples():
        if not _searches(name):
            run_example(name)


@pytest.fixture(scope="module")
def searched(zygote: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a folder with `space.py` and the study `space`."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copy(TINY, folder / "space.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("search.executors.selection.shared_zygote", zygote)
        search.run("space.py", max_epochs=3, seed=0, workers=1, progress=False)
        yield folder


@pytest.mark.slow
def test_examples_that_search_run(searched: Path) -> None:
    found = {example: name for name, example in examples().items() if _searches(name)}  # a class may have two names
    assert len(found) > 3
    for name in found.values():
        run_example(name)
