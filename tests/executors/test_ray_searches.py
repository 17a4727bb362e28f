"""Whole searches on Ray clusters, from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("ray")

from ray_clusters import started

import search

SPACES = Path(search.__file__).parents[1] / "spaces"

WITNESS = """
import json, os, time
from pathlib import Path

from digits import build_model, compile_model, fit_options, load_data


def callbacks(hp):
    import keras

    place = {"gpus": os.environ["CUDA_VISIBLE_DEVICES"], "parent": os.getppid()}
    file = Path(__file__).parent / "witness" / f"{os.getpid()}-{time.time_ns()}.json"

    class Witness(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            place.setdefault("begin", time.time())

        def on_epoch_end(self, epoch, logs=None):
            time.sleep(0.2)
            file.write_text(json.dumps({**place, "end": time.time()}))

    return [Witness()]
"""
"""A space file that writes down which GPUs each segment had, in which zygote's worker, and when."""


def begin(folder: Path, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start `search` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", "import sys; from search.cli import main; sys.exit(main())", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SPACES.parent), "CUDA_VISIBLE_DEVICES": "", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition: Callable[[], Any], seconds: float) -> Any:
    """Wait until a condition holds, and return its value."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.2)
    return found


def epochs(folder: Path, study: str) -> int:
    """Return the number of epochs in a study's journal so far."""
    journal = folder / "runs" / study / "journal.jsonl"
    return journal.read_text().count('"epoch_done"') if journal.exists() else 0


def trials(folder: Path, study: str) -> list[dict[str, Any]]:
    found = begin(folder, "trials", study, "--json")
    out, _ = found.communicate()
    document: list[dict[str, Any]] = json.loads(out)
    return document


def overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(one["begin"] < other["end"] and other["begin"] < one["end"])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_node_dies_and_one_joins_and_all_trials_are_completed(tmp_path: Path) -> None:
    (tmp_path / "witness").mkdir()
    (tmp_path / "digits.py").write_text((SPACES / "digits.py").read_text())
    (tmp_path / "witnessed.py").write_text(WITNESS)
    with started() as cluster:
        nodes = [cluster.add_node(num_cpus=1, num_gpus=1) for _ in range(2)]
        run = begin(
            tmp_path,
            *("run", "witnessed.py", "--executor", "ray", "--ray-address", cluster.address),
            *("--backend", "hyperband", "--max-epochs", 4, "--factor", 2, "--seed", 1, "--no-progress"),
        )
        wait_for(lambda: epochs(tmp_path, "witnessed") > 4 or run.poll() is not None, 120)
        cluster.remove_node(nodes[1], allow_graceful=False)
        cluster.add_node(num_cpus=1, num_gpus=2)
        out, _ = run.communicate(timeout=240)
    assert run.returncode == 0, out
    found = trials(tmp_path, "witnessed")
    assert {trial["state"] for trial in found} <= {"completed", "stopped"}, out
    seen = [json.loads(file.read_text()) for file in (tmp_path / "witness").iterdir()]
    assert all(each["gpus"] in ("0", "1") for each in seen)
    assert len({each["parent"] for each in seen}) == 3, out
    places: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for each in seen:
        places.setdefault((each["parent"], each["gpus"]), []).append(each)
    for used in places.values():
        assert not [1 for i, one in enumerate(used) for other in used[:i] if overlap(one, other)]
    study = search.load_study("witnessed", runs=tmp_path / "runs")
    assert study.get_best_models(1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_results_equal_those_of_the_local_executor(tmp_path: Path) -> None:
    curves = []
    through_driver = ("ray", "--ray-address", "local", "--storage", "driver")
    for name, executor in (("local", ("local",)), ("ray", ("ray", "--ray-address", "local")), ("d", through_driver)):
        run = begin(
            tmp_path,
            *("run", SPACES / "digits.py", "--study", name, "--executor", *executor, "--workers", 1),
            *("--max-epochs", 4, "--seed", 3, "--no-progress"),
        )
        out, _ = run.communicate(timeout=240)
        assert run.returncode == 0, out
        found = trials(tmp_path, name)
        curves.append([(trial["params"], trial["epochs"], trial["objective"], trial["state"]) for trial in found])
    assert curves[0] == curves[1] == curves[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_outlives_a_killed_driver(tmp_path: Path) -> None:
    token = uuid.uuid4().hex
    run = begin(
        tmp_path,
        *("run", SPACES / "digits.py", "--study", "killed", "--executor", "ray", "--ray-address", "local"),
        *("--max-epochs", 81, "--no-progress"),
        SEARCH_TOKEN=token,
    )
    wait_for(lambda: epochs(tmp_path, "killed") > 2 or run.poll() is not None, 120)
    assert len(marked(token)) > 3
    run.kill()
    run.communicate()
    wait_for(lambda: not marked(token), 10)


def marked(token: str) -> list[int]:
    """Return the processes whose environment has the token."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SEARCH_TOKEN") == token and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_ends_in_order_if_the_head_dies_and_goes_on_locally(tmp_path: Path) -> None:
    with started(head_cpus=1) as cluster:
        run = begin(
            tmp_path,
            *("run", SPACES / "digits.py", "--study", "headless", "--executor", "ray"),
            *("--ray-address", cluster.address, "--max-epochs", 27, "--seed", 1, "--no-progress"),
        )
        wait_for(lambda: epochs(tmp_path, "headless") > 2 or run.poll() is not None, 120)
        cluster.head_node.kill_gcs_server(check_alive=False)
        out, _ = run.communicate(timeout=60)
    assert run.returncode == 2, out
    assert "does not answer any more" in out
    assert "search resume" in out
    assert "Traceback" not in out
    before = epochs(tmp_path, "headless")
    again = begin(tmp_path, "resume", "headless", "--executor", "local", "--workers", 1, "--no-progress")
    out, _ = again.communicate(timeout=240)
    assert again.returncode == 0, out
    assert epochs(tmp_path, "headless") > before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--executor", "ray", "--ray-address", "127.0.0.1:1"), "127.0.0.1:1: no cluster answers there"),
        (("--executor", "ray", "--ray-address", "ray://h:10001"), "run it on a node of the cluster"),
        (("--executor", "ray", "--gpus", "0"), "--gpus 0: Ray chooses the GPUs"),
        (("--ray-address", "127.0.0.1:1"), "--ray-address goes with --executor ray, and this search uses local"),
    ],
)
def test_bad_input_is_one_line(
    workplace: Path, command: Callable[..., Any], arguments: tuple[str, ...], words: str
) -> None:
    from commands import assert_refused

    assert_refused(command, "run", SPACES / "digits.py", *arguments, words=(words,))


def test_a_missing_ray_is_one_line(
    workplace: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from commands import assert_refused

    for name in [name for name in sys.modules if name.startswith(("search.executors.ray.", "ray."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ("--executor ray needs ray, which is not installed: pip install ray",)
    assert_refused(command, "run", SPACES / "digits.py", "--executor", "ray", words=words)


def test_nothing_imports_ray_without_the_executor(workplace: Path) -> None:
    code = "import sys, search.driver.launch, search.cli, search.executors.selection; print('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
