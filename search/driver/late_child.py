"""The process that writes the reports of a script's studies after its end, and sends them; see `search.driver.late`."""

from __future__ import annotations

import json
import os
import select
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from search.errors import SearchError
from search.study.paths import StudyPaths
from search.study.study import read_study
from search.tracking.mlflow import internals, store
from search.tracking.mlflow.sending import send_study

NICENESS = 10
"""The niceness of the process: nobody waits for it."""

END_SECONDS = 30.0
"""Seconds to wait for the script's end, at most. A process that the script has forked may keep the pipe open."""


def main() -> int:
    """Write the reports of the studies in the arguments, and send the studies to MLflow, one after the other.

    The argument is a JSON object: by folder, the tracking address, and if a report is to be written.

    This begins when the script is gone: when the pipe on stdin has no writer.

    Returns:
        The exit code: 0 if MLflow has all of them, else 1. The studies' logs say why.
    """
    with suppress(OSError):
        os.nice(NICENESS)
    select.select([0], [], [], END_SECONDS)
    waiting = {StudyPaths(Path(folder)): each for folder, each in json.loads(sys.argv[1]).items()}
    failed = [_report(paths) for paths, (_, report) in waiting.items() if report]
    store.configure_mlflow()
    internals.import_whole()  # now: `_send` looks if a study is gone, and then writes soon
    failed += [_send(paths, uri) for paths, (uri, _) in waiting.items()]
    return max(failed, default=0)


def _report(paths: StudyPaths) -> int:
    """Write the report of a study. Return 0 if it is written, or if the study is gone; else 1."""
    from search.report.imports import import_plots
    from search.report.writing import write_report

    def write() -> int:
        import_plots()
        size = paths.journal.stat().st_size
        # The search may have been resumed meanwhile: the later report must stay.
        write_report([paths], wanted=lambda: paths.journal.stat().st_size == size)
        return 0

    return _try(paths, write)


def _send(paths: StudyPaths, uri: str) -> int:
    """Send a study. Return 0 if MLflow has all of it, or if the study is gone; else 1."""

    def send() -> int:
        left_out = send_study(paths, read_study(paths.journal), uri, yields=True, warn=lambda line: _log(paths, line))
        if left_out:
            _log(paths, f"MLflow does not take {left_out}")
        return int(bool(left_out))

    return _try(paths, send)


def _try(paths: StudyPaths, work: Callable[[], int]) -> int:
    """Return what `work` returns, 0 if the study is gone, or 1 after an error, which the study's log has then."""
    # The script may have deleted the study at its end. Nothing is written in its place.
    if not paths.journal.exists():
        return 0
    try:
        return work()
    except (SearchError, OSError) as error:
        _log(paths, str(error))
    except Exception:
        _log(paths, traceback.format_exc())
    return 1


def _log(paths: StudyPaths, text: str) -> None:
    with suppress(OSError), paths.log.open("a") as log:
        log.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
