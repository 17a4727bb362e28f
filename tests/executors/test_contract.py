"""Both executors of this machine, by the same contract."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from search.devices import Slot
from search.executors.inline import InlineExecutor
from search.executors.local import LocalExecutor
from search.testing import ExecutorContract


class TestInline(ExecutorContract):
    @pytest.fixture
    def executor(self) -> Iterator[InlineExecutor]:
        made = InlineExecutor()
        yield made
        made.close()


@pytest.fixture(scope="module")
def local(zygote: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalExecutor]:
    slot = Slot(0, (), (0,), 1, "CPU 0")
    made = LocalExecutor([slot], tmp_path_factory.mktemp("local") / "log.txt", zygote=zygote)
    yield made
    made.close()
    made.close()  # may be called twice


class TestLocal(ExecutorContract):
    @pytest.fixture
    def executor(self, local: LocalExecutor) -> LocalExecutor:
        return local
