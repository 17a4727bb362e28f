"""The journal: records come back as they were, and a file that was cut or damaged anywhere is read or refused."""

from __future__ import annotations

import json
import math
import os
import shutil
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.errors import JournalError
from search.space.domain import Condition, Domain, Parameter
from search.study import journal, record_json, records
from search.study.journal import FIRST, Journal, checksum_of, format_line, format_lines, parse_line, read
from search.study.records import FORMAT, Header, TrialEnded
from search.study.trial import Objective

steady = settings(derandomize=True, deadline=None, max_examples=200)

PARAMETERS = (
    Parameter("rate", Domain("float", 1e-5, 0.1, sampling="log"), 0.01),
    Parameter("unit s", Domain("int", 1, 9, 2), 1, (Condition("kind", ("a", None)), Condition("on", (True,)))),
    Parameter("kind", Domain("choice", values=("a", None, 1, 2.5, True), ordered=True), None),
)

EVERY_KIND: list[records.Record] = [
    Header(
        FORMAT,
        "f00",
        "digits",
        0,
        (Objective("val_loss", "min"),),
        "/a/b.py",
        "d",
        PARAMETERS,
        {"keras": "3"},
        ("loss",),
        "me",
    ),
    records.SpaceChanged("d2", PARAMETERS),
    records.BackendChanged("optuna", {"sampler": "tpe", "factor": 3}),
    records.TrialImported(
        "f01", "other", 2, PARAMETERS[:1], {"rate": 0.01}, (0.5, 0.25), "completed", stopped_by_callback=True
    ),
    records.SearchStarted("host", 1234, {"workers": None, "timeout": 1.5}),
    records.DataLoaded({"window": 4, "all": None}, {"train": {"x": "float32[32,4] 0a1b2c3d"}}),
    records.SegmentRequested(3, 1, 9, 2, None, True, 17, initial_values={"x": 0.1, "y": True, "z": None}),
    records.SegmentRequested(4, 0, 1, None, None, False, 5, attributes={"values": {"x": 0.1 + 0.2, "y": [1, None]}}),
    records.Computed(2, {"mean": 0.1 + 0.2, "points": [[1, 5e-324], []]}),
    records.Computed(3, {}, "LinAlgError: no"),
    records.ParameterSet(3, PARAMETERS[1], 3, {"relative": {"x": 0.1}, "trial": {"a": [1, 2]}}),
    records.ParameterSet(3, PARAMETERS[2], None),
    records.SegmentStarted(3, 0, 1, 2, 0, 9),
    records.Built(3, 12345, "fused"),
    records.EpochDone(3, 0, 1, {"loss": 0.1 + 0.2, "val_loss": 5e-324}, 0.5),
    records.Judged(3, 1, True, {"completed_rung_0": 0.25}),
    records.Checkpointed(3, 0, 1, None, stopped_by_callback=True, bytes=4096),
    records.CheckpointDropped(3),
    records.SegmentEnded(3, 0, "failed", 1, 'ValueError: „ünïcode", \u2028 \ud800 and\na new line'),
    records.SegmentEnded(3, 0, "interrupted", 2, peak_device_memory=3_221_225_472),
    records.ResultTold(3, 1, None, "failed"),
    TrialEnded(3, "failed"),
    records.Tested(3, 0, 1, {"loss": 0.5}),
    records.Exported(
        3, 0, 1, {"inputs": [{"name": None, "dtype": "float32", "shape": [-1, 4]}]}, ("keras==3.15.1",), "others"
    ),
    records.SegmentRequested(5, 0, 9, None, None, False, 5, initial_values={"x": 1}, extra=True),
    records.ConfigurationAdded("1-a", {"x": 0.1, "y": True, "z": None}),
    records.TrialStopRequested("1-b", 3),
    records.SearchPaused("1-c"),
    records.SearchContinued("1-d"),
    records.LimitsChanged("1-e", {"timeout": 1.5, "max_trials": 3}),
    records.SearchEnded("done", complete=True, exit_code=0),
    records.TimedOut(3, "it ran for longer than --trial-timeout 60s"),
]


