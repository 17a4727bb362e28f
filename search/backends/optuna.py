"""Any Optuna sampler with any Optuna pruner, asked lazily, exactly resumable.

The sampler is asked for one parameter at a time, at the moment the factory wants it (define-by-run), through its public
interface: `sample_relative` at a trial's first question, `sample_independent` for what that did not cover. A new
sampler is made for every question, seeded from (study seed, trial, parameter): nothing depends on a random state. What
samplers and pruners keep in trial or study attributes (CMA-ES its optimizer, QMC its position, successive halving its
rungs, and the joint draw itself) travels with the draw or the decision, so the journal has it.

A failed trial is told as complete with the worst value there is: infinity ranks last with every sampler. A pruned one
is told as pruned. Values an Optuna distribution cannot express (ratios as steps, reversed logarithms) are drawn as an
index or as a cumulative probability.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import math
import random
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, NopPruner, _filter_study
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from search.backends.base import ATTEMPTS, draw_untaken
from search.domain import Domain, Parameter, Value
from search.errors import OptionError, nearest
from search.records import Asked, EpochDone, Judged, Record, Told, Valued
from search.study import Trial
from search.trial import Decision, Done, Draw, Objective, Suggestion, Wait, derive_seed

optuna.logging.set_verbosity(optuna.logging.ERROR)

SAMPLERS: dict[str, type[BaseSampler]] = {
    "bruteforce": optuna.samplers.BruteForceSampler,
    "cmaes": optuna.samplers.CmaEsSampler,
    "gp": optuna.samplers.GPSampler,
    "grid": optuna.samplers.GridSampler,
    "nsgaii": optuna.samplers.NSGAIISampler,
    "nsgaiii": optuna.samplers.NSGAIIISampler,
    "qmc": optuna.samplers.QMCSampler,
    "random": optuna.samplers.RandomSampler,
    "tpe": optuna.samplers.TPESampler,
}
PRUNERS: dict[str, type[BasePruner]] = {
    "asha": optuna.pruners.SuccessiveHalvingPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
    "median": optuna.pruners.MedianPruner,
    "none": optuna.pruners.NopPruner,
    "percentile": optuna.pruners.PercentilePruner,
    "threshold": optuna.pruners.ThresholdPruner,
    "wilcoxon": optuna.pruners.WilcoxonPruner,
}
LARGEST_GRID = 100_000
_NEEDS = {"gp": ("torch", "scipy"), "qmc": ("scipy",)}


# Options --------------------------------------------------------------------------------------------------------------


def parse(spec: str, known: Mapping[str, type[Any]], option: str) -> tuple[str, dict[str, Any]]:
    """`name:key=value,…` as a name among `known` and its arguments. OptionError where it is not that."""
    name, _, text = spec.partition(":")
    if name not in known:
        raise OptionError(f"{option} {name!r} is not known: use one of {', '.join(known)}.{nearest(name, known)}")
    arguments: dict[str, Any] = {}
    allowed = [key for key in inspect.signature(known[name]).parameters if key not in ("seed", "search_space")]
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if not equals or key not in allowed:
            raise OptionError(
                f"{option} {name!r} takes no argument {key!r}: write {name}:key=value,… with keys among "
                f"{', '.join(allowed) or 'none'}.{nearest(key, allowed)}"
            )
        try:
            arguments[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[key] = value
    return name, arguments


def _make(option: str, spec: str, cls: type[Any], arguments: Mapping[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return cls(**arguments)
        except (TypeError, ValueError, AssertionError) as error:
            raise OptionError(f"{option} {spec!r} cannot be used: {error}") from None


class SamplerMaker:
    """Makes the sampler that `spec` names, as often as wanted, each with its own seed."""

    def __init__(self, spec: str, seed: int, parameters: Sequence[Parameter] = ()) -> None:
        self.spec = spec
        self.name, self._arguments = parse(spec, SAMPLERS, "--sampler")
        self._seed = seed
        missing = [package for package in _NEEDS.get(self.name, ()) if importlib.util.find_spec(package) is None]
        if missing:
            raise OptionError(
                f"--sampler {self.name} needs {' and '.join(missing)}: pip install 'keras-search[gp]', or use another"
            )
        if self.name == "grid":
            self._arguments["search_space"] = _grid(parameters)
        self(0)

    def __call__(self, seed: int) -> BaseSampler:
        arguments = dict(self._arguments)
        cls = SAMPLERS[self.name]
        if self.name in ("grid", "qmc"):
            # The sequence is the study's; only what falls outside it is drawn by a seed of its own.
            cls = _Grid if self.name == "grid" else cls
            arguments |= {"seed": self._seed, "independent_sampler": optuna.samplers.RandomSampler(seed=seed)}
        else:
            arguments["seed"] = seed
        sampler: BaseSampler = _make("--sampler", self.spec, cls, arguments)
        return sampler


class _Grid(optuna.samplers.GridSampler):
    """Optuna's, which leaves to another sampler what is not in the grid: what the probe was not asked for."""

    def __init__(self, search_space: Mapping[str, list[Any]], seed: int, independent_sampler: BaseSampler) -> None:
        super().__init__(search_space, seed)
        self._names = frozenset(search_space)
        self._independent_sampler = independent_sampler

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if param_name in self._names:
            return super().sample_independent(study, trial, param_name, param_distribution)
        return self._independent_sampler.sample_independent(study, trial, param_name, param_distribution)


