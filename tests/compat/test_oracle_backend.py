"""KerasTuner oracles of one's own as a back end: the contract, results, promotions, resumes and errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras_tuner
import pytest

import search
from search.cli import main
from search.compat.oracle_backend import OracleBackEnd, oracle_in_use, value_in
from search.driver import checks
from search.errors import OptionError, SearchError
from search.options import Options
from search.scheduler.limits import Limits
from search.space.domain import Domain, Parameter, Value
from search.study.records import SegmentRequested
from search.study.trial import Objective, derive_seed
from search.testing import BackEndContract, Scenario, Simulation
from search.testing.backends import epoch_seconds, noise_loss


class SeededOracle(keras_tuner.oracles.RandomSearchOracle):
    """Random search whose values are a function of seed and trial, so that a resume draws the same."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        space = self.get_space()
        space.values = {}
        for hp in space.space:
            if space.is_active(hp):
                space.values[hp.name] = hp.random_sample(derive_seed(self.seed, trial_id, hp.name))
        return {"status": "RUNNING", "values": space.values}


class TestOwnOracle(BackEndContract):
    """Two tests do not apply: an oracle may try a configuration again, and learns nothing from other back ends."""

    test_each_configuration_is_tried_once = None
    test_a_finite_space_is_resumed_with_any_number_of_slots = None

    def make(self, objective, seed, max_epochs, parameters):
        oracle = SeededOracle(
            keras_tuner.Objective(objective.name, objective.direction),
            max_trials=None,
            seed=seed + 1,
            max_consecutive_failed_trials=99,
        )
        with oracle_in_use(_silent(oracle)):
            return OracleBackEnd(objective, seed, max_epochs=max_epochs, parameters=parameters)


def _silent(oracle: Any) -> Any:
    """Return an oracle that writes nothing, as one in use."""
    oracle.save = oracle._save_trial = lambda *_: None
    oracle.verbose = 0
    return oracle


def ask(hp: Any) -> None:
    hp.Int("units", 1, 4)
    if hp.Choice("kind", ["plain", "sgd"]) == "sgd":
        hp.Float("momentum", 0.0, 0.9)


@pytest.fixture
def simulate() -> Iterator[Callable[..., Simulation]]:
    """Simulate a search with an oracle, which is in use until the test ends."""
    contexts = []

    def make(oracle: Any, ask: Any = ask, max_epochs: int = 3, **options: Any) -> Simulation:
        contexts.append(oracle_in_use(oracle))
        contexts[-1].__enter__()
        objective = Objective("val_loss", "min")
        options.setdefault("limits", Limits())
        return Simulation(
            options.pop("scenario", Scenario(ask, noise_loss, seconds=epoch_seconds)),
            lambda study: OracleBackEnd(objective, 0, max_epochs=max_epochs, parameters=study.parameters),
            objective=objective,
            max_epochs=max_epochs,
            backend_options={"repeats": True},
            **options,
        )

    yield make
    for context in reversed(contexts):
        context.__exit__(None, None, None)


def random_oracle(**arguments: Any) -> Any:
    return SeededOracle("val_loss", **{"max_trials": 6, "seed": 3, **arguments})


# Trials ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 3])
def test_the_oracle_has_the_trials_of_the_study(simulate: Callable[..., Simulation], slots: int) -> None:
    oracle = random_oracle()
    found = simulate(oracle, slots=slots).run()
    assert found.end is not None
    assert (found.end.complete, len(found.trials)) == (True, 6)
    assert not oracle.ongoing_trials
    assert sorted(oracle.trials) == sorted(oracle.end_order) == [str(n) for n in range(6)]
    for trial in found.trials:
        own = oracle.get_trial(str(trial.number))
        assert (own.status, own.score, own.best_step) == ("COMPLETED", trial.objective, (trial.best_epoch or 0) - 1)
        assert trial.params.items() <= own.hyperparameters.values.items()
    best = min(found.trials, key=lambda trial: trial.objective or 0)
    assert oracle.get_best_trials(1)[0].score == best.objective
    assert {hp.name for hp in oracle.get_space().space} == {"units", "kind", "momentum"}


