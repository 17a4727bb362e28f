"""The page that MLflow opens a study with, as its UI keeps it: pure.

The UI reads the state of a shared page from an experiment's tag `mlflow.sharedViewState.<key>`, plain JSON, where its
address ends in `viewStateShareKey=<key>`: which runs, in which order, with which columns and which charts. A study's
page shows its trials, best first, and

- parallel coordinates of the parameters that all trials have in common, up to the objective; another of the largest
  group of trials that have more (the UI leaves a run out that lacks one of a chart's parameters),
- the learning curves of the objective metric,
- the parameters that tell most of the objective, each against it,
- the trials side by side.

Its axes are linear, so what was sampled in log is shown by its `log10_…`, which `layout` logs for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from search.space.domain import Value
from search.study.study import Study, Trial
from search.tracking.mlflow import layout

TAG = "mlflow.sharedViewState."
"""Key of the experiment's tag, before the page's own key."""

LIMIT = 5000
"""Characters of an experiment's tag that every server takes; MLflow 3.17 itself takes 20,000."""

SCATTERS = 2
"""How many parameters are shown against the objective."""

FEWEST = 5
"""Trials that a chart is worth drawing for, and that a parameter's influence can be seen in."""


def key(uid: str) -> str:
    """The page's key: several studies may share an experiment."""
    return f"search-{uid}"


def condition(uid: str) -> str:
    """MLflow's filter for the trials of a study, without its parent run."""
    return f"tags.`{layout.STUDY_UID}` = '{uid}' and tags.`search.kind` = 'trial'"


def address(experiment_id: str, uid: str) -> str:
    """The page's address, below that of the server."""
    query = f"workflowType=machine_learning&viewStateShareKey={key(uid)}&compareRunsMode=CHART"
    return f"#/experiments/{experiment_id}/runs?{query}"


def state(study: Study) -> str:
    """The tag's value: the page of `study`, in JSON of at most `LIMIT` characters.

    Of more parameters than fit, the least used ones are left out.
    """
    used = _used(study)
    while True:
        text = json.dumps(_page(study, used), ensure_ascii=False, separators=(",", ":"))
        if len(text) <= LIMIT or not used:
            return text
        least = min(map(len, used.values()))
        used.pop([name for name, trials in used.items() if len(trials) == least][-1])


def _page(study: Study, used: Mapping[str, frozenset[int]]) -> dict[str, Any]:
    tests = sorted({name for trial in study.trials.values() if trial.tested is not None for name in trial.tested.logs})
    columns = ["metrics.`objective`", "metrics.`best_epoch`"]
    columns += [f"metrics.`{layout.key(layout.TEST + name)}`" for name in tests]
    columns += [f"params.`{layout.key(name)}`" for name in used]
    columns += ["tags.`search.epochs`", "tags.`search.state`"]
    common, further = _common(study, used), _further(study, used)
    charts = [_parallel(study, "common", common)] if common else []
    charts += [_curve(study), *_scatters(study, used)]
    if further:
        charts.append(_parallel(study, "further", [*_varying(study, common, used[further[0]]), *further]))
    return {
        "searchFilter": condition(study.uid),
        "orderByKey": "metrics.`objective`",
        "orderByAsc": study.objective.direction == "min",
        "selectedColumns": columns,
        "runsHiddenMode": "SHOW_ALL",
        "isAccordionReordered": True,  # else the UI sorts sections by name
        "compareRunSections": [
            _section("common", "Parameters and objective", columns=1),
            _section("curves", "Curves, and what matters", columns=3),
            *([_section("further", f"Where {further[0]} is used", columns=1)] if further else []),
            _section("trials", "Trials side by side, best first", columns=1, height=480),
            # Where the UI puts a chart of every other metric.
            {**_section("others", "Model metrics", columns=3), "display": False},
        ],
        "compareRunCharts": [*charts, _table()],
    }


# Charts ---------------------------------------------------------------------------------------------------------------


def _section(uuid: str, name: str, *, columns: int, height: int = 360) -> dict[str, Any]:
    return {"uuid": uuid, "name": name, "display": True, "isReordered": True, "columns": columns, "cardHeight": height}


def _chart(uuid: str, section: str, kind: str, name: str | None = None, **fields: Any) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "type": kind,
        "metricSectionId": section,
        "runsCountToCompare": 100,
        "deleted": False,
        "isGenerated": False,
        **({} if name is None else {"displayName": name}),
        **fields,
    }


def _parallel(study: Study, section: str, names: Sequence[str]) -> dict[str, Any]:
    params = [axis(study, name) for name in names]
    return _chart(section, section, "PARALLEL", selectedParams=params, selectedMetrics=["objective"], showAllRuns=True)


def _curve(study: Study) -> dict[str, Any]:
    metric = layout.key(study.objective.name)
    return _chart(
        "curve", "curves", "LINE", f"{metric} by epoch", metricKey=metric, selectedMetricKeys=[metric], xAxisKey="step",
        xAxisScaleType="linear", scaleType="linear", useGlobalXaxisKey=True, lineSmoothness=0,
    )  # fmt: skip


