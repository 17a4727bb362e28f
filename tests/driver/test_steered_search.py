"""A real search in a process of its own, steered from this one, killed, and resumed."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import forks
import psutil
import pytest
from commands import Command

import search
from search.study.journal import read
from search.study.records import SearchContinued, SearchPaused, SegmentStarted
from search.study.study import Study

SPACE = Path(__file__).parents[1] / "spaces" / "slow.py"
CODE = "import sys; from search import cli; sys.exit(cli.main(sys.argv[1:]))"
ARGUMENTS = ("--workers", "2", "--gpus", "none", "--no-progress", "--seed", "1", "--backend", "asha")


@contextmanager
def process(templates: forks.Templates, log: Path, *arguments: str) -> Iterator[forks.Process]:
    """Run a search in a process of its own, which is killed in the end if it still runs."""
    command = [sys.executable, "-c", CODE, *arguments, *ARGUMENTS]
    environment = {**os.environ, "EPOCH_SECONDS": "0.2"}
    with log.open("ab") as output:
        made = forks.start(templates.address("driver"), command, env=environment, output=output.fileno())
    try:
        yield made
    finally:
        made.kill()
        made.wait()


def study() -> Study:
    return search.load_study("slow").study


def wait_for(condition: Callable[[], bool], seconds: float = 150.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it takes too long"
        time.sleep(0.1)


def has_begun() -> bool:
    return Path("runs/slow/journal.jsonl").exists() and study().epochs > 2


def workers(pid: int) -> int:
    """Return the number of worker processes: the zygote's children, each in its own slot."""
    (zygote,) = psutil.Process(pid).children()
    return len(zygote.children())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_search_is_steered_from_another_process_killed_and_resumed(
    workplace: Path, templates: forks.Templates, command: Command
) -> None:
    shutil.copyfile(SPACE, "slow.py")
    log = workplace / "log.txt"
    with process(templates, log, "run", "slow.py", "--max-trials", "40", "--max-epochs", "4") as driver:
        wait_for(has_begun)
        added = command("add", "slow", '{"learning_rate": 0.05, "units": 7}')
        assert (added.code, added.err) == (0, "")
        assert added.out.startswith('added {"learning_rate": 0.05, "units": 7}: the next new trial has it')
        wrong = command("add", "slow", '{"learning_rat": 0.05}')
        assert (wrong.code, wrong.out) == (2, "")
        assert "Did you mean 'learning_rate'?" in wrong.err
        assert command("stop", "slow", 0).code == 0
        assert search.load_study("slow").set(max_trials=12).startswith("set max_trials 12: it holds from now on")
        paused = command("pause", "slow")
        assert "the workers end and free their memory" in paused.out
        # The running epochs end, and the workers.
        wait_for(lambda: workers(driver.pid) == 0)
        begun = len(study().trials)
        at = study().seconds(time.time())
        time.sleep(1)
        assert study().paused
        assert study().seconds(time.time()) == at
        assert "paused, process" in command("status", "slow").out
        assert command("add", "slow", '{"units": 9}').code == 0
        driver.kill()
        driver.wait()
    assert len(study().trials) == begun
    gone = command("continue", "slow")
    assert (gone.code, gone.out) == (2, "")
    assert "is not being searched now" in gone.err
    with process(templates, log, "resume", "slow") as driver:
        wait_for(lambda: "the search is paused, and begins no work" in log.read_text())
        assert study().options["max_trials"] == 12
        assert command("continue", "slow").out == "the search goes on\n"
        assert driver.wait(120) == 0
    found = study()
    initial = [trial.values.initial for trial in found.trials.values() if trial.values.initial]
    assert initial == [{"learning_rate": 0.05, "units": 7}, {"units": 9}]
    assert len(found.trials) == 12
    assert found.trials[0].progress.stop_requested
    assert found.trials[0].state == "completed"
    records = [entry.record for entry in read(Path("runs/slow/journal.jsonl"))]
    place = next(i for i, record in enumerate(records) if isinstance(record, SearchPaused))
    again = next(i for i, record in enumerate(records) if i > place and isinstance(record, SegmentStarted))
    assert any(isinstance(record, SearchContinued) for record in records[place:again])
