"""Warm start: what a study takes over from another one, as records of its own, so that it needs the other no more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from search.backends.base import LEARNERS, fitting, learns
from search.errors import OptionError, StudyError, nearest
from search.options import Options
from search.space.domain import Parameter
from search.study import study as studies
from search.study.paths import StudyPaths
from search.study.paths import studies as names
from search.study.records import TrialImported
from search.study.study import Study, Trial
from search.study.trial import Objective


def find(name: str, runs: str | Path) -> Path | None:
    """The journal of the study called `name` under `runs`, or in the folder `name`; None where there is neither."""
    candidates = [Path(runs).absolute() / name, Path(name).absolute()]
    found = (StudyPaths(folder).journal for folder in candidates)
    return next((journal for journal in found if journal.is_file()), None)


def records(opts: Options, objective: Objective, own: Study | None) -> list[TrialImported]:
    """What there is to learn from the study `opts.warm_start`: its trials that have a score or failed, each once.

    Args:
        objective: of the study that learns.
        own: that study as journaled so far; None for a new one. What it has learnt already is left out.

    Raises:
        OptionError: nothing would learn from it.
        StudyError: there is no such study, it is the one that learns, or it compares something else.
    """
    name, runs = opts.warm_start, opts.runs
    if name is None:
        return []
    check(opts)
    journal = find(name, runs)
    if journal is None:
        if own is not None and own.start is not None and own.start.options.get("warm_start") == name:
            return []  # the same command again, and the other study is gone by now
        raise StudyError(f"--warm-start {name}: there is no such study or folder.{nearest(name, names(runs))}")
    source = studies.load(journal)
    if own is not None and source.uid == own.uid:
        raise StudyError(f"--warm-start {name}: a study knows its own trials: name another one")
    if source.objective != objective:
        raise StudyError(
            f"--warm-start {name}: it compares {source.objective.name} ({source.objective.direction}), and this "
            f"search {objective.name} ({objective.direction}): give the same with --objective and --direction"
        )
    known = own.imported.keys() if own is not None else {}
    return [
        _record(source, trial)
        for trial in source.trials.values()
        if (trial.failed or trial.objective is not None) and (source.uid, trial.number) not in known
    ]


def check(opts: Options) -> None:
    """Raise OptionError where nothing would learn from the trials of another study."""
    sampler = opts.backend_options()["sampler"]
    if not learns(sampler):
        raise OptionError(
            f"--warm-start is of no use with --backend {opts.backend} and its {sampler} sampler, which learns nothing "
            f"from other trials: give --sampler {', '.join(LEARNERS[:-1])} or {LEARNERS[-1]}"
        )


def describe(name: str, imported: Sequence[TrialImported], parameters: Sequence[Parameter]) -> str:
    """What is taken over into a space with these `parameters`, in one line."""
    own = Study()
    for record in imported:
        own.apply(record, 0.0)
    fit = sum(fitting(trial, parameters) is not None for trial in own.imported.values())
    return f"warm start: {fit} trials of {name} are learnt from, {len(imported) - fit} do not fit this space"


def _record(source: Study, trial: Trial) -> TrialImported:
    curve = []
    for epoch in trial.curve:
        value = epoch.logs.get(source.objective.name, math.nan)
        if not math.isfinite(value):
            break
        curve.append(value)
    return TrialImported(
        source=source.uid,
        study=source.name,
        number=trial.number,
        parameters=tuple(trial.parameters),
        params=dict(trial.params),
        curve=tuple(curve),
        state="failed" if trial.failed else trial.state,
        stopped_by_callback=trial.exhausted,
    )
