"""Contract kits: tests that every back end and every executor must pass, to be run on ours and on yours.

    class TestMine(BackEndContract):
        def make(self, objective, seed, max_epochs, parameters):
            return Mine(objective, seed, max_epochs=max_epochs)

The kits are pytest classes. They run whole searches with `Simulation`: the real driver with simulated workers. Outside
of tests, import simulated workers from `search.executors.simulated`, which does not need pytest.
"""

from __future__ import annotations

import pytest

# A kit's failed assertions show the values that they compared, as in a test module.
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
