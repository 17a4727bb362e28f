"""A study of any back end as one of Optuna's: every kind of domain, every state, and Optuna's own tools on it."""

from __future__ import annotations

import json
import math
import random
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from search.backends.optuna_study import distributions, to_optuna, values_of
from search.errors import NoResult, OptionError, StudyError
from search.space.domain import Domain, Parameter, Value
from search.study.records import (
    BackendChanged,
    Built,
    EpochDone,
    Header,
    ParameterSet,
    ResultTold,
    SearchStarted,
    SegmentEnded,
    SegmentRequested,
    SegmentStarted,
    TrialEnded,
)
from search.study.study import Study
from search.study.trial import Objective
from search.study.trials import Trial, Values

LR = Parameter("lr", Domain("float", 1e-4, 1e-1, sampling="log"))
UNITS = Parameter("units", Domain("int", 16, 64))

DOMAINS = [
    Domain("int", 1, 10),
    Domain("int", 3, 3),
    Domain("int", 1, 10, step=4),
    Domain("int", 1, 1000, sampling="log"),
    Domain("int", 2, 100, step=3, sampling="log"),
    Domain("int", 1, 100, sampling="reverse_log"),
    Domain("float", -1.0, 1.0),
    Domain("float", 0.5, 0.5),
    Domain("float", 0.0, 1.0, step=0.2),
    Domain("float", 0.1, 0.35, step=0.1),
    Domain("float", 1e-7, 1e-1, sampling="log"),
    Domain("float", 1e-3, 1.0, step=10.0, sampling="log"),
    Domain("float", 1e-3, 1.0, sampling="reverse_log"),
    Domain("choice", values=("a", 1, 2.5, None)),
    Domain("choice", values=(False, "no")),
    Domain("choice", values=(8, 16, 32), ordered=True),
    Domain("boolean", values=(True, False)),
    Domain("fixed", values=("adam",)),
]


def trial_with(*params: tuple[Parameter, Value]) -> Trial:
    trial = Trial(0, 0, 0)
    trial.values = Values(
        {parameter.name: value for parameter, value in params}, [parameter for parameter, _ in params]
    )
    return trial


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_every_domain_has_a_distribution_that_contains_its_values(domain: Domain) -> None:
    draw, parameter = random.Random(0), Parameter("p", domain)
    trials = [
        trial_with((parameter, domain.at(u))) for u in (0.0, 0.3, 1 - 2**-53, *(draw.random() for _ in range(30)))
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = distributions(trials)
        for trial in trials:
            values = values_of(trial, found)
            assert values["p"] == trial.params["p"] or math.isclose(values["p"], trial.params["p"], rel_tol=1e-12)
            made = optuna.trial.create_trial(value=0.0, params=values, distributions=found)
            assert made.params["p"] == values["p"]  # refused if it is not contained


def test_distributions_keep_what_optuna_can_express() -> None:
    def of(domain: Domain, *more: tuple[Domain, Value]) -> Any:
        first = trial_with((Parameter("p", domain), domain.at(0.5)))
        return distributions([first, *(trial_with((Parameter("p", each), value)) for each, value in more)])["p"]

    assert of(Domain("int", 1, 9, step=4)) == IntDistribution(1, 9, step=4)
    assert of(Domain("int", 1, 10, step=4)) == IntDistribution(1, 9, step=4)
    assert of(Domain("int", 1, 9, sampling="log")) == IntDistribution(1, 9, log=True)
    assert of(Domain("float", 0.0, 1.0, step=0.25)) == FloatDistribution(0.0, 1.0, step=0.25)
    assert of(Domain("float", 1e-3, 1.0, sampling="reverse_log")) == FloatDistribution(1e-3, 1.0)
    assert of(Domain("choice", values=("a", "b"))) == CategoricalDistribution(("a", "b"))
    # Between trials a range may change, and a value may become a fixed one.
    assert of(Domain("int", 1, 9), (Domain("int", 5, 20), 12)) == IntDistribution(1, 20)
    assert of(Domain("float", 0.1, 1.0), (Domain("fixed", values=(5.0,)), 5.0)) == FloatDistribution(0.1, 5.0)
    assert of(Domain("fixed", values=("a",)), (Domain("fixed", values=("b",)), "b")) == CategoricalDistribution(
        ("a", "b")
    )


def study_of_all_states(name: str = "digits", trials: int = 0) -> Study:
    """Return a study with a trial of each state, and `trials` completed ones more."""
    study, now = Study(), [1_700_000_000.0]

    def apply(*records: Any) -> None:
        for record in records:
            now[0] += 1
            study.apply(record, now[0])

    apply(
        Header(7, "uid", name, 3, (Objective("val_accuracy", "max"),), "s.py", "d", (LR, UNITS), {}),
        BackendChanged("hyperband", {}),
        SearchStarted("box", 1, {}),
    )
    states = ["completed", "stopped", "failed", "infeasible", "paused", "running", *["completed"] * trials]
    for number, state in enumerate(states):
        apply(SegmentRequested(number, 0, 3, 2, 1, False, 100 + number), SegmentStarted(number, 0, 0, 0, 0, 3))
        apply(ParameterSet(number, LR, 0.1 / (number + 1)), ParameterSet(number, UNITS, 16 + number % 40))
        apply(Built(number, 10, "fit"))
        apply(*(EpochDone(number, 0, epoch, {"val_accuracy": 0.1 * epoch + number / 1000}, 1.0) for epoch in (1, 2, 3)))
        if state == "running":
            continue
        failed = state in ("failed", "infeasible")
        apply(SegmentEnded(number, 0, state if failed else "reached", 3, "it broke" if failed else None))
        apply(ResultTold(number, 3, None if failed else study.trials[number].score, state if failed else "reached"))
        if state != "paused":
            apply(TrialEnded(number, state))
    return study


def test_every_state_curve_time_and_attribute_is_kept() -> None:
    study = study_of_all_states()
    verbosity = optuna.logging.get_verbosity()
    found = to_optuna(study, run_ids={0: "run-0"})
    assert optuna.logging.get_verbosity() == verbosity
    assert (found.study_name, found.direction.name, found.metric_names) == ("digits", "MAXIMIZE", ["val_accuracy"])
    trials = found.get_trials()
    assert [trial.state for trial in trials] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.FAIL,
        TrialState.RUNNING,
        TrialState.RUNNING,
    ]
    assert [trial.value for trial in trials] == [*study.trials[0].scores, *study.trials[1].scores, *[None] * 4]
    assert found.best_trial.number == 0
    first = trials[0]
    assert first.params == {"lr": 0.1, "units": 16}
    assert first.intermediate_values == pytest.approx({1: 0.1, 2: 0.2, 3: 0.3})
    assert first.duration is not None
    assert first.duration.total_seconds() == pytest.approx(10)
    assert first.user_attrs == {
        "trial": 0,
        "state": "completed",
        "seed": 100,
        "epochs": 3,
        "bracket": 2,
        "rung": 1,
        "backend": "hyperband",
        "best_epoch": 3,
        "mlflow_run_id": "run-0",
    }
    assert trials[2].user_attrs["error"] == "it broke"
    assert trials[4].user_attrs["state"] == "paused"


