"""Requests to MLflow for the experiment, runs, changes and artifacts. Every call here may be repeated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from search.study.paths import StudyPaths, local_artifacts
from search.tracking.mlflow import files, store, view
from search.tracking.mlflow.changes import Change, LogRequest
from search.tracking.mlflow.files import TrialWeights
from search.tracking.mlflow.layout import MODEL_TAG, PARENT, STUDY_UID_TAG, Projection, RunKey
from search.tracking.mlflow.position import Position
from search.tracking.mlflow.refusals import Refusal
from search.tracking.mlflow.store import Rejected
from search.tracking.mlflow.winner import WinnerShipper

_PAGE = 1000

_MOST_PIECES = 20
"""The refused pieces of a change after which it is divided no further: each one costs several requests."""


class Shipper:
    """The runs and artifacts of one study in one MLflow store.

    Args:
        client: from `store.connect`.
        paths: the study's files.
        projection: the projection of the study's journal, with which new runs are created.
        position: the known runs; kept up to date here, saved by the caller.
        experiment: the experiment's name that the user gave, None for the study's name.
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
        self._page_parameters: set[str] | None = None
        self._has_searched = False
        # A request of an earlier process that was killed may still create a run.
        self._may_have_duplicates = True

    def has_study(self) -> bool:
        """Return whether the store has the position's parent run."""
        if self._position.run_id is None:
            return False
        try:
            with store.translate_errors(self._client.tracking_uri, core=True):
                run = self._client.get_run(self._position.run_id)
        except Rejected:
            return False
        return bool(run.info.lifecycle_stage == "active")

    def check_reachable(self) -> None:
        """Send a request that every MLflow accepts. Raise Unavailable if MLflow does not answer it."""
        with store.translate_errors(self._client.tracking_uri, core=True):
            self._client.search_experiments(max_results=1)

    # Runs ---------------------------------------------------------------------------------------------------------

    def ship(self, run: RunKey, change: Change, *, apart: bool = False) -> Refusal | None:
        """Send `change` to `run`, which is created if it is new. Return the part that MLflow refuses, if any.

        Args:
            apart: send a request that is refused in pieces, so that what is not refused arrives.
        """
        try:
            with store.translate_errors(self._client.tracking_uri, core=True):
                run_id = self._run_id(run)
        except Rejected as error:
            return Refusal(change, str(error))
        found: list[tuple[LogRequest, str]] = []
        for request in change.requests():
            self._log(run_id, request, found, apart=apart)
        refused = Change(time=change.time)
        for request, _ in found:
            refused.merge(Change(request.points, request.params, request.tags))
        reason = found[-1][1] if found else ""  # the last one stands for all
        try:
            self._set_status(run_id, change)
        except Rejected as error:
            refused.status, reason = change.status, str(error)
        return Refusal(refused, reason, self._is_deleted(run_id)) if refused.size else None

    def _log(self, run_id: str, request: LogRequest, refused: list[tuple[LogRequest, str]], *, apart: bool) -> None:
        """Send a request, and add to `refused` what MLflow refuses of it."""
        from mlflow.entities import Metric, Param, RunTag

        try:
            with store.translate_errors(self._client.tracking_uri, core=True):
                self._client.log_batch(
                    run_id,
                    metrics=[Metric(*point) for point in request.points],
                    params=[Param(name, value) for name, value in request.params.items()],
                    tags=[RunTag(name, value) for name, value in request.tags.items()],
                    synchronous=True,
                )
        except Rejected as error:
            halves = request.halves() if apart and len(refused) < _MOST_PIECES else ()
            for half in halves:
                self._log(run_id, half, refused, apart=True)
            if not halves:
                refused.append((request, str(error)))

    def _set_status(self, run_id: str, change: Change) -> None:
        with store.translate_errors(self._client.tracking_uri, core=True):
            if change.status == "RUNNING":
                self._client.update_run(run_id, status="RUNNING")
            elif change.status is not None:
                self._client.set_terminated(run_id, change.status, end_time=change.time)

    def _is_deleted(self, run_id: str) -> bool:
        try:
            with store.translate_errors(self._client.tracking_uri, core=True):
                return bool(self._client.get_run(run_id).info.lifecycle_stage != "active")
        except Rejected:
            return False

    def delete_duplicates(self) -> None:
        """Delete runs that exist twice: a request may be carried out after its answer was given up."""
        if self._may_have_duplicates and self._position.experiment_id is not None:
            with store.translate_errors(self._client.tracking_uri, core=True):
                self._find_runs(self._position.experiment_id)
            self._may_have_duplicates = False

    def _run_id(self, run: RunKey) -> str:
        """Return the id of `run`. A run that is not known is searched by its tags, and created if it is missing."""
        experiment = self._position.experiment_id
        if experiment is None:
            experiment = self._position.experiment_id = self._find_experiment()
        found = self._known(run)
        if found is None and not self._has_searched:
            self._find_runs(experiment)
            found = self._known(run)
        return found or self._create(experiment, run)

    def _known(self, run: RunKey) -> str | None:
        return self._position.run_id if run is None else self._position.trials.get(run)

    def _create(self, experiment: str, run: RunKey) -> str:
        new = self._projection.new_run(run)
        tags = dict(new.tags)
        if run is not None:
            tags["mlflow.parentRunId"] = self._run_id(PARENT)
        try:
            info = self._client.create_run(experiment, start_time=new.time, tags=tags, run_name=new.name).info
        except Exception:
            # The request may still be carried out: search before the next attempt, and once more at the end.
            self._has_searched, self._may_have_duplicates = False, True
            raise
        run_id: str = info.run_id
        self._note(run, run_id)
        return run_id

    def _note(self, run: RunKey, run_id: str) -> None:
        if run is None:
            self._position.run_id = run_id
        else:
            self._position.trials[run] = run_id

    def _find_runs(self, experiment: str) -> None:
        """Note the study's runs, which are searched by their tags, and delete duplicates.

        Of two runs of one trial the known one stays, else the one with more metrics and tags.
        """
        found = search_runs(self._client, [experiment], f"tags.`{STUDY_UID_TAG}` = '{self._projection.study.uid}'")
        known = {self._position.run_id, *self._position.trials.values()}
        found.sort(key=lambda run: (run.info.run_id in known, len(run.data.metrics), len(run.data.tags)), reverse=True)
        seen: set[RunKey] = set()
        for item in found:
            tags = item.data.tags
            run = PARENT if tags.get("search.kind") == "study" else int(tags["search.trial"])
            if run in seen:
                self._client.delete_run(item.info.run_id)
                continue
            seen.add(run)
            self._note(run, item.info.run_id)
            if run is not None and tags.get(MODEL_TAG):
                self._position.models.setdefault(run, int(tags[MODEL_TAG]))
        self._has_searched = True

    # Experiments --------------------------------------------------------------------------------------------------

    def _find_experiment(self) -> str:
        """Return the id of the study's experiment, which is created if it is missing.

        The study's experiment is the one tagged with its uid. A new experiment has the name that the user gave, or else
        the study's name; if the name is taken, the first letters of the uid follow. An experiment with the name that
        the user gave, which no study owns (it was made in MLflow itself), is used as it is: so several studies share an
        experiment on purpose only.
        """
        study = self._projection.study
        owned = self._owned()
        if owned is not None:
            return owned
        name = self._experiment or study.name
        for candidate in (name, f"{name}-{study.uid[:6]}", f"{name}-{study.uid}"):
            found = self._client.get_experiment_by_name(candidate)
            if found is None:
                created = self._create_experiment(candidate) or self._owned()
                if created is None:
                    continue
                return created
            if found.lifecycle_stage == "active" and self._experiment == candidate and STUDY_UID_TAG not in found.tags:
                return str(found.experiment_id)
        raise Rejected(f"the experiment {name!r} is taken or deleted: give --experiment another name")

    def _owned(self) -> str | None:
        """Return the id of the experiment that is tagged with the study's uid, if any."""
        uid = self._projection.study.uid
        found = self._client.search_experiments(filter_string=f"tags.`{STUDY_UID_TAG}` = '{uid}'")
        return str(found[0].experiment_id) if found else None

    def _create_experiment(self, name: str) -> str | None:
        """Return the id of a new experiment, or None if one of that name exists by now.

        A late request of our own may have created that one.
        """
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
            return str(self._client.create_experiment(name, artifact_location=root, tags={STUDY_UID_TAG: study.uid}))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return None

    # Artifacts ----------------------------------------------------------------------------------------------------

    def ship_space(self) -> None:
        """Upload the space file, the local modules beside it and `study.json` to the parent run, if they changed."""
        study, folder = self._projection.study, self._paths.space
        if self._position.space == study.digest or not folder.is_dir():
            return
        with store.translate_errors(self._client.tracking_uri):
            repository = self._artifacts(self._run_id(PARENT))
            for file in sorted(folder.rglob("*")):
                if file.is_file() and "__pycache__" not in file.parts:
                    repository.log_artifact(str(file), str(Path("space", file.relative_to(folder).parent)))
            _log_json(repository, files.describe_study(study, self._space_file()), "study.json")
        self._position.space = study.digest

    def _space_file(self) -> str:
        header = self._projection.study.header
        assert header is not None
        name = Path(header.source).name
        return name if (self._paths.space / name).is_file() else self._paths.pickle.name

    def ship_models(self, keep: int) -> bool:
        """Upload the weights of the best `keep` trials that lack them, and delete those of other trials.

        Return False if a file of weights is not there: it may still come from the trials' storage.
        """
        study, models = self._projection.study, self._position.models
        wanted = {weights.trial: weights for weights in files.choose_weights(study, keep)}
        with store.translate_errors(self._client.tracking_uri):
            for trial, weights in wanted.items():
                if models.get(trial) != weights.epoch:
                    self._upload_weights(weights)
            for trial in [trial for trial in models if trial not in wanted]:
                self._delete_weights(trial)
        return all(models.get(trial) == weights.epoch for trial, weights in wanted.items())

    def _upload_weights(self, weights: TrialWeights) -> None:
        file = self._paths.trial(weights.trial).best(weights.execution)
        run_id = self._run_id(weights.trial)
        with TemporaryDirectory() as folder:
            copy = Path(folder, "weights.npz")
            try:
                copy.symlink_to(file.resolve(strict=True))
            except FileNotFoundError:
                return  # retention has deleted the file: the uploaded weights stay
            repository = self._artifacts(run_id)
            repository.log_artifact(str(copy), "model")
            _log_json(repository, files.describe_trial(self._projection.study, weights), "trial.json", "model")
        self._client.set_tag(run_id, MODEL_TAG, str(weights.epoch))
        self._position.models[weights.trial] = weights.epoch

    def _delete_weights(self, trial: int) -> None:
        run_id = self._run_id(trial)
        self._client.set_tag(run_id, MODEL_TAG, "")
        del self._position.models[trial]
        try:
            self._artifacts(run_id).delete_artifacts("model")
        except Exception:
            return  # not every artifact store can delete; without the tag, the files do not count as a best model

    def ship_winner(self) -> None:
        """Upload the winner as a model of the parent run, and register it; see `WinnerShipper`."""
        if self._projection.study.exported is not None:
            self._winner.ship(self._run_id(PARENT))

    def ship_report(self) -> None:
        """Upload the report to the parent run if it has changed. It is the last artifact of a search that has ended."""
        try:
            facts = self._paths.report.stat()
        except OSError:
            return
        version = f"{facts.st_size}-{facts.st_mtime_ns}"
        if self._projection.study.end is None or self._position.report == version:
            return
        with store.translate_errors(self._client.tracking_uri):
            self._artifacts(self._run_id(PARENT)).log_artifact(str(self._paths.report))
        self._position.report = version

    def ship_page(self) -> None:
        """Update the page of the study's trials in the experiment: at first, for new parameters, and at the end."""
        study = self._projection.study
        used = {name for trial in study.trials.values() for name in trial.params}
        if self._page_parameters == used and study.end is None:
            return
        self._page_parameters = used
        page = view.make_page(study, self._position.trials)
        digest = hashlib.sha256(page.encode()).hexdigest()[:16]
        if self._position.page == digest:
            return
        with store.translate_errors(self._client.tracking_uri):
            self._run_id(PARENT)
            self._client.set_experiment_tag(self._position.experiment_id, view.page_tag(study.uid), page)
        self._position.page = digest

    def _artifacts(self, run_id: str) -> Any:
        return store.run_artifacts(self._client, self._client.get_run(run_id))


def search_runs(client: Any, experiments: list[str], condition: str) -> list[Any]:
    """Return all runs in `experiments` that fulfil `condition`, an MLflow filter."""
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
