"""Contract kits: what holds for any back end and any executor, to be run on ours and on yours.

class TestMine(BackEndContract):
    def make(self, objective, seed, max_epochs, parameters):
        return Mine(objective, seed, max_epochs=max_epochs)

They are pytest classes; `Simulation`, which they are made of, is the real driver with simulated workers. Outside of
tests, simulated workers are had from `search.executors.simulated`, which does without pytest.
"""

from __future__ import annotations

import pytest

# A kit's assertions say what they compared, like those of a test module.
pytest.register_assert_rewrite(*(f"search.testing.{name}" for name in ("backends", "executors", "simulation")))

from search.executors.simulated import Hp, Run, Scenario, SimulatedExecutor, recorded  # noqa: E402
from search.testing.backends import BackEndContract  # noqa: E402
from search.testing.executors import Conversation, ExecutorContract, MessageContract  # noqa: E402
from search.testing.simulation import Simulation  # noqa: E402

__all__ = [
    "BackEndContract",
    "Conversation",
    "ExecutorContract",
    "Hp",
    "MessageContract",
    "Run",
    "Scenario",
    "SimulatedExecutor",
    "Simulation",
    "recorded",
]