def _grid(parameters: Sequence[Parameter]) -> dict[str, list[Any]]:
    space = {}
    for parameter in parameters:
        size = parameter.domain.size
        if size is None:
            raise OptionError(
                f"--sampler grid cannot list the values of {parameter}: give it a step, or use another sampler"
            )
        if size > 1:
            axis = Axis(parameter)
            space[axis.name] = [axis.encode(parameter.domain.value(index)) for index in range(size)]
    cells = math.prod(map(len, space.values()))
    if cells > LARGEST_GRID:
        raise OptionError(
            f"--sampler grid would make {cells:,} configurations, and at most {LARGEST_GRID:,} can be listed: use "
            "--sampler random, or larger steps"
        )
    return space


def make_pruner(spec: str, max_epochs: int, factor: int) -> BasePruner:
    """The pruner that `spec` names; Hyperband and successive halving get `max_epochs` and `factor` unless told."""
    name, arguments = parse(spec, PRUNERS, "--pruner")
    if name == "hyperband":
        arguments = {"min_resource": 1, "max_resource": max_epochs, "reduction_factor": factor} | arguments
    elif name == "asha":
        arguments = {"min_resource": 1, "reduction_factor": factor} | arguments
    elif name == "percentile":
        arguments = {"percentile": 25.0} | arguments
    pruner: BasePruner = _make("--pruner", spec, PRUNERS[name], arguments)
    return pruner


# Values ---------------------------------------------------------------------------------------------------------------


class Axis:
    """A parameter as Optuna sees it: a name, a distribution, and the way to and from its values.

    What cannot be a range of Optuna's is a category, an index or a cumulative probability; its name then carries the
    domain, so that those of two different domains never meet.
    """

    def __init__(self, parameter: Parameter) -> None:
        domain = self._domain = parameter.domain
        self.name = parameter.key
        self.distribution: BaseDistribution
        self._direct = True
        if _is_plain(domain):
            step = int(domain.step or 1)
            if domain.kind == "int":
                low, size = int(domain.low), domain.size
                assert size is not None
                self.distribution = IntDistribution(low, low + (size - 1) * step, domain.sampling == "log", step)
            else:
                self.distribution = FloatDistribution(domain.low, domain.high, domain.sampling == "log")
            self.name += f" ({domain.kind} {domain.sampling})"
        elif not domain.is_range and not domain.ordered:
            self.name += f" ({domain})"
            self.distribution = CategoricalDistribution(domain.values)
        else:
            self._direct = False
            self.name += f" ({domain})"
            size = domain.size if domain.step is not None or not domain.is_range else None
            self.distribution = FloatDistribution(0.0, 1.0) if size is None else IntDistribution(0, size - 1)

    def encode(self, value: Value) -> Any:
        if self._direct:
            return value
        if isinstance(self.distribution, IntDistribution):
            return self._domain.index(value)
        return self._domain.unit(value)

    def decode(self, value: Any) -> Value:
        if self._direct:
            return value.item() if hasattr(value, "item") else value  # type: ignore[no-any-return]
        if isinstance(self.distribution, IntDistribution):
            return self._domain.value(int(value))
        return self._domain.at(min(float(value), 1 - 2**-53))


