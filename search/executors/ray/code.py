"""The user's code on its way to other nodes: the space file with its local modules, or a factory's pickle.

Ray's `runtime_env` would copy it to every node, also to those that have it, and change the workers' current folder and
module path. So the owner of a node gets the files in a call. It uses the user's own files if it finds the same content
at the same path: on the same machine, or on a shared disk.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from search.messages import Message, Probed
from search.space.file import SpaceRef

__all__ = ["Code", "Copies", "find_local_files", "pack_code"]


@dataclass(frozen=True, slots=True)
class Code:
    """The files of a space.

    Attributes:
        path: the space file or the pickle, on the driver's machine.
        names: the files, relative to the folder of `path`.
        digest: of names and contents.
        contents: those of the files, in the order of `names`. None where they stay on the driver's machine.
    """

    path: str
    names: tuple[str, ...]
    digest: str
    contents: tuple[bytes, ...] | None = field(default=None, repr=False)


def pack_code(ref: SpaceRef, more: Iterable[tuple[str, str]] = ()) -> Code:
    """Read the files of a space.

    Args:
        more: further files, as (name relative to the space file's folder, path): those that a probe has seen.
    """
    path = Path(str(ref.path or ref.pickle))
    files = {path.name: path}
    if ref.path is not None:
        files |= {name: Path(file) for name, file in find_local_files(path)} | {name: Path(file) for name, file in more}
    names = tuple(sorted(files))
    contents = tuple(files[name].read_bytes() for name in names)
    return Code(str(path), names, _digest(names, contents), contents)


def _digest(names: tuple[str, ...], contents: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in zip(names, contents, strict=True):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


# The modules that a file imports --------------------------------------------------------------------------------------


def find_local_files(space_file: Path) -> tuple[tuple[str, str], ...]:
    """Return the space file and the modules beside it that it imports, as (path relative to its folder, path).

    Nothing is run. Modules of their imports are found in turn. A module that is named only while the code runs is not.
    """
    folder = space_file.absolute().parent
    found: dict[Path, None] = {}
    todo = [space_file.absolute()]
    while todo:
        path = todo.pop()
        if path not in found:
            found[path] = None
            todo += _imported_files(path, folder)
    return tuple((str(path.relative_to(folder)), str(path)) for path in sorted(found))


def _imported_files(path: Path, folder: Path) -> Iterator[Path]:
    """Yield the files in `folder` that the file at `path` imports."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return  # the probe says what is wrong
    package = path.parent.relative_to(folder).parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files_of(folder, alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            for alias in node.names:
                yield from _files_of(folder, [*base, alias.name])


def _files_of(folder: Path, parts: list[str]) -> Iterator[Path]:
    """Yield the files of a module and of the packages above it. The last part may be a name in a module."""
    for count in range(1, len(parts) + 1):
        place = folder.joinpath(*parts[:count])
        for file in (place.with_name(place.name + ".py"), place / "__init__.py"):
            if file.is_file():
                yield file


# On a node ------------------------------------------------------------------------------------------------------------


class Copies:
    """The user's code on one node.

    Args:
        folder: the folder for copies of files that the node does not have.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[str, str] = {}
        self._renamed: dict[str, str] = {}
        """The folder of the originals for each folder of copies."""

    def is_in_place(self, code: Code) -> bool:
        """Return whether the node has the same files at the same path. If so, these are used from now on."""
        origin = Path(code.path).parent
        try:
            same = _digest(code.names, [(origin / name).read_bytes() for name in code.names]) == code.digest
        except OSError:
            same = False
        if same:
            self._places[code.path] = code.path
        return same

    def write(self, code: Code) -> None:
        """Write copies of the files, and use them from now on."""
        assert code.contents is not None
        folder = self._folder / code.digest
        for name, content in zip(code.names, code.contents, strict=True):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        self._places[code.path] = str(folder / Path(code.path).name)
        self._renamed[str(folder)] = str(Path(code.path).parent)

    def locate(self, ref: SpaceRef) -> SpaceRef:
        """Return the place of the user's code on this node."""
        if ref.path is not None:
            return replace(ref, path=self._places.get(ref.path, ref.path))
        return replace(ref, pickle=self._places.get(str(ref.pickle), ref.pickle))

    def with_original_paths(self, message: Message) -> Message:
        """Return a message in which the user's own paths stand for those of the copies."""
        if not self._renamed:
            return message
        if isinstance(message, Probed):
            return replace(message, files=tuple((name, self._original(path)) for name, path in message.files))
        changed: dict[str, Any] = {
            each.name: self._original(value)
            for each in dataclasses.fields(message)
            if isinstance(value := getattr(message, each.name), str)
        }
        return replace(message, **changed) if changed else message

    def _original(self, text: str) -> str:
        for copy, original in self._renamed.items():
            text = text.replace(copy, original)
        return text
