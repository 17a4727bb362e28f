"""MLflow's internals: without any one of them MLflow's public ways do the work, and one line says what is off."""

from __future__ import annotations

import importlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import mlflow
import pytest

from search.tracking.mlflow import database, internals, store

NAMES = [(module, name) for module, names in internals.PRIVATE_NAMES.items() for name in names]


@pytest.fixture
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the island forget what it has tested, and forget what the test finds."""
    monkeypatch.setattr(internals, "_off", set())
    monkeypatch.setattr(database, "_fresh", b"")
    for cached in (internals.newest_revision, database._newest_revision):
        cached.cache_clear()
    yield
    for cached in (internals.newest_revision, database._newest_revision):
        cached.cache_clear()


def remove(module: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a module of MLflow's lack a private name, for all but MLflow itself."""
    original = importlib.import_module(module)
    assert hasattr(original, name)
    changed = ModuleType(module)
    vars(changed).update({known: value for known, value in vars(original).items() if known != name})

    def import_module(wanted: str) -> ModuleType:
        return changed if wanted == module else importlib.import_module(wanted)

    monkeypatch.setattr(internals, "importlib", SimpleNamespace(import_module=import_module))


def tables(file: Path) -> set[Any]:
    with closing(sqlite3.connect(file)) as connection:
        return set(connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'"))


@pytest.mark.slow
@pytest.mark.parametrize("name", internals.PRIVATE_NAMES[internals._DATABASE])
@pytest.mark.usefixtures("fresh_process")
def test_a_database_is_made_and_migrated_without_a_private_name(
    name: str, tmp_path: Path, older: Path, pristine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove(internals._DATABASE, name, monkeypatch)
    file = older if name == "_upgrade_db" else tmp_path / "made" / "mlflow.db"
    database.initialise(file)
    assert database.schema_revision(file) == database.schema_revision(pristine)
    assert tables(file) == tables(pristine)
    assert store.connect(f"sqlite:///{file}").get_experiment_by_name("Default") is not None
    (line,) = internals.capabilities_off()
    assert line.startswith(f"MLflow {mlflow.__version__} has other internals: the schema of a local database")


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_process")
def test_mlflows_command_refuses_what_the_private_function_refuses(
    tmp_path: Path, pristine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove(internals._DATABASE, "_upgrade_db", monkeypatch)
    file = tmp_path / "mlflow.db"
    file.write_bytes(pristine.read_bytes())
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'f' || substr(version_num, 2)")
    with pytest.raises(database.OptionError, match="written by a newer MLflow"):
        database.initialise(file)


@pytest.mark.usefixtures("fresh_process")
def test_files_are_sent_and_fetched_by_mlflows_client(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # experiment 0 keeps its files in the current folder
    client = store.connect(store.resolve_uri(None, runs))
    run = client.create_run("0")
    (tmp_path / "a.txt").write_text("a")
    store.run_artifacts(client, run).log_artifact(str(tmp_path / "a.txt"), "model")
    for name in internals.PRIVATE_NAMES[internals._ARTIFACTS]:
        remove(internals._ARTIFACTS, name, monkeypatch)
    repository = store.run_artifacts(client, run)
    (tmp_path / "b.txt").write_text("b")
    repository.log_artifact(str(tmp_path / "b.txt"), "model")
    assert sorted(file.path for file in repository.list_artifacts("model")) == ["model/a.txt", "model/b.txt"]
    for name in ("a", "b"):
        assert Path(repository.download_artifacts(f"model/{name}.txt", str(tmp_path / "got"))).read_text() == name
    logged = client.create_logged_model("0", name="m", source_run_id=run.info.run_id)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "MLmodel").write_text("flavors: {}")
    store.model_artifacts(client, logged).log_artifacts(str(tmp_path / "model"))
    assert [file.path for file in client.list_logged_model_artifacts(logged.model_id)] == ["MLmodel"]
    (line,) = internals.capabilities_off()
    assert "files are sent by MLflow's client" in line


@pytest.mark.parametrize("name", internals.PRIVATE_NAMES[internals._AUTOLOGGING])
@pytest.mark.usefixtures("fresh_process")
def test_a_training_goes_on_without_a_name_of_autologging(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    remove(internals._AUTOLOGGING, name, monkeypatch)
    with internals.without_autologging():
        assert not internals.is_autologging()
    (line,) = internals.capabilities_off()
    assert "mlflow.autolog of the user's code is not seen" in line


def test_all_names_are_tried_here() -> None:
    assert {module for module, _ in NAMES} == {internals._DATABASE, internals._ARTIFACTS, internals._AUTOLOGGING}
