"""From what the user typed to a running driver: check everything, and only then write anything."""

from __future__ import annotations

import ast
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from search import options
from search.backends import registry as backends
from search.devices.gpus import find_gpus
from search.devices.slots import Slot, sharing
from search.driver import checks, warm_start
from search.driver.loop import Driver, Follower
from search.driver.retention import Retention
from search.driver.study_handle import StudyHandle
from search.errors import OptionError, SearchError, SpaceError, StudyError, nearest
from search.executors import selection as executors
from search.executors.base import Executor
from search.messages import Probe, Probed, ProbeFailed
from search.options import Options
from search.scheduler.controller import Controller, Limits
from search.space import file as space
from search.space.file import SpaceRef
from search.study.journal import Journal
from search.study.lock import Lock
from search.study.paths import StudyPaths, check_study_name, compiled, studies
from search.study.records import Record, SearchEnded
from search.study.study import Study
from search.study.trial import Objective
from search.tracking.mlflow.admission import Admission

SYNC_SECONDS = 60.0
"""How long the end of a search waits for MLflow."""


class View(Protocol):
    """How a search is shown; see `search.display.live`."""

    def update(self, now: float) -> None: ...
    def say(self, line: str) -> None: ...
    def close(self) -> None: ...


MakeView = Callable[[Study, Options, tuple[str, ...]], View]


@dataclass(frozen=True, slots=True)
class Source:
    """What is searched: a space file, or the parts of a space given from Python."""

    path: Path | None = None
    parts: Mapping[str, Any] | None = None

    @property
    def label(self) -> str:
        return str(self.path) if self.path else "the factory"

    def default_name(self) -> str:
        if self.path is not None:
            return self.path.stem
        assert self.parts is not None
        factory = self.parts.get("build_model") or type(self.parts["hypermodel"])
        return getattr(factory, "__name__", "study").strip("_<>") or "study"


@dataclass(frozen=True, slots=True)
class Result:
    """How a search ended."""

    paths: StudyPaths
    study: Study
    end: SearchEnded
    synced: bool


# Commands -------------------------------------------------------------------------------------------------------------


