"""The registries: back ends, executors, stop rules and followers by name, ours and those of other packages.

Our own parts are named in a table here, and imported when they are used. A part of another package is an entry point of
the registry's group, or `module:Class`. It is loaded in the driver, which never imports Keras.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.errors import OptionError, nearest
from search.plugins.spec import parse_arguments, split_spec

if TYPE_CHECKING:
    from importlib import metadata

__all__ = ["BACKENDS", "EXECUTORS", "FOLLOWERS", "STOP_RULES", "Part", "Registry"]

FRAMEWORKS = ("keras", "tensorflow", "jax")
"""Packages that a part may not import when it is loaded: they take seconds, and the GPU's memory. PyTorch is allowed,
as Optuna's `gp` sampler needs it in the driver, too."""


@dataclass(frozen=True, slots=True)
class Part:
    """A class that an option names.

    Attributes:
        name: `name` or `module:Class`.
        cls: the class.
        make: makes an instance: the class, or its classmethod `from_setup` if it has one.
        arguments: those that the option gives.
        own: the class is one of this package.
    """

    name: str
    cls: Any
    make: Callable[..., Any]
    arguments: Mapping[str, Any]
    own: bool


@dataclass(frozen=True, slots=True, eq=False)
class Registry:
    """The parts of one kind, by name.

    Args:
        kind: the name of the kind in messages.
        option: the command-line option that names a part.
        group: the group of entry points.
        protocol: the version of the kind's protocol. A change that breaks parts of other packages adds 1.
        methods: those that a part must have.
        own: our parts, `module:Class` by name.
        inner: parts of ours that other code of ours names, and users do not.
        positional: the number of arguments that a part always gets.
        keywords: further arguments that the search gives by name, if the part takes them.
    """

    kind: str
    option: str
    group: str
    protocol: int
    methods: tuple[str, ...]
    own: Mapping[str, str]
    inner: Mapping[str, str] = field(default_factory=dict)
    positional: int = 0
    keywords: tuple[str, ...] = ()
    _loaded: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def _ours(self) -> Mapping[str, str]:
        return {**self.own, **self.inner}

    def check(self, spec: str) -> None:
        """Raise OptionError if `spec` names no part. `module:Class` is not looked at: nothing is imported here."""
        name, _ = split_spec(spec)
        if name not in self._ours and ":" not in name:
            self._entry_point(name)

    def load(self, spec: str) -> Part:
        """Return the part that `spec` names; its module is imported.

        Raises:
            OptionError: there is no such part, it cannot be imported, it was written for another version of the
                protocol, or it does not take these arguments.
        """
        name, text = split_spec(spec)
        cls = self.find(name)
        make = _constructor(cls)
        return Part(name, cls, make, self._arguments(name, make, text), name in self._ours)

    def find(self, name: str) -> Any:
        """Return the class called `name`, `name` or `module:Class`. OptionError as `load`."""
        if name in self._ours:
            module, _, target = self._ours[name].partition(":")
            return getattr(self._import_own(name, module), target)
        if name not in self._loaded:
            self._loaded[name] = self._import(name)
        return self._loaded[name]

    def keywords_of(self, cls: Any) -> Mapping[str, Any]:
        """Return those of `keywords` that a class takes, with their defaults there."""
        known = inspect.signature(_constructor(cls)).parameters
        return {name: known[name].default for name in self.keywords if name in known}

    def source(self, spec: str) -> str | None:
        """Return the package with its version that a part of another package comes from; None if there is none."""
        name, _ = split_spec(spec)
        if name in self._ours:
            return None
        from importlib import metadata

        if ":" not in name:
            package = self._entry_point(name).dist
        else:
            owners = metadata.packages_distributions().get(re.split("[.:]", name)[0])
            package = metadata.distribution(owners[0]) if owners else None
        return f"{package.name} {package.version}" if package is not None else None

    # Finding --------------------------------------------------------------------------------------------------------

    def _import_own(self, name: str, module: str) -> Any:
        """Return a module of this package. OptionError if it needs a package that is not installed."""
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            package = str(error.name).partition(".")[0]
            if package == __name__.partition(".")[0]:
                raise
            raise OptionError(
                f"{self.option} {name} needs {package}, which is not installed: pip install {package}"
            ) from None

    def _import(self, name: str) -> Any:
        """Return the class of another package."""
        module, colon, target = name.partition(":")
        if colon and module in self.own:
            raise OptionError(f"{self.option} {name!r}: write the arguments of {module} as {module}:key=value,…")
        if not colon:
            point = self._entry_point(name)
            module, target = point.module, point.attr
        found = self._import_module(name, module)
        for attribute in target.split("."):
            if not hasattr(found, attribute) and module == "__main__":
                raise OptionError(f"{self.option} {name!r} is a class of another script: move it to a module")
            if not hasattr(found, attribute):
                near = nearest(attribute, [each for each in vars(found) if not each.startswith("_")])
                raise OptionError(f"{self.option} {name!r}: {module} has no {attribute}.{near}")
            found = getattr(found, attribute)
        self._check_class(name, found)
        return found

    def _entry_point(self, name: str) -> metadata.EntryPoint:
        """Return the one entry point called `name`. OptionError if there is none, or if packages differ about it."""
        from importlib import metadata  # it takes a while to import, and searches with our own parts need it not

        points = metadata.entry_points(group=self.group)
        found = {_describe(point): point for point in points if point.name == name}
        if not found:
            known = [*self.own, *sorted({point.name for point in points})]
            raise OptionError(
                f"{self.option} {name!r} is not known: use {', '.join(known)}, or module:Class, or install the package "
                f"that has it.{nearest(name, known)}"
            )
        if len(found) > 1:
            raise OptionError(
                f"{self.option} {name!r} is the name of several {self.kind}s: {', '.join(sorted(found))}: write "
                "module:Class, or remove one package"
            )
        return next(iter(found.values()))

    def _import_module(self, name: str, module: str) -> Any:
        """Return the module of the part `name`. OptionError if it cannot be imported, or imports a framework."""
        try:
            with _current_folder(), _no_framework():
                return importlib.import_module(module)
        except _FrameworkImported as error:
            raise OptionError(
                f"{self.option} {name!r} imports {error} when it is loaded, and the search's own process must stay "
                f"without {error}: import it within the functions that need it"
            ) from None
        except (Exception, SystemExit) as error:
            if isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
                reason = f"there is no module {error.name}: install the package that has it, or run from its folder"
            else:
                reason = f"it cannot be imported ({type(error).__name__}: {error}): correct that, or use another"
            raise OptionError(f"{self.option} {name!r}: {reason}") from error

    def _check_class(self, name: str, found: Any) -> None:
        """Raise OptionError if `found` is no class of this kind, or one for another version of the protocol."""
        if not inspect.isclass(found):
            raise OptionError(f"{self.option} {name!r} is no class: name the class of a {self.kind}")
        protocol = getattr(found, "protocol", None)
        if type(protocol) is not int:
            raise OptionError(
                f"{self.option} {name!r} states no protocol: write protocol = {self.protocol} into the class if it was "
                f"written for that version"
            )
        if protocol != self.protocol:
            raise OptionError(
                f"{self.option} {name!r} was written for protocol {protocol} of {self.kind}s, and this version of "
                f"search speaks protocol {self.protocol}: install versions that fit"
            )
        if lacking := [method for method in self.methods if not callable(getattr(found, method, None))]:
            raise OptionError(f"{self.option} {name!r} lacks {', '.join(lacking)}: a {self.kind} has these methods")

    # Arguments ------------------------------------------------------------------------------------------------------

    def _arguments(self, name: str, make: Callable[..., Any], text: str) -> dict[str, Any]:
        """Return the arguments in `text`. OptionError if the part does not take them, or needs more."""
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        every = list(inspect.signature(make).parameters.values())[self.positional :]
        known = [each for each in every if each.kind in kinds and each.name not in self.keywords]
        if option := next((key for key in BACKEND_OPTIONS if f",{key}=" in f",{text}" and key in self.keywords), None):
            raise OptionError(f"{self.option} {name!r}: give --{option.replace('_', '-')} as an option of its own")
        given = parse_arguments(text, [each.name for each in known], self.option, name)
        if lacking := [each.name for each in known if each.default is each.empty and each.name not in given]:
            example = ",".join(f"{key}=…" for key in lacking)
            raise OptionError(f"{self.option} {name!r} needs {', '.join(lacking)}: write {name}:{example}")
        return given


