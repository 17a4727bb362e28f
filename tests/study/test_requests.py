"""Requests and their files: each is carried out once or never, whatever client and driver do in between."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from search.study.request_files import MAX_BYTES, POLL_SECONDS, RequestFolder, SentRequest
from search.study.requests import (
    Action,
    AddConfigurations,
    ChangeLimits,
    ContinueSearch,
    PauseSearch,
    Reply,
    StopTrial,
    decode_reply,
    decode_request,
)

ACTIONS: list[Action] = [
    AddConfigurations(({"rate": 0.1, "on": True, "none": None}, {"name": "ü\ud800"})),
    StopTrial(3),
    PauseSearch(),
    ContinueSearch(),
    ChangeLimits({"max_trials": 3, "timeout": 1.5}),
]
DONE = Reply(True, 'done „ü"')


class Clock:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def opened(folder: Path, clock: Clock | None = None) -> RequestFolder:
    made = RequestFolder(folder, clock or (lambda: 0.0))
    made.open()
    return made


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: type(action).__name__)
def test_a_request_reaches_the_driver_and_its_reply_the_client(tmp_path: Path, action: Action) -> None:
    driver = opened(tmp_path / "requests")
    sent = SentRequest(tmp_path / "requests", "uid", action)
    assert sent.reply() is None
    (received,) = driver.take()
    assert received.request is not None
    assert (received.request.id, received.request.study) == (sent.id, "uid")
    assert repr(received.request.action) == repr(action)
    assert sent.is_claimed
    driver.reply(sent.id, DONE)
    assert f"{sent.id}.taken" not in names(tmp_path / "requests")
    assert sent.reply() == DONE
    assert sent.reply() == DONE
    assert names(tmp_path / "requests") == []


def test_requests_come_in_their_order_and_a_look_is_due_every_fifth_of_a_second(tmp_path: Path) -> None:
    clock = Clock()
    driver = opened(tmp_path, clock)
    assert driver.take() == []
    sent = [SentRequest(tmp_path, "uid", StopTrial(number)) for number in range(5)]
    clock.now += POLL_SECONDS / 2
    assert driver.take() == []
    clock.now += POLL_SECONDS
    assert [received.id for received in driver.take()] == [each.id for each in sent]
    clock.now += POLL_SECONDS
    assert driver.take() == []


def test_a_withdrawn_request_is_never_taken_and_a_taken_one_never_withdrawn(tmp_path: Path) -> None:
    driver = opened(tmp_path)
    withdrawn = SentRequest(tmp_path, "uid", PauseSearch())
    assert withdrawn.withdraw()
    assert not withdrawn.withdraw()
    assert driver.take() == []
    assert names(tmp_path) == []
    driver = opened(tmp_path)
    taken = SentRequest(tmp_path, "uid", PauseSearch())
    assert len(driver.take()) == 1
    assert not taken.withdraw()


def test_client_and_driver_at_once_agree_on_who_was_first(tmp_path: Path) -> None:
    """Both rename the same file, again and again, in two threads."""
    clock = Clock()
    driver = opened(tmp_path, clock)
    taken: list[str] = []
    over = threading.Event()

    def take() -> None:
        while not over.is_set():
            clock.now += 1
            taken.extend(received.id for received in driver.take())

    thread = threading.Thread(target=take)
    thread.start()
    sent = [SentRequest(tmp_path, "uid", PauseSearch()) for _ in range(200)]
    withdrawn = {each.id for each in sent if each.withdraw()}
    over.set()
    thread.join()
    taken.extend(received.id for received in RequestFolder(tmp_path)._claim_all())
    assert withdrawn.isdisjoint(taken)
    assert len(withdrawn) + len(taken) == 200
    assert len(set(taken)) == len(taken)


def test_requests_of_an_earlier_process_are_never_carried_out(tmp_path: Path) -> None:
    folder = tmp_path / "requests"
    opened(folder)
    stale = SentRequest(folder, "uid", PauseSearch())
    (folder / "00000000000000000000-00000000.json").mkdir()  # it cannot be deleted
    driver = opened(folder)
    assert driver.take() == []
    assert not stale.withdraw()
    assert not stale.is_claimed


HOSTILE = [
    (b"{", "it is not JSON"),
    (b"", "it is not JSON"),
    (b"\xff\xfe", "codec can't decode"),
    (b"[" * 100_000, "it is not JSON"),
    (b"[]", "it is no request"),
    (b'{"kind": "pause"}', "it is no request"),
    (b'{"study": "uid", "kind": "fly"}', "this version of search knows no request 'fly'"),
    (b'{"study": "uid", "kind": "paus"}', "Did you mean 'pause'?"),
    (b'{"study": "uid", "kind": ["pause"]}', "knows no request"),
    (b'{"study": "uid", "kind": "pause", "until": 3}', "has other fields"),
    (b'{"study": "uid", "kind": "stop", "trial": true}', "trial is 'True': give the trial's number"),
    (b'{"study": "uid", "kind": "add", "configurations": []}', "it has no configurations"),
    (b'{"study": "uid", "kind": "add", "configurations": [{}]}', "give values by name"),
    (b'{"study": "uid", "kind": "add", "configurations": ["/etc/passwd"]}', "it has no configurations"),
    (b'{"study": "uid", "kind": "add", "configurations": [{"a": [1]}]}', "values that hp gives"),
    (b'{"study": "uid", "kind": "add", "configurations": [{"a": NaN}]}', "values that hp gives"),
    (b'{"study": "uid", "kind": "set", "options": {}}', "it names no limits"),
    (b"x" * (MAX_BYTES + 1), "it is too large"),
]


@pytest.mark.parametrize(("content", "words"), HOSTILE, ids=[words for _, words in HOSTILE])
def test_a_file_without_a_request_is_answered(tmp_path: Path, content: bytes, words: str) -> None:
    driver = opened(tmp_path)
    (tmp_path / f"{1:020d}-0123abcd.json").write_bytes(content)
    for other in ("a.json", f"{1:020d}-0123abcd.part", f"{1:020d}-0123ABCD.json", "note.txt"):
        (tmp_path / other).write_bytes(content)
    (received,) = driver.take()
    assert received.request is None
    assert words in received.error


def test_a_folder_and_a_link_in_the_place_of_a_request_are_answered(tmp_path: Path) -> None:
    driver = opened(tmp_path / "requests")
    (tmp_path / "requests" / f"{1:020d}-0123abcd.json").mkdir()
    (tmp_path / "requests" / f"{2:020d}-0123abcd.json").symlink_to(tmp_path / "nothing")
    found = driver.take()
    assert [received.request for received in found] == [None, None]
    for received in found:
        driver.reply(received.id, Reply(False, received.error))


def test_a_folder_that_is_gone_ends_nothing(tmp_path: Path) -> None:
    driver = RequestFolder(tmp_path / "none")
    assert driver.take() == []
    driver.reply("1", DONE)
    driver.close(DONE)
    with pytest.raises(FileNotFoundError):
        SentRequest(tmp_path / "none", "uid", PauseSearch())


def test_the_end_of_a_search_answers_what_waits(tmp_path: Path) -> None:
    driver = opened(tmp_path)
    sent = SentRequest(tmp_path, "uid", PauseSearch())
    driver.close(Reply(False, "over"))
    assert sent.reply() == Reply(False, "over")


def test_a_reply_that_is_no_reply_is_found() -> None:
    assert decode_request(json.dumps({"study": "u", "kind": "pause"}), "1").action == PauseSearch()
    for text in ("{}", "[]", '{"accepted": 1, "text": ""}', '{"accepted": true}'):
        with pytest.raises(ValueError, match="it is no reply"):
            decode_reply(text)
