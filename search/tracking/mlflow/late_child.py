"""The process that sends MLflow the studies of a script after its end; see `search.tracking.mlflow.late`."""

from __future__ import annotations

import json
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from search.errors import SearchError
from search.study.paths import StudyPaths
from search.study.study import read_study
from search.tracking.mlflow import internals, store
from search.tracking.mlflow.sending import send_study

NICENESS = 10
"""The niceness of the process: nobody waits for it."""


def main() -> int:
    """Send the studies in the arguments, one after the other: a JSON object with the tracking address by folder.

    Returns:
        The exit code: 0 if MLflow has all of them, else 1. The studies' logs say why.
    """
    with suppress(OSError):
        os.nice(NICENESS)
    store.configure_mlflow()
    internals.import_whole()
    return max([0, *(_send(StudyPaths(Path(folder)), uri) for folder, uri in json.loads(sys.argv[1]).items())])


def _send(paths: StudyPaths, uri: str) -> int:
    """Send a study. Return 0 if MLflow has all of it, or if it is gone; else 1."""
    # The script may have deleted the study at its end. Nothing is written in its place.
    if not paths.journal.exists():
        return 0
    try:
        left_out = send_study(paths, read_study(paths.journal), uri, yields=True, warn=lambda line: _log(paths, line))
        if left_out:
            _log(paths, f"MLflow does not take {left_out}")
        return int(bool(left_out))
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
