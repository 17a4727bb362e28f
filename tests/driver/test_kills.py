"""Random kills while a search trains; `python tests/kills.py --kills 200` runs more of them."""

from __future__ import annotations

from pathlib import Path

import forks
import kills
import pytest

KILLS = 6
SEED = 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_after_any_kills_the_search_equals_an_undisturbed_one(workplace: Path, templates: forks.Templates) -> None:
    """At least 6 kills of drivers, workers and zygotes, at least one for each study.

    The output names each kill. `python tests/kills.py --seed 0 --study N` repeats one study.
    """
    done = list(kills.search_studies(KILLS, SEED, None, workplace, templates))
    assert sum(count for _, count in done) >= KILLS
    assert {name for name, _ in done} == {name for name, _ in kills.BACKENDS}
