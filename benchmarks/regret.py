"""The quality of searches without training: normalised regret of back ends and of peers, against epochs spent.

    pip install '.[bench]'
    python benchmarks/regret.py [--methods hyperband,optuna:pruner=median,keras-tuner] [--seeds 0-9] [--json FILE]

Problems (`--problems`, by default lcbench,pools):

- lcbench: learning curves of the surrogate of LCBench, `--tasks` of it;
- noise: the same, with the noise of 400 validation samples added to each accuracy that a search sees;
- pools: recorded trials of real spaces, all pools in the folder `--pools`, each trial of which is tried at most once;
- synthetic: curves that mislead in known ways; conditional: a space of nested choices.

Methods (`--methods`) are back ends by the names and arguments that `--backend` takes, with options as arguments
(`hyperband:sampler=tpe`), and peers:

- keras-tuner: KerasTuner's Hyperband;
- optuna-study:pruner=none, median, hyperband or halving: Optuna's TPE with that pruner, by its own study;
- smac: SMAC's multi-fidelity facade, if it is installed;
- best-of:n=26,epochs=2: of n random configurations after some epochs, the best is trained to the end; then again.

Each decision about a trial is the method's own. An epoch takes one virtual second. So with one worker the figures are
taken after so many epochs (of LCBench 2 to 40 full trainings, of others 2 to 16), and with several after so much time
(a quarter of a full training, half of it, one and two).

Normalised regret is 0 for the best known configuration, and 1 for a median one. The incumbent is the configuration and
epoch with the best value that the search saw; its true value counts. The benchmark prints a table for each family of
problems, with a row a method: the mean over problems and seeds, ± the standard error over seeds of the mean over
problems. `--json` keeps each run, and medians. A run that the file has already is not repeated.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import multiprocessing
import os
import platform
import re
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from regret_methods import check_method, default_methods, run_method, split_methods
from regret_problems import FAMILIES, ProblemError, ProblemId, load_problem
from regret_results import Results, ResultsError, Run, RunId, figure, measure, summarise, table

from search.errors import OptionError

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
"""The environment of the processes that search: several run side by side, and SMAC's results depend on hashes."""

DATA = Path(__file__).parent / "data"
PACKAGES = ("ConfigSpace", "keras", "keras-search", "keras-tuner", "numpy", "onnxruntime", "optuna", "scipy", "smac")
"""The packages whose versions are kept with the results."""


# Arguments ------------------------------------------------------------------------------------------------------------


def numbers(text: str) -> list[int]:
    """Return the numbers of a list such as `0-9,20`."""
    found: list[int] = []
    for piece in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", piece)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise argparse.ArgumentTypeError(f"{piece!r} is no number and no range: write 0-9, or 1,4,7")
        found += range(first, last + 1)
    return list(dict.fromkeys(found))


