"""The repair of a damaged journal: the lines before the damage stay, and the old file lies beside it."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import kills
import pytest
from commands import Command, assert_refused
from places import STATEFUL

from search import cli
from search.errors import JournalError, StudyError
from search.study import records, repair
from search.study.journal import Journal, checksum_of, format_line
from search.study.lock import Lock
from search.study.paths import StudyPaths
from search.study.records import FORMAT
from search.study.repair import Extent, repair_journal
from search.study.study import read_study
from search.study.trial import Objective

BEGUN: list[records.Record] = [
    records.Header(FORMAT, "f00", "t", 0, (Objective("val_loss", "min"),), "/a/b.py", "d", (), {}),
    records.BackendChanged("hyperband", {}),
    records.SearchStarted("host", 1234, {"workers": 1}),
]


def trial_of(number: int) -> list[records.Record]:
    return [
        records.SegmentRequested(number, 0, 2, 0, 0, False, 17),
        records.SegmentStarted(number, 0, 0, 0, 0, 2),
        records.EpochDone(number, 0, 1, {"val_loss": 0.5}, 0.5),
        records.EpochDone(number, 0, 2, {"val_loss": 0.25}, 0.5),
        records.SegmentEnded(number, 0, "reached", 2),
    ]


@pytest.fixture
def paths(tmp_path: Path) -> StudyPaths:
    """Return a study with three trials."""
    made = StudyPaths.of(tmp_path / "runs", "t")
    made.folder.mkdir(parents=True)
    journal = Journal(made.journal)
    for record in (*BEGUN, *trial_of(0), *trial_of(1), *trial_of(2)):
        journal.append([record], 5.0)
    journal.close()
    return made


def damage(path: Path, number: int) -> bytes:
    """Damage a line of a journal. Return the lines before it."""
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number - 1] = lines[number - 1].replace(b'"t":5.0', b'"t":6.0')
    path.write_bytes(b"".join(lines))
    return b"".join(lines[: number - 1])


def test_the_lines_before_the_damage_stay_and_the_old_file_lies_beside(paths: StudyPaths) -> None:
    before = damage(paths.journal, 12)  # the second epoch of trial 1
    whole = paths.journal.read_bytes()
    done = repair_journal(paths)
    assert done is not None
    assert (done.kept, done.lost) == (Extent(11, 2, 3), Extent(7, 1, 2))
    assert paths.journal.read_bytes() == before
    assert done.old == paths.folder / "journal.jsonl.damaged-1"
    assert done.old.read_bytes() == whole
    assert {item.name for item in paths.folder.iterdir()} == {"journal.jsonl", "journal.jsonl.damaged-1", "lock"}
    assert read_study(paths.journal).epochs == 3
    made = Journal(paths.journal)  # the chain goes on
    made.append(trial_of(1)[3:4], 7.0)
    made.close()
    assert read_study(paths.journal).epochs == 4


def test_a_second_repair_keeps_the_first_old_file(paths: StudyPaths) -> None:
    damage(paths.journal, 12)
    first = repair_journal(paths)
    damage(paths.journal, 8)
    second = repair_journal(paths)
    assert first is not None
    assert second is not None
    assert second.old.name == "journal.jsonl.damaged-2"
    assert len(first.old.read_bytes().splitlines()) == 18
    assert len(second.old.read_bytes().splitlines()) == 11


@pytest.mark.parametrize("at", ["link", "replace"])
def test_a_repair_that_was_killed_is_made_again(paths: StudyPaths, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    damage(paths.journal, 12)
    whole = paths.journal.read_bytes()

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*((repair.os, "link") if at == "link" else (Path, "replace")), die)
        with pytest.raises(KeyboardInterrupt):
            repair_journal(paths)
    assert paths.journal.read_bytes() == whole
    done = repair_journal(paths)
    assert done is not None
    assert done.old.name == "journal.jsonl.damaged-1"
    assert done.old.read_bytes() == whole
    assert done.kept.lines == 11


def test_a_file_system_without_links_gets_a_copy(paths: StudyPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(paths.journal, 12)
    whole = paths.journal.read_bytes()

    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(repair.os, "link", refuse)
    done = repair_journal(paths)
    assert done is not None
    assert done.old.read_bytes() == whole


@pytest.mark.parametrize("torn", [b"", b'{"kind":"epoch_done","tri', bytes(300)])
def test_an_undamaged_journal_stays_as_it_is(paths: StudyPaths, torn: bytes) -> None:
    with paths.journal.open("ab") as file:
        file.write(torn)
    before, inode = paths.journal.read_bytes(), paths.journal.stat().st_ino
    assert repair_journal(paths) is None
    assert (paths.journal.read_bytes(), paths.journal.stat().st_ino) == (before, inode)
    assert {item.name for item in paths.folder.iterdir()} == {"journal.jsonl", "lock"}


def forged(body: dict[str, object], previous: bytes) -> bytes:
    text = json.dumps({**body, "t": 5.0, "prev": previous.decode()})[:-1].encode()
    return text + b',"crc":"%08x"}\n' % zlib.crc32(text)


@pytest.mark.parametrize("damaged", [None, 12])
def test_a_journal_of_a_newer_format_is_refused(paths: StudyPaths, damaged: int | None) -> None:
    lines = paths.journal.read_bytes()
    paths.journal.write_bytes(lines + forged({"kind": "sung", "v": FORMAT + 1}, checksum_of(lines)))
    if damaged:
        damage(paths.journal, damaged)
    before = paths.journal.read_bytes()
    with pytest.raises(JournalError, match=r"line 19 was written in format \d+ by a newer version"):
        repair_journal(paths)
    assert paths.journal.read_bytes() == before


def test_a_record_that_does_not_fit_is_damage(paths: StudyPaths) -> None:
    lines = paths.journal.read_bytes()
    line = format_line(trial_of(9)[2], 5.0, checksum_of(lines))
    paths.journal.write_bytes(lines + line + format_line(trial_of(2)[3], 5.0, checksum_of(line)))
    with pytest.raises(JournalError, match=r"line 19 is damaged \(trial 9 has not begun\).*search repair t"):
        read_study(paths.journal)
    done = repair_journal(paths)
    assert done is not None
    assert (done.kept, done.lost) == (Extent(18, 3, 6), Extent(2, 0, 1))
    assert paths.journal.read_bytes() == lines


def test_nothing_is_kept_of_a_study_that_no_search_had_started(paths: StudyPaths) -> None:
    damage(paths.journal, 3)
    before = paths.journal.read_bytes()
    with pytest.raises(StudyError, match=r"nothing can be kept: line 3 of .*--overwrite"):
        repair_journal(paths)
    assert paths.journal.read_bytes() == before


def test_a_journal_that_a_search_writes_is_not_repaired(paths: StudyPaths) -> None:
    damage(paths.journal, 12)
    before = paths.journal.read_bytes()
    lock = Lock(paths.lock)
    try:
        with pytest.raises(JournalError, match=f"study 't' is being run by process {os.getpid()}"):
            repair_journal(paths)
    finally:
        lock.release()
    assert paths.journal.read_bytes() == before


# A real study ---------------------------------------------------------------------------------------------------------

SEARCH = ("--seed", 0, "--workers", 1, "--no-progress", "--checkpoint-every", "0.01")
CUT = 16
"""Epochs after which the study is damaged: some trials have been promoted, and checkpoints lie on the disk."""


@pytest.fixture(scope="module")
def studies(zygote: object, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """Return a folder with a study, `cut`, that was stopped in its middle; and the history of an undisturbed one."""
    folder = tmp_path_factory.mktemp("studies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("search.executors.selection.shared_zygote", zygote)
        patch.setattr("search.report.background.COMMAND", ("true",))
        patch.chdir(folder)
        shutil.copy(STATEFUL, folder)
        for name, more in (("cut", ("--max-total-epochs", CUT)), ("whole", ())):
            arguments = ("run", "stateful.py", "--study", name, *SEARCH, *more)
            assert cli.main([str(argument) for argument in arguments]) == 0
        return folder, kills.history(read_study(StudyPaths.of("runs", "whole").journal))


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [1, 9])
def test_a_repaired_study_goes_on_to_the_results_of_an_undisturbed_search(
    command: Command, studies: tuple[Path, list[Any]], workplace: Path, epoch: int
) -> None:
    """The checkpoints are further than the repaired journal."""
    folder, undisturbed = studies
    shutil.copytree(folder, workplace, dirs_exist_ok=True)
    paths = StudyPaths.of("runs", "cut")
    lines = paths.journal.read_bytes().splitlines(keepends=True)
    damaged = [number for number, line in enumerate(lines) if b'"epoch_done"' in line][epoch]
    lines[damaged] = lines[damaged].replace(b'"epoch"', b'"Epoch"')
    paths.journal.write_bytes(b"".join(lines))
    resume = ("resume", "cut", "--max-total-epochs", 1000, "--workers", 1, "--no-progress")
    words = ("journal.jsonl", f"line {damaged + 1} is damaged", "search repair cut")
    assert_refused(command, *resume, words=words)
    repaired = command("repair", "cut")
    assert (repaired.code, repaired.err) == (0, "")
    assert repaired.out.startswith(f"study cut keeps {damaged} lines of its journal, with ")
    assert f"and {epoch} epoch" in repaired.out
    assert f"lost are {len(lines) - damaged} lines, with " in repaired.out
    assert repaired.out.endswith(".damaged-1. Go on with: search resume cut\n")
    assert command(*resume).code == 0
    kills.assert_same(kills.history(read_study(paths.journal)), undisturbed)
    assert command("repair", "cut").out == "the journal of study cut is not damaged: nothing was changed\n"