def run(
    source: Source,
    given: Mapping[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    accept_changes: bool = False,
    take_over: bool = False,
    opened: StudyHandle | None = None,
    make_view: MakeView,
    say: Callable[[str], None],
) -> Result:
    """Search `source` with the options `given`; see `search.options`.

    Args:
        resume: go on with the study where it exists.
        overwrite: begin anew where it exists; what it holds is deleted.
        accept_changes: go on though the space file is not what it was.
        take_over: go on though a process of another machine has not ended in order.
        opened: the study, where its journal has been read already.
        make_view: makes the view, once the study is known.
        say: prints one line.

    Raises:
        UserError: the input is wrong; nothing was written but a log.
    """
    if resume and overwrite:
        raise OptionError("--resume and --overwrite exclude each other: give one of them")
    early = _early(source)
    first = options.resolve({**early, **{name: value for name, value in given.items() if value is not None}})
    name = check_study_name(first.study or source.default_name())
    study_paths = StudyPaths.of(first.runs, name)
    if opened is None:
        opened = StudyHandle(study_paths, anew=overwrite)
    if opened.exists and not resume:
        raise StudyError(
            f"study {name!r} exists in {first.runs}: go on with --resume, begin anew with --overwrite, or give another "
            "name with --study"
        )
    kept = opened.options.get("keras_backend")
    backend = given.get("keras_backend") or kept or early.get("keras_backend")
    if kept is not None and backend != kept:
        raise StudyError(
            f"study {name!r} runs with Keras on {kept}: a resumed study keeps that, as its trials go on to the last "
            "bit; begin another with --study"
        )
    given = {**given, "study": name, "runs": first.runs, "keras_backend": backend}
    return _Launch(source, given, opened, accept_changes, take_over, overwrite, make_view, say).run()


def resume(
    name: str,
    given: Mapping[str, Any],
    *,
    accept_changes: bool = False,
    take_over: bool = False,
    make_view: MakeView,
    say: Callable[[str], None],
) -> Result:
    """Go on with the study `name`, with its own options where `given` does not say otherwise.

    Raises:
        StudyError: there is no such study.
    """
    paths = find(name, given.get("runs") or "runs")
    opened = StudyHandle(paths)
    if not opened.exists:
        raise StudyError(f"study {name!r} has not begun, {paths.journal} is empty: begin it with search run SPACE.py")
    header = opened.header
    source = Source(path=Path(header.source)) if header.source else Source(parts={})
    if source.path is not None and not source.path.exists():
        copy = paths.space / source.path.name
        say(f"{source.path} is no more: going on with the study's copy of it, {copy}")
        source = Source(path=copy)
    given = {**given, "study": name}
    return run(
        source,
        given,
        resume=True,
        accept_changes=accept_changes,
        take_over=take_over,
        opened=opened,
        make_view=make_view,
        say=say,
    )


def check(source: Source, keras_backend: str | None = None) -> Probed:
    """Probe `source` on the CPU, and write nothing. SpaceError where it cannot be searched."""
    given = {"keras_backend": keras_backend or _early(source).get("keras_backend"), "gpus": "none", "workers": 1}
    opts = options.resolve(given)
    with tempfile.TemporaryDirectory(prefix="search-") as folder, ExitStack() as stack:
        executor = executors.make(opts, (), Path(folder) / "search.log")
        stack.callback(executor.close)
        assert source.path is not None
        probed = executor.probe(Probe(SpaceRef(path=str(source.path.absolute()))))
    if isinstance(probed, ProbeFailed):
        raise SpaceError(probed.message)
    opts = options.resolve(given, probed.options, where=source.label)
    with options.located(source.label):
        checks.check_backend(opts, probed.parameters)
        checks.choose_objective(opts, probed)
    return probed


def options_of(current: Study) -> Options:
    """The options that a study was last run with."""
    said = current.start.options if current.start is not None else {}
    return options.resolve({}, before=said)


def find(name: str, runs: str | Path) -> StudyPaths:
    """The paths of an existing study. StudyError where there is none."""
    paths = StudyPaths.of(runs, name)
    if not paths.journal.exists():
        known = studies(runs)
        there = f"there are {', '.join(known[:20])}" if known else f"there is none in {Path(runs).absolute()}"
        raise StudyError(f"no study {name!r}: {there}.{nearest(name, known)} Another folder is given with --runs")
    return paths


# Launching ------------------------------------------------------------------------------------------------------------


class _Launch:
    """One process's run of a study, from checked words to the end."""

    def __init__(
        self,
        source: Source,
        given: Mapping[str, Any],
        opened: StudyHandle,
        accept_changes: bool,
        take_over: bool,
        overwrite: bool,
        make_view: MakeView,
        say: Callable[[str], None],
    ) -> None:
        self._source = source
        self._given = given
        self._opened = opened
        self._paths = opened.paths
        self._accept_changes = accept_changes
        self._take_over = take_over
        self._overwrite = overwrite
        self._make_view = make_view
        self._say = say

    def run(self) -> Result:
        opts = options.resolve(self._given, before=self._opened.options)
        checks.check_backend(opts)
        checks.check_tensorboard(opts)
        gpus = find_gpus()
        executors.slots_of(opts, gpus)  # a GPU that is not there is said at once
        checks.make_folder(self._paths.folder)
        with ExitStack() as stack:
            lock = Lock(self._paths.lock, take_over=self._take_over)
            stack.callback(self._leave, lock)
            self._read_again()
            admission = Admission(opts)
            executor = executors.make(opts, gpus, self._paths.log, compiled(opts.runs))
            stack.callback(executor.close)
            ref = self._reference(stack)
            shutil.rmtree(self._paths.data, ignore_errors=True)
            stack.callback(shutil.rmtree, self._paths.data, ignore_errors=True)
            probed = executor.probe(Probe(ref, str(self._paths.data) if executor.slots > 1 else None))
            if isinstance(probed, ProbeFailed):
                raise SpaceError(probed.message + _logged(self._paths, probed.traceback))
            opts = options.resolve(self._given, probed.options, self._opened.options, self._source.label)
            with options.located(self._source.label):
                checks.check_backend(opts, probed.parameters)
                checks.check_tensorboard(opts)
                slots = executors.slots_of(opts, gpus)
                checks.check_keras(opts, probed, slots[0].devices)
                if self._opened.exists:
                    objective = checks.check_kept(self._opened.header, opts, self._given)
                else:
                    objective = checks.choose_objective(opts, probed)
                if self._is_new("try_first"):
                    checks.check_try_first(
                        opts.try_first, probed.parameters, lambda values: executor.probe(Probe(ref, values=values))
                    )
                own = self._opened.study if self._opened.exists else None
                imported = warm_start.records(opts, objective, own) if self._is_new("warm_start") else []
            if hasattr(executor, "set_slots"):
                executor.set_slots(slots)
            changes = self._opened.changes(probed, accepted=self._accept_changes, label=self._source.label)
            uri = admission.result(opts)
            self._announce(opts, objective, slots, probed)
            if imported:
                self._say(warm_start.describe(str(opts.warm_start), imported, probed.parameters))
            records = self._opened.records(opts, objective, probed, changes, imported, self._source.path)
            self._write_space(probed)
            if ref.pickle is not None:
                ref = SpaceRef(pickle=str(self._paths.pickle))
            return self._search(opts, probed, ref, executor, slots, records, uri)

    def _read_again(self) -> None:
        """Read the journal with the lock held, where another process has written it until now."""
        if self._overwrite or self._opened.is_current:
            return
        opened = StudyHandle(self._paths)
        if opened.exists != self._opened.exists:
            raise StudyError(f"study {self._paths.folder.name!r} was begun by another process: go on with --resume")
        self._opened = opened

    def _leave(self, lock: Lock) -> None:
        if not self._paths.journal.exists():
            self._paths.lock.unlink(missing_ok=True)
        lock.release()

    def _reference(self, stack: ExitStack) -> SpaceRef:
        """Where the probe finds the user's code; a factory's pickle is the study's own once it has been checked."""
        if self._source.path is not None:
            return SpaceRef(path=str(self._source.path.absolute()))
        if self._source.parts:
            stack.callback(self._new_pickle.unlink, missing_ok=True)
            self._new_pickle.write_bytes(_pickled(self._source.parts))
            return SpaceRef(pickle=str(self._new_pickle))
        if not self._paths.pickle.exists():
            raise StudyError(f"study {self._paths.folder.name!r} has lost its factory, {self._paths.pickle}")
        return SpaceRef(pickle=str(self._paths.pickle))

    @property
    def _new_pickle(self) -> Path:
        return self._paths.folder / f"{self._paths.pickle.name}.new"

    def _is_new(self, name: str) -> bool:
        """Whether an option was said for this run, and is not what an earlier one was told."""
        return not self._opened.exists or self._given.get(name) is not None

    def _announce(self, opts: Options, objective: Objective, slots: tuple[Slot, ...], probed: Probed) -> None:
        """Say what will be done, before it is."""
        from search.display import live as progress

        chosen = "" if opts.objective or self._opened.exists else ", as nothing else was asked for"
        self._say(f"study {self._paths.folder.name} in {self._paths.folder}")
        if self._opened.exists:
            for line in checks.updates(self._opened.entries, self._opened.study, probed.versions):
                self._say(line)
        self._say(f"objective {objective.name}, {objective.direction}{chosen}")
        self._say(f"{progress.describe_plan(opts)}; {len(slots)} at once: {', '.join(slot.label for slot in slots)}")

    def _write_space(self, probed: Probed) -> None:
        """Begin the study's folder: the space file and its local modules, as searched."""
        if not self._opened.exists:
            # The journal goes last: killed in between, it is still there to be overwritten.
            for folder in (self._paths.trials, self._paths.tensorboard):
                if folder.exists():
                    shutil.rmtree(folder)
            for path in (self._paths.tracking, self._paths.journal):
                path.unlink(missing_ok=True)
        if self._source.path is None:
            if self._source.parts:
                self._paths.space.mkdir(exist_ok=True)
                self._new_pickle.replace(self._paths.pickle)
            return
        if self._source.path.parent.resolve() != self._paths.space.resolve():
            shutil.rmtree(self._paths.space, ignore_errors=True)
            for name, file in probed.files:
                target = self._paths.space / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)

    def _search(
        self,
        opts: Options,
        probed: Probed,
        ref: SpaceRef,
        executor: Executor,
        slots: tuple[Slot, ...],
        records: list[Record],
        uri: str,
    ) -> Result:
        from search.tracking.mlflow.syncer import Syncer

        current = Study()
        controller = Controller(
            current,
            lambda phase: backends.make(
                phase.backend, phase.options, current.objective, current.seed, current.parameters
            ),
            _limits(opts, probed),
            sharing(slots),
            opts.max_epochs,
            opts.try_first,
        )
        controller.replay(self._opened.entries)
        view = self._make_view(current, opts, tuple(slot.label for slot in slots))
        journal = Journal(self._paths.journal, known=self._opened.entries)
        syncer = Syncer(
            self._paths,
            uri,
            keep_models=opts.keep_models,
            experiment=opts.experiment,
            register=opts.register,
            warn=view.say,
        )
        followers: list[Follower] = [Retention(current, self._paths, opts.keep_models)]
        if opts.tensorboard:
            from search.tracking.tensorboard import TensorBoardLog

            followers.append(TensorBoardLog(self._paths.tensorboard, self._opened.entries, view.say))
        driver = Driver(
            controller,
            journal,
            executor,
            ref,
            self._paths,
            opts,
            followers=followers,
            data=str(self._paths.data) if probed.shared else None,
            news=syncer.wake,
            view=view,
            say=view.say,
        )
        try:
            syncer.start()
            end = driver.run(records)
        except BaseException as error:
            syncer.stop()
            if not isinstance(error, Exception) or isinstance(error, SearchError):
                raise
            raise SearchError(
                f"the search broke ({type(error).__name__}: {error}): nothing journaled is lost, and a resume may get "
                f"past it" + _logged(self._paths, traceback.format_exc())
            ) from error
        finally:
            view.close()
        return Result(self._paths, current, end, syncer.finish(SYNC_SECONDS))


