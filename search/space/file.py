"""Space files: what the user writes, loaded and checked. Imports no framework; only a worker, or whoever asks for a
trained model, runs the user's code.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from search.errors import SearchError, SpaceError, nearest
from search.space.domain import Parameter
from search.space.old_names import Unpickler

MODULE = "search_space"
"""The name the space file is imported under: a file called `keras.py` must not hide Keras."""

LONGEST = 400
"""Characters of an exception's message that one line of ours holds."""

_OWN = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class SpaceRef:
    """Where a worker finds the user's code: a file, or a cloudpickle of a factory and its data."""

    path: str | None = None
    pickle: str | None = None

    @property
    def label(self) -> str:
        return self.path or "the factory"


@dataclass(frozen=True)
class Space:
    """The user's functions. Each may be called again and again, with another `hp` every time.

    Attributes:
        build_model: `hp` → a Keras model, compiled or not.
        load_data: → (train, validation[, test]); takes `hp` where `data_takes_hp`.
        compile_model: `hp, model` → None, or the model; compiles it.
        fit_options: `hp` → keyword arguments of `model.fit`.
        callbacks: `hp` → a list of fresh Keras callbacks.
        fit: replaces `model.fit`: `hp, model, train, validation, **kwargs`, or as KerasTuner's `HyperModel.fit`.
        is_hypermodel: whether `fit` is a HyperModel's.
        options: the file's `search_options`.
    """

    build_model: Callable[..., Any]
    load_data: Callable[..., Any]
    compile_model: Callable[..., Any] | None = None
    fit_options: Callable[..., Any] | None = None
    callbacks: Callable[..., Any] | None = None
    fit: Callable[..., Any] | None = None
    is_hypermodel: bool = False
    data_takes_hp: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def fit_arguments(self, raw: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What `fit` is given of `raw`, which `load_data` returned: (positional, named) arguments."""
        train, validation = raw[:2]
        if not self.is_hypermodel:
            return (train, validation), {}
        # As `tuner.search(x, y, sample_weight=…, validation_data=…)`, or `tuner.search(dataset, …)`, hands them on.
        named = {} if validation is None else {"validation_data": validation}
        if not isinstance(train, tuple):
            return (train,), named
        if len(train) == 3:
            named["sample_weight"] = train[2]
        return tuple(train[:2]), named


def parse(path: Path) -> ast.Module:
    """The syntax tree of a space file. SpaceError where there is no such file or Python cannot read it."""
    shown = visible(path)
    try:
        if path.is_dir():
            raise SpaceError(f"{shown} is a folder: give the space file in it, such as {visible(path / 'space.py')}")
        source = path.read_bytes()
    except FileNotFoundError:
        near = nearest(path.stem, [found.stem for found in path.parent.glob("*.py")])
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
        line, text = getattr(error, "lineno", None), one_line(str(getattr(error, "msg", error)))
        if line is None:
            raise SpaceError(f"{shown} is not a Python file ({text}): give one with Python source") from None
        raise SpaceError(f"{shown}:{line}: {text}: correct the file's syntax") from None


def written_options(tree: ast.Module) -> dict[str, ast.expr]:
    """The file's `search_options` as they are written: some must be known before the file can be run."""
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


def load(ref: SpaceRef) -> Space:
    """Run the user's file, or unpickle the factory, and check that it has what a search needs.

    What the user's code raises passes through: `describe` says where it did.

    Raises:
        SpaceError: what the file lacks.
    """
    if ref.path is not None:
        return _from_module(_import(Path(ref.path)))
    assert ref.pickle is not None
    pickled = Path(ref.pickle)
    with open(pickled, "rb") as file:
        parts: dict[str, Any] = Unpickler(file).load()
        behind = file.tell()

    def load_data() -> Any:
        # The data lie behind: who brings a model back need not read them.
        with open(pickled, "rb") as file:
            file.seek(behind)
            return Unpickler(file).load()

    if (hypermodel := parts.pop("hypermodel", None)) is not None:
        parts |= of_hypermodel(hypermodel)
    return _checked(Space(load_data=load_data, **parts))


_imported: tuple[Path, frozenset[str]] | None = None
"""The folder of the last space file that was imported, and the modules that were there before."""


def _import(path: Path) -> ModuleType:
    _forget_last()
    global _imported
    folder = path.parent.absolute()
    _imported = folder, frozenset(sys.modules)
    sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location(MODULE, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    spec.loader.exec_module(module)
    return module


def _forget_last() -> None:
    """Another space file may have modules of the same names beside it, or the same ones, changed since."""
    if _imported is None:
        return
    folder, before = _imported
    if str(folder) in sys.path:
        sys.path.remove(str(folder))
    for name, module in sys.modules.copy().items():
        file = getattr(module, "__file__", None)
        if name not in before and file and _is_local(Path(file), folder):
            del sys.modules[name]


def _from_module(module: ModuleType) -> Space:
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
        parts |= of_hypermodel(hypermodel)
    for name in ("build_model", "load_data"):
        if parts[name] is None:
            what = "takes hp and returns a keras.Model" if name == "build_model" else "returns (train, validation)"
            near = nearest(name, [known for known in vars(module) if not known.startswith("_")])
            raise SpaceError(f"there is no {name}: add a function {name} that {what}.{near}")
    options = get("search_options") or {}
    if not isinstance(options, Mapping):
        raise SpaceError(f"search_options is {kind(options)}: make it a dict of options")
    return _checked(Space(**parts, options=dict(options)))


def of_hypermodel(hypermodel: Any) -> dict[str, Any]:
    """The parts of a Space that a `keras_tuner.HyperModel` gives."""
    build, fit = getattr(hypermodel, "build", None), getattr(type(hypermodel), "fit", None)
    if isinstance(hypermodel, type) or not callable(build):
        what = f"the class {hypermodel.__name__}" if isinstance(hypermodel, type) else kind(hypermodel)
        raise SpaceError(f"hypermodel is {what}: make it an instance of a keras_tuner.HyperModel, with a build(hp)")
    # KerasTuner's own `fit` only calls `model.fit`.
    own = fit is not None and not fit.__module__.startswith("keras_tuner")
    parts = {"build_model": build, "is_hypermodel": True}
    return {**parts, "fit": hypermodel.fit} if own else parts


def _checked(space: Space) -> Space:
    for name, wanted in (("build_model", 1), ("compile_model", 2), ("fit_options", 1), ("callbacks", 1)):
        function = getattr(space, name)
        if function is None:
            continue
        if not callable(function):
            raise SpaceError(f"{name} is {kind(function)}: make it a function")
        if not _takes(function, wanted):
            arguments = "hp, model" if wanted == 2 else "hp"
            raise SpaceError(f"{name} cannot be called with ({arguments}): write def {name}({arguments})")
    if space.fit is not None:
        if not callable(space.fit):
            raise SpaceError(f"fit is {kind(space.fit)}: make it a function")
        if not space.is_hypermodel and not _takes(space.fit, 4, ("epochs", "initial_epoch", "callbacks", "verbose")):
            raise SpaceError(
                "fit cannot be called with (hp, model, train, validation): write def fit(hp, model, train, "
                "validation, **kwargs)"
            )
    if not callable(space.load_data):
        raise SpaceError(f"load_data is {kind(space.load_data)}: make it a function")
    takes_hp = not _takes(space.load_data, 0) and next(iter(inspect.signature(space.load_data).parameters)) == "hp"
    if not _takes(space.load_data, 1 if takes_hp else 0):
        raise SpaceError("load_data wants arguments: write def load_data(), or def load_data(hp)")
    return replace(space, data_takes_hp=takes_hp)


def _takes(function: Callable[..., Any], count: int, names: tuple[str, ...] = ()) -> bool:
    """Whether `function` can be called with so many arguments, and those of `names` that it has by name."""
    try:
        signature = inspect.signature(function)
        signature.bind(*range(count), **{name: None for name in names if name in signature.parameters})
    except TypeError:
        return False
    except ValueError:
        return True  # a builtin without a signature
    return True


# What went wrong in the user's code ----------------------------------------------------------------------------------


def describe(error: BaseException, path: Path | None = None, elsewhere: str | None = None) -> str:
    """One line for an exception of the user's code: `file:line: Type: message`, the line innermost in their files.

    Args:
        path: the space file; None for a pickled factory.
        elsewhere: what stands for file and line where the exception came through none of their files.
    """
    where = _where(error, path.parent.absolute() if path is not None else None) or elsewhere
    return f"{visible(where)}: {_what(error)}" if where else _what(error)


def trace() -> str:
    """The traceback of the exception that is being handled, as any file can hold it."""
    return traceback.format_exc().encode(errors="backslashreplace").decode()


def one_line(text: str) -> str:
    """`text` as one line of at most `LONGEST` characters, of which each can be seen."""
    text = " ".join(text.split())
    text = f"{text[:LONGEST]}…" if len(text) > LONGEST else text
    return visible(text)


def visible(text: object) -> str:
    """`text` with all that cannot be seen escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def _what(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        code = "" if error.code is None else one_line(_said(lambda: repr(error.code)))
        return f"sys.exit({code}) was called: let the file's code return"
    # Keras colours what it says, and adds all that a layer was called with; TensorFlow names nodes of its graph.
    text = _said(lambda: str(error.msg or "") if isinstance(error, SyntaxError) else str(error))
    text = re.sub(r"\x1b\[[0-9;]*m|\{\{.*?\}\}", "", text)
    text, name = one_line(text.partition("Arguments received by ")[0]), one_line(type(error).__name__)
    if isinstance(error, SearchError):
        return text or name
    return f"{name}: {text}" if text else name


def _said(say: Callable[[], str]) -> str:
    """What an object of the user's says of itself; nothing where that raises an exception."""
    try:
        return say()
    except Exception:
        return ""


def _where(error: BaseException, folder: Path | None) -> str | None:
    if isinstance(error, SyntaxError) and isinstance(error.filename, str) and error.lineno is not None:
        # Code in a string has no file: then it is the line that has it compiled.
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
    """Whether a line of `path` is the user's: in a file beside the space file, or for a factory in any of their own."""
    if folder is not None:
        return _is_local(path, folder)
    installed = {Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")} | {_OWN}
    return path.is_absolute() and installed.isdisjoint(path.parents)


def is_own(module: ModuleType) -> bool:
    """Whether `module` is a file of the user's own, neither installed nor run as a program."""
    file = getattr(module, "__file__", None)
    return file is not None and module.__name__ != "__main__" and _is_users(Path(file).absolute(), None)


def kind(value: Any) -> str:
    """What `value` is, in words."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"


# Local modules --------------------------------------------------------------------------------------------------------


def _is_local(path: Path, folder: Path) -> bool:
    """Whether `path` is a file of the user's own beside the space file: not an installed package's, nor of search."""
    try:
        relative = path.absolute().relative_to(folder)
    except ValueError:
        return False
    return (
        _OWN not in path.absolute().parents
        and not any(part in ("site-packages", "dist-packages") or part.startswith(".") for part in relative.parts)
        and not any((parent / "pyvenv.cfg").exists() for parent in path.absolute().parents if folder in parent.parents)
    )


def local_files(space_file: Path) -> tuple[tuple[str, str], ...]:
    """The space file and the modules beside it that are imported by now: (path relative to its folder, path)."""
    folder = space_file.parent.absolute()
    found = {space_file.absolute()}
    for title, module in sys.modules.copy().items():
        name = getattr(module, "__file__", None)
        if title == "__main__" or not name or not name.endswith(".py"):
            continue
        # Some of PyTorch's modules have the names of files that are nowhere.
        if _is_local(Path(name), folder) and Path(name).is_file():
            found.add(Path(name).absolute())
    return tuple((str(path.relative_to(folder)), str(path)) for path in sorted(found))


def digest_of(files: tuple[tuple[str, str], ...]) -> str:
    """A digest of the files' names and contents, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, path in files:
        content = Path(path).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def digest_of_parameters(parameters: tuple[Parameter, ...]) -> str:
    """What stands for a digest of a pickled factory, which is not the same bytes twice."""
    return hashlib.sha256(repr(parameters).encode()).hexdigest()[:16]
