"""The stop before a job's end, and the one driver among those that `srun` starts."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest
from places import TINY

import search
from search import cli
from search.driver import job_end, launch
from search.driver.prepared import Result
from search.errors import UNFINISHED, OptionError, StudyError
from search.scheduler.limits import Limits
from search.scheduler.stopping import JobEnd, StopRule
from search.study.journal import read_all
from search.study.paths import StudyPaths
from search.study.records import Header, SearchEnded, SearchStarted, SegmentStarted
from search.study.slurm import SlurmJob
from search.study.study import Study
from search.testing import Simulation, StopRuleContract
from search.testing.backends import SMOOTH, RandomSearch

NOON = 1_700_000_000.0
START = 1_000_000_000.0
"""The first second of simulated searches."""


def never(job: str) -> str:
    raise AssertionError("Slurm is not asked")


# The end of the job ---------------------------------------------------------------------------------------------------


def test_slurms_variables_describe_the_job_of_a_process() -> None:
    variables = {"SLURM_JOB_ID": "7", "SLURM_CLUSTER_NAME": "big", "SLURM_RESTART_COUNT": "2", "SLURM_PROCID": "3"}
    variables |= {"SLURM_NTASKS": "8", "SLURM_JOB_END_TIME": "1700000000"}
    assert SlurmJob.this(variables) == SlurmJob("7", "big", 2, 3, 8, "1700000000")
    assert SlurmJob.this({}) == SlurmJob("", "", 0, 0, 1, "")
    assert SlurmJob.this({"SLURM_PROCID": "", "SLURM_NTASKS": "many"}) == SlurmJob()


def test_the_search_stops_before_the_end_that_slurm_has_written() -> None:
    rule = job_end.rule_before(300.0, SlurmJob("7", end="1700000301"), NOON, never)
    assert rule is not None
    assert rule.stop == NOON + 1


def test_an_older_slurm_is_asked_for_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    rule = job_end.rule_before(300.0, SlurmJob("7"), NOON, lambda job: f"2023-11-1{job}T00:00:00")
    assert rule is not None
    assert rule.stop == 1_700_179_200.0 - 300.0


@pytest.mark.parametrize("answer", ["N/A", "NONE", "Unknown"])
def test_a_job_without_a_time_limit_has_no_end(answer: str) -> None:
    job = SlurmJob("7")
    assert job_end.rule_before(300.0, job, NOON, lambda _: answer) is None
    assert job_end.describe_stop(300.0, job, None) == "--stop-before has no effect: Slurm job 7 has no time limit"


def test_without_a_job_the_search_goes_on_to_its_own_end() -> None:
    assert job_end.rule_before(300.0, SlurmJob(), NOON, never) is None
    line = "--stop-before has no effect: no job, as SLURM_JOB_END_TIME is not set"
    assert job_end.describe_stop(300.0, SlurmJob(), None) == line


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (
            NOON + 300,
            r"--stop-before is 5m, and the job ends in 5m \(at .*\): nothing can be trained",
        ),
        (NOON - 5, r"and the job has ended \(at "),
    ],
)
def test_a_job_that_ends_too_soon_is_refused(end: float, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        job_end.rule_before(300.0, SlurmJob(end=f"{end:.0f}"), NOON, never)


def test_an_end_that_cannot_be_found_is_named() -> None:
    def missing(job: str) -> str:
        raise FileNotFoundError("no squeue")

    def hangs(job: str) -> str:
        raise subprocess.TimeoutExpired("squeue", 15)

    for ask in (missing, hangs, lambda job: "slurm_load_jobs error"):
        with pytest.raises(
            OptionError, match=r"--stop-before needs the end of Slurm job 7.*: export SLURM_JOB_END_TIME"
        ):
            job_end.rule_before(300.0, SlurmJob("7"), NOON, ask)
    with pytest.raises(OptionError, match=r"SLURM_JOB_END_TIME is 'soon': .*seconds since the epoch"):
        job_end.rule_before(300.0, SlurmJob("7", end="soon"), NOON, never)


# The stop -------------------------------------------------------------------------------------------------------------


class TestJobEnd(StopRuleContract):
    def make(self) -> StopRule:
        return JobEnd(START + 40.0, 20.0)


@pytest.mark.parametrize(("now", "system"), [(NOON, NOON + 60), (NOON + 60, NOON - 86400)])
def test_a_job_ends_by_slurms_clock_while_the_search_is_stopped_or_the_clock_set_back(
    now: float, system: float
) -> None:
    rule = job_end.BySystemTime(JobEnd(NOON + 80, 30.0), lambda: system)
    rule.apply(SegmentStarted(0, 0, 1, 0, 0, 9), Study())
    end = rule.check(Study(), now)
    assert end is not None
    assert end.exit_code == UNFINISHED
    assert job_end.BySystemTime(JobEnd(NOON + 80, 30.0), lambda: NOON).check(Study(), NOON) is None


def simulate(*rules: JobEnd) -> Simulation:
    return Simulation(SMOOTH, lambda _: RandomSearch(), limits=Limits(max_trials=6), rules=rules)


def test_a_search_stops_before_its_jobs_end_and_goes_on_in_the_next_job_as_if_nothing_had_happened() -> None:
    whole = simulate().run()
    first = simulate(JobEnd(START + 25.0, 20.0)).run()
    assert first.end == SearchEnded("the job ends in 20s", complete=False, exit_code=UNFINISHED)
    assert 0 < first.study.epochs < whole.study.epochs
    second = first.resume(rules=[JobEnd(2 * START, 20.0)]).run()
    assert second.end == whole.end
    assert second.history() == whole.history()


def test_a_job_that_ends_before_any_training_is_an_error_and_would_be_requeued_for_ever() -> None:
    first = simulate(JobEnd(START + 25.0, 20.0)).run()
    again = first.resume(rules=[JobEnd(START + 25.0, 20.0)]).run()
    reason = "the job ends in 20s, before any training has started: give it more time"
    assert again.end == SearchEnded(reason, complete=False, exit_code=2)


# The command ----------------------------------------------------------------------------------------------------------


class AfterEpochs(JobEnd):
    """A stop as before a job's end, after some epochs of the study."""

    def __init__(self, epochs: int) -> None:
        super().__init__(NOON, 300.0)
        self._epochs = epochs

    def check(self, study: Study, now: float) -> SearchEnded | None:
        return STOPPED if study.epochs >= self._epochs else None


