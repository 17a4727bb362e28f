"""Ships a study's winner: a logged model of the parent run, and a version of a registered model. May be repeated."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from search.errors import TrackingRefused
from search.study.paths import StudyPaths
from search.study.records import Exported
from search.study.study import Trial
from search.tracking.mlflow import layout, model, store
from search.tracking.mlflow.layout import Projection
from search.tracking.mlflow.position import Position
from search.tracking.mlflow.store import Rejected

ALIAS = "champion"

WINNER = "search.winner"
"""Tag of a logged model and of a version: which weights they hold, as `trial/execution/epoch`."""


class WinnerShipper:
    """One study's way to a store's models.

    Args:
        client: from `store.connect`.
        paths: the study's files.
        projection: of the study's journal: what was exported.
        position: what is known to be there; kept up to date here, saved by the caller.
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
        """Make the parent run `run_id` hold the winner, and the registry name it `champion`. Does what is missing.

        Rejected where the store does not take it; TrackingRefused where these credentials may not.
        """
        exported = self._projection.study.exported
        if exported is None or not self._paths.model.is_file():
            return
        winner = f"{exported.trial}/{exported.execution}/{exported.epoch}"
        name = self._register or (self._projection.study.name if self._is_local else "")
        if (self._position.winner, self._position.registered) == (winner, name):
            return
        with store.translated(self._client.tracking_uri):
            logged = self._logged(run_id, exported, winner)
        self._position.winner, self._position.registered = winner, ""
        if name:
            try:
                with store.translated(self._client.tracking_uri):
                    self._registered(name, logged, exported, winner)
            except (Rejected, TrackingRefused) as error:
                raise Rejected(f"it cannot be registered as {name!r}: {error}") from None
        self._position.registered = name

    @property
    def _is_local(self) -> bool:
        return store.local_database(self._client.tracking_uri) is not None

    # The logged model -----------------------------------------------------------------------------------------------

    def _logged(self, run_id: str, exported: Exported, winner: str) -> Any:
        """The winner as a logged model of the parent run, looked for before it is made."""
        run = self._client.get_run(run_id)
        tags = self._tags(exported, winner)
        condition = f"tags.`{WINNER}` = '{winner}' AND tags.`{layout.STUDY_UID}` = '{tags[layout.STUDY_UID]}'"

        def found() -> list[Any]:
            models = list(self._client.search_logged_models([run.info.experiment_id], filter_string=condition))
            return sorted(models, key=lambda model: str(model.status) != "READY")

        known = found()
        if known:
            logged = known[0]
        else:
            params = {layout.key(name): layout.text(value) for name, value in self._trial(exported).params.items()}
            logged = self._client.create_logged_model(
                run.info.experiment_id, name=_plain(self._projection.study.name), source_run_id=run_id, tags=tags,
                params=params, model_type="keras",
            )  # fmt: skip
        if str(logged.status) != "READY":
            self._put(logged, run_id, exported)
            logged = self._client.finalize_logged_model(logged.model_id, "READY")
        for twin in found():  # made by a request whose answer was lost
            if twin.model_id != logged.model_id:
                self._client.delete_logged_model(twin.model_id)
        outputs = run.outputs.model_outputs if run.outputs is not None else []
        if logged.model_id not in [output.model_id for output in outputs]:
            from mlflow.entities import LoggedModelOutput

            self._client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=exported.epoch)])
        return logged

    def _put(self, logged: Any, run_id: str, exported: Exported) -> None:
        """Upload the model's folder, and tell its metrics."""
        from mlflow.entities import Metric

        with TemporaryDirectory() as work:
            folder = Path(work)
            location = logged.artifact_location
            identity = {"model_id": logged.model_id, "run_id": run_id, "artifact_path": location}
            model.write(folder, self._projection.study, exported, self._paths, **identity)
            store.repository(self._client, location).log_artifacts(str(folder))
        time = self._projection.exported_at
        points = [
            Metric(layout.key(name), value, time, exported.epoch, model_id=logged.model_id, run_id=run_id)
            for name, value in self._logs(exported).items()
            if math.isfinite(value)
        ]
        self._client.log_batch(run_id, metrics=points, synchronous=True)

    def _logs(self, exported: Exported) -> dict[str, float]:
        """The metrics of the exported epoch, and those of the test data."""
        trial = self._trial(exported)
        trained = trial.executions[exported.execution].find(exported.epoch)
        logs = dict(trained.logs) if trained is not None else {}
        if trial.tested is not None:
            logs |= {f"{layout.TEST}{name}": value for name, value in trial.tested.logs.items()}
        return logs

    # The registered model -------------------------------------------------------------------------------------------

    def _registered(self, name: str, logged: Any, exported: Exported, winner: str) -> None:
        """The winner as a version of the registered model `name`, which is made where it is missing."""
        uid = self._projection.study.uid

        def is_it(version: Any) -> bool:
            return bool(version.tags.get(WINNER) == winner and version.tags.get(layout.STUDY_UID) == uid)

        versions = self._versions(name)
        version = max(filter(is_it, versions), key=_number, default=None)
        if version is None:
            trial = self._trial(exported)
            objective = self._projection.study.objective.name
            version = self._client.create_model_version(
                name,
                # By its address: a store without a server looks `models:/…` up in MLflow's default store.
                source=store.placed(self._client, logged.artifact_location),
                run_id=logged.source_run_id,
                tags=self._tags(exported, winner),
                description=f"Trial {trial.number} of study {self._projection.study.name}: {objective} "
                f"{trial.objective:.6g} after epoch {exported.epoch}",
                model_id=logged.model_id,
            )
            for twin in filter(is_it, self._versions(name)):  # made by a request whose answer was lost
                if twin.version != version.version:
                    self._client.delete_model_version(name, twin.version)
        if _number(version) >= max(map(_number, versions), default=0):  # else a later search's is the champion
            self._client.set_registered_model_alias(name, ALIAS, version.version)

    def _versions(self, name: str) -> list[Any]:
        """The versions of the registered model `name`; it is made where there is none."""
        from mlflow.exceptions import MlflowException

        found = self._client.search_registered_models(f"name = '{name}'")
        if not found:
            try:
                self._client.create_registered_model(name)
                return []
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # made late by a request whose answer was lost
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
            layout.STUDY_UID: study.uid,
            "search.study": study.name,
            "search.trial": str(exported.trial),
            "search.objective": study.objective.name,
            "search.value": repr(trial.objective),
            WINNER: winner,
        }


def _plain(name: str) -> str:
    """A study's name as a logged model's, which has no dots."""
    return name.replace(".", "_")


def _number(version: Any) -> int:
    return int(version.version)
