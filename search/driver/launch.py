"""The way from the user's options to a running driver: check everything, and only then write anything."""

from __future__ import annotations

import functools
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from search import options
from search.backends import registry
from search.devices.gpus import Gpu
from search.devices.nodes import Node, find_node, find_node_again
from search.devices.slots import Slot
from search.devices.usage import Choice, pick_gpus
from search.driver import checks, job_end, named_parts, reruns, storage_option, warm_start
from search.driver.late import may_be_late
from search.driver.placement import Placement, choose_place
from search.driver.prepared import MakeView, PreparedSearch, Result, log_traceback
from search.driver.search_limits import limit_disk
from search.driver.source import Source
from search.driver.study_code import StudyCode
from search.driver.study_handle import SpaceHasChanged, StudyHandle
from search.errors import OptionError, SpaceError, StudyError
from search.executors import selection
from search.executors.base import Executor
from search.executors.early_fork import find_early_fork
from search.executors.fork_safety import process_facts, why_different, why_unsafe
from search.executors.waiting import waiting_for
from search.messages import Probe, Probed, ProbeFailed
from search.options import Options
from search.platforms import untested_line
from search.space.file import SpaceRef
from search.study.lock import Lock
from search.study.paths import StudyPaths, check_study_name, compiled_programs, find_study
from search.study.study import read_study
from search.study.trial import Objective
from search.tracking.mlflow.admission import Admission, check_parent_run, describe_other_store

RANDOM_CONFIGURATIONS = 5
"""Configurations with random values that `search check` builds beside the default one."""

PROBE_SECONDS = 600.0
"""The least time limit of a probe, in seconds: it may load, for all trials, the data that they do not load any more."""

# Commands -------------------------------------------------------------------------------------------------------------