def test_a_completed_trial_without_a_finite_objective_has_failed_for_optuna() -> None:
    study = study_of_all_states()
    study.trials[0].best.objective = math.inf
    assert to_optuna(study).get_trials()[0].state is TrialState.FAIL


@pytest.mark.slow
def test_optunas_own_tools_work_on_it() -> None:
    found = to_optuna(study_of_all_states(trials=12))
    assert set(optuna.importance.get_param_importances(found)) == {"lr", "units"}
    for plot in ("contour", "intermediate_values", "optimization_history", "parallel_coordinate", "slice", "timeline"):
        assert len(getattr(optuna.visualization, f"plot_{plot}")(found).data) > 0
    found.sampler = optuna.samplers.TPESampler(seed=0)
    asked = found.ask({"lr": FloatDistribution(1e-4, 1e-1, log=True), "units": IntDistribution(16, 64)})
    assert 16 <= asked.params["units"] <= 64  # Optuna's samplers learn from it


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("x.db", "'x.db' is no address of a database: give one such as sqlite:///x.db"),
        ("", "give one such as sqlite:///x.db"),
        ("nosuch://host/x", "nosuch://host/x cannot be used"),
        ("postgresql+nosuch://me:secret@host/x", "postgresql\\+nosuch://host/x cannot be used"),
    ],
)
def test_a_storage_that_cannot_be_used_is_one_line(storage: str, words: str) -> None:
    with pytest.raises(OptionError, match=words) as caught:
        to_optuna(study_of_all_states(), storage)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_study_without_trials_is_refused() -> None:
    study = Study()
    study.apply(Header(7, "uid", "none", 3, (Objective("loss", "min"),), "s.py", "d", (), {}), 0.0)
    with pytest.raises(NoResult, match="study 'none' has no trial yet"):
        to_optuna(study)


def test_a_second_export_is_refused_and_half_a_one_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    storage, study = optuna.storages.InMemoryStorage(), study_of_all_states()
    with monkeypatch.context() as patch:
        patch.setattr("search.backends.optuna_study._curve", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            to_optuna(study, storage)
    assert optuna.get_all_study_names(storage) == []
    to_optuna(study, storage)
    with pytest.raises(StudyError, match="the storage has a study 'digits' already"):
        to_optuna(study, storage)
    assert len(optuna.load_study(study_name="digits", storage=storage).trials) == 6


@pytest.mark.slow
def test_optunas_dashboard_shows_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    to_optuna(study_of_all_states(), url)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("optuna-dashboard")), url, "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as dashboard:
        try:
            (shown,) = _ask(dashboard, port, "studies")["study_summaries"]
            assert (shown["study_name"], shown["directions"]) == ("digits", ["maximize"])
            detail = _ask(dashboard, port, f"studies/{shown['study_id']}?after=0")
            assert [trial["state"] for trial in detail["trials"]] == [
                "Complete",
                "Pruned",
                "Fail",
                "Fail",
                "Running",
                "Running",
            ]
            assert {each["name"] for each in detail["union_search_space"]} == {"lr", "units"}
            assert [each["step"] for each in detail["trials"][0]["intermediate_values"]] == [1, 2, 3]
        finally:
            dashboard.terminate()


def _ask(dashboard: subprocess.Popen[bytes], port: int, path: str) -> Any:
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/{path}", timeout=30) as answer:
                return json.load(answer)
        except OSError:
            if dashboard.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.2)
