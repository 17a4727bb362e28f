"""Imports go one way between packages, and modules that must load quickly import no framework."""

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
    ["search", "search.errors", "search.platforms", "search.wording"],
    ["search.space", "search.devices", "search.plugins"],
    ["search.study"],
    ["search.messages", "search.backends"],
    ["search.options", "search.scheduler"],
    ["search.storage"],
    ["search.tracking", "search.tracking.mlflow", "search.worker.data"],
    ["search.worker.capabilities"],
    ["search.worker.keras_internals"],
    ["search.worker.runners"],
    ["search.worker.runners.tensorflow", "search.worker.runners.jax"],
    ["search.worker"],
    ["search.executors"],
    ["search.display"],
    ["search.plots"],
    ["search.report"],
    ["search.driver"],
    ["search.results"],
    ["search.api", "search.testing"],
    ["search.compat"],
    ["search.tuners", "search.cli"],
    ["search.__main__"],
]
"""Packages and the modules at the top, lowest first. Each imports only itself and lower layers."""

TOP_MODULES = 9
"""The most modules at the top of the package, `__init__` included."""

PUBLIC = {"search", "search.testing", "search.compat", "search.compat.keras_tuner", "search.plugins", "search.cli"}
"""The packages whose `__init__` may hold more than a docstring."""

LIGHT = [
    "search.cli",
    "search.driver.loop",
    "search.driver.named_parts",
    "search.driver.launch",
    "search.results.study_results",
    "search.scheduler.controller",
    "search.study.study",
    "search.executors.simulated",
]
"""Modules that run where no trial is trained: they load none of `HEAVY`."""

HEAVY = {
    "keras",
    "tensorflow",
    "keras_tuner",
    "jax",
    "torch",
    "mlflow",
    "pandas",
    "optuna",
    "ray",
    "tensorboard",
    "plotly",
}
"""Packages that take long to import."""

MODULES = {
    ".".join(["search", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def package(module: str) -> str:
    """Return the entry of `LAYERS` that `module` belongs to."""
    name = module
    while name:
        if any(name in names for names in LAYERS) and (name != "search" or module == "search"):
            return name
        name = name.rpartition(".")[0]
    pytest.fail(f"{module} is in no layer: say in LAYERS where its package belongs")


def layer(package: str) -> int:
    """Return the number of the layer that lists `package`."""
    return next(number for number, names in enumerate(LAYERS) if package in names)


def imports(path: Path, *, everywhere: bool) -> Iterator[tuple[str, int]]:
    """Yield (module, line) of each import in a file, except imports for type checking.

    Args:
        everywhere: include imports within functions.
    """

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
def test_a_module_imports_only_lower_layers(module: str) -> None:
    own = package(module)
    for imported, line in imports(MODULES[module], everywhere=False):
        if imported.partition(".")[0] == "search" and imported != "search" and package(imported) != own:
            assert layer(package(imported)) < layer(own), f"{MODULES[module]}:{line} imports {imported}"


def test_imports_have_no_cycle() -> None:
    direct = {
        module: {name for name, _ in imports(path, everywhere=False) if name in MODULES and name != "search"}
        for module, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join([*above, module])
        if module not in done:
            for name in direct[module]:
                visit(name, (*above, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_the_top_of_the_package_holds_few_modules() -> None:
    assert len([*ROOT.glob("*.py")]) <= TOP_MODULES


def test_only_public_packages_hold_more_than_a_docstring() -> None:
    for path in ROOT.rglob("__init__.py"):
        name = ".".join(["search", *path.parent.relative_to(ROOT).parts])
        if name not in PUBLIC:
            statements = ast.parse(path.read_text()).body
            assert len(statements) == 1, f"{path} holds more than a docstring"
            assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_nothing_heavy_at_their_top(module: str) -> None:
    for imported, line in imports(MODULES[module], everywhere=False):
        assert imported.partition(".")[0] not in HEAVY, f"{MODULES[module]}:{line} imports {imported}"


def test_only_workers_and_retrieval_import_a_framework() -> None:
    """Functions are included. The exceptions return models, or travel with a model."""
    frameworks = {"keras", "tensorflow", "keras_tuner", "jax", "torch"}
    excepted = (
        "search.worker",
        "search.space.compiled",
        "search.space.pickling",
        "search.tracking.mlflow.retrieve",
        "search.tracking.mlflow.loader",
        "search.results",
        "search.compat",
    )
    for module, path in MODULES.items():
        if not module.startswith(excepted):
            found = [
                f"{path}:{line}" for name, line in imports(path, everywhere=True) if name.split(".")[0] in frameworks
            ]
            assert not found, f"{module} imports a framework"


def test_the_loader_that_travels_with_a_model_imports_nothing_of_search() -> None:
    for name, _ in imports(MODULES["search.tracking.mlflow.loader"], everywhere=True):
        assert name.partition(".")[0] != "search"


@pytest.mark.parametrize("module", ["search", *LIGHT])
def test_light_modules_load_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & {HEAVY!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_export_exists() -> None:
    assert {"BackEnd", "Executor", "Follower", "StopRule"} <= set(search.__all__)
    assert dir(search) == sorted(search.__all__)
    for name in search.__all__:
        if name != "trial_dir":  # it comes with a worker's modules, and so with Keras
            assert getattr(search, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = search.nothing
