"""One MLflow database that is made once and copied, and folders of studies written by hand."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import pytest
from by_hand import OLDER, Clock

from search.study.journal import Journal
from search.study.paths import StudyPaths, local_store
from search.study.records import Checkpointed, Record
from search.tracking.mlflow import database, store


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


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A database that its own migrations made up to revision `OLDER`, with a study's run in it, as it was then."""
    from alembic import command
    from mlflow.store.db import utils

    file = local_store(tmp_path)
    engine = utils.create_sqlalchemy_engine(f"sqlite:///{file}")
    utils.InitialBase.metadata.create_all(engine)
    config = utils._get_alembic_config(str(engine.url))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, OLDER)
    engine.dispose()
    artifacts = store.artifact_root(file) / "digits"
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.executescript(f"""
            INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage)
                VALUES (1, 'digits', '{artifacts}', 'active');
            INSERT INTO runs (run_uuid, name, source_type, user_id, status, start_time, lifecycle_stage, artifact_uri,
                experiment_id) VALUES ('{"a" * 32}', '', 'LOCAL', 'me', 'FINISHED', 1600000000000, 'active',
                '{artifacts}/a/artifacts', 1);
            INSERT INTO tags (key, value, run_uuid) VALUES ('search.kind', 'study', '{"a" * 32}');
            INSERT INTO params (key, value, run_uuid) VALUES ('units', '8', '{"a" * 32}');
            INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan)
                VALUES ('objective', 0.5, 1, '{"a" * 32}', 1, 0), ('objective', 0.75, 2, '{"a" * 32}', 2, 0);
            INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid)
                VALUES ('objective', 0.75, 2, 2, 0, '{"a" * 32}');
        """)
    return file


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
