"""The git commit of the searched code."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from search.driver.source_commit import Commit, find_commit


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=me", "-c", "user.email=me@example.com", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_is_clean_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = tmp_path / "space.py"
    space.write_text("x = 1\n")
    assert find_commit(space) is None  # no repository
    git(tmp_path, "init", "--quiet")
    assert find_commit(space) is None  # no commit yet
    git(tmp_path, "add", "space.py")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert find_commit(space) == Commit(head, dirty=False)
    other = tmp_path / "other.py"
    other.write_text("y = 1\n")
    assert find_commit(space) == Commit(head, dirty=False)
    assert find_commit(other) == Commit(head, dirty=True)  # git does not know it
    space.write_text("x = 2\n")
    assert find_commit(space) == Commit(head, dirty=True)
    monkeypatch.chdir(tmp_path)
    assert find_commit(None) == Commit(head, dirty=True)
    assert Commit(head, dirty=None).as_options() == {"source_commit": head}
    monkeypatch.setenv("PATH", "")
    assert find_commit(space) is None  # no git
