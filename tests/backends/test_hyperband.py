from __future__ import annotations

from search.backends.hyperband import Hyperband
from search.testing import BackEndContract


class TestContract(BackEndContract):
    def make(self, objective, seed, max_epochs, parameters):
        return Hyperband(objective, seed, max_epochs=max_epochs)
