"""The tables of a study's trials: their values and results, their failures, and their cost."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

from search.display.lines import STATES, shown_state
from search.display.rows import parameter_names
from search.display.text import format_objective, format_params, format_seconds
from search.report.html import Child, Html, block, element, join, one_line
from search.report.subject import Subject
from search.report.table import Cell, code, folded, listing, number_cell, sentences, table, value_cell
from search.space.domain import Value
from search.study.trials import Trial
from search.wording import pluralize

MOST_ROWS = 300
"""Rows of the table of trials, at most."""

MOST_CELLS = 12_000
"""Cells of that table, at most, so that a page of 600 hyperparameters opens at once."""

FEWEST_ROWS = 20
"""Rows that the table has in any case."""

MOST_ERRORS = 20
"""Kinds of errors that are shown."""


# All trials -----------------------------------------------------------------------------------------------------------


def trials_section(subject: Subject) -> Html:
    """Return the table of trials, the best first, with all hyperparameters."""
    trials = subject.trials
    if not trials:
        return element("p", "No trial has begun yet.")
    names = parameter_names(subject.study, trials)
    constant = _constant_values(names, trials)
    varied = [name for name in names if name not in constant]
    tests = list(dict.fromkeys(name for trial in trials if trial.best.tested for name in trial.best.tested.logs))
    rows = max(FEWEST_ROWS, min(MOST_ROWS, MOST_CELLS // (8 + len(tests) + len(varied))))
    shown = trials[:rows]
    left_out = len(trials) - len(shown)
    heads: list[Child] = [
        "trial",
        "state",
        code(subject.study.objective.name),
        "best epoch",
        "epochs",
        "time",
        "weights",
    ]
    heads += [join("test ", code(name)) for name in tests] + [code(name) for name in varied]
    cells = [_trial_row(subject, trial, tests, varied) for trial in shown]
    return join(
        sentences(
            f"The best {len(shown)} of {len(trials):,} trials; {left_out:,} are left out. "
            f"All of them: search trials {subject.name} --csv"
            if left_out
            else None,
            f"The same in all trials: {one_line(format_params(constant))}" if constant else None,
        ),
        table("Table of the trials", heads, cells, sortable=True, key=True),
    )


def _constant_values(names: Sequence[str], trials: Sequence[Trial]) -> dict[str, Value]:
    """Return the hyperparameters that have one value in all trials; of a single trial none."""
    found: dict[str, Value] = {}
    for name in names if len(trials) > 1 else ():
        first = trials[0].params.get(name)
        if all(name in trial.params and trial.params[name] == first for trial in trials):
            found[name] = first
    return found


def _trial_row(subject: Subject, trial: Trial, tests: Sequence[str], varied: Sequence[str]) -> list[Cell]:
    tested: Mapping[str, float] = trial.best.tested.logs if trial.best.tested is not None else {}
    weights = trial.weight_count
    return [
        number_cell(trial.number, str(trial.number)),
        Cell(shown_state(trial, subject.running)),
        number_cell(trial.objective, format_objective(trial.objective)),
        number_cell(trial.best_epoch, str(trial.best_epoch)),
        number_cell(trial.known_epochs, str(trial.known_epochs)),
        number_cell(seconds := trial.running(subject.study_now), format_seconds(seconds)),
        number_cell(weights, f"{weights:,}" if weights is not None else ""),
        *(number_cell(tested.get(name), format_objective(tested.get(name))) for name in tests),
        *(value_cell(trial.params.get(name), used=name in trial.params) for name in varied),
    ]


# Failures -------------------------------------------------------------------------------------------------------------


def failures_section(subject: Subject) -> Html | None:
    """Return the errors of trials, each kind once with its last traceback; None if there are none."""
    kinds: dict[str, list[Trial]] = defaultdict(list)
    for number in sorted(subject.study.trials):
        trial = subject.study.trials[number]
        if trial.error is not None:
            kinds[trial.error].append(trial)
    if not kinds:
        return None
    ordered = sorted(kinds.items(), key=lambda item: -len(item[1]))
    parts = [_failure(subject, error, trials) for error, trials in ordered[:MOST_ERRORS]]
    left_out = len(ordered) - len(parts)
    more = f"{pluralize(left_out, 'further error')} {'is' if left_out == 1 else 'are'} left out." if left_out else None
    return join(*parts, sentences(more))


def _failure(subject: Subject, error: str, trials: Sequence[Trial]) -> Html:
    numbers = ", ".join(str(trial.number) for trial in trials[:20]) + (", …" if len(trials) > 20 else "")
    states = dict.fromkeys(shown_state(trial, subject.running) for trial in trials)
    where = f"{pluralize(len(trials), 'trial')} ({', '.join(states)}): {numbers}"
    last = trials[-1]
    summary = join(element("bdi", one_line(error)), element("span", where, class_="quiet"))
    traceback = block(subject.traceback(last))
    values = element("p", f"Trial {last.number}: {one_line(format_params(last.params))}") if last.params else None
    return folded(summary, values, listing(traceback) if traceback else element("p", "It left no traceback."))


# Cost -----------------------------------------------------------------------------------------------------------------


def cost_section(subject: Subject) -> Html:
    """Return the epochs and seconds that went into trials of each state, and that each slot worked."""
    study = subject.study
    if not study.trials:
        return element("p", "Nothing has been trained yet.")
    groups: dict[str, list[Trial]] = defaultdict(list)
    for trial in study.trials.values():
        groups["the best trial" if trial is study.best else shown_state(trial, subject.running)].append(trial)
    busy = sum(trial.running(subject.study_now) for trial in study.trials.values())
    ordered = [name for name in ("the best trial", *STATES) if name in groups]
    rows = [_state_row(subject, name, groups[name], busy) for name in ordered]
    heads: list[Child] = ["trials that are", "trials", "epochs", "of these again", "time", "share of the time"]
    return join(
        sentences(*_cost_lines(subject, busy)),
        table("Cost by state", heads, rows, key=True),
        _slots(subject),
    )


def _epochs_of(trials: Sequence[Trial]) -> int:
    return sum(execution.own_epochs for trial in trials for execution in trial.executions)


def _state_row(subject: Subject, name: str, trials: Sequence[Trial], busy: float) -> list[Cell]:
    seconds = sum(trial.running(subject.study_now) for trial in trials)
    epochs = _epochs_of(trials)
    again = sum(trial.progress.trained for trial in trials) - epochs
    return [
        Cell(name),
        number_cell(len(trials), f"{len(trials):,}"),
        number_cell(epochs, f"{epochs:,}"),
        number_cell(again, f"{max(0, again):,}"),
        number_cell(seconds, format_seconds(seconds)),
        number_cell(seconds, _percent(seconds, busy)),
    ]


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole > 0 else "0 %"


def _cost_lines(subject: Subject, busy: float) -> list[str | None]:
    study = subject.study
    trials = list(study.trials.values())
    lines: list[str | None] = []
    if study.best is not None and len(trials) > 1:
        own = study.best.running(subject.study_now)
        lines.append(
            f"The best trial took {format_seconds(own)} of {format_seconds(busy)} of all workers' time "
            f"({_percent(own, busy)}). The rest went into trials that lost."
        )
    again = study.trained - study.epochs
    if again > 0 and study.known_epochs is not None:
        lines.append(
            f"{pluralize(again, 'epoch')} of {study.trained:,} were trained again, after a loss of their state."
        )
    counts = [trial.weight_count for trial in trials if trial.weight_count is not None]
    if counts:
        best = study.best.weight_count if study.best is not None else None
        lines.append(
            f"Models had {min(counts):,} to {max(counts):,} weights, in the median {int(statistics.median(counts)):,}"
            + ("." if best is None else f"; the best one has {best:,}.")
        )
    return lines


def slot_seconds(subject: Subject) -> dict[int, tuple[int, float]]:
    """Return the number of segments of each slot, and the seconds that they ran."""
    history, now = subject.study.history, subject.seconds
    found: dict[int, tuple[int, float]] = {}
    ended = [(segment.begun, segment.seconds) for segment in history.segments]
    for begun, end in [*ended, *((begun, now) for begun in history.running.values())]:
        count, seconds = found.get(begun.slot, (0, 0.0))
        found[begun.slot] = count + 1, seconds + max(0.0, end - begun.seconds)
    return dict(sorted(found.items()))


def _slots(subject: Subject) -> Html | None:
    slots = slot_seconds(subject)
    if not slots:
        return None
    whole = subject.seconds
    rows = [
        [
            number_cell(slot, f"slot {slot}"),
            number_cell(count, f"{count:,}"),
            number_cell(seconds, format_seconds(seconds)),
            number_cell(seconds, _percent(seconds, whole)),
        ]
        for slot, (count, seconds) in slots.items()
    ]
    return table("Work of the slots", ["slot", "segments", "time", "share of the search"], rows, key=True)
