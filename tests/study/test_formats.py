"""Studies of an older or a newer version of search, or of other versions of libraries."""

from __future__ import annotations

import json
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

import search
from search import cli
from search.errors import JournalError
from search.study import formats, journal
from search.study.journal import Journal, format_lines, read
from search.study.record_json import decode
from search.study.records import (
    FORMAT,
    Built,
    Checkpointed,
    EpochDone,
    Header,
    SearchStarted,
    SegmentEnded,
    SegmentRequested,
)
from search.study.study import read_study

FORMATS = Path(__file__).parent / "formats"
AGAIN = ("--workers", "1", "--no-progress")


@pytest.fixture(params=range(1, FORMAT))
def older(workplace: Path, request: pytest.FixtureRequest) -> Path:
    """Copy an older version's study: its budget of 4 epochs ended one epoch before its promoted trial's end."""
    return Path(shutil.copytree(FORMATS / str(request.param) / "older", workplace / "runs" / "older"))


@pytest.fixture
def number(older: Path) -> int:
    """Return the format of `older`."""
    return next(read(older / "journal.jsonl")).format


def line_of(data: dict[str, object]) -> bytes:
    """Return a line with a right checksum."""
    body = json.dumps(data, separators=(",", ":"))[:-1].encode()
    return body + b',"crc":"%08x"}\n' % zlib.crc32(body)


# An older format ------------------------------------------------------------------------------------------------------


def test_every_older_format_has_an_upgrade_and_a_journal() -> None:
    assert len(formats.UPGRADES) == FORMAT - 1
    assert sorted(path.name for path in FORMATS.iterdir()) == [str(number) for number in range(1, FORMAT)]
    for number in range(1, FORMAT):
        for path in (FORMATS / str(number)).glob("*/journal.jsonl"):
            assert {entry.format for entry in read(path)} == {number}


def test_a_fit_that_format_4_called_own_is_a_black_box_if_it_began_anew() -> None:
    data = {"kind": "built", "trial": 0, "weight_count": 7, "own_fit": True}
    found = [
        decode(formats.upgrade({**data, "runner": runner}, 4))
        for runner in ("own fit: begins anew for each segment", "fused")
    ]
    assert [record.black_box for record in found if isinstance(record, Built)] == [True, False]


def test_trials_of_format_4_have_no_parents() -> None:
    data = {"kind": "segment_requested", "trial": 0, "from_epoch": 0, "to_epoch": 1, "seed": 1}
    found = formats.upgrade({**data, "bracket": None, "rung": None, "judged": False}, 4)
    assert (found["parent"], found["values"]) == (None, {})
    assert formats.upgrade({"kind": "trial_imported"}, 4)["begins_after"] == 0


def test_suggestions_and_checkpoints_of_format_5_lack_attributes_and_sizes() -> None:
    found = [entry.record for entry in read(FORMATS / "5" / "older" / "journal.jsonl")]
    assert [record.attributes for record in found if isinstance(record, SegmentRequested)] == [{}] * 4
    assert {record.bytes for record in found if isinstance(record, Checkpointed)} == {0}


def test_segments_of_format_6_lack_the_peak_of_their_memory() -> None:
    found = [entry.record for entry in read(FORMATS / "6" / "older" / "journal.jsonl")]
    assert [record.peak_device_memory for record in found if isinstance(record, SegmentEnded)] == [None] * 4


def test_trials_of_format_7_are_their_back_ends() -> None:
    found = [entry.record for entry in read(FORMATS / "7" / "older" / "journal.jsonl")]
    assert [record.extra for record in found if isinstance(record, SegmentRequested)] == [False] * 4


def test_fields_that_format_1_lacks_have_their_defaults() -> None:
    records = [entry.record for entry in read(FORMATS / "1" / "older" / "journal.jsonl")]
    assert [record.executions for record in records if isinstance(record, SegmentRequested)] == [1, 1, 1, 1]
    assert [record.trained for record in records if isinstance(record, EpochDone)] == [1, 1, 1, 1]
    (began,) = [record for record in records if isinstance(record, SearchStarted)]
    assert began.versions == {}


