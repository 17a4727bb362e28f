"""Contract kits: what holds for any back end and any executor, to be run on ours and on yours.

class TestMine(BackEndContract):
    def make(self, objective, seed, max_epochs, parameters):
        return Mine(objective, seed, max_epochs=max_epochs)

They are pytest classes; `Simulation`, which they are made of, drives the real controller with simulated workers.
"""

from __future__ import annotations

from search.testing.backends import BackEndContract
from search.testing.executors import Conversation, ExecutorContract
from search.testing.simulation import Hp, Scenario, Simulation

__all__ = ["BackEndContract", "Conversation", "ExecutorContract", "Hp", "Scenario", "Simulation"]
