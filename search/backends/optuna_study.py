"""A study of any back end as a study of Optuna's, for `optuna.visualization`, `optuna.importance` and its dashboard.

Optuna's own back end keeps its trials in a form that is made for samplers (`search.backends.samplers.Axis`). This form
is made for people: each hyperparameter has its own name, its own values, and one distribution in the whole study, which
contains every value that a trial had. So it is always one that Optuna accepts:

| hyperparameter                                      | distribution                                            |
| --------------------------------------------------- | ------------------------------------------------------- |
| `Int`, `Float`, linear or log                       | the same, over the union of the ranges that trials had  |
| with `step`, linear, in one range                   | the same                                                |
| `sampling="log"` with `step`                        | log, without the step                                   |
| `sampling="reverse_log"`                            | linear                                                  |
| `Choice`, `Boolean`, `Fixed`, and all others        | categorical, of all values                              |
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.errors import NoResult, OptionError, StudyError
from search.space.domain import Domain, Value
from search.study.addresses import drop_queries
from search.study.study import Study
from search.study.trials import Trial

__all__ = ["distributions", "frozen_trial", "quiet", "to_optuna", "values_of", "without_password"]

STATES = {
    "completed": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "infeasible": TrialState.FAIL,
    "running": TrialState.RUNNING,
    "paused": TrialState.RUNNING,
}
"""Optuna's state by ours. The attribute `state` has our own word."""


def to_optuna(
    study: Study, storage: str | BaseStorage | None = None, run_ids: Mapping[int, str] | None = None
) -> optuna.Study:
    """Return a study of Optuna's with the same name, direction and trials.

    A completed trial is COMPLETE, a stopped one PRUNED, both with their best objective; a failed or infeasible one is
    FAIL, a running or paused one RUNNING. Intermediate values are the objective after each epoch of the first
    execution; a trial whose epochs are unknown has none. User attributes are `trial`, `state`, `seed`, `epochs`,
    `bracket`, `rung`, `backend`, `parent`, `best_epoch`, `executions`, `test`, `error` and `mlflow_run_id`, as far as a
    trial has them.

    Args:
        storage: a database's address such as `sqlite:///x.db`, or a storage of Optuna's; by default memory.
        run_ids: MLflow's run of each trial.

    Raises:
        NoResult: the study has no trial.
        OptionError: the storage cannot be used.
        StudyError: the storage has a study of this name.
    """
    if not study.trials:
        raise NoResult(f"study {study.name!r} has no trial yet, so there is nothing to give to Optuna")
    made = _create(study, storage)
    found = distributions(study.trials.values())
    ids = run_ids or {}
    try:
        made.add_trials(
            frozen_trial(study, trial, found, ids.get(number)) for number, trial in sorted(study.trials.items())
        )
    except BaseException:
        # Half a study would be taken for a whole one, and would keep its name from the next attempt.
        if storage is not None:
            optuna.delete_study(study_name=study.name, storage=storage)
        raise
    return made


def _create(study: Study, storage: str | BaseStorage | None) -> optuna.Study:
    direction = StudyDirection.MINIMIZE if study.objective.direction == "min" else StudyDirection.MAXIMIZE
    address = storage if isinstance(storage, str) else "the storage"
    shown = without_password(address)
    if isinstance(storage, str) and "://" not in storage:
        raise OptionError(f"{storage!r} is no address of a database: give one such as sqlite:///{storage or 'x.db'}")
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")  # the names of metrics are called experimental
        try:
            made = optuna.create_study(study_name=study.name, storage=storage, direction=direction)
            made.set_metric_names([study.objective.name])
        except optuna.exceptions.DuplicatedStudyError:
            raise StudyError(
                f"{shown} has a study {study.name!r} already: give another one, or delete that study with "
                "optuna delete-study"
            ) from None
        except Exception as error:  # of SQLAlchemy, of a driver of a database, or of a package that is missing
            line = " ".join(str(error).partition("(Background on")[0].split()).replace(address, shown)
            raise OptionError(
                f"{shown} cannot be used: check the address, and that its driver is installed "
                f"({type(error).__name__}: {line[:200]})"
            ) from None
    return made


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna from logging a line meanwhile."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def without_password(address: str) -> str:
    """Return a database's address without user, password and secrets. The path of a SQLite file may have an @."""
    scheme, separator, rest = address.partition("://")
    return address if scheme.startswith("sqlite") else drop_queries(f"{scheme}{separator}{rest.rpartition('@')[2]}")


