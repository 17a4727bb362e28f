"""The plan of a search, in words."""

from __future__ import annotations

from search.display.text import format_seconds, format_value
from search.options import OWN_FIT_MAX_EPOCHS, Options
from search.wording import pluralize


def describe_plan(options: Options, *, own_fit: bool = False, earlier: int = 0) -> str:
    """Describe in one line what the search will do.

    Args:
        own_fit: whether the space has a `fit` of its own.
        earlier: the number of the study's trials that a plan with other options has begun.
    """
    limits = []
    if options.max_trials is not None and not options.lists_all:
        limits.append(pluralize(options.max_trials, "trial"))
    if options.timeout is not None:
        limits.append(format_seconds(options.timeout))
    target = None if options.target is None else f"when the objective is {format_value(options.target)}"
    if options.follows_plan:
        return _describe_hyperband(options, limits, target, earlier)
    return _describe_other(options, limits, target, own_fit=own_fit)


def _describe_hyperband(options: Options, limits: list[str], target: str | None, earlier: int) -> str:
    plan, times = options.plan, options.iterations
    beside = f", beside {pluralize(earlier, 'trial')} of other options" if earlier else ""
    amount = f"{pluralize(plan.trial_count * times, 'trial')}, {pluralize(plan.total_epochs * times, 'epoch')}"
    brackets = pluralize(len(plan.brackets), "bracket")
    if options.max_total_epochs is not None:
        limits.insert(0, pluralize(options.max_total_epochs, "epoch"))
    ends = [f"after {' or '.join(limits)}"] if limits else []
    ends += [target] if target else []
    sampler = f", {options.sampler} sampler" if options.sampler else ""
    return (
        f"{options.backend_name}{sampler}, max_epochs {options.max_epochs}, factor {options.factor}: {amount} in "
        f"{f'{times} × ' if times > 1 else ''}{brackets}{beside}"  # noqa: RUF001
        f"{'; ends earlier ' + ' or '.join(ends) if ends else ''}"
    )


def _describe_other(options: Options, limits: list[str], target: str | None, *, own_fit: bool) -> str:
    """Describe a search whose back end follows no plan that is known before."""
    name, values = options.backend_name, options.backend_options()
    if values.get("sampler"):
        name += f", {values['sampler']} sampler"
    if values.get("pruner"):
        name += ", no pruner" if values["pruner"] == "none" else f", {values['pruner']} pruner"
    if options.total_epochs is not None:
        limits.insert(0, pluralize(options.total_epochs, "epoch"))
    parts = ["every combination"] if options.lists_all else []
    parts += [f"up to {' or '.join(limits)}"] if limits else []
    epochs_only = options.total_epochs is not None and len(limits) == 1
    if own_fit and options.max_epochs == OWN_FIT_MAX_EPOCHS:
        parts.append("as many epochs a trial as fit trains")
    else:
        # A callback, or a `fit` of the user's, may end a trial before.
        epochs = options.max_epochs if epochs_only else pluralize(options.max_epochs, "epoch")
        parts.append(f"at most {epochs} a trial")
    return f"{name}: {', '.join(parts)}{f'; ends {target}' if target else ''}"
