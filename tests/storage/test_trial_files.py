"""The files of a trial in a worker's scratch folder, from and to the study's folder through the driver, or a URL."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search.errors import Unavailable
from search.messages import DRIVER, DeleteFile, Evaluate, FileReply, FileRequest, ListFiles, Segment, WritePart
from search.space.file import SpaceRef
from search.storage import parts, scratch, trial_files
from search.storage.objects import TrialObjects
from search.storage.parts import PART_BYTES
from search.storage.transfers import Transfers
from search.storage.trial_files import TrialFiles, localize, open_files
from search.study.trial import Objective

Node = Callable[..., tuple[TrialFiles, Path]]
CONTENT = os.urandom(2 * PART_BYTES + 17)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "study"


@pytest.fixture
def transfers() -> Transfers:
    return Transfers()


@pytest.fixture(params=["driver", "memory"])
def node(
    request: pytest.FixtureRequest, study: Path, tmp_path: Path, transfers: Transfers, monkeypatch: pytest.MonkeyPatch
) -> Node:
    """Return a function that gives the work of a trial to a machine, and returns the files and the folder there."""
    storage = DRIVER if request.param == "driver" else f"memory://{tmp_path}/study/trials/0003"

    def on(machine: str, id: int, **options: Any) -> tuple[TrialFiles, Path]:
        folder = study / "trials" / "0003"
        objective, space = Objective("loss", "min"), SpaceRef()
        segment = Segment(3, 0, space, {}, 0, 0, 1, objective, str(folder), id=id, storage=storage)
        work = replace(segment, **options)
        transfers.begin(work)
        monkeypatch.setattr(trial_files, "local_folder", lambda path: tmp_path / machine / Path(path).name)
        work = localize(work)
        return open_files(work, lambda request: transfers.answer(id, request)), Path(work.folder)

    return on


def names(folder: Path) -> set[str]:
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith(".")}


def test_a_trial_finds_its_files_on_another_machine(node: Node) -> None:
    files, here = node("a", 1)
    files.fetch()
    (here / "checkpoint-0.npz").write_bytes(CONTENT)
    (here / "logs").mkdir()
    (here / "logs/log.csv").write_text("1\n")
    (here / "empty").touch()
    (here / ".half.tmp").touch()
    files.store()
    files, there = node("b", 2)
    files.fetch()
    assert (there / "checkpoint-0.npz").read_bytes() == CONTENT
    assert (there / "logs/log.csv").read_text() == "1\n"
    assert names(there) == {"checkpoint-0.npz", "logs/log.csv", "empty"}
    (there / "checkpoint-0.npz").write_bytes(b"newer")
    (there / "empty").unlink()
    files.store()
    # The first machine has an older state of the trial.
    (here / "of-no-state").touch()
    files, here = node("a", 3)
    files.fetch()
    assert (here / "checkpoint-0.npz").read_bytes() == b"newer"
    assert names(here) == {"checkpoint-0.npz", "logs/log.csv"}


def test_only_files_that_have_changed_travel(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    files, here = node("a", 1)
    files.fetch()
    for name in ("checkpoint-0.npz", "log.csv"):
        (here / name).write_bytes(CONTENT)
    files.store()
    moved: list[str] = []
    for cls in (parts.DriverFiles, TrialObjects):
        get, put = cls.get, cls.put
        monkeypatch.setattr(cls, "get", lambda self, name, to, get=get: (moved.append(name), get(self, name, to)))
        monkeypatch.setattr(
            cls, "put", lambda self, files, gone=(), put=put: (moved.extend(files), put(self, files, gone))[1]
        )
    files, here = node("a", 2)
    files.fetch()
    assert moved == []
    (here / "log.csv").write_bytes(b"more")
    files.store()
    files.store()
    assert moved == ["log.csv"]


def test_a_segment_gets_the_files_of_its_execution(node: Node) -> None:
    files, here = node("a", 1)
    files.fetch()
    ours = {"checkpoint-0.npz", "best-0.npz", "parent-0.npz", "log.csv", "log.txt"}
    (here / "execution-1").mkdir()
    for name in (*ours, "checkpoint-1.npz", "execution-1/log.csv", "model.keras", "traceback.txt"):
        (here / name).touch()
    files.store()
    files, there = node("b", 2)
    files.fetch()
    assert names(there) == ours
    (there / "log.csv").write_text("more")
    files.store()
    files, there = node("c", 3, execution=1)
    files.fetch()
    assert names(there) == {"checkpoint-1.npz", "execution-1/log.csv", "log.csv", "log.txt"}


def test_a_log_that_is_open_goes_on_after_its_earlier_lines(node: Node) -> None:
    files, here = node("a", 1)
    files.fetch()
    (here / "log.txt").write_text("first\n")
    files.store()
    files, there = node("b", 2)
    there.mkdir(parents=True)
    with (there / "log.txt").open("a") as log:
        files.fetch()
        log.write("second\n")
    assert (there / "log.txt").read_text() == "first\nsecond\n"


def test_the_last_checkpoint_of_a_segment_waits_for_the_storage(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    files: Any
    files, here = node("a", 1)
    files.fetch()
    (here / "checkpoint-0.npz").touch()
    waits: list[float] = []
    monkeypatch.setattr(trial_files.time, "sleep", waits.append)
    remote = files._remote
    put, answers = remote.put, iter([Unavailable("away"), Unavailable("away"), Unavailable("away")])

    def unreliable(*arguments: object) -> object:
        if (error := next(answers, None)) is not None:
            raise error
        return put(*arguments)

    remote.put = unreliable
    with pytest.raises(Unavailable):
        files.store()
    files.store(patient=True)
    assert waits == [1.0, 2.0]


class TestTransfers:
    """The driver's end."""

    @pytest.fixture
    def work(self, study: Path) -> Segment:
        folder = str(study / "trials" / "0003")
        return Segment(3, 0, SpaceRef(), {}, 0, 0, 1, Objective("loss", "min"), folder, id=7, storage=DRIVER)

    @pytest.mark.parametrize(
        "request_",
        [
            WritePart("best-0.npz", 10, b"x", last=True),
            WritePart("../../journal.jsonl", 0, b"x", last=True),
            WritePart("/tmp/x", 0, b"x", last=True),
            DeleteFile("../0004/best-0.npz"),
        ],
        ids=repr,
    )
    def test_a_wrong_request_leaves_nothing(
        self, transfers: Transfers, work: Segment, study: Path, request_: FileRequest
    ) -> None:
        (study / "trials" / "0004").mkdir(parents=True)
        (study / "trials" / "0004" / "best-0.npz").touch()
        transfers.begin(work)
        transfers.answer(7, WritePart("best-0.npz", 0, b"half", last=False))
        assert transfers.answer(7, request_).error is not None
        assert [path.name for path in study.rglob("*") if path.is_file()] == ["best-0.npz"]
        assert transfers.answer(7, ListFiles()).versions == {}

    def test_a_file_that_did_not_arrive_whole_leaves_the_one_before(
        self, transfers: Transfers, work: Segment, study: Path
    ) -> None:
        transfers.begin(work)
        transfers.answer(7, WritePart("best-0.npz", 0, b"whole", last=True))
        transfers.answer(7, WritePart("best-0.npz", 0, b"half", last=False))
        transfers.end(7)
        (path,) = [path for path in study.rglob("*") if path.is_file()]
        assert path.read_bytes() == b"whole"

    def test_a_full_disk_is_the_workers_error(
        self, transfers: Transfers, work: Segment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        transfers.begin(work)
        monkeypatch.setattr("search.storage.transfers.os.fsync", full)
        (tmp_path / "x").write_text("x")
        files = parts.DriverFiles(lambda request: transfers.answer(7, request))
        with pytest.raises(OSError, match="No space left on device") as caught:
            files.put({"x": tmp_path / "x"})
        assert caught.value.errno == errno.ENOSPC

    def test_the_winners_model_goes_into_the_studys_folder(
        self, transfers: Transfers, work: Segment, study: Path
    ) -> None:
        folder = Path(work.folder)
        weights, reference, model = folder / "best-0.npz", folder / "reference-0.npz", study / "model.keras"
        evaluate = Evaluate(
            3, SpaceRef(), {}, str(weights), 0, work.folder, work.objective, str(reference), model=str(model), id=7
        )
        transfers.begin(evaluate)
        assert transfers.answer(7, WritePart("model.keras", 0, b"m", last=True)) == FileReply()
        assert model.read_bytes() == b"m"


@pytest.mark.filterwarnings("ignore:os.fork")  # JAX is multithreaded; the fork ends at once
def test_a_scratch_folder_is_deleted_with_its_process_or_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(scratch, "_scratch", [])
    process = os.fork()
    if process == 0:  # as if killed
        scratch.local_folder("/runs/study/trials/0001").mkdir(parents=True)
        os._exit(0)
    os.waitpid(process, 0)
    (abandoned,) = tmp_path.iterdir()
    interrupted = tmp_path / "search-scratch-interrupted"  # its process was killed when it deleted the folder
    interrupted.mkdir()
    folder = scratch.local_folder("/runs/study/trials/0001")
    assert folder.parts[-3:] == ("study", "trials", "0001")
    assert not abandoned.exists()
    assert not interrupted.exists()
    scratch.delete_abandoned()
    assert len(list(tmp_path.iterdir())) == 1, "the folder of a process that lives"
    for name in ("0001", "0002", "0003"):
        (folder.parent / name).mkdir(parents=True)
    scratch.prune(folder, [3])
    assert {path.name for path in folder.parent.iterdir()} == {"0001", "0003"}
    scratch.remove_scratch()
    assert list(tmp_path.iterdir()) == []