def positive(text: str) -> int:
    """Return a whole number of at least 1."""
    if not re.fullmatch(r"0*[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def families(text: str) -> list[str]:
    """Return the families of problems in a list."""
    found = text.split(",")
    for name in found:
        if name not in FAMILIES:
            raise argparse.ArgumentTypeError(f"{name!r} is not known: use {', '.join(FAMILIES)}")
    return list(dict.fromkeys(found))


def methods(text: str) -> list[str]:
    """Return the methods in a list."""
    found = list(split_methods(text))
    for method in found:
        try:
            check_method(method)
        except OptionError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return list(dict.fromkeys(found))


class Parser(argparse.ArgumentParser):
    """A parser that says in one line which argument is wrong."""

    def error(self, message: str) -> NoReturn:
        print(f"regret.py: {message}", file=sys.stderr)
        raise SystemExit(2)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--methods", type=methods, help="by default all that are installed")
    parser.add_argument("--problems", type=families, default=["lcbench", "pools"])
    parser.add_argument("--tasks", type=numbers, help="of LCBench's surrogate; by default twelve")
    parser.add_argument("--pools", type=Path, default=DATA / "recorded", help="a folder of recorded pools")
    parser.add_argument("--data", type=Path, default=DATA / "lcbench", help="the folder of LCBench's model.onnx")
    parser.add_argument("--seeds", type=numbers, default=numbers("0-9"))
    parser.add_argument("--workers", type=positive, default=1, help="virtual workers")
    parser.add_argument(
        "--budgets", type=numbers, help="epochs, or seconds of several workers, at which to take regret"
    )
    parser.add_argument("--jobs", type=positive, default=2, help="searches to run at a time")
    parser.add_argument("--json", type=Path, help="a file that keeps all runs, and has those of an earlier call")
    given = parser.parse_args(arguments)
    if given.budgets and (sorted(given.budgets) != given.budgets or given.budgets[0] == 0):
        parser.error("argument --budgets: write whole numbers of at least 1, the smallest first")
    given.methods = given.methods or default_methods()
    return given


def list_problems(given: argparse.Namespace) -> list[ProblemId]:
    """Return the problems of the chosen families. ProblemError if data are missing or wrong."""
    found: list[ProblemId] = []
    for family in given.problems:
        if family in ("lcbench", "noise"):
            from regret_problems.lcbench import TASKS

            found += [ProblemId(family, str(task), str(given.data)) for task in given.tasks or TASKS]
        elif family == "pools":
            from regret_problems.pools import list_pools

            found += [ProblemId(family, name, str(given.pools)) for name in list_pools(given.pools)]
        else:
            from regret_problems.synthetic import SYNTHETIC

            found += [ProblemId(family, name) for name in (SYNTHETIC if family == "synthetic" else ("nested",))]
    return found


# Runs -----------------------------------------------------------------------------------------------------------------

Task = tuple[ProblemId, RunId]


def list_tasks(given: argparse.Namespace) -> list[Task]:
    """Return all runs, seed by seed, so that an interrupted benchmark has whole seeds."""
    tasks = []
    problems = [(which, load_problem(which)) for which in list_problems(given)]
    for seed in given.seeds:
        for which, problem in problems:
            budgets = tuple(given.budgets or problem.budgets(given.workers))
            for method in given.methods:
                identity = RunId(which.family, which.name, problem.data, method, seed, given.workers, budgets)
                tasks.append((which, identity))
    return tasks


def run_task(task: Task) -> Run:
    """Run one search, and return its figures."""
    which, identity = task
    problem = load_problem(which)
    began = time.perf_counter()
    observations = run_method(identity.method, problem, identity.seed, identity.workers, identity.budgets[-1])
    return measure(identity, problem, observations, time.perf_counter() - began)


@contextmanager
def settled_environment() -> Iterator[None]:
    """Give `ENVIRONMENT` to the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def run_all(tasks: Sequence[Task], jobs: int) -> Iterator[tuple[Task, Run | str]]:
    """Yield each task with its run, or the text of its failure, as they end."""
    with settled_environment(), ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        waiting = iter(tasks)
        running: dict[Future[Run], Task] = {}
        try:
            while True:
                # No more are submitted than run, so that an interrupted benchmark ends soon.
                for task in waiting:
                    running[pool.submit(run_task, task)] = task
                    if len(running) > jobs:
                        break
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    failure = future.exception()
                    yield running.pop(future), future.result() if failure is None else describe_failure(failure)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def describe_failure(failure: BaseException) -> str:
    """Return a line for an option that a method refuses, and for anything else its traceback."""
    return f"{failure}\n" if isinstance(failure, OptionError) else "".join(traceback.format_exception(failure))


def describe(identity: RunId) -> str:
    return f"{identity.method} on {identity.family} {identity.problem}, seed {identity.seed}"


def run_missing(tasks: Sequence[Task], results: Results, jobs: int) -> int:
    """Run the tasks that `results` lacks, add their runs, and return how many failed."""
    missing = [task for task in tasks if task[1] not in results.runs]
    if len(missing) < len(tasks):
        print(f"{len(tasks) - len(missing)} of {len(tasks)} runs are known", file=sys.stderr, flush=True)
    failures = 0
    for done, (task, run) in enumerate(run_all(missing, jobs), 1):
        if isinstance(run, str):
            failures += 1
            print(f"{run}{describe(task[1])} failed", file=sys.stderr, flush=True)
            continue
        results.add(run)
        figures = " ".join("none" if value is None else figure(value) for value in run.regret)
        print(f"{done}/{len(missing)} {describe(run.id)}: {figures} ({run.seconds:.1f} s)", file=sys.stderr, flush=True)
    return failures


def print_tables(given: argparse.Namespace, tasks: Sequence[Task], results: Results) -> None:
    """Print a table for each family and budgets, with the methods in the order given."""
    wanted = [results.runs[identity] for _, identity in tasks if identity in results.runs]
    wanted.sort(key=lambda run: given.methods.index(run.id.method))
    rows = summarise(wanted)
    for family in given.problems:
        budgets = list(dict.fromkeys(tuple(row["budgets"]) for row in rows if row["family"] == family))
        for each in budgets:
            same = [row for row in rows if row["family"] == family and tuple(row["budgets"]) == each]
            print(table(family, same), flush=True)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, and return the exit status: 1 if a run failed, 2 for wrong arguments or data."""
    given = parse(arguments)
    try:
        tasks = list_tasks(given)
        results = Results(given.json, versions())
    except (ProblemError, ResultsError) as error:
        print(f"regret.py: {error}", file=sys.stderr)
        return 2
    try:
        failures = run_missing(tasks, results, given.jobs)
    except KeyboardInterrupt:
        print("interrupted" + (": the same command goes on" if given.json else ""), file=sys.stderr)
        return 130
    print_tables(given, tasks, results)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
