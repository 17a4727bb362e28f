"""The files of a study's trials, as the driver sees them: in the study's folder, or behind a URL.

Behind a URL, the files of a trial lie in `<url>/<study>-<uid>/trials/<number>`; see `search.storage.objects`. The
study's folder has copies for people and for MLflow: the kept models' weights, logs and tracebacks, the results of the
final evaluation. Requests take their time, so a thread makes those that nobody waits for.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

from search.driver.hand_on import Files
from search.errors import StudyError, Unavailable
from search.messages import DRIVER
from search.storage.objects import TrialObjects
from search.storage.urls import join_url, open_url, storage_errors
from search.study.paths import TrialPaths

__all__ = ["StudyFiles", "UrlFiles"]


class StudyFiles(Files):
    """The files of trials in the study's folder.

    Args:
        through_driver: workers reach the folder through the driver only.
    """

    def __init__(self, *, through_driver: bool = False) -> None:
        self._through_driver = through_driver

    def storage_of(self, trial: TrialPaths) -> str | None:
        """Return the place of a trial's files, as `Segment.storage`."""
        return DRIVER if self._through_driver else None

    def delete(self, paths: Iterable[Path], *, at_once: bool = False) -> None:
        """Delete files of trials, if they are there.

        Args:
            at_once: delete them before this call returns.
        """
        for path in paths:
            with suppress(OSError):
                path.unlink()

    def bring(self, trial: TrialPaths, names: Collection[str]) -> None:
        """Bring files of a trial into the study's folder, some time."""

    def bring_evaluated(self, trial: TrialPaths, model: Path) -> None:
        """Bring the results of a final evaluation into the study's folder.

        Args:
            model: the place for the winner's model.

        Raises:
            Unavailable: the storage does not answer.
        """

    def finish(self, timeout: float) -> list[str]:
        """Wait for what is still to be done, and return a line for the user about what could not be done."""
        return []


class UrlFiles(StudyFiles):
    """The files of trials behind a URL.

    Args:
        url: of the study's own folder there.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._begun: set[str] = set()
        """The trials that this process has given to workers."""
        self._found: set[tuple[str, str]] | None = None
        """The files behind the URL when this process began, as (trial, name), once it has looked."""
        self._brought: dict[Path, str] = {}
        """The version of each file that this process has brought."""
        self._missed: dict[Path, str] = {}

    def storage_of(self, trial: TrialPaths) -> str:
        self._begun.add(trial.folder.name)
        return join_url(self._url, "trials", trial.folder.name)

    def hand_on(self, parent: TrialPaths, child: TrialPaths, execution: int, *, again: bool) -> None:
        """Copy a checkpoint; see `Checkpoints`. StudyError if the storage does not answer."""
        source, target = TrialObjects(self.storage_of(parent)), TrialObjects(self.storage_of(child))
        name = child.inherited(execution).name
        try:
            if again and name in target.versions():
                return
            source.copy(parent.checkpoint(execution).name, target, name)
        except FileNotFoundError:
            target.remove([name])
        except Unavailable as error:
            raise StudyError(f"{error}: resume when it is back") from error

    def delete(self, paths: Iterable[Path], *, at_once: bool = False) -> None:
        paths = list(paths)
        super().delete(paths)
        names: dict[str, list[str]] = {}
        for path in paths:
            self._missed.pop(path, None)
            names.setdefault(path.parent.name, []).append(path.name)
        for trial, doomed in names.items():
            if at_once:
                self._remove(trial, doomed)
            else:
                self._later(partial(self._remove, trial, doomed))

    def _remove(self, trial: str, names: Collection[str]) -> None:
        with suppress(Unavailable):  # the next process deletes them
            if trial not in self._begun and not any((trial, name) in self._at_start() for name in names):
                return
            TrialObjects(join_url(self._url, "trials", trial)).remove(names)

    def _at_start(self) -> set[tuple[str, str]]:
        """Return the files behind the URL, as (trial, name). Thousands of trials need not be asked one by one."""
        if self._found is None:
            fs, root = open_url(join_url(self._url, "trials"))
            with storage_errors(self._url):
                try:
                    paths = [Path(path) for path in fs.find(root)]
                except FileNotFoundError:
                    paths = []
            depth = len(Path(root).parts)
            self._found = {(path.parts[depth], path.name) for path in paths if len(path.parts) > depth}
        return self._found

    def bring(self, trial: TrialPaths, names: Collection[str]) -> None:
        places = {name: trial.folder / name for name in names}
        self._later(partial(self._try_to_bring, trial, places))

    def bring_evaluated(self, trial: TrialPaths, model: Path) -> None:
        names = self._bring(trial, {trial.log.name: trial.log, model.name: model}, also="reference-")
        if model.name in names:
            self._later(partial(self._remove, trial.folder.name, [model.name]))

    def _try_to_bring(self, trial: TrialPaths, places: dict[str, Path]) -> None:
        try:
            self._bring(trial, places)
        except (Unavailable, OSError) as error:
            self._missed |= {path: f"{path} is missing ({error})" for path in places.values()}

    def _bring(self, trial: TrialPaths, places: dict[str, Path], also: str | None = None) -> Collection[str]:
        """Bring files to their places, and return the names of those that there are.

        Args:
            also: the beginning of the names of others to bring into the trial's folder.
        """
        objects = TrialObjects(self.storage_of(trial))
        versions = objects.versions()
        for name in versions:
            if also is not None and name.startswith(also):
                places = {**places, name: trial.folder / name}
        for name, path in places.items():
            if name in versions and not (self._brought.get(path) == versions[name] and path.exists()):
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary = path.with_name(f".{path.name}.{threading.get_ident()}.tmp")
                with suppress(FileNotFoundError):  # a worker has just replaced it, and it is brought again
                    objects.get(name, temporary)
                    temporary.replace(path)
                    self._brought[path] = versions[name]
            self._missed.pop(path, None)
        return versions.keys()

    def finish(self, timeout: float) -> list[str]:
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join(timeout)
        lines = list(self._missed.values())[:1]
        if self._thread is not None and self._thread.is_alive():
            lines.append("the storage is slow, and files are still to be brought into the study's folder")
        self._thread = None
        return [f"{line}: search resume brings it" for line in lines]

    def _later(self, job: Callable[[], None]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="search-storage", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
