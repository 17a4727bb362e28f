"""The winner as a model in MLflow: logged, registered, and loaded without the package `search`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import forks
import numpy as np
import pytest
from by_hand import SEARCH_ENDED, completed_trial, epochs, evaluated, header, reached, started, study_start
from make_models import KINDS
from stores import BreakingClient, Server, WriteStudy, local_address, make_runs, sync

from search.errors import Unavailable
from search.space.domain import Domain, Parameter
from search.study.journal import Journal
from search.study.paths import StudyPaths, local_store
from search.study.records import (
    BackendChanged,
    Built,
    Exported,
    ParameterSet,
    Record,
    SearchStarted,
    SegmentRequested,
    TrialEnded,
)
from search.tracking.mlflow import loader, store
from search.tracking.mlflow.position import Position
from search.tracking.mlflow.syncer import Syncer

pytestmark = pytest.mark.usefixtures("unflushed")

QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "MLFLOW_DISABLE_TELEMETRY": "true"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, templates: forks.Templates) -> Path:
    """Return a folder with a winner of every kind, made by Keras; see `make_models`."""
    folder = tmp_path_factory.mktemp("models")
    code = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
    command = [sys.executable, "-c", code, str(Path(__file__).with_name("make_models.py")), str(folder)]
    assert forks.start(templates.address("keras"), command).wait() == 0
    return folder


def exported(trial: int = 0, epoch: int = 2, **changes: Any) -> Exported:
    signature = {
        "inputs": [{"name": None, "dtype": "float32", "shape": [-1, 4]}],
        "outputs": [{"name": None, "dtype": "float32", "shape": [-1, 3]}],
    }
    return replace(Exported(trial, 0, epoch, signature, ("keras==3.15.0", "numpy==2.4.0")), **changes)


def winner_records(models: Path, kind: str, uid: str) -> list[Record]:
    """Return the records of a study whose only trial is the winner of that kind."""
    description = json.loads((models / kind / "exported.json").read_text())
    source = "" if description["space"].endswith(".pkl") else f"/home/me/{description['space']}"
    values = [
        ParameterSet(0, Parameter(name, Domain("fixed", values=(v,))), v) for name, v in description["values"].items()
    ]
    return [
        replace(header(kind, uid), source=source, versions={"keras": "3.15.0", "keras_backend": "tensorflow"}),
        BackendChanged("hyperband", {}), SearchStarted("host", 1, {}),
        SegmentRequested(0, 0, 2, 0, 0, False, 1), *values, started(0, 0, 2), Built(0, 9, "fused"),
        *epochs(0, [0.5, 0.6]), *reached(0, 2, 2, 0.6), TrialEnded(0, "completed"),
        evaluated(0, 2, {"loss": 0.5, "accuracy": 0.55}),
        exported(signature=description["signature"]), SEARCH_ENDED,
    ]  # fmt: skip


@pytest.fixture
def write_winner(write: WriteStudy, models: Path) -> Callable[..., StudyPaths]:
    """Return a function that writes the study `digits` with two trials and a real model; with `records` it appends."""

    def write_winner(records: list[Record] | None = None) -> StudyPaths:
        if records is None:
            trials = [*completed_trial(0, [0.5, 0.7]), *completed_trial(1, [0.6])]
            records = [*study_start(), *trials, evaluated(0, 2, {"accuracy": 0.55}), exported(), SEARCH_ENDED]
        paths = write(records)
        shutil.copyfile(models / "plain" / "model.keras", paths.model)
        return paths

    return write_winner


def shown_models(runs: Path) -> dict[str, Any]:
    """Return the store's logged models, and its registered ones with their versions and aliases."""
    client = store.connect(local_address(runs))
    ids = [item.experiment_id for item in client.search_experiments()]
    logged = client.search_logged_models(ids)
    registered = client.search_registered_models()
    return {
        "logged": sorted((model.tags["search.winner"], str(model.status)) for model in logged),
        "registered": {
            model.name: {
                "versions": sorted(
                    (int(v.version), v.tags["search.winner"])
                    for v in client.search_model_versions(f"name='{model.name}'")
                ),
                "aliases": {alias: int(version) for alias, version in model.aliases.items()},
            }
            for model in registered
        },
    }


