"""The choice of an executor: by the options and by the space file, ours or one of another package."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from search.devices.slots import Slot
from search.driver.source import Source
from search.errors import OptionError
from search.executors import selection
from search.executors.base import ExecutorSetup
from search.options import Options, resolve_options


class Fixed:
    """An executor with two slots, whatever it is asked for."""

    protocol = 2
    slots = 2

    def __init__(self, setup: ExecutorSetup, host: str) -> None:
        if host == "nowhere":
            raise ConnectionError("nothing there")
        self.setup, self.host = setup, host

    def nothing(self, *arguments: Any) -> None:
        pass

    probe = start = send = kill = poll = close = nothing


class OneProcess(Fixed):
    in_process = True


@pytest.fixture(autouse=True)
def _module(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = SimpleNamespace(Fixed=Fixed, OneProcess=OneProcess)
    monkeypatch.setitem(sys.modules, "executors_of_mine", parts)  # type: ignore[arg-type]


def make(tmp_path: Path, **given: Any) -> Any:
    return selection.make_executor(resolve_options(given), (), tmp_path / "log")


def test_an_executor_of_another_package_gets_its_setup_and_its_arguments(tmp_path: Path) -> None:
    made = make(tmp_path, executor="executors_of_mine:Fixed:host=here", workers=2, heartbeat_timeout=60)
    assert made.host == "here"
    assert len(made.setup.slots) == 2
    assert (made.setup.log, made.setup.heartbeat) == (tmp_path / "log", 60.0)


def test_an_executor_that_fails_or_has_other_slots_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"^--executor .*cannot be used \(ConnectionError: nothing there\)"):
        make(tmp_path, executor="executors_of_mine:Fixed:host=nowhere", workers=2)
    made = make(tmp_path, executor="executors_of_mine:Fixed:host=here", workers=2)
    slots = (Slot(0, (), (0,), 1, "CPU 0"),)
    with pytest.raises(OptionError, match="has 2 slots, and the options ask for 1: give --workers 2"):
        selection.set_slots(made, slots, Options(executor="mine"))
    selection.set_slots(made, slots * 2, Options(executor="mine"))


def test_an_executor_in_the_drivers_process_has_one_slot() -> None:
    options = resolve_options({"executor": "executors_of_mine:OneProcess:host=here", "workers": 3})
    assert len(selection.slots_of(options, ())) == 1
    with pytest.raises(OptionError, match=r"leave --executor executors_of_mine:OneProcess:host=here out"):
        selection.slots_of(resolve_options({"executor": options.executor, "logical_devices": 2}), ())


def test_the_executor_of_a_space_file_is_known_before_the_file_runs(tmp_path: Path) -> None:
    (tmp_path / "space.py").write_text('search_options = dict(executor="inline", max_epochs=3)\n')
    assert Source(path=tmp_path / "space.py").early_options() == {"executor": "inline"}
