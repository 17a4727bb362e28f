"""Tells MLflow: the experiment, the runs, batches of changes, and the artifacts. Every call here may be repeated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from search.study.paths import StudyPaths, local_artifacts
from search.tracking.mlflow import files, layout, store, view
from search.tracking.mlflow.files import Weights
from search.tracking.mlflow.layout import PARENT, STUDY_UID, Change, Projection, Run
from search.tracking.mlflow.position import Position
from search.tracking.mlflow.store import Rejected
from search.tracking.mlflow.winner import WinnerShipper

_PAGE = 1000


class Shipper:
    """One study's way to one MLflow store.

    Args:
        client: from `store.connect`.
        paths: the study's files.
        projection: of the study's journal; read for what runs are created with.
        position: what is known of the runs; kept up to date here, saved by the caller.
        experiment: the name the user gave, None for the study's name.
        register: the registered model's name that the user gave; see `WinnerShipper`.
    """

    def __init__(
        self,
        client: Any,
        paths: StudyPaths,
        projection: Projection,
        position: Position,
        experiment: str | None,
        register: str | None,
    ) -> None:
        self._client = client
        self._paths = paths
        self._projection = projection
        self._position = position
        self._experiment = experiment
        self._winner = WinnerShipper(client, paths, projection, position, register)
        self._parameters: set[str] | None = None
        self._looked = False
        # An earlier process may have been killed while it waited for a run to be made.
        self._uncertain = True

    def holds(self) -> bool:
        """Whether the parent run that the position speaks of is in the store."""
        if self._position.run_id is None:
            return False
        try:
            with store.translated(self._client.tracking_uri, core=True):
                run = self._client.get_run(self._position.run_id)
        except Rejected:
            return False
        return bool(run.info.lifecycle_stage == "active")

    def reach(self) -> None:
        """Ask MLflow for what it always has. Unavailable where it does not answer, or something else does."""
        with store.translated(self._client.tracking_uri, core=True):
            self._client.search_experiments(max_results=1)

    # Runs ---------------------------------------------------------------------------------------------------------

    def ship(self, run: Run, change: Change) -> None:
        """Tell one run what it must be told."""
        from mlflow.entities import Metric, Param, RunTag

        with store.translated(self._client.tracking_uri, core=True):
            run_id = self._run_id(run)
            for points, params, tags in change.batches():
                self._client.log_batch(
                    run_id,
                    metrics=[Metric(*point) for point in points],
                    params=[Param(name, value) for name, value in params.items()],
                    tags=[RunTag(name, value) for name, value in tags.items()],
                    synchronous=True,
                )
            if change.status == "RUNNING":
                self._client.update_run(run_id, status="RUNNING")
            elif change.status is not None:
                self._client.set_terminated(run_id, change.status, end_time=change.time)

    def settle(self) -> None:
        """Delete the runs that a request whose answer was lost may have made twice."""
        if self._uncertain and self._position.experiment_id is not None:
            with store.translated(self._client.tracking_uri, core=True):
                self._look(self._position.experiment_id)
            self._uncertain = False

    def _run_id(self, run: Run) -> str:
        """The id of `run`, which is looked for by its tags before it is made."""
        experiment = self._position.experiment_id
        if experiment is None:
            experiment = self._position.experiment_id = self._find_experiment()
        found = self._known(run)
        if found is None and not self._looked:
            self._look(experiment)
            found = self._known(run)
        return found or self._create(experiment, run)

    def _known(self, run: Run) -> str | None:
        return self._position.run_id if run is None else self._position.trials.get(run)

    def _create(self, experiment: str, run: Run) -> str:
        birth = self._projection.birth(run)
        tags = dict(birth.tags)
        if run is not None:
            tags["mlflow.parentRunId"] = self._run_id(PARENT)
        try:
            info = self._client.create_run(experiment, start_time=birth.time, tags=tags, run_name=birth.name).info
        except Exception:
            # The run may have been made, or may yet be: look before the next attempt, and once more at the end.
            self._looked, self._uncertain = False, True
            raise
        made: str = info.run_id
        self._learn(run, made)
        return made

    def _learn(self, run: Run, run_id: str) -> None:
        if run is None:
            self._position.run_id = run_id
        else:
            self._position.trials[run] = run_id

    def _look(self, experiment: str) -> None:
        """Find the study's runs by their tags; of two that are one, keep that which is known or has been told more."""
        found = search_runs(self._client, [experiment], f"tags.`{STUDY_UID}` = '{self._projection.study.uid}'")
        known = {self._position.run_id, *self._position.trials.values()}
        found.sort(key=lambda run: (run.info.run_id in known, len(run.data.metrics), len(run.data.tags)), reverse=True)
        seen: set[Run] = set()
        for item in found:
            tags = item.data.tags
            run = PARENT if tags.get("search.kind") == "study" else int(tags["search.trial"])
            if run in seen:
                self._client.delete_run(item.info.run_id)
                continue
            seen.add(run)
            self._learn(run, item.info.run_id)
            if run is not None and tags.get(layout.MODEL):
                self._position.models.setdefault(run, int(tags[layout.MODEL]))
        self._looked = True

    # Experiments --------------------------------------------------------------------------------------------------

    def _find_experiment(self) -> str:
        """The id of the study's experiment.

        It is the one tagged with the study's uid. Else one is made under the study's name, or the name the user gave;
        if that is taken, under the name and the uid's first letters. An experiment that the user *named* and that no
        study owns (it was made in MLflow itself) is joined instead: so several studies share one on purpose only.
        """
        study = self._projection.study
        owned = self._owned()
        if owned is not None:
            return owned
        name = self._experiment or study.name
        for candidate in (name, f"{name}-{study.uid[:6]}", f"{name}-{study.uid}"):
            found = self._client.get_experiment_by_name(candidate)
            if found is None:
                made = self._make_experiment(candidate) or self._owned()
                if made is None:
                    continue
                return made
            if found.lifecycle_stage == "active" and self._experiment == candidate and STUDY_UID not in found.tags:
                return str(found.experiment_id)
        raise Rejected(f"the experiment {name!r} is taken or deleted: give --experiment another name")

    def _owned(self) -> str | None:
        """The id of the experiment that has the study's tag."""
        found = self._client.search_experiments(filter_string=f"tags.`{STUDY_UID}` = '{self._projection.study.uid}'")
        return str(found[0].experiment_id) if found else None

    def _make_experiment(self, name: str) -> str | None:
        """The id of a new experiment; None where there is one of that name by now, be it by a late request of ours."""
        from mlflow.exceptions import MlflowException

        study = self._projection.study
        root = None
        uri = self._client.tracking_uri
        if not uri.startswith(("http", "databricks")):
            # A database without a server would put artifacts into the current folder.
            file = store.local_database(uri)
            base = store.artifact_root(file) if file else local_artifacts(self._paths.folder.parent)
            root = str(base / f"{study.name}-{study.uid[:6]}")
        try:
            return str(self._client.create_experiment(name, artifact_location=root, tags={STUDY_UID: study.uid}))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return None

    # Artifacts ----------------------------------------------------------------------------------------------------

    def ship_space(self) -> None:
        """Put the space file, the local modules beside it and `study.json` with the parent run, where they changed."""
        study, folder = self._projection.study, self._paths.space
        if self._position.space == study.digest or not folder.is_dir():
            return
        with store.translated(self._client.tracking_uri):
            repository = self._artifacts(self._run_id(PARENT))
            for file in sorted(folder.rglob("*")):
                if file.is_file() and "__pycache__" not in file.parts:
                    repository.log_artifact(str(file), str(Path("space", file.relative_to(folder).parent)))
            _log_json(repository, files.study_json(study, self._space_file()), "study.json")
        self._position.space = study.digest

    def _space_file(self) -> str:
        header = self._projection.study.header
        assert header is not None
        name = Path(header.source).name
        return name if (self._paths.space / name).is_file() else self._paths.pickle.name

    def ship_models(self, keep: int) -> None:
        """Make the best `keep` trials' runs hold their weights, and the others none."""
        study, models = self._projection.study, self._position.models
        wanted = {weights.trial: weights for weights in files.wanted(study, keep)}
        with store.translated(self._client.tracking_uri):
            for trial, weights in wanted.items():
                if models.get(trial) != weights.epoch:
                    self._put_model(weights)
            for trial in [trial for trial in models if trial not in wanted]:
                self._drop_model(trial)

    def _put_model(self, weights: Weights) -> None:
        file = self._paths.trial(weights.trial).best(weights.execution)
        run_id = self._run_id(weights.trial)
        with TemporaryDirectory() as folder:
            copy = Path(folder, "weights.npz")
            try:
                copy.symlink_to(file.resolve(strict=True))
            except FileNotFoundError:
                return  # cleaned away: what is there stays
            repository = self._artifacts(run_id)
            repository.log_artifact(str(copy), "model")
            _log_json(repository, files.trial_json(self._projection.study, weights), "trial.json", "model")
        self._client.set_tag(run_id, layout.MODEL, str(weights.epoch))
        self._position.models[weights.trial] = weights.epoch

    def _drop_model(self, trial: int) -> None:
        run_id = self._run_id(trial)
        self._client.set_tag(run_id, layout.MODEL, "")
        del self._position.models[trial]
        try:
            self._artifacts(run_id).delete_artifacts("model")
        except Exception:
            return  # not every artifact store can delete; without the tag nobody takes them for a best model

    def ship_winner(self) -> None:
        """Make the parent run hold the winner as a model, and register it; see `WinnerShipper`."""
        if self._projection.study.exported is not None:
            self._winner.ship(self._run_id(PARENT))

    def ship_page(self) -> None:
        """Give the experiment the page of the study's trials: at first, where there are new parameters, and at the
        end."""
        study = self._projection.study
        used = {name for trial in study.trials.values() for name in trial.params}
        if self._parameters == used and study.end is None:
            return
        self._parameters = used
        text = view.state(study)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        if self._position.page == digest:
            return
        with store.translated(self._client.tracking_uri):
            self._run_id(PARENT)
            self._client.set_experiment_tag(self._position.experiment_id, view.TAG + view.key(study.uid), text)
        self._position.page = digest

    def _artifacts(self, run_id: str) -> Any:
        return store.artifacts(self._client, self._client.get_run(run_id))


def search_runs(client: Any, experiments: list[str], condition: str) -> list[Any]:
    """All runs in `experiments` that fulfil `condition`, page by page."""
    found: list[Any] = []
    token = None
    while True:
        page = client.search_runs(experiments, condition, max_results=_PAGE, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _log_json(repository: Any, data: Mapping[str, Any], name: str, folder: str | None = None) -> None:
    with TemporaryDirectory() as work:
        file = Path(work, name)
        file.write_text(json.dumps(data, indent=2, ensure_ascii=False))
        repository.log_artifact(str(file), folder)
