"""The worked example in the protocol's docstring passes the contract."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

from search.backends import base
from search.study import records
from search.testing import BackEndContract


def example() -> Any:
    """Return the class that `BackEnd`'s docstring defines."""
    lines = inspect.getdoc(base.BackEnd).splitlines()  # type: ignore[union-attr]
    begin = next(i for i, line in enumerate(lines) if line.lstrip().startswith("class "))
    end = next(i for i, line in enumerate(lines) if line.lstrip().startswith("The calls for its first trial"))
    names = {**vars(base), **vars(records)}
    exec(textwrap.dedent("\n".join(lines[begin:end])), names)
    return names["RandomSearch"]


class TestExample(BackEndContract):
    def make(self, objective, seed, max_epochs, parameters):
        return example()(objective, seed)
