"""A prepared search: all is checked and chosen, and it is run to its end."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from search.backends import registry
from search.devices.slots import Slot, slots_sharing_memory
from search.driver import named_parts, storage_option
from search.driver.inbox import Steering
from search.driver.loop import Driver, View
from search.driver.search_limits import limits_of
from search.driver.study_files import StudyFiles
from search.driver.study_handle import StudyHandle
from search.errors import SearchError
from search.executors.base import Executor
from search.executors.waiting import show_stage, waiting_for
from search.messages import Probed
from search.options import Options
from search.report.background import ReportWriter
from search.scheduler.controller import Controller
from search.scheduler.initial import untried_added
from search.scheduler.stopping import StopRule
from search.space.file import SpaceRef
from search.study.journal import Journal
from search.study.lock import Lock
from search.study.paths import StudyPaths
from search.study.records import Record, SearchEnded
from search.study.request_files import RequestFolder
from search.study.requirement import describe_shortfall
from search.study.study import Study
from search.study.transitions import UnfitRecord
from search.tracking.followers import FollowerSetup, FollowerThread
from search.tracking.mlflow import late
from search.wording import pluralize

if TYPE_CHECKING:
    from search.tracking.mlflow.syncer import Syncer

SYNC_SECONDS = 60.0
"""Seconds that the end of a search waits for MLflow, and before that for the trials' storage."""

REPORT_SECONDS = 15.0
"""Seconds that the end of a search waits for its report. That of 5,000 trials takes longer, and comes afterwards."""

FOLLOWER_SECONDS = 10.0
"""Seconds that the end of a search waits for each follower that the options name."""


class SearchStopped(KeyboardInterrupt):
    """The stop of a search at once, by the second Ctrl-C or after the search's end. The study has begun.

    Attributes:
        paths: the study's files.
    """

    def __init__(self, paths: StudyPaths) -> None:
        super().__init__("stopped; nothing journaled is lost: go on with resume=True")
        self.paths = paths


MakeView = Callable[[Study, Options, tuple[str, ...]], View]
"""A function that makes the view of a study; the last argument labels the slots."""


@dataclass(frozen=True, slots=True)
class Result:
    """The end of a search.

    Attributes:
        paths, study: the study's files, and the study.
        end: how the search ended.
        synced: MLflow has everything.
        ran: a search has run; else the study was complete before.
        shortfall: one line about what `--require` asks for and the best trial lacks; "" if nothing.
    """

    paths: StudyPaths
    study: Study
    end: SearchEnded
    synced: bool
    ran: bool = True
    shortfall: str = ""


