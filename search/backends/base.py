"""The protocol between a search and its back end, and functions that back ends share."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from search.space.domain import Domain, Parameter, Value
from search.study.records import Record
from search.study.trial import Computation, Decision, Done, Draw, Objective, Suggestion, Wait, derive_seed
from search.study.trials import Trial

LEARNING_SAMPLERS = ("tpe", "gp", "cmaes")
"""The samplers that learn from trials that they did not draw."""

DRAW_ATTEMPTS = 16
"""Draws that a sampler gets for a new value, before one of the values left is drawn at random."""


class BackEnd(Protocol):
    """The part of a search that chooses the trials, and the epochs to train them for.

    A back end is pure: it has no clock, no files, no processes and no random state. The controller asks it three
    *queries*, `ask`, `suggest` and `judge`. A query changes nothing that a later query or `apply` depends on: asked
    twice, it gives the same answer. All state is the fold of the records given to `apply`. So a resume rebuilds the
    state from the journal, by the same `apply` calls without the queries. Randomness comes from `derive_seed`, with
    the study's seed and the trial's number as labels.

    A *phase* is the time in which one back end, with the same options and parameters, is in charge of a study. A back
    end sees the records of its own phase. Trials of earlier phases, and trials imported from other studies, come
    through `learn`.

    A new trial may continue another one with other hyperparameters: `Suggestion(None, 4, 8, parent=3,
    values={"rate": 0.01})` begins with the weights and the optimizer's state that trial 3 has after epoch 4, its last.
    Its other values are the parent's. It asks `suggest` only for parameters that the parent lacks, and for a value that
    a parameter's range no longer has. Its curve begins at epoch 5, its score is the best of its own epochs, and it may
    have an explored configuration. A parent is a trial of this phase whose last suggestion was fulfilled, and which
    this back end has not given up; a callback of the user's may have ended it. It may be continued, be a parent again,
    or be given up at once, all without an effect on the child.

    A back end whose decisions need a long computation, as the fit of a model, has a fourth query: see
    `ComputingBackEnd`. One that pauses many trials, and needs few of them again, ranks them, so that `--disk` bounds
    their checkpoints: see `RankingBackEnd`.

    `search.testing.BackEndContract` tests all of this. Subclass it, and return your back end from its `make`.

    A back end of another package is a class whose constructor takes the objective and the study's seed. Of the options
    `max_epochs`, `factor`, `iterations`, `sampler` and `pruner` it gets those that are names of its arguments, and
    `parameters`, those that the probe saw. Its other arguments are its own: `--backend name:key=value,…`. A back end
    that ends by itself has `has_end = True`; any other ends, if the user gives no limit, after the epochs of
    Hyperband's plan.

    The example trains every trial for nine epochs. These are the calls for its first trial, whose model has one
    parameter, `units`, in order::

        ask(new=True, child=True)                                # Suggestion(None, 0, 9): a new trial
        apply(SegmentRequested(trial=0, to_epoch=9, ...))        # the controller has numbered it
        apply(SegmentStarted(trial=0, slot=2, ...))
        suggest(0, units)                                        # Draw(48): the model factory asks for `units`
        apply(ParameterSet(trial=0, parameter=units, value=48))
        apply(Built(trial=0, ...))
        apply(EpochDone(trial=0, epoch=1, logs={"val_loss": 0.71}, ...))
        judge(0, 1)                                              # only if the suggestion says `judged=True`
        ...                                                      # epochs 2 to 9, and checkpoints
        apply(SegmentEnded(trial=0, outcome="reached", ...))
        apply(ResultTold(trial=0, epoch=9, score=0.42, outcome="reached"))  # returns [0]: no more epochs for it
        apply(TrialEnded(trial=0, state="completed"))

    With several workers, the calls for several trials interleave.

    Attributes:
        protocol: the version of this protocol that the class was written for; 1 today.

    Example:
        Random search, which trains every trial for nine epochs::

            from collections.abc import Collection, Sequence

            from search.plugins import (
                Decision, Done, Draw, Objective, Parameter, Suggestion, Trial, Value, Wait, draw_uniformly, records
            )

            class RandomSearch:
                protocol = 1

                def __init__(self, objective: Objective, seed: int) -> None:
                    self._seed = seed
                    self._open: set[int] = set()

                def ask(self, *, new: bool, child: bool) -> Suggestion | Wait | Done:
                    if new:
                        return Suggestion(trial=None, from_epoch=0, to_epoch=9)
                    return Wait() if self._open else Done()

                def suggest(self, trial: int, parameter: Parameter, explored: Collection[Value] = ()) -> Draw:
                    return draw_uniformly(self._seed, trial, parameter, explored)

                def judge(self, trial: int, epoch: int) -> Decision:
                    return Decision()

                def apply(self, record: records.Record) -> Sequence[int]:
                    match record:
                        case records.SegmentRequested():
                            self._open.add(record.trial)
                        case records.ResultTold() if record.trial in self._open:
                            self._open.discard(record.trial)
                            return [record.trial]
                    return []

                def learn(self, trials: Sequence[Trial]) -> None:
                    pass

            RandomSearch(Objective("val_loss", "min"), seed=0).ask(new=True, child=True)
    """

    protocol: int

    def ask(self, *, new: bool, child: bool) -> Suggestion | Wait | Done:
        """Return the next training, or why there is none.

        The controller asks whenever a slot is free. It numbers a new trial, and journals the suggestion as
        `SegmentRequested`.

        Args:
            new: whether a new trial may be suggested. False if the budget of trials is spent or every configuration
                of the space was tried.
            child: whether a new trial with a parent may be suggested. False if the budget of trials is spent. Back
                ends that name no parents need not look at it.

        Returns:
            A `Suggestion` to train a new trial (`trial=None`, from epoch 0), or to train further a trial whose last
            suggestion was fulfilled. Its `attributes`, a JSON object, come back in the `SegmentRequested` record: a
            back end that decides a new trial's whole configuration here answers `suggest` from them. `Wait` if the
            next suggestion depends on trials that are being trained. `Done` if there is nothing left to train: trials
            that this back end has not given up end then. A wrong suggestion ends the search with exit code 2.
        """

    def suggest(self, trial: int, parameter: Parameter, explored: Collection[Value] = ()) -> Draw:
        """Return a value of `parameter` for `trial`, at the moment the model factory asks for it.

        Args:
            trial: its number.
            parameter: name, domain, default and conditions. The domain has two values or more.
            explored: values below which every configuration was tried; none of them may be returned. They never
                cover the whole domain.

        Returns:
            The value, of the domain's own type. Its `attributes`, a JSON object, come back in the `ParameterSet`
            record: through them a back end remembers its choices in this query.
        """

    def judge(self, trial: int, epoch: int) -> Decision:
        """Return whether `trial` stops after `epoch` (1-based).

        The controller asks after the epoch's `EpochDone` was applied, only if the suggestion said `judged=True`, and
        not at the suggestion's last epoch. The worker waits for the answer. A decision that stops the trial, or has
        attributes, comes back as a `Judged` record.
        """

    def apply(self, record: Record) -> Sequence[int]:
        """Take in a journal record. Ignore records of trials that this back end did not ask for.

        Args:
            record: one of `search.plugins.records`.

        Returns:
            The trials for which this back end will never suggest training again, as of this record. Each is named
            once. A trial whose `ResultTold` says `failed` or `infeasible` is among them at once.
        """

    def learn(self, trials: Sequence[Trial]) -> None:
        """Take in trials of earlier phases and trials imported from other studies.

        Called when a phase begins, before any query, and again for each trial imported later. Also called with a trial
        of this phase that the user added when this back end began no more, once that has ended: no record of it came
        to `apply`. None of these trials may be suggested. An imported trial has its number from the other study, so two
        trials may have the same number. `values_in_space` gives a trial's values in the present space.

        Args:
            trials: each as it is now; only to be read.
        """


class ComputingBackEnd(BackEnd, Protocol):
    """A back end with long computations, which are made beside the search: no worker's message waits for one.

    The driver makes one at a time, in a thread of its own. Its result comes back as a `Computed` record. Until then the
    back end may go on with what it knows, or answer `ask` with `Wait`, also if no trial runs.

    A process may be killed during a computation. The next process finds the state that the records give, and makes the
    computation again. So its inputs belong to the record that made it due, and later records do not change them.

    Attributes:
        protocol: as of `BackEnd`.

    Example:
        A part of a back end that has a model fitted after each tenth result. It keeps the scores of the records::

            from search.plugins import Computation, records

            class Fitting:
                def __init__(self):
                    self._scores = []
                    self._model = {}
                    self._done = 0

                def apply(self, record):
                    match record:
                        case records.ResultTold(score=float()):
                            self._scores.append(record.score)
                        case records.Computed():
                            self._model, self._done = record.result, record.number
                    return []

                def computation(self):
                    due = len(self._scores) // 10
                    scores = tuple(self._scores[: 10 * due])     # later results do not change it
                    if due <= self._done:
                        return None
                    return Computation(self._done + 1, lambda: {"mean": sum(scores) / len(scores)})
    """

    def computation(self) -> Computation | None:
        """Return the computation to be made now; None if there is none. A query like the others.

        It is asked after each event of the search while no computation is under way, so it must be cheap. It returns
        the same one, with the same number, until the `Computed` record with this number was applied. If the
        computation failed, that record has an `error`, and the result {}. The next one has the next number.
        """


class RankingBackEnd(BackEnd, Protocol):
    """A back end that ranks its paused trials. It names no parents, and can do without any trial for a while.

    If the checkpoints of paused trials take more room than `--disk`, the search drops those of the trials that are the
    least likely to go on. The back end sees a `CheckpointDropped` record for each. It may suggest such a trial all the
    same: then the trial is trained again from its first epoch, with the same curve, and only its further epochs count.

    Attributes:
        protocol: as of `BackEnd`.

    Example:
        A part of a back end that minimises, and gives up the worst trials first::

            from search.plugins import records

            class Ranking:
                def __init__(self):
                    self._scores = {}

                def apply(self, record):
                    if isinstance(record, records.ResultTold):
                        self._scores[record.trial] = record.score
                    return []

                def expendable(self, trials):
                    return sorted(trials, key=lambda trial: (-self._scores[trial], trial))
    """

    def expendable(self, trials: Collection[int]) -> Sequence[int]:
        """Return `trials` in another order: the one that is the least likely to be trained further first.

        A query like the others. The order of two trials must not depend on the other ones in `trials`.

        Args:
            trials: the numbers of paused trials of this phase that have checkpoints, and were not given up.
        """


def draw_unexplored(
    draw: Callable[[int], Value], domain: Domain, explored: Collection[Value], rng: Callable[[], random.Random]
) -> Value:
    """Return the first of `draw(0)`, `draw(1)`, … that is not in `explored`.

    After `DRAW_ATTEMPTS` (16) draws, return one of the values left, drawn with `rng()`.

    Args:
        draw: a value of the domain by the number of the attempt, from 0.
        domain: the values that may be drawn.
        explored: values of a finite domain, and not all of them.
        rng: makes the generator that draws one of the values left.

    Example:
        ::

            >>> import random
            >>> from search.plugins import Domain, draw_unexplored
            >>> domain = Domain("int", 0, 2)
            >>> draw_unexplored(lambda n: 0, domain, {0, 1}, lambda: random.Random(7))
            2
    """
    if not explored:
        return draw(0)
    for attempt in range(DRAW_ATTEMPTS):
        value = draw(attempt)
        if value not in explored:
            return value
    size = domain.size
    assert size is not None, "only a finite domain can be exhausted"
    return rng().choice([value for value in map(domain.value, range(size)) if value not in explored])


def draw_uniformly(seed: int, trial: int, parameter: Parameter, explored: Collection[Value] = ()) -> Draw:
    """Return a value at random, uniform on the domain's scale; a function of (study seed, trial, parameter).

    Args:
        seed: the study's seed.
        trial: the trial's number.
        parameter: the hyperparameter to draw.
        explored: values that may not be drawn; none by default.

    Example:
        ::

            >>> from search.plugins import Domain, Parameter, draw_uniformly
            >>> rate = Parameter("rate", Domain("float", 1e-4, 1e-1, sampling="log"))
            >>> draw_uniformly(0, 3, rate) == draw_uniformly(0, 3, rate)
            True
    """

    def rng(attempt: int) -> random.Random:
        return random.Random(derive_seed(seed, "draw", trial, parameter.key, attempt))

    domain = parameter.domain
    return Draw(draw_unexplored(lambda n: domain.at(rng(n).random()), domain, explored, lambda: rng(-1)))


def sampler_learns(spec: str) -> bool:
    """Return whether the sampler `spec` (`name` or `name:key=value,…`) learns from trials that it did not draw."""
    return spec.partition(":")[0] in LEARNING_SAMPLERS


def values_in_space(trial: Trial, parameters: Sequence[Parameter]) -> list[tuple[Parameter, Value]] | None:
    """Return a trial's values in the present space, for a back end that learns from it.

    Args:
        trial: of an earlier phase or another study.
        parameters: those that the probe of the present space saw.

    Returns:
        The values of parameters with more than one value, each with the parameter as it is now. A parameter that the
        probe did not see may be asked for under conditions, and stays as it was. A trial may lack parameters that are
        new: not every sampler can use such a trial.

        None if there is nothing to learn: the trial has no score, and neither failed nor is infeasible; none of its
        parameters is in the space; or one of its values has left the space. Such a trial's result says nothing of the
        values that remain.

    Example:
        ::

            >>> from search.plugins import Domain, Parameter, Trial, values_in_space
            >>> units = Parameter("units", Domain("int", 8, 64))
            >>> trial = Trial(0, seed=1, phase=0)
            >>> trial.values.used["units"], trial.best.objective = 48, 0.2
            >>> trial.values.parameters.append(units)
            >>> [(parameter.name, value) for parameter, value in values_in_space(trial, [units])]
            [('units', 48)]
            >>> values_in_space(trial, [Parameter("units", Domain("int", 8, 32))]) is None
            True
    """
    if trial.objective is None and not trial.worthless:
        return None
    now = {parameter.key: parameter for parameter in parameters}
    found = []
    for before in trial.parameters:
        parameter, value = now.get(before.key, before), trial.params[before.name]
        if not parameter.domain.contains(value):
            return None
        if parameter.domain.size != 1:
            found.append((parameter, value))
    known = not parameters or any(parameter.key in now for parameter, _ in found)
    return found if found and known else None


def running_best(trial: Trial, objective: Objective) -> list[float | None]:
    """Return the best value of `trial` so far after each epoch from the first; None before its first finite value.

    A trial that continued another one has no value at its parent's epochs: it says nothing of its values after these.

    Args:
        trial: the trial, whose first execution counts.
        objective: the metric, and its better direction.

    Example:
        ::

            >>> from search.plugins import Objective, Trial, records, running_best
            >>> trial = Trial(0, seed=1, phase=0)
            >>> for epoch, loss in enumerate([0.7, float("nan"), 0.5, 0.6], 1):
            ...     trial.curve.append(records.EpochDone(0, 0, epoch, {"val_loss": loss}, seconds=1.0))
            >>> running_best(trial, Objective("val_loss", "min"))
            [0.7, 0.7, 0.5, 0.5]
    """
    best: float | None = None
    found: list[float | None] = []
    for epoch in trial.curve:
        found += [best] * (epoch.epoch - len(found) - 1)  # one record may stand for several epochs
        value = epoch.logs.get(objective.name)
        if value is not None and math.isfinite(value) and objective.better(value, best):
            best = value
        found.append(best)
    return found
