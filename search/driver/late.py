"""The work after a script's end: short searches go to a local MLflow store then, and get their reports.

MLflow takes two seconds of a processor to import and to make a database, and a report one: together as long as a tiny
search. A process of its own (`search.driver.late_child`) does all that when the script has ended. If it is killed, or
never starts, nothing is lost: the journal has all. `search sync`, `search ui` or a resumed search send it, and `search
report` writes the report.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path

import search
from search.options import Options
from search.study.paths import StudyPaths
from search.study.slurm import SlurmJob
from search.study.study import read_study
from search.tracking.mlflow import store
from search.tracking.mlflow.sending import send_study

__all__ = ["REST_SECONDS", "may_be_late", "send_at_exit", "send_waiting"]

REST_SECONDS = 20.0
"""Seconds of a search before MLflow is imported. A search that ends sooner is sent after its script."""

COMMAND = (sys.executable, "-P", "-m", "search.driver.late_child")
"""The command of the process. `-P`: no module of the user's folder is imported in another's place."""

_waiting: dict[Path, tuple[str, bool]] = {}
"""The studies that wait for the end of this process: by folder, the tracking address, and if a report is to be made."""

_owner = 0
"""The process that sends them: a fork of it inherits `_waiting`, and must not."""


def may_be_late(
    opts: Options,
    uri: str,
    *,
    interactive: bool,
    modules: Collection[str],
    environment: Mapping[str, str],
    process: int,
) -> bool:
    """Return whether a search of a script may be sent after the script's end.

    Args:
        opts: the options of the search.
        uri: the tracking address.
        interactive: the user types the program's lines, and it does not end soon.
        modules: the names of the imported modules. A script that has imported MLflow may look at once, and pays little.
        environment: the environment variables. A job's end, in Slurm or on a build server, ends all processes.
        process: the number of the script's process. A container ends with its first one.
    """
    ends_together = process == 1 or bool(environment.get("CI")) or SlurmJob.this(environment).id != ""
    looks = "mlflow" in modules or opts.parent_run is not None or bool(opts.require)
    return store.local_database(uri) is not None and not (interactive or ends_together or looks)


def send_at_exit(paths: StudyPaths, uri: str, *, report: bool) -> None:
    """Have a study sent to a local store when this process has ended.

    Args:
        report: have its report written, too.
    """
    global _owner
    if _owner != os.getpid():
        _waiting.clear()
        atexit.register(_start)
        _owner = os.getpid()
    _waiting[paths.folder] = uri, report


def send_waiting(uri: str) -> None:
    """Send the studies of this process that wait for its end to a local store: the process itself looks there now.

    Args:
        uri: the store's address. Studies of other stores go on waiting.

    Raises:
        JournalError, TrackingRefused, Unavailable, OptionError: as for `send_study`.
    """
    if _owner != os.getpid():
        return
    for folder in [folder for folder, (address, _) in _waiting.items() if address == uri]:
        paths = StudyPaths(folder)
        if paths.journal.exists():
            send_study(paths, read_study(paths.journal), uri, warn=warnings.warn)


def _start() -> None:
    """Start the process that sends the studies. It goes on after this one."""
    waiting = {str(folder): each for folder, each in _waiting.items() if StudyPaths(folder).journal.exists()}
    if not waiting or _owner != os.getpid():
        return
    _waiting.clear()  # a fork of a process that has registered this, and registers it itself, comes here twice
    # The process imports this very package, however this process has found it.
    package = str(Path(search.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    # Its libraries compute little, and would start a thread for each core.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    # Its other end closes when this process is gone. That takes a processor for a second, so the new one waits for it.
    end, _ = os.pipe()
    try:
        process = subprocess.Popen(
            [*COMMAND, json.dumps(waiting)],
            stdin=end,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **threads, "PYTHONPATH": path},
            start_new_session=True,  # the terminal may be closed
        )
        process.returncode = 0  # Python warns of a process that nobody has waited for
    except OSError as error:
        names = ", ".join(Path(folder).name for folder in waiting)
        print(f"MLflow has not {names} yet ({error}): send each with search sync", file=sys.stderr)
