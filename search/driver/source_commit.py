"""The git commit of the searched code, so that MLflow's runs can be traced to it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["COMMIT", "DIRTY", "Commit", "find_commit"]

COMMIT = "source_commit"
DIRTY = "source_dirty"
"""Keys among the journaled options of a process."""

GIT_SECONDS = 2.0
"""Seconds that git has for each answer. A search does not wait for a slow file system."""


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit.

    Attributes:
        hash: 40 or 64 hexadecimal digits.
        dirty: files of the repository differ from the commit, or the space file is not in it; None if unknown.
    """

    hash: str
    dirty: bool | None

    def as_options(self) -> dict[str, str | bool]:
        """Return the entries among the journaled options."""
        return {COMMIT: self.hash, **({} if self.dirty is None else {DIRTY: self.dirty})}


def find_commit(space: Path | None) -> Commit | None:
    """Return the commit that is checked out where the code is; None without git, or outside a repository.

    Args:
        space: the space file; None for a factory, whose code is taken to be in the current folder.
    """
    folder = space.absolute().parent if space is not None else Path.cwd()
    head = _ask(folder, "rev-parse", "--verify", "HEAD")
    if not head:
        return None
    status = _ask(folder, "status", "--porcelain", "--untracked-files=no")
    # A file that git does not know is in no commit.
    listed = _ask(folder, "ls-files", "--", str(space.absolute())) if space is not None else "."
    dirty = None if status is None or listed is None else bool(status) or not listed
    return Commit(head, dirty)


def _ask(folder: Path, *arguments: str) -> str | None:
    """Return the output of a git command; None if it fails."""
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=GIT_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
