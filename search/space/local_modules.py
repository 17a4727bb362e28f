"""Modules of the user's own, found by name without importing them, and digests of their files."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from search.space.file import is_users_file

__all__ = ["digest_module", "module_file"]


def digest_module(name: str, importer: str = "") -> str:
    """Return a digest of a user's module and of those that it imports, all as they are in their files.

    Args:
        name: the module's full name, or its name relative to the package of `importer`.
        importer: the module that imports it.

    Returns:
        16 hexadecimal digits; "" for an installed module, or if there is none of this name.
    """
    package = importer.rpartition(".")[0]
    start = next((each for each in (name, f"{package}.{name}") if module_file(each) is not None), None)
    if start is None:
        return ""
    digest = hashlib.sha256()
    for found, path in sorted(_closure(start).items()):
        content = path.read_bytes()
        digest.update(f"{found}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def module_file(name: str) -> Path | None:
    """Return the file of a user's module; None for an installed one, or if there is none.

    Only the top package is looked up as an import does. Its parts are files below it, so that nothing is imported.
    """
    top, *parts = name.split(".")
    try:
        spec = importlib.util.find_spec(top) if top else None
    except (ImportError, ValueError):  # a program run as `__main__` has no place
        return None
    if spec is None or spec.origin is None or not is_users_file(Path(spec.origin)):
        return None
    if not parts:
        return Path(spec.origin) if spec.origin.endswith(".py") else None
    folder = Path(spec.origin).parent.joinpath(*parts)
    found = (folder.with_suffix(".py"), folder / "__init__.py")
    return next((path for path in found if spec.submodule_search_locations and path.is_file()), None)


def _closure(start: str) -> dict[str, Path]:
    """Return the files of the module `start` and of all user's modules that it imports, by name."""
    found: dict[str, Path] = {}
    waiting = [start]
    while waiting:
        name = waiting.pop()
        path = None if name in found else module_file(name)
        if path is not None:
            found[name] = path
            waiting += _imported_names(name, path)
    return found


def _imported_names(name: str, path: Path) -> Iterator[str]:
    """Yield the full names that the module `name` may import; some are names of functions, not of modules."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
