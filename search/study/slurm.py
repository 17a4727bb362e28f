"""The Slurm job of this process, as Slurm's environment variables describe it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["SlurmJob"]


@dataclass(frozen=True, slots=True)
class SlurmJob:
    """A Slurm job, and this process's place in it.

    Attributes:
        id: the job's number; "" if this process is in no job.
        cluster: the cluster's name; two clusters may give the same number.
        restarts: how often the job was requeued and has started again. It runs once at a time.
        task, tasks: this process's number among those that one `srun` started, and their number.
        end: the end of the job in seconds since the epoch, as Slurm wrote it; "" if it did not (before 22.05).
    """

    id: str = ""
    cluster: str = ""
    restarts: int = 0
    task: int = 0
    tasks: int = 1
    end: str = ""

    @classmethod
    def this(cls, environment: Mapping[str, str] | None = None) -> SlurmJob:
        """Return this process's job.

        Args:
            environment: the environment variables; by default those of this process.
        """
        known = os.environ if environment is None else environment
        return cls(
            id=known.get("SLURM_JOB_ID", ""),
            cluster=known.get("SLURM_CLUSTER_NAME", ""),
            restarts=_number(known.get("SLURM_RESTART_COUNT", ""), 0),
            task=_number(known.get("SLURM_PROCID", ""), 0),
            tasks=_number(known.get("SLURM_NTASKS", ""), 1),
            end=known.get("SLURM_JOB_END_TIME", ""),
        )


def _number(text: str, default: int) -> int:
    return int(text) if text.isdecimal() else default