def test_a_parameter_that_the_oracle_does_not_know_has_its_default(simulate: Callable[..., Simulation]) -> None:
    class Given(SeededOracle):
        def populate_space(self, trial_id: str) -> dict[str, Any]:
            return {"status": "RUNNING", "values": {"kind": "sgd", "units": 2}}

    oracle = Given("val_loss", max_trials=2)
    found = simulate(oracle).run()
    assert found.trials[0].params == {"units": 2, "kind": "sgd", "momentum": 0.0}
    # KerasTuner draws the values that an oracle which knows a parameter leaves out.
    assert found.trials[1].params == oracle.get_trial("1").hyperparameters.values


def test_failed_trials_are_told_with_their_message(simulate: Callable[..., Simulation]) -> None:
    oracle = random_oracle(max_consecutive_failed_trials=99)
    scenario = Scenario(ask, noise_loss, fails=lambda run: 1 if run["kind"] == "sgd" else None)
    found = simulate(oracle, scenario=scenario).run()
    failed = [trial for trial in found.trials if trial.state == "failed"]
    assert 0 < len(failed) < 6
    for trial in failed:
        own = oracle.get_trial(str(trial.number))
        assert (own.status, own.score, own.message) == ("FAILED", None, trial.error)


def test_overridden_methods_are_called_in_keras_tuners_order(simulate: Callable[..., Simulation]) -> None:
    calls: list[tuple[str, str]] = []

    class Watching(SeededOracle):
        def create_trial(self, tuner_id: str) -> Any:
            trial = super().create_trial(tuner_id)
            calls.append(("create", trial.status))
            return trial

        def update_trial(self, trial_id: str, metrics: Any, step: int = 0) -> Any:
            calls.append(("update", trial_id))
            assert metrics["val_loss"] > 0
            trial = super().update_trial(trial_id, metrics, step)
            trial.status = "STOPPED"  # KerasTuner's documentation allows it
            return trial

        def score_trial(self, trial: Any) -> None:
            calls.append(("score", trial.trial_id))
            super().score_trial(trial)
            trial.score *= 2

        def end_trial(self, trial: Any) -> None:
            calls.append(("end", trial.status))
            super().end_trial(trial)

    oracle = Watching("val_loss", max_trials=1)
    found = simulate(oracle).run()
    expected = [("create", "RUNNING"), ("update", "0"), ("end", "COMPLETED"), ("score", "0"), ("create", "STOPPED")]
    assert calls == expected
    assert oracle.get_trial("0").score == 2 * (found.trials[0].objective or 0)


def test_a_configuration_may_be_tried_again(simulate: Callable[..., Simulation]) -> None:
    class Same(SeededOracle):
        def populate_space(self, trial_id: str) -> dict[str, Any]:
            return {"status": "RUNNING", "values": {"units": 3, "kind": "plain"}}

    found = simulate(Same("val_loss", max_trials=4), slots=2).run()
    assert [trial.params for trial in found.trials] == [{"units": 3, "kind": "plain"}] * 4


def test_a_budget_of_the_search_ends_it_before_the_oracle(simulate: Callable[..., Simulation]) -> None:
    oracle = random_oracle(max_trials=None)
    found = simulate(oracle, limits=Limits(max_trials=3)).run()
    assert (len(found.trials), len(oracle.trials)) == (3, 3)


# Hyperband ------------------------------------------------------------------------------------------------------------


class OwnHyperband(keras_tuner.oracles.HyperbandOracle):
    """KerasTuner's Hyperband as a subclass."""


