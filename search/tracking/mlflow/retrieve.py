"""Studies, trials and weights from MLflow alone. Nothing here reads a study's folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from search.errors import StudyError, nearest
from search.space.domain import Value
from search.study.trial import Direction, Objective
from search.tracking.mlflow import store, view
from search.tracking.mlflow.layout import LOG10_PREFIX, MODEL_TAG, STUDY_UID_TAG
from search.tracking.mlflow.shipper import search_runs

_EXPERIMENTS_PER_QUERY = 200


@dataclass(frozen=True, slots=True)
class RemoteStudy:
    """A study, as recorded in MLflow.

    Attributes:
        client: the store's `MlflowClient`.
        run_id: the parent run.
        experiment: the experiment's name.
        best: the best objective so far, None if there is none.
        started: seconds since the epoch.
        replaces: the uid of the study that this one overwrote, "" for none.
    """

    client: Any = field(repr=False, compare=False)
    uid: str
    name: str
    run_id: str
    experiment_id: str
    experiment: str
    objective: Objective
    digest: str
    user: str
    backend: str
    state: str
    best: float | None
    started: float
    replaces: str = ""

    @property
    def uri(self) -> str:
        """The tracking address, without user name and password."""
        return store.redact(self.client.tracking_uri)

    @property
    def is_local(self) -> bool:
        """True if the store is a database file on this machine, so that its code may be trusted."""
        return store.local_database(self.client.tracking_uri) is not None


@dataclass(frozen=True, slots=True)
class RemoteTrial:
    """A trial, as recorded in MLflow.

    Attributes:
        params: the values with the factory's types; as text if there are too many for a tag.
        objective, best_epoch: None if there is no objective.
        epochs: None if they are unknown.
        logs: the last value of each metric.
        model_epoch: the epoch whose weights are in MLflow, None if none are.
    """

    number: int
    run_id: str
    params: Mapping[str, Value]
    objective: float | None
    best_epoch: int | None
    epochs: int | None
    state: str
    seed: int | None
    logs: Mapping[str, float]
    tags: Mapping[str, str]
    model_epoch: int | None


def list_remote_studies(client: Any) -> list[RemoteStudy]:
    """Return all studies in the store, the newest first."""
    with store.translate_errors(client.tracking_uri):
        names = {item.experiment_id: item.name for item in list_experiments(client)}
        ids = list(names)
        found = []
        for start in range(0, len(ids), _EXPERIMENTS_PER_QUERY):
            found += search_runs(client, ids[start : start + _EXPERIMENTS_PER_QUERY], "tags.`search.kind` = 'study'")
    known = [_study(client, run, names[run.info.experiment_id]) for run in found]
    return sorted(known, key=lambda study: study.started, reverse=True)


def find_remote_study(client: Any, name: str) -> RemoteStudy:
    """Return the study with the uid, the name or the experiment `name`.

    Raises:
        StudyError: there is none, or there are several; the message lists them.
    """
    known = list_remote_studies(client)
    where = f"MLflow at {store.redact(client.tracking_uri)}"
    matches = [study for study in known if study.uid == name]
    replaced = {study.replaces for study in known}
    current = [study for study in known if study.uid not in replaced]
    matches = matches or [study for study in current if study.name == name]
    matches = matches or [study for study in current if study.experiment == name]
    if len(matches) == 1:
        return matches[0]
    if matches:
        listed = ", ".join(
            f"{study.uid} (by {study.user or 'unknown'}, best {_number(study.best)})" for study in matches
        )
        raise StudyError(f"{where} has {len(matches)} studies {name!r}: give the uid of one: {listed}")
    names = list(dict.fromkeys(study.name for study in known))
    listed = f"it has {', '.join(names[:20])}{', …' if len(names) > 20 else ''}" if names else "it has none at all"
    raise StudyError(f"{where} has no study {name!r}: {listed}.{nearest(name, names)}")


def has_page(study: RemoteStudy) -> bool:
    """Return whether the study's experiment has the page that `view` makes."""
    with store.translate_errors(study.client.tracking_uri):
        experiment = study.client.get_experiment(study.experiment_id)
    return view.page_tag(study.uid) in experiment.tags


def list_remote_trials(study: RemoteStudy) -> list[RemoteTrial]:
    """Return the study's trials, by number."""
    with store.translate_errors(study.client.tracking_uri):
        found = search_runs(study.client, [study.experiment_id], view.trials_filter(study.uid))
    return sorted((_trial(run) for run in found), key=lambda trial: trial.number)


