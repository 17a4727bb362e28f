"""Warm start: trials of another study, imported as records, so that the other study is no longer needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from search.backends.base import LEARNING_SAMPLERS, sampler_learns, values_in_space
from search.driver.study_handle import StudyHandle
from search.errors import OptionError, StudyError, nearest
from search.options import Options
from search.space.domain import Parameter
from search.study.paths import StudyPaths, study_names
from search.study.records import TrialImported
from search.study.study import Study, read_study
from search.study.trial import Objective
from search.study.trials import Trial
from search.wording import pluralize


def _find_journal(name: str, runs: str | Path) -> Path | None:
    """Return the journal of the study `name` in `runs`, or of the folder `name`; None if there is neither."""
    candidates = [Path(runs).absolute() / name, Path(name).absolute()]
    found = (StudyPaths(folder).journal for folder in candidates)
    return next((journal for journal in found if journal.is_file()), None)


def import_trials(opts: Options, objective: Objective, own: StudyHandle) -> list[TrialImported]:
    """Return the trials of the study `opts.warm_start` that have a score, or failed, or are infeasible, as records.

    Args:
        objective: of the study that imports.
        own: the study that imports. Trials that it has imported before are left out.

    Raises:
        OptionError: the sampler would not learn from the trials.
        StudyError: there is no such study, it is the importing study itself, or it has another objective.
    """
    name, runs = opts.warm_start, opts.runs
    if name is None:
        return []
    check_learns(opts)
    journal = _find_journal(name, runs)
    if journal is None:
        if own.options.get("warm_start") == name:
            return []  # the same command again, and the other study is gone by now
        raise StudyError(f"--warm-start {name}: there is no such study or folder.{nearest(name, study_names(runs))}")
    source = read_study(journal)
    if own.exists and source.uid == own.header.uid:
        raise StudyError(f"--warm-start {name}: a study knows its own trials: name another one")
    if source.objective != objective:
        raise StudyError(
            f"--warm-start {name}: it compares {source.objective.name} ({source.objective.direction}), and this "
            f"search {objective.name} ({objective.direction}): give the same with --objective and --direction"
        )
    known = own.imported
    return [
        _imported(source, trial, opts.max_epochs)
        for trial in source.trials.values()
        if (trial.worthless or trial.objective is not None) and (source.uid, trial.number) not in known
    ]


def check_learns(opts: Options) -> None:
    """Raise OptionError if the sampler would not learn from the trials of another study."""
    sampler = opts.backend_options().get("sampler")
    if sampler and not sampler_learns(sampler):
        raise OptionError(
            f"--warm-start is of no use with --backend {opts.backend_name} and its {sampler} sampler, which learns "
            f"nothing from other trials: give --sampler {', '.join(LEARNING_SAMPLERS[:-1])} or {LEARNING_SAMPLERS[-1]}"
        )


def describe_import(name: str, imported: Sequence[TrialImported], parameters: Sequence[Parameter]) -> str:
    """Return a line that says how many of the imported trials fit a space with these `parameters`."""
    own = Study()
    for record in imported:
        own.apply(record, 0.0)
    fit = sum(values_in_space(trial, parameters) is not None for trial in own.imported.values())
    rest = len(imported) - fit
    verbs = "is" if fit == 1 else "are", "does" if rest == 1 else "do"
    return (
        f"warm start: {pluralize(fit, 'trial')} of {name} {verbs[0]} learnt from, {rest} {verbs[1]} not fit this space"
    )


def _imported(source: Study, trial: Trial, max_epochs: int) -> TrialImported:
    begins_after, curve = _curve(trial, source.objective.name, max_epochs)
    return TrialImported(
        source=source.uid,
        study=source.name,
        number=trial.number,
        parameters=tuple(trial.parameters),
        params=dict(trial.params),
        curve=curve,
        state="failed" if trial.failed else "infeasible" if trial.infeasible else trial.state,
        stopped_by_callback=trial.exhausted,
        begins_after=begins_after,
    )


def _curve(trial: Trial, name: str, max_epochs: int) -> tuple[int, tuple[float, ...]]:
    """Return the epoch before the first one with a value of the metric `name`, and the values from there on.

    A trial of another tool may have values at a few epochs only. A value counts until the next one. A first one that is
    later than `max_epochs` counts there, so that its trial is learnt from.
    """
    begins_after = trial.executions[0].begins_after
    curve: list[float] = []
    for record in trial.curve:
        value = record.logs.get(name)
        missing = 0 if trial.black_box else record.epoch - begins_after - len(curve) - 1
        if curve:
            curve += curve[-1:] * (missing + (value is None))
        elif value is not None:
            begins_after += min(missing, max(0, max_epochs - 1))
        if value is None:
            continue
        if not math.isfinite(value):
            break
        curve.append(value)
    return begins_after, tuple(curve)
