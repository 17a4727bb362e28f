"""Writing a report: the studies are read, and the page gets its file in one step."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from search.errors import OptionError
from search.report.page import make_page
from search.report.subject import read_subject
from search.study.paths import StudyPaths, comparison_report

__all__ = ["write_report"]


def write_report(
    studies: Sequence[StudyPaths], path: Path | None = None, *, wanted: Callable[[], bool] = lambda: True
) -> Path:
    """Write the report of one study or of several, and return its path.

    Args:
        studies: the files of at least one study.
        path: the file to write; by default in the study's folder, or beside the folders of several studies.
        wanted: asked when the page is made: False leaves the file as it is.

    Raises:
        JournalError: a journal cannot be read.
        OptionError: plotly is not installed, or the file cannot be written.
    """
    studies = list({paths.folder: paths for paths in studies}.values())
    if path is None:
        path = studies[0].report if len(studies) == 1 else comparison_report(studies)
    page = make_page([read_subject(paths) for paths in studies])
    if not wanted():
        return path
    work = path.with_name(f".{path.name[:100]}.{os.getpid()}")
    try:
        # Half a surrogate pair, as in a file name that is not UTF-8, cannot be encoded.
        work.write_text(page, encoding="utf-8", errors="replace")
        work.replace(path)
    except OSError as error:
        work.unlink(missing_ok=True)
        raise OptionError(f"the report cannot be written to {path} ({error.strerror}): give --output another") from None
    return path
