"""A search with little room for checkpoints: trials are trained again, and nothing else changes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from commands import Command, assert_refused
from places import STATEFUL, TINY

import search
from search.driver.search_limits import limit_disk
from search.errors import OptionError
from search.options import Options
from search.results.study_results import StudyResults
from search.study.journal import Entry, Journal, read
from search.study.records import CheckpointDropped, Checkpointed, EpochDone, Record, SearchStarted
from search.worker.checkpoint import load_weights

SIZE = 7_500
"""A little more than the bytes of a checkpoint of the tiny space."""
OPTIONS: dict[str, Any] = {
    "backend": "pausing:Pausing:begin=4",
    "objective": "val_loss",
    "max_epochs": 4,
    "max_trials": 6,
    "keep_models": 6,
    "seed": 2,
    "workers": 1,
    "progress": False,
}


@pytest.fixture(scope="module")
def place(zygote: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a folder, made current, with space files."""
    folder = tmp_path_factory.mktemp("disk")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("search.executors.selection.shared_zygote", zygote)
        shutil.copy(TINY, folder / "space.py")
        shutil.copy(STATEFUL, folder / "stateful.py")
        yield folder


@pytest.fixture(scope="module")
def paused(place: Path) -> StudyResults:
    """Return a search with room for two checkpoints, which was stopped in the middle."""
    return search.run(place / "space.py", study="bound", disk=2 * SIZE, **{**OPTIONS, "max_total_epochs": 12})


@pytest.fixture(scope="module")
def bound(paused: StudyResults, place: Path) -> StudyResults:
    """Return the same search at its end."""
    return search.run(place / "space.py", study="bound", resume=True, **{**OPTIONS, "max_total_epochs": 1000})


def described(study: StudyResults) -> list[Any]:
    return [(t.number, t.params, t.state, [(e.epoch, dict(e.logs)) for e in t.curve]) for t in study.trials]


def records(study: StudyResults) -> list[Record]:
    return [entry.record for entry in read(study.paths.journal)]


def dropped(study: StudyResults) -> list[int]:
    return [record.trial for record in records(study) if isinstance(record, CheckpointDropped)]


def assert_same(study: StudyResults, other: StudyResults) -> None:
    """Check that two searches have the same trials, curves and best weights, bit for bit."""
    assert described(study) == described(other)
    for trial in study.trials:
        for number in range(len(trial.executions)):
            paths = [each.paths.trial(trial.number).best(number) for each in (study, other)]
            assert paths[0].exists() == paths[1].exists()
            if paths[0].exists():
                first, second = map(load_weights, paths)
                assert (first.epoch, first.value) == (second.epoch, second.value)
                for one, two in zip(first._arrays, second._arrays, strict=True):
                    np.testing.assert_array_equal(one, two)


@pytest.mark.slow
def test_checkpoints_that_were_dropped_are_no_more_on_the_disk(paused: StudyResults) -> None:
    trials = [trial for trial in paused.trials if trial.state == "paused"]
    kept = {trial.number for trial in trials if not trial.dropped}
    assert len(trials) > len(kept) > 0
    files = {int(path.parent.name): path for path in paused.paths.trials.glob("*/checkpoint-*")}
    assert files.keys() == kept
    last = {r.trial: r.bytes for r in records(paused) if isinstance(r, Checkpointed)}
    assert {number: path.stat().st_size for number, path in files.items()} == {n: last[n] for n in kept}
    assert sum(last[trial.number] for trial in trials if trial.number in kept and not trial.open) <= 2 * SIZE


@pytest.mark.slow
def test_show_says_that_a_checkpoint_was_dropped(paused: StudyResults, command: Command) -> None:
    number = next(trial.number for trial in paused.trials if trial.dropped)
    assert "checkpoint: dropped; if the trial goes on" in command("show", "bound", number).out


@pytest.mark.slow
def test_the_options_are_journaled_in_bytes_and_kept(bound: StudyResults) -> None:
    starts = [record for record in records(bound) if isinstance(record, SearchStarted)]
    assert [start.options["disk"] for start in starts] == [2 * SIZE] * 2


