"""Output whose reader goes away: a pipe that nobody reads, a terminal that is closed, a stream without a file."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys

import pytest

from search.display.lasting import LastingStream, lasting_output

PRINT = """
import os, sys
from search.display.lasting import lasting_output
with lasting_output():
    print("begin", flush=True)
    sys.stdin.readline()
    for _ in range(3):
        print("x" * 100_000, flush=True)
        print("y", file=sys.stderr, flush=True)
    os.write(1, b"native code")
    os.system("echo child; echo child >&2")
print("z")
sys.exit(7)
"""


@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_a_reader_that_goes_changes_nothing(kind: str) -> None:
    reading, writing = os.pipe() if kind == "pipe" else pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PRINT], stdin=subprocess.PIPE, stdout=writing, stderr=writing, start_new_session=True
    )
    os.close(writing)
    assert os.read(reading, 5) == b"begin"
    os.close(reading)
    process.communicate(b"\n", timeout=60)
    assert process.returncode == 7


def test_a_stream_without_a_file_is_dropped_when_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with lasting_output():
        with lasting_output():  # a search within a search's command
            print("heard")
        assert isinstance(sys.stdout, LastingStream)
        assert stream.getvalue() == "heard\n"
        assert not sys.stdout.isatty()
        stream.close()
        print("unheard", flush=True)
    assert sys.stdout is stream


def test_an_error_of_the_text_is_no_broken_stream() -> None:
    stream = LastingStream(io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    with pytest.raises(UnicodeEncodeError):
        stream.write("…")
    assert stream.write("a") == 1
