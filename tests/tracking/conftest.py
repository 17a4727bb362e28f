"""One MLflow database that is made once and copied, and folders of studies written by hand."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from by_hand import Clock

from search.journal import Journal
from search.paths import StudyPaths, local_store
from search.records import Checkpointed, Record
from search.tracking import database, store


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database."""
    store.prepare()
    file = tmp_path_factory.mktemp("pristine") / "mlflow.db"
    database.initialise(file)
    return file


@pytest.fixture
def runs(tmp_path: Path, pristine: Path) -> Path:
    """A `runs/` folder whose local store is there."""
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copyfile(pristine, local_store(folder))
    return folder


Writer = Callable[..., StudyPaths]


@pytest.fixture
def write(runs: Path) -> Writer:
    """Writes a study's folder: `write(records, study)`; called again, it appends."""
    clock = Clock()

    def write(records: Iterable[Record], study: str = "digits") -> StudyPaths:
        paths = StudyPaths.of(runs, study)
        paths.space.mkdir(parents=True, exist_ok=True)
        (paths.space / "digits.py").write_text("import layers\n")
        (paths.space / "layers.py").write_text("WIDTH = 1\n")
        journal = Journal(paths.journal, clock)
        for record in records:
            journal.append([record])
            if isinstance(record, Checkpointed):
                best = paths.trial(record.trial).best(record.execution)
                best.parent.mkdir(parents=True, exist_ok=True)
                best.write_bytes(b"weights of %d/%d" % (record.trial, record.best_epoch or 0))
        journal.close()
        return paths

    return write
