"""Fixtures: one MLflow database that is made once and copied, one server, and folders of studies written by hand."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest
from by_hand import OLD_REVISION
from stores import Server, WriteStudy, make_runs

from search.study.paths import local_store
from search.tracking.mlflow import database, store, syncer


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty MLflow database, to be copied."""
    store.configure_mlflow()
    file = tmp_path_factory.mktemp("pristine") / "mlflow.db"
    database.initialise(file)
    return file


@pytest.fixture(scope="module")
def unflushed() -> Iterator[None]:
    """Let MLflow not wait for the disk in this process, as no test takes the power away."""
    from sqlalchemy import Engine, event

    def relax(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", relax)
    yield
    event.remove(Engine, "connect", relax)


@pytest.fixture
def runs(tmp_path: Path, pristine: Path) -> Path:
    """Return a folder of studies with an empty local store."""
    return make_runs(tmp_path / "runs", pristine)


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
    """Return a function that writes a study's folder in `runs`."""
    return WriteStudy(runs)
