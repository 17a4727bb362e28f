"""The feed of the syncer: whatever is queued, dropped or read from the file, each entry comes once and in order."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from by_hand import completed_trial, study_start

from search.errors import JournalError
from search.study.journal import Entry, Journal, read_all
from search.tracking.mlflow import feed
from search.tracking.mlflow.feed import JournalFeed

RECORDS = [*study_start(), *(record for number in range(20) for record in completed_trial(number, [0.5, 0.6]))]


def take_all(source: JournalFeed, offset: int, limit: int = 1000) -> list[Entry]:
    """Return every entry after byte `offset`, taken `limit` at a time."""
    taken: list[Entry] = []
    while True:
        entries, has_more = source.next(offset, limit)
        assert len(entries) <= limit
        taken += entries
        offset = taken[-1].end if taken else offset
        if not has_more:
            return taken


@pytest.mark.parametrize("capacity", [1000, 7])
@pytest.mark.parametrize("seed", range(20))
def test_each_entry_comes_once_and_in_order(
    seed: int, capacity: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "CAPACITY", capacity)
    rng = random.Random(seed)
    path = tmp_path / "journal.jsonl"
    journal, left, taken = Journal(path), list(RECORDS), []
    journal.append([left.pop(0) for _ in range(rng.randrange(1, 9))])
    source = JournalFeed(path)
    source.open()
    while left:
        entries = journal.append([left.pop(0) for _ in range(min(len(left), rng.randrange(1, 9)))])
        # The file may be read before the driver tells of the entries.
        if rng.random() < 0.3:
            taken += source.next(taken[-1].end if taken else 0, rng.randrange(1, 20))[0]
        source.put(entries)
        if rng.random() < 0.5:
            taken += source.next(taken[-1].end if taken else 0, rng.randrange(1, 20))[0]
    taken += take_all(source, taken[-1].end if taken else 0, 5)
    journal.close()
    assert taken == read_all(path)


def test_queued_entries_need_no_file(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    before = journal.append(RECORDS[:3])
    source = JournalFeed(path)
    source.open()
    assert take_all(source, 0) == before
    entries = journal.append(RECORDS[3:9])
    source.put(entries)
    journal.close()
    path.unlink()
    assert take_all(source, before[-1].end, 2) == entries


def test_a_full_queue_is_dropped_and_the_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "CAPACITY", 5)
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    source = JournalFeed(path)
    source.open()
    source.put(journal.append(RECORDS[:3]))
    offset = take_all(source, 0)[-1].end
    for start in range(3, 30, 3):
        source.put(journal.append(RECORDS[start : start + 3]))
    journal.close()
    moved = path.rename(tmp_path / "elsewhere")
    with pytest.raises(JournalError):
        source.next(offset, 100)
    moved.rename(path)
    assert take_all(source, offset) == read_all(path)[3:]


def test_a_feed_that_is_not_open_reads_the_file_only(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    source = JournalFeed(path)
    taken: list[Entry] = []
    for start in range(0, 12, 3):
        entries = journal.append(RECORDS[start : start + 3])
        source.put(entries)
        assert take_all(source, taken[-1].end if taken else 0) == entries
        taken += entries
    journal.close()
