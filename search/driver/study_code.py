"""The study's own copy of the searched code: the space file and its local modules, or the pickle of a factory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from search.driver import reruns, storage_option
from search.driver.source import Source
from search.errors import StudyError
from search.messages import Probed
from search.space.file import SpaceRef
from search.study.paths import StudyPaths

__all__ = ["StudyCode"]


@dataclass(frozen=True, slots=True)
class StudyCode:
    """The code of a study, from the user's place to the study's folder.

    Attributes:
        source: the searched code, as the user gave it.
        paths: the study's files.
    """

    source: Source
    paths: StudyPaths

    def prepare(self, stack: ExitStack) -> SpaceRef:
        """Return the place of the user's code for the probe. A new pickle becomes the study's own after the checks.

        Args:
            stack: deletes that pickle at the end, if it has not become the study's.
        """
        if self.source.path is not None:
            return SpaceRef(path=str(self.source.path.absolute()))
        if self.source.parts:
            stack.callback(self._new_pickle.unlink, missing_ok=True)
            stack.callback(self.source.release)
            self._new_pickle.write_bytes(self.source.pickled())
            return SpaceRef(pickle=str(self._new_pickle))
        if not self.paths.pickle.exists():
            raise StudyError(f"study {self.paths.folder.name!r} has lost its factory, {self.paths.pickle}")
        return SpaceRef(pickle=str(self.paths.pickle))

    def replace(self, probed: Probed, say: Callable[[str], None]) -> None:
        """Delete the files of the study that this one replaces, if there is one, and write the copy.

        Args:
            say: prints one line.
        """
        storage_option.delete_replaced(self.paths, say)
        # The journal is deleted last: after a kill in between, it is still there to be overwritten.
        for folder in (self.paths.trials, self.paths.tensorboard):
            if folder.exists():
                shutil.rmtree(folder)
        for path in (self.paths.tracking, self.paths.journal):
            path.unlink(missing_ok=True)
        self.write(probed)

    def restore(self, probed: Probed) -> None:
        """Write the copy again, after another program has deleted it."""
        if self.paths.space.exists():
            return
        if self.source.parts:
            self._new_pickle.write_bytes(self.source.pickled())
        self.write(probed)

    def write(self, probed: Probed) -> None:
        """Write the copy."""
        reruns.write_digests(self.source, self.paths)
        if self.source.path is None:
            if self.source.parts:
                self.paths.space.mkdir(exist_ok=True)
                self._new_pickle.replace(self.paths.pickle)
            return
        if self.source.path.parent.resolve() != self.paths.space.resolve():
            # A resume reads these files: they are whole, also if this process is killed here.
            new = self.paths.space.with_name(".space")
            shutil.rmtree(new, ignore_errors=True)
            for name, file in probed.files:
                target = new / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
            shutil.rmtree(self.paths.space, ignore_errors=True)
            new.rename(self.paths.space)

    @property
    def _new_pickle(self) -> Path:
        return self.paths.folder / f"{self.paths.pickle.name}.new"