def _scatters(study: Study, used: Mapping[str, frozenset[int]]) -> list[dict[str, Any]]:
    return [
        _chart(
            f"scatter-{number}", "curves", "SCATTER", f"objective by {axis(study, name)}",
            xaxis={"key": axis(study, name), "type": "PARAM"}, yaxis={"key": "objective", "type": "METRIC"},
        )
        for number, name in enumerate(telling(study, used)[:SCATTERS])
    ]  # fmt: skip


def _table() -> dict[str, Any]:
    return _chart(
        "table", "trials", "DIFFERENCE", chartName="Trials", compareGroups=["Model metrics", "Parameters"],
        showChangeFromBaseline=False, showDifferencesOnly=False, baselineColumnUuid="",
    )  # fmt: skip


# Parameters -----------------------------------------------------------------------------------------------------------


def _used(study: Study) -> dict[str, frozenset[int]]:
    """The trials that each parameter is used by, in the order of asking; before any has an objective, those that the
    probe was asked for, by an imagined one. Without those that have no choice."""
    ranked = study.ranked()
    asked = [(trial.number, trial.parameters) for trial in ranked] or [(0, list(study.parameters))]
    used: dict[str, set[int]] = {}
    for number, parameters in asked:
        for parameter in parameters:
            if parameter.domain.size != 1:
                used.setdefault(parameter.name, set()).add(number)
    return {name: frozenset(trials) for name, trials in used.items()}


def _common(study: Study, used: Mapping[str, frozenset[int]]) -> list[str]:
    """The parameters that all trials have and that make an axis."""
    everyone = frozenset().union(*used.values())
    return [name for name in used if used[name] == everyone and _is_axis(study, name)]


def _further(study: Study, used: Mapping[str, frozenset[int]]) -> list[str]:
    """The parameters that the largest group of trials has which has more than `_common`."""
    everyone = frozenset().union(*used.values())
    groups = [used[name] for name in used if FEWEST <= len(used[name]) < len(everyone) and _is_axis(study, name)]
    largest = max(groups, key=len, default=everyone)
    found = [name for name in used if largest <= used[name] < everyone and _is_axis(study, name)]
    return sorted(found, key=lambda name: len(used[name]))  # that which all of the group have stands for it


def _varying(study: Study, names: Sequence[str], trials: frozenset[int]) -> list[str]:
    """Those of `names` that have more than one value in `trials`."""
    return [name for name in names if len({study.trials[number].params[name] for number in trials}) > 1]


def axis(study: Study, name: str) -> str:
    """The param that stands for the hyperparameter `name` on an axis: its `log10_…` where it was sampled in log."""
    domains = {
        parameter.domain.sampling
        for parameters in (study.parameters, *(trial.parameters for trial in study.trials.values()))
        for parameter in parameters
        if parameter.name == name
    }
    return layout.key(layout.LOG10 + name if domains == {"log"} else name)


def _is_axis(study: Study, name: str) -> bool:
    """Whether its values are all numbers, or none: of a mixture the UI leaves half of the runs out."""
    kinds = {_is_number(trial.params[name]) for trial in study.trials.values() if name in trial.params}
    return len(kinds) < 2


def _is_number(value: Value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def telling(study: Study, used: Mapping[str, frozenset[int]]) -> list[str]:
    """The parameters, those first that the objective depends on most; before any is known, those sampled in log."""
    ranked = study.ranked()
    if len(ranked) < FEWEST:
        return sorted(used, key=lambda name: not axis(study, name).startswith(layout.LOG10))
    strength = {name: _strength(name, [trial for trial in ranked if trial.number in used[name]]) for name in used}
    return sorted(used, key=lambda name: -strength[name])


def _strength(name: str, ranked: Sequence[Trial]) -> float:
    """How much of the order of `ranked`, best first, the parameter explains: ε² (Kelley 1935), at most 1.

    The trials are grouped by value, those of a number with many values into quarters: a number may matter though more
    is not better. ε² corrects the share of the ranks' variance between groups by the groups' number.
    """
    count = len(ranked)
    values = [trial.params[name] for trial in ranked]
    groups: dict[Any, list[int]] = {}
    if len(set(values)) > 4 and all(map(_is_number, values)):
        ordered = sorted(range(count), key=lambda rank: values[rank])  # type: ignore[arg-type,return-value]
        for place, rank in enumerate(ordered):
            groups.setdefault(4 * place // count, []).append(rank)
    else:
        for rank, value in enumerate(values):
            groups.setdefault(value, []).append(rank)
    if count < FEWEST or not 1 < len(groups) < count:
        return 0.0
    mean = (count - 1) / 2
    between = sum(len(group) * (sum(group) / len(group) - mean) ** 2 for group in groups.values())
    total = count * (count**2 - 1) / 12
    return 1 - (1 - between / total) * (count - 1) / (count - len(groups))