# Parts ----------------------------------------------------------------------------------------------------------------


def _early(source: Source) -> dict[str, Any]:
    """What the space file says of options that must be known before it is run, read without running it."""
    written = space.written_options(space.parse(source.path)) if source.path else {}
    early = {}
    for name in options.EARLY:
        if name not in written:
            continue
        node = written[name]
        with options.located(f"{source.path}:{node.lineno}"):
            if not isinstance(node, ast.Constant):
                raise OptionError(f"{name} must be known before the file is run: write its value here, as text")
            if node.value is not None:
                early[name] = options.check(name, node.value)
    return early


def _pickled(parts: Mapping[str, Any]) -> bytes:
    import cloudpickle

    from search.space import pickling

    factory = {name: part for name, part in parts.items() if name != "data"}
    # What it is made of travels along: where it comes back, the user's modules may not be.
    for module in {getattr(part, "__module__", None) for part in factory.values()}:
        if module in sys.modules and space.is_own(sys.modules[module]):
            cloudpickle.register_pickle_by_value(sys.modules[module])
    try:
        return pickling.dumps(factory) + pickling.dumps(parts["data"])
    except Exception as error:
        raise SpaceError(
            f"the factory cannot be sent to a worker ({type(error).__name__}: {error}): make what it uses inside of "
            "it, or write a space file"
        ) from error


def _limits(opts: Options, probed: Probed) -> Limits:
    return Limits(
        max_trials=opts.max_trials,
        max_total_epochs=opts.total_epochs,
        timeout=opts.timeout,
        target=opts.target,
        trial_timeout=opts.trial_timeout,
        retries=opts.retries,
        max_consecutive_failures=opts.max_consecutive_failures,
        executions=opts.executions_per_trial,
        evaluate_best=opts.keep_models,
        test=probed.tested,
    )


def _logged(paths: StudyPaths, traceback: str) -> str:
    """Keep a traceback of the user's code in the log. Returns where it is, in words."""
    if not traceback:
        return ""
    with suppress(OSError), paths.log.open("a") as file:
        file.write(traceback + "\n")
    return f" (its traceback is in {paths.log})"
