"""The journal: a study's facts as lines of JSON, appended by one process, read by any.

A line is `{"kind": …, …, "v": <format>, "t": <seconds since the epoch>, "crc": "<CRC-32 of what stands before it>"}`.
An append reaches the operating system at once, so a killed process loses nothing; the disk gets it in groups, at most
`FLUSH_SECONDS` later, so a power failure loses no more than that. A torn last line (the writer died in it) is dropped;
a damaged line within is an error that names it, as is a line that only a newer version can read.
"""

from __future__ import annotations

import errno
import json
import math
import os
import time as clock
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search import formats
from search.errors import JournalError
from search.records import FORMAT, Record, decode, encode

FLUSH_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Entry:
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
    data, time, format = _opened(_checked(line))
    return decode(formats.upgrade(data, format)), time


def _checked(line: bytes) -> bytes:
    """The line up to its checksum. ValueError where that does not match."""
    body, mark, crc = line.rpartition(b',"crc":"')
    if not mark or crc != b'%08x"}\n' % zlib.crc32(body):
        raise ValueError("the checksum does not match")
    return body


def _opened(body: bytes) -> tuple[dict[str, Any], float, int]:
    """A line's record as a JSON object, its time and its format."""
    # From bytes, json would guess the encoding of every line.
    data: dict[str, Any] = json.loads((body + b"}").decode())
    format = data.pop("v", 1)
    if type(format) is not int or format < 1:
        raise ValueError(f"its format is {format!r}")
    time = data.pop("t")
    if type(time) not in (int, float) or not math.isfinite(time):
        raise ValueError("it has no time")
    return data, time, format


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
        for line in file:
            try:
                body = _checked(line)
            except ValueError as error:
                if not line.endswith(b"\n") or not file.read(1):
                    return  # a torn tail: its writer died, or is writing now
                raise JournalError(_damage(path, offset, error)) from None
            try:
                data, time, format = _opened(body)
                if formats.is_newer(format):
                    raise JournalError(_newer(path, offset, format))
                record = decode(formats.upgrade(data, format))
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
                raise JournalError(_damage(path, offset, error)) from None
            offset += len(line)
            yield Entry(record, time, offset, format)


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

    Raises:
        JournalError: in all methods, where the disk is full or cannot be written; what is in the file then is whole.
    """

    def __init__(self, path: Path, now: Callable[[], float] = clock.time) -> None:
        self.path = path
        self._now = now
        self._dirty_since: float | None = None
        self._whole = 0
        if path.exists():
            for entry in read(path):
                self._whole = entry.end
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