def write(path: Path, *written: records.Record) -> list[bytes]:
    """Write a journal of `written`. Return its lines."""
    made = Journal(path)
    for record in written:
        made.append([record])
    made.close()
    return path.read_bytes().splitlines(keepends=True)


def contents(path: Path) -> list[records.Record]:
    return [entry.record for entry in read(path)]


def test_every_kind_of_record_comes_back(tmp_path: Path) -> None:
    assert {type(record) for record in EVERY_KIND} == set(records.Record.__args__)
    path = tmp_path / "journal.jsonl"
    lines = write(path, *EVERY_KIND)
    assert len(lines) == len(EVERY_KIND)
    for entry, record in zip(read(path), EVERY_KIND, strict=True):
        assert entry.record == record
        assert repr(entry.record) == repr(record)  # 1 is not True, a tuple not a list


def test_numbers_that_json_lacks_come_back(tmp_path: Path) -> None:
    logs = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": -0.0, "e": 1.0}
    lines = write(tmp_path / "j", EVERY_KIND[0], records.EpochDone(0, 0, 1, logs, 1.0))
    record = contents(tmp_path / "j")[1]
    assert isinstance(record, records.EpochDone)
    assert repr(dict(record.logs)) == repr(logs)
    json.loads(lines[1], parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_times_and_offsets(tmp_path: Path) -> None:
    path = tmp_path / "j"
    made = Journal(path, now=lambda: 12.34567)
    made.append(EVERY_KIND[:3])
    made.append(EVERY_KIND[3:5], time=99.0)
    made.close()
    entries = list(read(path))
    assert [entry.time for entry in entries] == [12.3457] * 3 + [99.0] * 2
    assert [entry.record for entry in read(path, entries[1].end)] == EVERY_KIND[2:5]
    assert entries[-1].end == path.stat().st_size


@pytest.mark.parametrize("append", [False, True])
def test_a_tail_torn_at_any_byte_is_dropped(tmp_path: Path, append: bool) -> None:
    path = tmp_path / "j"
    lines = write(path, *EVERY_KIND[:4], EVERY_KIND[12])
    whole = b"".join(lines[:-1])
    for cut in range(len(lines[-1])):
        path.write_bytes(whole + lines[-1][:cut])
        assert contents(path) == EVERY_KIND[:4]
        if append:
            made = Journal(path)
            made.append([EVERY_KIND[14]])
            made.close()
            assert contents(path) == [*EVERY_KIND[:4], EVERY_KIND[14]]


def test_a_tail_of_zeros_is_dropped(tmp_path: Path) -> None:
    """Some file systems leave zeros after a power failure."""
    path = tmp_path / "j"
    write(path, *EVERY_KIND[:4])
    path.write_bytes(path.read_bytes() + bytes(500))
    assert contents(path) == EVERY_KIND[:4]


def test_a_damaged_line_within_is_named(tmp_path: Path) -> None:
    path = tmp_path / "j"
    lines = write(path, *EVERY_KIND[:6])
    for number in range(1, 6):
        damaged = bytearray(lines[number - 1])
        damaged[len(damaged) // 2] ^= 1
        path.write_bytes(b"".join([*lines[: number - 1], bytes(damaged), *lines[number:]]))
        advice = rf"search repair {tmp_path.name} --runs {tmp_path.parent}" if number > 1 else "--overwrite"
        with pytest.raises(JournalError, match=rf"line {number} is damaged.*{advice}"):
            list(read(path))
        with pytest.raises(JournalError, match=f"line {number} "):
            Journal(path)


@pytest.mark.parametrize(
    ("order", "named"),
    [
        ([0, 2, 3], 2),  # lost
        ([1, 2, 3], 1),  # the first lost
        ([0, 1, 1, 2, 3], 3),  # doubled
        ([0, 1, 2, 3, 3], 5),  # the last doubled
        ([0, 2, 1, 3], 2),  # swapped
    ],
)
def test_a_line_that_was_lost_doubled_or_moved_is_named(tmp_path: Path, order: list[int], named: int) -> None:
    path = tmp_path / "j"
    lines = write(path, *EVERY_KIND[:4])
    path.write_bytes(b"".join(lines[number] for number in order))
    for use in (lambda: list(read(path)), lambda: Journal(path)):
        with pytest.raises(
            JournalError, match=rf"line {named} is damaged \(it does not follow the line before it"
        ) as caught:
            use()
        assert "\n" not in str(caught.value)


def test_a_reader_that_begins_within_checks_the_first_line_that_it_reads(tmp_path: Path) -> None:
    path = tmp_path / "j"
    lines = write(path, *EVERY_KIND[:4])
    path.write_bytes(lines[0] + lines[1] + lines[3])
    with pytest.raises(JournalError, match="line 3 is damaged"):
        list(read(path, len(lines[0] + lines[1])))


def test_another_writer_goes_on_with_the_chain(tmp_path: Path) -> None:
    path = tmp_path / "j"
    write(path, *EVERY_KIND[:2])
    write(path, *EVERY_KIND[2:4])
    again = Journal(path, known=list(read(path)))
    again.append(EVERY_KIND[4:5])
    again.close()
    assert contents(path) == EVERY_KIND[:5]


def line_of(body: dict[str, Any]) -> bytes:
    """Return a line with a right checksum."""
    text = json.dumps(body)[:-1].encode()
    return text + b',"crc":"%08x"}\n' % zlib.crc32(text)


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "sung", "t": 0},
        {"kind": "trial_ended", "t": 0},
        {"kind": "trial_ended", "trial": 0, "state": "failed", "colour": "red", "t": 0},
        {"kind": "trial_ended", "trial": 0, "state": "failed"},
        {"kind": "parameter_set", "trial": 0, "parameter": "x", "value": 1, "attributes": {}, "t": 0},
        {"kind": "epoch_done", "trial": 0, "execution": 0, "epoch": 1, "logs": [1], "seconds": 1, "t": 0},
        {"t": 0},
    ],
)
def test_a_record_of_another_version_is_refused_by_line(tmp_path: Path, body: dict[str, Any]) -> None:
    path = tmp_path / "j"
    lines = write(path, *EVERY_KIND[:2])
    body = {**body, "v": FORMAT, "prev": checksum_of(lines[0]).decode()}
    path.write_bytes(lines[0] + line_of(body) + lines[1])
    with pytest.raises(JournalError, match="line 2 "):
        list(read(path))