ONCE = {
    "logged": [("0/0/2", "READY")],
    "registered": {"digits": {"versions": [(1, "0/0/2")], "aliases": {"champion": 1}}},
}


# In a fresh environment -----------------------------------------------------------------------------------------------


LoadAll = Callable[[str, dict[str, Path]], None]


@pytest.fixture(scope="module")
def load_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadAll]:
    """Yield a function that has registered models predict in a process that cannot import `search`; see `fresh`."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "KERAS_BACKEND")}
    command = [sys.executable, "-I", str(Path(__file__).with_name("fresh.py"))]
    with (
        (elsewhere / "log.txt").open("w") as log,
        subprocess.Popen(
            command,
            cwd=elsewhere,
            env={**environment, **QUIET},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):

        def load_all(uri: str, folders: dict[str, Path]) -> None:
            assert process.stdin is not None
            assert process.stdout is not None
            request = [uri, {name: str(folder) for name, folder in folders.items()}]
            print(json.dumps(request), file=process.stdin, flush=True)
            assert process.stdout.readline() == "0\n", (elsewhere / "log.txt").read_text()[-3000:]

        yield load_all


@pytest.fixture(scope="module")
def loaded(models: Path, tmp_path_factory: pytest.TempPathFactory, pristine: Path, load_all: LoadAll) -> Path:
    """Return `models` after each winner was shipped, the store was moved, and all models were loaded from it."""
    folder = tmp_path_factory.mktemp("store")
    runs = make_runs(folder / "runs", pristine)
    for number, kind in enumerate(KINDS):
        paths = StudyPaths.of(runs, kind)
        shutil.copytree(models / kind / "space", paths.space)
        shutil.copyfile(models / kind / "model.keras", paths.model)
        journal = Journal(paths.journal)
        journal.append(winner_records(models, kind, f"{number:016x}"))
        journal.close()
        assert sync(paths) == []
    moved = folder / "moved here"
    runs.rename(moved)
    assert sync(StudyPaths.of(moved, "plain")) == []
    load_all(local_address(moved), {kind: models / kind for kind in KINDS})
    return models


@pytest.mark.core
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_champion_predicts_where_search_is_not_installed(kind: str, loaded: Path) -> None:
    answers, expected = np.load(loaded / kind / "pyfunc.npz"), np.load(loaded / kind / "y.npz")
    assert set(answers) == set(expected)
    for name in expected:
        np.testing.assert_array_equal(answers[name], expected[name])


@pytest.mark.core
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "several", "listed"])
def test_a_model_of_keras_own_layers_is_loaded_as_a_keras_model_too(kind: str, loaded: Path) -> None:
    answers, expected = np.load(loaded / kind / "keras.npz"), np.load(loaded / kind / "y.npz")
    for name in expected:
        np.testing.assert_array_equal(answers[name], expected[name])


def test_custom_objects_of_a_file_are_found_without_keras(models: Path) -> None:
    found = {kind: loader.find_custom_objects(models / kind / "model.keras") for kind in KINDS}
    assert {kind for kind in KINDS if not found[kind]} == {"plain", "several", "listed"}
    assert [kind for kind in KINDS if found[kind].functions] == ["functions"]
    assert found["custom"].classes == {("layers", "Times", "Times"), ("layers", "Registered", "Custom>Registered")}


PARSING = """
import argparse

import keras

parser = argparse.ArgumentParser()
parser.add_argument("--scale", type=float, default=2.0)
scale = parser.parse_args().scale


def build_model(hp):
    return keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x * scale), keras.layers.Dense(1)])