STOPPED = SearchEnded("the job ends in 5m", complete=False, exit_code=UNFINISHED)


@pytest.mark.slow
def test_the_same_command_goes_on_after_a_stop_before_the_jobs_end(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(TINY, "space.py")
    command = ["run", "space.py", "--resume", "--stop-before", "5m", "--workers", "1", "--backend", "optuna"]
    command += ["--max-trials", "2", "--max-epochs", "2", "--no-progress"]
    for epochs in (2, 3):
        monkeypatch.setattr(job_end, "rule_before", lambda *_, epochs=epochs: AfterEpochs(epochs))
        assert cli.main(command) == UNFINISHED
        lines = capsys.readouterr().err
        assert ", 5m before its job ends" in lines
        assert "go on with: search resume space" in lines
    records = [entry.record for entry in read_all(StudyPaths.of("runs", "space").journal)]
    assert sum(isinstance(record, Header) for record in records) == 1
    assert [record for record in records if isinstance(record, SearchEnded)] == [STOPPED, STOPPED]
    starts = [record for record in records if isinstance(record, SearchStarted)]
    assert [start.options["stop_before"] for start in starts] == [300.0, 300.0]


def test_python_is_told_that_the_search_goes_on_later(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = Result(StudyPaths.of(str(tmp_path), "space"), Study(), STOPPED, synced=True)
    monkeypatch.setattr(launch, "run_search", lambda *_, **__: result)
    with pytest.raises(search.Unfinished, match="the job ends in 5m: go on with resume=True"):
        search.run("space.py", resume=True, stop_before="5m")


def test_a_job_that_ends_too_soon_ends_the_command_and_leaves_nothing(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(TINY, "space.py")
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1700000000")
    assert cli.main(["run", "space.py", "--stop-before", "5m"]) == 2
    assert "the job has ended" in capsys.readouterr().err
    assert not Path("runs").exists()


# Several drivers ------------------------------------------------------------------------------------------------------


def test_only_the_first_of_the_drivers_that_srun_starts_goes_on() -> None:
    for task in range(1, 8):
        words = f"srun has started 8 copies of this command, and this is number {task} .*with srun --ntasks=1"
        with pytest.raises(StudyError, match=words):
            job_end.check_only_driver(SlurmJob("7", task=task, tasks=8))
    job_end.check_only_driver(SlurmJob("7", task=0, tasks=8))
    job_end.check_only_driver(SlurmJob("7", task=0, tasks=1))
    job_end.check_only_driver(SlurmJob())


def test_another_copy_of_the_command_touches_nothing(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(TINY, "space.py")
    monkeypatch.setenv("SLURM_PROCID", "3")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    assert cli.main(["run", "space.py", "--overwrite"]) == 2
    assert "srun --ntasks=1" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_study_that_another_process_has_begun_meanwhile_is_not_overwritten(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(TINY, "space.py")
    journal = Path("runs/space/journal.jsonl")
    journal.parent.mkdir(parents=True)
    journal.write_text("old")
    monkeypatch.setattr(launch.checks, "make_folder", lambda folder: journal.write_text("of another process"))
    assert cli.main(["run", "space.py", "--overwrite"]) == 2
    assert "study 'space' has changed since this command started" in capsys.readouterr().err
    assert journal.read_text() == "of another process"
