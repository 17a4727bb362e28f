"""The answer of a study: its best configuration, with the results that it had, and the search's end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from search.display.lines import counts_line, format_epochs, header_line
from search.display.text import NONE, format_objective, format_seconds
from search.report.chance import (
    ERRORS,
    SplitPair,
    compare_splits,
    count_samples,
    describe_difference,
    standard_error,
)
from search.report.html import Html, element, join, one_line
from search.report.subject import Subject, format_date
from search.report.table import Cell, code, definitions, number_cell, table, value_cell
from search.study.trials import Trial
from search.wording import pluralize


def answer_section(subject: Subject, level: int) -> Html:
    """Return the answer: everything that a reader needs who reads no further.

    Args:
        subject: the study.
        level: of its headings.
    """
    best = subject.study.best
    parts: list[Html | None] = [element("p", one_line(header_line(subject.study)), class_="quiet")]
    parts.append(element("p", describe_end(subject), class_="quiet" if _ended_well(subject) else "note warning"))
    if best is None:
        parts.append(element("p", _no_result(subject), class_="note warning"))
    else:
        parts += [
            _figures_of(subject, best),
            _difference(subject, best),
            _scores(subject, best, level),
            _values(best, level),
        ]
    parts.append(_amounts(subject, level))
    return join(*parts)


def describe_end(subject: Subject) -> str:
    """Return how the search ended, or that it has not."""
    end = subject.study.end
    if end is not None:
        return f"Ended: {end.reason}."
    if subject.running:
        return f"Running, as of {format_date(subject.now)}."
    if subject.study.start is None:
        return "Not begun: no process has trained anything yet."
    return f"Its process died without a word. Go on with: search resume {subject.name}"


def _ended_well(subject: Subject) -> bool:
    end = subject.study.end
    return end is not None and end.exit_code == 0


def _no_result(subject: Subject) -> str:
    trials = subject.study.trials
    if not trials:
        return "No trial has begun yet."
    failed = sum(trial.failed for trial in trials.values())
    if failed:
        return f"No trial has an objective. {failed} of {pluralize(len(trials), 'trial')} failed: see the errors below."
    return f"No trial has an objective yet, of {pluralize(len(trials), 'trial')}."


def test_value(subject: Subject, trial: Trial) -> tuple[str, float] | None:
    """Return the name and the value of the objective on the test data; None if it is not known."""
    if trial.best.tested is None:
        return None
    name = subject.study.objective.name.removeprefix("val_")
    value = trial.best.tested.logs.get(name)
    return None if value is None else (name, value)


def _figures_of(subject: Subject, best: Trial) -> Html:
    """Return the large numbers: the objective, and the same on the test data."""
    tested = test_value(subject, best)
    pairs = [(subject.study.objective.name, format_objective(best.objective))]
    if tested is not None:
        pairs.append((f"test {tested[0]}", format_objective(tested[1])))
    return element(
        "div",
        *(element("p", element("strong", value), " ", code(name)) for name, value in pairs),
        class_="numbers",
    )


def _difference(subject: Subject, best: Trial) -> Html:
    """Return the note on validation against test."""
    candidates = len(subject.study.ranked())
    pairs = [pair for pair in compare_splits(subject.study, best) if _is_objective(subject, pair)]
    if pairs:
        warning = pairs[0].beyond_chance is True
        text = describe_difference(pairs[0], candidates)
        return element("p", text, class_="note warning" if warning else "note")
    if best.best.tested is not None:
        return element("p", "The test data have no value of the objective.", class_="note")
    text = "There is no result on test data" + (" yet" if subject.study.end is None else "")
    if candidates > 1:
        text += f": as the best of {pluralize(candidates, 'trial')}, this value is rather too good for new data"
    return element("p", text + ".", class_="note")


def _is_objective(subject: Subject, pair: SplitPair) -> bool:
    return f"val_{pair.metric}" == subject.study.objective.name


def _scores(subject: Subject, best: Trial, level: int) -> Html | None:
    """Return the table of the metrics in training, on the validation and on the test data."""
    execution = best.best_execution
    record = None if execution.best_epoch is None else execution.find(execution.best_epoch)
    if record is None:
        return None
    tested = dict(best.best.tested.logs) if best.best.tested is not None else {}
    samples = {split: count_samples(subject.study, best, split) for split in ("validation", "test")}
    plain = [name for name in record.logs if not name.startswith("val_")]
    names = dict.fromkeys([*plain, *(name.removeprefix("val_") for name in record.logs), *tested])
    rows = [
        [
            Cell(code(name)),
            number_cell(record.logs.get(name), format_objective(record.logs.get(name))),
            _score(name, record.logs.get(f"val_{name}"), samples["validation"]),
            _score(name, tested.get(name), samples["test"]),
        ]
        for name in names
    ]
    caption = f"Metrics of trial {best.number}" + ("" if best.best_epoch is None else f", epoch {best.best_epoch}")
    scores = table(caption, ["metric", "training", "validation", "test"], rows, key=True)
    return join(element(f"h{level}", caption), scores, _explain_errors(samples, [*names]))


def _score(name: str, value: float | None, samples: int | None) -> Cell:
    """Return the cell of a metric with its standard errors, if they are known."""
    text = format_objective(value)
    error = None if value is None else standard_error(name, value, samples)
    return number_cell(value, text if error is None else f"{text} ± {ERRORS * error:.2g}")


def _explain_errors(samples: Mapping[str, int | None], names: Sequence[str]) -> Html | None:
    """Return the line that says what ± is; None if no metric has it."""
    counts = [f"{count:,} {split}" for split, count in samples.items() if count]
    if not counts or all(standard_error(name, 0.5, 1) is None for name in names):
        return None
    text = f"± is {ERRORS:g} standard errors of a share of {' and '.join(counts)} samples."
    return element("p", text, class_="quiet")


def _values(best: Trial, level: int) -> Html:
    """Return the table of all values of the best configuration, with the domains that they are from."""
    domains = {parameter.name: str(parameter.domain) for parameter in best.parameters}
    rows = [
        [Cell(code(name)), Cell(value_cell(value).content), Cell(element("bdi", one_line(domains.get(name, NONE))))]
        for name, value in best.params.items()
    ]
    heading = f"Best configuration: trial {best.number}"
    if not rows:
        return join(element(f"h{level}", heading), element("p", "It has no hyperparameters."))
    return join(element(f"h{level}", heading), table(heading, ["hyperparameter", "value", "searched"], rows, key=True))


def _amounts(subject: Subject, level: int) -> Html:
    """Return the facts on the best model and on the whole search."""
    study, best = subject.study, subject.study.best
    facts: list[tuple[str, str | None]] = []
    if best is not None:
        spread = "" if best.spread is None else f", standard deviation {format_objective(best.spread)}"
        executions = f"{pluralize(len(best.scores), 'execution')}{spread}" if len(best.executions) > 1 else None
        facts += [
            ("Best epoch", None if best.best_epoch is None else f"{best.best_epoch} of {best.epochs}"),
            ("Executions", executions),
            ("Weights", None if best.weight_count is None else f"{best.weight_count:,}"),
            ("Runner", best.runner),
        ]
    alive = subject.running
    facts += [
        ("Trials", counts_line(study, alive)),
        ("Epochs", format_epochs(study)),
        ("Time", format_seconds(subject.seconds)),
        ("Model file", "model.keras, in the study's folder" if study.exported is not None else None),
        ("Remark", study.exported.warning if study.exported is not None else None),
    ]
    return join(element(f"h{level}", "The search in numbers"), definitions(facts))


__all__ = ["answer_section", "describe_end", "test_value"]
