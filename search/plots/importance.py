"""The importance of hyperparameters: PED-ANOVA (Watanabe et al. 2023, IJCAI), with bootstrapped intervals.

PED-ANOVA compares the values of the best trials with those of all trials, hyperparameter by hyperparameter. Optuna's
form of it treats "does not have the hyperparameter" as a region of its own (arXiv:2601.20800), so a conditional
hyperparameter is compared among the trials that use it, and weighs as much as these are among the best.

All trials with an objective count by the best of their own epochs, those that their back end stopped early included:
only the ranking is used, and the best ones are those that got many epochs. Failed and infeasible trials do not count.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from search.plots.dimensions import varied_names
from search.plots.figures import COLORS, GREY, axis, make_figure
from search.plots.shown import nothing, objective_label, scored_trials, study_title
from search.plots.text import full, label
from search.study.study import Study
from search.study.trial import Direction, derive_seed
from search.study.trials import Trial
from search.wording import pluralize

if TYPE_CHECKING:
    import optuna
    import plotly.graph_objects as go
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

__all__ = ["MIN_TRIALS", "Importance", "importances", "plot_importance", "ranked_names"]

MIN_TRIALS = 4
"""The fewest trials with an objective."""

MAX_SHOWN = 15
"""The most hyperparameters of an answer: the shares of further ones would all be near 0."""

MAX_SAMPLE = 500
"""The most trials that are evaluated: at equal distances in the ranking, so that it keeps its shape."""

BEST = 0.1
"""The share of trials that count as the best, and `FEWEST_BEST` at least, if they are not more than half."""

FEWEST_BEST = 5

RELIABLE = 40
"""The fewest trials with which a figure does not call the importance uncertain."""


@dataclass(frozen=True, slots=True)
class Importance:
    """The importance of one hyperparameter.

    Attributes:
        name: the hyperparameter's name.
        value: its share of all importance, 0 to 1; the shares of all that are returned sum to 1.
        low, high: the interval that holds 90 % of the shares when trials are drawn again with replacement.
        trials: the trials that use it.
    """

    name: str
    value: float
    low: float
    high: float
    trials: int


def importances(study: Study, bootstraps: int = 30) -> list[Importance]:
    """Return the importance of the hyperparameters that vary, the highest first; of the `MAX_SHOWN` highest only.

    Args:
        bootstraps: how often the trials are drawn again for the intervals; 0 makes `low` and `high` equal to `value`.

    Raises:
        NoResult: fewer than `MIN_TRIALS` trials have an objective, or no hyperparameter varies among them.
    """
    trials = scored_trials(study)
    if len(trials) < MIN_TRIALS:
        raise nothing(study, f"importance needs {MIN_TRIALS} trials with an objective, and there are {len(trials)}")
    names = varied_names(trials)
    if not names:
        raise nothing(study, "no hyperparameter has different values in the trials with an objective")
    evaluation = _Evaluation(study, names)
    first = evaluation.shares(evaluation.trials, names)
    shown = sorted(names, key=lambda name: (-first[name], names.index(name)))[:MAX_SHOWN]
    total = sum(first[name] for name in shown)
    values = {name: first[name] / total if total else 1 / len(shown) for name in shown}
    samples = evaluation.bootstrap(shown, bootstraps)
    found = []
    for name in shown:
        drawn = sorted([sample[name] for sample in samples]) or [values[name]]
        margin = len(drawn) // 20
        low, high = min(drawn[margin], values[name]), max(drawn[-1 - margin], values[name])
        uses = sum(name in trial.params for trial in trials)
        found.append(Importance(name, values[name], low, high, uses))
    return found


def ranked_names(study: Study) -> list[str]:
    """Return the hyperparameters that vary, the most important first; in the space's order if trials are too few.

    Raises:
        NoResult: no trial has an objective, or no hyperparameter varies among those that have one.
    """
    trials = scored_trials(study)
    names = varied_names(trials)
    if not names:
        raise nothing(study, "no hyperparameter has different values in the trials with an objective")
    if len(trials) < MIN_TRIALS:
        return names
    shares = (evaluation := _Evaluation(study, names)).shares(evaluation.trials, names)
    return sorted(names, key=lambda name: (-shares[name], names.index(name)))


class _Evaluation:
    """Optuna's PED-ANOVA on the trials of a study.

    Args:
        names: the hyperparameters to keep.

    Attributes:
        trials: the trials with an objective as Optuna's complete ones, at most `MAX_SAMPLE`.
    """

    def __init__(self, study: Study, names: Sequence[str]) -> None:
        import optuna

        from search.backends import optuna_study

        ranked = sorted(scored_trials(study), key=lambda trial: study.objective.cost(trial.objective))
        count = min(len(ranked), MAX_SAMPLE)
        chosen = [ranked[place * len(ranked) // count] for place in range(count)]
        found = optuna_study.distributions(chosen)
        kept = {name: found[name] for name in names if name in found}
        self.trials: list[FrozenTrial] = []
        for trial in chosen:
            values = optuna_study.values_of(trial, found)
            used = {name: distribution for name, distribution in kept.items() if name in values}
            self.trials.append(_complete(trial, {name: values[name] for name in used}, used))
        best = min(0.5, max(BEST, FEWEST_BEST / len(self.trials)))
        self._evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=best)
        self._direction = study.objective.direction
        self._random = random.Random(derive_seed(study.seed, "importance"))

    def shares(self, trials: Sequence[FrozenTrial], names: Sequence[str]) -> dict[str, float]:
        """Return the importance of each of `names`, not normalised."""
        import optuna

        present = sorted({name for trial in trials for name in trial.params}.intersection(names))
        if not present:
            return dict.fromkeys(names, 0.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about few trials
            found = optuna.importance.get_param_importances(
                _study_of(trials, self._direction), evaluator=self._evaluator, params=present, normalize=False
            )
        return {name: float(found.get(name, 0.0)) for name in names}

    def bootstrap(self, names: Sequence[str], count: int) -> list[dict[str, float]]:
        """Return the shares of `names` in `count` samples of the trials, each drawn with replacement."""
        samples = []
        for _ in range(count):
            drawn = self.shares(self._random.choices(self.trials, k=len(self.trials)), names)
            total = sum(drawn.values())
            if total > 0:
                samples.append({name: value / total for name, value in drawn.items()})
        return samples


def _complete(trial: Trial, params: Mapping[str, Any], distributions: dict[str, BaseDistribution]) -> FrozenTrial:
    from optuna.trial import FrozenTrial, TrialState

    when = datetime.fromtimestamp(0)
    return FrozenTrial(
        number=trial.number,
        trial_id=trial.number,
        state=TrialState.COMPLETE,
        value=trial.objective,
        datetime_start=when,
        datetime_complete=when,
        params=dict(params),
        distributions=distributions,
        user_attrs={},
        system_attrs={},
        intermediate_values={},
    )


def _study_of(trials: Sequence[FrozenTrial], direction: Direction) -> optuna.Study:
    """Return a study of Optuna's with `trials`, the same one several times if it is there several times."""
    import optuna

    from search.backends.optuna_study import quiet

    class Fixed(optuna.storages.InMemoryStorage):
        """A storage that returns the given trials. Adding each would copy it, for every sample anew."""

        def get_all_trials(self, study_id: int, deepcopy: bool = True, states: Any = None) -> list[FrozenTrial]:
            return [trial for trial in trials if states is None or trial.state in states]

    with quiet():
        return optuna.create_study(storage=Fixed(), direction="minimize" if direction == "min" else "maximize")


