"""Random and broken space files: each error is one line that says what is wrong and where."""

from __future__ import annotations

import ast
import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import TINY

from search.errors import SpaceError
from search.executors.inline import InlineExecutor
from search.executors.waiting import show_stage
from search.messages import Answer, Message, Probe, ProbeFailed, Question, Segment, StoppedAtOnce
from search.space.file import SpaceRef, describe_error, parse_file, read_space, written_options
from search.study.records import SegmentEnded
from search.study.trial import Objective

EXAMPLES = int(os.environ.get("SEARCH_EXAMPLES", "0"))
steady = settings(derandomize=not EXAMPLES, database=None, deadline=None, max_examples=EXAMPLES or 150)

TEXT = TINY.read_text()


def is_line(text: str) -> bool:
    """Return whether `text` is one printable line, short enough for a terminal or a table."""
    return bool(text.strip()) and text.splitlines() == [text] and text.isprintable() and len(text) < 700


def refusal(call: Callable[[], Any]) -> str | None:
    """Return the message of the SpaceError that `call` raises; None if it raises none."""
    try:
        call()
    except SpaceError as error:
        return str(error)
    return None


# Without running the file ---------------------------------------------------------------------------------------------


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Draw a space file with one to three changes, most of which break it."""
    content = bytearray(TEXT.encode())
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content)))
        match draw(st.sampled_from(["insert", "cut", "bytes", "crlf", "bom", "end"])):
            case "insert":
                broken = [
                    "(",
                    ")",
                    "'",
                    '"""',
                    "\\",
                    "def",
                    "  ",
                    "\t",
                    "\n",
                    "λ",
                    "«",
                    "0777",
                    "$",
                    "f'{'",
                    "\f",
                    "\0",
                ]
                content[at:at] = draw(st.sampled_from(broken)).encode()
            case "cut":
                del content[at : at + draw(st.integers(1, 80))]
            case "bytes":
                content[at:at] = draw(st.binary(min_size=1, max_size=8))
            case "crlf":
                content = content.replace(b"\n", draw(st.sampled_from([b"\r\n", b"\r"])))
            case "bom":
                content[:0] = draw(
                    st.sampled_from([b"\xef\xbb\xbf", b"\xff\xfe", b"# coding: no-such\n", b"# coding: ascii\n"])
                )
            case "end":
                del content[at:]
    return bytes(content)


@steady
@given(files() | st.binary(max_size=200))
def test_a_file_is_parsed_or_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "parsed.py"
    path.write_bytes(content)
    message = refusal(lambda: written_options(parse_file(path)))
    if message is None:
        compile(content, str(path), "exec", ast.PyCF_ONLY_AST)
    else:
        assert message.startswith(str(path))
        assert is_line(message.removeprefix(str(path)))


@pytest.mark.parametrize("content", ["-" * 200_000 + "1", "(" * 5000, "x" + ".x" * 100_000, "[" * 99 + "]" * 98])
def test_code_nested_too_deeply_for_python_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "space.py"
    path.write_text(content)
    with pytest.raises(SpaceError) as caught:
        parse_file(path)
    assert str(caught.value).startswith(str(path))
    assert is_line(str(caught.value).removeprefix(str(path)))


