"""The trials in KerasTuner's files, in the order of their begin, and the objective that they were compared by. Pure.

KerasTuner keeps a trial's metrics of its best epoch only, as an observation with that epoch (from 0) as its step.
Before version 1.1.3 the step was always 0, and so it is for a `run_trial` of the user's own that returns a number. No
file names the objective.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.compat.projects.saved_space import SavedSpace, read_space
from search.errors import OptionError, StudyError, nearest
from search.space.error_text import as_one_line
from search.study.trial import Direction, Objective

__all__ = ["Round", "SavedTrial", "best_value", "choose_objective", "in_order", "read_trial"]


@dataclass(frozen=True, slots=True)
class Round:
    """The training that KerasTuner's Hyperband wanted of a trial.

    Attributes:
        begins_after, epochs: the epochs before it, and those at its end.
        bracket, number: its place in the plan.
        continued: the id of the trial whose weights it began with, or None.
    """

    begins_after: int
    epochs: int
    bracket: int
    number: int
    continued: str | None


@dataclass(frozen=True, slots=True)
class SavedTrial:
    """A trial of a project.

    Attributes:
        id: KerasTuner's.
        space: its hyperparameters and values.
        logs: the metrics by step, from 0; the mean of several values.
        directions: the better direction of each metric.
        score: the objective's best value; None if it has none.
        state: `finished`, `failed`, or `open` if it still ran or waited for a retry.
        error: one line about its failure, or None.
        round: Hyperband's; None for another tuner's.
        ended: the time of its file, in seconds since the epoch.
    """

    id: str
    space: SavedSpace
    logs: Mapping[int, Mapping[str, float]]
    directions: Mapping[str, Direction]
    score: float | None
    state: str
    error: str | None
    round: Round | None
    ended: float


def read_trial(data: Mapping[str, Any], *, ended: float, retried: Iterable[str] = ()) -> SavedTrial:
    """Return the content of a `trial.json`.

    Args:
        ended: the time of the file.
        retried: the ids of the trials that were still to be tried again.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: KerasTuner writes no such content.
    """
    space = read_space(data["hyperparameters"])
    histories = data["metrics"]["metrics"]
    logs: dict[int, dict[str, float]] = {}
    for name, history in histories.items():
        for observation in history["observations"]:
            value = observation["value"]
            mean = statistics.fmean(value if isinstance(value, list) else [value])
            logs.setdefault(_whole(observation["step"]), {})[name] = mean
    score = data["score"]
    score = None if score is None or not math.isfinite(score) else float(score)
    state, error = _state_of(data, score, data["trial_id"] in set(retried))
    return SavedTrial(
        id=str(data["trial_id"]),
        space=space,
        logs=dict(sorted(logs.items())),
        directions={name: _direction(history["direction"]) for name, history in histories.items()},
        score=score,
        state=state,
        error=error,
        round=_round_of(space.tuner),
        ended=ended,
    )


def _whole(value: Any) -> int:
    if int(value) != value or value < 0:
        raise ValueError(f"{value!r} is no number of an epoch")
    return int(value)


def _direction(text: str) -> Direction:
    if text not in ("min", "max"):
        raise ValueError(f"{text!r} is no direction")
    return "max" if text == "max" else "min"


def _state_of(data: Mapping[str, Any], score: float | None, retried: bool) -> tuple[str, str | None]:
    """Return a trial's state, and one line about its failure."""
    match data["status"]:
        case "INVALID" | "FAILED":
            message = data.get("message")
            reason = _last_error(message) if message else "KerasTuner calls it invalid, and gives no reason"
            return ("open", None) if retried else ("failed", reason)
        case "COMPLETED" | "STOPPED" if score is not None:
            return "finished", None
        case "COMPLETED" if data["score"] is not None:
            return "failed", f"the objective is {data['score']}"
    return "open", None


def _last_error(message: str) -> str:
    """Return the line of a traceback that names its exception."""
    lines = message.rstrip().splitlines()
    frames = [place for place, line in enumerate(lines) if line.startswith("  File ")]
    after = lines[frames[-1] + 1 :] if frames else lines
    return as_one_line(next((line for line in after if line and not line.startswith(" ")), lines[-1]))


def _round_of(tuner: Mapping[str, Any]) -> Round | None:
    if "tuner/epochs" not in tuner:
        return None
    continued = tuner.get("tuner/trial_id")
    return Round(
        begins_after=_whole(tuner.get("tuner/initial_epoch", 0)),
        epochs=_whole(tuner["tuner/epochs"]),
        bracket=_whole(tuner.get("tuner/bracket", 0)),
        number=_whole(tuner.get("tuner/round", 0)),
        continued=None if continued is None else str(continued),
    )


def in_order(trials: Sequence[SavedTrial], started: Sequence[str]) -> list[SavedTrial]:
    """Return `trials` as they began.

    Args:
        started: ids in the order of their begin. Before version 1.2 there are none, and the order of the ends counts.
    """
    places = {id: place for place, id in enumerate(started)}
    return sorted(trials, key=lambda trial: (places.get(trial.id, len(places)), trial.ended, trial.id))


# The objective --------------------------------------------------------------------------------------------------------


def choose_objective(trials: Iterable[SavedTrial], name: str | None, direction: str | None) -> Objective:
    """Return the objective of a project: the user's, or the metric whose best values are the trials' scores.

    Args:
        trials: those that have ended.
        name, direction: the user's, or None.

    Raises:
        OptionError: no metric of the trials has this name, or the direction is not known.
        StudyError: the scores are those of no metric, or of several.
    """
    if direction not in (None, "min", "max"):
        raise OptionError(f"--direction {direction}: give min or max")
    trials = list(trials)
    directions = {metric: way for trial in trials for metric, way in trial.directions.items()}
    if name is None:
        name = _objective_by_scores(trials, directions)
    elif directions and name not in directions:
        raise OptionError(
            f"--objective {name}: the trials have no such metric, but {', '.join(directions)}."
            f"{nearest(name, directions)}"
        )
    found = direction or directions.get(name)
    if found is None:
        raise OptionError(f"whether more or less of {name!r} is better is not known: say --direction max or min")
    return Objective(name, _direction(found))


def _objective_by_scores(trials: Sequence[SavedTrial], directions: Mapping[str, Direction]) -> str:
    scored = [trial for trial in trials if trial.score is not None]
    found = [
        name
        for name, direction in directions.items()
        if scored and all(best_value(trial, Objective(name, direction)) == trial.score for trial in scored)
    ]
    # A metric of the validation data is what nearly everybody compares by.
    found = [name for name in found if name.startswith("val_")] or found
    if len(found) == 1:
        return found[0]
    why = "no trial has a score" if not scored else "the scores are those of no metric"
    if found:
        why = f"the scores are those of {' and of '.join(found)}"
    raise StudyError(f"KerasTuner does not save the objective's name, and {why}: give it with --objective NAME")


def best_value(trial: SavedTrial, objective: Objective) -> float | None:
    """Return the best value of the objective that `trial` has, or None."""
    return objective.best(logs[objective.name] for logs in trial.logs.values() if objective.name in logs)
