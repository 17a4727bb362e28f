"""The page that MLflow's UI opens for a study, in the UI's own format. Pure.

The UI keeps the state of a shared page in an experiment's tag `mlflow.sharedViewState.<key>`, as plain JSON. It reads
the tag if the address has `viewStateShareKey=<key>`. The state says which runs, columns and charts are shown, and in
which order. A study's page shows its trials, best first, and

- parallel coordinates of the parameters that all trials have in common, up to the objective,
- the learning curves of the objective's metric,
- the parameters with the most influence on the objective, each against it,
- for each branch of a conditional space, parallel coordinates of the branch's parameters: the UI omits a run that lacks
  one of a chart's parameters. `branches` finds the branches.
- the trials side by side. At the end of a search, the best one is pinned and is the baseline.

The UI's axes are linear, so a parameter that was sampled in log is shown by the param `log10_…` that `layout` adds.
A run's colour is a tag that `layout` sets by the epochs granted to the trial.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from search.space.domain import Value
from search.study.study import Study
from search.study.trials import Trial
from search.tracking.mlflow.branches import find_branches, varying
from search.tracking.mlflow.layout import BEST_TAG, LOG10_PREFIX, STUDY_UID_TAG, TEST_PREFIX, clean_key

MAX_CHARACTERS = 5000
"""Characters of an experiment's tag that every server accepts. MLflow 3.17 itself accepts 20,000."""

SCATTER_CHARTS = 3
"""The number of parameters that are shown against the objective: with the curve, they fill two columns."""

MIN_TRIALS = 5
"""The fewest trials for a chart, and for an estimate of a parameter's influence."""


def _page_key(uid: str) -> str:
    # Several studies may share an experiment.
    return f"search-{uid}"


def page_tag(uid: str) -> str:
    """Return the name of the experiment's tag that has the page of the study `uid`."""
    return f"mlflow.sharedViewState.{_page_key(uid)}"


def page_address(experiment_id: str, uid: str) -> str:
    """Return the address of the page of the study `uid`, relative to the server's address."""
    query = f"workflowType=machine_learning&viewStateShareKey={_page_key(uid)}&compareRunsMode=CHART"
    return f"#/experiments/{experiment_id}/runs?{query}"


def trials_filter(uid: str) -> str:
    """Return MLflow's filter for the trials of the study `uid`, without its parent run."""
    return f"tags.`{STUDY_UID_TAG}` = '{uid}' and tags.`search.kind` = 'trial'"


def make_page(study: Study, run_ids: Mapping[int, str] | None = None) -> str:
    """Return the page of `study`: JSON of at most `MAX_CHARACTERS` characters, the value of the tag.

    If not all parameters fit, the least used ones are omitted.

    Args:
        run_ids: the MLflow run of each trial, as far as they are known.
    """
    used = _used(study)
    best = (run_ids or {}).get(study.best.number, "") if study.best is not None and study.end is not None else ""
    while True:
        text = json.dumps(_page(study, used, best), ensure_ascii=False, separators=(",", ":"))
        if len(text) <= MAX_CHARACTERS or not used:
            return text
        least = min(map(len, used.values()))
        used.pop([name for name, trials in used.items() if len(trials) == least][-1])


def _page(study: Study, used: Mapping[str, frozenset[int]], best: str) -> dict[str, Any]:
    """Return the state of the page.

    Args:
        used: the parameters to show, each with the numbers of the trials that use it.
        best: the best trial's run, "" while the search may find another.
    """
    common = _common(study, used)
    charts = [_parallel(study, "common", common)] if common else []
    charts += [_curve(study), *_scatters(study, used)]
    branches = find_branches(study, used, lambda name: _is_axis(study, name))
    for number, branch in enumerate(branches):
        names = [*varying(study, common, branch.trials), *branch.names]
        charts.append(_parallel(study, f"branch-{number}", names))
    return {
        "searchFilter": trials_filter(study.uid),
        "orderByKey": "metrics.`objective`",
        "orderByAsc": study.objective.direction == "min",
        "selectedColumns": _columns(study, used),
        "runsHiddenMode": "SHOW_ALL",
        "isAccordionReordered": True,  # else the UI sorts sections by name
        **({"runsPinned": [best]} if best else {}),
        "compareRunSections": [
            # The UI cuts names after some 27 characters.
            _section("common", "Parameters and objective", columns=1),
            _section("curves", "Curves, and what matters", columns=2),
            *(_section(f"branch-{i}", each.label, columns=1) for i, each in enumerate(branches)),
            _section("trials", "Trials side by side, best first", columns=1, height=480),
            # The UI puts a chart of every other metric here.
            {**_section("others", "Model metrics", columns=3), "display": False},
        ],
        "compareRunCharts": [*charts, _table(best)],
    }


