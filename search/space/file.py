"""Space files: the user's code, loaded and checked.

This module imports no framework. Only a worker runs the user's code, or a process that asks for a trained model.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from search.errors import SpaceError, nearest
from search.space.error_text import as_one_line, escape_unprintable, summarize_error
from search.space.fit_arguments import FitArguments
from search.space.inherited import Missing, leaves_of
from search.space.old_names import Unpickler

SPACE_MODULE = "search_space"
"""The module name of every space file: a file called `keras.py` must not hide Keras."""

_SPAWNED = Path(__file__).with_name("spawned")
"""The folder of a module of that name, which runs the file in processes that the user's code starts anew."""

INSTALLED = frozenset({"site-packages", "dist-packages"})
"""The folders of installed packages, of this environment or another one."""

_PACKAGE = Path(__file__).parents[1]
"""The folder of the package `search`."""


@dataclass(frozen=True, slots=True)
class SpaceRef:
    """The place of the user's code: a file, or a cloudpickle of a factory and its data.

    Attributes:
        path: the space file.
        pickle: the file with the cloudpickle. Exactly one of the two is given.
        seed: the study's seed, for what the code draws while it is imported.
    """

    path: str | None = None
    pickle: str | None = None
    seed: int = 0

    @property
    def label(self) -> str:
        """The name for messages."""
        return self.path or "the factory"


@dataclass(frozen=True)
class Space:
    """The user's functions. Each may be called many times, with another `hp` every time.

    Attributes:
        build_model: `hp` → a Keras model, compiled or not.
        load_data: → (train, validation[, test]); takes no arguments, or `hp`.
        compile_model: `hp, model` → None, or the model; compiles it.
        fit_options: `hp` → keyword arguments of `model.fit`.
        callbacks: `hp` → a list of fresh Keras callbacks; may take `model`, too, as `make_callbacks` tells.
        fit: replaces `model.fit`: `hp, model, train, validation, **kwargs`, or as KerasTuner's `HyperModel.fit`.
        is_hypermodel: whether `fit` is a HyperModel's.
        probes_fit: whether a probe calls `fit`, which may take as long as a trial.
        data_takes_hp: whether `load_data` takes `hp`.
        callbacks_take_model: whether `callbacks` takes `hp, model`.
        options: the file's `search_options`.
        names: how many names Keras's objects have before a model is built, by prefix: {"dense": 2} for `dense` and
            `dense_1`.
    """

    build_model: Callable[..., Any]
    load_data: Callable[..., Any]
    compile_model: Callable[..., Any] | None = None
    fit_options: Callable[..., Any] | None = None
    callbacks: Callable[..., Any] | None = None
    fit: Callable[..., Any] | None = None
    is_hypermodel: bool = False
    probes_fit: bool = True
    data_takes_hp: bool = False
    callbacks_take_model: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, int] = field(default_factory=dict)

    def make_callbacks(self, hp: Any, model: Any) -> Any:
        """Return the result of the user's `callbacks`, an empty list if there is none.

        Args:
            model: the compiled model.
        """
        if self.callbacks is None:
            return []
        return self.callbacks(hp, model) if self.callbacks_take_model else self.callbacks(hp)

    def fit_arguments(self, raw: tuple[Any, ...] | FitArguments) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the data arguments of `fit`, positional and named.

        Args:
            raw: the result of `load_data`.
        """
        if isinstance(raw, FitArguments):
            return raw.args, dict(raw.kwargs)
        train, validation = raw[:2]
        if not self.is_hypermodel:
            return (train, validation), {}
        # KerasTuner passes on the arguments of `tuner.search(x, y, sample_weight=…, validation_data=…)`.
        named = {} if validation is None else {"validation_data": validation}
        if not isinstance(train, tuple):
            return (train,), named
        if len(train) == 3:
            named["sample_weight"] = train[2]
        return tuple(train[:2]), named


def parse_file(path: Path) -> ast.Module:
    """Return the syntax tree of a space file.

    Raises:
        SpaceError: there is no such file, or Python cannot read it.
    """
    shown = escape_unprintable(path)
    try:
        if path.is_dir():
            raise SpaceError(
                f"{shown} is a folder: give the space file in it, such as {escape_unprintable(path / 'space.py')}"
            )
        source = path.read_bytes()
    except FileNotFoundError:
        near = nearest(path.stem, [found.stem for found in path.parent.glob("*.py")]).replace("'?", ".py'?")
        raise SpaceError(f"no such space file: {shown}.{near or ' Give the path of a Python file'}") from None
    except OSError as error:
        raise SpaceError(f"cannot read the space file {shown}: {error.strerror}") from None
    except ValueError as error:
        raise SpaceError(f"cannot read the space file {shown}: {error}") from None
    try:
        return ast.parse(source, str(path))
    except (RecursionError, MemoryError):
        raise SpaceError(f"{shown} is nested too deeply for Python: write it with fewer levels") from None
    except (SyntaxError, ValueError) as error:
        line, text = getattr(error, "lineno", None), as_one_line(str(getattr(error, "msg", error)))
        if line is None:
            raise SpaceError(f"{shown} is not a Python file ({text}): give one with Python source") from None
        raise SpaceError(f"{shown}:{line}: {text}: correct the file's syntax") from None


def written_options(tree: ast.Module) -> dict[str, ast.expr]:
    """Return the expressions in the file's `search_options`: some options are needed before the file can be run."""
    found: dict[str, ast.expr] = {}
    for node in tree.body:
        if not (isinstance(node, (ast.Assign, ast.AnnAssign)) and "search_options" in _targets(node)):
            continue
        if isinstance(node.value, ast.Dict):
            pairs = zip(node.value.keys, node.value.values, strict=True)
            found = {str(getattr(key, "value", None)): value for key, value in pairs}
        elif isinstance(node.value, ast.Call):
            found = {str(keyword.arg): keyword.value for keyword in node.value.keywords}
    return found