@steady
@given(st.data())
def test_whatever_is_in_the_file_it_is_read_or_refused(data: st.DataObject) -> None:
    path = Path(FOLDER) / "fuzzed.jsonl"
    lines = list(format_lines(EVERY_KIND, 1.0))
    text = bytearray(b"".join(lines[: data.draw(st.integers(1, len(lines)))]))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        match data.draw(st.sampled_from(["cut", "insert", "flip", "join"])):
            case "cut":
                del text[at : at + data.draw(st.integers(1, 200))]
            case "insert":
                text[at:at] = data.draw(st.binary(max_size=20))
            case "flip" if at < len(text):
                text[at] ^= data.draw(st.integers(1, 255))
            case "join":
                text[at : at + 1] = b"\n"
    path.write_bytes(bytes(text))
    with suppress(JournalError):
        assert all(record in EVERY_KIND for record in contents(path))


@steady
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=5,
    ),
    st.sampled_from(EVERY_KIND),
    st.integers(0, 20),
)
def test_no_record_with_a_right_checksum_breaks_the_reader(value: Any, record: Any, field: int) -> None:
    body = {**record_json.encode(record), "v": FORMAT, "t": 1.0, "prev": FIRST.decode()}
    body[list(body)[field % len(body)]] = value
    path = Path(FOLDER) / "typed.jsonl"
    first = line_of(body)
    path.write_bytes(first + format_line(EVERY_KIND[0], 1.0, checksum_of(first)))
    with suppress(JournalError):
        assert len(contents(path)) == 2


