"""The output of `search check`: the hyperparameters of a space, and the model. All functions are pure."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from search.display.compilations import describe_compilations
from search.display.grid import Column, Grid
from search.display.text import coloured, format_value, printable
from search.messages import Probed
from search.space.domain import Parameter
from search.wording import pluralize


def space_details(probed: Probed) -> RenderableType:
    """Return the findings of `search check`: the hyperparameters of a build with default values, and its model."""
    parts: list[RenderableType] = []
    if probed.parameters:
        parts.append(parameters_table(probed.parameters))
    else:
        parts.append(Text("no hyperparameters"))
    training, validation = (
        _samples(number, batched) for number, batched in zip(probed.samples, probed.batched, strict=True)
    )
    size = "" if probed.batched[0] else f"; batch size {probed.batch_size}"
    parts += [
        Text(),
        *_summary_lines(probed.summary),
        Text(f"model: {pluralize(probed.weight_count, 'weight', ',')}, runner {probed.runner}"),
        Text(f"samples: {training} for training, {validation} for validation{size}"),
        Text(f"metrics: {', '.join(map(printable, probed.metrics))}"),
        *(Text(printable(line)) for line in describe_compilations(probed.shape_parameters)),
    ]
    return Group(*parts)


def _samples(number: int | None, batched: bool) -> str:
    if number is None:
        return "an unknown number of batches" if batched else "unknown"
    return pluralize(number, "batch", ",") if batched else f"{number:,}"


def _summary_lines(summary: str) -> list[RenderableType]:
    return [coloured(summary.rstrip()), Text()] if summary.strip() else []


def parameters_table(parameters: Sequence[Parameter]) -> Grid:
    """Return a table of hyperparameters: their defaults, their domains, and the conditions that activate them."""
    fixed = [
        Column("hyperparameter", [printable(parameter.name) for parameter in parameters], left=True),
        Column("default", [format_value(parameter.default) for parameter in parameters], left=True),
    ]
    domains = [printable(str(parameter.domain)) for parameter in parameters]
    conditions = [printable(" and ".join(map(str, parameter.conditions))) for parameter in parameters]
    wide = [Column("domain", domains, left=True)]
    if any(conditions):
        wide.append(Column("where", conditions, left=True))

    below = [
        [f"{domain} where {condition}" if condition else domain]
        for domain, condition in zip(domains, conditions, strict=True)
    ]
    return Grid(fixed, wide, below=below)