def _constructor(cls: Any) -> Callable[..., Any]:
    return getattr(cls, "from_setup", cls)  # type: ignore[no-any-return]


def _describe(point: metadata.EntryPoint) -> str:
    package = point.dist.name if point.dist is not None else "?"
    return f"{point.value} of {package}"


class _FrameworkImported(BaseException):
    """The import of a framework. No `except ImportError` of a part hides it."""


class _FrameworkFinder:
    """A finder of modules that finds none, and raises `_FrameworkImported` for a framework in this thread."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name in FRAMEWORKS and threading.get_ident() == self._thread:
            raise _FrameworkImported(name)


@contextmanager
def _no_framework() -> Iterator[None]:
    """Refuse the import of a framework that this process does not have yet."""
    finder = _FrameworkFinder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


@contextmanager
def _current_folder() -> Iterator[None]:
    """Let modules in the current folder be found, after all others."""
    folder = str(Path.cwd())
    if added := folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)
    try:
        yield
    finally:
        if added and folder in sys.path:
            sys.path.remove(folder)


def spec_of(part: object) -> str:
    """Return the text that names a part: a class by its module and name, anything else as it is.

    Raises:
        OptionError: the class is defined within a function, where no later process finds it.
    """
    if not isinstance(part, type):
        return str(part)
    if "<locals>" in part.__qualname__:
        raise OptionError(f"{part.__qualname__} is defined within a function: move it to the top of a module")
    return f"{part.__module__}:{part.__qualname__}"


BACKEND_OPTIONS: Sequence[str] = ("max_epochs", "factor", "iterations", "sampler", "pruner")
"""The options of a search that a back end gets, if its constructor has arguments of these names."""

BACKENDS = Registry(
    "back end",
    "--backend",
    "search.backends",
    protocol=1,
    methods=("ask", "suggest", "judge", "apply", "learn"),
    own={
        "hyperband": "search.backends.hyperband:Hyperband",
        "asha": "search.backends.asha:Asha",
        "freeze-thaw": "search.backends.freeze_thaw.backend:FreezeThaw",
        "optuna": "search.backends.optuna:Optuna",
    },
    inner={"keras-tuner-oracle": "search.compat.oracle_backend:OracleBackEnd"},
    positional=2,
    keywords=("parameters", *BACKEND_OPTIONS),
)

EXECUTORS = Registry(
    "executor",
    "--executor",
    "search.executors",
    protocol=2,
    methods=("probe", "start", "send", "kill", "poll", "close"),
    own={
        "local": "search.executors.local:LocalExecutor",
        "inline": "search.executors.inline:InlineExecutor",
        "ray": "search.executors.ray.executor:RayExecutor",
    },
    positional=1,
)

STOP_RULES = Registry(
    "stop rule",
    "--stop-rule",
    "search.stop_rules",
    protocol=1,
    methods=("check",),
    own={
        "timeout": "search.scheduler.stopping:Timeout",
        "target": "search.scheduler.stopping:Target",
        "consecutive_failures": "search.scheduler.stopping:ConsecutiveFailures",
        "failures_in_a_row": "search.scheduler.stopping:FailuresInARow",
        "common_error": "search.scheduler.stopping:CommonError",
        "only_infeasible": "search.scheduler.stopping:OnlyInfeasible",
    },
)

FOLLOWERS = Registry(
    "follower",
    "--follow",
    "search.followers",
    protocol=1,
    methods=("take", "flushed"),
    own={"tensorboard": "search.tracking.tensorboard:TensorBoardLog"},
    positional=1,
)
