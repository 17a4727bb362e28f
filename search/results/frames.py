"""Results as DataFrames."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from search.study.records import SegmentRequested
from search.study.trials import Trial

if TYPE_CHECKING:
    import pandas as pd

    from search.study.journal import Entry

__all__ = ["curves_frame", "to_frame"]

METRICS_PREFIX = "logs_"
"""The prefix of a metric that is called like another column of `curves_frame`."""

_FIXED = ("trial", "execution", "epoch", "rung", "seconds")


def curves_frame(trials: Iterable[Trial], entries: Iterable[Entry]) -> pd.DataFrame:
    """Return one row for each epoch of each execution of `trials`, in order.

    Args:
        entries: the study's journal, which tells the rung of each epoch.
    """
    import pandas as pd

    rungs = _rungs(entries)
    rows, metrics = [], dict[str, str]()
    for trial in trials:
        for number, execution in enumerate(trial.executions):
            for epoch in execution.curve:
                names = {name: f"{METRICS_PREFIX}{name}" if name in _FIXED else name for name in epoch.logs}
                metrics |= names
                logs = {names[name]: value for name, value in epoch.logs.items()}
                rung = _rung_at(rungs.get(trial.number, ()), epoch.epoch)
                fixed = {"trial": trial.number, "execution": number, "epoch": epoch.epoch, "rung": rung}
                rows.append({**fixed, **logs, "seconds": epoch.seconds})
    columns = ["trial", "execution", "epoch", *(["rung"] if any(row["rung"] is not None for row in rows) else [])]
    frame = pd.DataFrame(rows, columns=[*columns, *metrics.values(), "seconds"])
    return frame.astype({"rung": "Int64"}) if "rung" in columns else frame


def _rungs(entries: Iterable[Entry]) -> dict[int, list[tuple[int, int | None]]]:
    """Return the last epoch and the rung of each suggestion, by trial, in order."""
    found: dict[int, list[tuple[int, int | None]]] = {}
    for entry in entries:
        if isinstance(entry.record, SegmentRequested):
            found.setdefault(entry.record.trial, []).append((entry.record.to_epoch, entry.record.rung))
    return found


def _rung_at(suggestions: Sequence[tuple[int, int | None]], epoch: int) -> int | None:
    return next((rung for to_epoch, rung in suggestions if epoch <= to_epoch), None)


def to_frame(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a DataFrame of rows that may lack columns.

    pandas chooses each column's type. It would change some values of hyperparameters: beside a missing value, None
    becomes NaN and a large whole number is rounded. Such a column holds Python's own objects.
    """
    import pandas as pd

    from search.display.rows import PARAMS_PREFIX

    frame = pd.DataFrame(rows, columns=list(columns))
    for name in columns:
        if not name.startswith(PARAMS_PREFIX):
            continue
        if any(name in row and row[name] != found for row, found in zip(rows, frame[name], strict=True)):
            frame[name] = pd.Series([row.get(name, math.nan) for row in rows], dtype=object)
    return frame
