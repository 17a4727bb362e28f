"""How far MLflow has been told: `tracking.json`. Losing it costs time only."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Position:
    """What the syncer need not look up or send again.

    Attributes:
        uid: of the study.
        uri: the tracking address, without user name and password.
        experiment_id, run_id: of the study; run_id is the parent's.
        trials: each trial's run id.
        offset: byte of the journal up to which everything has been sent.
        models: the epoch of the weights that a trial's run holds.
        space: the digest of the space file that the parent run holds.
        page: the digest of the page that the experiment holds.
        winner: what the parent run's model holds, as `trial/execution/epoch`.
        registered: the name of the registered model whose version that is, "" for none.
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

    @classmethod
    def load(cls, path: Path) -> Position:
        """The position at `path`; a fresh one where there is none, or none that can be read."""
        try:
            data = json.loads(path.read_text())
            data["trials"] = {int(trial): run for trial, run in data["trials"].items()}
            data["models"] = {int(trial): epoch for trial, epoch in data["models"].items()}
            return cls(**data)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls()

    def save(self, path: Path) -> None:
        work = path.with_name(f".{path.name}.{os.getpid()}")
        work.write_text(json.dumps(asdict(self)))
        work.replace(path)
