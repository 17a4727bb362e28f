"""Searches by tuners with a `run_trial` of their own, in workers."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import pytest

import search.compat.keras_tuner as kt
from search.compat.trial_hooks import TrialHooks
from search.compat.trial_runs import UPDATES_TRIAL
from search.errors import SpaceError, StudyError
from search.study import journal
from search.study.records import TrialEnded
from search.tracking.followers import FollowerSetup

X = np.random.default_rng(0).normal(size=(48, 4)).astype("float32")
Y = X.sum(axis=1)


def build_model(hp: Any) -> Any:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(hp.Int("units", 2, 64)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


# Black boxes ----------------------------------------------------------------------------------------------------------


class Points(kt.engine.base_tuner.BaseTuner):
    """A tuner without Keras: it rejects a value, fails for one always and for another once, and keeps what it made."""

    def __init__(self, **kwargs: Any) -> None:
        oracle = kt.oracles.RandomSearchOracle(
            kt.Objective("distance", "min"), max_trials=5, max_retries_per_trial=2, seed=1
        )
        super().__init__(oracle, directory="points", project_name="points", **kwargs)
        self.calls: list[int] = []

    def run_trial(self, trial: Any, centre: float, *, scale: float = 1.0) -> Any:
        x = trial.hyperparameters.Int("x", 0, 4)
        self.calls.append(x)
        if x == 0:
            raise kt.errors.FailedTrialError("not this one")
        if x == 1 or (x == 3 and self.calls.count(3) == 1):
            raise OSError("no route to the data")
        self.save_model(trial.trial_id, {"x": x})
        return {"distance": abs(x - centre + 0.25) * scale, "twice": 2.0 * x}

    def save_model(self, trial_id: str, model: Any, step: int = 0) -> None:
        Path(self.get_trial_dir(trial_id), "point.pkl").write_bytes(pickle.dumps(model))

    def load_model(self, trial: Any) -> Any:
        return pickle.loads(Path(self.get_trial_dir(trial.trial_id), "point.pkl").read_bytes())


@pytest.fixture(scope="module")
def points(folder: Path) -> Points:
    """Return a tuner that has searched."""
    tuner = Points()
    tuner.search(3.5, scale=0.5, verbose=0)
    return tuner


def test_a_black_box_needs_no_model_and_failures_are_retried_as_kerastuner_does(points: Points) -> None:
    assert sorted(points.calls) == [0, 1, 1, 1, 2, 3, 3, 4]
    statuses = {trial.hyperparameters.get("x"): trial.status for trial in points.oracle.trials.values()}
    assert statuses == {0: "FAILED", 1: "FAILED", 2: "COMPLETED", 3: "COMPLETED", 4: "COMPLETED"}
    messages = {trial.hyperparameters.get("x"): trial.message for trial in points.oracle.trials.values()}
    assert "FailedTrialError: not this one" in messages[0]
    assert "OSError: no route to the data" in messages[1]
    assert messages[2] is None
    saved = [trial.best_execution.saved_epoch for trial in points.results.best_trials()]
    assert saved == [None, None, None], "there is no model, so none is evaluated or written at the end"


def test_a_black_box_keeps_its_own_models(points: Points) -> None:
    assert points.get_best_models(3) == [{"x": 3}, {"x": 4}, {"x": 2}]
    assert [hp.values for hp in points.get_best_hyperparameters(2)] == [{"x": 3}, {"x": 4}]


def test_the_oracle_shows_the_trials_of_the_study(points: Points) -> None:
    oracle = points.oracle
    assert isinstance(oracle, keras_tuner.oracles.RandomSearchOracle)
    best = oracle.get_best_trials(1)[0]
    assert best is oracle.get_trial(best.trial_id) is oracle.trials[best.trial_id]
    assert (best.score, best.best_step, best.status) == (0.125, 0, "COMPLETED")
    assert best.metrics.get_best_value("twice") == 6.0
    assert best.metrics.get_direction("distance") == "min"
    assert [trial.score for trial in oracle.get_best_trials(9)] == [0.125, 0.375, 0.625, None, None]
    assert sorted(oracle.trials) == oracle.start_order == ["0", "1", "2", "3", "4"]
    assert sorted(oracle.end_order) == oracle.start_order
    assert oracle.ongoing_trials == {}
    assert [parameter.name for parameter in oracle.hyperparameters.space] == ["x"]
    assert (points.remaining_trials, oracle.remaining_trials()) == (0, 0)


def test_another_tuner_sees_the_trials_and_has_nothing_left_to_do(
    points: Points, capsys: pytest.CaptureFixture[str]
) -> None:
    again = Points()
    assert "Reloading Tuner from" in capsys.readouterr().out
    assert again.oracle.trials.keys() == points.oracle.trials.keys()
    assert again.get_best_models() == [{"x": 3}]
    assert again.remaining_trials == 0
    again.search(3.5, verbose=0)
    assert len(again.oracle.trials) == 5


def test_a_tuner_reloads_a_project_that_exists(points: Points, capsys: pytest.CaptureFixture[str]) -> None:
    reloaded: list[str] = []

    class Reloads(Points):
        def reload(self) -> None:
            super().reload()
            reloaded.append(self.project_name)

    assert Reloads(overwrite=True).oracle.trials == {}
    assert reloaded == []
    assert capsys.readouterr().out == ""
    assert Reloads().oracle.trials.keys() == points.oracle.trials.keys()
    assert reloaded == ["points"]


def test_a_tuner_of_another_kind_does_not_go_on_with_a_project(points: Points) -> None:
    with pytest.raises(StudyError, match=r"by optuna with sampler random, and Hyperband searches in .*overwrite=True"):
        kt.Hyperband(build_model, "val_loss", directory="points", project_name="points")
    kt.Hyperband(build_model, "val_loss", directory="points", project_name="points", overwrite=True)
    assert points.results.paths.journal.exists(), "it is overwritten by a search only"


def test_trials_that_a_script_assigns_are_shown_until_the_next_reload(points: Points) -> None:
    trial = kt.engine.trial.Trial(kt.HyperParameters(), trial_id="mine", status="COMPLETED")
    trial.score = -1.0
    points.oracle.trials = {"mine": trial}
    try:
        assert points.oracle.get_best_trials() == [trial]
    finally:
        points.reload()
    assert "mine" not in points.oracle.trials


def test_the_results_summary_has_kerastuners_lines(points: Points, capsys: pytest.CaptureFixture[str]) -> None:
    points.results_summary(2)
    ours = capsys.readouterr().out
    keras_tuner.engine.base_tuner.BaseTuner.results_summary(points, 2)
    assert ours == capsys.readouterr().out
    best = points.oracle.get_best_trials(1)[0]
    assert ours.splitlines()[:9] == [
        "Results summary",
        f"Results in {points.project_dir}",
        "Showing 2 best trials",
        'Objective(name="distance", direction="min")',
        "",
        f"Trial {best.trial_id} summary",
        "Hyperparameters:",
        "x: 3",
        "Score: 0.125",
    ]


# Models ---------------------------------------------------------------------------------------------------------------

told: list[tuple[str, str]] = []
"""The hooks that this process was called by, with their trials."""


class BatchSizes(kt.Hyperband):
    """A tuner of the batch size, as KerasTuner's guide has it, with hooks of trials."""

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs["batch_size"] = trial.hyperparameters.Choice("batch_size", [8, 16])
        return super().run_trial(trial, *args, **kwargs)

    def pre_create_trial(self) -> None:
        told.append(("pre", ""))

    def on_trial_begin(self, trial: Any) -> None:
        told.append(("begin", trial.trial_id))

    def on_trial_end(self, trial: Any) -> None:
        super().on_trial_end(trial)
        told.append((f"end {trial.status}", trial.trial_id))


