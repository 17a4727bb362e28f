"""The worked example in the protocol's docstring passes the contract."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

from search.backends import base
from search.testing import BackEndContract


def example() -> Any:
    """Return the class that `BackEnd`'s docstring defines."""
    section = (inspect.getdoc(base.BackEnd) or "").partition("Example:\n")[2]
    names: dict[str, Any] = {}
    exec(textwrap.dedent(section.partition("::\n")[2]), names)
    return names["RandomSearch"]


class TestExample(BackEndContract):
    def make(self, objective, seed, max_epochs, parameters):
        return example()(objective, seed)
