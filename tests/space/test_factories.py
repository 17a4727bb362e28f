"""Every kind of model: resumed to the last bit, and rebuilt from MLflow alone with the same outputs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import FACTORIES

import search
from search.executors.inline import InlineExecutor
from search.messages import Segment
from search.results.study_results import StudyResults
from search.space.file import SpaceRef
from search.study.trial import Objective
from search.testing.conversation import Conversation
from tests.spaces.factories import KINDS, load_data

TRIALS = len(KINDS) + 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_trial_equals_an_uninterrupted_one(tmp_path: Path, kind: str) -> None:
    def train(trial: int, from_epoch: int, to_epoch: int) -> Conversation:
        units = 24 if kind == "subclass" else 5
        segment = Segment(
            trial=trial,
            execution=0,
            space=SpaceRef(str(FACTORIES)),
            values={"kind": kind, "units": units, "regularizer": "l2"},
            seed=3,
            from_epoch=from_epoch,
            to_epoch=to_epoch,
            objective=Objective("val_mae", "min"),
            folder=str(tmp_path / str(trial)),
        )
        return Conversation(InlineExecutor()).run(segment)

    uninterrupted = train(0, 0, 3)
    assert uninterrupted.end.outcome == "reached", uninterrupted.end.error
    assert train(1, 0, 1).curve + train(1, 1, 3).curve == uninterrupted.curve


@pytest.fixture(scope="module")
def study(zygote: Any, tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    """Return a study with trials of all kinds."""
    folder = tmp_path_factory.mktemp("factories")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("search.executors.selection.shared_zygote", zygote)
        return search.run(
            FACTORIES,
            backend="optuna",
            sampler="random",
            pruner="none",
            max_epochs=2,
            try_first=[{"kind": kind} for kind in KINDS],
            max_trials=TRIALS,
            keep_models=TRIALS,
            seed=2,
            workers=2,
            progress=False,
        )


@pytest.mark.core
def test_all_kinds_were_searched(study: StudyResults) -> None:
    assert {trial.state for trial in study.trials} == {"completed"}
    assert {trial.params["kind"] for trial in study.trials} == set(KINDS)
    assert {trial.params["regularizer"] for trial in study.trials} == {None, "l2"}
    for trial in study.trials:
        assert trial.params["units"] in ((20, 24) if trial.params["kind"] == "subclass" else (3, 5))


@pytest.mark.core
def test_models_are_rebuilt_from_mlflow_alone(study: StudyResults, tmp_path: Path) -> None:
    """The store was moved to another machine, and nothing else of the search exists there."""
    runs = study.paths.folder.parent
    shutil.copytree(runs / "mlartifacts", tmp_path / "mlartifacts")
    for file in runs.glob("mlflow.db*"):  # the write-ahead log lies beside the database
        shutil.copy(file, tmp_path)
    models = search.get_best_models("factories", TRIALS, tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    best = study.best_trials()
    assert len(models) == len(best) == TRIALS
    x, y = load_data()[1]
    for model, trial in zip(models, best, strict=True):
        mae = float(np.mean(np.abs(model.predict(x, verbose=0) - y)))
        assert mae == pytest.approx(trial.objective, rel=1e-5), trial.params


def test_the_best_model_is_evaluated_on_test_data(study: StudyResults) -> None:
    x, y = load_data()[2]
    trial = study.best_trials(1)[0]
    (model,) = study.get_best_models(1)
    assert trial.best.tested is not None
    assert trial.best.tested.logs["mae"] == pytest.approx(
        float(np.mean(np.abs(model.predict(x, verbose=0) - y))), rel=1e-5
    )
    exported = study.study.exported
    assert exported is not None
    assert (exported.trial, exported.epoch) == (trial.number, trial.best_epoch)
    assert exported.signature["inputs"] == [{"name": None, "dtype": "float32", "shape": [-1, 4]}]
    assert exported.signature["outputs"] == [{"name": None, "dtype": "float32", "shape": [-1, 1]}]
    assert study.paths.model.exists()


EAGER = """
import keras
import numpy as np

def load_data():
    return (np.zeros((96, 2), "float32"), np.zeros(96, "float32")), None

def loss(y_true, y_pred):
    print("a step")
    return keras.ops.mean(keras.ops.square(y_true - y_pred))

def build_model(hp):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(hp.Int("units", 1, 1 + 1)), keras.layers.Dense(1)])
    model.compile("sgd", loss)
    return model
"""


def test_run_eagerly_reaches_the_users_code_at_every_step(workplace: Path) -> None:
    (workplace / "eager.py").write_text(EAGER)
    options: dict[str, Any] = {"objective": "loss", "max_epochs": 2, "max_trials": 1, "workers": 1, "progress": False}
    steps = {}
    for eagerly in (False, True):
        study = search.run("eager.py", study=f"eager-{eagerly}", run_eagerly=eagerly, **options)
        steps[eagerly] = study.paths.trial(0).log.read_text().count("a step")
        assert study.trials[0].runner == ("fit: run_eagerly" if eagerly else "fused")
    assert steps[False] < steps[True] >= 2 * 3
