"""The journal: a study's facts as lines of JSON, appended by one process, read by any.

A line is `{"kind": …, …, "v": <format>, "t": <seconds since the epoch>, "crc": "<CRC-32 of what stands before it>"}`.
An append reaches the operating system at once, so a killed process loses nothing; the disk gets it in groups, at most
`FLUSH_SECONDS` later, so a power failure loses no more than that. A torn last line (the writer died in it) is dropped;
a damaged line within is an error that names it, as is a line that only a newer version can read.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import time as clock
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from search.errors import JournalError
from search.study import formats
from search.study.records import FORMAT, Record, decode, encode

FLUSH_SECONDS = 0.2


class Entry(NamedTuple):
    """A line of a journal.

    Attributes:
        record: as of the current format, whatever it was written in.
        time: when it was written, seconds since the epoch.
        end: the offset of the line after it, bytes.
        format: the format that it was written in.
    """

    record: Record
    time: float
    end: int
    format: int = FORMAT


def format_line(record: Record, time: float) -> bytes:
    """The journal's line for `record`, its newline included."""
    data = {**encode(record), "v": FORMAT, "t": round(time, 4)}
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)[:-1]
    # Half a surrogate pair, as in a file name that is no UTF-8, becomes what JSON escapes it to.
    body = text.encode(errors="backslashreplace")
    return b'%s,"crc":"%08x"}\n' % (body, zlib.crc32(body))


def parse_line(line: bytes) -> tuple[Record, float]:
    """The record and time of a line. ValueError where the line is not whole."""
    data = json.loads((_checked(line) + b"}").decode())
    record, time, _ = _opened(data)
    return record, time


_TRAILER = len(b',"crc":"01234567"}\n')


def _checked(line: bytes) -> bytes:
    """The line up to its checksum. ValueError where that does not match."""
    body = line[:-_TRAILER]
    if line[-_TRAILER:] != b',"crc":"%08x"}\n' % zlib.crc32(body):
        raise ValueError("the checksum does not match")
    return body


def _opened(data: Any) -> tuple[Record, float, int]:
    """A line's record, its time and the format it was written in, of what `_parsed` gives for it."""
    if type(data) is not dict:
        raise data
    format, time = data.pop("v", 1), data.pop("t")
    if type(format) is not int or format < 1:
        raise ValueError(f"its format is {format!r}")
    if (type(time) is not float and type(time) is not int) or not isfinite(time):
        raise ValueError("it has no time")
    if format == FORMAT:
        return decode(data), time, format
    if formats.is_newer(format):
        raise _Newer(format)
    return decode(formats.upgrade(data, format)), time, format


class _Newer(ValueError):
    """A line of a format that only a newer version can read."""

    def __init__(self, format: int) -> None:
        self.format = format


_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


def read(path: Path, offset: int = 0) -> Iterator[Entry]:
    """The entries from byte `offset` on, up to the last whole line.

    Raises:
        JournalError: a line that is not the last one is damaged; or one that is whole was written by a newer version,
            or cannot be understood.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise JournalError(f"cannot read {path}: {error.strerror}") from None
    with file:
        file.seek(offset)
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
                    record, time, format = _opened(data)
                except _Newer as newer:
                    raise JournalError(_newer(path, offset, newer.format)) from None
                except _UNREADABLE as error:
                    raise JournalError(_damage(path, offset, error)) from None
                offset += len(line)
                yield Entry(record, time, offset, format)
            if damage is not None:
                torn = lines[len(bodies)]
                if len(bodies) == len(lines) - 1 and (not torn.endswith(b"\n") or not file.read(1)):
                    return  # its writer died, or is writing now
                raise JournalError(_damage(path, offset, damage)) from None


_CHUNK = 1 << 13
"""Bytes that are read, and parsed, at once: what json does for each call takes as long as for a line."""


def _parsed(bodies: Sequence[bytes]) -> Sequence[Any]:
    """What each of the lines says, as JSON; an exception in the place of one that is none."""
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
    """What `read` gives, faster for long journals."""
    with uncollected():
        return list(read(path, offset))


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the garbage collector from running: of what a journal is folded into nothing is garbage, and the collector
    would look at all of it again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _newer(path: Path, offset: int, format: int) -> str:
    # A newer version that goes on with a study writes its own format after the older lines.
    return (
        f"{path}, line {_number(path, offset)} was written in format {format} by a newer version of search, this one "
        f"reads up to {FORMAT}: upgrade keras-search"
    )


def _damage(path: Path, offset: int, error: Exception) -> str:
    number = _number(path, offset)
    what = f"unknown record {error}" if isinstance(error, KeyError) else str(error)
    return (
        f"{path}, line {number} is damaged ({what}): put a copy from a backup in its place, or keep the lines before "
        f"it with `head -n {number - 1}` and resume"
    )


def _number(path: Path, offset: int) -> int:
    """The number of the line at `offset`, from 1."""
    with path.open("rb") as file:
        return file.read(offset).count(b"\n") + 1


class Journal:
    """The writer. `append` returns when the operating system has the records; `flush` when the disk has them.

    Args:
        path: the file; made where it does not exist, its torn tail cut off where it does.
        now: the clock, seconds since the epoch.
        known: its entries, where they have been read already.

    Raises:
        JournalError: in all methods, where the disk is full or cannot be written; what is in the file then is whole.
    """

    def __init__(
        self, path: Path, now: Callable[[], float] = clock.time, *, known: Sequence[Entry] | None = None
    ) -> None:
        self.path = path
        self._now = now
        self._dirty_since: float | None = None
        if known is None:
            known = read_all(path) if path.exists() else ()
        self._whole = known[-1].end if known else 0
        # Unbuffered: what could not be written is not written later.
        self._file = path.open("ab", buffering=0)
        self._cut()

    def append(self, records: Iterable[Record], time: float | None = None) -> None:
        """Write `records` as one piece, as of `time` (now)."""
        now = self._now() if time is None else time
        data = b"".join(format_line(record, now) for record in records)
        if not data:
            return
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            with suppress(OSError):
                self._cut()
            raise self._unwritten(error) from None
        self._whole += len(data)
        if self._dirty_since is None:
            # By our own clock: the records' may be a simulation's.
            self._dirty_since = self._now()
        self.flush(only_if_due=True)

    def flush(self, *, only_if_due: bool = False) -> bool:
        """Bring to the disk what was appended; with `only_if_due`, only where it has waited `FLUSH_SECONDS`. Whether
        the disk has it all."""
        if self._dirty_since is None:
            return True
        if only_if_due and 0 <= self._now() - self._dirty_since < FLUSH_SECONDS:
            return False
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._unwritten(error) from None
        self._dirty_since = None
        return True

    def close(self) -> None:
        if not self._file.closed:
            try:
                self.flush()
            finally:
                self._file.close()

    def _cut(self) -> None:
        """Cut off what is no whole line."""
        if os.fstat(self._file.fileno()).st_size > self._whole:
            self._file.truncate(self._whole)

    def _unwritten(self, error: OSError) -> JournalError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return JournalError(f"the disk is full, {self.path} cannot be written: make room on the disk, and resume")
        return JournalError(f"{self.path} cannot be written ({error.strerror}): mend that, and resume")
