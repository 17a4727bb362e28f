"""Several executions of a trial: the objective is their mean, the model is the best execution's."""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path

import pytest
from places import TINY

import search
from search import cli
from search.results.study_results import StudyResults
from search.tracking.mlflow import retrieve, store


@pytest.fixture(scope="module")
def study(zygote: object, tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    folder = tmp_path_factory.mktemp("executions")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("search.executors.selection.shared_zygote", zygote)
        space = Path(shutil.copy(TINY, folder / "space.py"))
        options = {"backend": "hyperband", "objective": "val_loss", "max_epochs": 3, "seed": 1, "workers": 2}
        return search.run(space, executions_per_trial=3, progress=False, **options)


@pytest.mark.core
def test_the_objective_is_the_mean_of_the_executions(study: StudyResults) -> None:
    assert len(study.trials) == 5
    for trial in study.trials:
        curves = [[epoch.logs["val_loss"] for epoch in execution.curve] for execution in trial.executions]
        assert [len(curve) for curve in curves] == [trial.progress.to_epoch] * 3
        assert len({curve[0] for curve in curves}) == 3, "each has a seed of its own"
        assert trial.scores == [min(curve) for curve in curves]
        assert trial.objective == pytest.approx(statistics.fmean(trial.scores))
        assert trial.spread == pytest.approx(statistics.stdev(trial.scores))
        assert trial.progress.trained == 3 * trial.progress.to_epoch
        assert trial.state in ("completed", "stopped")
    assert study.study.epochs == 3 * 11


@pytest.mark.core
def test_promoted_trials_are_the_best_by_the_mean(study: StudyResults) -> None:
    first = [trial for trial in study.trials if trial.progress.bracket == 0]
    promoted = [trial for trial in first if trial.progress.to_epoch == 3]
    at_one = {t.number: statistics.fmean(e.curve[0].logs["val_loss"] for e in t.executions) for t in first}
    assert [trial.number for trial in promoted] == [min(at_one, key=at_one.__getitem__)]


@pytest.mark.core
def test_the_model_is_the_best_executions(study: StudyResults) -> None:
    best = study.best_trials(1)[0]
    (model,) = study.get_best_models(1)
    scope: dict[str, object] = {}
    exec(TINY.read_text(), scope)
    _, validation = scope["load_data"]()  # type: ignore[operator]
    assert model.evaluate(*validation, verbose=0)[0] == pytest.approx(min(best.scores), rel=1e-5)
    runs = study.paths.folder.parent
    uri = f"sqlite:///{runs}/mlflow.db"
    (again,) = search.get_best_models("space", 1, tracking_uri=uri)
    assert again.evaluate(*validation, verbose=0)[0] == pytest.approx(min(best.scores), rel=1e-5)


@pytest.mark.core
def test_mlflow_has_all_executions(study: StudyResults) -> None:
    client = store.connect(f"sqlite:///{study.paths.folder.parent}/mlflow.db", create=False)
    remote = retrieve.find_remote_study(client, "space")
    best = study.best_trials(1)[0]
    trial = next(item for item in retrieve.list_remote_trials(remote) if item.number == best.number)
    logs = trial.logs
    assert logs["objective"] == pytest.approx(best.objective)
    assert logs["objective_std"] == pytest.approx(best.spread)
    assert [logs[f"objective_{i}"] for i in range(3)] == pytest.approx(best.scores)
    for i, execution in enumerate(best.executions):
        history = client.get_metric_history(trial.run_id, f"execution_{i}/val_loss")
        assert [(point.step, point.value) for point in history] == [
            (epoch.epoch, epoch.logs["val_loss"]) for epoch in execution.curve
        ]
    means = client.get_metric_history(trial.run_id, "val_loss")
    assert [point.value for point in means] == pytest.approx(
        [statistics.fmean(e.curve[i].logs["val_loss"] for e in best.executions) for i in range(len(best.curve))]
    )


def test_executions_are_shown(
    study: StudyResults, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(study.paths.folder.parents[1])
    best = study.best_trials(1)[0]
    assert cli.main(["show", "space", str(best.number)]) == 0
    out = capfd.readouterr().out
    assert "executions 3 of 3: " in out
    assert f"of execution {best.best.execution}" in out


@pytest.mark.slow
def test_a_pruner_judges_the_first_execution_and_the_others_follow_if_it_passes(workplace: Path) -> None:
    space = Path(shutil.copy(TINY, workplace / "space.py"))
    study = search.run(
        space,
        backend="optuna",
        sampler="random",
        pruner="median:n_startup_trials=2,n_warmup_steps=1",
        executions_per_trial=2,
        max_epochs=4,
        max_trials=8,
        seed=3,
        workers=1,
        objective="val_loss",
        progress=False,
    )
    stopped = [trial for trial in study.trials if trial.state == "stopped"]
    completed = [trial for trial in study.trials if trial.state == "completed"]
    assert stopped
    assert completed
    for trial in stopped:
        assert len(trial.executions) == 1
        assert trial.epochs < 4
        assert trial.objective == trial.scores[0]
    for trial in completed:
        assert [execution.epochs for execution in trial.executions] == [4, 4]


@pytest.mark.slow
def test_a_resume_may_ask_for_more_executions(workplace: Path) -> None:
    """A trial that is promoted after that trains the new executions from the beginning."""
    space = Path(shutil.copy(TINY, workplace / "space.py"))
    options = {"backend": "hyperband", "objective": "val_loss", "max_epochs": 3, "seed": 1, "workers": 1}
    search.run(space, max_total_epochs=3, progress=False, **options)
    study = search.run(space, resume=True, max_total_epochs=100, executions_per_trial=2, progress=False, **options)
    assert {len(trial.executions) for trial in study.trials} == {1, 2}
    promoted = [trial for trial in study.trials if trial.progress.bracket == 0 and trial.progress.to_epoch == 3]
    assert [[execution.epochs for execution in trial.executions] for trial in promoted] == [[3, 3]]