def test_a_path_without_a_readable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = tmp_path / "loop.py"
    loop.symlink_to(loop)
    (tmp_path / "dangling.py").symlink_to(tmp_path / "gone.py")
    wrong = [loop, tmp_path / "dangling.py", tmp_path, tmp_path / ("x" * 300), Path("a\0b"), tmp_path / "a\nb.py"]
    for path in wrong:
        with pytest.raises(SpaceError) as caught:
            parse_file(path)
        assert is_line(str(caught.value).replace("x" * 300, "x").replace(str(tmp_path), ""))
    locked = tmp_path / "locked.py"
    locked.touch()

    def deny(*_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    # A folder without permission. It is simulated, as the tests may run as root.
    monkeypatch.setattr(Path, "stat", deny)
    monkeypatch.setattr(Path, "read_bytes", deny)
    with pytest.raises(SpaceError, match=r"cannot read the space file .*locked\.py: Permission denied"):
        parse_file(locked)


# Exceptions of the file's code ----------------------------------------------------------------------------------------

RAISED = {
    "empty": "raise ValueError",
    "spaces": "raise ValueError(' \\n\\t ')",
    "lines": "raise ValueError('one\\ntwo\\r\\nthree\\x0bfour\\x85five\\u2028six')",
    "long": "raise ValueError('word ' * 9999)",
    "control": "raise ValueError('\\x00\\x07\\x1b]0;title\\x07\\x9b31m')",
    "surrogate": "raise ValueError('a\\ud800b')",
    "direction": "raise ValueError('\\u202eesrever')",
    "emoji": "raise ValueError('😀 ünïcode')",
    "key": "raise KeyError('a\\nb')",
    "no text": "class Mute(Exception):\n    def __str__(self): raise RuntimeError('hidden')\nraise Mute",
    "text of another kind": "class Odd(Exception):\n    def __str__(self): return 3\nraise Odd",
    "odd name": "raise type('A\\nB', (Exception,), {})('x')",
    "group": "raise ExceptionGroup('several', [ValueError('one\\n'), KeyError(2)])",
    "base group": "raise BaseExceptionGroup('several', [ValueError('one'), SystemExit(2)])",
    "base": "class Own(BaseException): pass\nraise Own('mine')",
    "generator": "raise GeneratorExit",
    "stop": "raise StopIteration",
    "stop async": "raise StopAsyncIteration(3)",
    "assertion": "assert 1 == 2",
    "cause": "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise OSError(5, 'a\\nb', 'file\\n') from error",
    "recursion": "def again(): again()\nagain()",
    "memory": "raise MemoryError",
    "exit": "raise SystemExit",
    "exit in words": "raise SystemExit('bye\\n' * 9999)",
    "exit of another kind": "class Odd:\n    def __repr__(self): raise RuntimeError\nraise SystemExit(Odd())",
    "syntax": "compile('x = (', 'inner', 'exec')",
    "syntax by hand": "raise SyntaxError",
    "syntax of another kind": "raise SyntaxError(3)",
    "syntax in many lines": "raise SyntaxError('a\\nb', ('no\\nfile', None, None, None))",
    "indentation": "exec('  x')",
    "unicode": "b'\\xff'.decode()",
    "import": "import no_such_module",
    "own": "import search.errors\nraise search.errors.SpaceError",
    "own in lines": "import search.errors\nraise search.errors.SearchError('a\\nb' * 999)",
    "attribute": "object().nothing",
}
WHERE = {
    "import": "{raises}",
    "load_data": "def load_data():\n{inner}",
    "load_data of hp": "def load_data(hp):\n{inner}",
    "build_model": "def build_model(hp):\n    hp.Int('units', 2, 8)\n{inner}",
    "compile_model": "def compile_model(hp, model):\n{inner}",
    "fit_options": "def fit_options(hp):\n{inner}",
    "callbacks": "def callbacks(hp):\n{inner}",
    "a callback": (
        "class Bad(keras.callbacks.Callback):\n    def on_train_begin(self, logs=None):\n    {inner}\n"
        "def callbacks(hp):\n    return [Bad()]"
    ),
    "fit": "def fit(hp, model, train, validation, **kwargs):\n{inner}",
    "getattr": "del load_data\ndef __getattr__(name):\n    if name != 'load_data': raise AttributeError\n{inner}",
    "signature": (
        "class Build:\n    def __call__(self, hp): ...\n    @property\n    def __signature__(self):\n    {inner}\n"
        "build_model = Build()"
    ),
}
CHEAP = ("import", "load_data", "build_model", "getattr", "signature")
"""The places of `WHERE` whose tests build no model."""


def with_code(where: str, code: str) -> str:
    """Return the text of a space file with `code` at the place `where`."""
    lines = code.split("\n")
    deeper = "    " if "\n    {inner}" in WHERE[where] else ""
    inner = ("\n" + deeper).join(f"    {line}" for line in lines)
    return TEXT + "\n\n" + WHERE[where].format(raises=code, inner=inner) + "\n"


def probe_error(path: Path) -> str | None:
    """Return the error message of a probe of the space file."""
    from search.worker.probe import run_probe
    from search.worker.segment import clear_caches

    clear_caches()
    answer = run_probe(Probe(SpaceRef(str(path))))
    return answer.message if isinstance(answer, ProbeFailed) else None


def segment_error(path: Path) -> str | None:
    """Return the error message of a segment of one epoch."""
    from search.worker.channel import DirectChannel
    from search.worker.segment import clear_caches, run_segment

    clear_caches()
    ends: list[SegmentEnded] = []

    def hear(message: Message) -> None:
        if isinstance(message, Question):
            channel.put(Answer(message.parameter.default))
        elif isinstance(message, SegmentEnded):
            ends.append(message)

    channel = DirectChannel(hear)
    objective = Objective("val_loss", "min")
    run_segment(Segment(0, 0, SpaceRef(str(path)), {}, 0, 0, 1, objective, str(path.parent / "trial")), channel)
    (end,) = ends
    assert (end.outcome in ("failed", "raised", "lost", "no_memory")) == (end.error is not None)
    return end.error


QUICK = [("import", "probe"), ("build_model", "segment"), ("getattr", "probe")]
"""The pairs of place and run that are tested if SEARCH_EXAMPLES is not set."""


def check(path: Path, message: str | None, where: str, code: str) -> None:
    """Assert that `message` is one line and names the file and the line of the exception."""
    assert message is not None
    assert is_line(message.replace(str(path), "space.py")), message
    assert str(path) in message
    if where in ("getattr", "signature") and any(name in code for name in ("Error", "nothing", "decode", "Exception")):
        return  # Python itself looks these up, and takes some exceptions for an answer
    # The code that raises is at the end of the file.
    number = message.partition(f"{path}:")[2].partition(":")[0]
    assert TEXT.count("\n") < int(number) <= len(path.read_text().split("\n")), message


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("sys.path", [*sys.path])
    return tmp_path / "space.py"


RUNS: dict[str, Callable[[Path], str | None]] = {"probe": probe_error, "segment": segment_error}


@pytest.mark.parametrize("exception", RAISED)
@pytest.mark.parametrize(
    ("where", "run"),
    [(where, run) for where in CHEAP for run in RUNS if EXAMPLES or (where, run) in QUICK],
)
def test_any_exception_without_a_model_is_one_line(path: Path, where: str, run: str, exception: str) -> None:
    path.write_text(with_code(where, RAISED[exception]))
    check(path, RUNS[run](path), where, RAISED[exception])


@pytest.mark.parametrize("where", [where for where in WHERE if where not in CHEAP])
@pytest.mark.parametrize("exception", ["empty", "surrogate", "no text", "base", "stop"])
def test_any_exception_with_a_model_is_one_line(path: Path, where: str, exception: str) -> None:
    path.write_text(with_code(where, RAISED[exception]))
    check(path, segment_error(path), where, RAISED[exception])
    if where not in ("a callback", "fit"):  # the probe leaves these to the trials
        check(path, probe_error(path), where, RAISED[exception])


@pytest.mark.parametrize("run", RUNS)
def test_a_keyboard_interrupt_of_the_code_is_its_error_and_ctrl_c_passes_through(path: Path, run: str) -> None:
    path.write_text(with_code("build_model", "raise KeyboardInterrupt"))
    assert "KeyboardInterrupt" in str(RUNS[run](path))
    path.write_text(with_code("build_model", "from search.messages import StoppedAtOnce; raise StoppedAtOnce"))
    with pytest.raises(StoppedAtOnce):
        RUNS[run](path)


def test_ctrl_c_stops_an_inline_probe_whose_own_keyboard_interrupt_is_an_error(path: Path) -> None:
    executor = InlineExecutor()
    path.write_text(with_code("build_model", "raise KeyboardInterrupt"))
    answer = executor.probe(Probe(SpaceRef(str(path))))
    assert isinstance(answer, ProbeFailed)
    assert "KeyboardInterrupt" in answer.message
    path.write_text(with_code("build_model", "import signal; signal.raise_signal(signal.SIGINT)"))
    executor = InlineExecutor()  # without the code that the other one has read
    with pytest.raises(StoppedAtOnce):
        executor.probe(Probe(SpaceRef(str(path))))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    show_stage(None)


# Hooks of other kinds -------------------------------------------------------------------------------------------------

VALUES = [
    "3",
    "'text'",
    "[]",
    "()",
    "{}",
    "True",
    "print",
    "int",
    "len",
    "type('', (), {})()",
    "type('', (), {})",
    "...",
]
HOOKS = [
    *("build_model", "load_data", "compile_model", "fit_options", "callbacks", "fit"),
    "hypermodel",
    "search_options",
]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_of_another_kind_is_loaded_or_refused_in_one_line(path: Path, hook: str, value: str) -> None:
    path.write_text(f"def build_model(hp): ...\ndef load_data(): ...\n{hook} = {value}\n")
    message = refusal(lambda: read_space(SpaceRef(str(path))))
    if message is not None:
        assert is_line(message)
        assert hook in message
    else:
        space = read_space(SpaceRef(str(path)))
        assert hook in ("hypermodel", "search_options") or callable(getattr(space, hook))


@steady
@given(
    st.sampled_from(["build_model", "load_data", "compile_model", "fit_options", "callbacks", "fit"]),
    st.lists(
        st.sampled_from(["hp", "model", "train", "validation", "a", "b=1", "epochs", "*", "*args", "**kwargs", "/"]),
        unique=True,
        max_size=6,
    ),
)
def test_any_signature_is_accepted_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, hook: str, names: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "signature.py"
    path.write_text(f"def build_model(hp): ...\ndef load_data(): ...\ndef {hook}({', '.join(names)}): ...\n")
    try:
        message = refusal(lambda: (parse_file(path), read_space(SpaceRef(str(path)))))
    except SyntaxError as error:
        # Some errors only the compiler finds: they pass `parse_file`.
        message = describe_error(error, path)
    assert message is None or is_line(message.removeprefix(str(path)))
