"""A check that only islands name private parts of other packages: `python tests/private_names.py`.

An *island* is a module called `internals` or `…_internals`, a module in a package called so, or one in
`search/compat/`. Everywhere else in `search/` these are found, with file and line:

- an attribute with a leading underscore, unless the module itself gives that name to a function, a class, a variable
  or an attribute of `self`; on `self` and `cls`, also the names of the modules of `search` that it imports from, as
  these may have the base class;
- an import of a private module or name of a watched package: `keras.src`, `tensorflow.python`, a part with a leading
  underscore;
- a string with a private name, if the module hands it to `getattr` and the like: directly, or by a table or constant.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGES = {"keras", "keras_tuner", "tensorflow", "jax", "jaxlib", "torch", "optuna", "mlflow"}
"""The packages whose private modules are watched."""

PRIVATE_MODULES = ("keras.src", "keras_tuner.src", "tensorflow.python", "mlflow.store", "mlflow.utils")
"""Modules without a leading underscore that their packages do not document."""

READERS = {"getattr", "setattr", "hasattr", "delattr", "attrgetter", "methodcaller", "import_module"}
"""The functions that take names as strings."""

SHARED = {"_replace", "_asdict", "_fields", "_make", "_exit"}
"""Public names of Python's with a leading underscore: of named tuples, and `os._exit`."""

Found = tuple[int, str]


def is_private(name: str) -> bool:
    """Return whether `name` is an identifier with a leading underscore, and no `__dunder__`."""
    dunder = name.startswith("__") and name.endswith("__")
    return name.isidentifier() and name.startswith("_") and name.strip("_") != "" and not dunder


def is_island(path: Path) -> bool:
    """Return whether `path`, relative to the folder of `search`, may name private parts."""
    parts = [*path.parts[:-1], path.stem]
    return parts[0] == "compat" or any(part == "internals" or part.endswith("_internals") for part in parts)


def check_source(source: str, inherited: frozenset[str] = frozenset()) -> list[Found]:
    """Return (line, what was found) for each private name of another package in a module's source.

    Args:
        inherited: the private names that base classes of `search` may have given to `self`.
    """
    tree = ast.parse(source)
    return sorted({*_attributes(tree, inherited), *_imports(tree), *_strings(tree)})


def _attributes(tree: ast.Module, inherited: frozenset[str]) -> Iterator[Found]:
    own = _own_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own | SHARED:
            is_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if not (is_self and node.attr in inherited):
                yield node.lineno, ast.unparse(node)


def _own_names(tree: ast.Module) -> set[str]:
    """Return the private names that the module gives: to functions, classes, fields and attributes of `self`."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                found.add(name)
            case ast.Attribute(attr=name, ctx=ast.Store(), value=ast.Name(id="self" | "cls")):
                found.add(name)
    return found


def _imports(tree: ast.Module) -> Iterator[Found]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((node.lineno, f"import of {name}") for name in names if _is_private_module(name))


def _is_private_module(name: str) -> bool:
    parts = name.split(".")
    inner = any(name == module or name.startswith(f"{module}.") for module in PRIVATE_MODULES)
    return parts[0] in PACKAGES and (inner or any(map(is_private, parts)))


def _strings(tree: ast.Module) -> Iterator[Found]:
    """Yield strings that are private names: arguments of `READERS`, and those of the module's tables and constants if
    it calls one of `READERS` with a name that is no literal."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _called(node) in READERS]
    parts = [part for call in calls for argument in call.args for part in ast.walk(argument)]
    if any(not isinstance(_name_argument(call), ast.Constant) for call in calls):
        parts += [part for node in ast.walk(tree) for part in _table_entries(node)]
    own = _own_names(tree)
    for part in parts:
        text = part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else ""
        if _names_private(text) and text not in own | SHARED:
            yield part.lineno, repr(text)


def _table_entries(node: ast.AST) -> list[ast.expr | None]:
    match node:
        case ast.Tuple(elts=elements) | ast.List(elts=elements) | ast.Set(elts=elements):
            return list(elements)
        case ast.Dict(keys=keys, values=values):
            return [*keys, *values]
        case ast.Assign(value=value) | ast.AnnAssign(value=value):
            return [value]
    return []


def _called(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _name_argument(call: ast.Call) -> ast.expr | None:
    place = 0 if _called(call) in ("attrgetter", "methodcaller", "import_module") else 1
    return call.args[place] if len(call.args) > place else None


def _names_private(text: str) -> bool:
    """Return whether `text` is a private name, or a dotted path with one."""
    if not re.fullmatch(r"\w+(\.\w+)*", text):
        return False
    parts = text.split(".")
    return _is_private_module(text) or any(map(is_private, parts))


def check_package(root: Path) -> list[str]:
    """Return a line for each private name in the package at `root`, outside of its islands."""
    lines = []
    for path in sorted(root.rglob("*.py")):
        if not is_island(path.relative_to(root)):
            source = path.read_text()
            found = check_source(source, _inherited_names(ast.parse(source), root))
            lines += [f"{path}:{line}: {what}" for line, what in found]
    return lines


def _inherited_names(tree: ast.Module, root: Path) -> frozenset[str]:
    """Return the private names in the modules of the package at `root` that a module imports from."""
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    paths = [root.parent.joinpath(*module.split(".")).with_suffix(".py") for module in modules]
    own = [_own_names(ast.parse(path.read_text())) for path in paths if path.is_relative_to(root) and path.exists()]
    return frozenset[str]().union(*own)


def main() -> int:
    """Print what was found. Return 1 if there is anything."""
    lines = check_package(Path(__file__).resolve().parent.parent / "search")
    for line in lines:
        print(line)
    if lines:
        print(f"{len(lines)} private names of other packages: move them into an island, as docs/architecture.md says")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
