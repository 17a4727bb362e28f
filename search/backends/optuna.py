"""Any Optuna sampler (Akiba et al. 2019, "Optuna: A Next-generation Hyperparameter Optimization Framework", KDD) with
any Optuna pruner.

`search.backends.lazy_sampler` draws values; this module leads a trial through its life. What a pruner keeps in trial
attributes (successive halving: its rungs) travels with the decision, and so through the journal. A failed trial is told
to Optuna as complete with the worst value there is: infinity ranks last with every sampler. A trial that the pruner
stopped is told as pruned.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.trial import TrialState

from search.backends.base import running_best, values_in_space
from search.backends.lazy_sampler import LazySampler
from search.backends.optuna_internals import hyperband_pruner
from search.backends.samplers import SamplerFactory, instantiate, parse_spec
from search.space.domain import Parameter, Value
from search.study.records import EpochDone, Judged, ParameterSet, Record, ResultTold, SegmentRequested
from search.study.trial import Decision, Done, Draw, Objective, Suggestion, Wait
from search.study.trials import Trial

PRUNERS: dict[str, Callable[..., BasePruner]] = {
    "asha": optuna.pruners.SuccessiveHalvingPruner,
    "hyperband": hyperband_pruner,
    "median": optuna.pruners.MedianPruner,
    "none": optuna.pruners.NopPruner,
    "percentile": optuna.pruners.PercentilePruner,
    "threshold": optuna.pruners.ThresholdPruner,
    "wilcoxon": optuna.pruners.WilcoxonPruner,
}
"""The pruners by name.

"asha": Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning", MLSys, algorithm 2. "hyperband": Li et
al. 2018, JMLR 18, algorithm 1. "median": the median stopping rule of Golovin et al. 2017, "Google Vizier", KDD."""


def make_pruner(spec: str, max_epochs: int, factor: int) -> BasePruner:
    """Return the pruner that `spec` names.

    Args:
        spec: `name` or `name:key=value,…`, names as in `PRUNERS`.
        max_epochs: Hyperband's `max_resource`, unless `spec` gives one.
        factor: the `reduction_factor` of Hyperband and successive halving, unless `spec` gives one.

    Raises:
        OptionError: the pruner is not known, or does not take these arguments.
    """
    name, arguments = parse_spec(spec, PRUNERS, "--pruner")
    if name == "hyperband":
        arguments = {"min_resource": 1, "max_resource": max_epochs, "reduction_factor": factor} | arguments
    elif name == "asha":
        arguments = {"min_resource": 1, "reduction_factor": factor} | arguments
    elif name == "percentile":
        arguments = {"percentile": 25.0} | arguments
    pruner: BasePruner = instantiate("--pruner", spec, PRUNERS[name], arguments)
    return pruner


class Optuna:
    """The `optuna` back end.

    Args:
        objective: the metric to compare.
        seed: of the study.
        max_epochs: the most epochs that one trial gets.
        factor: the reduction factor of the Hyperband and successive halving pruners.
        sampler, pruner: `name` or `name:key=value,…`, names as in `samplers.SAMPLERS` and `PRUNERS`.
        parameters: those that the probe saw.

    Attributes:
        sampler: draws the values, and keeps the trials as Optuna knows them.
        pruner: judges the trials.

    Raises:
        OptionError: the sampler or pruner is not known, or does not take these arguments.
    """

    protocol = 1

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
        self.pruner = make_pruner(pruner, max_epochs, factor)
        self.sampler = LazySampler(objective, seed, SamplerFactory(sampler, seed, parameters), pruner=self.pruner)
        self._objective = objective
        self._max_epochs = max_epochs
        self._parameters = parameters
        # Optuna's Hyperband makes its brackets at its first decision, and puts all trials into one bracket before it.
        self.pruner.prune(self.sampler.study, optuna.trial.create_trial(value=0.0))
        self._running: set[int] = set()

    # Queries --------------------------------------------------------------------------------------------------------

    def ask(self, *, new: bool, child: bool) -> Suggestion | Wait | Done:
        """Return a new trial, to be trained for `max_epochs` unless the pruner stops it."""
        if new:
            return Suggestion(None, 0, self._max_epochs, judged=not isinstance(self.pruner, NopPruner))
        return Wait() if self._running else Done()

    def suggest(self, trial: int, parameter: Parameter, explored: Collection[Value] = ()) -> Draw:
        """Return a value from the sampler."""
        return self.sampler.draw(trial, parameter, explored)

    def judge(self, trial: int, epoch: int) -> Decision:
        """Return the pruner's decision, with the trial attributes that it would have written."""
        with self.sampler.captured_attributes(trial) as captured:
            stop = self.pruner.prune(self.sampler.study, self.sampler.frozen_trial(trial))
        return Decision(bool(stop), captured["trial"])

    # Facts ----------------------------------------------------------------------------------------------------------

    def apply(self, record: Record) -> Sequence[int]:
        """Tell Optuna of values, epochs, decisions and results."""
        if isinstance(record, SegmentRequested):
            self.sampler.begin_trial(record.trial)
            self._running.add(record.trial)
            return ()
        trial = getattr(record, "trial", None)
        if trial not in self._running:
            return ()
        match record:
            case ParameterSet():
                self.sampler.set_value(record)
            case EpochDone(execution=0):  # pruners judge the first execution
                self._note_epoch(record)
            case Judged():
                self.sampler.set_attributes(trial, record.attributes)
            case ResultTold():
                self._note_result(record)
                return (trial,)
        return ()

    def _note_epoch(self, record: EpochDone) -> None:
        value = record.logs.get(self._objective.name)
        if value is not None:
            self.sampler.storage.note_epoch(self.sampler.storage_number(record.trial), record.epoch, value)

    def _note_result(self, record: ResultTold) -> None:
        state = TrialState.PRUNED if record.outcome == "stopped" else TrialState.COMPLETE
        score = self._objective.worst if record.score is None else record.score
        self.sampler.storage.set_trial_state_values(self.sampler.storage_number(record.trial), state, [score])
        self._running.discard(record.trial)
        if record.score is not None:
            self.sampler.note_success(record.trial)

    def learn(self, trials: Sequence[Trial]) -> None:
        """Import trials as Optuna would have seen them here.

        A trial that was trained for `max_epochs`, or ended by a callback of its own, is complete with its best value up
        to there. A trial that was trained for less is pruned there, with its curve. A failed one is complete with the
        worst value. A trial that continued another one has the values of its own epochs.
        """
        for trial in trials:
            values = values_in_space(trial, self._parameters)
            if values is None:
                continue
            best = [self._objective.worst] if trial.worthless else running_best(trial, self._objective)
            complete = trial.worthless or trial.exhausted or trial.epochs >= self._max_epochs
            score = best[: self._max_epochs][-1]
            if score is None:
                continue  # it continued another trial, after more than `max_epochs`
            known = {epoch.epoch: epoch.logs.get(self._objective.name) for epoch in trial.curve}
            self.sampler.import_trial(
                values,
                state=TrialState.COMPLETE if complete else TrialState.PRUNED,
                value=score,
                intermediate_values={
                    epoch: value for epoch, value in known.items() if value is not None and epoch <= self._max_epochs
                },
            )
