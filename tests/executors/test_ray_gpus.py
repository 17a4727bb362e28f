"""GPUs of a cluster that others use: their slots stay closed until the GPUs are free."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray")

from fake_gpus import fake_smi, make_gpus
from ray_clusters import Bench, started

from search.errors import OptionError
from search.executors.ray import watch
from search.executors.ray.plan import Wanted
from search.messages import SlotOpened

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ALL = "".join(f"{gpu.uuid}, {os.getpid()}, 61640, [Not Found]\n" for gpu in make_gpus(2))
FIRST = ALL.partition("\n")[0] + "\n"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Yield an executor on a node with two GPUs, both of which this process uses."""
    monkeypatch.setattr(watch, "USERS_SECONDS", 0.5)
    gpus = "".join(f"{gpu.index}, {gpu.uuid}, 143771, 61700, {gpu.name}\n" for gpu in make_gpus(2))
    fake_smi(tmp_path, monkeypatch, gpus, ALL)
    with started() as cluster:
        cluster.add_node(num_cpus=2, num_gpus=2)
        made = Bench(cluster, tmp_path, Wanted())
        yield made
        made.close()


def test_gpus_that_others_use_are_left_out_until_they_are_free(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OptionError, match=rf"no GPU is free: others use .* GPU . by process {os.getpid()} "):
        bench.executor.wait_for_slot()
    (tmp_path / "apps.csv").write_text(FIRST)
    opened = bench.until(lambda event: isinstance(event[2], SlotOpened))
    assert isinstance(opened[2], SlotOpened)
    assert opened[2].label.endswith("GPU 1")
    assert f" GPU 0 by process {os.getpid()} (" in capsys.readouterr().err
    (tmp_path / "apps.csv").write_text("")
    assert bench.until_message(1 - opened[0], SlotOpened).label.endswith("GPU 0")