@pytest.fixture(scope="module")
def batch_sizes(folder: Path) -> BatchSizes:
    """Return a tuner that has searched."""
    told.clear()
    tuner = BatchSizes(build_model, "val_loss", max_epochs=3, seed=0, project_name="batches", workers=1)
    tuner.search(X, Y, validation_split=0.25, epochs=99, verbose=0)
    return tuner


@pytest.mark.core
def test_a_promoted_trial_goes_on_where_it_was(batch_sizes: BatchSizes) -> None:
    """Hyperband decides the epochs, whatever `search` was given, and a continuation trains nothing twice."""
    trials = batch_sizes.results.trials
    assert max(trial.epochs for trial in trials) == 3
    promoted = [trial for trial in trials if trial.progress.segments > 1]
    assert promoted
    assert {trial.runner for trial in trials} == {"fused"}
    assert [len(trial.curve) for trial in trials] == [trial.epochs for trial in trials]
    assert {*trials[0].params} == {"units", "batch_size"}


def test_the_best_hyperparameters_are_whole_and_seed_another_tuner(batch_sizes: BatchSizes) -> None:
    best = batch_sizes.get_best_hyperparameters()[0]
    assert (best.get("tuner/epochs"), best["tuner/initial_epoch"]) == (batch_sizes.results.best_trial.epochs, 0)
    assert [parameter.name for parameter in best.space] == ["units", "batch_size"]
    assert best.is_active("units")
    assert keras_tuner.HyperParameters.from_config(best.get_config()).values == best.values
    model = batch_sizes.hypermodel.build(best)
    assert model.layers[0].units == best.get("units")
    seeded = kt.RandomSearch(build_model, "val_loss", hyperparameters=best, tune_new_entries=False, project_name="next")
    assert [parameter.name for parameter in seeded.oracle.hyperparameters.space] == ["units", "batch_size"]
    assert seeded.oracle.hyperparameters.get("units") == best.get("units")