def run_search(
    source: Source,
    given: Mapping[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    accept_changes: bool = False,
    take_over: bool = False,
    rerun: bool = False,
    handle: StudyHandle | None = None,
    make_view: MakeView,
    say: Callable[[str], None],
) -> Result:
    """Search `source`.

    Args:
        given: the options that the user gave, by name; see `search.options`.
        resume: go on with the study if it exists.
        overwrite: begin anew if it exists; its files are deleted.
        accept_changes: go on even if the space file has changed.
        take_over: go on even if a process of another machine has not ended in order.
        rerun: if the study exists, go on with it if it is of the same search, else begin one under another name; see
            `search.driver.reruns`. `resume` and `overwrite` win.
        handle: the study, if its journal has been read already.
        make_view: makes the view, once the study is known.
        say: prints one line.

    Raises:
        UserError: the input is wrong. Nothing was written but a log.
    """
    job_end.check_only_driver()
    if resume and overwrite:
        raise OptionError("--resume and --overwrite exclude each other: give one of them")
    early = source.early_options()
    first = options.resolve_options({**early, **{name: value for name, value in given.items() if value is not None}})
    name = check_study_name(first.study or source.default_name())
    launch = functools.partial(
        _launch, source, given, early, first, accept_changes, take_over, overwrite, make_view, say
    )
    if rerun and not (resume or overwrite):
        return _search_again(source, given, first.runs, name, launch, say)
    if handle is None:
        with waiting_for(f"reading the journal of study {name}"):
            handle = StudyHandle(StudyPaths.of(first.runs, name), overwrite=overwrite)
    if handle.exists and resume:
        checks.check_not_imported(handle.header)
    source.check_written({*handle.options, *(name for name, value in given.items() if value is not None)})
    if handle.exists and not resume:
        raise StudyError(
            f"study {name!r} exists in {first.runs}: go on with --resume, begin anew with --overwrite, or give another "
            "name with --study"
        )
    return launch(handle)


def _search_again(
    source: Source,
    given: Mapping[str, Any],
    runs: str,
    name: str,
    launch: Callable[[StudyHandle], Result],
    say: Callable[[str], None],
) -> Result:
    """Search `source`, which a notebook may have searched before."""
    refused: dict[str, str] = {}
    while True:
        found = reruns.find_rerun(source, given, runs, name, refused)
        if found.line:
            say(found.line)
        if found.complete:
            assert found.handle.end is not None
            study = read_study(found.handle.paths.journal)
            return Result(found.handle.paths, study, found.handle.end, synced=True, ran=False)
        try:
            return launch(found.handle)
        except SpaceHasChanged:
            refused[found.handle.name] = "other hyperparameters"


def _launch(
    source: Source,
    given: Mapping[str, Any],
    early: Mapping[str, Any],
    first: Options,
    accept_changes: bool,
    take_over: bool,
    overwrite: bool,
    make_view: MakeView,
    say: Callable[[str], None],
    handle: StudyHandle,
) -> Result:
    """Search `source` with the study `handle`: the options that it keeps join those that the user gave."""
    name = handle.name
    kept = handle.options.get("keras_backend")
    backend = given.get("keras_backend") or kept or early.get("keras_backend")
    if kept is not None and backend != kept:
        raise StudyError(
            f"study {name!r} runs with Keras on {kept}: a resumed study keeps that, as its trials go on to the last "
            "bit; begin another with --study"
        )
    given = {**given, "study": name, "runs": first.runs, "keras_backend": backend}
    given["storage"] = storage_option.kept_storage(given.get("storage"), early.get("storage"), handle)
    if handle.exists:
        checks.check_seed(handle.header, first.seed)
        given["seed"] = None  # a study that began without one does not become repeatable
    given["executor"] = given.get("executor") or handle.options.get("executor") or early.get("executor")
    options.check_ray_address(given)
    given["ray_address"] = given.get("ray_address") or early.get("ray_address")
    return _Launch(source, given, handle, accept_changes, take_over, overwrite, make_view, say).run()


def resume_search(
    name: str,
    given: Mapping[str, Any],
    *,
    accept_changes: bool = False,
    take_over: bool = False,
    make_view: MakeView,
    say: Callable[[str], None],
) -> Result:
    """Go on with the study `name`. It keeps its own options except those in `given`.

    Raises:
        StudyError: there is no such study.
    """
    paths = find_study(name, given.get("runs") or "runs")
    with waiting_for(f"reading the journal of study {name}"):
        handle = StudyHandle(paths)
    if not handle.exists:
        raise StudyError(f"study {name!r} has not begun, {paths.journal} is empty: begin it with search run SPACE.py")
    header = handle.header
    checks.check_not_imported(header)
    source = Source(path=Path(header.source)) if header.source else Source(parts={})
    if source.path is not None and not source.path.exists():
        copy = paths.space / source.path.name
        say(f"{source.path} is no more: going on with the study's copy of it, {copy}")
        source = Source(path=copy)
    return run_search(
        source,
        {**given, "study": name},
        resume=True,
        accept_changes=accept_changes,
        take_over=take_over,
        handle=handle,
        make_view=make_view,
        say=say,
    )


def check_space(source: Source, keras_backend: str | None = None) -> Probed:
    """Probe `source` on the processor, and write nothing. SpaceError if it cannot be searched."""
    given = {"keras_backend": keras_backend or source.early_options().get("keras_backend")}
    source.check_written([name for name, value in given.items() if value is not None])
    given |= {"gpus": "none", "workers": 1}
    opts = options.resolve_options(given)
    with tempfile.TemporaryDirectory(prefix="search-") as folder, ExitStack() as stack:
        executor = selection.make_executor(opts, (), Path(folder) / "search.log")
        stack.callback(executor.close)
        assert source.path is not None
        ref = SpaceRef(path=str(source.path.absolute()))
        with waiting_for(f"probing {source.label}"):
            probed = executor.probe(Probe(ref, more=RANDOM_CONFIGURATIONS, shapes=True))
    if isinstance(probed, ProbeFailed):
        raise SpaceError(probed.message)
    opts = options.resolve_options(given, probed.options, where=source.label)
    with options.error_prefix(source.label):
        checks.check_backend(opts, probed.parameters)
        checks.check_single_value(checks.objective_of(opts, probed), opts, probed)
    return probed


# Launching ------------------------------------------------------------------------------------------------------------


class _Launch:
    """One process's run of a study, from checked options to the end."""

    def __init__(
        self,
        source: Source,
        given: Mapping[str, Any],
        handle: StudyHandle,
        accept_changes: bool,
        take_over: bool,
        overwrite: bool,
        make_view: MakeView,
        say: Callable[[str], None],
    ) -> None:
        self._source = source
        self._given = given
        self._handle = handle
        self._paths = handle.paths
        self._code = StudyCode(source, handle.paths)
        self._accept_changes = accept_changes
        self._take_over = take_over
        self._overwrite = overwrite
        self._make_view = make_view
        self._say = say

    def run(self) -> Result:
        opts = options.resolve_options(self._given, before=self._handle.options)
        checks.check_tensorboard(opts)
        named_parts.check_parts(opts, self._handle.versions if self._handle.exists else {})
        checks.check_backend(opts)
        with waiting_for("looking for GPUs"):
            node = find_node_again() if self._handle.exists else find_node()
        gpus = self._first_gpus(opts, node)
        with waiting_for(f"connecting to {opts.executor.title()}" if selection.finds_slots(opts) else "counting slots"):
            selection.slots_of(opts, gpus)  # a missing GPU is reported at once
        job_end.stop_rules(opts)  # and so is a job that ends too soon
        storage_option.check_storage(opts.storage, opts.executor)
        checks.make_folder(self._paths.folder)
        with ExitStack() as stack:
            lock = Lock(self._paths.lock, take_over=self._take_over)
            stack.callback(self._unlock, lock)
            self._read_again()
            ref = replace(self._code.prepare(stack), seed=self._first_seed())
            place = self._choose_place(opts)
            if place.inline:
                self._given = {**self._given, "executor": "inline"}
                opts = replace(opts, executor="inline")
            with waiting_for("starting the workers"):
                executor = selection.make_executor(
                    opts, gpus, self._paths.log, compiled_programs(opts.runs), place.fork, early=place.early
                )
            stack.callback(executor.close)
            # Not before the executor: its thread would forbid a fork.
            admission = Admission(opts, later=place.imported)
            shutil.rmtree(self._paths.requests, ignore_errors=True)  # those of an earlier process
            shutil.rmtree(self._paths.data, ignore_errors=True)
            stack.callback(shutil.rmtree, self._paths.data, ignore_errors=True)
            prepared = self._prepare(opts, node, lock, ref, place, executor, admission)
            return prepared.run(self._make_view, self._say)

    def _prepare(
        self,
        opts: Options,
        node: Node,
        lock: Lock,
        ref: SpaceRef,
        place: Placement,
        executor: Executor,
        admission: Admission,
    ) -> PreparedSearch:
        """Probe the space, check the options against it, tell the user the plan, and write the study's code."""
        probed = self._probe(executor, ref, opts)
        opts = options.resolve_options(self._given, probed.options, self._handle.options, self._source.label)
        if not self._handle.exists and opts.seed not in (None, ref.seed):
            # The file computes its seed. It was run under another one, and is run again.
            ref = replace(ref, seed=opts.seed)
            probed = self._probe(executor, ref, opts)
        with options.error_prefix(self._source.label):
            choice = _choose_gpus(opts, node)
            slots = selection.slots_of(opts, choice.gpus)
            objective = self._check(opts, probed, slots, ref, executor)
            imported = warm_start.import_trials(opts, objective, self._handle) if self._is_new("warm_start") else []
            opts, of_disk = limit_disk(opts, probed, self._paths.folder)
        checks.check_seen_gpus(probed, choice.gpus)
        selection.set_slots(executor, slots, opts)
        change = self._handle.change_of_space(probed, accepted=self._accept_changes, label=self._source.label)
        with waiting_for("connecting to MLflow"):
            uri = admission.result(opts)
            opts = self._below_parent_run(opts, uri)
        records = self._handle.first_records(opts, objective, probed, change, imported, self._source.path, ref.seed)
        self._announce(opts, objective, slots, probed, self._handle.count_earlier_trials(records))
        rules = job_end.stop_rules(opts, self._say)
        if hasattr(executor, "description"):
            self._say(executor.description)
        for line in (*place.lines, *choice.lines(), *of_disk, *describe_other_store(self._paths.tracking, uri)):
            self._say(line)
        if imported:
            self._say(warm_start.describe_import(str(opts.warm_start), imported, probed.parameters))
        if self._handle.exists:
            self._code.write(probed)
        else:
            self._code.replace(probed, self._say)
        if ref.pickle is not None:
            ref = replace(ref, pickle=str(self._paths.pickle))
        restore = functools.partial(self._code.restore, probed)
        late = place.imported and _is_late(opts, uri)
        return PreparedSearch(
            self._handle, opts, probed, ref, executor, slots, records, uri, rules, lock, restore, late
        )

    def _choose_place(self, opts: Options) -> Placement:
        """Return where the trials are trained. SpaceError if parts of the factory cannot get there."""
        if not self._source.parts:
            return Placement()
        facts = process_facts()
        unsafe, inherited = why_unsafe(facts, opts.keras_backend), self._source.kept_parts
        different = why_different(facts) or selection.why_shared()
        early = find_early_fork(opts.keras_backend) is not None
        place = choose_place(opts, self._given, inherited=inherited, unsafe=unsafe, different=different, early=early)
        if place.refused is not None:
            raise self._source.refusal(place.refused)
        return place

    def _first_gpus(self, opts: Options, node: Node) -> tuple[Gpu, ...]:
        """Return the GPUs for the probe: those of the search, unless the space file has the option."""
        known = self._given.get("gpus") is not None or "gpus" in self._handle.options
        return node.gpus if not known and self._source.writes("gpus") else _choose_gpus(opts, node).gpus

    def _first_seed(self) -> int:
        """Return the study's seed, as far as it is known before the space file is run."""
        if self._handle.exists:
            return self._handle.header.seed
        seed = self._given.get("seed")
        seed = self._source.written_seed() if seed is None else seed
        return secrets.randbelow(options.LARGEST_SEED) if seed is None else int(seed)

    def _probe(self, executor: Executor, ref: SpaceRef, opts: Options) -> Probed:
        share = str(self._paths.data) if executor.slots > 1 else None
        with waiting_for(f"probing {self._source.label}"):
            probed = executor.probe(Probe(ref, share, shapes=not self._handle.exists, limit=_probe_limit(opts)))
        if isinstance(probed, ProbeFailed):
            raise SpaceError(probed.message + log_traceback(self._paths, probed.traceback))
        return probed

    def _check(
        self, opts: Options, probed: Probed, slots: tuple[Slot, ...], ref: SpaceRef, executor: Executor
    ) -> Objective:
        """Check the options against the probed space. Return the study's objective."""
        checks.check_tensorboard(opts)
        named_parts.check_parts(opts, {})
        checks.check_backend(opts, probed.parameters)
        checks.check_keras(opts, probed, slots[0].devices)
        if self._handle.exists:
            objective = checks.kept_objective(self._handle.header, opts)
        else:
            objective = checks.objective_of(opts, probed)
        checks.check_single_value(objective, opts, probed)
        checks.check_required(opts, probed, objective)
        changed = self._accept_changes and self._handle.exists and self._handle.space.digest != probed.digest
        if changed or self._is_new("try_first"):
            untried = self._handle.untried(opts.try_first)
            declared = (*probed.parameters, *probed.inactive)
            limit = _probe_limit(opts)
            for line in checks.check_try_first(
                untried, declared, lambda v: executor.probe(Probe(ref, values=v, limit=limit))
            ):
                self._say(line)
        return objective

    def _below_parent_run(self, opts: Options, uri: str) -> Options:
        """Check `--parent-run`. Return the options with its experiment, unless the user names one: MLflow's UI shows a
        run below its parent only within one experiment.
        """
        if opts.parent_run is None or not self._is_new("parent_run"):
            return opts
        name = check_parent_run(uri, opts.parent_run)
        return opts if opts.experiment is not None or name is None else replace(opts, experiment=name)

    def _read_again(self) -> None:
        """Read the journal with the lock held, if another process has written to it since."""
        if self._handle.is_current:
            return
        if self._overwrite:
            raise StudyError(
                f"study {self._handle.name!r} has changed since this command started, another process runs it: start "
                "this command once"
            )
        handle = StudyHandle(self._paths)
        if handle.exists != self._handle.exists:
            raise StudyError(f"study {self._handle.name!r} was begun by another process: go on with --resume")
        self._handle = handle

    def _unlock(self, lock: Lock) -> None:
        if not self._paths.journal.exists():
            self._paths.lock.unlink(missing_ok=True)
        lock.release()

    def _is_new(self, name: str) -> bool:
        """Return whether the user gave option `name` for this process, not for an earlier one."""
        return not self._handle.exists or self._given.get(name) is not None

    def _announce(
        self, opts: Options, objective: Objective, slots: tuple[Slot, ...], probed: Probed, earlier: int
    ) -> None:
        """Print the plan before it is carried out.

        Args:
            earlier: the number of trials of earlier back end phases.
        """
        from search.display.compilations import describe_compilations
        from search.display.plan import describe_plan

        handle = self._handle
        chosen = "" if opts.objective or handle.exists else ", as nothing else was asked for"
        self._say(f"study {handle.name} in {self._paths.folder}")
        if untested := untested_line():
            self._say(untested)
        if handle.exists:
            versions = {**probed.versions, **named_parts.package_versions(opts)}
            for line in checks.describe_updates(handle.entries[-1].format, handle.versions, versions):
                self._say(line)
            for line in checks.describe_direction(objective, opts, probed):
                self._say(line)
        for line in registry.internals_off():
            self._say(line)
        self._say(f"objective {objective.name}, {objective.direction}{chosen}")
        plan = describe_plan(opts, own_fit=probed.own_fit, earlier=earlier)
        self._say(f"{plan}; {len(slots)} at once: {', '.join(slot.label for slot in slots)}")
        for line in describe_compilations(probed.shape_parameters):
            self._say(line)


def _is_late(opts: Options, uri: str) -> bool:
    """Return whether a short search may get to MLflow, and get its report, after this script's end."""
    interactive = hasattr(sys, "ps1") or bool(sys.flags.interactive)
    return may_be_late(
        opts, uri, interactive=interactive, modules=sys.modules, environment=os.environ, process=os.getpid()
    )


def _probe_limit(opts: Options) -> float | None:
    """Return the time limit of a probe in seconds, None for any time."""
    return None if opts.trial_timeout is None else max(opts.trial_timeout, PROBE_SECONDS)


def _choose_gpus(opts: Options, node: Node) -> Choice:
    """Return the GPUs of this machine, `node`, for a search; none if its executor has slots of its own."""
    return Choice(()) if selection.finds_slots(opts) else pick_gpus(node.uses, opts.gpus)
