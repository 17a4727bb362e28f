"""The description of a study that MLflow's UI shows with its parent run, in Markdown. Pure."""

from __future__ import annotations

from pathlib import PurePath

from search.study.study import Study
from search.study.trials import Trial
from search.tracking.mlflow.colours import describe_colours

NOTE_TAG = "mlflow.note.content"
"""Tag of a run that has its description."""

_PARAMETERS = 40
"""The most parameters of the best configuration."""

_VALUE = 80
"""The most characters of a name and of a value."""


def describe(study: Study) -> str:
    """Return the description: the study, its best trial, its end, and the way to load the model.

    It is replaced when a process begins or ends the search.
    """
    assert study.header is not None
    source = PurePath(study.header.source).name if study.header.source else "a factory"
    back_end = study.phases[-1].backend if study.phases else "unknown"
    origin = f"searches {_code(source)} with back end {_code(back_end)}"
    if study.is_imported:
        origin = "was imported"
    aim = "more" if study.objective.direction == "max" else "less"
    parts = [
        f"Study {_code(study.name)} {origin}. Objective: {_code(study.objective.name)}, {aim} is better.",
        *(_of_best(study, study.best) if study.best is not None else ["No trial has an objective yet."]),
        _of_end(study),
        *(
            [f"Colour of a trial, by the epochs granted to it: {colours}."]
            if (colours := describe_colours(study))
            else []
        ),
        *(_of_model(study) if study.best is not None and study.end is not None and not study.is_imported else []),
    ]
    return "\n\n".join(parts)


def _of_best(study: Study, best: Trial) -> list[str]:
    after = f" after epoch {best.best_epoch} of {best.epochs}" if best.best_epoch is not None else ""
    tested = best.best.tested.logs if best.best.tested is not None else {}
    test = "".join(f", test {_code(name)} {value:.6g}" for name, value in tested.items())
    lines = [f"- {_code(name)} = {_code(str(value))}" for name, value in best.params.items()]
    left = len(lines) - _PARAMETERS
    lines = lines[:_PARAMETERS] + ([f"- … and {left} more"] if left > 0 else [])
    head = f"**Best: trial {best.number}**, {_code(study.objective.name)} {best.objective:.6g}{after}{test}."
    return [head, "\n".join(lines)] if lines else [head]


def _of_end(study: Study) -> str:
    epochs = "" if study.known_epochs is None else f", {study.known_epochs} epochs"
    state = "The search runs, or was killed." if study.end is None else f"The search ended: {_plain(study.end.reason)}."
    return f"{len(study.trials)} trials{epochs}. {state}"


def _of_model(study: Study) -> list[str]:
    return [
        "The best model, from any machine that reaches this MLflow:",
        f"```python\nimport search\n\n"
        f'(model,) = search.get_best_models("{study.uid}", tracking_uri="…")  # the address of this MLflow\n```',
    ]


def _code(text: str) -> str:
    """Return a text of the user's as code, so that no character of it is taken for Markdown."""
    text = _plain(text).replace("`", "'")
    return f"`{text if len(text) <= _VALUE else text[: _VALUE - 1] + '…'}`"


def _plain(text: str) -> str:
    return " ".join(text.split())