def _targets(node: ast.Assign | ast.AnnAssign) -> list[str | None]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [getattr(target, "id", None) for target in targets]


def read_space(ref: SpaceRef) -> Space:
    """Run the user's file, or unpickle the factory, and check that it has all that a search needs.

    Exceptions of the user's code pass through; `describe_error` locates them.

    Raises:
        SpaceError: the file lacks something, or a function has the wrong form.
    """
    if ref.path is not None:
        return space_from_module(import_space_file(Path(ref.path)))
    assert ref.pickle is not None
    pickled = Path(ref.pickle)
    with without_arguments(ref), open(pickled, "rb") as file:
        parts: dict[str, Any] = Unpickler(file).load()
        data_offset = file.tell()

    def load_data() -> Any:
        # The data follow the factory: a process that only rebuilds a model need not read them.
        with open(pickled, "rb") as file:
            file.seek(data_offset)
            data = Unpickler(file).load()
        for _, part in leaves_of("data", data):
            if isinstance(part, Missing):
                raise part.error()
        return data

    names, settings = parts.pop("names", {}), parts.pop("settings", {})  # pickles of older versions have none
    if settings:
        from search.space.pickling import set_keras_settings

        set_keras_settings(settings)
    if isinstance(hypermodel := parts.pop("hypermodel", None), Missing):
        raise hypermodel.error()
    if hypermodel is not None:
        parts |= hypermodel_parts(hypermodel)
    return _checked(Space(load_data=load_data, names=names, **parts))


@contextlib.contextmanager
def without_arguments(ref: SpaceRef) -> Iterator[None]:
    """Make `sys.argv` that of the user's code, run as a program without arguments, within the context.

    The arguments of this process are not meant for that code, which may parse them.
    """
    before = sys.argv
    sys.argv = [ref.path or ref.pickle or ""]
    try:
        yield
    finally:
        sys.argv = before


_imported: tuple[Path, frozenset[str]] | None = None
"""The folder of the space file imported last, and the names of all modules imported before it."""


