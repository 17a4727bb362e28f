"""The removal of one study from MLflow: its runs, and its experiment if nothing else is in it.

MLflow marks what is deleted, and frees it with `mlflow gc`. Every call here may be repeated: runs are found by the
study's uid, so a removal that was killed is finished by the next one.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from search.tracking.mlflow import store, view
from search.tracking.mlflow.layout import STUDY_UID_TAG
from search.tracking.mlflow.retrieve import list_experiments
from search.tracking.mlflow.shipper import search_runs
from search.tracking.mlflow.store import Rejected

_EXPERIMENTS_PER_QUERY = 200


@dataclass(frozen=True, slots=True)
class StudyRuns:
    """The runs of one study in an MLflow store.

    Attributes:
        client: the store's `MlflowClient`.
        uid: the study's.
        run_ids: trials' runs first, the parent run last.
        experiments: the ids of their experiments.
        own: the id of the experiment that was made for the study, None if there is none.
        shared: the names of experiments that have other runs, too, or that somebody else made.
        models: the registered models that have a version of the study's, as `name version 1`.
    """

    client: Any = field(repr=False, compare=False)
    uid: str
    run_ids: tuple[str, ...]
    experiments: tuple[str, ...]
    own: str | None
    shared: tuple[str, ...]
    models: tuple[str, ...]

    @property
    def uri(self) -> str:
        """The tracking address, without user name and password."""
        return store.redact(self.client.tracking_uri)


def find_runs(client: Any, uid: str) -> StudyRuns:
    """Return the runs of the study `uid` in a store.

    Raises:
        TrackingRefused, Unavailable: see `store.connect`.
    """
    with store.translate_errors(client.tracking_uri, core=True):
        known = {str(item.experiment_id): item for item in list_experiments(client)}
        ids, found = list(known), []
        for start in range(0, len(ids), _EXPERIMENTS_PER_QUERY):
            condition = f"tags.`{STUDY_UID_TAG}` = '{uid}'"
            found += search_runs(client, ids[start : start + _EXPERIMENTS_PER_QUERY], condition)
        own = next((key for key, item in known.items() if item.tags.get(STUDY_UID_TAG) == uid), None)
        used = dict.fromkeys(str(run.info.experiment_id) for run in found)
        others = {key for key in [*used, *([own] if own else [])] if key != own or _has_others(client, key, uid)}
    found.sort(key=lambda run: run.data.tags.get("search.kind") == "study")
    return StudyRuns(
        client,
        uid,
        tuple(run.info.run_id for run in found),
        tuple(used),
        own if own not in others else None,
        tuple(known[key].name for key in sorted(others)),
        _registered(client, uid),
    )


def _has_others(client: Any, experiment: str, uid: str) -> bool:
    """Return whether an experiment has runs or models that are not of the study `uid`."""
    # A run without the tag is not found by `tags.… != …`.
    runs = search_runs(client, [experiment], "")
    return any(run.data.tags.get(STUDY_UID_TAG) != uid for run in runs) or any(
        model.tags.get(STUDY_UID_TAG) != uid for model in _models(client, [experiment])
    )


def _models(client: Any, experiments: list[str]) -> list[Any]:
    """Return the logged models in `experiments`; none if the server has no such models."""
    with suppress(Rejected), store.translate_errors(client.tracking_uri):
        return list(client.search_logged_models(experiments)) if experiments else []
    return []


def _versions(client: Any, uid: str) -> list[Any]:
    """Return the registered versions of the study `uid`; none if the server has no registry."""
    with suppress(Rejected), store.translate_errors(client.tracking_uri):
        return list(client.search_model_versions(f"tags.`{STUDY_UID_TAG}` = '{uid}'"))
    return []


def _registered(client: Any, uid: str) -> tuple[str, ...]:
    return tuple(f"{version.name} version {version.version}" for version in _versions(client, uid))


def delete_runs(runs: StudyRuns) -> list[str]:
    """Delete the runs, and the experiment that was made for the study unless it has anything else.

    An experiment with a registered version stays, as its files are the version's.

    Returns:
        Lines about what stays.

    Raises:
        TrackingRefused, Unavailable: MLflow answers no more; the next call finishes.
        Rejected: MLflow does not delete a run.
    """
    client = runs.client
    with store.translate_errors(client.tracking_uri, core=True):
        for run_id in runs.run_ids:
            client.delete_run(run_id)
    # A registered version is one of the logged models, and not every server says which.
    for model in _models(client, list(runs.experiments)) if not runs.models else ():
        if model.tags.get(STUDY_UID_TAG) == runs.uid:
            with suppress(Rejected), store.translate_errors(client.tracking_uri):
                client.delete_logged_model(model.model_id)
    lines = [f"registered model {model} stays" for model in runs.models]
    if runs.own is not None and not runs.models:
        with store.translate_errors(client.tracking_uri, core=True):
            client.delete_experiment(runs.own)
        return lines
    for experiment in runs.experiments:
        # Only newer servers can delete a tag. An empty page is no page.
        with suppress(Rejected, AttributeError), store.translate_errors(client.tracking_uri):
            client.delete_experiment_tag(experiment, view.page_tag(runs.uid))
    lines += [f"experiment {name} stays: it has other runs, or was made by others" for name in runs.shared]
    if runs.own is not None:
        lines.append("the study's experiment stays: it has the files of the registered model")
    return lines
