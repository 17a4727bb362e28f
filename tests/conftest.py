"""What all tests share: a quiet framework on one thread, and one zygote for all that train."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from search.worker.process import set_environment

# Before any test imports the framework.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.pop("MLFLOW_TRACKING_URI", None)
set_environment()


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A zygote: importing the framework takes seconds, a fork of who has it milliseconds."""
    from search.executors.local import Zygote

    made = Zygote(tmp_path_factory.mktemp("zygote") / "zygote.log", None)
    yield made
    made.close()


@pytest.fixture
def workplace(zygote: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, where searches share the zygote."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("search.executors.selection.shared_zygote", zygote)
    return tmp_path
