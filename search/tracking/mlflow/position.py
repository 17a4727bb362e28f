"""The syncer's position in the journal, with the ids of MLflow's runs: `tracking.json`. Losing it costs time only."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Position:
    """Facts about one MLflow store that the syncer need not look up, and data that it need not send again.

    Attributes:
        uid: the study's unique id.
        uri: the tracking address, without user name and password.
        experiment_id: the study's experiment.
        run_id: the parent run.
        trials: the run id of each trial.
        offset: the byte of the journal up to which everything has been sent.
        models: by trial, the epoch of the weights in MLflow.
        space: the digest of the space file in the parent run.
        page: the digest of the experiment's page.
        winner: the weights of the parent run's model, as `trial/execution/epoch`.
        registered: the registered model that has the winner as a version, "" for none.
        report: the size and the time of the report in the parent run.
        refused: by trial, -1 for the parent run, how many values MLflow has refused. They are sent again by the next
            process.
    """

    uid: str = ""
    uri: str = ""
    experiment_id: str | None = None
    run_id: str | None = None
    trials: dict[int, str] = field(default_factory=dict)
    offset: int = 0
    models: dict[int, int] = field(default_factory=dict)
    space: str = ""
    page: str = ""
    winner: str = ""
    registered: str = ""
    report: str = ""
    refused: dict[int, int] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Position:
        """Return the position in the file `path`; a fresh one if the file is missing or cannot be read."""
        try:
            data = json.loads(path.read_text())
            data["trials"] = {int(trial): run for trial, run in data["trials"].items()}
            data["models"] = {int(trial): epoch for trial, epoch in data["models"].items()}
            data["refused"] = {int(trial): count for trial, count in data.get("refused", {}).items()}
            return cls(**data)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls()

    def save(self, path: Path) -> None:
        """Write the position to the file `path`, in one step."""
        work = path.with_name(f".{path.name}.{os.getpid()}")
        work.parent.mkdir(parents=True, exist_ok=True)  # another program may have deleted it
        work.write_text(json.dumps(asdict(self)))
        work.replace(path)
