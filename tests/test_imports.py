"""Imports go one way, and what must be quick imports little."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import search

ROOT = Path(search.__file__).parent

LAYERS = [
    ["search", "search.errors"],
    ["search.domain"],
    ["search.trial"],
    ["search.records"],
    ["search.formats"],
    [
        "search.messages",
        "search.paths",
        "search.brackets",
        "search.journal",
        "search.lock",
        "search.homes",
        "search.slots",
    ],
    ["search.study", "search.novelty", "search.given", "search.events"],
    [
        "search.backends.base",
        "search.harvest",
        "search.cleaning",
        "search.failures",
        "search.patience",
        "search.budget",
    ],
    ["search.backends.samplers"],
    ["search.backends.rungs", "search.backends.optuna"],
    ["search.backends.hyperband"],
    ["search.backends"],
    ["search.options", "search.controller"],
    ["search.devices", "search.space", "search.compiling", "search.pickling"],
    ["search.worker"],
    ["search.executors"],
    ["search.tables", "search.progress", "search.tracking"],
    ["search.driver", "search.checks", "search.warm_start"],
    ["search.opening"],
    ["search.launch"],
    ["search.results"],
    ["search.export"],
    ["search.python", "search.testing"],
    ["search.tuners"],
    ["search.cli"],
]
"""Lowest first. A module imports those of lower layers and of its own; a package's modules are of its layer."""

QUICK = [
    "search.cli",
    "search.driver",
    "search.launch",
    "search.results",
    "search.controller",
    "search.study",
    "search.executors.simulated",
]
HEAVY = {"keras", "tensorflow", "keras_tuner", "jax", "torch", "mlflow", "pandas", "optuna", "ray", "tensorboard"}

MODULES = {
    ".".join(["search", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def layer(module: str) -> int:
    """The layer of the module, or of the nearest package around it that has one."""
    name = module
    while name:
        for number, names in enumerate(LAYERS):
            if name in names and (name != "search" or module == "search"):
                return number
        name = name.rpartition(".")[0]
    pytest.fail(f"{module} is in no layer: say in LAYERS where it belongs")


def imports(path: Path, *, everywhere: bool) -> Iterator[tuple[str, int]]:
    """(module, line) of what a file imports; with `everywhere` within functions too. Not what only types need."""

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
            if not typing_only and (everywhere or not function):
                yield child
                yield from walk(child)

    for node in walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield (name if name in MODULES else node.module), node.lineno


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_only_go_up_the_list(module: str) -> None:
    allowed = layer(module)
    for imported, line in imports(MODULES[module], everywhere=False):
        if imported.partition(".")[0] == "search" and imported != "search":
            assert layer(imported) <= allowed, f"{MODULES[module]}:{line} imports {imported}"


@pytest.mark.parametrize("module", QUICK)
def test_no_framework_is_imported_where_the_search_is_run(module: str) -> None:
    for imported, line in imports(MODULES[module], everywhere=False):
        assert imported.partition(".")[0] not in HEAVY, f"{MODULES[module]}:{line} imports {imported}"


def test_outside_of_workers_nothing_ever_imports_a_framework() -> None:
    """Not in a function either, but for retrieval, which gives models, and what is sent along with one."""
    frameworks = {"keras", "tensorflow", "keras_tuner", "jax", "torch"}
    excepted = (
        "search.worker",
        "search.compiling",
        "search.pickling",
        "search.tracking.retrieve",
        "search.tracking.loader",
        "search.results",
        "search.export",
        "search.tuners",
    )
    for module, path in MODULES.items():
        if not module.startswith(excepted):
            found = [
                f"{path}:{line}" for name, line in imports(path, everywhere=True) if name.split(".")[0] in frameworks
            ]
            assert not found, f"{module} imports a framework"


def test_what_is_sent_along_with_a_model_imports_nothing_of_search() -> None:
    for name, _ in imports(MODULES["search.tracking.loader"], everywhere=True):
        assert name.partition(".")[0] != "search"


@pytest.mark.parametrize("module", ["search", *QUICK])
def test_what_must_be_quick_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & {HEAVY!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_export_is_there() -> None:
    for name in search.__all__:
        if name != "trial_dir":  # of a worker: it comes with Keras
            assert getattr(search, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = search.nothing
