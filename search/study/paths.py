"""Every file name under `runs/`.

runs/
├── mlflow.db, mlartifacts/        the local MLflow store
├── .compiled/                     programs that JAX has compiled, for all studies; may be deleted
├── report-A-vs-B.html             a report on several studies; can be made again
└── <study>/
    ├── journal.jsonl              every fact, append-only
    ├── journal.jsonl.damaged-1    the journal before a repair; may be deleted
    ├── lock                       held by the driver that writes the journal
    ├── tracking.json              the position of MLflow in the journal, and its run ids; can be made again
    ├── search.log                 the output of the driver and the zygote
    ├── model.keras                the winner, written at the end
    ├── report.html                the report, written at the end; can be made again
    ├── tensorboard/               TensorBoard's log, if the user asked for it; can be made again
    ├── requests/                  requests to the running search, and replies; see `search.study.request_files`
    ├── data/                      large arrays, while a search runs, for its workers to share
    ├── space/                     the space file and the local modules it imports, as searched
    ├── factory.json               digests of a factory and of its data, which tell if a notebook's cell runs again
    └── trials/<number>/
        ├── log.txt                the output of the factory, Keras and TensorFlow
        ├── traceback.txt          the traceback of the trial's last failure
        ├── checkpoint-<execution>.npz   the state after the last checkpointed epoch
        ├── best-<execution>.npz         the weights of the best epoch
        └── parent-<execution>.npz       the parent's checkpoint that the trial began with, if it has a parent

With `--storage URL`, trials' files lie there, and here are copies of logs, tracebacks and the kept models' weights.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from search.errors import OptionError, StudyError, nearest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

_STORE = re.compile(r"mlflow\.db.*|mlartifacts", re.IGNORECASE)
"""Names of the local MLflow store's files. Some file systems do not tell cases apart."""


def check_study_name(name: str) -> str:
    """Return `name`, or raise OptionError if it cannot be a folder's name on every system."""
    if not _NAME.fullmatch(name):
        raise OptionError(
            f"study name {name!r} cannot be used: give --study a name of letters, digits, '.', '_' and '-' "
            "that begins with a letter or a digit"
        )
    if _STORE.fullmatch(name):
        raise OptionError(f"study name {name!r} is a file name of the local MLflow store: give another with --study")
    return name


@dataclass(frozen=True, slots=True)
class TrialPaths:
    """The files of one trial."""

    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def traceback(self) -> Path:
        return self.folder / "traceback.txt"

    def checkpoint(self, execution: int) -> Path:
        """Return the file with the state after the last checkpointed epoch."""
        return self.folder / f"checkpoint-{execution}.npz"

    def inherited(self, execution: int) -> Path:
        """Return the file with the state that the parent's execution `execution` handed on."""
        return self.folder / f"parent-{execution}.npz"

    def best(self, execution: int) -> Path:
        """Return the file with the weights of the best epoch."""
        return self.folder / f"best-{execution}.npz"

    def reference(self, execution: int) -> Path:
        """Return the file with a batch and the best model's outputs for it; see `search.worker.rebuilt_check`."""
        return self.folder / f"reference-{execution}.npz"


@dataclass(frozen=True, slots=True)
class StudyPaths:
    """The files of one study."""

    folder: Path

    @classmethod
    def of(cls, runs: str | Path, study: str) -> StudyPaths:
        """Return the paths of `study` in the folder `runs`. OptionError if the name cannot be used."""
        return cls(Path(runs).absolute() / check_study_name(study))

    @property
    def journal(self) -> Path:
        return self.folder / "journal.jsonl"

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

    @property
    def tracking(self) -> Path:
        return self.folder / "tracking.json"

    @property
    def log(self) -> Path:
        return self.folder / "search.log"

    @property
    def tensorboard(self) -> Path:
        return self.folder / "tensorboard"

    @property
    def requests(self) -> Path:
        return self.folder / "requests"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def space(self) -> Path:
        return self.folder / "space"

    @property
    def pickle(self) -> Path:
        return self.space / "space.pkl"

    @property
    def factory(self) -> Path:
        return self.folder / "factory.json"

    @property
    def model(self) -> Path:
        return self.folder / "model.keras"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @property
    def trials(self) -> Path:
        return self.folder / "trials"

    def trial(self, number: int) -> TrialPaths:
        """Return the files of trial `number`."""
        return TrialPaths(self.trials / f"{number:04d}")


def local_store(runs: str | Path) -> Path:
    """Return the database of the local MLflow store."""
    return Path(runs).absolute() / "mlflow.db"


def local_artifacts(runs: str | Path) -> Path:
    """Return the artifact folder of the local MLflow store."""
    return Path(runs).absolute() / "mlartifacts"


def comparison_report(studies: Sequence[StudyPaths]) -> Path:
    """Return the file of a report on several studies, in the folder of the first one."""
    names = "-vs-".join(paths.folder.name for paths in studies)
    return studies[0].folder.parent / f"report-{names[:200]}.html"


def compiled_programs(runs: str | Path) -> Path:
    """Return the folder of programs that a framework has compiled."""
    return Path(runs).absolute() / ".compiled"


def study_names(runs: str | Path) -> list[str]:
    """Return the names of the studies in `runs`, the one written to last first."""
    found = (name for name in _folders_with_journals(runs) if _is_study_name(name))
    return sorted(found, key=lambda name: _modified(StudyPaths.of(runs, name).journal), reverse=True)


def misnamed_folders(runs: str | Path) -> list[str]:
    """Return the names of the folders in `runs` that have a journal, and a name that no study can have."""
    return sorted(name for name in _folders_with_journals(runs) if not _is_study_name(name))


def _folders_with_journals(runs: str | Path) -> list[str]:
    return [path.parent.name for path in Path(runs).absolute().glob("*/journal.jsonl")]


def _is_study_name(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and not _STORE.fullmatch(name)


def _modified(path: Path) -> float:
    """Return the time of a file's last change; 0 for one that was deleted meanwhile."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def find_study(name: str, runs: str | Path) -> StudyPaths:
    """Return the paths of an existing study. StudyError if there is none of this name."""
    paths = StudyPaths.of(runs, name)
    if not paths.journal.exists():
        known = study_names(runs)
        there = f"there are {', '.join(known[:20])}" if known else f"there is none in {Path(runs).absolute()}"
        raise StudyError(f"no study {name!r}: {there}.{nearest(name, known)} Another folder is given with --runs")
    return paths
