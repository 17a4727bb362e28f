"""The process that writes a report at the end of a search; see `search.report.background`."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from search.errors import SearchError
from search.study.paths import StudyPaths

NICENESS = 10
"""The niceness of the process: workers and MLflow come first."""


def main() -> int:
    """Import all that a report needs, wait for a line on stdin, and write the report of the folder in the arguments.

    Returns:
        The exit code: 0 if the report is written, or if the search has ended without asking for it; 1 with a line on
        stdout if it cannot be written.
    """
    with suppress(OSError):
        os.nice(NICENESS)
    from search.report.imports import import_plots
    from search.report.writing import write_report

    import_plots()
    if not sys.stdin.buffer.readline():
        return 0
    paths = StudyPaths(Path(sys.argv[1]))
    try:
        size = paths.journal.stat().st_size
        # The search may have been resumed meanwhile: the later report must stay.
        write_report([paths], wanted=lambda: paths.journal.stat().st_size == size)
    except (SearchError, OSError) as error:
        print(error)
        return 1
    except Exception as error:
        traceback.print_exc()
        print(f"{type(error).__name__}: {error}; its traceback is in {paths.log}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
