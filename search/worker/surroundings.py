"""The surroundings of a script at one moment, for a worker whose origin was forked from the script earlier."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Surroundings"]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a new Python would have from the script that starts it.

    Attributes:
        folder: the working folder.
        path: the module path, `sys.path`.
        environment: the environment variables that were changed since the fork; None for those that were deleted.
    """

    folder: str
    path: tuple[str, ...]
    environment: Mapping[str, str | None]

    @classmethod
    def since(cls, before: Mapping[str, str]) -> Surroundings:
        """Return those of this process now.

        Args:
            before: the environment variables at the time of the fork.
        """
        now = dict(os.environ)
        changed: dict[str, str | None] = {name: value for name, value in now.items() if before.get(name) != value}
        deleted = dict.fromkeys(before.keys() - now.keys())
        # An entry "" means the working folder, whichever that is later.
        path = tuple(str(Path(entry).absolute()) for entry in sys.path)
        return cls(str(Path.cwd()), path, {**changed, **deleted})

    def apply(self) -> None:
        """Let this process have them."""
        with suppress(OSError):  # the folder may have been deleted
            os.chdir(self.folder)
        sys.path[:] = self.path
        for name, value in self.environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