def rank_remote_trials(study: RemoteStudy) -> list[RemoteTrial]:
    """Return the trials that have an objective and did not fail, best first; of two equals the older one first."""
    found = [trial for trial in list_remote_trials(study) if trial.objective is not None and trial.state != "failed"]
    return sorted(found, key=lambda trial: (study.objective.cost(trial.objective), trial.number))


def download_weights(study: RemoteStudy, trial: RemoteTrial, folder: str | Path) -> tuple[Path, dict[str, Any]]:
    """Download a trial's best weights to `folder`. Return the path of `weights.npz`, and the content of `trial.json`.

    Raises:
        StudyError: MLflow has no weights of the trial.
    """
    if trial.model_epoch is None:
        raise StudyError(
            f"MLflow holds no weights of trial {trial.number} of study {study.name!r}: only of the best --keep-models"
        )
    target = _download(study, trial.run_id, "model", folder)
    weights, description = target / "weights.npz", target / "trial.json"
    if not (weights.is_file() and description.is_file()):
        raise StudyError(f"the weights of trial {trial.number} of study {study.name!r} are incomplete in MLflow")
    data: dict[str, Any] = json.loads(description.read_text())
    return weights, data


def download_space(study: RemoteStudy, folder: str | Path) -> Path:
    """Download the space file and the modules that it imports to `folder`. Return the path of the space file.

    Raises:
        StudyError: MLflow has no space file, or an unsafe name of it.
    """
    name = str(describe_remote_study(study)["space"])
    # A server must not name a file elsewhere.
    if PurePosixPath(name).name != name or name in ("", ".", ".."):
        raise StudyError(f"study {study.name!r} names {name!r} as its space file, which is no plain file name")
    space = _download(study, study.run_id, "space", folder) / name
    if not space.is_file():
        raise StudyError(f"MLflow holds no space file {name!r} of study {study.name!r}")
    return space


def describe_remote_study(study: RemoteStudy) -> dict[str, Any]:
    """Return the content of `study.json`; see `files.describe_study`."""
    with TemporaryDirectory() as folder:
        data: dict[str, Any] = json.loads(_download(study, study.run_id, "study.json", folder).read_text())
    return data


def _download(study: RemoteStudy, run_id: str, path: str, folder: str | Path) -> Path:
    """Download the artifact `path` of a run to `folder`. Raise StudyError if there is none."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    try:
        with store.translate_errors(study.client.tracking_uri):
            repository = store.run_artifacts(study.client, study.client.get_run(run_id))
            return Path(repository.download_artifacts(path, str(target)))
    except store.Rejected as error:
        raise StudyError(f"MLflow has no {path!r} for study {study.name!r}: {error}") from None


def list_experiments(client: Any) -> list[Any]:
    """Return all experiments of the store that are not deleted."""
    found: list[Any] = []
    token = None
    while True:
        page = client.search_experiments(page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _study(client: Any, run: Any, experiment: str) -> RemoteStudy:
    tags = run.data.tags
    direction: Direction = "max" if tags.get("search.direction") == "max" else "min"
    return RemoteStudy(
        client=client,
        uid=tags[STUDY_UID_TAG],
        name=tags.get("search.study", run.info.run_name),
        run_id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        experiment=experiment,
        objective=Objective(tags.get("search.objective", ""), direction),
        digest=tags.get("search.digest", ""),
        user=tags.get("mlflow.user", ""),
        backend=tags.get("search.backend", ""),
        state=tags.get("search.state", ""),
        best=run.data.metrics.get("objective"),
        started=run.info.start_time / 1000,
        replaces=tags.get("search.replaces", ""),
    )


def _trial(run: Any) -> RemoteTrial:
    tags, logs = run.data.tags, run.data.metrics
    objective = logs.get("objective")
    typed = tags.get("search.params")
    return RemoteTrial(
        number=int(tags["search.trial"]),
        run_id=run.info.run_id,
        params=json.loads(typed) if typed else _without_logarithms(run.data.params),
        objective=objective if objective is not None and math.isfinite(objective) else None,
        best_epoch=int(logs["best_epoch"]) if "best_epoch" in logs else None,
        epochs=int(tags["search.epochs"]) if "search.epochs" in tags else None,
        state=tags.get("search.state", ""),
        seed=int(tags["search.seed"]) if "search.seed" in tags else None,
        logs=dict(logs),
        tags=dict(tags),
        model_epoch=int(tags[MODEL_TAG]) if tags.get(MODEL_TAG) else None,
    )


def _without_logarithms(params: Mapping[str, str]) -> dict[str, str]:
    """Return a trial's params without the logarithms that `layout` added."""
    derived = {f"{LOG10_PREFIX}{name}" for name in params}
    return {name: text for name, text in params.items() if name not in derived}


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"
