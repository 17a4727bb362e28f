"""The study's winner in MLflow: a logged model of the parent run, and a version of a registered model.

Every call here may be repeated.
"""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from search.errors import TrackingRefused
from search.study.paths import StudyPaths
from search.study.records import Exported
from search.study.trials import Trial
from search.tracking.mlflow import store
from search.tracking.mlflow.layout import STUDY_UID_TAG, TEST_PREFIX, Projection, clean_key, param_text
from search.tracking.mlflow.model import write_model
from search.tracking.mlflow.position import Position
from search.tracking.mlflow.store import Rejected

CHAMPION_ALIAS = "champion"
"""Alias of the registered version that has the winner."""

WINNER_TAG = "search.winner"
"""Tag of a logged model and of a version: the weights in it, as `trial/execution/epoch`."""


class WinnerShipper:
    """The models of one study in a store.

    Args:
        client: from `store.connect`.
        paths: the study's files.
        projection: the projection of the study's journal, which has the exported trial.
        position: the models that the store has; kept up to date here, saved by the caller.
        register: the registered model's name that the user gave. On a local store it is the study's by default; on a
            server, which others share, nothing is registered without a name.
    """

    def __init__(
        self, client: Any, paths: StudyPaths, projection: Projection, position: Position, register: str | None
    ) -> None:
        self._client = client
        self._paths = paths
        self._projection = projection
        self._position = position
        self._register = register

    def ship(self, run_id: str) -> None:
        """Upload the winner to the parent run `run_id`, and register it as `champion`, unless that was done before.

        Raises:
            Rejected: the store does not accept it.
            TrackingRefused: these credentials may not do that.
        """
        exported = self._projection.study.exported
        if exported is None or not self._paths.model.is_file():
            return
        winner = f"{exported.trial}/{exported.execution}/{exported.epoch}"
        name = self._register or (self._projection.study.name if self._is_local else "")
        if (self._position.winner, self._position.registered) == (winner, name):
            return
        with store.translate_errors(self._client.tracking_uri):
            logged = self._ensure_logged(run_id, exported, winner)
        self._position.winner, self._position.registered = winner, ""
        if name:
            try:
                with store.translate_errors(self._client.tracking_uri):
                    self._ensure_registered(name, logged, exported, winner)
            except (Rejected, TrackingRefused) as error:
                raise Rejected(f"it cannot be registered as {name!r}: {error}") from None
        self._position.registered = name

    @property
    def _is_local(self) -> bool:
        return store.local_database(self._client.tracking_uri) is not None

    # The logged model -----------------------------------------------------------------------------------------------

    def _ensure_logged(self, run_id: str, exported: Exported, winner: str) -> Any:
        """Return the winner as a logged model of the parent run, which is created if it is missing."""
        run = self._client.get_run(run_id)
        tags = self._tags(exported, winner)
        condition = f"tags.`{WINNER_TAG}` = '{winner}' AND tags.`{STUDY_UID_TAG}` = '{tags[STUDY_UID_TAG]}'"

        def find() -> list[Any]:
            models = list(self._client.search_logged_models([run.info.experiment_id], filter_string=condition))
            return sorted(models, key=lambda model: str(model.status) != "READY")

        known = find()
        if known:
            logged = known[0]
        else:
            params = {clean_key(name): param_text(value) for name, value in self._trial(exported).params.items()}
            logged = self._client.create_logged_model(
                run.info.experiment_id,
                name=_without_dots(self._projection.study.name),
                source_run_id=run_id,
                tags=tags,
                params=params,
                model_type="keras",
            )
        if str(logged.status) != "READY":
            self._upload(logged, run_id, exported)
            logged = self._client.finalize_logged_model(logged.model_id, "READY")
        for duplicate in find():  # created by a request whose answer was lost
            if duplicate.model_id != logged.model_id:
                self._client.delete_logged_model(duplicate.model_id)
        outputs = run.outputs.model_outputs if run.outputs is not None else []
        if logged.model_id not in [output.model_id for output in outputs]:
            from mlflow.entities import LoggedModelOutput

            self._client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=exported.epoch)])
        return logged

    def _upload(self, logged: Any, run_id: str, exported: Exported) -> None:
        """Upload the model's folder, and log its metrics."""
        from mlflow.entities import Metric

        with TemporaryDirectory() as work:
            folder = Path(work)
            location = logged.artifact_location
            identity = {"model_id": logged.model_id, "run_id": run_id, "artifact_path": location}
            write_model(folder, self._projection.study, exported, self._paths, **identity)
            store.model_artifacts(self._client, logged).log_artifacts(str(folder))
        time = self._projection.exported_at
        points = [
            Metric(clean_key(name), value, time, exported.epoch, model_id=logged.model_id, run_id=run_id)
            for name, value in self._logs(exported).items()
            if math.isfinite(value)
        ]
        self._client.log_batch(run_id, metrics=points, synchronous=True)

    def _logs(self, exported: Exported) -> dict[str, float]:
        """Return the metrics of the exported epoch, and those of the test data."""
        trial = self._trial(exported)
        trained = trial.executions[exported.execution].find(exported.epoch)
        logs = dict(trained.logs) if trained is not None else {}
        if trial.best.tested is not None:
            logs |= {f"{TEST_PREFIX}{name}": value for name, value in trial.best.tested.logs.items()}
        return logs

    # The registered model -------------------------------------------------------------------------------------------

    def _ensure_registered(self, name: str, logged: Any, exported: Exported, winner: str) -> None:
        """Register the winner as a version of the model `name`, unless it is one already, and set the alias."""
        uid = self._projection.study.uid

        def is_winner(version: Any) -> bool:
            return bool(version.tags.get(WINNER_TAG) == winner and version.tags.get(STUDY_UID_TAG) == uid)

        versions = self._versions(name)
        version = max(filter(is_winner, versions), key=_number, default=None)
        if version is None:
            trial = self._trial(exported)
            objective = self._projection.study.objective.name
            after = "" if trial.black_box else f" after epoch {exported.epoch}"
            version = self._client.create_model_version(
                name,
                # An address, as a store without a server looks up `models:/…` in MLflow's default store.
                source=store.current_address(self._client, logged.artifact_location),
                run_id=logged.source_run_id,
                tags=self._tags(exported, winner),
                description=f"Trial {trial.number} of study {self._projection.study.name}: {objective} "
                f"{trial.objective:.6g}{after}",
                model_id=logged.model_id,
            )
            for duplicate in filter(is_winner, self._versions(name)):  # created by a request whose answer was lost
                if duplicate.version != version.version:
                    self._client.delete_model_version(name, duplicate.version)
        if _number(version) >= max(map(_number, versions), default=0):  # else the champion is of a later search
            self._client.set_registered_model_alias(name, CHAMPION_ALIAS, version.version)

    def _versions(self, name: str) -> list[Any]:
        """Return the versions of the registered model `name`, which is created if it is missing."""
        from mlflow.exceptions import MlflowException

        found = self._client.search_registered_models(f"name = '{name}'")
        if not found:
            try:
                self._client.create_registered_model(name)
                return []
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # else a request whose answer was lost
                    raise
        versions: list[Any] = []
        token = None
        while True:
            page = self._client.search_model_versions(f"name = '{name}'", page_token=token)
            versions += page
            token = page.token
            if not token:
                return versions

    def _trial(self, exported: Exported) -> Trial:
        return self._projection.study.trials[exported.trial]

    def _tags(self, exported: Exported, winner: str) -> dict[str, str]:
        study, trial = self._projection.study, self._trial(exported)
        return {
            STUDY_UID_TAG: study.uid,
            "search.study": study.name,
            "search.trial": str(exported.trial),
            "search.objective": study.objective.name,
            "search.value": repr(trial.objective),
            WINNER_TAG: winner,
        }


def _without_dots(name: str) -> str:
    """Return the name of the logged model of the study `name`: MLflow allows no dots there."""
    return name.replace(".", "_")


def _number(version: Any) -> int:
    return int(version.version)
