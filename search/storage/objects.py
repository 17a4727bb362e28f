"""The files of one trial behind a URL of fsspec's.

    <trial>/
    ├── 000002.000001-8f3a.json     the list: the folder in which each file of the trial lies
    ├── 000002.000001-8f3a/         the files that were written with this list
    └── 000002.000000-8f3a/         files of an earlier list that are still the present ones

No object is written twice, and a list is written after its files. So what is read is always one whole state, also on
file systems where a broken write leaves half a file. The newest list counts: its name has the number of the worker
that writes, and the number of its write. A worker claims the trial by the next number. One that was given up, and still
runs, finds a newer list than its own and stops.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from search.errors import SearchError
from search.storage.urls import drop_credentials, needs_folders, open_url, storage_errors

__all__ = ["Superseded", "TrialObjects"]

_LIST = re.compile(r"(\d{6})\.(\d{6})-[0-9a-f]+\.json")


class Superseded(SearchError):
    """Another worker has claimed the trial."""


class TrialObjects:
    """The files of a trial at `url`. All methods raise Unavailable if the storage does not answer.

    Args:
        url: of the trial's own folder.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._fs: Any
        self._fs, self._root = open_url(url)
        self._root = self._root.rstrip("/")
        self._token = secrets.token_hex(4)
        self._name = ""
        """The name of the newest list that is known here, without its ending; "" if there is none."""
        self._folders: dict[str, str] = {}

    def versions(self) -> Mapping[str, str]:
        """Read the newest list. Return the version of each file: the folder in which it lies."""
        with storage_errors(self._url):
            self._read(self._find())
            return dict(self._folders)

    def claim(self) -> Mapping[str, str]:
        """Become the only writer of the trial. Return the version of each file."""
        with storage_errors(self._url):
            found = self._find()
            self._read(found)
            writer = int(self._name[:6] or 0) + 1
            self._write_list(f"{writer:06d}.{0:06d}-{self._token}", dict(self._folders))
            return dict(self._folders)

    def get(self, name: str, to: Path) -> None:
        """Copy the file `name` of the list that was read to the local path `to`."""
        with storage_errors(self._url):
            self._fs.get_file(f"{self._root}/{self._folders[name]}/{name}", str(to))

    def put(self, files: Mapping[str, Path], gone: Collection[str] = ()) -> Mapping[str, str]:
        """Write local `files` by their names, and leave out those that are `gone`. Return the version of each file.

        Raises:
            Superseded: another worker has claimed the trial.
        """
        with storage_errors(self._url):
            found = self._find()
            if self._newest(found) != self._name:
                raise Superseded(f"{drop_credentials(self._url)} belongs to another worker now")
            writer, _, count = self._name.partition("-")[0].partition(".")
            name = f"{writer}.{int(count) + 1:06d}-{self._token}"
            for file, path in files.items():
                self._put_file(path, f"{self._root}/{name}/{file}")
            kept = {file: folder for file, folder in self._folders.items() if file not in gone}
            self._write_list(name, {**kept, **dict.fromkeys(files, name)})
            self._clean(found)
            return dict(self._folders)

    def copy(self, name: str, other: TrialObjects, other_name: str) -> None:
        """Copy the file `name` to another trial, which no worker has claimed yet.

        FileNotFoundError if there is none.
        """
        if name not in self.versions():
            raise FileNotFoundError(name)
        other.claim()
        with storage_errors(self._url):
            target = f"{other._root}/{other._name}/{other_name}"
            if needs_folders(self._url):
                self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            self._fs.cp_file(f"{self._root}/{self._folders[name]}/{name}", target)
            other._write_list(_next_name(other._name), {**other._folders, other_name: other._name})

    def remove(self, names: Collection[str]) -> None:
        """Delete files; lists go on to name them. Another worker may have the trial meanwhile, for its evaluation."""
        with storage_errors(self._url):
            found = self._find()
            doomed = [path for path in found if path.partition("/")[2] in names]
            files = [path for path in found if not _LIST.fullmatch(path)]
            if doomed:
                self._delete(found if len(files) == len(doomed) else doomed)

    # Lists ----------------------------------------------------------------------------------------------------------

    def _find(self) -> list[str]:
        """Return the paths of all objects of the trial, relative to its folder."""
        self._fs.invalidate_cache()
        try:
            found = self._fs.find(self._root)
        except FileNotFoundError:
            return []
        return [path[len(self._root) + 1 :] for path in found]

    def _newest(self, found: Collection[str]) -> str:
        return max((path.removesuffix(".json") for path in found if _LIST.fullmatch(path)), default="")

    def _read(self, found: Collection[str]) -> None:
        """Read the newest list that is whole, of those among the `found` objects, without the files that are gone."""
        there = set(found)
        names = sorted((path.removesuffix(".json") for path in found if _LIST.fullmatch(path)), reverse=True)
        self._name, self._folders = names[0] if names else "", {}
        for name in names:
            with suppress(FileNotFoundError, ValueError):
                listed = json.loads(self._fs.cat_file(f"{self._root}/{name}.json"))
                self._folders = {file: folder for file, folder in listed.items() if f"{folder}/{file}" in there}
                return

    def _write_list(self, name: str, folders: Mapping[str, str]) -> None:
        path = f"{self._root}/{name}.json"
        if needs_folders(self._url):
            self._fs.makedirs(self._root, exist_ok=True)
        self._fs.pipe_file(path, json.dumps(folders).encode())
        self._name, self._folders = name, dict(folders)

    def _put_file(self, path: Path, to: str) -> None:
        if needs_folders(self._url):
            self._fs.makedirs(to.rpartition("/")[0], exist_ok=True)
        self._fs.put_file(str(path), to)

    def _clean(self, found: Collection[str]) -> None:
        """Delete those of the `found` objects that the present list does not need."""
        needed = {f"{folder}/{file}" for file, folder in self._folders.items()} | {f"{self._name}.json"}
        self._delete([path for path in found if path not in needed])

    def _delete(self, paths: Collection[str]) -> None:
        if paths:
            with suppress(FileNotFoundError):
                self._fs.rm([f"{self._root}/{path}" for path in paths])


def _next_name(name: str) -> str:
    """Return the name of the next list of the same writer."""
    numbers, _, token = name.partition("-")
    writer, _, count = numbers.partition(".")
    return f"{writer}.{int(count) + 1:06d}-{token}"
