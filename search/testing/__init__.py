"""Contract kits: tests that every back end, executor, stop rule and follower must pass, ours and yours::

    class TestMine(BackEndContract):
        def make(self, objective, seed, max_epochs, parameters):
            return Mine(objective, seed, max_epochs=max_epochs)

The kits are pytest classes. They run whole searches with `Simulation`: the real driver with simulated workers. Outside
of tests, import simulated workers from `search.executors.simulated`, which does not need pytest.
"""

from __future__ import annotations

import pytest

# A kit's failed assertions show the values that they compared, as in a test module.
pytest.register_assert_rewrite(
    *(
        f"search.testing.{name}"
        for name in (
            *("backends", "conversation", "executors", "followers"),
            *("nodes", "observed", "rules", "simulation"),
        )
    )
)

from search.executors.simulated import Hp, Run, Scenario, SimulatedExecutor, recorded  # noqa: E402
from search.testing.backends import BackEndContract  # noqa: E402
from search.testing.conversation import Conversation  # noqa: E402
from search.testing.executors import ExecutorContract, MessageContract  # noqa: E402
from search.testing.followers import FollowerContract  # noqa: E402
from search.testing.nodes import NodeContract  # noqa: E402
from search.testing.rules import StopRuleContract  # noqa: E402
from search.testing.simulation import Simulation  # noqa: E402

__all__ = [
    "BackEndContract",
    "Conversation",
    "ExecutorContract",
    "FollowerContract",
    "Hp",
    "MessageContract",
    "NodeContract",
    "Run",
    "Scenario",
    "SimulatedExecutor",
    "Simulation",
    "StopRuleContract",
    "recorded",
]
