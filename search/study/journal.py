"""The journal: a study's facts as lines of JSON, appended by one process, read by any.

A line is a JSON object: `{"kind": …, …, "v": 8, "t": 1764370000.5, "prev": "89abcdef", "crc": "01234567"}`. `v` is the
format, `t` the time in seconds since the epoch, `crc` the CRC-32 of the line up to there, and `prev` the `crc` of the
line before (`FIRST` on the first line). So a line that was changed, lost, doubled or moved is found, and named in the
error. Lines of formats 1 to 3 have no `prev`.

An append reaches the operating system at once, so a killed process loses nothing. The disk gets the records in groups,
at most `FLUSH_SECONDS` later, so a power failure loses no more than that. A torn last line is dropped: its writer died
while it wrote. A line that only a newer version can read is refused.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import shlex
import time as clock
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from search.errors import JournalError
from search.study import formats
from search.study.record_json import decode, encode
from search.study.record_values import LARGEST, LARGEST_TIME
from search.study.records import FORMAT, Header, Record

FLUSH_SECONDS = 0.2


class Entry(NamedTuple):
    """A line of a journal.

    Attributes:
        record: in the current format, also if the line is of an older one.
        time: when the line was written, in seconds since the epoch.
        end: the offset of the next line, in bytes.
        format: the line's format; 1 to 8 so far.

    Example:
        ::

            >>> from search.plugins import Entry, records
            >>> entry = Entry(records.TrialEnded(3, "completed"), time=1764370000.5, end=412)
            >>> entry.record.trial
            3
    """

    record: Record
    time: float
    end: int
    format: int = FORMAT


FIRST = b"00000000"
"""The `prev` of a journal's first line."""


def format_line(record: Record, time: float, previous: bytes = FIRST) -> bytes:
    """Return the journal's line for `record`, its newline included.

    Args:
        previous: `checksum_of` the line before.
    """
    data = {**encode(record), "v": FORMAT, "t": round(time, 4), "prev": previous.decode()}
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)[:-1]
    # Half a surrogate pair, as in a file name that is not UTF-8, becomes what JSON escapes it to.
    body = text.encode(errors="backslashreplace")
    return b'%s,"crc":"%08x"}\n' % (body, zlib.crc32(body))


def format_lines(records: Iterable[Record], time: float, previous: bytes = FIRST) -> Iterator[bytes]:
    """Yield the lines of `records`, of which the first follows a line with the checksum `previous`."""
    for record in records:
        line = format_line(record, time, previous)
        previous = checksum_of(line)
        yield line


def parse_line(line: bytes) -> tuple[Record, float]:
    """Return the record and the time of a line. ValueError if it is damaged."""
    content = _decoded(json.loads((_checked(line) + b"}").decode()))
    return content.record, content.time


_TRAILER = len(b',"crc":"01234567"}\n')
_CHECKSUM = slice(-len(b'01234567"}\n'), -len(b'"}\n'))


def checksum_of(line: bytes) -> bytes:
    """Return the checksum that stands at the end of `line`."""
    return line[_CHECKSUM]


def _checked(line: bytes) -> bytes:
    """Return the line up to its checksum. ValueError if that does not match."""
    body = line[:-_TRAILER]
    if line[-_TRAILER:] != b',"crc":"%08x"}\n' % zlib.crc32(body):
        raise ValueError("the checksum does not match")
    return body


class _Content(NamedTuple):
    """A decoded line; `previous` is None in a format that has no checksum of the line before."""

    record: Record
    time: float
    format: int
    previous: bytes | None


def _decoded(data: Any) -> _Content:
    """Decode a line's JSON object, or raise the exception that `_parsed` found in its place."""
    if type(data) is not dict:
        raise data
    format, time = data.pop("v", 1), data.pop("t")
    if type(format) is not int or not 1 <= format <= LARGEST:
        raise ValueError(f"its format is {format!r}")
    if (type(time) is not float and type(time) is not int) or not 0 <= time <= LARGEST_TIME:
        raise ValueError("it has no time")
    if formats.is_newer(format):
        raise _Newer(format)
    previous = None
    if format >= formats.CHAINED:
        previous = data.pop("prev", None)
        if type(previous) is not str:
            raise ValueError("it has no checksum of the line before")
        previous = previous.encode()
    record = decode(data if format == FORMAT else formats.upgrade(data, format))
    return _Content(record, time, format, previous)


