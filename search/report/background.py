"""The report at the end of a search, written by a process of its own.

The process begins when training is over and the final evaluation runs. It imports plotly meanwhile, waits for a word,
and then writes the report while MLflow is sent the rest. It has a low priority: only the search's end waits for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import search
from search.report.redaction import hide_secrets
from search.study.journal import Entry
from search.study.paths import StudyPaths
from search.study.records import SegmentEnded
from search.study.study import Study

KILL_SECONDS = 5.0
"""Seconds to wait for the process after it was killed."""

COMMAND = (sys.executable, "-P", "-m", "search.report.child")
"""The command of the process. `-P`: no module of the user's folder is imported in another's place."""


class ReportWriter:
    """A follower that has the report of a study written at the end of its search. It never fails a search.

    Args:
        paths: the study's files.
        study: the study, live.
        enabled: False writes no report.
        early: start the process when training is over, as by default; else when the report is asked for.
        say: shows the user one line.
    """

    protocol = 1

    def __init__(
        self, paths: StudyPaths, study: Study, *, enabled: bool, early: bool = True, say: Callable[[str], None]
    ) -> None:
        self._paths = paths
        self._study = study
        self._enabled = enabled
        self._early = early
        self._asked = False
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._error = ""

    def take(self, entries: Sequence[Entry]) -> None:
        """Start the process if no trial is trained any more: its imports take as long as a final evaluation."""
        if not (self._enabled and self._early) or self._process is not None:
            return
        if not any(isinstance(entry.record, SegmentEnded) for entry in entries):
            return
        # A pause is no end.
        if not self._study.history.running and not self._study.paused:
            self._start()

    def flushed(self) -> None:
        """Do nothing: the journal is read at the end."""

    def write(self) -> None:
        """Let the process write the report, as the journal is now, unless it does so already. Return at once."""
        if not self._enabled or self._asked:
            return
        self._asked = True
        if self._process is None:
            self._start()
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError):  # it has ended: `close` says why
                self._process.stdin.write(b"\n")
                self._process.stdin.close()

    def wait(self, seconds: float) -> None:
        """Wait until the report is written, or `seconds` have gone. May be called by several threads."""
        with self._lock, suppress(subprocess.TimeoutExpired):
            if self._process is not None:
                self._process.wait(seconds)

    def finish(self, seconds: float) -> None:
        """Do as `write` and then as `wait`."""
        self.write()
        self.wait(seconds)

    def close(self, seconds: float) -> None:
        """Wait as `wait` does, and say one line if the report is not written.

        A process that needs more time goes on after this one's end.
        """
        self.wait(seconds)
        code = None if self._process is None else self._process.poll()
        if self._process is not None and code is None:
            self._say(f"the report takes longer, and will be {self._paths.report}")
        elif code:
            self._error = self._last_words() or f"its process ended with {code}"
        if self._error:
            self._say(
                f"there is no report ({hide_secrets(self._error)}): write it with `search report {self._study.name}`"
            )
        if self._process is not None and code is None:
            self._process.returncode = 0  # Python warns of a process that nobody has waited for
        self._forget()

    def stop(self) -> None:
        """End the process at once, if it runs."""
        if self._process is not None:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):  # a disk that hangs may hold it
                self._process.wait(KILL_SECONDS)
        self._forget()

    def _forget(self) -> None:
        if self._process is not None:
            for pipe in filter(None, (self._process.stdin, self._process.stdout)):
                with suppress(OSError):
                    pipe.close()
        self._enabled, self._process = False, None

    def _start(self) -> None:
        # The process imports this very package, however this process has found it.
        package = str(Path(search.__file__).parent.parent)
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        # Its libraries compute little, and would start a thread for each core.
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        try:
            with self._paths.log.open("ab") as log:
                self._process = subprocess.Popen(
                    [*COMMAND, str(self._paths.folder)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env={**os.environ, **threads, "PYTHONPATH": path},
                    start_new_session=True,  # Ctrl-C is for the search
                )
        except OSError as error:
            self._enabled, self._error = False, str(error)

    def _last_words(self) -> str:
        """Return the line in which the process said why it failed, "" if it did not."""
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout.read().decode(errors="replace").strip()