"""


def test_the_code_of_a_model_gets_no_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[str, Any] = {}
    monkeypatch.setattr(sys, "argv", ["space.py"])
    exec(PARSING, written)
    monkeypatch.setattr(sys, "argv", ["serve.py", "--port", "80"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    for folder in ("data", "space"):
        (tmp_path / folder).mkdir()
    code = tmp_path / "space" / "search_space.py"
    code.write_text(PARSING)
    model = written["build_model"](None)
    model.save(tmp_path / "data" / "model.keras")
    info = {"keras_backend": "tensorflow", "inputs": [], "space": code.name, "params": {}}
    (tmp_path / "loader.json").write_text(json.dumps(info))
    x = np.ones((3, 2), "float32")
    found = loader._load_pyfunc(str(tmp_path)).predict(x)
    np.testing.assert_array_equal(found, model.predict(x, verbose=0))
    assert sys.argv == ["serve.py", "--port", "80"]
    code.write_text("import sys; sys.exit(3)")
    monkeypatch.setattr("keras.saving.load_model", lambda *_, **__: sys.exit())
    with pytest.raises(RuntimeError, match=r"loaded: sys.exit\(3\) was called; sys.exit\(\)"):
        loader._load_pyfunc(str(tmp_path))


def test_a_factory_gets_the_trials_values_and_defaults_for_what_was_not_searched() -> None:
    import keras_tuner

    hp = loader._hyperparameters({"units": 7, "flag": True, "kind": "a"})
    hp.declare(keras_tuner.HyperParameters(), tune_new=False, allow_new=True)
    theirs = keras_tuner.HyperParameters()
    theirs.Int("units", 1, 9)
    hp.merge(theirs)
    assert hp["units"] == hp.get("units") == hp.Int("units", 1, 9) == hp.copy().Int("units", 1, 9) == 7
    assert hp.Boolean("flag") is True
    assert hp.Int("layers", 2, 5) == hp.copy().Int("layers", 2, 5) == 2
    assert hp.Int("depth", 2, 5, parent_name="kind", parent_values=["b"]) is None
    assert hp.Int("depth", 2, 5, parent_name="kind", parent_values=["a"]) == 2


@pytest.mark.slow
def test_shipping_imports_no_framework(
    write_winner: Callable[..., StudyPaths], runs: Path, templates: forks.Templates
) -> None:
    code = (
        "import sys\n"
        "from search.study.paths import StudyPaths\n"
        "from search.tracking.mlflow.syncer import Syncer\n"
        "Syncer(StudyPaths.of(sys.argv[1], 'digits'), sys.argv[2], warn=sys.exit).drain()\n"
        "assert not {'keras', 'tensorflow', 'keras_tuner'} & set(sys.modules)\n"
    )
    write_winner()
    command = [sys.executable, "-c", code, str(runs), local_address(runs)]
    assert forks.start(templates.address("mlflow"), command).wait() == 0
    assert shown_models(runs) == ONCE


# Models and versions --------------------------------------------------------------------------------------------------


@pytest.mark.core
def test_the_winner_is_a_model_of_the_parent_run(write_winner: Callable[..., StudyPaths], runs: Path) -> None:
    from mlflow.models import Model

    paths = write_winner()
    assert sync(paths) == []
    assert shown_models(runs) == ONCE
    client, position = store.connect(local_address(runs)), Position.load(paths.tracking)
    parent = client.get_run(position.run_id)
    (output,) = parent.outputs.model_outputs
    logged = client.get_logged_model(output.model_id)
    assert (logged.name, logged.source_run_id, logged.params) == (
        "digits",
        position.run_id,
        {"units": "8", "relu": "True"},
    )
    assert {metric.key: metric.value for metric in logged.metrics} == {
        "loss": 0.5, "val_accuracy": 0.7, "test_accuracy": 0.55,
    }  # fmt: skip
    version = client.get_model_version_by_alias("digits", "champion")
    assert version.tags == {
        "search.study_uid": "0123456789abcdef", "search.study": "digits", "search.trial": "0",
        "search.objective": "val_accuracy", "search.value": "0.7", "search.winner": "0/0/2",
    }  # fmt: skip
    assert (version.run_id, version.description) == (
        position.run_id,
        "Trial 0 of study digits: val_accuracy 0.7 after epoch 2",
    )
    folder = Path(version.source)
    assert {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()} == {
        "MLmodel", "loader.json", "requirements.txt", "python_env.yaml", "conda.yaml", "data/model.keras",
        "code/search_keras_model.py", "space/search_space.py", "space/layers.py",
    }  # fmt: skip
    model = Model.load(str(folder))
    assert set(model.flavors) == {"python_function", "keras"}
    assert str(model.signature.inputs) == "[Tensor('float32', (-1, 4))]"
    requirements = (folder / "requirements.txt").read_text().split()
    assert requirements[-2:] == ["keras==3.15.0", "numpy==2.4.0"]
    assert [line.partition("==")[0] for line in requirements[:-2]] == ["mlflow"]


def test_test_results_are_metrics_of_the_trial_and_of_the_parent_run(
    write_winner: Callable[..., StudyPaths], runs: Path
) -> None:
    worse = evaluated(1, 1, {"accuracy": 0.5, "loss": float("nan")})
    trials = [*completed_trial(0, [0.5, 0.7]), *completed_trial(1, [0.6])]
    paths = write_winner([*study_start(), *trials, worse, evaluated(0, 2, {"accuracy": 0.55}), SEARCH_ENDED])
    sync(paths)
    client, position = store.connect(local_address(runs)), Position.load(paths.tracking)

    def tests(run_id: str) -> dict[str, Any]:
        found = client.get_run(run_id).data.metrics
        return {
            name: (value, client.get_metric_history(run_id, name)[-1].step)
            for name, value in found.items()
            if name.startswith("test_")
        }

    assert tests(position.trials[0]) == {"test_accuracy": (0.55, 2)}
    assert tests(position.trials[1]) == {"test_accuracy": (0.5, 1)}
    assert tests(position.run_id or "") == {"test_accuracy": (0.55, 3)}


@pytest.mark.core
def test_the_same_winner_is_shipped_once_and_a_better_one_is_another_version(
    write_winner: Callable[..., StudyPaths], runs: Path
) -> None:
    paths = write_winner()
    sync(paths)
    sync(paths)
    write_winner([SearchStarted("host", 2, {}), exported(), SEARCH_ENDED])  # the resumed search finds nothing better
    sync(paths)
    paths.tracking.unlink()
    sync(paths)
    assert shown_models(runs) == ONCE
    write_winner([SearchStarted("host", 3, {}), *completed_trial(2, [0.9]), exported(2, 1), SEARCH_ENDED])
    for forget in (False, True):
        if forget:
            paths.tracking.unlink()
        sync(paths)
        assert shown_models(runs) == {
            "logged": [("0/0/2", "READY"), ("2/0/1", "READY")],
            "registered": {"digits": {"versions": [(1, "0/0/2"), (2, "2/0/1")], "aliases": {"champion": 2}}},
        }


def test_an_empty_store_gets_the_winner_again(
    write_winner: Callable[..., StudyPaths], runs: Path, pristine: Path
) -> None:
    paths = write_winner()
    sync(paths)
    for file in runs.glob("mlflow.db*"):
        file.unlink()
    shutil.copyfile(pristine, local_store(runs))
    assert sync(paths) == []
    assert shown_models(runs) == ONCE


def test_a_deleted_winner_is_no_error(write_winner: Callable[..., StudyPaths], runs: Path) -> None:
    paths = write_winner()
    paths.model.unlink()
    assert sync(paths) == []
    assert shown_models(runs) == {"logged": [], "registered": {}}


def test_the_name_that_the_user_gave_is_registered_instead(write_winner: Callable[..., StudyPaths], runs: Path) -> None:
    paths = write_winner()
    assert sync(paths, register="our best 1.0") == []
    assert list(shown_models(runs)["registered"]) == ["our best 1.0"]
    assert sync(paths) == []  # a later sync without the name
    assert shown_models(runs)["logged"] == ONCE["logged"]


def test_an_older_search_does_not_take_the_alias_back(
    write_winner: Callable[..., StudyPaths], write: WriteStudy, runs: Path
) -> None:
    paths = write_winner()
    sync(paths, register="shared")
    other = write([*study_start("other", "f" * 16), *completed_trial(0, [0.8, 0.9]), exported(), SEARCH_ENDED], "other")
    shutil.copyfile(paths.model, other.model)
    sync(other, register="shared")
    paths.tracking.unlink()
    sync(paths, register="shared")
    assert shown_models(runs)["registered"]["shared"]["aliases"] == {"champion": 2}


@pytest.mark.slow
@pytest.mark.parametrize(("effect", "killed"), [("none", False), ("done", False), ("done", True)])
def test_a_connection_that_breaks_while_the_winner_is_shipped_changes_nothing(
    effect: str,
    killed: bool,
    write_winner: Callable[..., StudyPaths],
    runs: Path,
    pristine: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = write_winner()
    sync(paths)
    position = json.loads(paths.tracking.read_text())
    before = local_store(runs).read_bytes()
    for at in range(1, 100):
        # MLflow lacks only the winner.
        for file in runs.glob("mlflow.db*"):
            file.unlink()
        local_store(runs).write_bytes(before)
        client = store.connect(local_address(runs))
        for model in client.search_logged_models([position["experiment_id"]]):
            client.delete_logged_model(model.model_id)
        client.delete_registered_model("digits")
        paths.tracking.write_text(json.dumps({**position, "winner": "", "registered": ""}))
        breaking = BreakingClient(client, at, effect)
        with monkeypatch.context() as patch:
            patch.setattr(store, "connect", lambda uri, breaking=breaking: breaking)
            follower = Syncer(paths, local_address(runs), warn=pytest.fail)
            try:
                follower.drain()
            except Unavailable:
                (Syncer(paths, local_address(runs), warn=pytest.fail) if killed else follower).drain()
        assert shown_models(runs) == ONCE, f"broken at request {at}"
        if not breaking.has_broken:
            assert at > 10
            return
    pytest.fail("the connection always broke")


class NoRegistry:
    """A client of a real store without a model registry."""

    def __init__(self, client: Any, status: str) -> None:
        self._client, self._status = client, status

    def __getattr__(self, name: str) -> Any:
        if "registered" in name or "version" in name:
            from mlflow.exceptions import MlflowException
            from mlflow.protos import databricks_pb2

            raise MlflowException("no model registry here", getattr(databricks_pb2, self._status))
        return getattr(self._client, name)


@pytest.mark.parametrize("status", ["ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED", "PERMISSION_DENIED"])
def test_a_store_without_a_registry_costs_one_warning(
    status: str, write_winner: Callable[..., StudyPaths], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_winner()
    client = store.connect(local_address(runs))
    warnings: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(store, "connect", lambda uri: NoRegistry(client, status))
        follower = Syncer(paths, local_address(runs), warn=warnings.append)
        follower.drain()
        write_winner([SearchStarted("host", 2, {}), *completed_trial(2, [0.65]), SEARCH_ENDED])
        follower.drain()
    (warning,) = warnings
    assert "digits" in warning
    assert str(paths.model) in warning
    assert shown_models(runs) == {**ONCE, "registered": {}}
    assert sync(paths) == []  # now there is a registry
    assert shown_models(runs) == ONCE


@pytest.mark.slow
def test_a_server_registers_a_winner_only_if_the_user_gave_a_name(
    write_winner: Callable[..., StudyPaths], models: Path, server: Server, load_all: LoadAll, tmp_path: Path
) -> None:
    client = store.connect(server.uri)
    before = {model.name for model in client.search_registered_models()}  # of other tests
    paths = write_winner()
    for name in (None, "digits of ours"):
        Syncer(paths, server.uri, register=name, warn=pytest.fail).drain()
        names = {model.name for model in client.search_registered_models()}
        assert names - before == ({name} if name else set())
    assert len(client.search_logged_models([Position.load(paths.tracking).experiment_id or ""])) == 1
    shutil.copy(models / "plain" / "x.npz", tmp_path)
    load_all(server.uri, {"digits of ours": tmp_path})
    for answer in ("pyfunc.npz", "keras.npz"):
        np.testing.assert_array_equal(np.load(tmp_path / answer)["y"], np.load(models / "plain" / "y.npz")["y"])
