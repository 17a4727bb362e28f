"""Shared settings and fixtures: a quiet framework on one thread, and one zygote for all tests that train."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from search.worker.process import set_environment

if TYPE_CHECKING:
    from commands import Command
    from forks import Templates

# These must be set before any test imports the framework.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
# By default Ray's workers give way to all other processes: beside other tests on few cores, they would hardly run.
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.pop("MLFLOW_TRACKING_URI", None)
set_environment()

pytest.register_assert_rewrite("commands", "stores")

LONGEST = (
    *("test_keras_io", "test_slurm", "test_freeze_thaw", "test_ready", "test_ray_searches", "test_doc_pages"),
    *("test_kills", "test_damages", "test_faults", "test_scalars_jax", "test_fused_jax", "test_model_state"),
)
"""The modules that take minutes in the slow suite. If one came last, one process would run it and the others wait."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest modules come first."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Yield a zygote: importing the framework takes seconds, forking a process that has it milliseconds."""
    from search.executors.zygotes import Zygote

    made = Zygote(tmp_path_factory.mktemp("zygote") / "zygote.log", None)
    yield made
    made.close()


@pytest.fixture(scope="session")
def templates() -> Iterator[Templates]:
    """Yield templates of processes: a fork of one is a new process that need not import the framework."""
    from forks import Templates

    made = Templates()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def no_report(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process that writes a search's report do nothing, as it takes a second, unless the test is for it."""
    if "reports" not in request.fixturenames:
        monkeypatch.setattr("search.report.background.COMMAND", ("true",))


@pytest.fixture
def reports() -> None:
    """Let searches write their reports."""


@pytest.fixture
def workplace(zygote: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder, made current, in which searches share the zygote."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("search.executors.selection.shared_zygote", zygote)
    return tmp_path


@pytest.fixture
def forked_checks(templates: Templates, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the fresh processes that check exports be forks of one that has imported Keras."""
    import forks

    def run(code: str, environment: Mapping[str, str], output: int) -> int:
        return forks.start(templates.address("keras"), ["python", "-c", code], env=environment, output=output).wait()

    monkeypatch.setattr("search.results.export_check.run_python", run)


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs a command in this process."""
    from commands import Outcome, without_waits

    from search import cli

    def run(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Outcome(code, out, without_waits(err))

    return run
