"""Contract kits: what holds for any back end and any executor, to be run on ours and on yours.

class TestMine(BackEndContract):
    def make(self, objective, seed, max_epochs, parameters):
        return Mine(objective, seed, max_epochs=max_epochs)

They are pytest classes; `Simulation`, which they are made of, drives the real controller with simulated workers.
"""

from __future__ import annotations

import pytest

# A kit's assertions say what they compared, like those of a test module.
pytest.register_assert_rewrite(*(f"search.testing.{name}" for name in ("backends", "executors", "simulation")))

from search.testing.backends import BackEndContract  # noqa: E402
from search.testing.executors import Conversation, ExecutorContract  # noqa: E402
from search.testing.simulation import Hp, Scenario, Simulation  # noqa: E402

__all__ = ["BackEndContract", "Conversation", "ExecutorContract", "Hp", "Scenario", "Simulation"]
