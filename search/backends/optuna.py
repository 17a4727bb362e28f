"""Any Optuna sampler with any Optuna pruner.

What samplers draw is in `search.backends.samplers`; here is a trial's life. What pruners keep in trial attributes
(successive halving its rungs) travels with the decision, so the journal has it. A failed trial is told as complete with
the worst value there is: infinity ranks last with every sampler. A pruned one is told as pruned.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property

import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.trial import FrozenTrial, TrialState

from search.backends.base import fitting, running_best
from search.backends.samplers import Draws, SamplerMaker, make, parse
from search.space.domain import Parameter, Value
from search.study.records import EpochDone, Judged, ParameterSet, Record, ResultTold, SegmentRequested
from search.study.study import Trial
from search.study.trial import Decision, Done, Draw, Objective, Suggestion, Wait


class _HyperbandPruner(optuna.pruners.HyperbandPruner):
    """Optuna's, which computes the bracket of every trial anew at each decision: here once."""

    @cached_property
    def _known(self) -> dict[int, int]:
        return {}

    def _get_bracket_id(self, study: optuna.study.Study, trial: FrozenTrial) -> int:
        bracket = self._known.get(trial.number)
        if bracket is None:
            bracket = super()._get_bracket_id(study, trial)
            if self._pruners:  # before its first decision it has no brackets
                self._known[trial.number] = bracket
        return bracket


PRUNERS: dict[str, type[BasePruner]] = {
    "asha": optuna.pruners.SuccessiveHalvingPruner,
    "hyperband": _HyperbandPruner,
    "median": optuna.pruners.MedianPruner,
    "none": optuna.pruners.NopPruner,
    "percentile": optuna.pruners.PercentilePruner,
    "threshold": optuna.pruners.ThresholdPruner,
    "wilcoxon": optuna.pruners.WilcoxonPruner,
}


def make_pruner(spec: str, max_epochs: int, factor: int) -> BasePruner:
    """The pruner that `spec` names; Hyperband and successive halving get `max_epochs` and `factor` unless told."""
    name, arguments = parse(spec, PRUNERS, "--pruner")
    if name == "hyperband":
        arguments = {"min_resource": 1, "max_resource": max_epochs, "reduction_factor": factor} | arguments
    elif name == "asha":
        arguments = {"min_resource": 1, "reduction_factor": factor} | arguments
    elif name == "percentile":
        arguments = {"percentile": 25.0} | arguments
    pruner: BasePruner = make("--pruner", spec, PRUNERS[name], arguments)
    return pruner


class Optuna:
    """The `optuna` back end.

    Args:
        objective: what is compared.
        seed: of the study.
        max_epochs: the most epochs that one trial gets.
        factor: the reduction factor of the Hyperband and successive halving pruners.
        sampler, pruner: `name` or `name:key=value,…`, names as in `samplers.SAMPLERS` and `PRUNERS`.
        parameters: those that the probe saw.

    Raises:
        OptionError: the sampler or pruner is not known, or does not take these arguments.
    """

    name = "optuna"

    def __init__(
        self,
        objective: Objective,
        seed: int,
        *,
        max_epochs: int = 27,
        factor: int = 3,
        sampler: str = "tpe",
        pruner: str = "hyperband",
        parameters: Sequence[Parameter] = (),
    ) -> None:
        self._objective = objective
        self._max_epochs = max_epochs
        self._parameters = parameters
        self._pruner = make_pruner(pruner, max_epochs, factor)
        self._draws = Draws(objective, seed, SamplerMaker(sampler, seed, parameters), pruner=self._pruner)
        # Optuna's Hyperband makes its brackets when it is asked first, and takes all trials for one bracket's before.
        self._pruner.prune(self._draws.study, optuna.trial.create_trial(value=0.0))
        self._running: set[int] = set()

    # Questions ------------------------------------------------------------------------------------------------------

    def ask(self, *, new: bool) -> Suggestion | Wait | Done:
        if new:
            return Suggestion(None, 0, self._max_epochs, judged=not isinstance(self._pruner, NopPruner))
        return Wait() if self._running else Done()

    def suggest(self, trial: int, parameter: Parameter, explored: Collection[Value] = ()) -> Draw:
        return self._draws.draw(trial, parameter, explored)

    def judge(self, trial: int, epoch: int) -> Decision:
        with self._draws.noting(trial) as noted:
            stop = self._pruner.prune(self._draws.study, self._draws.frozen(trial))
        return Decision(bool(stop), noted["trial"])

    # Facts ----------------------------------------------------------------------------------------------------------

    def apply(self, record: Record) -> Sequence[int]:
        if isinstance(record, SegmentRequested):
            self._draws.begin(record.trial)
            self._running.add(record.trial)
            return ()
        trial = getattr(record, "trial", None)
        if trial not in self._running:
            return ()
        match record:
            case ParameterSet():
                self._draws.valued(record)
            case EpochDone(execution=0):  # pruners judge the first
                self._epoch(record)
            case Judged():
                self._draws.set_attributes(trial, record.attributes)
            case ResultTold():
                self._told(record)
                return (trial,)
        return ()

    def _epoch(self, record: EpochDone) -> None:
        value = record.logs.get(self._objective.name)
        if value is not None:
            self._draws.storage.note_epoch(self._draws.number(record.trial), record.epoch, value)

    def _told(self, record: ResultTold) -> None:
        state = TrialState.PRUNED if record.outcome == "stopped" else TrialState.COMPLETE
        score = self._objective.worst if record.score is None else record.score
        self._draws.storage.set_trial_state_values(self._draws.number(record.trial), state, [score])
        self._running.discard(record.trial)
        if record.outcome != "failed":
            self._draws.succeeded(record.trial)

    def learn(self, trials: Sequence[Trial]) -> None:
        """A trial that was trained for `max_epochs`, or ended by a callback of its own, is told as complete with its
        best value up to there; one that was trained for less as pruned there, with its curve; a failed one as worst."""
        for trial in trials:
            values = fitting(trial, self._parameters)
            if values is None:
                continue
            best = [self._objective.worst] if trial.failed else running_best(trial, self._objective)
            complete = trial.failed or trial.exhausted or trial.epochs >= self._max_epochs
            known = [epoch.logs.get(self._objective.name) for epoch in trial.curve[: self._max_epochs]]
            self._draws.add(
                values,
                state=TrialState.COMPLETE if complete else TrialState.PRUNED,
                value=best[: self._max_epochs][-1],
                intermediate_values={epoch: value for epoch, value in enumerate(known, 1) if value is not None},
            )