@pytest.mark.parametrize(
    ("record", "place", "value"),
    [
        (record, place, value)
        for record, place, values in (
            (records.SegmentStarted(3, 0, 1, 2, 0, 9), ("execution",), (10**30, 2**31, -1, 1.0, True, None, "0", [])),
            (records.SegmentRequested(3, 1, 9, 2, None, True, 17), ("rung",), (-1, 10**18, False, 0.5, "x")),
            (records.EpochDone(3, 0, 1, {"loss": 0.5}, 0.5), ("epoch",), (10**18, -5, None)),
            (records.EpochDone(3, 0, 1, {"loss": 0.5}, 0.5), ("seconds",), (math.nan, -1.0, 1e308, "1")),
            (records.EpochDone(3, 0, 1, {"loss": 0.5}, 0.5), ("logs", "loss"), (None, True, "1_0", [], 10**400)),
            (records.Built(3, 5, "fused"), ("weight_count",), (-1, 2**63, 0.5)),
            (records.SegmentEnded(3, 0, "failed", 1), ("outcome",), ("sung", None, [])),
            (records.ResultTold(3, 1, 0.5, "failed"), ("score",), (math.nan, math.inf, "1", True)),
            (TrialEnded(3, "failed"), ("state",), ("running", {})),
            (EVERY_KIND[4], ("options",), ([], {"tag": 0.5}, {"tracking_uri": 1})),
            (EVERY_KIND[5], ("values", "window"), ([], {})),
            (EVERY_KIND[10], ("parameter", "domain", "low"), ("1", math.inf, None)),
            (EVERY_KIND[10], ("parameter", "domain", "kind"), ("", "song", None)),
            (EVERY_KIND[10], ("parameter", "domain", "step"), (0, "x")),
            (EVERY_KIND[1], ("parameters", 0, "domain", "low"), (0, -1)),
            (EVERY_KIND[11], ("parameter", "domain", "values"), ([], [[]], None)),
            (EVERY_KIND[15], ("t",), (-1, 1e12, math.nan, True)),
        )
        for value in values
    ],
)
def test_an_impossible_value_is_refused_by_line(
    tmp_path: Path, record: records.Record, place: tuple[Any, ...], value: Any
) -> None:
    first = format_line(EVERY_KIND[0], 1.0)
    body = json.loads(format_line(record, 1.0, checksum_of(first)))
    del body["crc"]
    inside = body
    for name in place[:-1]:
        inside = inside[name]
    inside[place[-1]] = value
    path = tmp_path / "j"
    path.write_bytes(first + line_of(body))
    with pytest.raises(JournalError, match=r"j, line 2 is damaged \(") as caught:
        list(read(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(tmp_path)) + 400


def whole(line: bytes) -> bool:
    """Return whether a line's checksum is right, computed in another way than the reader does."""
    body, crc = line[:-19], line[-19:]
    return crc == b',"crc":"%08x"}\n' % zlib.crc32(body)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw a file that was a journal before damage, or never was one."""
    lines = list(format_lines(EVERY_KIND, 1.0))
    lines = lines[: draw(st.integers(1, len(lines)))]
    for _ in range(draw(st.integers(1, 3))):
        at, other = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        line = lines[at]
        where = draw(st.integers(0, len(line)))
        match draw(st.sampled_from(["twice", "swap", "cut", "crlf", "nul", "bytes", "insert", "join", "blank", "all"])):
            case "twice":
                lines.insert(at, line)
            case "swap":
                lines[at], lines[other] = lines[other], lines[at]
            case "cut":
                lines[at] = line[:where]
            case "crlf":
                lines[at] = line.replace(b"\n", b"\r\n")
            case "nul":
                lines[at] = bytes(draw(st.integers(1, 300)))
            case "bytes":
                lines[at] = draw(st.binary(max_size=60)) + b"\n"
            case "insert":
                lines[at] = (
                    line[:where]
                    + draw(st.sampled_from([b"\xff", b"\x00", b"\r", b"\n", b"\xed\xa0\x80"]))
                    + line[where:]
                )
            case "join":
                lines[at] = line.rstrip(b"\n")
            case "blank":
                lines.insert(at, b"\n")
            case "all":
                lines = [line.replace(b"\n", b"\r\n") for line in lines]
    return b"".join(lines)


@steady
@given(damaged() | st.binary(max_size=400))
def test_each_line_is_read_or_named_and_only_the_last_is_dropped(content: bytes) -> None:
    path = Path(FOLDER) / "damaged.jsonl"
    path.write_bytes(content)
    lines = [line + b"\n" for line in content.split(b"\n")[:-1]] + [content.rpartition(b"\n")[2]]
    lines = [line for line in lines if line]
    before = [b"00000000", *(line[-11:-3] for line in lines)]
    follows = [b'"prev":"' + last + b'"' in line for last, line in zip(before, lines, strict=False)]
    bad = next((n for n, line in enumerate(lines) if not whole(line) or not follows[n]), None)
    if bad is None or (bad == len(lines) - 1 and not whole(lines[bad])):
        assert contents(path) == [parse_line(line)[0] for line in lines[:bad]]
        return
    with pytest.raises(JournalError) as caught:
        contents(path)
    assert str(caught.value).startswith(f"{path}, line {bad + 1} is damaged")
    assert "\n" not in str(caught.value)


def odd(body: str) -> bytes:
    text = body.encode()
    return text + b',"crc":"%08x"}\n' % zlib.crc32(text)


EPOCH = '{"kind":"epoch_done","trial":0,"execution":0,"epoch":1,"seconds":1'


@pytest.mark.parametrize(
    "body",
    [
        f'{EPOCH},"logs":{{"a":1{"0" * 400}}},"t":1',
        f'{EPOCH},"logs":{{"a":1{"0" * 9000}}},"t":1',
        f'{EPOCH},"logs":{"[" * 100_000}{"]" * 100_000},"t":1',
        '{"kind":"era","backend":"x","options":' + '{"a":' * 100_000 + "1" + "}" * 100_000 + ',"t":1',
        f'{EPOCH},"logs":{{}},"t":"noon"',
        f'{EPOCH},"logs":{{}},"t":null',
        f'{EPOCH},"logs":{{}},"t":1e999',
        f'{EPOCH},"logs":{{}},"t":1,"v":1e999',
        f'{EPOCH},"logs":{{}},"t":1,"v":true',
        f'{EPOCH},"logs":{{}},"t":1,"t":[]',
        '{"kind":["era"],"t":1',
        '{"kind":{},"t":1',
        "",
        "{",
        "[1",
        "\x00",
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_nonsense_with_a_right_checksum_is_refused_by_line(tmp_path: Path, body: str, last: bool) -> None:
    """The last line, too: only an incomplete line was torn."""
    path = tmp_path / "j"
    line = format_line(EVERY_KIND[0], 1.0)
    path.write_bytes(line + odd(body) + (b"" if last else line))
    with pytest.raises(JournalError) as caught:
        list(read(path))
    assert str(caught.value).startswith(f"{path}, line 2 is damaged")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 400


FOLDER = ""


@pytest.fixture(autouse=True, scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    global FOLDER
    FOLDER = str(tmp_path_factory.mktemp("fuzz"))


def test_any_text_survives() -> None:
    for text in ("\n", "\r\n", "\x00", "\u2028", '"crc":"', ',"crc":"00000000"}', "\ud83d", "😀"):
        record = records.SegmentEnded(0, 0, "failed", 0, text)
        line = format_line(record, 1.0)
        assert line.count(b"\n") == 1
        assert parse_line(line)[0] == record


def test_a_missing_file_is_an_error_and_an_empty_one_is_not(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="cannot read"):
        list(read(tmp_path / "none"))
    (tmp_path / "empty").touch()
    assert contents(tmp_path / "empty") == []


@pytest.mark.parametrize("how", ["deleted", "moved", "its folder is deleted", "its folder is moved"])
def test_a_journal_that_is_deleted_or_moved_is_written_again(tmp_path: Path, how: str) -> None:
    path, told = tmp_path / "digits" / "journal.jsonl", []
    path.parent.mkdir()
    journal = Journal(path, restored=lambda: told.append(how))
    journal.append(EVERY_KIND[:2])
    journal.flush()
    if how == "deleted":
        path.unlink()
    elif how == "moved":
        path.rename(tmp_path / "elsewhere")
    elif how == "its folder is deleted":
        shutil.rmtree(path.parent)
    else:
        path.parent.rename(tmp_path / "elsewhere")
    journal.append(EVERY_KIND[2:3])
    journal.flush()
    journal.append(EVERY_KIND[3:4])
    path.unlink()
    journal.close()
    assert told == [how, how]
    assert [entry.record for entry in read(path)] == EVERY_KIND[:4]
    assert [item.name for item in path.parent.iterdir()] == ["journal.jsonl"]


@pytest.mark.parametrize("how", ["replaced", "replaced by what it was", "cut", "appended to"])
def test_a_journal_that_another_program_changes_ends_the_writer_and_is_left_alone(tmp_path: Path, how: str) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, now=lambda: 1764370000.0, restored=pytest.fail)
    journal.append(EVERY_KIND[:3])
    journal.flush()
    lines = path.read_bytes()
    if how.startswith("replaced"):
        other = path.with_name("sed")
        other.write_bytes(b"other" if how == "replaced" else lines)
        other.replace(path)
    elif how == "cut":
        os.truncate(path, 10)
    else:
        with path.open("ab") as file:
            file.write(b"hello\n")
    changed = path.read_bytes()
    journal.append(EVERY_KIND[3:4])
    if how == "appended to" or how == "cut":
        changed += path.read_bytes()[len(changed) :]
    with pytest.raises(JournalError, match=r"another program .* while the search ran") as caught:
        journal.flush()
    journal.close()
    assert path.read_bytes() == changed
    if how == "cut":
        assert "own" not in str(caught.value)
        assert list(tmp_path.glob("*.own")) == []
    elif how.startswith("replaced"):
        own = tmp_path / "journal.jsonl.1764370000.own"
        assert own.name in str(caught.value)
        assert [entry.record for entry in read(own)] == EVERY_KIND[:4]


def test_records_reach_the_disk_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(journal.os, "fsync", synced.append)
    now = [100.0]
    made = Journal(tmp_path / "j", now=lambda: now[0])
    for number in range(50):
        made.append([EVERY_KIND[14 if number else 0]])
        now[0] += 0.01
    assert len(contents(tmp_path / "j")) == 50  # a reader has them at once
    assert 1 <= len(synced) <= 3
    made.flush()
    count = len(synced)
    made.flush()
    assert len(synced) == count  # there is nothing new
    now[0] -= 1000  # the clock was set back
    made.append([EVERY_KIND[14]])
    now[0] -= 1000
    made.flush(only_if_due=True)
    assert len(synced) == count + 1
    made.close()


def test_flushes_follow_the_journals_clock_and_not_the_records_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(journal.os, "fsync", synced.append)
    now = [100.0]
    made = Journal(tmp_path / "j", now=lambda: now[0])
    for time in (5.0, 5000.0, 50.0):
        made.append([EVERY_KIND[14]], time)
    assert not synced
    now[0] += 0.3
    made.flush(only_if_due=True)
    assert len(synced) == 1
    made.close()
