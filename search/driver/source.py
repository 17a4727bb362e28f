"""The source of a search: a space file, or the parts of a space given from Python."""

from __future__ import annotations

import ast
import sys
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search import options
from search.errors import OptionError, SpaceError
from search.space import inherited
from search.space.digests import digest_object
from search.space.error_text import escape_unprintable
from search.space.file import describe_type, is_users_module, parse_file, space_from_module, written_options
from search.space.static import UNKNOWN, literal_options, static_module

__all__ = ["Source"]


@dataclass(frozen=True, slots=True)
class Source:
    """A space file, or the parts of a space.

    Attributes:
        path: the space file, or None.
        parts: `build_model` or `hypermodel`, `data` and further functions, by name. Empty for a resumed study of a
            factory, whose pickle the study has already.
    """

    path: Path | None = None
    parts: Mapping[str, Any] | None = None
    _digests: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)
    _keys: dict[int, inherited.Key] = field(default_factory=dict, init=False, repr=False, compare=False)
    _kept: dict[str, tuple[Any, Exception]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def label(self) -> str:
        """The source's name in messages."""
        return str(self.path) if self.path else "the factory"

    def default_name(self) -> str:
        """Return the name of a study that the user gives none."""
        if self.path is not None:
            return self.path.stem
        assert self.parts is not None
        factory = self.parts.get("build_model") or type(self.parts["hypermodel"])
        return getattr(factory, "__name__", "study").strip("_<>") or "study"

    def early_options(self) -> dict[str, Any]:
        """Return the file's options that must be known before it is run; they are read without running it.

        Raises:
            OptionError: an option is not written as a constant, or has a wrong value.
        """
        written = written_options(parse_file(self.path)) if self.path else {}
        early = {}
        for name in options.EARLY:
            if name not in written:
                continue
            node = written[name]
            with options.error_prefix(f"{self.path}:{node.lineno}"):
                if not isinstance(node, ast.Constant):
                    raise OptionError(f"{name} must be known before the file is run: write its value here, as text")
                if node.value is not None:
                    early[name] = options.check_option(name, node.value)
        return early

    def check_written(self, known: Container[str]) -> None:
        """Check all of the file that can be known before it is run, and the framework imported.

        Args:
            known: options that the user gives, or that the resumed study has.

        Raises:
            UserError: the file has a fault; the message is that of a file that was run.
        """
        if self.path is None:
            return
        tree = parse_file(self.path)
        module = static_module(tree)
        if module is not None:
            try:
                space_from_module(module)
            except SpaceError as error:
                raise SpaceError(f"{escape_unprintable(self.path.absolute())}: {error}") from None
        written = {name: None if value is UNKNOWN else value for name, value in literal_options(tree).items()}
        options.check_written_options(written, known, self.label)

    def written_seed(self) -> int | None:
        """Return the seed in the file's `search_options` if it is written there as a number."""
        node = written_options(parse_file(self.path)).get("seed") if self.path else None
        value = node.value if isinstance(node, ast.Constant) else None
        return value if type(value) is int and 0 <= value <= options.LARGEST_SEED else None

    def writes(self, name: str) -> bool:
        """Return whether the file's `search_options` have the option `name`."""
        return self.path is not None and name in written_options(parse_file(self.path))

    def pickled(self) -> bytes:
        """Return the factory's pickle, followed by the pickle of its data.

        A part that cannot be pickled is kept in this process's memory from now on, and the pickle has its key.

        Raises:
            SpaceError: something cannot be pickled and cannot be kept apart.
        """
        import cloudpickle

        assert self.parts is not None
        # The user's modules travel along: another process may not find them.
        for module in self._own_modules():
            cloudpickle.register_pickle_by_value(sys.modules[module])
        try:
            return self._pickled()
        except Exception as error:
            found = self._unpicklable()
            if not found:
                raise SpaceError(self._refusal("space", error)) from error
            self._kept.update(found)
            self._keys.update(inherited.keep({name: part for name, (part, _) in found.items()}))
        try:
            return self._pickled()
        except Exception as error:
            raise SpaceError(self._refusal(next(iter(found)), error)) from error

    def _pickled(self) -> bytes:
        from search.space import pickling

        assert self.parts is not None
        factory = {name: part for name, part in self.parts.items() if name != "data"}
        return pickling.dumps_factory(factory, self._keys) + pickling.dumps(self.parts["data"], self._keys)

    def _unpicklable(self) -> dict[str, tuple[Any, Exception]]:
        """Return the innermost parts that cannot be pickled, with the reasons, by the names of their arguments."""
        assert self.parts is not None
        leaves = [leaf for name, part in self.parts.items() for leaf in inherited.leaves_of(name, part)]
        causes = [(name, part, _pickle_error(part)) for name, part in leaves]
        return {name: (part, cause) for name, part, cause in causes if cause is not None}

    @property
    def kept_parts(self) -> tuple[str, ...]:
        """The parts that `pickled` has kept in memory, for people: `x (a generator)`. Only forks of it have them."""
        return tuple(f"{_argument(name)} ({describe_type(part)})" for name, (part, _) in self._kept.items())

    def refusal(self, reason: str) -> SpaceError:
        """Return the error for parts that `pickled` has kept in memory, and that no worker can inherit.

        Args:
            reason: why not.
        """
        name, (_, cause) = next(iter(self._kept.items()))
        return SpaceError(self._refusal(name, cause, f", and no worker can inherit it, as {reason}"))

    def release(self) -> None:
        """Drop the data that `pickled` has kept in memory. Functions stay, for models that are built later."""
        inherited.forget({key: name for key, name in self._keys.items() if not callable(inherited.find(name))})

    def digests(self) -> dict[str, str]:
        """Return the digest of the factory's code, under `code`, and of its data, under `data`; "" if it has none.

        Python's version counts as code, since a digest holds for one version.
        """
        assert self.parts is not None
        if not self._digests:  # large data take seconds
            own = {"__main__", *self._own_modules()}
            factory = [sys.version_info[:2], {name: part for name, part in self.parts.items() if name != "data"}]
            from search.space.pickling import keras_settings

            factory += [settings] if (settings := keras_settings()) else []
            self._digests["code"] = digest_object(factory, own)
            self._digests["data"] = digest_object(self.parts["data"], own)
        return self._digests

    def _own_modules(self) -> set[str]:
        """Return the user's modules that the parts come from."""
        assert self.parts is not None
        parts = [part for name, part in self.parts.items() if name != "data"]
        # A part of ours may stand in for the user's own objects.
        inner = [each for part in parts for each in getattr(part, "users_objects", ())]
        found = {getattr(part, "__module__", None) for part in (*parts, *inner)}
        return {name for name in found if name in sys.modules and is_users_module(sys.modules[name])}

    def _refusal(self, name: str, cause: Exception, further: str = "") -> str:
        """Return a line about a part that cannot be pickled.

        Args:
            name: the argument's name.
            further: a further reason, which begins with a comma.
        """
        assert self.parts is not None
        data = {name for name, _ in inherited.leaves_of("data", self.parts["data"])}
        refused = f"{_argument(name)} cannot be sent to a worker ({type(cause).__name__}: {cause}){further}"
        if name in data:
            return f"{refused}: give arrays, a tf.data.Dataset or a keras.utils.PyDataset, or write a space file"
        return f"{refused}: make what it uses inside of it, or write a space file"


def _argument(name: str) -> str:
    """Return the argument of `search.run` that has a part."""
    return "space" if name in ("build_model", "hypermodel") else name


def _pickle_error(part: Any) -> Exception | None:
    """Return the exception that pickling raises, or None."""
    from search.space import pickling

    try:
        pickling.dumps(part)
    except Exception as error:
        return error
    return None
