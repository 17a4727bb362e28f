"""All that a release needs before its tag: `make release-check`.

    python tests/release.py
    python tests/release.py --only version build wheel

- version: nothing is uncommitted, and CHANGELOG.md has a date for the version of `search/__init__.py`.
- check, test, test-slow, test-kills, test-versions: the goals of the Makefile.
- build: a source distribution and a wheel in `dist/`.
- wheel: the wheel in an empty environment, with the newest packages that its metadata allow, and a search there.
- sdist: the same for the source distribution, with the packages of `constraints.txt`.

Every step is run, whatever another one gives. A table says what failed, and the exit code is 1 then.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"

SPACE = """
import keras
import numpy as np

def load_data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(96, 4)).astype("float32")
    y = (x.sum(axis=1) > 0).astype("float32")
    return (x[:64], y[:64]), (x[64:], y[64:])

def build_model(hp):
    hidden = keras.layers.Dense(hp.Int("units", 4, 16), activation="relu")
    model = keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(1, activation="sigmoid")])
    rate = hp.Float("lr", 1e-3, 1e-1, sampling="log")
    model.compile(keras.optimizers.Adam(rate), "binary_crossentropy", metrics=["accuracy"])
    return model
"""
"""A space that needs no package but those of `search`."""

RUN = ("run", "space.py", "--max-epochs", "2", "--max-trials", "2", "--workers", "1", "--seed", "0", "--no-progress")


class Failed(Exception):
    """A step has failed; the message is one line."""


def clean_environment(folder: Path | None = None) -> dict[str, str]:
    """Return the variables of a process that sees no checkout, with the programs of the environment `folder` first."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    if folder is not None:
        environment["PATH"] = f"{folder / 'bin'}{os.pathsep}{environment['PATH']}"
    return environment


def run(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. Failed if its exit code is not 0."""
    done: subprocess.CompletedProcess[str] = subprocess.run([*map(str, command)], text=True, **options)
    if done.returncode != 0:
        output = f":\n{done.stdout or ''}{done.stderr or ''}".rstrip(":\n")
        raise Failed(f"{' '.join(map(str, command))} exits with {done.returncode}{output}")
    return done


def build(folder: Path, source: Path = ROOT, targets: Sequence[str] = ("sdist", "wheel")) -> list[Path]:
    """Build `targets` of the sources in `source`, and return their files in `folder`: the wheel first."""
    chosen = [argument for target in targets for argument in ("-t", target)]
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, *chosen, cwd=source, capture_output=True)
    return sorted(folder.iterdir(), key=lambda file: file.suffix != ".whl")


def make_environment(folder: Path) -> Path:
    """Make an empty environment in `folder`, and return its interpreter."""
    run(sys.executable, "-m", "venv", folder)
    return folder / "bin" / "python"


def try_out(python: Path, place: Path) -> None:
    """Search a small space in the empty folder `place` with the package that `python` has.

    Raises:
        Failed: the package lacks a file, is not the one of the environment, or a command fails.
    """
    (place / "space.py").write_text(SPACE)
    settings = {"cwd": place, "env": clean_environment(python.parents[1]), "capture_output": True}
    where = Path(run(python, "-c", "import search; print(search.__file__)", **settings).stdout.strip())
    if not where.is_relative_to(python.parents[1]):
        raise Failed(f"search is imported from {where}, and not from the environment")
    for needed in ("py.typed", "report/page.css", "report/page.js"):
        if not (where.parent / needed).exists():
            raise Failed(f"the package lacks {needed}")
    run(python.parent / "search", *RUN, **settings)
    run(python.parent / "search", "report", "space", **settings)
    run(
        python,
        "-c",
        "import numpy, search; search.get_best_models('space')[0].predict(numpy.zeros((1, 4)))",
        **settings,
    )
    if "val_accuracy" not in run(python.parent / "search", "best", "space", **settings).stdout:
        raise Failed("search best prints no objective")


# Steps ---------------------------------------------------------------------------------------------------------------


def version() -> None:
    changed = run("git", "status", "--porcelain", cwd=ROOT, capture_output=True).stdout
    if changed:
        raise Failed(f"files are not committed: {', '.join(line[3:] for line in changed.splitlines())}")
    number = current_version()
    heading = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    if not re.fullmatch(rf"## {re.escape(number)}, \d{{4}}-\d\d-\d\d", heading):
        raise Failed(f'the first heading of CHANGELOG.md is "{heading}": write "## {number}, YEAR-MONTH-DAY"')
    if run("git", "tag", "--list", f"v{number}", cwd=ROOT, capture_output=True).stdout:
        raise Failed(f"the tag v{number} exists: change __version__ in search/__init__.py")


def current_version() -> str:
    found = re.search(r'^__version__ = "(.+)"$', (ROOT / "search" / "__init__.py").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def goal(name: str) -> Callable[[], None]:
    return lambda: run("make", "--no-print-directory", name, cwd=ROOT) and None


def build_all() -> None:
    shutil.rmtree(DIST, ignore_errors=True)
    for file in build(DIST):
        print(file.relative_to(ROOT))


def installed(pattern: str, *options: object) -> Callable[[], None]:
    """Return the step that tries the file in `dist/` with the name `pattern`; `options` are pip's."""

    def step() -> None:
        files = [*DIST.glob(pattern)]
        if len(files) != 1:
            raise Failed(f"dist/ has {len(files)} files {pattern}: run the step build")
        with tempfile.TemporaryDirectory() as folder:
            python = make_environment(Path(folder) / "environment")
            install = (python, "-m", "pip", "install", "-qq", "--disable-pip-version-check")
            run(*install, *options, files[0], env=clean_environment(), cwd=folder)
            run(python, "-m", "pip", "check", cwd=folder, capture_output=True)
            place = Path(folder) / "elsewhere"
            place.mkdir()
            try_out(python, place)

    return step


STEPS: dict[str, Callable[[], None]] = {
    "version": version,
    **{name: goal(name) for name in ("check", "test", "test-slow", "test-kills", "test-versions")},
    "build": build_all,
    "wheel": installed("*.whl"),
    "sdist": installed("*.tar.gz", "--constraint", ROOT / "constraints.txt"),
}
"""The steps by name, in order."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=STEPS, default=list(STEPS), help="the steps to run")
    chosen = parser.parse_args(arguments).only
    rows = []
    for name in (name for name in STEPS if name in chosen):
        print(f"--- {name}", flush=True)
        began, error = time.monotonic(), ""
        try:
            STEPS[name]()
        except Failed as failure:
            error = str(failure)
            print(error, flush=True)
        rows.append((name, error.partition("\n")[0] or "passed", f"{time.monotonic() - began:.0f} s"))
    for name, result, took in rows:
        print(f"{name:14}{took:>8}  {result}")
    failed = any(result != "passed" for _, result, _ in rows)
    if not failed and len(rows) == len(STEPS):
        print(f"ready: git tag --annotate v{current_version()} --message 'search {current_version()}'")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
