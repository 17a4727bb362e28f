"""The process that trains the trials of a factory."""

from __future__ import annotations

from typing import Any

import pytest

from search.driver.placement import Placement, choose_place
from search.executors.forked_process import ForkOptions
from search.options import Options, resolve_options

RUNNING = "TensorFlow is running in this one"


def place(given: dict[str, Any], inherited: tuple[str, ...] = (), **facts: Any) -> Placement:
    opts: Options = resolve_options(given)
    return choose_place(opts, given, inherited=inherited, **{"unsafe": None, **facts})


def test_workers_are_forked_from_here_if_that_is_safe_and_changes_nothing() -> None:
    assert place({}) == place({"workers": 2}) == Placement(fork=ForkOptions(files=False))
    assert place({}, unsafe=RUNNING) == place({}, different="no oneDNN") == Placement()
    assert place({"executor": "inline"}) == place({"executor": "ray"}) == Placement()


def test_an_early_fork_serves_where_none_of_this_moment_does() -> None:
    assert place({}, early=True) == Placement(fork=ForkOptions())
    for why in ({"unsafe": RUNNING}, {"different": "no oneDNN"}):
        assert place({}, early=True, **why) == Placement(early=True)
        assert place({"executor": "ray"}, early=True, **why) == Placement()
    assert place({}, ("x (a Flow)",), unsafe=RUNNING, early=True).inline, "it has no part of the script's memory"
    assert place({}, unsafe=RUNNING, early=True).imported
    assert place({}).imported
    assert not place({}, unsafe=RUNNING).imported


def test_parts_that_do_not_pickle_are_inherited_with_the_files_that_they_read() -> None:
    assert place({}, ("x (a Flow)",)) == Placement(fork=ForkOptions(files=True))
    assert place({"workers": 2}, ("x (a Flow)",), different="no oneDNN").fork is not None


def test_without_a_fork_the_trials_run_here() -> None:
    found = place({}, ("x (a Flow)", "callbacks[1] (a Logger)"), unsafe=RUNNING)
    assert (found.inline, found.fork, found.refused) == (True, None, None)
    assert found.lines == (
        "x (a Flow), callbacks[1] (a Logger) cannot be sent to worker processes, and TensorFlow is running in this "
        "one: trials run here, one at a time",
    )
    assert place({"executor": "inline"}, ("x (a Flow)",), unsafe=RUNNING) == Placement()


@pytest.mark.parametrize("given", [{"workers": 2}, {"gpus": "0"}, {"gpus_per_trial": 2}, {"executor": "local"}])
def test_what_the_user_asks_for_is_not_replaced(given: dict[str, Any]) -> None:
    assert place(given, ("x (a Flow)",), unsafe=RUNNING) == Placement(refused=RUNNING)


def test_other_executors_get_no_such_part() -> None:
    assert "--executor ray" in str(place({"executor": "ray"}, ("x (a Flow)",)).refused)
