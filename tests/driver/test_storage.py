"""Searches whose trials' files lie behind a URL: the same results, nothing lost with a machine, no secret told."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from commands import Command, assert_refused, contents
from places import STATEFUL, TINY

from search.errors import Unavailable
from search.results.study_results import StudyResults, load_study
from search.storage.objects import TrialObjects
from search.study import journal
from search.study.paths import StudyPaths
from search.study.records import EpochDone, SearchStarted

ARGUMENTS = ("--seed", 4, "--workers", 1, "--max-epochs", 3, "--max-trials", 4, "--no-progress")
SECRET = "memory://KEY:SECRET@bucket/studies?token=T0KEN"


def curves(results: StudyResults) -> dict[int, Any]:
    """Return the values and the logs of each trial."""
    return {
        t.number: (t.state, t.params, [[(r.epoch, r.logs) for r in e.curve] for e in t.executions])
        for t in results.trials
    }


def test_a_search_with_storage_has_the_same_results_and_keeps_its_best_models_at_home(
    workplace: Path, command: Command
) -> None:
    inline = ("run", TINY, *ARGUMENTS, "--executor", "inline", "--keep-models", 2)
    assert command(*inline, "--study", "plain").code == 0
    stored = command(*inline, "--study", "stored", "--storage", SECRET)
    assert stored.code == 0, stored.err
    plain, found = load_study("plain"), load_study("stored")
    assert curves(found) == curves(plain)
    best = [trial.number for trial in found.best_trials(2)]
    assert {int(path.parent.name) for path in found.paths.trials.glob("*/best-*")} == set(best)
    assert not list(found.paths.trials.glob("*/checkpoint-*"))
    assert found.paths.model.exists()
    for path in found.paths.trials.glob("*/best-*"):
        assert path.read_bytes() == (plain.paths.folder / path.relative_to(found.paths.folder)).read_bytes()
    # MLflow has them, too, and nobody has the credentials.
    weights = [path for path in Path("runs/mlartifacts").rglob("weights.npz") if "stored" in str(path)]
    assert len(weights) == 2
    for path, content in contents(workplace).items():
        assert b"SECRET" not in content, path
        assert b"T0KEN" not in content, path
    assert "SECRET" not in stored.err + stored.out
    starts = [e.record for e in journal.read(found.paths.journal) if isinstance(e.record, SearchStarted)]
    assert starts[0].options["storage"] == "memory://bucket/studies"
    # What no trial can need any more is deleted there.
    left = {Path(path).name for path in fsspec.filesystem("memory").find("/KEY:SECRET@bucket/studies")}
    assert not [name for name in left if name.startswith(("checkpoint-", "model.keras"))]
    assert {name for name in left if name.startswith("best-")} == {"best-0.npz"}
    line = assert_refused(command, "resume", "stored", "--storage", "memory://other", words=("keeps that",))
    assert "has its files in memory://bucket/studies" in line


def test_a_storage_that_goes_away_costs_checkpoints_at_most(
    workplace: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("run", TINY, *ARGUMENTS, "--executor", "inline", "--max-trials", 1, "--max-epochs", 3)
    stored = (*arguments, "--backend", "optuna", "--checkpoint-every", 0, "--storage", "memory://away")
    put, away = TrialObjects.put, [True]

    def unreliable(self: TrialObjects, files: Any, gone: Any = ()) -> Any:
        if away[0]:
            raise Unavailable("storage memory://away does not answer (OSError)")
        return put(self, files, gone)

    monkeypatch.setattr(TrialObjects, "put", unreliable)
    monkeypatch.setattr("search.storage.trial_files.RETRY_SECONDS", 0.0)
    outcome = command(*stored)
    assert outcome.code == 2
    assert "does not answer (OSError): training goes on" in outcome.err
    assert "resume when it answers" in outcome.err.splitlines()[-1]
    away[0] = False
    assert command("resume", "tiny", "--no-progress").code == 0
    (trial,) = load_study("tiny").trials
    assert (trial.state, trial.epochs) == ("completed", 3)


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("gs://bucket/studies", ("--storage gs://bucket/studies needs gcsfs", "pip install gcsfs")),
        ("s4://bucket", ("--storage s4://bucket", "does not know the protocol s4")),
        ("memory://x", ("--storage memory://x is the memory of one process", "--executor inline")),
        ("/proc/studies", ("--storage /proc/studies cannot be written",)),
        ("s3://K:S3CRET@bucket/x", ("--storage s3://bucket/x cannot be written", "from the environment")),
    ],
)
def test_a_storage_that_cannot_be_used_is_refused_before_anything_runs(
    workplace: Path, command: Command, storage: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    line = assert_refused(command, "run", TINY, "--storage", storage, words=words)
    assert "S3CRET" not in line


# An S3 server, and real deaths ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """Yield the environment for an S3 server with a bucket."""
    boto3 = pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="bucket")
    yield environment
    server.stop()


def start(*arguments: object, **environment: str) -> subprocess.Popen[bytes]:
    code = "import sys; from search.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.DEVNULL)


def trained(paths: StudyPaths) -> int:
    """Return the number of epochs in a study's journal."""
    return sum(isinstance(e.record, EpochDone) for e in journal.read(paths.journal)) if paths.journal.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_search_that_was_killed_goes_on_from_the_url_alone(workplace: Path, s3: dict[str, str]) -> None:
    """All files of this machine but the journal are lost, and no epoch of a checkpoint is trained again."""
    scratch = workplace / "scratch"
    scratch.mkdir()
    s3 = {**s3, "TMPDIR": str(scratch)}
    arguments = (STATEFUL, "--backend", "hyperband", "--seed", 4, "--workers", 1, "--max-trials", 5, "--no-progress")
    assert start("run", *arguments, "--study", "plain").wait() == 0
    killed = start("run", *arguments, "--study", "killed", "--storage", "s3://bucket/studies", **s3)
    paths = StudyPaths.of("runs", "killed")
    while trained(paths) < 10:
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    known = trained(paths)
    shutil.rmtree(paths.trials, ignore_errors=True)
    # Its worker may be deleting its folder at this moment, and may not get to the end.
    for folder in scratch.iterdir():
        shutil.rmtree(folder, ignore_errors=True)
    assert start("resume", "killed", "--no-progress", **s3).wait() == 0
    plain, found = load_study("plain"), load_study("killed")
    assert curves(found) == curves(plain)
    # The checkpoint of the running epoch may not have been journaled.
    assert sum(t.progress.trained for t in found.trials) <= sum(t.progress.trained for t in plain.trials) + 1
    assert known >= 10
    assert len(list(paths.trials.glob("*/best-*"))) == 3
    assert paths.model.exists()
    assert list(paths.trials.glob("*/log.txt"))
    assert list(scratch.iterdir()) == []
