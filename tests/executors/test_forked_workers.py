"""Workers forked from a script's process: they behave as those of a new Python, and keep nothing of the script's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forks
import psutil
import pytest
from places import ROOT

TESTS = Path(__file__).parent


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.slow
def test_forked_workers_pass_the_contract(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS / "forked_contract.py")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout
    assert int(ended.stdout.split(" passed")[0].split()[-1]) > 20


# What a fork keeps ----------------------------------------------------------------------------------------------------

SCRIPT = """
import atexit, faulthandler, json, os, signal, socket, sys, threading
from pathlib import Path
from search.executors.forked_process import ForkedProcess

folder, files = Path(sys.argv[1]), sys.argv[2] == "files"
sys.stdout = open(folder / "out", "w")
print("once", end="")  # it waits in the buffer
atexit.register(lambda: print(" at the end", end=""))
for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: print("handled", end=""))
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
faulthandler.enable()
kept, other = socket.socketpair()
mine, theirs = socket.socketpair()
reads, writes = os.pipe()
read = open(folder / "data")
(folder / "study").mkdir()
lock = open(folder / "study" / "lock", "w")

def tell():
    def leads(file):
        return os.readlink(f"/proc/self/fd/{file}").partition(":")[0]

    found = {
        "fds": {name: leads(file.fileno() if hasattr(file, "fileno") else file) for name, file in {
            "kept": kept, "other": other, "mine": mine, "reads": reads, "writes": writes, "read": read, "lock": lock,
            "stdin": 0}.items()},
        "handlers": [str(signal.getsignal(number)) for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR2)],
        "faults": faulthandler.is_enabled(),
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "threads": threading.active_count(),
        "stdin": sys.stdin.read(),
    }
    (folder / "told").write_text(json.dumps(found))
    print("in the fork")
    mine.close()  # an object of the script's closes its own, and no other
    raise SystemExit("the script's frames must not see this")

made = ForkedProcess(tell, kept.fileno(), files=files, private=folder / "study")
code = made.wait(30)
handler = str(signal.getsignal(signal.SIGTERM))
(folder / "parent").write_text(json.dumps([code, made.poll(), "<lambda>" in handler]))
"""


@pytest.mark.parametrize("files", ["files", ""])
def test_a_fork_has_nothing_of_the_script(tmp_path: Path, files: str) -> None:
    (tmp_path / "data").write_text("rows")
    path = os.pathsep.join([str(ROOT), str(TESTS)])
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), files],
        check=True,
        timeout=60,
        stdin=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert (tmp_path / "out").read_text() == "once at the end"
    told = json.loads((tmp_path / "told").read_text())
    nowhere = dict.fromkeys(("other", "mine", "reads", "writes", "lock", "stdin"), os.devnull)
    read = str(tmp_path / "data") if files else os.devnull
    assert told["fds"] == {**nowhere, "kept": "socket", "read": read}
    default, ignored = str(signal.Handlers.SIG_DFL), str(signal.Handlers.SIG_IGN)
    assert told["handlers"] == [default, ignored, ignored]
    assert (told["faults"], told["blocked"], told["threads"], told["stdin"]) == (False, [], 1, "")
    assert json.loads((tmp_path / "parent").read_text()) == [1, 1, True]


# Kills ----------------------------------------------------------------------------------------------------------------

DRIVER = """
import sys, time
from dataclasses import replace
from pathlib import Path
import keras
import test_local_faults
from search.devices.slots import core_ids, make_slots
from search.executors.fork_safety import process_facts, why_unsafe
from search.executors.forked_process import ForkOptions
from search.executors.local import LocalExecutor
from search.space.file import SpaceRef

folder, files = Path(sys.argv[1]), sys.argv[2] == "files"
assert why_unsafe(process_facts()) is None
executor = LocalExecutor(make_slots((), 1, core_ids(), 1), folder / "study" / "log", fork=ForkOptions(files))
space = SpaceRef(path=str(test_local_faults.SLOW))
work = replace(test_local_faults.SEGMENT, space=space, folder=str(folder / "0000"))
lines = open(folder / "lines", "w", buffering=1)

