"""Workers and zygotes that hang, are stopped, or leave processes behind: nobody waits for them, and nothing stays."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import forks
import kills
import psutil
import pytest
from places import ROOT, SLOW

from search.devices.slots import core_ids, make_slots
from search.executors import local, zygotes
from search.executors.local import LocalExecutor
from search.executors.zygotes import Child, Zygote
from search.messages import FileReply, Heartbeat, Lost, Message, Probe, Probed, ProbeFailed, Segment
from search.space.file import SpaceRef
from search.study.records import EpochDone, SegmentEnded
from search.study.trial import Objective
from search.worker.channel import DirectChannel
from search.worker.own_process import claim_process

SEGMENT = Segment(
    trial=0,
    execution=0,
    space=SpaceRef(path=str(SLOW)),
    values={"units": 8, "activation": "relu", "dropout": 0.1, "learning_rate": 0.01},
    seed=0,
    from_epoch=0,
    to_epoch=2,
    objective=Objective("val_accuracy", "max"),
    folder="",
    id=1,
)

CHANNEL = """
import gc, struct
from search.worker.channel import PipeChannel

def connection():
    (found,) = [each for each in gc.get_objects() if type(each) is PipeChannel]
    return found._connection
"""
"""Code of a space file that finds its worker's end of the pipe."""


class Site:
    """A folder with executors, whose messages are kept."""

    def __init__(self, folder: Path, zygote: Zygote) -> None:
        self.folder = folder
        self.zygote = zygote
        self.messages: list[tuple[int, Message]] = []
        self._executors: list[LocalExecutor] = []

    def executor(self, slots: int = 1, **options: Any) -> LocalExecutor:
        options = {"zygote": self.zygote, **options}
        made = LocalExecutor(make_slots((), 2, core_ids(), slots), self.folder / "log", **options)
        self._executors.append(made)
        return made

    def space(self, code: str, *, slow: bool = True) -> SpaceRef:
        path = self.folder / "space.py"
        path.write_text((SLOW.read_text() if slow else "") + code)
        return SpaceRef(path=str(path))

    def segment(self, code: str = "", **changes: Any) -> Segment:
        folder = str(self.folder / f"{changes.get('trial', 0):04d}")
        return replace(SEGMENT, space=self.space(code), folder=folder, **changes)

    def poll(self, executor: LocalExecutor, until: Callable[[], object], seconds: float = 30) -> None:
        """Poll until something holds."""
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline, f"it did not happen in time: {self.messages}"
            executor.poll(lambda slot, work, message: self.messages.append((slot, message)), 0.1)

    def ends(self, slot: int = 0) -> list[str | None]:
        """Return how the work in a slot has ended."""
        return [
            message.reason if isinstance(message, Lost) else message.outcome
            for each, message in self.messages
            if each == slot and isinstance(message, (Lost, SegmentEnded))
        ]

    def pid(self, name: str = "child") -> int:
        """Return the process id that a space has written to a file."""
        file = self.folder / name
        wait_until(lambda: file.exists() and file.read_text().endswith("\n"))
        return int(file.read_text())

    def close(self) -> None:
        for made in self._executors:
            made.close(now=True)


@pytest.fixture
def site(tmp_path: Path, zygote: Zygote) -> Iterator[Site]:
    made = Site(tmp_path, zygote)
    yield made
    made.close()


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Return whether a process has ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# The pipe of a worker, and its children -------------------------------------------------------------------------------

KEEPS_PIPE = """
import ctypes
def keep_pipe():
    pid = ctypes.PyDLL(None).fork()  # no hook of Python's runs
    if pid == 0:
        os.setsid()  # the end of the worker's process group does not reach it
        ctypes.PyDLL(None).sleep(1000)
    Path(__file__).with_name("child").write_text(f"{pid}\\n")
FATES["keep"] = keep_pipe
"""


