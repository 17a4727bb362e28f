"""Space files: what the user writes, loaded and checked. Imports no framework; only a worker, or whoever asks for a
trained model, runs the user's code.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import pickle
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from search.errors import SpaceError, nearest
from search.messages import SpaceRef

MODULE = "search_space"
"""The name the space file is imported under: a file called `keras.py` must not hide Keras."""

HOOKS = ("build_model", "compile_model", "load_data", "fit_options", "callbacks", "search_options")


@dataclass(frozen=True)
class Space:
    """The user's functions. Each may be called again and again, with another `hp` every time.

    Attributes:
        label: what messages call it: the file's name.
        folder: of the space file; None for a pickled factory.
        build_model: `hp` → a Keras model, compiled or not.
        compile_model: `hp, model` → None, or the model; compiles it.
        load_data: → (train, validation[, test]).
        fit_options: `hp` → keyword arguments of `model.fit`.
        callbacks: `hp` → a list of fresh Keras callbacks.
        options: the file's `search_options`.
    """

    label: str
    folder: Path | None
    build_model: Callable[..., Any]
    load_data: Callable[..., Any]
    compile_model: Callable[..., Any] | None = None
    fit_options: Callable[..., Any] | None = None
    callbacks: Callable[..., Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def parse(path: Path) -> ast.Module:
    """The syntax tree of a space file. SpaceError where there is no such file or Python cannot read it."""
    if path.is_dir():
        raise SpaceError(f"{path} is a folder: give the space file in it, such as {path / 'space.py'}")
    try:
        source = path.read_bytes()
    except FileNotFoundError:
        near = nearest(path.name, [found.name for found in path.parent.glob("*.py")] if path.parent.is_dir() else [])
        raise SpaceError(f"no such space file: {path}.{near or ' Give the path of a Python file.'}") from None
    except OSError as error:
        raise SpaceError(f"cannot read the space file {path}: {error.strerror}") from None
    try:
        return ast.parse(source, str(path))
    except SyntaxError as error:
        raise SpaceError(f"{path}:{error.lineno}: {error.msg}: correct the file's syntax") from None
    except ValueError as error:
        raise SpaceError(f"{path} is not a Python file: {error}") from None


def keras_backend(tree: ast.Module) -> str | None:
    """The `keras_backend` in the file's literal `search_options`: it must be known before Keras is imported."""
    for node in tree.body:
        if not (isinstance(node, ast.Assign) and any(getattr(t, "id", None) == "search_options" for t in node.targets)):
            continue
        items: list[tuple[Any, ast.expr]] = []
        if isinstance(node.value, ast.Dict):
            items = [
                (getattr(key, "value", None), value)
                for key, value in zip(node.value.keys, node.value.values, strict=True)
            ]
        elif isinstance(node.value, ast.Call):
            items = [(keyword.arg, keyword.value) for keyword in node.value.keywords]
        for key, value in items:
            if key == "keras_backend" and isinstance(value, ast.Constant):
                return str(value.value)
    return None


def load(ref: SpaceRef) -> Space:
    """Run the user's file, or unpickle the factory, and check that it has what a search needs.

    Raises:
        SpaceError: with the file and line where it raised, or what it lacks.
    """
    if ref.path is not None:
        return _from_module(_import(Path(ref.path)), Path(ref.path))
    assert ref.pickle is not None
    with open(ref.pickle, "rb") as file:
        parts: dict[str, Any] = pickle.load(file)
    data = parts.pop("data")
    return _checked(Space(label="the factory", folder=None, load_data=lambda: data, **parts))


def _import(path: Path) -> ModuleType:
    parse(path)
    folder = str(path.parent.absolute())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(MODULE, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise SpaceError(describe(error, path)) from error
    return module


def _from_module(module: ModuleType, path: Path) -> Space:
    def get(name: str) -> Any:
        return getattr(module, name, None)

    for name in ("build_model", "load_data"):
        if get(name) is None:
            what = "takes hp and returns a keras.Model" if name == "build_model" else "returns (train, validation)"
            near = nearest(name, [known for known in vars(module) if not known.startswith("_")])
            raise SpaceError(f"{path} defines no {name}: add a function {name} that {what}.{near}")
    options = get("search_options") or {}
    if not isinstance(options, Mapping):
        raise SpaceError(f"{path}: search_options is a {type(options).__name__}: make it a dict of options")
    return _checked(
        Space(
            label=path.name,
            folder=path.parent.absolute(),
            build_model=get("build_model"),
            load_data=get("load_data"),
            compile_model=get("compile_model"),
            fit_options=get("fit_options"),
            callbacks=get("callbacks"),
            options=dict(options),
        )
    )


def _checked(space: Space) -> Space:
    for name, wanted in (("build_model", 1), ("compile_model", 2), ("fit_options", 1), ("callbacks", 1)):
        function = getattr(space, name)
        if function is None:
            continue
        if not callable(function):
            raise SpaceError(f"{space.label}: {name} is a {type(function).__name__}: make it a function")
        if not _takes(function, wanted):
            arguments = "hp, model" if wanted == 2 else "hp"
            raise SpaceError(
                f"{space.label}: {name} cannot be called with ({arguments}): write def {name}({arguments})"
            )
    if not callable(space.load_data) or not _takes(space.load_data, 0):
        raise SpaceError(f"{space.label}: load_data must be a function without arguments: write def load_data()")
    return space


def _takes(function: Callable[..., Any], count: int) -> bool:
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:
        return True  # a builtin without a signature
    return True


def describe(error: BaseException, path: Path | None = None) -> str:
    """One line for an exception of the user's code: `file:line: Type: message`, the line innermost in their files."""
    text = " ".join(str(error).split()) or "no message"
    message = f"{type(error).__name__}: {text[:400]}{'…' if len(text) > 400 else ''}"
    where = _where(error.__traceback__, path.parent.absolute() if path is not None else None)
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{error.filename}:{error.lineno}"
    return f"{where}: {message}" if where else message


def _where(trace: TracebackType | None, folder: Path | None) -> str | None:
    if folder is None:
        return None
    frames = [frame for frame in traceback.extract_tb(trace) if _is_local(Path(frame.filename), folder)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None


def _is_local(path: Path, folder: Path) -> bool:
    """Whether `path` is a file of the user's own beside the space file: not an installed package's, nor of search."""
    try:
        relative = path.absolute().relative_to(folder)
    except ValueError:
        return False
    own = Path(__file__).parent
    return (
        own not in path.absolute().parents
        and not any(part in ("site-packages", "dist-packages") or part.startswith(".") for part in relative.parts)
        and not any((parent / "pyvenv.cfg").exists() for parent in path.absolute().parents if folder in parent.parents)
    )


def local_files(space_file: Path) -> tuple[tuple[str, str], ...]:
    """The space file and the modules beside it that are imported by now: (path relative to its folder, path)."""
    folder = space_file.parent.absolute()
    found = {space_file.absolute()}
    for module in list(sys.modules.values()):
        name = getattr(module, "__file__", None)
        if name and name.endswith(".py") and _is_local(Path(name), folder):
            found.add(Path(name).absolute())
    return tuple((str(path.relative_to(folder)), str(path)) for path in sorted(found))


def digest_of(files: tuple[tuple[str, str], ...]) -> str:
    """A digest of the files' names and contents, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, path in files:
        content = Path(path).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]