class DamagedLine(JournalError):
    """A line of a journal is not what was written, or cannot follow the lines before it.

    Attributes:
        offset: the place of the line, in bytes.
        number: the number of the line, from 1.
    """

    def __init__(self, path: Path, offset: int, what: str) -> None:
        self.offset, self.number = offset, _number(path, offset)
        what = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in what[:150])
        folder = path.parent.absolute()
        runs = "" if folder.parent == Path("runs").absolute() else f" --runs {shlex.quote(str(folder.parent))}"
        rest = f"keep the lines before it with `search repair {folder.name}{runs}`"
        if self.number == 1:
            rest = "begin the study again with --overwrite"
        super().__init__(
            f"{path}, line {self.number} is damaged ({what}): put a copy from a backup in its place, or {rest}"
        )


class _Newer(ValueError):
    """Raised for a line of a format that only a newer version can read."""

    def __init__(self, format: int) -> None:
        self.format = format


_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


def read(path: Path, offset: int = 0) -> Iterator[Entry]:
    """Yield the entries from byte `offset` on, up to the last whole line.

    Raises:
        JournalError: a line that is not the last one is damaged; a line was lost, doubled or moved; or a whole line was
            written by a newer version, or cannot be understood.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise JournalError(f"cannot read {path}: {error.strerror}") from None
    with file:
        previous = _last_checksum(file, offset)
        while lines := file.readlines(_CHUNK):
            bodies: list[bytes] = []
            damage: ValueError | None = None
            try:
                for line in lines:
                    bodies.append(_checked(line))  # noqa: PERF401  # those before a damaged one are good
            except ValueError as error:
                damage = error
            for data, line in zip(_parsed(bodies), lines, strict=False):
                try:
                    content = _decoded(data)
                    if content.previous is not None and content.previous != previous:
                        raise ValueError("it does not follow the line before it: a line was lost, doubled or moved")
                    if not offset and type(content.record) is not Header:
                        raise ValueError("a journal begins with a header")
                except _Newer as newer:
                    raise JournalError(_newer(path, offset, newer.format)) from None
                except _UNREADABLE as error:
                    raise _damaged(path, offset, error) from None
                offset += len(line)
                previous = checksum_of(line)
                yield Entry(content.record, content.time, offset, content.format)
            if damage is not None:
                torn = lines[len(bodies)]
                if len(bodies) == len(lines) - 1 and (not torn.endswith(b"\n") or not file.read(1)):
                    return  # its writer died, or is writing now
                raise _damaged(path, offset, damage) from None


def _last_checksum(file: BinaryIO, offset: int) -> bytes:
    """Return the checksum of the line that ends at `offset`, and leave `file` at `offset`."""
    file.seek(max(0, offset - _TRAILER))
    before = file.read(min(offset, _TRAILER))
    return checksum_of(before) if before else FIRST


_CHUNK = 1 << 13
"""Bytes to read and parse at once: a call of json takes as long as one line."""


def _parsed(bodies: Sequence[bytes]) -> Sequence[Any]:
    """Return the JSON object of each line, or the exception that parsing it raised."""
    try:
        # From bytes, json would guess the encoding.
        data: list[Any] = json.loads((b"[" + b"},".join(bodies) + b"}]").decode()) if bodies else []
        if len(data) == len(bodies) and all(type(item) is dict for item in data):
            return data
    except _UNREADABLE:
        pass
    return [_parsed_one(body) for body in bodies]


def _parsed_one(body: bytes) -> Any:
    try:
        data = json.loads((body + b"}").decode())
    except _UNREADABLE as error:
        return error
    return data if type(data) is dict else TypeError("it is no JSON object")


def read_all(path: Path, offset: int = 0) -> list[Entry]:
    """Return the entries that `read` yields; faster for long journals."""
    with uncollected():
        return list(read(path, offset))


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the garbage collector from running.

    A fold makes no garbage, and the collector would look at all its objects again and again.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _newer(path: Path, offset: int, format: int) -> str:
    # A newer version that continues a study writes its own format after the older lines.
    return (
        f"{path}, line {_number(path, offset)} was written in format {format} by a newer version of search, this one "
        f"reads up to {FORMAT}: upgrade keras-search"
    )


def read_undamaged(path: Path, offset: int) -> Iterator[Record]:
    """Yield the records of all lines from byte `offset` on that can be read, whatever precedes each of them.

    Raises:
        JournalError: one of them was written by a newer version.
    """
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            try:
                yield parse_line(line)[0]
            except _Newer as newer:
                raise JournalError(_newer(path, offset, newer.format)) from None
            except _UNREADABLE:
                pass
            offset += len(line)


def _damaged(path: Path, offset: int, error: Exception) -> DamagedLine:
    return DamagedLine(path, offset, f"unknown record {error}" if isinstance(error, KeyError) else str(error))


def _number(path: Path, offset: int) -> int:
    """Return the number of the line at `offset`, from 1."""
    with path.open("rb") as file:
        return file.read(offset).count(b"\n") + 1


def _allow() -> None:
    """Let the writer write."""


class Journal:
    """The writer. `append` returns when the operating system has the records, `flush` when the disk has them.

    Args:
        path: the file. It is made if it does not exist; a torn tail is cut off.
        now: the clock, in seconds since the epoch.
        known: the file's entries, if they have been read already.
        guard: is called before each append, and raises JournalError if another process may write by now.
        restored: is called after another program deleted or moved the file, and it was written again.

    Raises:
        JournalError: by all methods, if the disk is full or cannot be written, or if another program has changed the
            file or put another in its place. The file then holds whole lines only.
    """

    def __init__(
        self,
        path: Path,
        now: Callable[[], float] = clock.time,
        *,
        known: Sequence[Entry] | None = None,
        guard: Callable[[], None] = _allow,
        restored: Callable[[], None] | None = None,
    ) -> None:
        self.path = path
        self._now = now
        self._guard = guard
        self._restored = restored
        self._given_up = False
        self._dirty_since: float | None = None
        if known is None:
            known = read_all(path) if path.exists() else ()
        self._whole = known[-1].end if known else 0
        self._last = FIRST
        if self._whole:
            with path.open("rb") as file:
                self._last = _last_checksum(file, self._whole)
        # Unbuffered: a failed write must not be repeated later.
        self._file = self._open()
        self._cut()

    def append(self, records: Iterable[Record], time: float | None = None) -> list[Entry]:
        """Write `records` as one piece, as of `time` (now). Return their entries, as `read` would give them."""
        now = self._now() if time is None else time
        records = tuple(records)
        lines = list(format_lines(records, now, self._last))
        if not lines:
            return []
        self._guard()
        data = b"".join(lines)
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            with suppress(OSError):
                self._cut()
            raise self._unwritten(error) from None
        entries = []
        for record, line in zip(records, lines, strict=True):
            self._whole += len(line)
            entries.append(Entry(record, round(now, 4), self._whole))
        self._last = checksum_of(data)
        if self._dirty_since is None:
            # By our own clock: the records may have a simulation's times.
            self._dirty_since = self._now()
        self.flush(only_if_due=True)
        return entries

    def flush(self, *, only_if_due: bool = False) -> bool:
        """Bring the appended records to the disk. Return whether the disk has them all.

        Args:
            only_if_due: do nothing until the oldest of them has waited for `FLUSH_SECONDS`.
        """
        if self._dirty_since is None:
            return True
        if only_if_due and 0 <= self._now() - self._dirty_since < FLUSH_SECONDS:
            return False
        try:
            self._keep_in_place()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._unwritten(error) from None
        self._dirty_since = None
        return True

    def close(self) -> None:
        """Flush and close the file. May be called twice."""
        if not self._file.closed:
            try:
                if not self._given_up:
                    self._keep_in_place()
                    self.flush()
            finally:
                self._file.close()

    def _open(self) -> FileIO:
        return self.path.open("a+b", buffering=0)

    def _keep_in_place(self) -> None:
        """Compare the open file with the one at the path: `git clean`, `sed -i` or a sync tool may have been there."""
        own = os.fstat(self._file.fileno())
        try:
            there = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            self._write_again()
            return
        except OSError:
            return  # a file server that is away: the flush will tell
        if os.path.samestat(own, there) and own.st_size == self._whole:
            return
        self._given_up = True
        kept = ""
        if own.st_size >= self._whole:
            copy = self.path.with_name(f"{self.path.name}.{int(self._now())}.own")
            self._copy_to(copy)
            kept = f" This search's own journal is {copy.name}, put the right one in its place, and resume"
        what = "has changed" if os.path.samestat(own, there) else "has put another file in the place of"
        raise JournalError(f"another program {what} {self.path} while the search ran.{kept}")

    def _write_again(self) -> None:
        """Write the file at its path again. The open one has no name now, or is elsewhere."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        work = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        self._copy_to(work)
        work.rename(self.path)
        self._file.close()
        self._file = self._open()
        if self._restored is not None:
            self._restored()

    def _copy_to(self, path: Path) -> None:
        """Copy the whole lines of the open file, and bring them to the disk."""
        with path.open("wb") as copy:
            offset = 0
            while part := os.pread(self._file.fileno(), min(1 << 20, self._whole - offset), offset):
                copy.write(part)
                offset += len(part)
            copy.flush()
            os.fsync(copy.fileno())

    def _cut(self) -> None:
        """Cut off the part of a line at the end."""
        if os.fstat(self._file.fileno()).st_size > self._whole:
            self._file.truncate(self._whole)

    def _unwritten(self, error: OSError) -> JournalError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return JournalError(f"the disk is full, {self.path} cannot be written: make room on the disk, and resume")
        return JournalError(f"{self.path} cannot be written ({error.strerror}): mend that, and resume")
