"""The decisions on the user's requests to a running search: what each one changes, and what the user is told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from search.backends.base import BackEnd
from search.errors import nearest
from search.messages import Interrupt
from search.scheduler.affinity import Affinity
from search.scheduler.budget import EpochBudget
from search.scheduler.events import EndWorker, Instruction, StartSegment, Steer
from search.scheduler.limits import Limits
from search.scheduler.questions import Questions
from search.scheduler.slot_pool import SlotPool
from search.scheduler.waiting import WaitingTrials
from search.space.domain import Parameter, Value
from search.study.records import (
    ConfigurationAdded,
    LimitsChanged,
    Record,
    SearchContinued,
    SearchEnded,
    SearchPaused,
    TrialStopRequested,
)
from search.study.requests import (
    AddConfigurations,
    ChangeLimits,
    ContinueSearch,
    PauseSearch,
    Reply,
    StopTrial,
)
from search.study.study import Study
from search.study.trial import Done, Wait
from search.study.trials import Trial
from search.wording import pluralize

__all__ = ["Decision", "Situation", "Steering"]


@dataclass(frozen=True, slots=True)
class Situation:
    """The state of a search when a request comes, as far as the study does not tell.

    Attributes:
        limits: its limits.
        running: the running segments, by slot.
        ending: why the search is ending; None while it goes on.
        backend: in charge of the study.
    """

    limits: Limits
    running: Mapping[int, StartSegment]
    ending: SearchEnded | None
    backend: BackEnd


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision on a request. One that changes nothing has no records."""

    reply: Reply
    records: Sequence[Record] = ()


class _Refused(Exception):
    """The request cannot be carried out; the message is a line for the user."""


