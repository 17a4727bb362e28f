"""Recorded pools: trials of real spaces with their curves, of which a search tries some, each of them once.

Regret compares best values over the epochs: 0 is the best value of any trial at any epoch, and 1 the median, over the
trials, of a trial's best value. A search's incumbent is a best value over epochs, too.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from regret_problems.problem import Config, Curve, Problem, ProblemError, digest
from regret_problems.space import is_active, key_of
from search.space.domain import Condition, Domain, Parameter
from search.study.trial import Objective

SUFFIX = ".json.gz"


def list_pools(folder: Path) -> list[str]:
    """Return the names of the problems in `folder`: `pool`, or `pool:metric` for another metric of the same trials.

    A pool whose objective is val_accuracy counts a second time by val_loss, which is less noisy, if it has recorded it.
    ProblemError if there is no pool, or one that cannot be read.
    """
    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        name = path.name.removesuffix(SUFFIX)
        found.append(name)
        with _named(path):
            data = json.loads(gzip.decompress(path.read_bytes()))
            has_loss = any("val_loss" in trial["curves"] for trial in data["trials"])
            if data["objective"] == "val_accuracy" and has_loss:
                found.append(f"{name}:val_loss")
    if not found:
        raise ProblemError(f"--pools {folder}: it has no pool, a file *{SUFFIX}")
    return found


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn the errors of a file's content into a ProblemError that names the file."""
    try:
        yield
    except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ProblemError(f"{path} is no pool: {type(error).__name__}: {error}") from None


class RecordedPool(Problem):
    """A pool of recorded trials.

    Args:
        folder: the folder of the pool.
        name: as `list_pools` has it.

    Raises:
        ProblemError: the file is no pool.
    """

    trainings = (2, 4, 8, 16)

    def __init__(self, folder: str, name: str) -> None:
        self.name = name
        file, _, metric = name.partition(":")
        path = Path(folder) / f"{file}{SUFFIX}"
        with _named(path):
            self._load(json.loads(gzip.decompress(path.read_bytes())), metric)
        self.data = digest(path)

    def _load(self, data: Mapping[str, Any], metric: str) -> None:
        direction = "min" if metric == "val_loss" else data["direction"]
        self.objective = Objective(metric or data["objective"], direction)
        self.max_epochs = int(data["epochs"])
        self._curves = self._read_curves(data["trials"])
        configs = [dict(key) for key in self._curves]
        self.parameters = _parameters(data["parameters"], configs)
        self.configs = [self._in_order(config) for config in configs]
        best, median = self.scale
        if best == median:
            raise ValueError(f"its best and its median {self.objective.name} are both {best}, which is no scale")

    def curve(self, config: Config, seed: int) -> Curve:
        """Return the recorded curve."""
        curve = self._curves[key_of(config)]
        return Curve(curve, curve)

    def find_scale(self) -> tuple[float, float]:
        """Return the best and the median of the trials' best values over the epochs."""
        bests = [best for curve in self._curves.values() if (best := self.objective.best(curve)) is not None]
        best = self.objective.best(bests)
        if best is None:
            raise ValueError(f"no trial has a value of {self.objective.name}")
        return best, float(np.median(bests))

    def _read_curves(self, trials: Sequence[Mapping[str, Any]]) -> dict[frozenset[tuple[str, Any]], list[float]]:
        """Return the curves by configuration. Of trials with the same one, the first counts."""
        curves: dict[frozenset[tuple[str, Any]], list[float]] = {}
        for trial in trials:
            values = trial["curves"].get(self.objective.name)
            if values:
                known = [math.nan if value is None else float(value) for value in values]
                curves.setdefault(key_of(trial["params"]), known[: self.max_epochs])
        return curves

    def _in_order(self, config: Config) -> Config:
        """Return `config` in the order of the parameters, after a check of its values."""
        found = {}
        for parameter in self.parameters:
            if is_active(parameter, found):
                if not parameter.domain.contains(config[parameter.name]):
                    raise ValueError(f"{config[parameter.name]!r} is not in {parameter}")
                found[parameter.name] = config[parameter.name]
        if len(found) < len(config):
            raise ValueError(f"{sorted(config.keys() - found.keys())} should be inactive in {dict(config)}")
        return found


def _parameters(described: Sequence[Mapping[str, Any]], configs: Sequence[Config]) -> list[Parameter]:
    """Return the parameters, with the conditions that a define-by-run factory kept to itself."""
    found: list[Parameter] = []
    for each in described:
        domain = Domain.from_json(each["domain"])
        conditions = tuple(Condition(name, tuple(values)) for name, values in each.get("conditions", ()))
        if not conditions:
            conditions = _infer_conditions(each["name"], found, configs)
        found.append(Parameter(each["name"], domain, domain.at(0.0), conditions))
    return found


def _infer_conditions(name: str, earlier: Sequence[Parameter], configs: Sequence[Config]) -> tuple[Condition, ...]:
    """Return a condition on one earlier parameter that tells the trials with a value of `name` from the others."""
    if all(name in config for config in configs):
        return ()
    for parameter in earlier:
        other = parameter.name
        having = {config[other] for config in configs if other in config and name in config}
        lacking = {config[other] for config in configs if other in config and name not in config}
        within = all(other in config for config in configs if name in config)
        if having and within and parameter.domain.size is not None and not having & lacking:
            return (Condition(other, tuple(sorted(having, key=str))),)
    raise ValueError(f"some trials lack {name}, and no earlier parameter says which: give it conditions")