@pytest.mark.slow
def test_the_death_of_a_worker_is_seen_though_another_process_has_its_pipe(site: Site) -> None:
    executor = site.executor()
    (site.folder / "kill").write_text("0000 0 once keep")
    executor.start(0, site.segment(KEEPS_PIPE, to_epoch=1000))
    site.poll(executor, (site.folder / "child").exists)
    child = site.pid()
    try:
        os.kill(executor.pids()[0], signal.SIGKILL)
        site.poll(executor, site.ends, 5)
        assert site.ends() == ["its process was ended by SIGKILL, out of memory?"]
        assert not gone(child)
    finally:
        os.kill(child, signal.SIGKILL)


FORKS = """
import subprocess
_slow_build = build_model
def build_model(hp):
    for way in ("raises", "exits", "returns"):
        pid = os.fork()
        if pid == 0 and way == "raises":
            raise RuntimeError("of a helper")
        if pid == 0 and way == "exits":
            sys.exit(0)
        if pid == 0:
            return _slow_build(hp)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with open(Path(__file__).with_name("codes"), "a") as file:
            print(way, status, file=file)
    ours = os.readlink(f"/proc/self/fd/{connection().fileno()}")
    listing = "import os; print([os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd') if n != '3'])"
    listed = subprocess.run([sys.executable, "-c", listing], close_fds=False, capture_output=True, text=True).stdout
    Path(__file__).with_name("inherited").write_text(str(ours in listed))
    connection().send((99, __import__("search").study.records.SegmentEnded(0, 0, "raised", 0, "of another segment")))
    return _slow_build(hp)
"""


@pytest.mark.slow
def test_no_process_speaks_in_the_name_of_another(site: Site) -> None:
    """Forks that raise, exit or return where their parent would, and messages of another segment."""
    executor = site.executor()
    executor.start(0, site.segment(CHANNEL + FORKS, id=7))
    site.poll(executor, site.ends)
    assert site.ends() == ["reached"]
    assert [type(message).__name__ for _, message in site.messages].count("SegmentEnded") == 1
    assert (site.folder / "codes").read_text().split() == ["raises", "1", "exits", "0", "returns", "1"]
    assert (site.folder / "inherited").read_text() == "False"
    log = (site.folder / "0000" / "log.txt").read_text()
    assert "RuntimeError: of a helper" in log
    assert "a fork of the user's code returned" in log


FORKS_QUIETLY = pytest.mark.filterwarnings("ignore:os.fork")  # JAX is multithreaded; the forks end at once


@FORKS_QUIETLY
def test_a_fork_of_the_drivers_own_process_sends_nothing() -> None:
    """So with the inline executor: the fork would go on with the search."""
    heard: list[Message] = []
    claim_process()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            DirectChannel(heard.append).send(Heartbeat())
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