def import_space_file(path: Path) -> ModuleType:
    """Run a space file as the module `SPACE_MODULE`, with its folder first on `sys.path`.

    The previous space file's folder and local modules are dropped before.
    """
    _forget_previous_file()
    global _imported
    folder = path.parent.absolute()
    _imported = folder, frozenset(sys.modules)
    sys.path.insert(0, str(folder))
    os.environ["SEARCH_SPACE_FILE"] = str(path.absolute())
    if str(_SPAWNED) not in sys.path:
        sys.path.append(str(_SPAWNED))
    spec = importlib.util.spec_from_file_location(SPACE_MODULE, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[SPACE_MODULE] = module
    with without_arguments(SpaceRef(path=str(path))):
        spec.loader.exec_module(module)
    return module


def _forget_previous_file() -> None:
    """Remove the previous space file's folder from `sys.path`, and the modules imported from it.

    The next file may have modules of the same names beside it, or the same modules, changed since.
    """
    if _imported is None:
        return
    folder, before = _imported
    if str(folder) in sys.path:
        sys.path.remove(str(folder))
    for name, module in sys.modules.copy().items():
        file = getattr(module, "__file__", None)
        if name not in before and file and _is_local(Path(file), folder):
            del sys.modules[name]


def space_from_module(module: ModuleType) -> Space:
    """Return the user's functions in `module`. SpaceError if one is missing, or has the wrong form."""

    def get(name: str) -> Any:
        return getattr(module, name, None)

    parts = {
        name: get(name) for name in ("build_model", "load_data", "compile_model", "fit_options", "callbacks", "fit")
    }
    if (hypermodel := get("hypermodel")) is not None:
        if parts["build_model"] is not None:
            raise SpaceError("there are a hypermodel and a build_model: keep one of them")
        if parts["fit"] is not None:
            raise SpaceError("there are a hypermodel and a fit: the hypermodel's own fit is used, remove the other")
        parts |= hypermodel_parts(hypermodel)
    for name in ("build_model", "load_data"):
        if parts[name] is None:
            what = "takes hp and returns a keras.Model" if name == "build_model" else "returns (train, validation)"
            near = nearest(name, [known for known in vars(module) if not known.startswith("_")])
            raise SpaceError(f"there is no {name}: add a function {name} that {what}.{near}")
    options = get("search_options") or {}
    if not isinstance(options, Mapping):
        raise SpaceError(f"search_options is {describe_type(options)}: make it a dict of options")
    return _checked(Space(**parts, options=dict(options)))


def hypermodel_parts(hypermodel: Any) -> dict[str, Any]:
    """Return the fields of a `Space` that come from a `keras_tuner.HyperModel`."""
    build, fit = getattr(hypermodel, "build", None), getattr(hypermodel, "fit", None)
    if isinstance(hypermodel, type) or not callable(build):
        what = f"the class {hypermodel.__name__}" if isinstance(hypermodel, type) else describe_type(hypermodel)
        raise SpaceError(f"hypermodel is {what}: make it an instance of a keras_tuner.HyperModel, with a build(hp)")
    parts = {
        "build_model": _after_declaration(hypermodel, build),
        "is_hypermodel": True,
        "probes_fit": not getattr(hypermodel, "skips_probe", False),
    }
    # KerasTuner's default `fit` only calls `model.fit`.
    return parts if fit is None or _is_keras_tuners(fit) else {**parts, "fit": fit}


def _after_declaration(hypermodel: Any, build: Callable[..., Any]) -> Callable[..., Any]:
    """Return `build`, preceded by the hypermodel's own `declare_hyperparameters` if it has one."""
    declare = getattr(hypermodel, "declare_hyperparameters", None)
    if declare is None or _is_keras_tuners(declare):
        return build

    @functools.wraps(build)
    def declare_and_build(hp: Any) -> Any:
        declare(hp)
        return build(hp)

    return declare_and_build


def _is_keras_tuners(function: Any) -> bool:
    """Return whether `function` is a part of KerasTuner, and no override of the user's."""
    return str(getattr(function, "__module__", "")).partition(".")[0] == "keras_tuner"


def _checked(space: Space) -> Space:
    takes_model = _has_model_argument(space.callbacks)
    for name, wanted in (
        ("build_model", 1),
        ("compile_model", 2),
        ("fit_options", 1),
        ("callbacks", 2 if takes_model else 1),
    ):
        function = getattr(space, name)
        if function is None:
            continue
        if not callable(function):
            raise SpaceError(f"{name} is {describe_type(function)}: make it a function")
        if not _takes(function, wanted):
            arguments = "hp, model" if wanted == 2 else "hp"
            raise SpaceError(f"{name} cannot be called with ({arguments}): write def {name}({arguments})")
    if space.fit is not None:
        if not callable(space.fit):
            raise SpaceError(f"fit is {describe_type(space.fit)}: make it a function")
        if not space.is_hypermodel and not _takes(space.fit, 4, ("epochs", "initial_epoch", "callbacks", "verbose")):
            raise SpaceError(
                "fit cannot be called with (hp, model, train, validation): write def fit(hp, model, train, "
                "validation, **kwargs)"
            )
    if not callable(space.load_data):
        raise SpaceError(f"load_data is {describe_type(space.load_data)}: make it a function")
    takes_hp = not _takes(space.load_data, 0) and next(iter(inspect.signature(space.load_data).parameters)) == "hp"
    if not _takes(space.load_data, 1 if takes_hp else 0):
        raise SpaceError("load_data wants arguments: write def load_data(), or def load_data(hp)")
    return replace(space, data_takes_hp=takes_hp, callbacks_take_model=takes_model)


def _has_model_argument(function: Any) -> bool:
    """Return whether a function wants `model` after `hp`: it has an argument of that name, or cannot do without."""
    if not callable(function) or not _takes(function, 2):
        return False
    try:
        names = list(inspect.signature(function).parameters)
    except ValueError:
        return False  # a builtin without a signature
    return names[1:2] == ["model"] or not _takes(function, 1)


def _takes(function: Callable[..., Any], count: int, names: tuple[str, ...] = ()) -> bool:
    """Return whether `function` accepts `count` positional arguments.

    Args:
        names: keyword arguments, also passed if the function has parameters of these names.
    """
    try:
        signature = inspect.signature(function)
        signature.bind(*range(count), **{name: None for name in names if name in signature.parameters})
    except TypeError:
        return False
    except ValueError:
        return True  # a builtin without a signature
    return True


# Errors in the user's code --------------------------------------------------------------------------------------------


def describe_error(error: BaseException, path: Path | None = None, elsewhere: str | None = None) -> str:
    """Return one line for an exception of the user's code: `file:line: Type: message`.

    File and line are those of the innermost frame in the user's files.

    Args:
        path: the space file; None for a pickled factory.
        elsewhere: replaces file and line if the traceback has no frame in the user's files.
    """
    place = _place(error, path.parent.absolute() if path is not None else None) or elsewhere
    return f"{escape_unprintable(place)}: {summarize_error(error)}" if place else summarize_error(error)


def format_traceback() -> str:
    """Return the traceback of the exception being handled, in characters that UTF-8 can encode."""
    return traceback.format_exc().encode(errors="backslashreplace").decode()


def _place(error: BaseException, folder: Path | None) -> str | None:
    """Return `file:line` of the innermost frame of `error` in the user's files; None if there is none."""
    if isinstance(error, SyntaxError) and isinstance(error.filename, str) and error.lineno is not None:
        # Code in a string has no file: then the line that compiles the string counts.
        file = Path(error.filename)
        if _is_users(file, folder) and file.is_file():
            return f"{error.filename}:{error.lineno}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and _is_users(Path(frame.filename), folder)
    ]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None


