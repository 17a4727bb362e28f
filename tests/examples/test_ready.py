"""Each ready space with one back end and one way of `ready`; `python tests/ready.py` runs all combinations."""

from __future__ import annotations

from pathlib import Path

import forks
import pytest
import ready

PAIRS = [(backend, way) for backend in ready.BACKENDS for way in ready.WAYS]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "backend", "way"), [(space, *PAIRS[i % len(PAIRS)]) for i, space in enumerate(ready.NAMES)]
)
def test_a_ready_space_is_searched(
    space: str, backend: str, way: str, workplace: Path, templates: forks.Templates
) -> None:
    ready.WAYS[way](workplace, space, backend, templates)
