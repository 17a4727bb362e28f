"""The results of `regret.py`: one run of a method, the file that keeps all of them, their summary and its table."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from regret_methods import Observation
from regret_problems import FAMILIES, Problem


@dataclass(frozen=True)
class RunId:
    """The identity of a run: two runs with the same one have the same results.

    Attributes:
        family, problem: the problem.
        data: a digest of the problem's data.
        method: as `--methods` names it.
        seed: of the search.
        workers: the number of virtual workers.
        budgets: the times at which regret is taken, in virtual seconds.
    """

    family: str
    problem: str
    data: str
    method: str
    seed: int
    workers: int
    budgets: tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """The figures of one search.

    Attributes:
        id: its identity.
        regret: the normalised regret at each budget; None if nothing was observed until then.
        value: the true value of the incumbent at each budget.
        test: the incumbent's value on test data at the end; None if there are none.
        trials: the number of configurations that were tried.
        epochs: the number of epochs that were trained.
        seconds: the time that the search took by the clock.
    """

    id: RunId
    regret: Sequence[float | None]
    value: Sequence[float | None]
    test: float | None
    trials: int
    epochs: int
    seconds: float

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Run:
        identity = {**data["id"], "budgets": tuple(data["id"]["budgets"])}
        return cls(**{**data, "id": RunId(**identity)})


def measure(identity: RunId, problem: Problem, observations: Iterable[Observation], seconds: float) -> Run:
    """Return the figures of a search. The incumbent is the configuration and epoch with the best value that it saw."""
    ordered = sorted(observations, key=lambda each: each.time)
    best: Observation | None = None
    incumbents: list[Observation | None] = []
    following = 0
    for budget in identity.budgets:
        while following < len(ordered) and ordered[following].time <= budget:
            seen = ordered[following]
            if math.isfinite(seen.value) and problem.objective.better(seen.value, best.value if best else None):
                best = seen
            following += 1
        incumbents.append(best)
    values = [None if each is None else _true_value(problem, each, identity.seed) for each in incumbents]
    return Run(
        identity,
        [None if value is None else problem.regret(value) for value in values],
        values,
        None if best is None else problem.test_value(best.config, best.epoch),
        len({tuple(sorted(each.config.items())) for each in ordered}),
        len(ordered),
        round(seconds, 3),
    )


def _true_value(problem: Problem, seen: Observation, seed: int) -> float:
    return float(problem.curve(seen.config, seed).true[seen.epoch - 1])


# The file -------------------------------------------------------------------------------------------------------------


class ResultsError(Exception):
    """A file that cannot be used for results, with one line that says why."""


class Results:
    """The runs that are known, and the file that keeps them.

    Args:
        path: of the file; None to keep nothing. Runs that it has already are known.
        versions: the versions of the packages by name.

    Raises:
        ResultsError: the file has something else in it, or runs with other versions.
    """

    def __init__(self, path: Path | None, versions: Mapping[str, str]) -> None:
        self._path, self._versions = path, versions
        self.runs: dict[RunId, Run] = {}
        if path is None:
            return
        if path.exists():
            self._read(path)
        try:
            self.save()
        except OSError as error:
            raise ResultsError(f"--json {path} cannot be written: {error.strerror}") from None

    def _read(self, path: Path) -> None:
        try:
            data = json.loads(path.read_text())
            runs, before = [Run.from_json(each) for each in data["runs"]], data["versions"]
        except (OSError, ValueError, KeyError, TypeError):
            raise ResultsError(f"--json {path} is no file of this benchmark: name another") from None
        changed = [name for name in {**before, **self._versions} if before.get(name) != self._versions.get(name)]
        if changed and runs:
            were = ", ".join(f"{name} {before.get(name)} (now {self._versions.get(name)})" for name in changed)
            raise ResultsError(f"--json {path} has runs with {were}: name another file")
        self.runs = {run.id: run for run in runs}

    def add(self, run: Run) -> None:
        """Add a run, and write the file."""
        self.runs[run.id] = run
        self.save()

    def save(self) -> None:
        """Write the file, whole or not at all."""
        if self._path is None:
            return
        runs = sorted(self.runs.values(), key=lambda run: tuple(asdict(run.id).values()))
        data = {"versions": self._versions, "summary": summarise(runs), "runs": [asdict(run) for run in runs]}
        temporary = self._path.with_name(f"{self._path.name}.part")
        temporary.write_text(json.dumps(data, indent=1) + "\n")
        temporary.replace(self._path)


# Summaries ------------------------------------------------------------------------------------------------------------


def summarise(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the figures of each method in each family: an object for each, in the order of `runs`."""
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        key = run.id.family, run.id.method, run.id.workers, run.id.budgets
        groups.setdefault(key, []).append(run)
    return [
        {"family": family, "method": method, "workers": workers, "budgets": list(budgets), **_figures(group)}
        for (family, method, workers, budgets), group in groups.items()
    ]


def _figures(runs: Sequence[Run]) -> dict[str, Any]:
    """Return means, medians and standard errors at each budget.

    A standard error is that of the mean over the tasks, as it varies with the seed: tasks are given, seeds a sample.
    """
    columns = list(zip(*(run.regret for run in runs), strict=True))
    tests = [run.test for run in runs if run.test is not None]
    return {
        "tasks": sorted({run.id.problem for run in runs}),
        "seeds": sorted({run.id.seed for run in runs}),
        "runs": len(runs),
        "mean": [_mean(column) for column in columns],
        "median": [statistics.median(known) if (known := _known(column)) else None for column in columns],
        "error": [_error(runs, index) for index in range(len(columns))],
        "test": _mean(tests),
        "seconds": round(statistics.fmean(run.seconds for run in runs), 2),
    }


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return statistics.fmean(known) if known else None


def _error(runs: Sequence[Run], index: int) -> float | None:
    by_seed: dict[int, list[float]] = {}
    for run in runs:
        value = run.regret[index]
        if value is not None:
            by_seed.setdefault(run.id.seed, []).append(value)
    means = [statistics.fmean(values) for values in by_seed.values()]
    return statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else None


def table(family: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table with a row a method, of one family with the same budgets."""
    first = rows[0]
    unit = "epochs" if first["workers"] == 1 else f"seconds of {first['workers']} workers"
    found = {task for row in rows for task in row["tasks"]}
    tasks = sorted(found, key=lambda task: (int(task) if task.isdigit() else 0, task))
    with_test = any(row["test"] is not None for row in rows)
    head = ["method", *map(str, first["budgets"]), *(["test"] if with_test else []), "runs", "s/run"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        pairs = zip(row["mean"], row["error"], strict=True)
        test = [NONE if row["test"] is None else f"{row['test']:.3f}"] if with_test else []
        lines.append(
            [row["method"], *(_cell(*pair) for pair in pairs), *test, str(row["runs"]), f"{row['seconds']:.1f}"]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines[1] = ["-" * width for width in widths]
    body = "\n".join(f"| {' | '.join(map(str.ljust, line, widths))} |" for line in lines)
    return f"{FAMILIES[family]} ({', '.join(tasks)}): mean normalised regret ± standard error after {unit}\n\n{body}\n"


NONE = "-"


def _cell(mean: float | None, error: float | None) -> str:
    if mean is None:
        return NONE
    return figure(mean) if error is None else f"{figure(mean)} ± {figure(error)}"


def figure(value: float) -> str:
    """Return a number with three digits; a rounding error below zero is zero."""
    return f"{round(value, 3) + 0.0:.3f}"