@FORKS_QUIETLY
def test_a_fork_of_the_driver_keeps_nothing_that_workers_know_the_driver_by(site: Site) -> None:
    child = site.zygote.fork(make_slots((), 1, core_ids(), 1)[0], site.folder / "log")
    pid = os.fork()
    if pid == 0:
        closed = all(each.fileno() == -1 for each in (child.pipe, child.lifeline, site.zygote))
        os._exit(0 if closed else 99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    child.release()


# Workers that are stopped, or cannot be killed ------------------------------------------------------------------------

STOPS_WITHIN_A_MESSAGE = """
def stop_within():
    os.write(connection().fileno(), struct.pack("!i", 1000) + b"part")
    Path(__file__).with_name("stopped").write_text(f"{os.getpid()}\\n")
    os.kill(os.getpid(), signal.SIGSTOP)
FATES["within"] = stop_within
"""


@pytest.mark.slow
def test_a_worker_that_is_stopped_within_a_message_or_reads_none_blocks_no_other(site: Site) -> None:
    executor = site.executor(2, heartbeat=4.0)
    (site.folder / "kill").write_text("0000 0 once within")
    executor.start(0, site.segment(CHANNEL + STOPS_WITHIN_A_MESSAGE))
    site.poll(executor, (site.folder / "stopped").exists)
    began = time.monotonic()
    executor.send(0, 1, FileReply(data=bytes(50 << 20)))
    executor.start(1, site.segment(CHANNEL + STOPS_WITHIN_A_MESSAGE, trial=1, id=2))
    assert time.monotonic() - began < 2
    site.poll(executor, lambda: site.ends(0) and site.ends(1))
    assert (site.ends(0), site.ends(1)) == (["its process sent no sign of life for 4s: did it hang?"], ["reached"])


@pytest.mark.slow
def test_a_worker_that_cannot_be_killed_blocks_neither_the_others_nor_the_end(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "KILL_SECONDS", 1.0)
    executor = site.executor()
    (site.folder / "kill").write_text("0000 0 once stop")
    executor.start(0, site.segment())
    site.poll(executor, (site.folder / "0000" / "killed").exists)
    pid = executor.pids()[0]
    with monkeypatch.context() as patch:
        patch.setattr(Child, "kill", lambda self: None)  # the system would do so for a process in state D
        executor.kill(0, 1, "it hangs")
        site.poll(executor, site.ends, 5)
        assert site.ends() == [f"it hangs (process {pid} was killed and does not end)"]
        executor.start(0, site.segment(id=2))
        assert executor.pids()[0] != pid
        site.poll(executor, lambda: len(site.ends()) == 2)
        assert site.ends()[1] == "reached"
        os.kill(executor.pids()[0], signal.SIGSTOP)
        began = time.monotonic()
        executor.close()
        assert time.monotonic() - began < 5
    os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "limit", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGSTOP)", None, "its process sent no sign of life for 2s: did it hang?"),
        ("time.sleep(1000)", 1.0, "the probe took longer than 1s: did it hang?"),
    ],
)
def test_a_probe_that_hangs_is_ended(site: Site, code: str, limit: float | None, said: str) -> None:
    executor = site.executor(heartbeat=2.0)
    space = site.space(f"import os, signal, time\n{code}\n", slow=False)
    began = time.monotonic()
    found = executor.probe(Probe(space, limit=limit))
    assert time.monotonic() - began < 10
    assert isinstance(found, ProbeFailed)
    assert said in found.message


# The zygote -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_stopped_zygote_blocks_nobody(site: Site) -> None:
    executor = site.executor()
    executor.start(0, site.segment(to_epoch=1000))
    os.kill(site.zygote.pid, signal.SIGSTOP)
    os.kill(executor.pids()[0], signal.SIGKILL)
    site.poll(executor, site.ends, 3)
    assert site.ends() == ["its process was ended by SIGKILL, out of memory?"]
    os.kill(site.zygote.pid, signal.SIGSTOP)
    began = time.monotonic()
    executor.start(0, site.segment(id=2))
    assert time.monotonic() - began < 3
    site.poll(executor, lambda: len(site.ends()) == 2)
    assert site.ends()[1] == "reached"


@pytest.mark.slow
def test_a_zygote_that_stays_stopped_is_replaced_while_the_others_go_on(
    site: Site, templates: forks.Templates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zygotes, "subprocess", kills.forked_zygotes(templates.address("keras")))
    monkeypatch.setattr(zygotes, "ANSWER_SECONDS", 2.0)
    zygote = Zygote(site.folder / "log", None)
    executor = site.executor(2, zygote=zygote)
    try:
        executor.start(0, site.segment(to_epoch=1000))
        site.poll(executor, lambda: zygote.ready and executor.pids())
        send = zygotes.zygote.send

        def send_to_others(sock: socket.socket, value: object, files: tuple[int, ...] = ()) -> None:
            if sock.fileno() != zygote.fileno():  # as if its control group were frozen: a signal wakes it otherwise
                send(sock, value, files)

        monkeypatch.setattr(zygotes.zygote, "send", send_to_others)
        executor.start(1, site.segment(trial=1, id=2))
        site.poll(executor, lambda: site.ends(1))
        assert site.ends(1) == ["reached"]
        assert executor.zygote_pid != zygote.pid
        assert any(slot == 0 and isinstance(message, EpochDone) for slot, message in site.messages)
        assert site.ends(0) == []
    finally:
        executor.close(now=True)
        zygote.close()


# A driver that is gone ------------------------------------------------------------------------------------------------

