"""The end of a text file, however large the file is."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.study.tail import last_lines


def test_the_last_lines_of_a_file_are_read(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("one\ntwo\r\nthr\u00e9e\n")
    assert last_lines(log, 2) == "two\nthr\u00e9e"
    assert last_lines(log, 9) == last_lines(log) == "one\ntwo\nthr\u00e9e"
    assert last_lines(tmp_path / "none", 9) == last_lines(tmp_path, 9) == ""
    log.write_bytes(b"")
    assert last_lines(log, 9) == ""


@pytest.mark.parametrize("line", [b"line\n", b"x"])
def test_of_a_huge_log_only_the_end_is_read(line: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log.txt"
    with log.open("wb") as file:
        file.truncate(1 << 38)  # a hole: no room on the disk
        file.seek(0, 2)
        file.write(b"first\n" + line * (1 << 20) + b"\nlast\n")
    assert last_lines(log, 1) == "last"
    assert len(last_lines(log)) <= 1 << 20
