"""The end of the job that this process runs in, and the stop before it (`--stop-before`).

The end belongs to a process, not to its study: a resumed study has that of its new job. So it is not journaled.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from datetime import datetime

from search.errors import OptionError, StudyError
from search.options import Options
from search.scheduler.stopping import JobEnd, StopRule
from search.study.records import Record, SearchEnded
from search.study.slurm import SlurmJob
from search.study.study import Study
from search.wording import format_time

__all__ = ["check_only_driver", "describe_stop", "rule_before", "stop_rules"]

SQUEUE_SECONDS = 15.0
"""Seconds that Slurm has to answer."""


def check_only_driver(job: SlurmJob | None = None) -> None:
    """Let one of the processes that one `srun` started go on.

    That is always task 0. A lock alone would let another one begin when the first has ended.

    Args:
        job: the job of this process; by default as Slurm's variables describe it.

    Raises:
        StudyError: this process is another one.
    """
    job = job or SlurmJob.this()
    if job.tasks > 1 and job.task > 0:
        raise StudyError(
            f"srun has started {job.tasks} copies of this command, and this is number {job.task} (SLURM_PROCID): start "
            "it once, with srun --ntasks=1. For a study of its own in each copy, unset SLURM_PROCID"
        )


def stop_rules(opts: Options, say: Callable[[str], None] | None = None) -> list[StopRule]:
    """Return the rule of `--stop-before`, if this process runs in a job that ends.

    Args:
        say: tells the user when the search stops.

    Raises:
        OptionError: the job's end is not known, or too near.
    """
    if opts.stop_before is None:
        return []
    job = SlurmJob.this()
    rule = rule_before(opts.stop_before, job, time.time(), ask_slurm)
    if say is not None:
        say(describe_stop(opts.stop_before, job, rule))
    return [] if rule is None else [BySystemTime(rule)]


class BySystemTime:
    """The end of a job by the system's time: Slurm's clock goes on while this process is stopped.

    Args:
        rule: ends the search.
        system: the system's time.
    """

    protocol = 1

    def __init__(self, rule: JobEnd, system: Callable[[], float] = time.time) -> None:
        self._rule = rule
        self._system = system

    def apply(self, record: Record, study: Study) -> None:
        """Let the rule count."""
        self._rule.apply(record, study)

    def check(self, study: Study, now: float) -> SearchEnded | None:
        """Speak when the job's end is near. The later of two clocks counts, as one that was set back is wrong."""
        return self._rule.check(study, max(now, self._system()))


def rule_before(seconds: float, job: SlurmJob, now: float, ask: Callable[[str], str]) -> JobEnd | None:
    """Return the rule that ends a search `seconds` before the end of `job`; None if there is no end.

    Args:
        now: seconds since the epoch.
        ask: asks Slurm for the end of the job with a number; see `ask_slurm`.

    Raises:
        OptionError: the job's end is not known, or too near.
    """
    end = _end(job, ask)
    if end is None:
        return None
    if end - now <= seconds:
        left = f"ends in {format_time(end - now)}" if end > now else "has ended"
        asked = format_time(seconds)
        raise OptionError(
            f"--stop-before is {asked}, and the job {left} ({_at(end)}): nothing can be trained. Give the "
            "job more time (sbatch --time), or give a smaller --stop-before"
        )
    return JobEnd(end, seconds)


def describe_stop(seconds: float, job: SlurmJob, rule: JobEnd | None) -> str:
    """Return a line about the stop before the job's end, or about the reason why there is none."""
    if rule is not None:
        return f"stops {_at(rule.stop)}, {format_time(seconds)} before its job ends"
    reason = f"Slurm job {job.id} has no time limit" if job.id else "no job, as SLURM_JOB_END_TIME is not set"
    return f"--stop-before has no effect: {reason}"


def ask_slurm(job: str) -> str:
    """Return the end of the job with this number, as `squeue` prints it.

    Raises:
        OSError: Slurm cannot be asked.
        subprocess.SubprocessError: Slurm does not answer.
    """
    command = ["squeue", "--noheader", "--jobs", job, "--format", "%e"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=SQUEUE_SECONDS).stdout.strip()


def _end(job: SlurmJob, ask: Callable[[str], str]) -> float | None:
    """Return the job's end in seconds since the epoch; None if there is no job, or it has no end."""
    if job.end:
        if not job.end.isdecimal():
            raise OptionError(f"SLURM_JOB_END_TIME is {job.end!r}: --stop-before needs it in seconds since the epoch")
        return float(job.end)
    if not job.id:
        return None
    try:
        answer = ask(job.id)
        return None if answer in ("N/A", "NONE", "Unknown") else datetime.fromisoformat(answer).timestamp()
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise OptionError(
            f"--stop-before needs the end of Slurm job {job.id}, and neither SLURM_JOB_END_TIME nor squeue gives it "
            f"({error}): export SLURM_JOB_END_TIME, in seconds since the epoch"
        ) from None


def _at(moment: float) -> str:
    return time.strftime("at %H:%M:%S on %Y-%m-%d", time.localtime(moment))
