"""The files of a trial in the study's folder, for a worker that reaches the driver only: they travel in parts.

The worker asks, and the driver answers: one part at a time, in both directions. So neither end ever waits with half a
message in a full pipe, and a driver is never kept by a worker that hangs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from search.messages import DeleteFile, FileReply, FileRequest, ListFiles, ReadPart, WritePart

__all__ = ["PART_BYTES", "DriverFiles"]

PART_BYTES = 128 << 10
"""Bytes of a part. The buffer of a pipe between two processes, 208 KiB on Linux, has room for one."""


class DriverFiles:
    """The files of the trial that this worker trains.

    Args:
        ask: sends the driver a request, and waits for the reply.
    """

    def __init__(self, ask: Callable[[FileRequest], FileReply]) -> None:
        self._ask = ask

    def claim(self) -> Mapping[str, str]:
        return self._asked(ListFiles()).versions

    def get(self, name: str, to: Path) -> None:
        with to.open("wb") as file:
            while data := self._asked(ReadPart(name, file.tell(), PART_BYTES)).data:
                file.write(data)

    def put(self, files: Mapping[str, Path], gone: Collection[str] = ()) -> Mapping[str, str]:
        for name, path in sorted(files.items(), key=_checkpoints_last):
            self._put_file(name, path)
        for name in gone:
            self._asked(DeleteFile(name))
        return self.claim()

    def _put_file(self, name: str, path: Path) -> None:
        with path.open("rb") as file:
            data, at = file.read(PART_BYTES), 0
            while True:
                following = file.read(PART_BYTES)
                self._asked(WritePart(name, at, data, last=not following))
                if not following:
                    return
                data, at = following, at + len(data)

    def _asked(self, request: FileRequest) -> FileReply:
        reply = self._ask(request)
        if reply.error is not None:
            raise OSError(*reply.error)
        return reply


def _checkpoints_last(item: tuple[str, Path]) -> tuple[bool, str]:
    """Return a key that puts checkpoints last: the weights and files that they go with are there before them."""
    return item[0].startswith("checkpoint-"), item[0]