class Steering:
    """The decisions on the user's requests to one study.

    Args:
        study: the study.
        questions: its configurations and domains.
        budget: its epochs.
        waiting: its trials that wait for a slot.
        affinity: the slots where trials have their models cached.
        slots: the slots.
    """

    def __init__(
        self,
        study: Study,
        questions: Questions,
        budget: EpochBudget,
        waiting: WaitingTrials,
        affinity: Affinity,
        slots: SlotPool,
    ) -> None:
        self._study = study
        self._questions = questions
        self._budget = budget
        self._waiting = waiting
        self._affinity = affinity
        self._slots = slots

    def decide(self, event: Steer, situation: Situation) -> Decision:
        """Return the records that carry out a request, and the reply to it."""
        request = event.request
        try:
            if request.study != self._study.uid:
                raise _Refused("the request is for another study of this name: it was begun anew since")
            if situation.ending is not None:
                raise _Refused(
                    f"the search is ending ({situation.ending.reason}): go on with search resume {self._study.name}, "
                    "and ask again"
                )
            match request.action:
                case AddConfigurations(configurations):
                    return self._add(request.id, configurations, event.parameters, situation)
                case StopTrial(trial):
                    return self._stop(request.id, trial, situation)
                case PauseSearch():
                    return self._pause(request.id, situation, frees_memory=event.frees_memory)
                case ContinueSearch():
                    return self._continue(request.id)
                case ChangeLimits(options):
                    assert event.limits is not None
                    return self._change(LimitsChanged(request.id, options), event.limits, situation)
        except _Refused as refused:
            return Decision(Reply(False, str(refused)))

    def carry_out(self, event: Steer, running: Mapping[int, StartSegment]) -> Iterator[Instruction]:
        """Yield the instructions that follow from a request whose records were applied.

        Args:
            event: the request.
            running: the running segments, by slot.
        """
        match event.request.action:
            case StopTrial(number):
                yield from self._end_trial(self._study.trials[number], running)
            case PauseSearch():
                yield from self.pause(running)
            case ChangeLimits() if event.limits is not None:
                self._budget.max_total_epochs = event.limits.max_total_epochs
                if self._budget.is_overdrawn:
                    yield from interrupt_all(running)  # the epochs that are left are given out anew

    def pause(self, running: Mapping[int, StartSegment]) -> Iterator[Instruction]:
        """Yield the instructions that interrupt running segments, and end idle workers."""
        yield from interrupt_all(running)
        yield from map(self.end_worker, self._slots.free)

    def end_worker(self, slot: int) -> Instruction:
        """Return the instruction that ends an idle worker. Its trials go on in any other."""
        self._affinity.forget_slot(slot)
        return slot, EndWorker()

    def _end_trial(self, trial: Trial, running: Mapping[int, StartSegment]) -> Iterator[Instruction]:
        """Train `trial` no further, if it has a value to keep. Else it stops when it has one."""
        slot = next((slot for slot, start in running.items() if start.trial == trial.number), None)
        if slot is None:
            self._waiting.settle(trial)
        elif trial.stops:
            yield slot, Interrupt()

    # Adding configurations ------------------------------------------------------------------------------------------

    def _add(
        self,
        request: str,
        configurations: Sequence[Mapping[str, Value]],
        declared: Sequence[Parameter],
        situation: Situation,
    ) -> Decision:
        known = list(self._known_parameters(declared))
        for place, values in enumerate(configurations):
            _check_values(values, known)
            self._check_new(values)
            if values in configurations[:place]:
                raise _Refused(f"{json.dumps(values)} is given twice: give it once")
        if self._questions.configurations.exhausted:
            raise _Refused("every configuration of the space was tried: there is no new one to add")
        if not self._budget.allows(None):
            raise _Refused(
                f"the budget of {pluralize(self._budget.max_total_epochs or 0, 'epoch')} is given out: raise it with "
                f"search set {self._study.name} --max-total-epochs, and add it again"
            )
        records = [ConfigurationAdded(request, values) for values in configurations]
        return Decision(Reply(True, self._describe_added(configurations, situation)), records)

    def _known_parameters(self, declared: Sequence[Parameter]) -> Iterator[Parameter]:
        """Yield the hyperparameters that builds and trials of the present space have asked for."""
        yield from self._study.parameters
        yield from declared
        asked = self._questions.domains
        for trial in self._study.trials.values():
            yield from (parameter for parameter in trial.parameters if parameter.key in asked)

    def _check_new(self, values: Mapping[str, Value]) -> None:
        """Refuse values that were tried, or wait to be."""
        if self._questions.initial.is_known(values):
            raise _Refused(f"{json.dumps(values)} was given before: a trial has tried it, or will")
        for trial in self._study.trials.values():
            if trial.model is not None and _is_covered(trial, values):
                raise _Refused(
                    f"trial {trial.number} has these values, and is {trial.state}: no configuration is tried twice"
                )

    def _describe_added(self, configurations: Sequence[Mapping[str, Value]], situation: Situation) -> str:
        initial, limits = self._questions.initial, situation.limits
        waiting = len([*initial.untried(), *initial.added])
        one = len(configurations) == 1
        what = json.dumps(configurations[0]) if one else pluralize(len(configurations), "configuration")
        text = f"added {what}: the next new trial{' has it' if one else 's have them'}"
        if waiting:
            text += f", after {waiting} that {'waits' if waiting == 1 else 'wait'}"
        enough = limits.max_trials is not None and len(self._study.trials) >= limits.max_trials
        if enough:
            text += f"; beyond the {pluralize(limits.max_trials or 0, 'trial')} of --max-trials"
        if isinstance(situation.backend.ask(new=True, child=not enough), (Wait, Done)):
            back_end = self._study.phases[-1].backend
            text += f"; back end {back_end} begins no more, so an extra trial does, and is trained to the last epoch"
        return text + self._describe_pause()

    # Stopping a trial -----------------------------------------------------------------------------------------------

    def _stop(self, request: str, number: int, situation: Situation) -> Decision:
        trial = self._study.trials.get(number)
        if trial is None:
            count = len(self._study.trials)
            raise _Refused(f"study {self._study.name!r} has no trial {number}: it has {count}, numbered from 0")
        if trial.ended or trial.worthless:
            raise _Refused(f"trial {number} has ended: it is {trial.state}")
        if trial.progress.stop_requested:
            return Decision(Reply(True, f"trial {number} was told to stop already"))
        if trial.exhausted:
            raise _Refused(f"trial {number} has ended its training: a callback of its own stopped it")
        if trial.status in ("stopping", "halted"):
            raise _Refused(f"trial {number} ends with its running epoch: its back end stops it")
        if not trial.scores:
            text = f"trial {number} has no value yet: it ends with the first epoch that gives one"
        elif any(start.trial == number for start in situation.running.values()):
            end = "when its fit returns" if trial.black_box else "with its running epoch"
            text = f"trial {number} ends {end}, and keeps its best value so far"
        else:
            text = f"trial {number} is trained no further, and keeps its best value, {trial.score:.4g}"
        return Decision(Reply(True, text), [TrialStopRequested(request, number)])

    # Pausing --------------------------------------------------------------------------------------------------------

    def _pause(self, request: str, situation: Situation, *, frees_memory: bool) -> Decision:
        go_on = f"go on with: search continue {self._study.name}"
        if self._study.paused:
            return Decision(Reply(True, f"the search is paused already: {go_on}"))
        running = len(situation.running)
        first = f"the running {'epoch ends' if running == 1 else 'epochs end'} first, then " if running else ""
        memory = "the workers end and free their memory" if frees_memory else "the workers keep their memory"
        return Decision(Reply(True, f"paused: {first}no work begins, and {memory}; {go_on}"), [SearchPaused(request)])

    def _continue(self, request: str) -> Decision:
        if not self._study.paused:
            return Decision(Reply(True, "the search is not paused: it goes on"))
        return Decision(Reply(True, "the search goes on"), [SearchContinued(request)])

    def _describe_pause(self) -> str:
        paused = f"; the search is paused, go on with: search continue {self._study.name}"
        return paused if self._study.paused else ""

    # Changing limits ------------------------------------------------------------------------------------------------

    def _change(self, record: LimitsChanged, limits: Limits, situation: Situation) -> Decision:
        named = ", ".join(f"--{name.replace('_', '-')} {_plain(name, value)}" for name, value in record.options.items())
        text = f"set {named}: it holds from now on, after a resume, too"
        dropped = situation.limits.max_total_epochs
        if dropped is not None and limits.max_total_epochs is None:
            text += f"; the budget of {pluralize(dropped, 'epoch')}, which held without a limit of yours, is gone"
        study, ends = self._study, "the search ends with the running epochs"
        if limits.max_total_epochs is not None and study.epochs >= limits.max_total_epochs:
            text += f"; {pluralize(study.epochs, 'epoch')} are trained, so {ends}"
        if limits.max_trials is not None and "max_trials" in record.options and len(study.trials) >= limits.max_trials:
            text += f"; {pluralize(len(study.trials), 'trial')} have begun, so no new one does"
        return Decision(Reply(True, text + self._describe_pause()), [record])


def interrupt_all(running: Mapping[int, StartSegment]) -> Iterator[Instruction]:
    """Yield the instructions that let segments end with their running epochs."""
    return ((slot, Interrupt()) for slot in running)


def _plain(name: str, value: object) -> str:
    return f"{value:g}s" if name == "timeout" else str(value)


def _is_covered(trial: Trial, values: Mapping[str, Value]) -> bool:
    """Return whether `values` name every choice of `trial`, and are its own."""
    choices = {parameter.name for parameter in trial.parameters if parameter.domain.size != 1}
    own = trial.params
    same = all(name in own and own[name] == value for name, value in values.items())
    return bool(choices) and choices <= values.keys() and same


def _check_values(values: Mapping[str, Value], known: Sequence[Parameter]) -> None:
    """Refuse names that nothing asks for, and values outside of all domains."""
    for name, value in values.items():
        domains = [parameter.domain for parameter in known if parameter.name == name]
        if not domains:
            near = nearest(name, {parameter.name for parameter in known} - values.keys())
            raise _Refused(f"no build and no trial has asked for {name!r} so far: leave it out.{near}")
        if not any(domain.contains(value) for domain in domains):
            raise _Refused(f"{name} cannot be {value!r}: it takes {domains[-1]}")