def tell(slot, work, message):
    print(work, type(message).__name__, getattr(message, "outcome", None) or getattr(message, "reason", ""), file=lines)

def train(number, epochs):
    executor.start(0, replace(work, id=number, trial=number, folder=str(folder / str(number)), to_epoch=epochs))
    while not executor.pids():
        executor.poll(tell, 0.05)
    (folder / f"pids-{number}").write_text(f"{executor.zygote_pid} {executor.pids()[0]}\\n")

train(1, 1000)
while not (folder / "next").exists():
    executor.poll(tell, 0.05)
train(2, 1)
while "2 SegmentEnded reached" not in (folder / "lines").read_text():
    executor.poll(tell, 0.05)
executor.close()
import psutil
(folder / "left").write_text(str([each.status() for each in psutil.Process().children(recursive=True)]))
"""


class Drive:
    """A script's process that drives an executor with forked workers."""

    def __init__(self, folder: Path, templates: forks.Templates, files: str = "") -> None:
        self.folder = folder
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(TESTS)])
        code = f"import sys; sys.path[:0] = {path.split(os.pathsep)!r}\n" + DRIVER
        self.process = forks.start(templates.address("keras"), ["python", "-c", code, str(folder), files])

    def pids(self, number: int = 1) -> tuple[int, int]:
        """Return the process ids of the zygote and of the worker that trains."""
        file = self.folder / f"pids-{number}"
        wait_until(lambda: file.exists() and file.read_text().endswith("\n"))
        zygote, worker = map(int, file.read_text().split())
        return zygote, worker

    def wait_for(self, line: str) -> None:
        wait_until(lambda: line in self.lines())

    def lines(self) -> str:
        file = self.folder / "lines"
        return file.read_text() if file.exists() else ""


@pytest.fixture
def drive(tmp_path: Path, templates: forks.Templates) -> Any:
    drives: list[Drive] = []

    def make(files: str = "") -> Drive:
        drives.append(Drive(tmp_path, templates, files))
        return drives[-1]

    yield make
    for made in drives:
        made.process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("files", ["files", ""])
@pytest.mark.parametrize("victim", ["worker", "zygote"])
def test_a_killed_process_is_replaced(drive: Callable[[str], Drive], victim: str, files: str) -> None:
    """A zygote that dies is followed by its spare, which was forked with it, or by a new Python."""
    driven = drive(files)
    zygote, worker = driven.pids()
    driven.wait_for("1 EpochDone")
    os.kill(worker if victim == "worker" else zygote, signal.SIGKILL)
    if victim == "zygote":
        os.kill(worker, signal.SIGKILL)
    driven.wait_for("1 Lost")
    assert "SIGKILL" in driven.lines() or victim == "zygote"
    (driven.folder / "next").touch()
    new_zygote, new_worker = driven.pids(2)
    assert (new_zygote == zygote) == (victim == "worker")
    assert new_worker != worker
    driven.wait_for("2 SegmentEnded reached")
    assert driven.process.wait(60) == 0
    assert (driven.folder / "left").read_text() == "[]"
    assert all(map(gone, (zygote, worker, new_zygote, new_worker)))


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [True, False])
def test_nothing_outlives_a_killed_script(drive: Callable[[str], Drive], stopped: bool) -> None:
    driven = drive("files")  # with a spare
    zygote, worker = driven.pids()
    driven.wait_for("1 EpochDone")
    children = psutil.Process(driven.process.pid).children(recursive=True)
    assert {zygote, worker} < {child.pid for child in children}
    if stopped:
        os.kill(zygote, signal.SIGSTOP)
    driven.process.kill()
    wait_until(lambda: all(gone(child.pid) for child in children), 10)


@pytest.mark.slow
def test_signals_of_a_terminal_leave_workers_alone(drive: Callable[[str], Drive]) -> None:
    driven = drive("")
    zygote, worker = driven.pids()
    driven.wait_for("1 EpochDone")
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        os.kill(zygote, number)
        os.kill(worker, number)
    before = driven.lines().count("EpochDone")
    wait_until(lambda: driven.lines().count("EpochDone") > before + 2)
    assert not gone(zygote)
    assert "Lost" not in driven.lines()
