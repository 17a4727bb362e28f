"""Processes that die or hang in the probe and in the final evaluation: tried again, ended, and named."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import forks
import kills
import psutil
import pytest
from places import TINY

import search
from search.errors import SpaceError

OPTIONS: dict[str, Any] = {"seed": 0, "workers": 1, "progress": False, "max_trials": 2, "max_epochs": 1}

FATE = """

import os, signal, time
from pathlib import Path
import search

_build = build_model


def build_model(hp):
    order = Path(__file__).with_name("order")
    trained = any(Path(__file__).parent.glob("runs/*/trials/*/best-0.npz"))
    if order.exists() and trained and search.trial_dir().name.startswith("search-"):  # in the final evaluation
        meet(order)
    return _build(hp)


def meet(order):
    with order.with_name("met").open("a") as file:
        print(os.getpid(), file=file, flush=True)
    how = order.read_text()
    if how == "once":
        order.unlink()
    if how == "hang":
        time.sleep(1000)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def space(workplace: Path) -> Path:
    path = workplace / "space.py"
    path.write_text(TINY.read_text() + FATE)
    return path


@pytest.mark.slow
def test_a_final_evaluation_whose_process_dies_is_tried_again(space: Path, capfd: pytest.CaptureFixture[str]) -> None:
    space.with_name("order").write_text("once")
    study = search.run(space, study="dies", **OPTIONS)
    assert len((space.parent / "met").read_text().split()) == 1
    assert study.paths.model.exists()
    assert "missing" not in capfd.readouterr().err


@pytest.mark.slow
def test_a_final_evaluation_whose_process_dies_again_is_named_and_a_resume_evaluates(
    space: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    space.with_name("order").write_text("always")
    study = search.run(space, study="dies", **OPTIONS)
    assert len((space.parent / "met").read_text().split()) == 2
    assert not study.paths.model.exists()
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "best model" in line]
    assert line.endswith(
        "'s best model: its process was ended by SIGKILL, out of memory? (missing: model.keras): to try again: "
        "search.run(…, resume=True)"
    )
    space.with_name("order").unlink()
    search.run(space, study="dies", resume=True, **OPTIONS)
    assert study.paths.model.exists()


def begin(folder: Path, templates: forks.Templates, *more: str) -> forks.Process:
    """Start a search in a process of its own."""
    options = ["--study", "hangs", "--seed", "0", "--workers", "1", "--max-trials", "2", "--max-epochs", "1"]
    return kills.start_driver(folder, ["run", "space.py", *options, "--no-progress", *more], (), templates)


def said(folder: Path) -> str:
    return (folder / "output.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_a_final_evaluation_that_hangs_is_ended_by_its_timeout_or_by_the_user(
    space: Path, templates: forks.Templates, times: int
) -> None:
    space.with_name("order").write_text("hang")
    met = space.parent / "met"
    driver = begin(space.parent, templates, *(["--trial-timeout", "5s"] if times == 1 else []))
    wait_until(lambda: met.exists() and "evaluating the best trials …" in said(space.parent))
    worker = psutil.Process(int(met.read_text()))
    for _ in range(times):
        os.kill(driver.pid, signal.SIGINT)
        time.sleep(0.2)
    began = time.monotonic()
    code = driver.wait(30)
    output = said(space.parent)
    assert "stopping when the running evaluations end" in output
    if times == 1:
        assert "no end in time (--trial-timeout 5s) (missing: model.keras)" in output
    else:
        assert code == 130
        assert time.monotonic() - began < 5
    wait_until(lambda: not worker.is_running(), 5)


@pytest.mark.slow
@pytest.mark.parametrize("code", ["time.sleep(1000)", "ctypes.PyDLL(None).sleep(1000)", "os.kill(os.getpid(), 19)"])
def test_a_probe_that_hangs_is_named_and_ended_by_the_user(
    workplace: Path, templates: forks.Templates, code: str
) -> None:
    (workplace / "space.py").write_text(
        f"import ctypes, os, time\nopen('met', 'w').write(str(os.getpid()))\n{code}\n{TINY.read_text()}"
    )
    driver = begin(workplace, templates)
    wait_until(lambda: "running space.py …" in said(workplace) and (workplace / "met").exists())
    worker = psutil.Process(int((workplace / "met").read_text()))
    os.kill(driver.pid, signal.SIGINT)
    assert driver.wait(5) == 130
    assert "Traceback" not in said(workplace)
    wait_until(lambda: not worker.is_running(), 5)


@pytest.mark.slow
def test_a_probe_takes_no_longer_than_a_trial_may(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.driver.launch.PROBE_SECONDS", 1.0)
    (workplace / "space.py").write_text(f"import time\ntime.sleep(1000)\n{TINY.read_text()}")
    with pytest.raises(SpaceError, match=r"the probe came to no end \(the probe took longer than 1s: did it hang\?\)"):
        search.run(workplace / "space.py", trial_timeout="1s", **OPTIONS)


def wait_until(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
