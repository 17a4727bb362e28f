"""The objective of a search: the user's, or the one that the model's metrics suggest."""

from __future__ import annotations

from collections.abc import Mapping

from search.errors import OptionError, nearest
from search.options import Options
from search.study.directions import direction_of_name
from search.study.trial import Objective

__all__ = ["objective_for_metrics"]


def objective_for_metrics(
    options: Options,
    metrics: tuple[str, ...],
    compiled: tuple[str, ...],
    directions: Mapping[str, str],
    *,
    validated: bool,
    extra: bool = False,
    own_fit: bool = False,
) -> Objective:
    """Return the objective of a search for a model with these metrics.

    The objective is the option's. By default it is `val_<metric>` if the model compiles exactly one metric whose
    direction is known, and which is no part of the loss, else `val_loss`. If the logs of the user's own `fit` lack that
    name, the objective is `default_objective`, KerasTuner's name for the value that such a `fit` returns. By default
    that value is minimized.

    The direction is the option's. By default it is that of `directions`, or for a name that no metric has, that of the
    words of the name.

    Args:
        metrics: the names in an epoch's logs, as the probe saw them; none if only the user's own `fit` knows them.
        compiled: the compiled metrics, without `loss`.
        directions: `min` or `max` by name, without `val_`, for those of `metrics` with a known direction.
        validated: whether `load_data` returns validation data.
        extra: whether callbacks or the user's own `fit` may add to the logs; the first epoch will show.
        own_fit: whether the space has a `fit` of its own.

    Raises:
        OptionError: the objective is not in the logs, lacks validation data, or has no known direction.
    """
    name = options.objective
    if name is None:
        single = len(compiled) == 1 and compiled[0] in directions
        part_of_loss = single and "loss" in metrics and compiled[0].endswith("_loss")
        name = f"val_{compiled[0]}" if single and not part_of_loss else "val_loss"
        if own_fit and name not in metrics:
            return Objective("default_objective", "max" if options.direction == "max" else "min")
    if name.startswith("val_") and not validated and not extra:
        raise OptionError(
            f"objective {name!r} needs validation data and load_data returned none: return (train, validation), or "
            f"give a training metric with --objective: {', '.join(metrics)}"
        )
    if name not in metrics and not (extra and options.objective is not None):
        raise OptionError(
            f"objective {name!r} is not among the metrics: {', '.join(metrics)}.{nearest(name, metrics)} "
            "Give one with --objective"
        )
    # A name that is no metric of the model is logged by a callback or by the user's own `fit`.
    known = directions.get(name.removeprefix("val_")) if name in metrics else direction_of_name(name)
    direction = options.direction or known
    if direction is None:
        raise OptionError(f"whether more or less of {name!r} is better is not known: say --direction max or min")
    return Objective(name, "max" if direction == "max" else "min")
