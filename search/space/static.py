"""The faults of a space file that can be seen without running it: the framework takes seconds to import.

A file may define names in ways that only running it shows. So all that is not plain is unknown, and no unknown is
refused. The checks are those of a file that was run, on a module in which each unknown value stands for any.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from search.space.file import SPACE_MODULE

__all__ = ["UNKNOWN", "literal_options", "static_module"]

DYNAMIC_NAMES = {"exec", "eval", "globals", "locals", "vars", "setattr", "delattr", "__import__", "__getattr__"}
"""Names by which a file may define others, or take them away."""

DYNAMIC_ATTRIBUTES = {"__dict__", "modules", "exec_module", "run_path", "import_module"}


class _Unknown:
    """A value that only running the file shows. Any call and any attribute of it may be right."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self


UNKNOWN = _Unknown()


class _Function:
    """A function that the file defines, of which only the signature is known."""

    def __init__(self, signature: inspect.Signature) -> None:
        self.__signature__ = signature

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return UNKNOWN


def static_module(tree: ast.Module) -> ModuleType | None:
    """Return the module that a file would make, with `UNKNOWN` values; None if its names cannot be known."""
    if _is_dynamic(tree):
        return None
    bound: dict[str, list[Any]] = {}
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not node.decorator_list:
            bound.setdefault(node.name, []).append(_function(node.args))
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and _plain_target(node) is not None:
            bound.setdefault(str(_plain_target(node)), []).append(_literal(node.value))
        else:
            for name in _names_bound_by(node):
                bound.setdefault(name, []).append(UNKNOWN)
    # A function may bind a name of the module, too.
    for inner in ast.walk(tree):
        if isinstance(inner, ast.Global):
            for name in inner.names:
                bound.setdefault(name, []).append(UNKNOWN)
    module = ModuleType(SPACE_MODULE)
    vars(module).update({name: values[0] if len(values) == 1 else UNKNOWN for name, values in bound.items()})
    if vars(module).get("hypermodel") is not None:
        # One of the two may be None when the file is run.
        for name in ("build_model", "fit"):
            if bound.get(name) and (vars(module)[name] is UNKNOWN or vars(module)["hypermodel"] is UNKNOWN):
                delattr(module, name)
        vars(module)["hypermodel"] = UNKNOWN
    if vars(module).get("search_options") is UNKNOWN:
        del vars(module)["search_options"]
    return module


def literal_options(tree: ast.Module) -> dict[str, Any]:
    """Return the names in the file's `search_options`, with the values that are literals, and else `UNKNOWN`.

    Returns:
        An empty dict unless the file assigns `search_options` once, as a dict with plain names, and uses it nowhere.
    """
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "search_options"]
    assigned = [
        node
        for node in tree.body
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and _plain_target(node) == "search_options"
    ]
    if len(uses) != 1 or len(assigned) != 1 or _is_dynamic(tree):
        return {}
    node = assigned[0].value
    pairs: list[tuple[str | None, ast.expr]] = []
    if isinstance(node, ast.Dict):
        keys = [
            key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else None for key in node.keys
        ]
        pairs = list(zip(keys, node.values, strict=True))
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        pairs = [(keyword.arg, keyword.value) for keyword in node.keywords]
    found = {name: _literal(value) for name, value in pairs if name is not None}
    return found if len(found) == len(pairs) else {}


def _is_dynamic(tree: ast.Module) -> bool:
    """Return whether the file may define names in ways that its statements do not show."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            return True
        if isinstance(node, ast.Name) and node.id in DYNAMIC_NAMES:
            return True
        if isinstance(node, ast.FunctionDef) and node.name in DYNAMIC_NAMES:
            return True
        if isinstance(node, ast.Attribute) and node.attr in DYNAMIC_ATTRIBUTES:
            return True
        if isinstance(node, (ast.Delete, ast.Raise)) and node in tree.body:
            return True
    return any(_may_end(node) for node in tree.body)


def _may_end(node: ast.stmt) -> bool:
    """Return whether a statement looks as if it ended the program: that is said better when the file is run."""
    call = node.value if isinstance(node, ast.Expr) else None
    if not isinstance(call, ast.Call):
        return False
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("exit", "_exit", "quit", "abort", "kill", "parse_args")


def _plain_target(node: ast.Assign | ast.AnnAssign) -> str | None:
    """Return the name that an assignment binds, if it binds one name to a value."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return targets[0].id if len(targets) == 1 and isinstance(targets[0], ast.Name) and node.value else None


def _names_bound_by(node: ast.AST) -> Iterator[str]:
    """Yield the names that a statement may bind in its module, also within blocks such as `if` and `try`."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
        return
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        yield node.id
    elif (isinstance(node, ast.ExceptHandler) and node.name) or (
        isinstance(node, (ast.MatchAs, ast.MatchStar)) and node.name
    ):
        yield node.name
    elif isinstance(node, ast.MatchMapping) and node.rest:
        yield node.rest
    elif isinstance(node, ast.Lambda):
        return
    for child in ast.iter_child_nodes(node):
        yield from _names_bound_by(child)


def _literal(node: ast.expr | None) -> Any:
    """Return the value of an expression that is a literal, and else `UNKNOWN`."""
    if isinstance(node, ast.Lambda):
        return _function(node.args)
    try:
        return ast.literal_eval(node) if node is not None else UNKNOWN
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return UNKNOWN


def _function(arguments: ast.arguments) -> _Function:
    """Return a function with the signature that `arguments` describe."""
    kinds = inspect.Parameter
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [kinds.empty] * (len(positional) - len(arguments.defaults)) + [None] * len(arguments.defaults)
    only = len(arguments.posonlyargs)
    parameters = [
        kinds(each.arg, kinds.POSITIONAL_ONLY if i < only else kinds.POSITIONAL_OR_KEYWORD, default=default)
        for i, (each, default) in enumerate(zip(positional, defaults, strict=True))
    ]
    if arguments.vararg:
        parameters.append(kinds(arguments.vararg.arg, kinds.VAR_POSITIONAL))
    for each, given in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        parameters.append(kinds(each.arg, kinds.KEYWORD_ONLY, default=kinds.empty if given is None else None))
    if arguments.kwarg:
        parameters.append(kinds(arguments.kwarg.arg, kinds.VAR_KEYWORD))

    return _Function(inspect.Signature(parameters))
