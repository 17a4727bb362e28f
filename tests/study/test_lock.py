"""The lock on a journal: its holder, its former holder, and who may take it over."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO

import pytest

from search.errors import JournalError
from search.study import lock as locks
from search.study.journal import Journal
from search.study.lock import Lock, holder_elsewhere, is_held
from search.study.records import TrialEnded

HOLD = """
import sys
from pathlib import Path
from search.study.lock import Lock
lock = Lock(Path(sys.argv[1]), yields="yields" in sys.argv)
print("held", flush=True)
sys.stdin.read()
"""


def test_another_process_holds_the_lock_until_it_dies(tmp_path: Path) -> None:
    path = tmp_path / "digits" / "lock"
    assert not is_held(path)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert is_held(path)
        with pytest.raises(JournalError, match=rf"'digits' is being run by process {holder.pid} on "):
            Lock(path)
        assert is_held(path)
    finally:
        holder.kill()
        holder.wait()
    assert not is_held(path)
    lock = Lock(path)
    lock.release()
    lock.release()
    again = Lock(path)
    assert is_held(path)
    again.release()
    assert not is_held(path)


def test_a_holder_that_yields_is_ended_by_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "digits" / "lock"
    command = [sys.executable, "-c", HOLD, str(path), "yields"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert not is_held(path)  # it does not run the study
        with pytest.raises(JournalError, match=f"by process {holder.pid} on "):
            Lock(path, yields=True)  # one of its kind waits for no other
        lock = Lock(path)
        assert holder.wait(10) == -signal.SIGTERM
    assert is_held(path)
    lock.release()


def test_a_holder_of_another_machine_that_yields_is_in_nobodys_way(tmp_path: Path) -> None:
    path = words(tmp_path / "digits" / "lock", **ELSEWHERE, yields=True)
    assert holder_elsewhere(path) is None
    Lock(path).release()


def test_asking_who_holds_a_lock_makes_none(tmp_path: Path) -> None:
    assert not is_held(tmp_path / "lock")
    assert not (tmp_path / "lock").exists()


ELSEWHERE = {"host": "elsewhere.example", "pid": 123, "started": 1.0}


def words(path: Path, **holder: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(holder))
    return path


def test_the_lock_of_a_dead_process_of_this_machine_is_taken_over(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    path = words(tmp_path / "digits" / "lock", host=os.uname().nodename, pid=dead.pid, started=1.0)
    lock = Lock(path)
    assert json.loads(path.read_text())["pid"] == os.getpid()
    lock.release()
    assert path.read_text() == ""


def test_the_lock_of_another_machine_is_taken_over_only_if_the_user_says_so(tmp_path: Path) -> None:
    path = words(tmp_path / "digits" / "lock", **ELSEWHERE)
    with pytest.raises(JournalError, match=r"'digits' is being run by process 123 on elsewhere.example.* --take-over$"):
        Lock(path)
    assert json.loads(path.read_text()) == ELSEWHERE  # unchanged
    lock = Lock(path, take_over=True)
    assert json.loads(path.read_text())["host"] == os.uname().nodename
    lock.release()
    Lock(path).release()


def test_a_holder_on_another_machine_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert holder_elsewhere(path) is None
    held = Lock(path)
    assert holder_elsewhere(path) is None
    held.release()
    assert holder_elsewhere(words(tmp_path / "lock", host="elsewhere", pid=7)) == "process 7 on elsewhere"


def hold(path: Path, before: str = "") -> subprocess.Popen[str]:
    """Another process that holds the lock."""
    holder = subprocess.Popen(
        [sys.executable, "-c", before + HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_living_process_of_this_machine_is_never_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "digits" / "lock"
    with hold(path) as holder:
        with pytest.raises(JournalError, match=f"is being run by process {holder.pid} on "):
            Lock(path, take_over=True)
        holder.kill()


def test_a_lock_that_a_file_server_keeps_for_a_machine_that_is_gone_is_taken_over(tmp_path: Path) -> None:
    """The process that holds the lock stands for the server, which has not noticed."""
    path = tmp_path / "digits" / "lock"
    with hold(path, "import socket; socket.gethostname = lambda: 'elsewhere.example'") as holder:
        with pytest.raises(JournalError, match=f"is being run by process {holder.pid} on elsewhere.example"):
            Lock(path)
        lock = Lock(path, take_over=True)
        with pytest.raises(JournalError, match=f"is being run by process {os.getpid()} on "):
            Lock(path)
        lock.release()
        holder.kill()


def test_a_file_that_was_replaced_before_it_was_locked_locks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process takes the lock over between the opening of the file and its locking."""
    path = tmp_path / "digits" / "lock"
    lock_file, others = locks._locked, []

    def replaced(file: IO[str]) -> bool:
        if not others:
            path.unlink()
            others.append(hold(path))
        return lock_file(file)

    monkeypatch.setattr(locks, "_locked", replaced)
    with pytest.raises(JournalError, match="is being run by") as caught:
        Lock(path)
    with others[0] as other:
        assert f"process {other.pid} on " in str(caught.value)
        other.kill()
    Lock(path).release()


