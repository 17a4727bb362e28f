"""KerasTuner's project folders, written by hand in the formats of its versions."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

UNITS = {"class_name": "Int", "config": {"name": "units", "min_value": 8, "max_value": 64, "step": 8, "default": None}}
RATE = {
    "class_name": "Float",
    "config": {"name": "lr", "min_value": 1e-4, "max_value": 0.1, "step": None, "sampling": "log", "default": 1e-4},
}
OPTIMIZER = {
    "class_name": "Choice",
    "config": {"name": "opt", "values": ["sgd", "adam"], "ordered": False, "default": "sgd", "conditions": []},
}
MOMENTUM = {
    "class_name": "Float",
    "config": {
        "name": "momentum",
        "min_value": 0.0,
        "max_value": 1.0,
        "step": 0.1,
        "sampling": None,
        "default": 0.0,
        "conditions": [{"class_name": "Parent", "config": {"name": "opt", "values": ["sgd"]}}],
    },
}
SPACE = [UNITS, RATE, OPTIMIZER, MOMENTUM]
VALUES = {"units": 16, "lr": 0.01, "opt": "sgd", "momentum": 0.3}


def metrics(step: int = 0, **values: float) -> dict[str, Any]:
    """Return the metrics of a trial as a file has them, with one observation each."""
    return {
        "metrics": {
            name: {
                "direction": "max" if "acc" in name else "min",
                "observations": [{"value": [value], "step": step}],
            }
            for name, value in values.items()
        }
    }


def trial(
    id: str,
    values: dict[str, Any] = VALUES,
    *,
    score: float | None = None,
    status: str = "COMPLETED",
    space: list[dict[str, Any]] = SPACE,
    step: int = 0,
    message: str | None = None,
    **logs: float,
) -> dict[str, Any]:
    """Return a trial as KerasTuner 1.2 and later save it."""
    return {
        "trial_id": id,
        "hyperparameters": {"space": space, "values": values},
        "metrics": metrics(step, **logs),
        "score": score,
        "best_step": step,
        "status": status,
        "message": message,
    }


def write_project(folder: Path, trials: list[dict[str, Any]], **state: Any) -> Path:
    """Write a project, whose trials end one second after the other."""
    folder.mkdir(parents=True)
    space = trials[0]["hyperparameters"]["space"] if trials else []
    oracle = {"ongoing_trials": {}, "hyperparameters": {"space": space, "values": {}}, **state}
    (folder / "oracle.json").write_text(json.dumps(oracle))
    (folder / "tuner0.json").write_text("{}")
    for number, data in enumerate(trials):
        place = folder / f"trial_{data['trial_id']}"
        place.mkdir()
        (place / "trial.json").write_text(json.dumps(data))
        os.utime(place / "trial.json", (1_600_000_000 + number, 1_600_000_000 + number))
    return folder


def older(data: dict[str, Any]) -> dict[str, Any]:
    """Return a trial as versions before 1.2 save it: without a message."""
    return {name: value for name, value in data.items() if name != "message"}
