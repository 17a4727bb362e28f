"""Tests of the line that says what a command waits for."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import pytest
from rich.cells import cell_len

from search.cli import first_words
from search.display import waiting
from search.display.waiting import ERASE, WaitingLine, render_wait
from search.executors.waiting import listen, muted, show_stage, stage, waiting_for


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(500):
        if true():
            return
        time.sleep(0.01)
    pytest.fail("nothing came")


def contains(stream: io.StringIO, text: str) -> bool:
    return text in stream.getvalue()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a wait count as long after some milliseconds."""
    monkeypatch.setattr(waiting, "FIRST_SECONDS", 0.02)
    monkeypatch.setattr(waiting, "LONG_SECONDS", 0.02)
    monkeypatch.setattr(waiting, "FRAME_SECONDS", 0.01)


@pytest.mark.usefixtures("quick")
def test_a_long_wait_gets_one_line_in_a_pipe() -> None:
    stream = io.StringIO()
    line = WaitingLine(stream, live=False)
    for text in ("reading a\x1b.py", "loading the data", "reading a\x1b.py"):
        line.show(text)
        wait_until(partial(contains, stream, text.replace("\x1b", " ")))
    time.sleep(0.05)
    line.close()
    assert stream.getvalue() == "reading a .py …\nloading the data …\n"


def test_a_short_wait_is_not_named_in_a_pipe_unless_it_is_known_to_be_long() -> None:
    stream = io.StringIO()
    line = WaitingLine(stream, live=False)
    line.show("reading a.py")
    line.show("importing JAX", soon=True)
    line.show(None)
    line.close()
    assert stream.getvalue() == "importing JAX …\n"


@pytest.mark.usefixtures("quick")
def test_the_line_in_a_terminal_is_erased_before_other_output_and_at_the_end() -> None:
    stream = io.StringIO()
    line = WaitingLine(stream, live=True)
    line.show("importing JAX")
    assert stream.getvalue().endswith("importing JAX …")  # at once
    wait_until(lambda: stream.getvalue().count("importing JAX") > 3)
    with line.quiet():
        assert stream.getvalue().endswith(ERASE)
        before = stream.getvalue()
        time.sleep(0.05)
        assert stream.getvalue() == before
    wait_until(lambda: stream.getvalue().endswith("importing JAX …"))
    line.close()
    assert stream.getvalue().endswith(ERASE)
    shown = stream.getvalue()
    line.show("more")
    time.sleep(0.03)
    assert "more" not in stream.getvalue()[len(shown) :]


def test_the_line_outlives_a_redirection(tmp_path: Path) -> None:
    with open(tmp_path / "terminal", "w") as terminal, open(tmp_path / "log", "w") as log:
        line = WaitingLine(terminal, live=True)
        os.dup2(log.fileno(), terminal.fileno())
        line.show("importing JAX")
        line.close()
    assert "importing JAX" in (tmp_path / "terminal").read_text()
    assert (tmp_path / "log").read_text() == ""


def test_a_closed_stream_ends_no_command() -> None:
    stream = io.StringIO()
    line = WaitingLine(stream, live=True)
    stream.close()
    line.show("importing JAX")
    line.close()


@pytest.mark.parametrize("width", range(1, 40, 3))
@pytest.mark.parametrize("text", ["importing TensorFlow", "reading 数据/模型.py", "a\nb\x1b[2J"])
def test_the_line_is_narrower_than_the_terminal(text: str, width: int) -> None:
    for seconds in (0.0, 2.0, 3599.0):
        line = render_wait(text, seconds, width)
        assert cell_len(line) < width
        assert line.isprintable()
    assert re.fullmatch("⠋ importing JAX … 60s", render_wait("importing JAX", 60.0, 80))


class Heard:
    """A listener that notes all."""

    def __init__(self) -> None:
        self.texts: list[str | None] = []

    def show(self, text: str | None, *, soon: bool = False) -> None:
        self.texts.append(text)

    def quiet(self) -> AbstractContextManager[None]:
        return nullcontext()


def test_waits_are_told_to_the_listener_of_the_moment() -> None:
    heard = Heard()
    with listen(heard):
        with waiting_for("outer"):
            with waiting_for("inner"):
                pass
            show_stage("a stage")
            show_stage("a stage")
        with muted():
            show_stage("shown by the live view")
            assert stage() == "shown by the live view"
        show_stage(None)
    show_stage("nobody listens")
    show_stage(None)
    assert heard.texts == ["outer", "inner", "outer", "a stage", None, None, None]


def test_a_wait_ends_with_an_exception() -> None:
    with listen(Heard()), pytest.raises(ValueError, match="x"), waiting_for("it"):
        raise ValueError("x")
    assert stage() is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "spaces/x.py", "--seed", "1"], "reading spaces/x.py"),
        (["run", "--seed", "1", "x.py"], "reading the space file"),
        (["check", "x.py"], "reading x.py"),
        (["resume", "x"], "reading the study"),
        (["run", "x.py", "--help"], None),
        (["best", "x"], None),
        ([], None),
    ],
)
def test_the_first_words(arguments: list[str], words: str | None) -> None:
    assert first_words(arguments) == words


def test_the_first_words_come_before_all_that_takes_long_to_import() -> None:
    slow = {"typer", "rich", "numpy", "pydantic", "psutil", "search.options", "search.study"}
    code = f"import sys, search.cli; print(sorted({slow!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