def _columns(study: Study, used: Mapping[str, frozenset[int]]) -> list[str]:
    """Return the columns of the table of runs."""
    tests = sorted(
        {name for trial in study.trials.values() if trial.best.tested is not None for name in trial.best.tested.logs}
    )
    return [
        f"tags.`{BEST_TAG}`",
        *("metrics.`objective`", "metrics.`best_epoch`", "metrics.`last_epoch`"),
        *(f"metrics.`{clean_key(TEST_PREFIX + name)}`" for name in tests),
        *(f"params.`{clean_key(name)}`" for name in used),
        "tags.`search.state`",
    ]


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
    params = [axis_param(study, name) for name in names]
    return _chart(section, section, "PARALLEL", selectedParams=params, selectedMetrics=["objective"], showAllRuns=True)


def _curve(study: Study) -> dict[str, Any]:
    metric = clean_key(study.objective.name)
    return _chart(
        "curve", "curves", "LINE", f"{metric} by epoch", metricKey=metric, selectedMetricKeys=[metric], xAxisKey="step",
        xAxisScaleType="linear", scaleType="linear", useGlobalXaxisKey=True, lineSmoothness=0,
    )  # fmt: skip


def _scatters(study: Study, used: Mapping[str, frozenset[int]]) -> list[dict[str, Any]]:
    return [
        _chart(
            f"scatter-{number}", "curves", "SCATTER", f"objective by {axis_param(study, name)}",
            xaxis={"key": axis_param(study, name), "type": "PARAM"}, yaxis={"key": "objective", "type": "METRIC"},
        )
        for number, name in enumerate(rank_by_influence(study, used)[:SCATTER_CHARTS])
    ]  # fmt: skip


def _table(best: str) -> dict[str, Any]:
    return _chart(
        "table", "trials", "DIFFERENCE", chartName="Trials", compareGroups=["Model metrics", "Parameters"],
        showChangeFromBaseline=False, showDifferencesOnly=False, baselineColumnUuid=best,
    )  # fmt: skip


# Parameters -----------------------------------------------------------------------------------------------------------


def _used(study: Study) -> dict[str, frozenset[int]]:
    """Return the parameters in the order of asking, each with the numbers of the trials that use it.

    Parameters with a single value are omitted. Before any trial has an objective, the parameters are those of the
    probe, used by a trial 0.
    """
    ranked = study.ranked()
    parameters_of = [(trial.number, trial.parameters) for trial in ranked] or [(0, list(study.parameters))]
    used: dict[str, set[int]] = {}
    for number, parameters in parameters_of:
        for parameter in parameters:
            if parameter.domain.size != 1:
                used.setdefault(parameter.name, set()).add(number)
    return {name: frozenset(trials) for name, trials in used.items()}


def _common(study: Study, used: Mapping[str, frozenset[int]]) -> list[str]:
    """Return the parameters that all trials have and that can be an axis."""
    all_trials = frozenset().union(*used.values())
    return [name for name in used if used[name] == all_trials and _is_axis(study, name)]


def axis_param(study: Study, name: str) -> str:
    """Return the MLflow param that shows the parameter `name` on an axis: its `log10_…` if it was sampled in log."""
    domains = {
        parameter.domain.sampling
        for parameters in (study.parameters, *(trial.parameters for trial in study.trials.values()))
        for parameter in parameters
        if parameter.name == name
    }
    return clean_key(LOG10_PREFIX + name if domains == {"log"} else name)


def _is_axis(study: Study, name: str) -> bool:
    """Return whether the values of `name` are all numbers, or all not: the UI omits half of the runs of a mixture."""
    kinds = {_is_number(trial.params[name]) for trial in study.trials.values() if name in trial.params}
    return len(kinds) < 2


def _is_number(value: Value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def rank_by_influence(study: Study, used: Mapping[str, frozenset[int]]) -> list[str]:
    """Return the parameters by their influence on the objective, the strongest first.

    With fewer than `MIN_TRIALS` trials, the parameters that are sampled in log come first.

    Args:
        used: the parameters' names, each with the numbers of the trials that use it.
    """
    ranked = study.ranked()
    if len(ranked) < MIN_TRIALS:
        return sorted(used, key=lambda name: not axis_param(study, name).startswith(LOG10_PREFIX))
    influence = {name: _influence(name, [trial for trial in ranked if trial.number in used[name]]) for name in used}
    return sorted(used, key=lambda name: -influence[name])


def _influence(name: str, ranked: Sequence[Trial]) -> float:
    """Return how much of the order of `ranked`, best first, a parameter explains: ε² (Kelley 1935), at most 1.

    ε² is the share of the ranks' variance between groups, corrected by the number of groups. The trials are grouped by
    value. A number with many values is grouped into quarters: it may have influence though more is not better.
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
    if count < MIN_TRIALS or not 1 < len(groups) < count:
        return 0.0
    mean = (count - 1) / 2
    between = sum(len(group) * (sum(group) / len(group) - mean) ** 2 for group in groups.values())
    total = count * (count**2 - 1) / 12
    return 1 - (1 - between / total) * (count - 1) / (count - len(groups))