def _is_users(path: Path, folder: Path | None) -> bool:
    """Return whether `path` is a file of the user's.

    Args:
        folder: the space file's folder; the user's files lie in it. None for a pickled factory: then every file counts
            that is not installed.
    """
    if folder is not None:
        return _is_local(path, folder)
    installed = {Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")} | {_PACKAGE}
    # An environment may see packages of others: the system's, a user's, those that a `.pth` file names.
    return path.is_absolute() and installed.isdisjoint(path.parents) and INSTALLED.isdisjoint(path.parts)


def is_users_module(module: ModuleType) -> bool:
    """Return whether `module` is a file of the user's own, neither installed nor run as a program."""
    file = getattr(module, "__file__", None)
    return file is not None and module.__name__ != "__main__" and is_users_file(Path(file))


def is_users_file(path: Path) -> bool:
    """Return whether `path` is a file of the user's own, not an installed one."""
    return _is_users(path.absolute(), None)


def describe_type(value: Any) -> str:
    """Return the type of `value` for a message: "None", "a dict", "an int"."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"


# Local modules --------------------------------------------------------------------------------------------------------


def _is_local(path: Path, folder: Path) -> bool:
    """Return whether `path` lies in the space file's folder and is neither installed nor part of `search`."""
    try:
        relative = path.absolute().relative_to(folder)
    except ValueError:
        return False
    return (
        _PACKAGE not in path.absolute().parents
        and not any(part in INSTALLED or part.startswith(".") for part in relative.parts)
        and not any((parent / "pyvenv.cfg").exists() for parent in path.absolute().parents if folder in parent.parents)
    )


def local_files(space_file: Path) -> tuple[tuple[str, str], ...]:
    """Return the space file and the imported modules beside it, as pairs (path relative to its folder, path)."""
    folder = space_file.parent.absolute()
    found = {space_file.absolute()}
    for title, module in sys.modules.copy().items():
        name = getattr(module, "__file__", None)
        if title == "__main__" or not name or not name.endswith(".py"):
            continue
        # This rules out most of thousands of modules at once. To take a path apart takes longer.
        if name.startswith("/") and folder.name not in name:
            continue
        # Some modules of PyTorch name files that do not exist.
        if _is_local(Path(name), folder) and Path(name).is_file():
            found.add(Path(name).absolute())
    return tuple((str(path.relative_to(folder)), str(path)) for path in sorted(found))