def test_the_hooks_of_trials_are_called_here_in_the_order_of_the_search(batch_sizes: BatchSizes) -> None:
    ids = [*batch_sizes.oracle.trials]
    assert [name for name, _ in told].count("pre") == len(ids)
    for trial_id in ids:
        assert [name for name, about in told if about == trial_id] == ["begin", "end COMPLETED"]
        assert told[told.index(("begin", trial_id)) - 1] == ("pre", "")


def test_the_best_model_of_a_run_trial_is_that_of_the_best_epoch(batch_sizes: BatchSizes) -> None:
    (model,) = batch_sizes.get_best_models()
    best = batch_sizes.oracle.get_best_trials()[0]
    assert model.evaluate(X[36:], Y[36:], verbose=0) == pytest.approx(best.score, rel=1e-5)
    assert best.best_step == batch_sizes.results.best_trial.best_epoch - 1
    assert set(best.metrics.metrics) == {"loss", "val_loss"}
    worst = batch_sizes.oracle.get_best_trials(2)[1]
    assert batch_sizes.load_model(worst).evaluate(X[36:], Y[36:], verbose=0) == pytest.approx(worst.score, rel=1e-5)


class Loops(kt.Tuner):
    """A tuner with a training loop of its own, which tells the tuner of each epoch."""

    epochs_seen: list[float]

    def run_trial(self, trial: Any, x: Any, y: Any, epochs: int = 1) -> None:
        model = self.hypermodel.build(trial.hyperparameters)
        for epoch in range(epochs):
            loss = float(model.train_on_batch(x, y))
            self.on_epoch_end(trial, model, epoch, logs={"loss": loss})

    def on_epoch_end(self, trial: Any, model: Any, epoch: int, logs: Any = None) -> None:
        super().on_epoch_end(trial, model, epoch, logs)
        self.epochs_seen.append(logs["loss"])


def test_a_loop_of_its_own_is_recorded_epoch_by_epoch(folder: Path) -> None:
    oracle = kt.oracles.RandomSearchOracle(kt.Objective("loss", "min"), max_trials=2, seed=1)
    tuner = Loops(oracle, build_model, project_name="loops")
    tuner.epochs_seen = []
    tuner.search(X, Y, epochs=3, verbose=0)
    curves = [[epoch.logs["loss"] for epoch in trial.curve] for trial in tuner.results.trials]
    assert [len(curve) for curve in curves] == [3, 3]
    assert tuner.epochs_seen == [*curves[0], *curves[1]]
    assert tuner.oracle.get_best_trials()[0].score == min(map(min, curves))


class Watching(kt.RandomSearch):
    """A tuner with hooks of the training, for which it needs no `run_trial` of its own."""

    seen: list[tuple[str, int]]

    def on_epoch_begin(self, trial: Any, model: Any, epoch: int, logs: Any = None) -> None:
        assert model.optimizer is not None
        self.seen.append((trial.trial_id, epoch))

    def on_batch_end(self, trial: Any, model: Any, batch: int, logs: Any = None) -> None:
        self.seen.append((trial.trial_id, -1))