IMPORTING = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from search.executors.zygotes import Zygote
zygote = Zygote(Path(sys.argv[1], "log"), None)
print(zygote.pid, flush=True)
time.sleep(1000)
"""


def test_a_zygote_that_still_imports_ends_with_its_driver(tmp_path: Path) -> None:
    (tmp_path / "keras.py").write_text(
        "import ctypes, pathlib\npathlib.Path(__file__).with_name('imports').touch()\nctypes.PyDLL(None).sleep(1000)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen(
        [sys.executable, "-c", IMPORTING, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert driver.stdout is not None
    pid = int(driver.stdout.readline())
    wait_until((tmp_path / "imports").exists)
    driver.kill()
    driver.wait()
    driver.stdout.close()
    wait_until(lambda: gone(pid), 5)


GRANDCHILDREN = """
import ctypes, subprocess
_slow_load = load_data
def load_data():
    started = subprocess.Popen(["sleep", "1000"]).pid
    forked = os.fork()
    if forked == 0:
        time.sleep(1000)
    Path(__file__).with_name("grandchildren").write_text(f"{started} {forked}")
    if Path(__file__).with_name("kill").exists():
        ctypes.PyDLL(None).sleep(1000)
    return _slow_load()
"""

DRIVER = """
import sys, time
from dataclasses import replace
from pathlib import Path
import kills, forks
from search.devices.slots import core_ids, make_slots
from search.executors import zygotes
from search.executors.local import LocalExecutor
from search.space.file import SpaceRef
import test_local_faults
folder, address = Path(sys.argv[1]), sys.argv[2]
zygotes.subprocess = kills.forked_zygotes(address)
executor = LocalExecutor(make_slots((), 1, core_ids(), 1), folder / "log")
work = replace(test_local_faults.SEGMENT, space=SpaceRef(path=str(folder / "space.py")), folder=str(folder / "0000"))
executor.start(0, replace(work, to_epoch=1000))
while not executor.pids():
    executor.poll(lambda *_: None, 0.1)
(folder / "pids").write_text(f"{executor.zygote_pid} {executor.pids()[0]}")
while True:
    executor.poll(lambda *_: None, 0.1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("with_zygote", ["stopped", "killed", ""])
@pytest.mark.parametrize("native", [True, False])
def test_nothing_outlives_the_driver(site: Site, templates: forks.Templates, with_zygote: str, native: bool) -> None:
    """A worker whose threads all wait in native code, its children, and a zygote that is stopped or killed, too."""
    site.space(GRANDCHILDREN)
    if native:
        (site.folder / "kill").touch()
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)])
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(site.folder), templates.address("keras")],
        env={**os.environ, "PYTHONPATH": path},
    )
    wait_until(lambda: (site.folder / "grandchildren").exists() and (site.folder / "pids").exists(), 60)
    time.sleep(0.2)
    zygote, worker = map(int, (site.folder / "pids").read_text().split())
    pids = [zygote, worker, *map(int, (site.folder / "grandchildren").read_text().split())]
    assert not any(map(gone, pids))
    if with_zygote:
        os.kill(zygote, signal.SIGKILL if with_zygote == "killed" else signal.SIGSTOP)
    driver.kill()
    driver.wait()
    wait_until(lambda: all(map(gone, pids)), 5)


# Pools of the user's code ---------------------------------------------------------------------------------------------

POOL = """
import multiprocessing
import numpy as np
offset = 1

def double(x):
    return 2 * x + offset

def load_data():
    with multiprocessing.get_context("{method}").Pool(1) as pool:
        x = np.array(pool.map(double, range(8)), dtype="float32")[:, None]
    assert list(x[:2, 0]) == [1, 3]
    return (x, x), (x, x)

def build_model(hp):
    import keras
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(hp.Int("units", 1, 2))])
    model.compile("sgd", "mse")
    return model
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_the_processes_of_a_pool_find_the_space_file(site: Site, method: str) -> None:
    found = site.executor().probe(Probe(site.space(POOL.replace("{method}", method), slow=False), limit=60.0))
    assert isinstance(found, Probed), found