@dataclass(frozen=True, slots=True)
class PreparedSearch:
    """A search of which all is checked.

    Attributes:
        handle: the study, as its journal was read.
        options: the options.
        probed: the findings of the probe.
        space: the place where workers find the user's code.
        executor, slots: the executor, and its slots.
        records: the records to begin with.
        tracking_uri: the MLflow server.
        rules: stop rules of this process, beside those that the options name.
        lock: the lock on the journal.
        restore: writes again what lies beside the journal, after another program has deleted that.
        late: MLflow may get a short search after this process's end.
    """

    handle: StudyHandle
    options: Options
    probed: Probed
    space: SpaceRef
    executor: Executor
    slots: tuple[Slot, ...]
    records: list[Record]
    tracking_uri: str
    rules: Sequence[StopRule]
    lock: Lock
    restore: Callable[[], None]
    late: bool = False

    @property
    def paths(self) -> StudyPaths:
        """The study's files."""
        return self.handle.paths

    def run(self, make_view: MakeView, say: Callable[[str], None]) -> Result:
        """Search to the end.

        Args:
            make_view: makes the view, once the study is known.
            say: prints one line.

        Raises:
            SearchStopped: the user stopped the search at once.
            SearchError: the search broke.
        """
        study, opts, executor, slots = Study(), self.options, self.executor, self.slots
        view: View | None = None
        show_stage(None)  # the view shows the search from now on

        def report(line: str, details: str) -> None:
            tell = say if view is None else view.say
            tell(line + log_traceback(self.paths, details))

        rules = [*named_parts.make_rules(opts, report), *self.rules]
        closed = tuple(getattr(executor, "closed", ()))
        controller = _make_controller(study, opts, self.probed, slots, rules, closed)
        replay(controller, self.handle)
        view = make_view(study, opts, tuple(slot.label for slot in slots))
        for slot in closed:
            view.name_slot(slot, None)
        setup = FollowerSetup(self.handle.name, self.paths.folder, self.handle.entries, view.say)
        named = named_parts.make_followers(opts, setup, report)
        syncer = self._make_syncer(view)
        reports = ReportWriter(self.paths, study, enabled=opts.report, say=view.say)
        files = storage_option.make_files(opts.storage, self.handle, self.records)
        driver = Driver(
            controller,
            Journal(
                self.paths.journal,
                known=self.handle.entries,
                guard=self.lock.keep,
                restored=partial(self._restored, view.say),
            ),
            executor,
            self.space,
            self.paths,
            opts,
            followers=[*storage_option.make_followers(opts, study, self.paths, files), syncer, reports, *named],
            files=files,
            data=str(self.paths.data) if self.probed.shared else None,
            view=view,
            steering=self._steering(),
        )
        try:
            end = self._train(study, driver, files, syncer, named, say)
            reports.write()
        except BaseException:
            reports.stop()
            raise
        finally:
            view.close()
        return self._finish(study, end, named, syncer, reports, view.say)

    def _finish(
        self,
        study: Study,
        end: SearchEnded,
        named: Sequence[FollowerThread],
        syncer: Syncer,
        reports: ReportWriter,
        say: Callable[[str], None],
    ) -> Result:
        """End the followers, MLflow's last, which gets the report. Return the search's result."""
        try:
            with waiting_for("ending the followers"):
                for follower in named:
                    follower.close(FOLLOWER_SECONDS)
            # A search that was stopped or given up has an exit code of its own.
            shortfall = describe_shortfall(self.options.require, study) if end.exit_code == 0 else ""
            with waiting_for("sending the rest to MLflow"):
                synced = syncer.finish(SYNC_SECONDS, before_last=lambda: reports.wait(REPORT_SECONDS))
                reports.close(REPORT_SECONDS)
            self._send_later(syncer, say)
            return Result(self.paths, study, end, synced, shortfall=shortfall)
        except KeyboardInterrupt as error:
            reports.stop()
            raise SearchStopped(self.paths) from error

    def _train(
        self,
        study: Study,
        driver: Driver,
        files: StudyFiles,
        syncer: Syncer,
        named: Sequence[FollowerThread],
        say: Callable[[str], None],
    ) -> SearchEnded:
        """Run the loop, with all followers, until the trials' files are where they stay."""
        try:
            syncer.start()
            for follower in named:
                follower.start()
            end = driver.run(self.records, self.probed.data)
            for line in (*describe_untried(study), *files.finish(SYNC_SECONDS)):
                say(line)
            return end
        except BaseException as error:
            syncer.stop()
            self._send_later(syncer, say)
            for follower in named:
                follower.end()
            if isinstance(error, KeyboardInterrupt) and study.header is not None:
                raise SearchStopped(self.paths) from error
            if not isinstance(error, Exception):
                raise
            raise self._broken(error) from error

    def _send_later(self, syncer: Syncer, say: Callable[[str], None]) -> None:
        """Have a study that MLflow was not told of yet sent after this process's end."""
        if syncer.left and self.paths.journal.exists():
            late.send_at_exit(self.paths, self.tracking_uri)
            say(f"MLflow gets this study when the script has ended; `search sync {self.handle.name}` sends it at once")

    def _steering(self) -> Steering:
        """Return the requests of users who steer the search while it runs."""
        return Steering(
            RequestFolder(self.paths.requests),
            self.options,
            lambda opts: limits_of(opts, self.probed),
            (*self.probed.parameters, *self.probed.inactive),
            frees_memory=hasattr(self.executor, "retire"),
        )

    def _make_syncer(self, view: View) -> Syncer:
        from search.tracking.mlflow.syncer import Syncer

        return Syncer(
            self.paths,
            self.tracking_uri,
            keep_models=self.options.keep_models,
            experiment=self.options.experiment,
            register=self.options.register,
            log_report=self.options.log_report,
            rest=late.REST_SECONDS if self.late else 0.0,
            warn=view.say,
        )

    def _restored(self, say: Callable[[str], None]) -> None:
        say(f"another program deleted or moved {self.paths.journal}: it is written again, and the search goes on")
        self.restore()

    def _broken(self, error: Exception) -> SearchError:
        """Return the error that ends a search because of `error`, which is being handled."""
        if isinstance(error, SearchError):
            return error
        return SearchError(
            f"the search broke ({type(error).__name__}: {error}): nothing journaled is lost, and a resume may get past "
            f"it" + log_traceback(self.paths, traceback.format_exc())
        )


def replay(controller: Controller, handle: StudyHandle) -> None:
    """Let the controller take in the study's journal: the one fold of it.

    Raises:
        JournalError: a line does not fit those before it.
        SearchError: the back end cannot take in a line.
    """
    try:
        controller.replay(handle.entries)
    except UnfitRecord as error:
        raise handle.damaged_line(controller.replayed, error) from None
    except SearchError:
        raise
    except Exception as error:
        raise SearchError(
            f"the back end cannot take in line {controller.replayed + 1} of {handle.paths.journal} "
            f"({type(error).__name__}: {error}): put a copy of the file from a backup in its place, or report the fault"
            + log_traceback(handle.paths, traceback.format_exc())
        ) from error


def _make_controller(
    study: Study,
    opts: Options,
    probed: Probed,
    slots: tuple[Slot, ...],
    rules: Sequence[StopRule],
    closed: Collection[int],
) -> Controller:
    return Controller(
        study,
        lambda phase: registry.make_backend(
            phase.backend, phase.options, study.objective, study.seed, study.parameters
        ),
        limits_of(opts, probed),
        slots_sharing_memory(slots),
        opts.max_epochs,
        opts.try_first,
        rules,
        closed,
    )


def describe_untried(study: Study) -> list[str]:
    """Return a line about the configurations that the user added and the search has not tried; none without any."""
    untried = untried_added(study)
    if not untried:
        return []
    shown = ", ".join(json.dumps(dict(values)) for values in untried[:3]) + (", …" if len(untried) > 3 else "")
    return [f"{pluralize(len(untried), 'added configuration')} not tried: {shown}; a resume with room for them does so"]


def log_traceback(paths: StudyPaths, traceback: str) -> str:
    """Write a traceback to the study's log. Return words that say where it is."""
    if not traceback:
        return ""
    with suppress(OSError), paths.log.open("a") as file:
        file.write(traceback + "\n")
    return f" (its traceback is in {paths.log})"