def test_the_hooks_of_a_training_are_called_in_the_worker(folder: Path) -> None:
    """A trial of two executions is trained twice, and the attributes come back."""
    tuner = Watching(build_model, "val_loss", max_trials=2, executions_per_trial=2, project_name="watching", seed=1)
    tuner.seen = []
    tuner.search(X, Y, validation_split=0.5, batch_size=12, epochs=2, verbose=0)
    trials = tuner.results.trials
    assert [len(trial.executions) for trial in trials] == [2, 2]
    for trial_id in tuner.oracle.trials:
        assert [epoch for about, epoch in tuner.seen if about == trial_id] == 2 * [0, -1, -1, 1, -1, -1]
    scores = {trial.number: np.mean(trial.scores) for trial in trials}
    assert tuner.oracle.get_best_trials()[0].score == pytest.approx(min(scores.values()))


def test_a_run_trial_may_be_assigned(folder: Path) -> None:
    tuner = kt.RandomSearch(build_model, "val_loss", max_trials=2, executions_per_trial=3, project_name="assigned")
    tuner.run_trial = lambda trial, power: 0.5 + trial.hyperparameters.get("units") ** power
    tuner.search(2, verbose=0)
    for trial in tuner.oracle.trials.values():
        assert trial.score == 0.5 + trial.hyperparameters.get("units") ** 2
    assert {len(trial.executions) for trial in tuner.results.trials} == {1}, "the loop over executions is KerasTuner's"


class Updating(kt.Tuner):
    """A tuner that tells its oracle the metrics, as KerasTuner's did before version 1.1."""

    def run_trial(self, trial: Any) -> None:
        x = trial.hyperparameters.Float("x", 1.0, 2.0)
        for step in range(3):
            self.oracle.update_trial(trial.trial_id, {"loss": x / (step + 1)}, step=step)


def test_metrics_told_to_the_oracle_count_and_the_script_is_warned(folder: Path) -> None:
    oracle = kt.oracles.RandomSearchOracle(kt.Objective("loss", "min"), max_trials=2)
    tuner = Updating(oracle, project_name="updating", workers=1)
    with pytest.warns(DeprecationWarning, match="deprecated"):
        tuner.search(verbose=0)
    for trial in tuner.oracle.trials.values():
        assert trial.score == pytest.approx(trial.hyperparameters.get("x") / 3)
    assert UPDATES_TRIAL not in vars(tuner), "a note of ours is no attribute of the user's"


def test_hooks_go_on_after_the_trials_of_earlier_processes(batch_sizes: BatchSizes) -> None:
    paths = batch_sizes.results.paths
    entries = [*journal.read(paths.journal)]
    ends = [place for place, entry in enumerate(entries) if isinstance(entry.record, TrialEnded)]
    setup = FollowerSetup("batches", paths.folder, entries=entries[: ends[-1]], say=print)
    ended: list[Any] = []

    class Listening(kt.Hyperband):
        def on_trial_begin(self, trial: Any) -> None:
            raise AssertionError("all have begun")

        def on_trial_end(self, trial: Any) -> None:
            ended.append(trial)

    TrialHooks(setup).take(entries[ends[-1] :])  # there is no script: nothing is called
    with TrialHooks.calling(Listening(build_model, "val_loss", directory=paths.folder / "none")):
        hooks = TrialHooks(setup)
    hooks.take(entries[ends[-1] :])
    last = batch_sizes.oracle.trials[ended[0].trial_id]
    assert [(trial.score, trial.status) for trial in ended] == [(last.score, "COMPLETED")]


class Fatal(kt.RandomSearch):
    ended = False

    def run_trial(self, trial: Any, returned: Any) -> Any:
        trial.hyperparameters.Int("x", 0, 9)
        if returned == "raise":
            raise kt.errors.FatalValueError("the licence has expired")
        return returned

    def on_search_end(self) -> None:
        self.ended = True


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (None, kt.errors.FatalTypeError, r"run_trial\(\) is None. Did you forget to return the metrics"),
        ("text", kt.errors.FatalTypeError, "one of float, dict, keras.callbacks.History"),
        ("raise", kt.errors.FatalValueError, "FatalValueError: the licence has expired"),
    ],
)
def test_a_fatal_error_ends_the_search_and_is_kerastuners(
    folder: Path, returned: Any, error: type[Exception], message: str
) -> None:
    tuner = Fatal(objective="val_loss", max_trials=4, max_retries_per_trial=3, overwrite=True, project_name="fatal")
    with pytest.raises(SpaceError, match=message) as raised:
        tuner.search(returned, verbose=0)
    assert isinstance(raised.value, error)
    assert "\n" not in str(raised.value)
    assert not tuner.ended
    assert len(tuner.oracle.trials) <= 1