@pytest.mark.parametrize("slots", [1, 4])
def test_a_promoted_trial_is_trained_further(simulate: Callable[..., Simulation], slots: int) -> None:
    oracle = OwnHyperband("val_loss", max_epochs=9, factor=3, seed=4)

    def ask_many(hp: Any) -> None:
        hp.Float("rate", 0.0, 1.0)

    found = simulate(oracle, ask_many, max_epochs=9, slots=slots).run()
    assert found.end is not None
    assert found.end.complete
    promoted = [trial for trial in oracle.trials.values() if trial.hyperparameters.get("tuner/round") > 0]
    assert promoted
    requests = [record for record in found.records if isinstance(record, SegmentRequested)]
    assert len(requests) == len(oracle.trials) == len(found.trials) + len(promoted)
    number_of = {record.attributes["oracle_trial"]: record.trial for record in requests}
    for trial in promoted:
        number, values = number_of[trial.trial_id], trial.hyperparameters.values
        assert number == number_of[values["tuner/trial_id"]]
        assert values["rate"] == found.trials[number].params["rate"]
        assert any(record.trial == number and record.to_epoch == values["tuner/epochs"] for record in requests)
    assert {trial.epochs for trial in found.trials} == {1, 3, 9}
    assert all(trial.ended for trial in found.trials)


# Resumes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 3])
def test_a_new_process_puts_the_journals_trials_into_its_oracle(
    simulate: Callable[..., Simulation], slots: int
) -> None:
    before = random_oracle()
    whole = simulate(before, slots=slots).run()
    for kept in range(4, len(whole.entries), 9):
        oracle = random_oracle()
        found = simulate(oracle, slots=slots, entries=whole.entries[:kept]).run()
        assert sorted(oracle.trials) == sorted(oracle.end_order) == [str(n) for n in range(6)], f"after record {kept}"
        assert not oracle.ongoing_trials
        if slots == 1:
            assert found.history() == whole.history()
            for trial_id, trial in before.trials.items():
                again = oracle.get_trial(trial_id).get_state()
                assert again == trial.get_state(), f"after record {kept}"
            assert oracle._tried_so_far == before._tried_so_far


def test_the_same_oracle_goes_on_with_all_that_it_knows(simulate: Callable[..., Simulation]) -> None:
    class Counting(SeededOracle):
        ended = 0

        def end_trial(self, trial: Any) -> None:
            self.ended += 1
            super().end_trial(trial)

    oracle = Counting("val_loss", max_trials=6, seed=3)
    stopped = simulate(oracle, slots=2).run(stop_after=25)
    assert stopped.end is not None
    assert stopped.end.exit_code == 130
    found = simulate(oracle, slots=2, entries=stopped.entries).run()
    assert (len(found.trials), len(oracle.trials), oracle.ended) == (6, 6, 6)
    assert all(trial.state == "completed" for trial in found.trials)


def test_another_process_is_told_to_run_the_script() -> None:
    with oracle_in_use(random_oracle()) as backend:
        pass
    with pytest.raises(OptionError, match=r"oracle SeededOracle, which lives in its script: run the script again$"):
        checks.check_backend(Options(backend=backend))


def test_an_oracle_is_not_asked_before_its_search_begins() -> None:
    oracle = random_oracle()
    with oracle_in_use(oracle) as backend:
        checks.check_backend(Options(backend=backend), (Parameter("units", Domain("int", 1, 4), 1),))
    assert (oracle.trials, oracle.get_space().space) == ({}, [])


# Errors ---------------------------------------------------------------------------------------------------------------


def test_an_exception_names_class_and_method(simulate: Callable[..., Simulation]) -> None:
    class Broken(SeededOracle):
        def populate_space(self, trial_id: str) -> dict[str, Any]:
            raise KeyError("rate")

    with pytest.raises(SearchError, match=r"^the oracle Broken raised KeyError in create_trial: 'rate'; correct it"):
        simulate(Broken("val_loss", max_trials=1)).run()


def test_a_trial_that_is_not_returned_is_named(simulate: Callable[..., Simulation]) -> None:
    class Silent(SeededOracle):
        def create_trial(self, tuner_id: str) -> None:
            super().create_trial(tuner_id)

    # The next call finds the trial that the first one has created.
    found = simulate(Silent("val_loss", max_trials=1)).run
    with pytest.raises(SearchError, match=r"^the oracle Silent returned None from create_trial: return the trial"):
        found()


