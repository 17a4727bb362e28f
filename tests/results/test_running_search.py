"""The user's side of steering: what a command says is true, whatever became of the search meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from search.errors import OptionError, StudyError, Unavailable
from search.results.running_search import RunningSearch
from search.results.study_results import StudyResults
from search.study.journal import Journal
from search.study.lock import Lock
from search.study.paths import StudyPaths
from search.study.records import FORMAT, Header, SearchPaused
from search.study.request_files import POLL_SECONDS, Received, RequestFolder, SentRequest
from search.study.requests import AddConfigurations, ChangeLimits, PauseSearch, Reply, StopTrial
from search.study.trial import Objective

QUICK = 0.2
"""Seconds to wait for a reply that does not come."""

TAKEN = 3 * POLL_SECONDS
"""Seconds in which the driver takes a request, also on a busy machine."""

HEADER = Header(FORMAT, "uid", "digits", 0, (Objective("loss", "min"),), "", "", (), {})

Answer = Callable[[RequestFolder, Received], None]


class Driver:
    """A process that runs a study, as far as a client sees: its lock, its journal and its folder of requests."""

    def __init__(self, paths: StudyPaths) -> None:
        self.paths = paths
        self.lock = Lock(paths.lock)
        self.journal = Journal(paths.journal)
        self.journal.append([HEADER])
        self.folder = RequestFolder(paths.requests)
        self.folder.open()
        self.received: list[Received] = []

    def die(self) -> None:
        self.lock.release()


@pytest.fixture
def paths(tmp_path: Path) -> StudyPaths:
    return StudyPaths.of(tmp_path, "digits")


@contextmanager
def driven(paths: StudyPaths, answer: Callable[[Driver, Received], None]) -> Iterator[Driver]:
    """Let a thread receive requests and `answer` them, as a search does."""
    driver, over = Driver(paths), threading.Event()

    def receive() -> None:
        while not over.is_set():
            for received in driver.folder.take():
                driver.received.append(received)
                answer(driver, received)
            over.wait(0.02)

    thread = threading.Thread(target=receive)
    thread.start()
    try:
        yield driver
    finally:
        over.set()
        thread.join()
        driver.die()
        driver.journal.close()


def accept(driver: Driver, received: Received) -> None:
    driver.folder.reply(received.id, Reply(True, "it is --max-trials 3"))


def search(paths: StudyPaths, wait: float = 5.0) -> RunningSearch:
    return RunningSearch(paths, "uid", wait)


def test_an_accepted_request_is_told_and_a_refused_one_raises(paths: StudyPaths) -> None:
    with driven(paths, accept) as driver:
        results = StudyResults(paths)
        assert results.add({"rate": 0.5}) == "it is max_trials 3"  # as Python writes it
        assert search(paths).add('[{"rate": 0.5}, {"rate": 1}]') == "it is --max-trials 3"
        assert results.stop(3)
        assert results.pause()
        assert results.continue_()
        assert results.set(max_trials=5, timeout="2h")
    actions = [each.request.action for each in driver.received if each.request is not None]
    assert actions[0] == AddConfigurations(({"rate": 0.5},))
    assert actions[2:4] == [StopTrial(3), PauseSearch()]
    assert actions[5] == ChangeLimits({"max_trials": 5, "timeout": 7200.0})
    assert not any(paths.requests.iterdir())
    with (
        driven(paths, lambda driver, received: driver.folder.reply(received.id, Reply(False, "no: so"))),
        pytest.raises(StudyError, match=r"^no: so$"),
    ):
        search(paths).pause()


def test_a_search_that_does_not_run_is_not_steered(paths: StudyPaths) -> None:
    paths.folder.mkdir()
    with pytest.raises(StudyError, match="study 'digits' is not being searched now: begin with search resume digits"):
        search(paths).pause()
    assert not paths.requests.exists()


def test_a_search_that_takes_no_request_gets_none(paths: StudyPaths) -> None:
    lock = Lock(paths.lock)
    with pytest.raises(Unavailable, match="takes no requests: its search is still beginning, or runs with an older"):
        search(paths, QUICK).pause()
    paths.requests.mkdir()
    with pytest.raises(Unavailable, match=r"did not answer in 0\.2 s: the request is withdrawn, nothing has changed"):
        search(paths, QUICK).pause()
    assert not any(paths.requests.iterdir())
    lock.release()


def test_a_search_on_another_machine_may_be_dead(paths: StudyPaths) -> None:
    paths.requests.mkdir(parents=True)
    paths.lock.write_text('{"host": "elsewhere", "pid": 7}')
    with pytest.raises(Unavailable, match="which may be dead: process 7 on elsewhere ran it last"):
        search(paths, QUICK).pause()


def test_a_search_that_ends_before_it_takes_the_request_says_so_at_once(paths: StudyPaths) -> None:
    driver = Driver(paths)
    timer = threading.Timer(0.1, driver.die)
    timer.start()
    with pytest.raises(StudyError, match="has ended, and did not take the request"):
        RunningSearch(paths, "uid", 60.0).pause()


def test_the_journal_tells_what_became_of_a_request_whose_driver_died(paths: StudyPaths) -> None:
    def die_after_the_record(driver: Driver, received: Received) -> None:
        driver.journal.append([SearchPaused(received.id)])
        driver.die()

    with driven(paths, die_after_the_record):
        line = search(paths).pause()
    assert line == (
        "the request was carried out, though no answer came; the search has ended since, and search resume digits goes "
        "on with it"
    )
    paths.journal.unlink()
    with (
        driven(paths, lambda driver, received: driver.die()),
        pytest.raises(StudyError, match="has not carried out the request: nothing has changed"),
    ):
        search(paths).pause()


def test_a_search_that_hangs_with_a_request_is_no_success(paths: StudyPaths) -> None:
    with driven(paths, lambda driver, received: None), pytest.raises(Unavailable, match="has taken the request and"):
        search(paths, TAKEN).pause()


def test_a_late_answer_counts(paths: StudyPaths) -> None:
    def answer_late(driver: Driver, received: Received) -> None:
        threading.Timer(1.5 * TAKEN, lambda: accept(driver, received)).start()

    with driven(paths, answer_late):
        assert search(paths, TAKEN).pause() == "it is --max-trials 3"


def test_a_stopped_command_says_what_became_of_its_request(paths: StudyPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(paths)

    def interrupt(self: SentRequest) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SentRequest, "reply", interrupt)
    with pytest.raises(KeyboardInterrupt, match="stopped; the request was withdrawn"):
        search(paths).pause()
    assert driver.folder.take() == []
    driver.die()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda study: study.add("{"), "add is not JSON"),
        (lambda study: study.add({}), "add is {}: give values by name"),
        (lambda study: study.add({"a": [1]}), "values that hp gives"),
        (lambda study: study.set(), "no limit is given: give max_trials, timeout, max_total_epochs or target"),
        (lambda study: study.set(max_trials=0), "max_trials is 0: it must be at least 1"),
        (lambda study: study.set(timeout="soon"), "timeout is 'soon': give seconds"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_sent(
    paths: StudyPaths, call: Callable[[Any], Any], words: str
) -> None:
    driver = Driver(paths)
    with pytest.raises(OptionError, match=words):
        call(StudyResults(paths))
    driver.die()
    assert not any(paths.requests.iterdir())