def _is_plain(domain: Domain) -> bool:
    """Whether the domain is one of Optuna's own ranges."""
    if domain.kind == "int":
        return (domain.sampling == "linear") or (domain.sampling == "log" and domain.step is None)
    return domain.kind == "float" and domain.step is None and domain.sampling != "reverse_log"


# The back end ---------------------------------------------------------------------------------------------------------


class Optuna:
    """The `optuna` back end.

    Args:
        objective: what is compared.
        seed: of the study.
        max_epochs: the most epochs that one trial gets.
        factor: the reduction factor of the Hyperband and successive halving pruners.
        sampler, pruner: `name` or `name:key=value,…`, names as in `SAMPLERS` and `PRUNERS`.
        parameters: those that the probe saw, for samplers that want the whole space at once (grid).

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
        self._seed = seed
        self._max_epochs = max_epochs
        self._make_sampler = SamplerMaker(sampler, seed, parameters)
        self._pruner = make_pruner(pruner, max_epochs, factor)
        self._storage = optuna.storages.InMemoryStorage()
        # Optuna's Hyperband draws brackets from a hash of the study's name.
        self._study = optuna.create_study(
            storage=self._storage,
            study_name=f"search-{seed}",
            direction="maximize" if objective.direction == "max" else "minimize",
            pruner=self._pruner,
            sampler=self._make_sampler(0),
        )
        # Optuna's Hyperband makes its brackets when it is asked first, and takes all trials for one bracket's before.
        self._pruner.prune(self._study, optuna.trial.create_trial(value=0.0))
        self._id = self._storage.get_study_id_from_name(self._study.study_name)
        self._ids: dict[int, int] = {}
        self._relative: dict[int, Mapping[str, Any]] = {}
        self._running: set[int] = set()

    # Questions ------------------------------------------------------------------------------------------------------

    def ask(self, *, new: bool) -> Suggestion | Wait | Done:
        if new:
            return Suggestion(None, 0, self._max_epochs, judged=not isinstance(self._pruner, NopPruner))
        return Wait() if self._running else Done()

    def suggest(self, trial: int, parameter: Parameter, taken: Collection[Value] = ()) -> Draw:
        axis = Axis(parameter)

        def rng() -> random.Random:
            return random.Random(derive_seed(self._seed, "draw", trial, parameter.key, -1))

        with self._noting(trial) as noted:
            first = trial not in self._relative
            relative = self._sample_relative(trial) if first else self._relative[trial]

            def draw(attempt: int) -> Value:
                if attempt == 0 and axis.name in relative and _fits(relative[axis.name], axis.distribution):
                    return axis.decode(relative[axis.name])
                return axis.decode(self._sample_independent(trial, axis, attempt))

            value = draw_untaken(draw, parameter.domain, taken, rng)
        kept = {"relative": relative, **noted} if first else {}
        return Draw(value, {name: attributes for name, attributes in kept.items() if attributes})

    def judge(self, trial: int, epoch: int) -> Decision:
        with self._noting(trial) as noted:
            stop = self._pruner.prune(self._study, self._frozen(trial))
        return Decision(bool(stop), noted["trial"])

    # Facts ----------------------------------------------------------------------------------------------------------

    def apply(self, record: Record) -> Sequence[int]:
        if isinstance(record, Asked):
            self._ids[record.trial] = self._storage.create_new_trial(self._id)
            self._running.add(record.trial)
            return ()
        trial = getattr(record, "trial", None)
        if trial not in self._running:
            return ()
        number = self._ids[trial]
        match record:
            case Valued():
                self._valued(record)
            case EpochDone():
                value = record.logs.get(self._objective.name)
                if value is not None and record.epoch not in self._frozen(trial).intermediate_values:
                    self._storage.set_trial_intermediate_value(number, record.epoch, value)
            case Judged():
                self._set_attributes(number, record.attributes)
            case Told():
                pruned = record.outcome == "stopped"
                score = self._objective.worst if record.score is None else record.score
                self._storage.set_trial_state_values(
                    number, TrialState.PRUNED if pruned else TrialState.COMPLETE, [score]
                )
                self._running.discard(trial)
                self._relative.pop(trial, None)
                return (trial,)
        return ()

    def learn(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            if not trial.parameters or (trial.objective is None and trial.ended != "failed"):
                continue
            drawn = [parameter for parameter in trial.parameters if parameter.domain.size != 1]
            axes = [Axis(parameter) for parameter in drawn]
            values = [trial.params[parameter.name] for parameter in drawn]
            known = [
                (epoch.epoch, epoch.logs[self._objective.name])
                for epoch in trial.curve
                if self._objective.name in epoch.logs
            ]
            complete = trial.ended in ("completed", "failed")
            score = self._objective.worst if trial.ended == "failed" else trial.objective
            self._study.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.COMPLETE if complete else TrialState.PRUNED,
                    value=score,
                    params={axis.name: axis.encode(value) for axis, value in zip(axes, values, strict=True)},
                    distributions={axis.name: axis.distribution for axis in axes},
                    intermediate_values=dict(known),
                )
            )

    # How ------------------------------------------------------------------------------------------------------------

    def _frozen(self, trial: int) -> FrozenTrial:
        return self._storage.get_trial(self._ids[trial])

    @contextmanager
    def _noting(self, trial: int) -> Iterator[dict[str, dict[str, Any]]]:
        """Note what samplers and pruners write into attributes meanwhile, and take it back: it is `apply` that writes
        it, from the journal."""
        noted: dict[str, dict[str, Any]] = {}
        number, frozen, study = self._ids[trial], self._frozen(trial), self._storage._studies[self._id]
        attributes = dict(study.system_attrs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield noted
        noted["trial"] = _difference(frozen.system_attrs, self._frozen(trial).system_attrs)
        noted["study"] = _difference(attributes, study.system_attrs)
        study.system_attrs = attributes
        self._storage._set_trial(number, frozen)

    def _sampling(self, sampler: BaseSampler, trial: FrozenTrial) -> optuna.Study:
        """The study as `sampler` is to see it. A new one each time: Optuna's remembers the trials it has read."""
        study = optuna.Study(self._study.study_name, self._storage, sampler, self._pruner)
        return _filter_study(study, trial)

    def _sample_relative(self, trial: int) -> Mapping[str, Any]:
        """The joint draw of a trial's first question.

        A genetic algorithm may draw a parent again, its continuous values and all, which are not watched elsewhere.
        """
        frozen = self._frozen(trial)
        for attempt in range(ATTEMPTS):
            sampler = self._make_sampler(derive_seed(self._seed, "draw", trial, attempt))
            study = self._sampling(sampler, frozen)
            sampler.before_trial(study, frozen)
            space = sampler.infer_relative_search_space(study, frozen)
            drawn = {name: _plain(value) for name, value in sampler.sample_relative(study, frozen, space).items()}
            endless = any(isinstance(distribution, FloatDistribution) for distribution in space.values())
            others = (other.params.items() for other in self._study.get_trials(deepcopy=False) if other.params)
            if not endless or not any(other <= drawn.items() for other in others):
                return drawn
        return {}

    def _sample_independent(self, trial: int, axis: Axis, attempt: int) -> Any:
        sampler = self._make_sampler(derive_seed(self._seed, "draw", trial, axis.name, attempt))
        frozen = self._frozen(trial)
        return sampler.sample_independent(self._sampling(sampler, frozen), frozen, axis.name, axis.distribution)

    def _valued(self, record: Valued) -> None:
        number = self._ids[record.trial]
        if record.parameter.domain.size == 1:
            return  # there was nothing to draw
        if record.trial not in self._relative:
            self._relative[record.trial] = record.attributes.get("relative", {})
        self._set_attributes(number, record.attributes.get("trial", {}))
        for key, value in record.attributes.get("study", {}).items():
            self._storage.set_study_system_attr(self._id, key, value)
        axis = Axis(record.parameter)
        internal = axis.distribution.to_internal_repr(axis.encode(record.value))
        self._storage.set_trial_param(number, axis.name, internal, axis.distribution)

    def _set_attributes(self, number: int, attributes: Mapping[str, Any]) -> None:
        for key, value in attributes.items():
            self._storage.set_trial_system_attr(number, key, value)


def _fits(value: Any, distribution: BaseDistribution) -> bool:
    return bool(distribution._contains(distribution.to_internal_repr(value)))


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _plain(value) for key, value in after.items() if key not in before or before[key] != value}
