"""Random kills while a search trains; `python tests/kills.py --kills 200` runs more of them."""

from __future__ import annotations

from pathlib import Path

import kills
import pytest

KILLS = 25
SEED = 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_whatever_is_killed_the_search_is_the_one_that_nobody_disturbed(tmp_path: Path) -> None:
    """At least 25 kills of drivers, workers and zygotes; each study once at least. Its output says what was killed
    when; `python tests/kills.py --seed 0 --study N` repeats one."""
    done = list(kills.studies(KILLS, SEED, None, tmp_path))
    assert sum(count for _, count in done) >= KILLS
    assert {name for name, _ in done} == {name for name, _ in kills.BACKENDS}
