"""Fixtures: one MLflow database that is made once and copied, one server, and folders of studies written by hand."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest
from by_hand import OLD_REVISION, Clock
from stores import Server, WriteStudy

from search.driver.loop import Follower
from search.study.journal import Journal
from search.study.paths import StudyPaths, local_store
from search.study.records import Checkpointed, Record
from search.tracking.mlflow import database, store, syncer


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty MLflow database, to be copied."""
    store.configure_mlflow()
    file = tmp_path_factory.mktemp("pristine") / "mlflow.db"
    database.initialise(file)
    return file


@pytest.fixture
def runs(tmp_path: Path, pristine: Path) -> Path:
    """Return a folder of studies with an empty local store."""
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copyfile(pristine, local_store(folder))
    return folder


@pytest.fixture(scope="session")
def old_schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty database of `OLD_REVISION`, made by MLflow's own migrations, to be copied."""
    from alembic import command
    from mlflow.store.db import utils

    file = tmp_path_factory.mktemp("old") / "mlflow.db"
    engine = utils.create_sqlalchemy_engine(f"sqlite:///{file}")
    utils.InitialBase.metadata.create_all(engine)
    config = utils._get_alembic_config(str(engine.url))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, OLD_REVISION)
    engine.dispose()
    return file


@pytest.fixture
def older(tmp_path: Path, old_schema: Path) -> Path:
    """Return a database of `OLD_REVISION` with a study's run of that time."""
    file = local_store(tmp_path)
    shutil.copyfile(old_schema, file)
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


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory, pristine: Path) -> Iterator[Server]:
    """Yield the MLflow server of all tests, as a start takes seconds."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copyfile(pristine, folder / "mlflow.db")
    server = Server(folder)
    yield server
    server.kill()


@pytest.fixture
def server(shared_server: Server) -> Server:
    """Return the MLflow server of all tests, which runs."""
    shared_server.start()
    return shared_server


@pytest.fixture
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the syncer work and try again often, and give requests up after a second."""
    monkeypatch.setattr(syncer, "MAX_PAUSE", 0.01)
    monkeypatch.setattr(syncer, "MODELS_INTERVAL", 0.1)
    monkeypatch.setattr(syncer, "RETRY_SECONDS", (0.2, 0.5))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")


_UIDS = count(1)


@pytest.fixture
def uid() -> str:
    """Return the uid of a study that no other test has, as several tests share a server."""
    return f"{next(_UIDS):016x}"


@pytest.fixture
def write(runs: Path) -> WriteStudy:
    """Return a function that writes a study's folder; called again, it appends.

    A follower is told of the new entries, as the driver does it.
    """
    clock = Clock()

    def write(records: Iterable[Record], study: str = "digits", *, follower: Follower | None = None) -> StudyPaths:
        paths = StudyPaths.of(runs, study)
        paths.space.mkdir(parents=True, exist_ok=True)
        (paths.space / "digits.py").write_text("import layers\n")
        (paths.space / "layers.py").write_text("WIDTH = 1\n")
        journal = Journal(paths.journal, clock)
        for record in records:
            entries = journal.append([record])
            if isinstance(record, Checkpointed):
                best = paths.trial(record.trial).best(record.execution)
                best.parent.mkdir(parents=True, exist_ok=True)
                best.write_bytes(b"weights of %d/%d" % (record.trial, record.best_epoch or 0))
            if follower is not None:
                follower.take(entries)
        journal.close()
        return paths

    return write
