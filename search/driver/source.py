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
from search.space.digests import digest_object
from search.space.error_text import escape_unprintable
from search.space.file import is_users_module, parse_file, space_from_module, written_options
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
        """Return the factory's pickle, followed by the pickle of its data. SpaceError if it cannot be pickled."""
        import cloudpickle

        from search.space import pickling

        assert self.parts is not None
        factory = {name: part for name, part in self.parts.items() if name != "data"}
        # The user's modules travel along: another process may not find them.
        for module in self._own_modules():
            cloudpickle.register_pickle_by_value(sys.modules[module])
        try:
            return pickling.dumps_factory(factory) + pickling.dumps(self.parts["data"])
        except Exception as error:
            raise SpaceError(self._describe_unpicklable(error)) from error

    def digests(self) -> dict[str, str]:
        """Return the digest of the factory's code, under `code`, and of its data, under `data`; "" if it has none.

        Python's version counts as code, since a digest holds for one version.
        """
        assert self.parts is not None
        if not self._digests:  # large data take seconds
            own = {"__main__", *self._own_modules()}
            factory = [sys.version_info[:2], {name: part for name, part in self.parts.items() if name != "data"}]
            self._digests["code"] = digest_object(factory, own)
            self._digests["data"] = digest_object(self.parts["data"], own)
        return self._digests

    def _own_modules(self) -> set[str]:
        """Return the user's modules that the parts come from."""
        assert self.parts is not None
        found = {getattr(part, "__module__", None) for name, part in self.parts.items() if name != "data"}
        return {name for name in found if name in sys.modules and is_users_module(sys.modules[name])}

    def _describe_unpicklable(self, error: Exception) -> str:
        """Return a line about the argument that cannot be pickled, as the pickling of all has failed with `error`."""
        assert self.parts is not None
        parts, data = {name: part for name, part in self.parts.items() if name != "data"}, self.parts["data"]
        several = isinstance(data, (tuple, list))
        parts |= {f"data[{i}]": part for i, part in enumerate(data)} if several else {"data": data}
        causes = ((name, _pickle_error(part)) for name, part in parts.items())
        name, cause = next(((name, cause) for name, cause in causes if cause is not None), ("", error))
        reason = f"cannot be sent to a worker ({type(cause).__name__}: {cause})"
        if name.startswith("data"):
            return f"{name} {reason}: give arrays, a tf.data.Dataset or a keras.utils.PyDataset, or write a space file"
        argument = "space" if name in ("build_model", "hypermodel", "") else name
        return f"{argument} {reason}: make what it uses inside of it, or write a space file"


def _pickle_error(part: Any) -> Exception | None:
    """Return the exception that pickling raises, or None."""
    from search.space import pickling

    try:
        pickling.dumps(part)
    except Exception as error:
        return error
    return None
