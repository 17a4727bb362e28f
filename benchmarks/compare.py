"""The same search by search and by other tools, on the same spaces: seconds, epochs, objectives, memory.

    pip install '.[bench]'        # with .[bench,jax] for --keras-backend jax
    python benchmarks/compare.py [--space mlp,cnn,large,stream,pydataset,scalars,large_batch]
        [--max-epochs 9,27] [--seeds 3] [--workers 2]
        [--contenders ours,keras-tuner,optuna,ray,fit,fit-onednn,arithmetic] [--keras-backend tensorflow] [--gpu]
        [--json FILE]

Each run is a process of its own, on processors only unless `--gpu` is given. Contenders take turns, so a noisy machine
slows all of them alike. The benchmark prints a table of medians over the seeds for every space and max_epochs:

- command: the whole process, from its start to its end;
- imports: the time before the search: imports of the framework, the space and the data; for ours, the probe; for Ray,
  its start;
- search: the median; with several seeds also the shortest and the longest;
- trials: KerasTuner counts a promotion as another trial;
- ms/epoch: time of the search by the clock for each epoch: two workers halve it;
- best: the best val_accuracy of any epoch;
- peak memory: of all processes together, with shared memory counted once;
- GPU: with `--gpu`, the mean utilisation in per cent during the search, as the NVIDIA driver counts it: the share of
  time in which any kernel ran.

The spaces are in `spaces/`: `mlp`, `cnn` and `large` search the sizes of models on arrays; `stream` and `pydataset` are
the MLP on data that come in batches; `scalars` searches numbers that change no shape; `large_batch` is for a GPU. Not
all are in the default of `--space`.

The contenders are in `contenders/`: Hyperband of ours and of KerasTuner, Optuna for as many epochs as ours took, and
Ray Tune for as many trials. Three contenders train the trials of ours:

- `fit`, one after another by plain `model.fit`;
- `fit-onednn`, the same with `TF_ENABLE_ONEDNN_OPTS=1`, which our workers have by default;
- `arithmetic`, by our fused epochs with no framework around them, in such workers. Their time for arithmetic alone,
  shared evenly among the workers, is a row of its own: no search of these trials can be faster. It does not apply to
  data that come in batches, whose pipeline belongs to the epochs.

If `TF_ENABLE_ONEDNN_OPTS` is set already, its value holds for all contenders.

Each run adds a line with its figures to `--json` when it ends.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import processes

from search.devices.gpus import find_gpus

HERE = Path(__file__).parent
TIMEOUT_SECONDS = 30 * 60.0

MAX_EPOCHS = {
    "mlp": (9, 27),
    "cnn": (9, 27),
    "large": (3,),
    "stream": (9,),
    "pydataset": (9,),
    "scalars": (9,),
    "large_batch": (9,),
}
"""The default max_epochs of each space."""

STREAMS = {"stream", "pydataset"}
"""Spaces whose data come in batches."""

CONTENDERS = {
    "ours": ("ours.py", "search, {workers} workers"),
    "keras-tuner": ("keras_tuner_hyperband.py", "KerasTuner Hyperband, 1 process"),
    "optuna": ("optuna_tpe.py", "Optuna TPE + Hyperband pruner, {workers} processes"),
    "ray": ("ray_asha.py", "Ray Tune ASHA, {workers} actors"),
    "fit": ("plain_fit.py", "same trials, plain `model.fit`, 1 process"),
    "fit-onednn": ("plain_fit.py", "same trials, plain `model.fit` with oneDNN, 1 process"),
    "arithmetic": ("arithmetic.py", "same trials, fused, no framework, {workers} processes"),
}
"""The program of each contender, and its label in the tables."""

NEED_OURS = {"optuna", "ray", "fit", "fit-onednn", "arithmetic"}
"""Contenders that need the trials of ours."""

PACKAGES = ("keras", "keras_tuner", "optuna", "ray", "mlflow")

WITH_ONEDNN = {"fit-onednn", "arithmetic"}
"""Contenders that run with oneDNN, as our workers do."""

NONE = "-"

Row = dict[str, Any]


def environment(contender: str, folder: str, given: argparse.Namespace) -> dict[str, str]:
    """Return the environment variables of a contender.

    Args:
        folder: a folder for temporary files.
    """
    # If several processes share a GPU, none may take all its memory.
    device = (
        {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
        if given.gpu
        else {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    )
    # Installed packages have bytecode files, so a checkout must be able to write them, too.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {
        **({"TF_ENABLE_ONEDNN_OPTS": "1"} if contender in WITH_ONEDNN else {}),
        **kept,
        **device,
        "TMPDIR": folder,
        "KERAS_BACKEND": given.keras_backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "GRPC_VERBOSITY": "ERROR",
    }


def measure(contender: str, space: str, max_epochs: int, seed: int, trials: Path, given: argparse.Namespace) -> Row:
    """Run a contender once, and return its figures, or `error`, which says why there are none."""
    # The folder's name is short because Ray keeps sockets here, whose paths must be short.
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        program = HERE / "contenders" / CONTENDERS[contender][0]
        task = {
            "space": HERE / "spaces" / f"{space}.py",
            "max-epochs": max_epochs,
            "seed": seed,
            "workers": given.workers,
            "trials": trials,
            "folder": folder,
        }
        options = [text for name, value in task.items() for text in (f"--{name}", str(value))]
        options += ["--gpu"] if given.gpu else []
        ran = processes.run(
            [sys.executable, str(program), *options],
            environment(contender, folder, given),
            Path(folder),
            TIMEOUT_SECONDS,
            processes.gpu_sampler(find_gpus()[0].uuid) if given.gpu else lambda: None,
        )
    row: Row = {
        "space": space,
        "max_epochs": max_epochs,
        "seed": seed,
        "contender": contender,
        "keras_backend": given.keras_backend,
        "gpu": given.gpu,
        "workers": given.workers,
    }
    if ran.code is None:
        return {**row, "error": f"took longer than {TIMEOUT_SECONDS:g} s"}
    if ran.code:
        return {**row, "error": (ran.errors.strip().splitlines() or [f"exit code {ran.code}"])[-1]}
    result = json.loads(ran.output.splitlines()[-1])
    used = utilisation(ran.samples, result.pop("began"), result["search"])
    figures = {"command": ran.seconds - result.get("beside", 0.0), "memory": ran.memory, **result}
    return {**row, **figures, **({} if used is None else {"utilisation": used})}


def utilisation(samples: Sequence[tuple[float, float]], began: float, seconds: float) -> float | None:
    """Return the mean of the samples taken during a search; None if there is none."""
    during = [used for moment, used in samples if began <= moment <= began + seconds]
    return statistics.mean(during) if during else None


def applies(contender: str, space: str) -> bool:
    """Return whether a contender can train a space."""
    return contender != "arithmetic" or space not in STREAMS


def compare(space: str, max_epochs: int, given: argparse.Namespace, keep: Callable[[Row], None]) -> list[Row]:
    """Run all contenders with all seeds, in turn, and return their rows."""
    rows = []
    contenders = [name for name in given.contenders if applies(name, space)]
    first = [name for name in contenders if name == "ours"]
    others = [name for name in contenders if name != "ours"]
    for seed in range(given.seeds):
        turn = seed % len(others) if others else 0
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            for contender in [*first, *others[turn:], *others[:turn]]:
                row = measure(contender, space, max_epochs, seed, Path(folder) / "trials.json", given)
                keep(row)
                rows.append(row)
    return rows


# The tables -----------------------------------------------------------------------------------------------------------

COLUMNS = (
    "contender",
    "command s",
    "imports s",
    "search s",
    "trials",
    "epochs",
    "ms/epoch",
    "best",
    "peak memory MiB",
    "search ÷ ours",
    "command ÷ ours",
)


def table(rows: list[Row], given: argparse.Namespace) -> str:
    """Return the table for the rows of a space and a max_epochs, in Markdown."""
    # A contender that does not apply has no rows.
    by_name = {name: [row for row in rows if row["contender"] == name] for name in given.contenders}
    by_name = {name: runs for name, runs in by_name.items() if runs}
    ours = [row for row in by_name.get("ours", []) if "error" not in row]
    columns = (*COLUMNS, *(["GPU %"] if given.gpu else []))
    lines = [columns, ("---",) * len(columns)]
    notes = []
    for name, runs in by_name.items():
        label = CONTENDERS[name][1].format(workers=given.workers)
        done = [run for run in runs if "error" not in run]
        failed = [run for run in runs if "error" in run]
        if failed:
            label += f", {len(failed)} of {len(runs)} failed: {failed[-1]['error'].replace('|', '/')}"
        lines.append((label, *figures(done, ours), *([mean_utilisation(done)] if given.gpu else [])))
        if name == "arithmetic" and done:
            alone = [{**run, "search": run["steady"] / given.workers} for run in done]
            lines.append(("arithmetic only", *figures(alone, ours, whole=False), *([NONE] if given.gpu else [])))
            parts = ", ".join(f"{part} {median(done, part):.1f} s" for part in ("build", "trace", "steady"))
            notes.append(f"Same trials, fused, all processes together: {parts}.")
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), *(f"\n{note}" for note in notes)])


def figures(runs: list[Row], ours: list[Row], whole: bool = True) -> tuple[str, ...]:
    """Return the figures of a line.

    Args:
        whole: if the runs were whole commands, not a part of one.
    """
    if not runs:
        return (NONE,) * (len(COLUMNS) - 1)
    seconds = [run["search"] for run in runs]
    search = statistics.median(seconds)
    spread = f" ({min(seconds):.1f} to {max(seconds):.1f})" if len(runs) > 1 else ""
    epochs = median(runs, "epochs")
    return (
        f"{median(runs, 'command'):.1f}" if whole else NONE,
        f"{median(runs, 'imports'):.1f}" if whole else NONE,
        f"{search:.1f}{spread}",
        f"{median(runs, 'trials'):g}",
        f"{epochs:g}",
        f"{1e3 * search / epochs:.1f}",
        f"{median(runs, 'best'):.4f}" if whole else NONE,
        f"{median(runs, 'memory'):.0f}" if whole else NONE,
        f"{search / median(ours, 'search'):.2f}" if ours else NONE,
        f"{median(runs, 'command') / median(ours, 'command'):.2f}" if ours and whole else NONE,
    )


def mean_utilisation(runs: list[Row]) -> str:
    """Return the mean utilisation of the GPU over the runs in which it was measured."""
    known = [run["utilisation"] for run in runs if "utilisation" in run]
    return f"{statistics.mean(known):.0f}" if known else NONE


def median(runs: list[Row], name: str) -> float:
    return statistics.median(run[name] for run in runs)


def heading(given: argparse.Namespace) -> str:
    """Return a line that names the machine, the versions and the command of this measurement."""
    packages = importlib.metadata.packages_distributions()
    versions = []
    for name in (*PACKAGES, given.keras_backend):
        if name not in packages:
            continue  # not installed, so its contender does not run
        # TensorFlow is distributed under several names.
        found = [name] if name in packages[name] else packages[name]
        versions.append(f"{found[0]} {importlib.metadata.version(found[0])}")
    date = time.strftime("%d %B %Y").lstrip("0")
    cores = len(os.sched_getaffinity(0))
    libraries = ", ".join([f"Python {platform.python_version()}", *versions])
    gpus = "".join(f", {gpu.name}" for gpu in find_gpus()) if given.gpu else ""
    return f"{date}, {processor()}, {cores} cores{gpus}; {libraries}; `python {shlex.join(sys.argv)}`"


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


# The command ----------------------------------------------------------------------------------------------------------


def names(known: Any) -> Callable[[str], list[str]]:
    """Return a reader of comma-separated names, each of which must be in `known`."""

    def read(text: str) -> list[str]:
        given = text.split(",")
        for name in given:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not known: use {', '.join(known)}")
        return given

    return read


def numbers(text: str) -> list[int]:
    """Return the numbers in a comma-separated list."""
    return [int(number) for number in text.split(",")]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", type=names(MAX_EPOCHS), default=["mlp", "cnn"])
    parser.add_argument("--max-epochs", type=numbers, help="by default 9,27 for mlp and cnn, 3 for large, 9 for others")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--contenders", type=names(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--keras-backend", choices=("tensorflow", "jax"), default="tensorflow")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gpu", action="store_true", help="train on the machine's first GPU, which workers share")
    parser.add_argument("--json", type=Path, help="a file to which each run's figures are added")
    given = parser.parse_args()
    if "ours" not in given.contenders and (needy := NEED_OURS.intersection(given.contenders)):
        parser.error(f"{', '.join(sorted(needy))}: to have the trials of ours, add ours to --contenders")
    if given.gpu and not find_gpus():
        parser.error("--gpu: no NVIDIA GPU was found on this machine")
    return given


def main() -> None:
    given = parse()

    def keep(row: Row) -> None:
        print(row, file=sys.stderr, flush=True)
        if given.json is not None:
            with given.json.open("a") as file:
                file.write(json.dumps(row) + "\n")

    print(heading(given), flush=True)
    for space in given.space:
        for max_epochs in given.max_epochs or MAX_EPOCHS[space]:
            rows = compare(space, max_epochs, given, keep)
            print(f"\n{space}, max_epochs {max_epochs}, Keras on {given.keras_backend}, seeds: {given.seeds}\n")
            print(table(rows, given), flush=True)


if __name__ == "__main__":
    main()
