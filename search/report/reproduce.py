"""The way to a study's results again: the command, its versions and code, and the model's place."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from search.options import FIELDS, LOCATION, option_flag
from search.report.html import Html, block, element, join
from search.report.subject import Subject
from search.report.table import Cell, code, definitions, folded, listing, table
from search.wording import pluralize

MOST_CHARACTERS = 200_000
"""Characters of one source file that the page shows."""

MOST_FILES = 20
"""Source files that the page shows."""


def reproduce_section(subject: Subject) -> Html:
    """Return the command, the seed, the versions and the source that gave the results."""
    study, header = subject.study, subject.study.header
    assert header is not None
    if header.is_imported:
        return element("p", "Another tool has run this search, and search import has read its results.")
    workers = subject.options.workers
    exact = (
        "The same seed, data and versions give the same results, as it ran with one worker."
        if workers == 1
        else "The same seed gives the same draws. With --workers 1 a search can be repeated exactly; with more workers "
        "the order of results decides, too."
    )
    return join(
        listing(command_of(subject)),
        element("p", exact),
        definitions(
            [
                ("Seed", str(study.seed)),
                ("Study's id", code(study.uid)),
                ("Space", _place(subject)),
                ("Its digest", code(study.digest)),
            ]
        ),
        _versions(subject),
        *_sources(subject),
    )


def _place(subject: Subject) -> Html | str:
    header = subject.study.header
    assert header is not None
    if not header.source:
        return "a factory given to search.run, kept as space/space.pkl in the study's folder"
    return join(code(Path(header.source).name), " with its local modules, kept in the study's folder as space/")


def command_of(subject: Subject) -> str:
    """Return the command that begins the same search, or the call of `search.run` if a factory was given."""
    header = subject.study.header
    assert header is not None
    given = dict(_given_options(subject))
    given["seed"] = subject.study.seed
    if not header.source:
        arguments = [f"study={subject.name!r}", *(f"{name}={value!r}" for name, value in given.items())]
        return "search.run(build_model, data, " + ", ".join(arguments) + ")"
    words = ["search", "run", Path(header.source).name]
    if subject.name != Path(header.source).stem:
        words += ["--study", subject.name]
    for name, value in given.items():
        words += _words(name, value)
    return " ".join(shlex.quote(word) for word in words)


def _given_options(subject: Subject) -> Iterator[tuple[str, Any]]:
    """Yield the options that differ from their defaults, by name."""
    options = subject.options
    for name, field in FIELDS.items():
        value = getattr(options, name)
        if name not in (*LOCATION, "seed") and value != field.default and value is not None:
            yield name, value


def _words(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [option_flag(name) if value is not FIELDS[name].default else f"--{name.replace('_', '-')}"]
    values = value if isinstance(value, list | tuple) else [value]
    return [word for item in values for word in (option_flag(name), _text(item))]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _versions(subject: Subject) -> Html:
    rows = [[Cell(code(name)), Cell(code(version))] for name, version in subject.study.versions.items()]
    if not rows:
        return element("p", "The versions of its libraries are unknown.")
    return folded("Versions of the libraries", table("Versions", ["library", "version"], rows, key=True))


def _sources(subject: Subject) -> Iterator[Html]:
    """Yield the study's own copy of its source files, each folded."""
    folder = subject.paths.space
    if not folder.is_dir():
        return
    files = [file for file in sorted(folder.rglob("*.py")) if file.is_file()]
    for file in files[:MOST_FILES]:
        try:
            text = file.read_text(errors="replace")
        except OSError:
            continue
        cut = f"\n… {len(text) - MOST_CHARACTERS:,} more characters" if len(text) > MOST_CHARACTERS else ""
        yield folded(f"Source: {file.relative_to(folder)}", listing(block(text[:MOST_CHARACTERS]) + cut))
    if len(files) > MOST_FILES:
        yield element(
            "p", f"{pluralize(len(files) - MOST_FILES, 'more source file')} in the study's folder, in space/."
        )


def model_section(subject: Subject) -> Html:
    """Return the ways to load the best model."""
    name, best = subject.name, subject.study.best
    if best is None:
        return element("p", "There is no model yet: no trial has an objective.")
    weights = subject.paths.trial(best.number).best(best.best.execution).exists()
    lines = [
        "import search",
        f"model = search.get_best_models({name!r})[0]",
        f"values = search.load_study({name!r}).get_best_hyperparameters()[0]",
    ]
    parts: list[Html | None] = [
        element("p", "In Python, in the folder that has runs/:"),
        listing("\n".join(lines)),
        None
        if weights
        else element("p", "Its weights are not in the study's folder; MLflow may have them.", class_="note"),
    ]
    if subject.study.exported is not None:
        parts += [
            element("p", "Without search, as a Keras file:"),
            listing(f"import keras\nmodel = keras.saving.load_model('runs/{name}/model.keras')"),
        ]
    parts += [
        element("p", "As a file for other programs:"),
        listing(
            f"search export {name} --to model.keras\nsearch export {name} --to model.onnx\n"
            f"search export {name} --to saved_model"
        ),
    ]
    return join(*parts)
