"""The removal of studies: files, storage and MLflow's runs, and never those of others."""

from __future__ import annotations

import io
import json
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from by_hand import SEARCH_ENDED, completed_trial, header, study_start
from commands import Command, contents

from search.errors import JournalError, StudyError, Unavailable
from search.results.removal import finish_removal, plan_removal
from search.study.journal import Journal
from search.study.lock import Lock
from search.study.paths import StudyPaths
from search.study.records import Record, SearchStarted
from search.tracking.mlflow import removal as mlflow_removal
from search.tracking.mlflow.removal import StudyRuns


def write(runs: Path, name: str = "digits", **options: Any) -> StudyPaths:
    """Write the folder of a study with two trials."""
    paths = StudyPaths.of(runs, name)
    paths.trial(0).folder.mkdir(parents=True)
    paths.trial(0).best(0).write_bytes(b"weights" * 100)
    start: list[Record] = [header(name), study_start()[1], SearchStarted("host", 1, options)]
    journal = Journal(paths.journal)
    journal.append([*start, *completed_trial(0, [0.5]), *completed_trial(1, [0.6]), SEARCH_ENDED])
    journal.close()
    return paths


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyPaths:
    """Return a study in `runs` of the current folder, which has no MLflow store."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "runs", "other")
    return write(tmp_path / "runs")


def test_a_study_goes_with_its_folder_and_no_other_does(study: StudyPaths, command: Command) -> None:
    outcome = command("rm", "digits", "--yes")
    assert outcome.code == 0
    assert outcome.out.startswith("removed study digits: 2 trials, ")
    assert [path.name for path in study.folder.parent.iterdir()] == ["other"]


def test_without_a_terminal_and_without_yes_nothing_goes(
    study: StudyPaths, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    before = contents(study.folder)
    outcome = command("rm", "digits")
    assert (outcome.code, outcome.out) == (2, "")
    assert "give --yes" in outcome.err
    assert contents(study.folder) == before


@pytest.mark.parametrize(("answer", "code", "stays"), [("n", 130, True), ("y", 0, False)])
def test_the_question_says_what_goes(
    study: StudyPaths, command: Command, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, stays: bool
) -> None:
    master, slave = pty.openpty()
    with open(master, "wb", buffering=0) as terminal, open(slave) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        terminal.write(f"{answer}\n".encode())
        outcome = command("rm", "digits")
    assert outcome.code == code
    assert f"study digits: 2 trials, {outcome.err.split('2 trials, ')[1].split()[0]} in {study.folder}" in outcome.err
    assert "Remove all of this for good? [y/N]" in outcome.err
    assert ("nothing was removed" in outcome.err) == stays
    assert study.journal.exists() == stays


def test_a_name_that_is_not_there_is_one_line(study: StudyPaths, command: Command) -> None:
    outcome = command("rm", "digit", "--yes")
    assert outcome.code == 2
    assert "no study 'digit'" in outcome.err
    assert "Did you mean 'digits'?" in outcome.err
    assert command("rm", "../runs/digits", "--yes").code == 2
    assert study.journal.exists()


def test_a_study_that_runs_is_refused(study: StudyPaths, command: Command) -> None:
    before = contents(study.folder)
    held = subprocess.Popen(
        [sys.executable, "-c", "import sys, pathlib, search.study.lock as l; "
         "x = l.Lock(pathlib.Path(sys.argv[1])); print(1, flush=True); sys.stdin.read()", str(study.lock)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert held.stdout is not None
    held.stdout.readline()
    outcome = command("rm", "digits", "--yes")
    held.communicate(b"", timeout=30)
    assert outcome.code == 2
    assert "is being run by process" in outcome.err
    assert {name: data for name, data in contents(study.folder).items() if name != "lock"} == before


def test_files_behind_a_url_go_too(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = tmp_path / "storage"
    mine, others = storage / "digits-012345", storage / "digits-999999"
    for folder in (mine, others):
        folder.mkdir(parents=True)
        (folder / "checkpoint").write_bytes(b"state")
    write(tmp_path / "runs", storage=f"file://{storage}")
    outcome = command("rm", "digits", "--yes")
    assert outcome.code == 0
    assert not mine.exists()
    assert others.exists()


def test_a_storage_that_is_away_keeps_the_study(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = write(tmp_path / "runs", storage="nosuchprotocol://bucket")
    outcome = command("rm", "digits", "--yes")
    assert outcome.code == 2
    assert paths.trial(0).best(0).exists()


def test_a_damaged_study_can_be_removed(study: StudyPaths, command: Command) -> None:
    study.journal.write_bytes(b"no journal at all\n")
    assert command("rm", "digits", "--yes").code == 0
    assert not study.folder.exists()


def test_a_killed_removal_is_finished_by_the_next(study: StudyPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = shutil.copytree(study.folder, study.folder.parent.parent / "kept")
    steps: list[Path] = []
    original = Path.unlink

    def killed_at(count: int) -> None:
        steps.clear()

        def unlink(path: Path, missing_ok: bool = False) -> None:
            if len(steps) == count:
                raise KeyboardInterrupt
            steps.append(path)
            original(path, missing_ok=missing_ok)

        monkeypatch.setattr(Path, "unlink", unlink)

    for count in range(4):
        shutil.rmtree(study.folder, ignore_errors=True)
        shutil.copytree(kept, study.folder)
        killed_at(count)
        planned = plan_removal("digits", str(study.folder.parent), keep_mlflow=True)
        try:
            planned.carry_out(print)
        except KeyboardInterrupt:
            pass
        finally:
            planned.close()
            monkeypatch.setattr(Path, "unlink", original)
        if not study.journal.exists():
            assert finish_removal("digits", str(study.folder.parent)) or not study.folder.exists()
        else:
            plan_removal("digits", str(study.folder.parent), keep_mlflow=True).carry_out(print)
        assert not study.folder.exists()


# MLflow ---------------------------------------------------------------------------------------------------------------


def test_mlflow_out_of_reach_keeps_everything_unless_told_otherwise(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = write(tmp_path / "runs", tracking_uri="http://127.0.0.1:9")
    before = contents(paths.folder)
    outcome = command("rm", "digits", "--yes")
    assert outcome.code == 2
    assert "out of reach" in outcome.err
    assert "Nothing was removed: try again, or leave MLflow as it is with --keep-mlflow" in outcome.err
    assert {name: data for name, data in contents(paths.folder).items() if name != "lock"} == before
    assert command("rm", "digits", "--yes", "--keep-mlflow").code == 0
    assert not paths.folder.exists()


def test_if_mlflow_breaks_in_between_the_files_stay(study: StudyPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        tracking_uri = "http://here"

    def broken(runs: StudyRuns) -> list[str]:
        raise Unavailable("MLflow at http://here is out of reach")

    monkeypatch.setattr(mlflow_removal, "delete_runs", broken)
    planned = plan_removal("digits", str(study.folder.parent), keep_mlflow=True)
    runs = StudyRuns(Client(), "0123456789abcdef", ("r",), ("1",), "1", (), ())
    from dataclasses import replace

    with pytest.raises(Unavailable, match="give the same command again"):
        replace(planned, runs=runs).carry_out(print)
    planned.close()
    assert study.trial(0).best(0).exists()


def test_the_lock_is_free_after_a_refusal(study: StudyPaths) -> None:
    study.tracking.write_text(json.dumps({"uid": "x", "uri": "http://127.0.0.1:9", "trials": {}, "models": {}}))
    with pytest.raises(Unavailable):
        plan_removal("digits", str(study.folder.parent))
    Lock(study.lock).release()
    with pytest.raises(StudyError):
        plan_removal("none", str(study.folder.parent))


def test_two_removals_at_once_are_one(study: StudyPaths) -> None:
    planned = plan_removal("digits", str(study.folder.parent))
    with pytest.raises(JournalError):
        plan_removal("digits", str(study.folder.parent))
    planned.close()
