"""The tests marked `core` with other versions of Python and of the packages, each set in an environment of its own.

    python tests/versions.py
    python tests/versions.py --only lowest newest
    python tests/versions.py --only newest --with keras==3.13.2

- lowest: the lowest version of each requirement that `pyproject.toml` allows, on the lowest Python.
- newest: the newest releases that go together, on the same Python.
- python3.12, python3.13: the newest releases on these.

`constraints.txt` has no say here. The environments are made anew in `.venvs`, by uv. They have no PyTorch, whose wheels
are several GB, unless `--with torch` asks for it: with UV_TORCH_BACKEND=cpu it is PyTorch's CPU build.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".venvs"

EXTRAS = ("dev", "examples", "jax", "onnx", "tensorboard", "torch")
"""The extras whose requirements the environments have. The others need a GPU, or are no part of the package."""

LEFT_OUT = {"torch", "mypy", "ruff", "types-psutil"}
"""Requirements that are left out: PyTorch is large, and the others are no part of a test."""

SHOWN = ("tensorflow", "keras", "keras-tuner", "optuna", "mlflow", "numpy", "pandas", "jax", "torch")
"""The packages whose versions the table shows."""

READ_VERSIONS = """
import importlib.metadata, json, platform, sys
found = {distribution.name: distribution.version for distribution in importlib.metadata.distributions()}
print(json.dumps([platform.python_version(), [found.get(name, "-") for name in sys.argv[1:]]]))
"""


@dataclass(frozen=True)
class Set:
    """One environment: an interpreter's name, and the end of the allowed versions from which uv takes packages."""

    python: str
    resolution: str


SETS = {
    "lowest": Set("python3.11", "lowest-direct"),
    "newest": Set("python3.11", "highest"),
    "python3.12": Set("python3.12", "highest"),
    "python3.13": Set("python3.13", "highest"),
}


@dataclass
class Result:
    """The result of a set, as a row of the table."""

    name: str
    outcome: str
    python: str = "-"
    versions: list[str] = field(default_factory=lambda: ["-"] * len(SHOWN))
    seconds: float | None = None
    failed: bool = False

    def row(self) -> list[str]:
        took = "-" if self.seconds is None else f"{self.seconds:.0f} s"
        return [self.name, self.python, *self.versions, self.outcome, took]


def find_python(name: str) -> str | None:
    """Return the path of an installed interpreter, of pyenv's too, or None."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(name), *sorted(map(str, pyenv.glob(f"*/bin/{name}")), reverse=True)]
    for candidate in filter(None, candidates):
        # A shim of pyenv is found for versions that are not switched on, and fails.
        done = subprocess.run([candidate, "-c", "import sys; print(sys.executable)"], capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout.strip()
    return None


def find_uv() -> str:
    """Return the path of uv, installed into an environment of its own if the machine has none."""
    if found := shutil.which("uv"):
        return found
    tool = FOLDER / "uv"
    if not (tool / "bin" / "uv").exists():
        subprocess.run([sys.executable, "-m", "venv", str(tool)], check=True)
        subprocess.run([str(tool / "bin" / "python"), "-m", "pip", "install", "--quiet", "uv"], check=True)
    return str(tool / "bin" / "uv")


def package_name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement)[0]


def requirements(project: dict[str, object], more: Sequence[str]) -> list[str]:
    """Return the requirements of the package and of its tests, as `pyproject.toml` states them, and `more`."""
    left_out = LEFT_OUT - {package_name(text) for text in more}
    extras = project["optional-dependencies"]
    assert isinstance(extras, dict)
    texts = dict.fromkeys([*project["dependencies"], *(text for extra in EXTRAS for text in extras[extra])])
    return [*(text for text in texts if package_name(text) not in left_out), *more]


def install(uv: str, chosen: Set, python: str, folder: Path, more: Sequence[str]) -> int:
    """Make the environment in `folder`, and return the exit code."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    subprocess.run([uv, "venv", "--quiet", "--clear", "--python", python, str(folder)], check=True)
    command = [uv, "pip", "install", "--quiet", "--python", str(folder), "--resolution", chosen.resolution]
    return subprocess.run([*command, "--editable", str(ROOT), *requirements(project, more)]).returncode


def run_tests(folder: Path, log: Path) -> tuple[int, str]:
    """Run the tests, and return the exit code and the counts."""
    report = folder / "report.xml"
    command = [str(folder / "bin" / "python"), "-m", "pytest", "-m", "core", "-p", "no:cacheprovider", "--tb=short"]
    command += ["-n", "logical", "--maxprocesses", "4", "--dist", "loadfile", f"--junitxml={report}"]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment["PATH"] = f"{folder / 'bin'}{os.pathsep}{environment['PATH']}"
    with log.open("w") as output:
        code = subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT).returncode
    if not report.exists():
        return code or 1, "no result"
    suite = ElementTree.parse(report).getroot()[0]
    tests, failures, errors, skipped = (int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped"))
    bad = failures + errors
    return code, f"{tests - bad - skipped} passed, {bad} failed, {skipped} skipped"


def run_set(uv: str, name: str, more: Sequence[str]) -> Result:
    """Install and test a set."""
    chosen, folder, log = SETS[name], FOLDER / name, FOLDER / f"{name}.log"
    python = find_python(chosen.python)
    if python is None:
        return Result(name, f"{chosen.python} is not installed")
    print(f"{name}: {python}, output in {log.relative_to(ROOT)}", flush=True)
    if install(uv, chosen, python, folder, more) != 0:
        return Result(name, "cannot be installed", failed=True)
    asked = [str(folder / "bin" / "python"), "-c", READ_VERSIONS, *SHOWN]
    version, versions = json.loads(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)
    began = time.monotonic()
    code, outcome = run_tests(folder, log)
    if code != 0:
        print(*(line for line in log.read_text().splitlines() if line.startswith(("FAILED", "ERROR"))), sep="\n")
    return Result(name, outcome, version, versions, time.monotonic() - began, failed=code != 0)


def table(results: Sequence[Result]) -> str:
    """Return the results as lines of columns."""
    rows = [["set", "python", *SHOWN, "tests", "time"], *(result.row() for result in results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SETS, default=list(SETS), help="the sets to run")
    parser.add_argument("--with", nargs="+", default=[], dest="more", metavar="TEXT", help="further requirements")
    arguments = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    uv = find_uv()
    results = [run_set(uv, name, arguments.more) for name in arguments.only]
    print(table(results))
    nothing_ran = all(result.seconds is None for result in results)
    sys.exit(nothing_ran or any(result.failed for result in results))


if __name__ == "__main__":
    main()
