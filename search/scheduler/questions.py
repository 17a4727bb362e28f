"""Answers to the questions of model factories: initial values and draws, no configuration twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from search.backends.base import BackEnd, draw_uniformly
from search.backends.grid import is_grid, listed_domain
from search.messages import Question
from search.scheduler.deduplication import ConfigurationTree
from search.scheduler.initial import InitialConfigurations, domain_error, value_in_domain
from search.space.domain import Domain, Parameter, Value, compatible
from search.study.records import BackendChanged, Header, ParameterSet, Record, SpaceChanged
from search.study.study import Study
from search.study.trials import Trial

__all__ = ["Questions", "Refusal"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A question without an answer: `error` fails the trial, and the search too if `ends_search`."""

    error: str
    ends_search: bool = False


class Questions:
    """The questions of a study's trials, and the domains and configurations known from them. A fold of the journal.

    A question is *deferred* if its answer must wait until another trial is built (see `deduplication`).

    Args:
        try_first: initial configurations.

    Attributes:
        domains: by parameter key, the domain with which the parameter was last asked for in this space.
        configurations: those that trials have reached.
        initial: the initial configurations.
        may_retry: whether deferred questions may have an answer by now.
    """

    def __init__(self, try_first: Sequence[Mapping[str, Value]] = ()) -> None:
        self.domains: dict[str, Domain] = {}
        self.configurations = ConfigurationTree()
        self.initial = InitialConfigurations(try_first)
        self.may_retry = False
        self._deferred: list[tuple[int, Question, Value]] = []

    def apply(self, record: Record, study: Study) -> None:
        """Take in a record that `study` has taken in already."""
        self.may_retry |= self.configurations.apply(record)
        self.initial.apply(record)
        match record:
            case Header() | SpaceChanged():
                self.domains.clear()
                before = self.configurations
                self.configurations = ConfigurationTree(record.parameters, ignored=study.trials)
                self.configurations.begin_phase(for_grid=before.for_grid, repeats=before.repeats)
            case BackendChanged():
                self.configurations.begin_phase(
                    for_grid=is_grid(record.options), repeats=record.options.get("repeats") is True
                )
            case ParameterSet() if not record.parameter.domain.is_fixed:
                self.domains[record.parameter.key] = record.parameter.domain

    def answer(self, slot: int, question: Question, trial: Trial, backend: BackEnd) -> ParameterSet | Refusal | None:
        """Return the answer to a question, to be journaled and sent; None if the question is deferred.

        Args:
            slot: of the worker that asks.
            question: of `trial`'s model factory.
            trial: the trial that the question is about.
            backend: draws values that are not initial ones.
        """
        parameter = question.parameter
        before = self.domains.get(parameter.key, parameter.domain)
        if not compatible(before, parameter.domain):
            changed = (
                f"parameter {parameter.key!r} changed its domain between trials, from {before} to {parameter.domain}: "
                "ask for the same domain every time, or give the two different names"
            )
            return Refusal(changed, ends_search=True)
        if error := domain_error(trial.values.initial, parameter) or _change(trial, parameter):
            return Refusal(error)
        value, attributes = self._choose(trial, parameter, backend)
        if self.configurations.must_wait(trial.number, value):
            self._deferred.append((slot, question, value))
            return None
        return ParameterSet(trial.number, parameter, value, attributes)

    def _choose(self, trial: Trial, parameter: Parameter, backend: BackEnd) -> tuple[Value, dict[str, object]]:
        if parameter.domain.size == 1:
            return parameter.domain.value(0), {}
        if trial.parent is not None:
            values = trial.parent.values
            # A range may depend on other values, and lack the parent's value now.
            if parameter.name in values and parameter.domain.contains(values[parameter.name]):
                return value_in_domain(values, parameter), {}
        initial, explored = trial.values.initial, self.configurations.explored_values(trial.number)
        if parameter.name in initial and (value := value_in_domain(initial, parameter)) not in explored:
            return value, {}
        if trial.extra:  # the back end does not know it
            return draw_uniformly(trial.seed, trial.number, parameter, explored).value, {}
        draw = backend.suggest(trial.number, parameter, explored | self._begun(trial, parameter, explored))
        return draw.value, dict(draw.attributes)

    def _begun(self, trial: Trial, parameter: Parameter, explored: frozenset[Value]) -> frozenset[Value]:
        """Return the values that a grid leaves to other trials for now; none if no other value is left.

        All trials of a grid go through the values in one order, and each would wait until the one before is built.
        """
        begun = self.configurations.begun_values(trial.number) if self.configurations.for_grid else frozenset()
        if not begun:
            return begun
        domain = listed_domain(parameter)
        assert domain.size is not None
        return begun if sum(map(domain.contains, explored | begun)) < domain.size else frozenset()

    def retry(self) -> Iterator[tuple[int, Question]]:
        """Yield (slot, question) of deferred questions that may be asked again, and forget them."""
        self.may_retry = False
        deferred, self._deferred = self._deferred, []
        for item in deferred:
            slot, question, value = item
            # When many workers start, all but one wait. To draw again for each of them at every build takes long.
            if self.configurations.must_wait(question.trial, value):
                self._deferred.append(item)
            else:
                yield slot, question

    def drop(self, slot: int) -> None:
        """Forget the deferred question of `slot`, whose segment has ended."""
        self._deferred = [item for item in self._deferred if item[0] != slot]


def _change(trial: Trial, parameter: Parameter) -> str | None:
    """Return a line that says that a factory has changed a value that `trial` has already; None if it has not."""
    if parameter.name not in trial.params or not parameter.domain.is_fixed:
        return None
    before, now = trial.params[parameter.name], parameter.domain.values[0]
    return (
        f"hyperparameter {parameter.name!r} has the value {before!r}, and hp.values or hp.merge set it to {now!r} "
        "afterwards: do so before hp asks for it, or give the result another name"
    )
