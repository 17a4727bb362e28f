"""The contract of executors, kept by `ray` on a cluster that is started once for this file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("ray")

from search.executors.base import ExecutorSetup
from search.executors.ray import cluster
from search.executors.ray.executor import RayExecutor
from search.options import Options
from search.testing import ExecutorContract

OPTIONS = Options(executor="ray", ray_address="local", workers=1)


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayExecutor]:
    slots = RayExecutor.find_slots(OPTIONS)
    log = tmp_path_factory.mktemp("ray") / "search.log"
    made = RayExecutor.from_setup(ExecutorSetup(slots, log, options=OPTIONS))
    made.wait_for_slot()
    made.poll(lambda *_: None, 0)  # the slot's opening
    yield made
    made.close()


@pytest.mark.slow
class TestRay(ExecutorContract):
    def test_a_second_connection_is_the_first_one(self, executor: RayExecutor) -> None:
        assert cluster.connect(OPTIONS) is cluster.connect(OPTIONS)
