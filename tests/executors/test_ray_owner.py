"""The owner of a node's workers, in this process: it needs no cluster."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("ray")

from search.devices.slots import Slot
from search.executors.local import LocalExecutor
from search.executors.ray import owner as owners
from search.executors.ray.code import pack_code
from search.executors.ray.owner import DriverSilent, Entry, Owner, OwnerSetup
from search.messages import Probe, Probed, Segment
from search.space.file import SpaceRef
from search.study.records import EpochDone, SegmentEnded
from search.study.trial import Objective
from search.testing.conversation import SPACE, VALUES

SHARE = Slot(0, (), (), 1, "CPU 0", node="node")
TIMEOUT = 60.0


@pytest.fixture
def make(tmp_path: Path, zygote: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Owner]]:
    """Return a function that makes owners with one open slot, 5."""
    for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # an owner changes them
    monkeypatch.setattr(owners, "LocalExecutor", partial(LocalExecutor, zygote=zygote))
    monkeypatch.setattr(owners, "WATCH_SECONDS", 0.1)
    (tmp_path / "marker").write_text("token")
    made: list[Owner] = []

    def make_one(**options: Any) -> Owner:
        values: dict[str, Any] = {"log": str(tmp_path / "search.log"), "keras_backend": None, "compiled": None}
        values |= {"heartbeat": 300.0, "marker": str(tmp_path / "marker"), "token": "token", "folder": str(Path.cwd())}
        made.append(Owner(OwnerSetup(**{**values, **options})))
        made[-1].open_slot(5, SHARE)
        return made[-1]

    yield make_one
    for owner in made:
        owner.close(True)


@pytest.fixture
def segment(tmp_path: Path) -> Segment:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "space.py").write_text(SPACE)
    ref, folder = SpaceRef(str(tmp_path / "code" / "space.py")), str(tmp_path / "trial-0")
    return Segment(0, 0, ref, VALUES, 7, 0, 3, Objective("val_loss", "min"), folder, id=1)


def entries_until(owner: Owner, kind: type[object]) -> list[Entry]:
    """Return the entries up to the first of a kind. None is confirmed."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        found = owner.messages(0, 1.0).entries
        if any(isinstance(entry.message, kind) for entry in found):
            return list(found)
        time.sleep(0.05)
    pytest.fail(f"no {kind.__name__}: {found}")


def test_messages_are_kept_until_the_driver_has_confirmed_them(make: Callable[..., Owner], segment: Segment) -> None:
    owner = make()
    assert owner.reaches_folder()
    owner.start(5, segment, True)
    first = entries_until(owner, SegmentEnded)
    assert [entry.number for entry in first] == [*range(1, len(first) + 1)]
    assert {(entry.slot, entry.work) for entry in first} == {(5, 1)}
    again = owner.messages(2, 0.0)
    assert list(again.entries) == first[2:]
    assert owner.messages(first[-1].number, 0.0).entries == ()
    pids = [pid for pid, _ in again.processes]
    assert len(pids) == 2
    assert all(psutil.pid_exists(pid) for pid in pids)


def test_the_largest_worker_ends_as_out_of_memory(make: Callable[..., Owner], segment: Segment) -> None:
    owner = make(memory=10 * 2**20)
    owner.start(5, replace(segment, to_epoch=1_000_000), True)
    end = entries_until(owner, SegmentEnded)[-1].message
    assert isinstance(end, SegmentEnded)
    assert end.outcome == "no_memory"
    assert "out of memory: its process had" in str(end.error)


def test_workers_end_if_the_driver_is_silent(make: Callable[..., Owner], segment: Segment) -> None:
    owner = make()
    owner.start(5, replace(segment, to_epoch=1_000_000), True)
    found = entries_until(owner, EpochDone)
    _, (worker, _) = owner.messages(len(found), 0.0).processes
    owner._setup = replace(owner._setup, lease=0.0)
    deadline = time.monotonic() + TIMEOUT
    while psutil.pid_exists(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(DriverSilent, match="was silent for"):
        owner.messages(10**9, 1.0)


def test_a_node_without_the_users_files_gets_copies_of_them(
    make: Callable[..., Owner], segment: Segment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = pack_code(segment.space)
    monkeypatch.setattr("ray.get", lambda reference: reference)
    original = Path(str(segment.space.path))
    shutil.rmtree(original.parent)
    owner = make()
    owner.place_code(code, [code])
    probed = owner.probe(5, Probe(segment.space))
    assert isinstance(probed, Probed), probed
    assert probed.files == (("space.py", str(original)),)
    owner.start(5, replace(segment, values={**VALUES, "kind": "raises"}), True)
    end = entries_until(owner, SegmentEnded)[-1].message
    assert isinstance(end, SegmentEnded)
    assert str(end.error).startswith(f"{original}:")


def test_a_node_that_cannot_read_the_marker_does_not_reach_the_folder(make: Callable[..., Owner]) -> None:
    assert not make(token="another").reaches_folder()


def test_processes_of_an_earlier_owner_are_ended(make: Callable[..., Owner]) -> None:
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"], start_new_session=True)
    began = psutil.Process(left.pid).create_time()
    owner = make()
    owner.end_processes([(left.pid, began - 100)])
    assert psutil.pid_exists(left.pid)  # another process that got the same id
    owner.end_processes([(left.pid, began), (2**22 + 1, began)])
    assert not psutil.pid_exists(left.pid)
    left.wait()


@pytest.mark.slow
def test_large_data_are_loaded_once_on_a_node(make: Callable[..., Owner], segment: Segment, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    counted = f"    with open({str(calls)!r}, 'a') as file:\n        file.write('x')\n"
    large = SPACE.replace("    x = np", counted + "    x = np").replace("size=(40, 4)", "size=(440, 40_000)")
    Path(str(segment.space.path)).write_text(large.replace("Input((4,))", "Input((40_000,))"))
    owner = make()
    owner.open_slot(6, SHARE)
    epoch = replace(segment, to_epoch=1, data="the folder on another node")
    owner.start(5, epoch, False)
    owner.start(6, replace(epoch, id=2, folder=str(tmp_path / "trial-1")), False)
    deadline = time.monotonic() + 2 * TIMEOUT
    while sum(isinstance(entry.message, SegmentEnded) for entry in owner.messages(0, 1.0).entries) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert calls.read_text() == "x"


def test_what_no_worker_waits_for_travels_with_the_next_message(
    make: Callable[..., Owner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owners, "GATHER_SECONDS", TIMEOUT)
    owner = make()
    owner._report(5, 1, EpochDone(0, 0, 1, {"loss": 0.5}, 0.1))
    threading.Timer(0.05, owner._report, (5, 1, SegmentEnded(0, 0, "reached", 1))).start()
    report = owner.messages(0, TIMEOUT)
    assert [type(entry.message) for entry in report.entries] == [EpochDone, SegmentEnded]