def test_an_oracle_that_waits_for_ever_is_named(simulate: Callable[..., Simulation]) -> None:
    class Idle(SeededOracle):
        def populate_space(self, trial_id: str) -> dict[str, Any]:
            return {"status": "IDLE"}

    with pytest.raises(SearchError, match=r"^the oracle Idle waits \(IDLE\) although no trial runs"):
        simulate(Idle("val_loss", max_trials=1)).run()


def test_an_oracle_may_wait_for_running_trials(simulate: Callable[..., Simulation]) -> None:
    class InTurn(SeededOracle):
        def populate_space(self, trial_id: str) -> dict[str, Any]:
            return {"status": "IDLE"} if self.ongoing_trials else super().populate_space(trial_id)

    found = simulate(InTurn("val_loss", max_trials=4), slots=3).run()
    assert len(found.trials) == 4
    assert found.study.seconds() == pytest.approx(sum(trial.seconds for trial in found.trials), rel=1e-3)


def test_a_value_outside_of_the_space_is_named(simulate: Callable[..., Simulation]) -> None:
    class Wrong(SeededOracle):
        def populate_space(self, trial_id: str) -> dict[str, Any]:
            return {"status": "RUNNING", "values": {"kind": "deep"}}

    with pytest.raises(SearchError, match=r"^the oracle Wrong gives 'kind' the value 'deep', which is not in Choice"):
        simulate(Wrong("val_loss", max_trials=1)).run()


@pytest.mark.parametrize(
    ("domain", "value", "own"),
    [
        (Domain("choice", values=(True, False)), 0, False),
        (Domain("choice", values=("a", "b")), "c", None),
        (Domain("int", 0, 9), 4.0, 4),
        (Domain("int", 0, 9), 40, 9),
        (Domain("int", 1, 64, step=2, sampling="log"), 30, 32),
        (Domain("float", 0.0, 1.0), 2, 1.0),
        (Domain("float", 0.0, 1.0, step=0.25), 0.6, 0.5),
        (Domain("float", 0.0, 1.0), float("nan"), None),
        (Domain("float", 0.0, 1.0), "0.5", None),
        (Domain("fixed", values=(3,)), 3, 3),
    ],
)
def test_values_become_those_of_the_domain(domain: Domain, value: Any, own: Value) -> None:
    found = value_in(domain, value)
    assert (found, type(found)) == (own, type(own))


# With real trainings --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_real_search_and_its_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import keras
    import numpy as np

    monkeypatch.chdir(tmp_path)

    def build_model(hp: Any) -> Any:
        layers = [keras.layers.Dense(hp.Int("units", 2, 8), activation="relu"), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((4,)), *layers])
        model.compile("adam", "mse", metrics=["mae"])
        return model

    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    data = ((x[:48], x[:48].sum(axis=1)), (x[48:], x[48:].sum(axis=1)))
    options = {"study": "own", "max_epochs": 2, "workers": 1, "objective": "val_loss", "progress": False, "seed": 0}
    oracle = random_oracle(max_trials=2)
    with oracle_in_use(oracle) as backend:
        search.run(build_model, data, backend=backend, **options)
    assert sorted(oracle.get_trial("0").metrics.metrics) == ["loss", "mae", "val_loss", "val_mae"]
    assert not [*tmp_path.rglob("oracle.json"), *tmp_path.rglob("trial_0")]
    assert main(["resume", "own"]) == 2
    assert capsys.readouterr().err.endswith("oracle SeededOracle, which lives in its script: run the script again\n")

    again = random_oracle(max_trials=3)
    with oracle_in_use(again) as backend:
        found = search.run(build_model, data, backend=backend, resume=True, **options)
    assert [trial.objective for trial in found.trials] == [again.get_trial(str(n)).score for n in range(3)]
    assert again.get_trial("1").get_state() == oracle.get_trial("1").get_state()