def test_an_older_study_is_shown(older: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for command in (["status", "older"], ["trials", "older"], ["best", "older"], ["show", "older", "2"]):
        assert cli.main(command) == 0
        said = capfd.readouterr()
        assert said.out
        assert not said.err
    study = search.load_study("older")
    assert [trial.epochs for trial in study.trials] == [1, 1, 2]
    assert study.study.versions["keras"] == "3.15.1"


# The oldest one takes all steps.
@pytest.mark.parametrize(
    "older", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, FORMAT - 1)), FORMAT - 1], indirect=True
)
def test_an_older_study_goes_on(older: Path, number: int, capfd: pytest.CaptureFixture[str]) -> None:
    before = (older / "journal.jsonl").read_bytes()
    curve = [epoch.logs for epoch in search.load_study("older").trials[2].curve]
    assert cli.main(["resume", "older", *AGAIN, "--max-total-epochs", "5"]) == 0
    said = capfd.readouterr().err
    assert (
        said.count(f"\nits journal was written in format {number} and goes on in format {FORMAT}: older versions") == 1
    )
    study = search.load_study("older")
    trial = study.trials[2]
    assert [epoch.logs for epoch in trial.curve[:2]] == curve
    assert (trial.epochs, trial.progress.trained, trial.state) == (3, 3, "completed")  # from its checkpoint, not anew
    assert [phase.backend for phase in study.study.phases] == ["hyperband"]  # the default of its day
    assert len(study.get_best_models()) == 1
    assert (older / "journal.jsonl").read_bytes().startswith(before)
    written = [entry.format for entry in read(older / "journal.jsonl")]
    assert written == sorted(written)
    assert set(written) == {number, FORMAT}
    assert cli.main(["resume", "older", *AGAIN, "--max-total-epochs", "6"]) == 0
    assert "its journal was written in" not in capfd.readouterr().err


# A newer one ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [1, 2, 9])
def test_a_study_with_a_line_of_a_newer_version_is_refused(
    older: Path, line: int, capfd: pytest.CaptureFixture[str]
) -> None:
    path = older / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)[: line - 1]
    newer = line_of({"kind": "unheard_of", "of": "it", "v": FORMAT + 1, "t": 1.0})
    path.write_bytes(b"".join([*lines, newer]))
    message = rf"line {line} was written in format {FORMAT + 1} by a newer version of search.* upgrade keras-search"
    with pytest.raises(JournalError, match=message):
        read_study(path)
    with pytest.raises(JournalError, match=message):
        Journal(path)  # else it would be cut off as a torn tail
    assert path.read_bytes().endswith(newer)
    capfd.readouterr()
    for command in (["status", "older"], ["resume", "older", *AGAIN]):
        assert cli.main(command) == 2
        assert len(capfd.readouterr().err.splitlines()) == 1


def test_a_reader_may_begin_anywhere(older: Path) -> None:
    path = older / "journal.jsonl"
    journal = Journal(path)
    journal.append([SearchStarted("host", 1, {}, {"keras": "4"})] * 2)
    journal.close()
    entries = list(read(path))
    for i, entry in enumerate(entries):
        assert list(read(path, entry.end)) == entries[i + 1 :]


# Other libraries ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("older", [FORMAT - 1], indirect=True)
def test_libraries_that_have_changed_are_named_and_journaled(older: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One older study is enough, as its journal is written anew, in today's format."""
    path = older / "journal.jsonl"
    first, *others = read(path)
    header = first.record
    assert isinstance(header, Header)
    versions = {**header.versions, "keras": "3.9.0", "tensorflow": "2.19.0", "torch": "2.4.0", "gone": "1"}
    records = [replace(header, versions=versions), *(entry.record for entry in others)]
    records = [
        replace(record, versions=versions) if isinstance(record, SearchStarted) else record for record in records
    ]
    path.write_bytes(b"".join(format_lines(records, 1.0)))
    with pytest.warns(UserWarning, match=r"keras 3\.9\.0 \(now .*, tensorflow 2\.19\.0 \(now ") as warned:
        search.get_best_models("older", 2)
    assert len(warned) == 1
    assert cli.main(["resume", "older", *AGAIN, "--max-total-epochs", "5"]) == 0
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("it last ran with ")]
    assert "keras 3.9.0 (now " in line
    assert "tensorflow 2.19.0 (now " in line
    assert "torch" not in line  # does not compute here
    assert "gone" not in line
    began = [entry.record for entry in journal.read(path) if isinstance(entry.record, SearchStarted)][-1]
    assert began.versions["keras"] != "3.9.0"
    assert cli.main(["resume", "older", *AGAIN, "--max-total-epochs", "6"]) == 0
    assert "it last ran with" not in capfd.readouterr().err


def test_a_resumed_study_keeps_its_keras_back_end(older: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["resume", "older", *AGAIN, "--keras-backend", "jax"]) == 2
    *_, line = capfd.readouterr().err.splitlines()
    assert "study 'older' runs with Keras on tensorflow: a resumed study keeps that" in line