def test_one_of_many_takes_a_lock_over(tmp_path: Path) -> None:
    """Before, the second one deleted the new file of the first one: both had the lock."""
    path = tmp_path / "digits" / "lock"
    with hold(path, "import socket; socket.gethostname = lambda: 'elsewhere.example'") as holder:
        together = threading.Barrier(8)
        won: list[Lock] = []

        def take() -> None:
            together.wait(60)
            with suppress(JournalError):
                won.append(Lock(path, take_over=True))

        threads = [threading.Thread(target=take) for _ in range(together.parties)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        won[0].release()
        holder.kill()


def test_a_lock_whose_file_is_deleted_is_taken_again_before_the_next_record(tmp_path: Path) -> None:
    """Before, a second search could begin beside the first one."""
    path = tmp_path / "digits" / "lock"
    lock = Lock(path)
    journal = Journal(tmp_path / "digits" / "journal.jsonl", guard=lock.keep)
    shutil.rmtree(path.parent)
    journal.append([TrialEnded(0, "failed")])
    journal.flush()
    with pytest.raises(JournalError, match=f"is being run by process {os.getpid()} on "):
        Lock(path)
    path.unlink()
    with hold(path) as other:
        with pytest.raises(JournalError, match=rf"was deleted while the search ran, and process {other.pid} on .* has"):
            journal.append([TrialEnded(1, "failed")])
        other.kill()
    assert journal.path.read_bytes().count(b"\n") == 1
    journal.close()
    lock.release()


def test_without_file_locks_the_name_in_the_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(locks.errno.ENOTSUP, "not supported")

    path = tmp_path / "digits" / "lock"
    with hold(path) as holder:
        monkeypatch.setattr(locks.fcntl, "flock", unsupported)
        assert is_held(path)
        with pytest.raises(JournalError, match=f"is being run by process {holder.pid} on "):
            Lock(path)
        holder.kill()
    assert not is_held(path)
    said = json.loads(path.read_text())
    words(path, **{**said, "pid": os.getppid()})  # its number is another process's now
    assert not is_held(path)
    Lock(path).release()


def test_the_earlier_run_of_a_requeued_slurm_job_holds_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "digits" / "lock"
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "big")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    for other in ({"job": "big/8"}, {"job": "small/7"}, {"job": "big/7", "restarts": 1}, {}):
        with pytest.raises(JournalError, match="is being run by process 123 on elsewhere"):
            Lock(words(path, **ELSEWHERE, **other))
    lock = Lock(words(path, **ELSEWHERE, job="big/7", restarts=0))
    assert json.loads(path.read_text()) | {"pid": 1, "started": 1} == {
        "host": os.uname().nodename,
        "pid": 1,
        "started": 1,
        "job": "big/7",
        "restarts": 1,
    }
    lock.release()
