"""Every file name under `runs/`, in one place.

runs/
├── mlflow.db, mlartifacts/        the local MLflow store
├── .compiled/                     what JAX has compiled, for all studies; may be deleted
└── <study>/
    ├── journal.jsonl              every fact, append-only
    ├── lock                       held by the driver that writes the journal
    ├── tracking.json              how far MLflow has been told, and its run ids; can be made again
    ├── search.log                 what the driver and the zygote had to say
    ├── model.keras                the winner, written at the end
    ├── tensorboard/               TensorBoard's log, where it was asked for; can be made again
    ├── data/                      large arrays, while a search runs, for its workers to share
    ├── space/                     the space file and the local modules it imports, as searched
    └── trials/<number>/
        ├── log.txt                what the factory, Keras and TensorFlow printed
        ├── traceback.txt          of the trial's last failure
        ├── checkpoint-<execution>.npz   the state after the last checkpointed epoch
        └── best-<execution>.npz         the weights of the best epoch
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from search.errors import OptionError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_study_name(name: str) -> str:
    """Return `name` if a study may be called so. OptionError where it could not be a folder's name everywhere."""
    if not _NAME.fullmatch(name):
        raise OptionError(
            f"study name {name!r} cannot be used: give --study a name of letters, digits, '.', '_' and '-' "
            "that begins with a letter or a digit"
        )
    return name


@dataclass(frozen=True, slots=True)
class TrialPaths:
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def traceback(self) -> Path:
        return self.folder / "traceback.txt"

    def checkpoint(self, execution: int) -> Path:
        return self.folder / f"checkpoint-{execution}.npz"

    def best(self, execution: int) -> Path:
        return self.folder / f"best-{execution}.npz"


@dataclass(frozen=True, slots=True)
class StudyPaths:
    folder: Path

    @classmethod
    def of(cls, runs: str | Path, study: str) -> StudyPaths:
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
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def space(self) -> Path:
        return self.folder / "space"

    @property
    def pickle(self) -> Path:
        return self.space / "space.pkl"

    @property
    def model(self) -> Path:
        return self.folder / "model.keras"

    @property
    def trials(self) -> Path:
        return self.folder / "trials"

    def trial(self, number: int) -> TrialPaths:
        return TrialPaths(self.trials / f"{number:04d}")


def local_store(runs: str | Path) -> Path:
    """The local MLflow store's database."""
    return Path(runs).absolute() / "mlflow.db"


def compiled(runs: str | Path) -> Path:
    """What a framework has compiled and would have to again."""
    return Path(runs).absolute() / ".compiled"


def local_artifacts(runs: str | Path) -> Path:
    return Path(runs).absolute() / "mlartifacts"


def studies(runs: str | Path) -> list[str]:
    """The names of the studies under `runs`, the one written to last first."""
    found = Path(runs).absolute().glob("*/journal.jsonl")
    return [path.parent.name for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]
