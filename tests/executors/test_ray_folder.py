"""A node that does not see the study's folder: its workers get their files from the driver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray")

from search.errors import OptionError
from search.executors.base import ExecutorSetup
from search.executors.ray.executor import RayExecutor
from search.messages import FileRequest, Message, Segment
from search.options import FOLDER, Options
from search.space.file import SpaceRef
from search.storage.transfers import Transfers
from search.study.paths import TrialPaths
from search.study.records import EpochDone, SegmentEnded
from search.study.trial import Objective
from search.testing.conversation import SPACE, VALUES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def blind(folder: Path, storage: str | None) -> RayExecutor:
    """Return an executor whose nodes look in vain for the file that the driver has put into the study's folder."""
    options = Options(executor="ray", ray_address="local", workers=1, storage=storage)
    folder.mkdir()
    setup = ExecutorSetup(RayExecutor.find_slots(options), folder / "search.log", options=options)
    made = RayExecutor.from_setup(setup)
    made._marker.unlink()
    return made


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[RayExecutor]:
    made = blind(tmp_path / "study", None)
    made.wait_for_slot()
    yield made
    made.close()


def test_its_trials_files_come_from_and_go_to_the_study(executor: RayExecutor, tmp_path: Path) -> None:
    (tmp_path / "space.py").write_text(SPACE)
    transfers = Transfers()
    curve: list[int] = []

    def train(work: Segment) -> None:
        ended: list[SegmentEnded] = []

        def handle(slot: int, number: int, message: Message) -> None:
            if isinstance(message, FileRequest):
                executor.send(slot, number, transfers.answer(number, message))
            elif isinstance(message, EpochDone):
                curve.append(message.epoch)
            elif isinstance(message, SegmentEnded):
                ended.append(message)

        transfers.begin(work)
        executor.start(0, work)
        while not ended:
            executor.poll(handle, 0.1)
        assert (ended[0].outcome, ended[0].error) == ("reached", None)

    paths = TrialPaths(tmp_path / "study" / "trials" / "0000")
    ref, objective = SpaceRef(str(tmp_path / "space.py")), Objective("val_loss", "min")
    train(Segment(0, 0, ref, VALUES, 7, 0, 2, objective, str(paths.folder), id=1))
    assert paths.checkpoint(0).exists()
    assert paths.best(0).exists()
    train(Segment(0, 0, ref, VALUES, 7, 2, 4, objective, str(paths.folder), id=2))
    assert curve == [1, 2, 3, 4]


def test_it_is_refused_if_the_user_wants_the_folder(tmp_path: Path) -> None:
    made = blind(tmp_path / "study", FOLDER)
    try:
        with pytest.raises(OptionError, match=r"cannot reach the study's folder: give --runs .* or give --storage dri"):
            made.wait_for_slot()
    finally:
        made.close()
