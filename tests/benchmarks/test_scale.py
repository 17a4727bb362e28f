"""A search on a cluster whose nodes die, as `benchmarks/scale.py` measures it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import scale


@pytest.mark.slow
def test_no_trial_and_no_saved_epoch_is_lost_when_nodes_die_and_the_memory_is_that_of_the_trials() -> None:
    cluster = argparse.Namespace(trials=500, workers=104, nodes=13, deaths=60.0, space="mixed")
    found = scale.measure("hyperband", cluster)
    assert found["trials"] == 500
    assert found["deaths"] > 50
    assert found["moved"] > 200
    assert found["again"] > 200  # deaths cost epochs
    assert found["lost"] == found["below"] == 0
    calm = scale.measure("hyperband", argparse.Namespace(**{**vars(cluster), "deaths": 1e9}))
    assert (calm["epochs"], calm["deaths"], calm["again"]) == (found["epochs"], 0, 0)
    assert found["state"] < 1.1 * calm["state"]
    assert found["state"] < 0.01 * 500  # 10 kB for each trial
