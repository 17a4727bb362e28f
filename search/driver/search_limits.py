"""The limits of a search, from its options: when it ends, and the room on the disk for its checkpoints."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from search.backends import registry
from search.driver.storage_option import is_url
from search.errors import OptionError
from search.messages import Probed
from search.options import Options
from search.scheduler.limits import Limits
from search.wording import format_bytes

__all__ = ["limit_disk", "limits_of"]

FREE_PARTS = 5
"""By default, checkpoints may take one in so many parts of the free disk."""


def limit_disk(opts: Options, probed: Probed, folder: Path) -> tuple[Options, list[str]]:
    """Limit the room for checkpoints if the back end ranks its paused trials.

    Args:
        folder: the study's folder; a part of what is free on its file system is the default. With `--storage URL` the
            files are not there, and there is no default.

    Returns:
        The options with `disk`, and the lines that tell the user. Options of other back ends stay as they are.

    Raises:
        OptionError: the checkpoints of a single trial take more.
    """
    if not registry.facts_of(opts.backend).ranks_paused or (opts.disk is None and is_url(opts.storage)):
        return opts, []
    why = ""
    if opts.disk is None:
        why = ", a fifth of what is free: another limit is given with --disk"
        opts = replace(opts, disk=max(1, shutil.disk_usage(folder).free // FREE_PARTS))
    assert opts.disk is not None
    size = probed.checkpoint_bytes * opts.executions_per_trial
    if size > opts.disk:
        needed = f"the checkpoint of one trial takes {format_bytes(size)}"
        raise OptionError(f"--disk is {format_bytes(opts.disk)}, and {needed}: give room for several")
    return opts, [f"checkpoints of paused trials take {format_bytes(opts.disk)} at most{why}"]


def limits_of(opts: Options, probed: Probed) -> Limits:
    """Return the limits that the controller keeps."""
    return Limits(
        max_trials=opts.max_trials,
        max_total_epochs=opts.total_epochs,
        timeout=opts.timeout,
        target=opts.target,
        trial_timeout=opts.trial_timeout,
        retries=opts.retries,
        max_consecutive_failures=opts.max_consecutive_failures,
        max_retries_per_trial=opts.max_retries_per_trial,
        max_consecutive_failed_trials=opts.max_consecutive_failed_trials,
        executions=opts.executions_per_trial,
        evaluate_best=opts.keep_models,
        test=probed.tested,
        checkpoint_bytes=opts.disk if registry.facts_of(opts.backend).ranks_paused else None,
    )