def frozen_trial(
    study: Study, trial: Trial, distributions: Mapping[str, BaseDistribution], run_id: str | None = None
) -> FrozenTrial:
    """Return `trial` as Optuna keeps one.

    Args:
        distributions: of all hyperparameters, by name.
    """
    state, value = STATES[trial.state], trial.objective
    if value is None or not math.isfinite(value) or state in (TrialState.FAIL, TrialState.RUNNING):
        value = None
        state = TrialState.FAIL if state is TrialState.COMPLETE else state
    began = trial.began_at or 0.0
    ended = trial.end.at if trial.end.at is not None else began
    found = optuna.trial.create_trial(
        state=state,
        value=value,
        params=values_of(trial, distributions),
        distributions={name: distributions[name] for name in trial.params},
        user_attrs=_attributes(study, trial, run_id),
        intermediate_values=_curve(study, trial),
    )
    found.datetime_start = datetime.fromtimestamp(began)
    found.datetime_complete = datetime.fromtimestamp(ended) if state.is_finished() else None
    return found


def _curve(study: Study, trial: Trial) -> dict[int, float]:
    if trial.black_box:
        return {}
    name = study.objective.name
    return {record.epoch: record.logs[name] for record in trial.curve if name in record.logs}


def _attributes(study: Study, trial: Trial, run_id: str | None) -> dict[str, Any]:
    progress, tested = trial.progress, trial.best.tested
    found = {
        "trial": trial.number,
        "state": trial.state,
        "seed": trial.seed,
        "epochs": trial.known_epochs,
        "bracket": progress.bracket,
        "rung": progress.rung,
        "backend": study.phases[trial.phase].backend if 0 <= trial.phase < len(study.phases) else None,
        "parent": None if trial.parent is None else trial.parent.trial,
        "best_epoch": trial.best_epoch,
        "executions": trial.scores if len(trial.executions) > 1 else None,
        "test": None if tested is None else {name: float(value) for name, value in tested.logs.items()},
        "error": trial.error,
        "mlflow_run_id": run_id,
    }
    return {name: value for name, value in found.items() if value is not None}


# Hyperparameters ------------------------------------------------------------------------------------------------------


def values_of(trial: Trial, distributions: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Return the values of `trial` in the types of their distributions: a whole number may stand for a float."""
    return {name: _value(value, distributions[name]) for name, value in trial.params.items()}


def _value(value: Value, distribution: BaseDistribution) -> Any:
    if not isinstance(distribution, FloatDistribution) or not isinstance(value, (int, float)):
        return value
    return float(value) if distribution.step is None else _on_grid(value, distribution.low, distribution.step)


def _on_grid(value: float, low: float, step: float) -> float:
    """Return the step nearest to `value` in decimal arithmetic, as Optuna's: 0.3, if ours is 0.30000000000000004."""
    return float(Decimal(str(low)) + round((value - low) / step) * Decimal(str(step)))


def distributions(trials: Iterable[Trial]) -> dict[str, BaseDistribution]:
    """Return one distribution for each hyperparameter, by name, which contains all values that `trials` have."""
    domains: dict[str, dict[Domain, None]] = {}
    values: dict[str, dict[tuple[type, Value], Value]] = {}
    for trial in trials:
        for parameter in trial.parameters:
            domains.setdefault(parameter.name, {})[parameter.domain] = None
        for name, value in trial.params.items():
            values.setdefault(name, {})[type(value), value] = value
    return {name: _distribution([*domains.get(name, ())], [*used.values()]) for name, used in values.items()}


def _distribution(domains: Sequence[Domain], values: Sequence[Value]) -> BaseDistribution:
    ranges = [domain for domain in domains if domain.is_range]
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if not ranges or len(numbers) < len(values) or not all(map(math.isfinite, numbers)):
        return _categories(domains, values)
    low = min([*(domain.low for domain in ranges), *numbers])
    high = max([*(domain.high for domain in ranges), *numbers])
    whole = all(isinstance(value, int) for value in (*numbers, low, high))
    log = low > 0 and all(domain.sampling == "log" for domain in ranges)
    step = _common_step(domains, values)
    if whole:
        low, high, step = int(low), int(high), int(step or 1)
        return IntDistribution(low, low + (high - low) // step * step, log, step)
    if step is not None:
        last = domains[0].value((domains[0].size or 1) - 1)
        assert isinstance(last, (int, float))
        return FloatDistribution(float(low), _on_grid(last, float(low), float(step)), step=float(step))
    return FloatDistribution(float(low), float(high), log)


def _common_step(domains: Sequence[Domain], values: Sequence[Value]) -> float | int | None:
    """Return the step of the only range, if its values are at equal distances and all `values` are among them."""
    if len(domains) != 1 or domains[0].sampling != "linear" or domains[0].step is None:
        return None
    return domains[0].step if all(map(domains[0].contains, values)) else None


def _categories(domains: Sequence[Domain], values: Sequence[Value]) -> BaseDistribution:
    """Return the categories of all domains that are lists, and of all `values`."""
    listed = [value for domain in domains if not domain.is_range for value in domain.values]
    return CategoricalDistribution(tuple(dict.fromkeys([*listed, *values])))
