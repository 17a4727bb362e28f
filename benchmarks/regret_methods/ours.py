"""Back ends by the registry's names, run by the real controller and the real driver with simulated workers."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from regret_problems.problem import Config, Problem
from regret_problems.space import Choices, ask_for, walk_active

from regret_methods.peer import Observation
from search.backends.base import BackEnd
from search.backends.registry import facts_of, make_backend
from search.executors.simulated import recorded
from search.plugins.loading import BACKEND_OPTIONS, BACKENDS
from search.plugins.spec import parse_arguments
from search.scheduler.limits import Limits
from search.space.domain import Parameter, Value
from search.study.records import EpochDone, Record, SegmentRequested
from search.study.study import Study
from search.study.trial import Decision, Done, Draw, Objective, Suggestion, Wait, derive_seed
from search.study.trials import Trial
from search.testing import Simulation

T = TypeVar("T")

GIVEN = ("parameters", "pool", "max_epochs")
"""The arguments of a back end that the benchmark gives."""

UNLIMITED = 10**6


def check(name: str, text: str) -> None:
    """Raise OptionError if the back end or one of its arguments cannot be used."""
    options = _options(name, text, 27)
    make_backend(name, options, Objective("val_loss", "min"), 0)


def _options(name: str, text: str, max_epochs: int) -> dict[str, Any]:
    """Return the options of a back end: those in `text`, and otherwise the defaults of a search."""
    cls = BACKENDS.find(name)
    taken = BACKENDS.keywords_of(cls)
    positional = BACKENDS.positional
    known = list(inspect.signature(getattr(cls, "from_setup", cls)).parameters)[positional:]
    given = parse_arguments(text, [each for each in known if each not in GIVEN], "--methods", name)
    # The plan is repeated until the budget is spent.
    defaults = {"max_epochs": max_epochs, "factor": 3, "iterations": UNLIMITED}
    return {option: defaults[option] for option in BACKEND_OPTIONS if option in taken and option in defaults} | given


def run_backend(name: str, text: str, problem: Problem, seed: int, workers: int, horizon: int) -> list[Observation]:
    """Return what a search with a back end observed until `horizon`."""
    scenario = recorded(
        lambda hp: ask_for(problem.parameters, hp),
        lambda config: problem.curve(config, seed).observed,
        metric=problem.objective.name,
        finishes=lambda run: _early_end(problem, run, seed),
    )
    search = _Search(
        scenario,
        lambda study: AskedOnce(_make(name, text, problem, study)),
        objective=problem.objective,
        seed=seed,
        slots=workers,
        max_epochs=problem.max_epochs,
        limits=Limits(max_consecutive_failures=UNLIMITED),
        order=seed,
        checkpoint_every=float("inf"),
        backend=name,
    )
    began = search.executor.now()

    def stop_at_horizon() -> None:
        spent = search.study.epochs if workers == 1 else search.executor.now() - began
        if spent > horizon:
            search.kill()

    search.run(before_message=stop_at_horizon)
    seen = _observations(search, problem.objective.name, began)
    if workers == 1:
        # Its time is its epochs: a worker may also wait for a computation of the back end.
        seen = [each._replace(time=count) for count, each in enumerate(seen, 1)]
    return [each for each in seen if each.time <= horizon]


class _Search(Simulation):
    """A simulation without the checks of its laws, which look at all trials after each message."""

    def check(self, records: Sequence[Record]) -> None:
        """Check nothing."""


def _early_end(problem: Problem, config: Config, seed: int) -> int | None:
    """Return the epoch after which a callback ended the recorded training; None if it had all epochs."""
    epochs = len(problem.curve(dict(config), seed).observed)
    return epochs if epochs < problem.max_epochs else None


def _observations(search: Simulation, metric: str, began: float) -> list[Observation]:
    found = []
    for entry in search.entries:
        if isinstance(entry.record, EpochDone):
            record, config = entry.record, search.study.trials[entry.record.trial].params
            found.append(Observation(round(entry.time - began, 6), config, record.epoch, record.logs[metric]))
    return found


def _make(name: str, text: str, problem: Problem, study: Study) -> BackEnd:
    """Return the back end of a search. Of a pool, it chooses among the configurations left."""
    options = _options(name, text, problem.max_epochs)
    cls = BACKENDS.find(name)
    chooses = "pool" in inspect.signature(getattr(cls, "from_setup", cls)).parameters
    if chooses:
        options["pool"] = problem.configs
    made = make_backend(name, options, study.objective, study.seed, study.parameters)
    if problem.configs is None or chooses:
        return made
    at_random = options.get("sampler", facts_of(name).sampler) == "random"
    return PoolBackEnd(made, problem, study.seed, at_random=at_random)


# Wrappers of back ends ------------------------------------------------------------------------------------------------


class AskedOnce:
    """A back end whose answers are kept until its next record: a simulation asks each query twice, as a check."""

    protocol = 1

    def __init__(self, inner: BackEnd) -> None:
        self._inner = inner
        self._answers: dict[tuple[object, ...], Any] = {}

    def _once(self, question: tuple[object, ...], answer: Callable[[], T]) -> T:
        if question not in self._answers:
            self._answers[question] = answer()
        known: T = self._answers[question]
        return known

    def ask(self, *, new: bool, child: bool) -> Suggestion | Wait | Done:
        return self._once(("ask", new, child), lambda: self._inner.ask(new=new, child=child))

    def suggest(self, trial: int, parameter: Parameter, explored: Collection[Value] = ()) -> Draw:
        question = "suggest", trial, parameter, frozenset(explored)
        return self._once(question, lambda: self._inner.suggest(trial, parameter, explored))

    def judge(self, trial: int, epoch: int) -> Decision:
        return self._once(("judge", trial, epoch), lambda: self._inner.judge(trial, epoch))

    def apply(self, record: Record) -> Sequence[int]:
        self._answers.clear()
        return self._inner.apply(record)

    def learn(self, trials: Sequence[Trial]) -> None:
        self._answers.clear()
        self._inner.learn(trials)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class PoolBackEnd:
    """A back end whose new trials get configurations of a pool.

    At a trial's first question the back end draws a whole configuration, and the nearest one left is taken: the
    questions are answered from it, and the back end learns these values. If it draws at random, any one left is taken.

    Args:
        inner: the back end.
        problem: with a pool.
        seed: of the study.
        at_random: whether new configurations are random.
    """

    protocol = 1

    def __init__(self, inner: BackEnd, problem: Problem, seed: int, *, at_random: bool) -> None:
        assert problem.configs is not None
        self._inner, self._problem, self._seed, self._at_random = inner, problem, seed, at_random
        self._choices = Choices(problem)
        self._room = len(problem.configs)
        self._begun: set[int] = set()
        self._chosen: dict[int, Config] = {}
        self._draws: dict[tuple[int, str], Draw] = {}

    def ask(self, *, new: bool, child: bool) -> Suggestion | Wait | Done:
        # A child would have values that no trial of the pool has.
        return self._inner.ask(new=new and len(self._begun) < self._room, child=False)

    def suggest(self, trial: int, parameter: Parameter, explored: Collection[Value] = ()) -> Draw:
        if trial not in self._chosen:
            self._chosen[trial] = self._choose(trial)
        key = trial, parameter.name
        if key not in self._draws:
            self._draws[key] = self._inner.suggest(trial, parameter)
        return Draw(self._chosen[trial][parameter.name], self._draws[key].attributes)

    def judge(self, trial: int, epoch: int) -> Decision:
        return self._inner.judge(trial, epoch)

    def apply(self, record: Record) -> Sequence[int]:
        if isinstance(record, SegmentRequested):
            self._begun.add(record.trial)
        return self._inner.apply(record)

    def learn(self, trials: Sequence[Trial]) -> None:
        self._inner.learn(trials)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _choose(self, trial: int) -> Config:
        if self._at_random:
            return self._choices.draw(random.Random(derive_seed(self._seed, "pool", trial)))
        return self._choices.nearest(self.draw_whole(trial))

    def draw_whole(self, trial: int) -> Mapping[str, Value]:
        """Return a whole configuration, as the back end draws it: its draws do not depend on one another's records."""
        drawn: dict[str, Value] = {}
        for parameter in walk_active(self._problem.parameters, drawn):
            if parameter.domain.size == 1:
                drawn[parameter.name] = parameter.domain.value(0)
                continue
            # A define-by-run factory asks for it without conditions.
            asked = Parameter(parameter.name, parameter.domain, parameter.default)
            draw = self._draws[trial, parameter.name] = self._inner.suggest(trial, asked)
            drawn[parameter.name] = draw.value
        return drawn
