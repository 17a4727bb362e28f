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
    """A script's working folder, module path and environment variables, as a new Python would inherit them.

    Attributes:
        folder: the working folder, None if it has been deleted.
        path: the module path, `sys.path`.
        environment: the environment variables that were changed since the fork; None for those that were deleted.
    """

    folder: str | None
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
        folder = None
        with suppress(OSError):
            folder = Path.cwd()
        # An entry "" means the working folder, whichever that is later.
        path = sys.path if folder is None else [str(folder / entry) for entry in sys.path]
        return cls(None if folder is None else str(folder), tuple(path), {**changed, **deleted})

    def apply(self) -> None:
        """Let this process have them."""
        if self.folder is not None:
            with suppress(OSError):  # it may have been deleted since
                os.chdir(self.folder)
        sys.path[:] = self.path
        for name, value in self.environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