# The figure -----------------------------------------------------------------------------------------------------------


def plot_importance(study: Study) -> go.Figure:
    """Return the importance of the hyperparameters as bars, with the interval that holds 90 % of the bootstraps.

    Raises:
        NoResult: as `importances`.
        OptionError: Plotly is not installed.
    """
    found = importances(study)
    scored = len(scored_trials(study))
    every = len(varied_names(scored_trials(study)))
    names = [item.name for item in found]
    few = "" if scored >= RELIABLE else f", uncertain with {scored} trials"
    count = f", {len(found)} of {every} hyperparameters" if every > len(found) else ""
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [item.value for item in found],
        "y": list(range(len(found))),
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [item.high - item.value for item in found],
            "arrayminus": [item.value - item.low for item in found],
            "color": GREY,
            "thickness": 1.5,
        },
        "hovertext": [
            f"{full(item.name)}<br>{item.value:.1%} (90 % of bootstraps: {item.low:.1%} to {item.high:.1%})"
            f"<br>in {item.trials} of {pluralize(scored, 'trial')}"
            for item in found
        ],
        "hoverinfo": "text",
        "marker": {"color": COLORS[0]},
    }
    return make_figure(
        [bars],
        study_title(study, f"importance for {objective_label(study)}{count}{few}"),
        xaxis=axis("share of the importance (PED-ANOVA)", tickformat=".0%", rangemode="tozero"),
        yaxis=axis(
            "", autorange="reversed", tickvals=list(range(len(found))), ticktext=[label(name) for name in names]
        ),
        height=max(280, 130 + 26 * len(found)),
        showlegend=False,
    )
