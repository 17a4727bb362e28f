"""The report at the end of a search, and its way to MLflow."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from places import TINY
from report_studies import ten_trials, write

import search
from search.report import background
from search.report.background import ReportWriter
from search.study import journal
from search.study.study import Study, fold
from search.tracking.mlflow import store
from search.tracking.mlflow.position import Position


def writer_of(runs: Path, lines: list[str], *, enabled: bool = True) -> tuple[ReportWriter, Study, list[journal.Entry]]:
    """Return a writer for a study that has just ended, the study, and the last entry of its last segment."""
    paths = write(runs, ten_trials())
    entries = journal.read_all(paths.journal)
    study = fold(entries)
    last = [entry for entry in entries if type(entry.record).__name__ == "SegmentEnded"][-1:]
    return ReportWriter(paths, study, enabled=enabled, say=lines.append), study, last


@pytest.mark.usefixtures("reports")
def test_the_process_waits_for_the_search_and_then_writes_the_report(tmp_path: Path) -> None:
    lines: list[str] = []
    writer, study, last = writer_of(tmp_path, lines)
    writer.take(last)
    report = tmp_path / study.name / "report.html"
    assert not report.exists()
    writer.write()
    writer.close(60)
    assert lines == []
    assert "Ended: nothing is left to try." in report.read_text()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["false"], "its process ended with 1"),
        (
            ["sh", "-c", "echo the disk is full at http://bob:hunter2@host; exit 1"],
            "the disk is full at http://***@host",
        ),
        (["/no/such/program"], "No such file"),
    ],
)
def test_a_report_that_cannot_be_written_costs_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Sequence[str], words: str
) -> None:
    monkeypatch.setattr(background, "COMMAND", command)
    lines: list[str] = []
    writer, _, last = writer_of(tmp_path, lines)
    writer.take(last)
    writer.write()
    writer.close(60)
    (line,) = lines
    assert words in line
    assert line.endswith("write it with `search report digits`")


def test_a_slow_report_comes_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"import sys, time; sys.stdin.readline(); time.sleep(1); open({str(tmp_path / 'later')!r}, 'w')"
    monkeypatch.setattr(background, "COMMAND", (sys.executable, "-S", "-c", code))
    lines: list[str] = []
    writer, _, _ = writer_of(tmp_path, lines)
    writer.write()
    process = writer._process
    assert process is not None
    writer.close(0.01)
    assert lines == [f"the report takes longer, and will be {tmp_path / 'digits' / 'report.html'}"]
    process.returncode = None
    process.wait(60)
    assert (tmp_path / "later").exists()


def test_without_a_report_no_process_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "COMMAND", ("/no/such/program",))
    lines: list[str] = []
    writer, _, last = writer_of(tmp_path, lines, enabled=False)
    writer.take(last)
    writer.write()
    writer.close(60)
    assert lines == []


@pytest.mark.slow
@pytest.mark.usefixtures("reports")
def test_a_search_leaves_its_report_in_its_folder_and_in_mlflow(workplace: Path) -> None:
    space = Path(shutil.copy(TINY, workplace / "space.py"))
    study = search.run(space, objective="val_loss", max_epochs=2, max_trials=3, backend="asha", progress=False)
    report = study.paths.report
    page = report.read_text()
    assert f"Best configuration: trial {study.best_trials()[0].number}" in page
    assert "could not be made" not in page
    client = store.connect(store.resolve_uri(None, "runs"))
    run = Position.load(study.paths.tracking).run_id
    assert run is not None
    copy = Path(client.download_artifacts(run, "report.html", str(workplace)))
    assert copy.read_text() == page
    assert study.report(workplace / "again.html").read_text().count("<script>") == page.count("<script>")
