"""The executors' contract with workers forked from the process of the tests, which must not have started a framework.

`test_forked_workers.py` runs this file in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import keras
import pytest

from search.devices.slots import Slot
from search.executors.fork_safety import process_facts, why_unsafe
from search.executors.forked_process import ForkOptions
from search.executors.local import LocalExecutor
from search.testing import ExecutorContract


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalExecutor]:
    assert keras.config.backend()  # as a user's script, this process has imported it
    assert why_unsafe(process_facts()) is None
    slot = Slot(0, (), (0,), 1, "CPU 0")
    made = LocalExecutor([slot], tmp_path_factory.mktemp("forked") / "log.txt", fork=ForkOptions())
    yield made
    made.close()


class TestForked(ExecutorContract):
    @pytest.fixture
    def executor(self, forked: LocalExecutor) -> LocalExecutor:
        return forked