@pytest.mark.slow
def test_a_search_with_little_room_equals_one_with_much(bound: StudyResults, place: Path) -> None:
    free = search.run(place / "space.py", study="free", **OPTIONS)
    assert_same(bound, free)
    gone_on = [t for t in set(dropped(bound)) if bound.trials[t].progress.trained > bound.trials[t].epochs]
    assert gone_on, "no dropped trial went on"
    assert free.study.trained == free.study.epochs == bound.study.epochs < bound.study.trained
    assert dropped(free) == []


def test_by_default_it_is_a_fifth_of_what_is_free(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**11))
    probed: Any = SimpleNamespace(checkpoint_bytes=SIZE)
    ranking, other = Options(backend=OPTIONS["backend"]), Options(backend="hyperband")
    opts, lines = limit_disk(ranking, probed, place)
    assert (opts.disk, limit_disk(other, probed, place)) == (2 * 10**10, (other, []))
    assert lines == [
        "checkpoints of paused trials take 20GB at most, a fifth of what is free: another limit is given with --disk"
    ]
    assert limit_disk(opts, probed, place) == (opts, ["checkpoints of paused trials take 20GB at most"])


def test_a_limit_below_one_checkpoint_is_refused_at_the_start(place: Path, command: Command) -> None:
    words = ("--disk is 100B, and the checkpoint of one trial takes", "give room for several")
    arguments = ("run", "space.py", "--backend", "pausing:Pausing", "--study", "small", "--no-progress")
    assert_refused(command, *arguments, "--disk", "100B", words=words)
    twice = Options(backend="pausing:Pausing", executions_per_trial=2, disk=SIZE)
    with pytest.raises(OptionError, match="takes 15kB"):
        limit_disk(twice, SimpleNamespace(checkpoint_bytes=SIZE), place)


@pytest.mark.slow
def test_a_limit_below_the_first_checkpoint_ends_the_search(place: Path, command: Command) -> None:
    arguments = ("run", "space.py", "--backend", "pausing:Pausing", "--study", "less", "--no-progress", "--seed", "0")
    outcome = command(*arguments, "--disk", "2kB")
    assert outcome.code == 2
    line = outcome.err.splitlines()[-1]
    assert "the checkpoint of trial 0 takes" in line
    assert "--disk is 2kB: resume with a larger one" in line
    assert command("resume", "less", "--no-progress", "--disk", "1MB", "--max-trials", "1").code == 0


# Whatever happens -----------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The end of the driver, as by a kill."""


@pytest.mark.slow
def test_killed_while_it_is_trained_again_a_trial_is_the_same(
    place: Path, bound: StudyResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills, gone = 0, set[int]()
    append = Journal.append

    def append_and_die(self: Journal, found: Any, time: float | None = None) -> list[Entry]:
        nonlocal kills
        entries = append(self, found, time)
        for entry in entries:
            match entry.record:
                case CheckpointDropped():
                    gone.add(entry.record.trial)
                case EpochDone(epoch=1) if entry.record.trial in gone:
                    gone.discard(entry.record.trial)
                    kills += 1
                    raise Killed
        return entries

    monkeypatch.setattr(Journal, "append", append_and_die)
    for _ in range(9):
        try:
            study = search.run(place / "space.py", study="killed", disk=2 * SIZE, resume=True, **OPTIONS)
            break
        except Killed:
            continue
    assert kills
    assert_same(study, bound)


@pytest.mark.slow
def test_callbacks_with_state_and_several_executions_are_trained_again_to_the_bit(place: Path) -> None:
    options = {**OPTIONS, "direction": "min", "executions_per_trial": 2}
    free, bound = (
        search.run(place / "stateful.py", study=f"stateful-{disk}", disk=disk, **options) for disk in ("1GB", "50kB")
    )
    assert dropped(bound)
    assert_same(free, bound)
