"""Draws from any Optuna sampler, asked lazily, exactly resumable: what every back end that models its trials uses.

The sampler is asked for one parameter at a time, at the moment the factory wants it (define-by-run), through its public
interface: `sample_relative` at a trial's first question, `sample_independent` for what that did not cover. A new
sampler is made for every question, seeded from (study seed, trial, parameter): nothing depends on a random state. What
samplers keep in trial or study attributes (CMA-ES its optimizer, QMC its position, the joint draw itself) travels with
the draw, so the journal has it.

Values an Optuna distribution cannot express (ratios as steps, reversed logarithms) are drawn as an index or as a
cumulative probability.
"""

from __future__ import annotations

import ast
import copy
import importlib
import importlib.util
import inspect
import math
import random
import sys
import warnings
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from search.backends.base import ATTEMPTS, draw_untaken
from search.errors import OptionError, nearest
from search.space.domain import Domain, Parameter, Value
from search.study.records import ParameterSet
from search.study.trial import Draw, Objective, derive_seed

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
LARGEST_GRID = 100_000
FEWEST_SOURCES = 10
"""Of fewer trials, CMA-ES takes over nothing: it begins where the best tenth of them was."""
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


def make(option: str, spec: str, cls: type[Any], arguments: Mapping[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return cls(**arguments)
        except (TypeError, ValueError, AssertionError) as error:
            raise OptionError(f"{option} {spec!r} cannot be used: {error}") from None


class SamplerMaker:
    """Makes the sampler that `spec` names, as often as wanted, each with its own seed.

    Args:
        spec: `name` or `name:key=value,…`, names as in `SAMPLERS`.
        seed: of the study.
        parameters: those that the probe saw.

    Raises:
        OptionError: the sampler is not known, does not take these arguments, or needs a package that is not there.
    """

    def __init__(self, spec: str, seed: int, parameters: Sequence[Parameter] = ()) -> None:
        self.spec = spec
        self.parameters = tuple(parameters)
        self.name, self._arguments = parse(spec, SAMPLERS, "--sampler")
        self._seed = seed
        missing = [package for package in _NEEDS.get(self.name, ()) if importlib.util.find_spec(package) is None]
        if missing:
            raise OptionError(
                f"--sampler {self.name} needs {' and '.join(missing)}: pip install 'keras-search[gp]', or use another"
            )
        for package in _NEEDS.get(self.name, ()):
            importlib.import_module(package)  # before the first draw, which is to have one thread as all others
        if self.name == "grid":
            self._arguments["search_space"] = _grid(parameters)
        self(0)

    @property
    def startup(self) -> int:
        """With fewer complete trials than this the sampler draws at random; 0 where it has no such thing."""
        known = inspect.signature(SAMPLERS[self.name]).parameters.get("n_startup_trials")
        return 0 if known is None else int(self._arguments.get("n_startup_trials", known.default))

    @property
    def begins_elsewhere(self) -> bool:
        """Whether CMA-ES was told where to begin, or is of a kind that cannot be."""
        return not self._arguments.keys().isdisjoint(("x0", "sigma0", "source_trials", "use_separable_cma"))

    def __call__(self, seed: int, **more: Any) -> BaseSampler:
        arguments = {**self._arguments, **more}
        cls = SAMPLERS[self.name]
        if self.name in ("grid", "qmc"):
            # The sequence is the study's; only what falls outside it is drawn by a seed of its own.
            cls = _Grid if self.name == "grid" else cls
            arguments |= {"seed": self._seed, "independent_sampler": optuna.samplers.RandomSampler(seed=seed)}
        else:
            arguments["seed"] = seed
        sampler: BaseSampler = make("--sampler", self.spec, cls, arguments)
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


# Draws ----------------------------------------------------------------------------------------------------------------

Look = Callable[[list[FrozenTrial]], list[FrozenTrial]]


class _Memory(optuna.storages.InMemoryStorage):
    """Optuna's storage, in which a sampler may be shown the trials otherwise than they are kept."""

    look: Look | None = None

    # Optuna's own ways copy a trial with all that it holds each time, for readers in other threads.

    def note_param(self, number: int, axis: Axis, value: Value) -> None:
        trial, internal = self._get_trial(number), axis.distribution.to_internal_repr(axis.encode(value))
        trial.params[axis.name] = axis.distribution.to_external_repr(internal)
        trial.distributions[axis.name] = axis.distribution

    def note_epoch(self, number: int, epoch: int, value: float) -> None:
        """Where an epoch is trained again, its first value stands."""
        self._get_trial(number).intermediate_values.setdefault(epoch, value)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        if self.look is None:
            return super().get_all_trials(study_id, deepcopy, states)
        trials = self.look(super().get_all_trials(study_id, deepcopy=False))
        found = [trial for trial in trials if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found


class Draws:
    """What one sampler draws for the trials of one era, and what it is told of them, in a study in Optuna's memory.

    Questions change nothing that shows; `begin`, `valued`, `add` and what a back end does to `study` by itself are
    folds over records. A trial is known by its number in the search.

    Args:
        objective, seed: of the study.
        make_sampler: makes the sampler, once for every question.
        pruner: Optuna's, for the back end that asks it.
        look: how the sampler is to see the trials, given those that are kept.
    """

    def __init__(
        self,
        objective: Objective,
        seed: int,
        make_sampler: SamplerMaker,
        *,
        pruner: BasePruner | None = None,
        look: Look = list,
    ) -> None:
        self._seed = seed
        self._make_sampler = make_sampler
        self._look = look
        self.storage = _Memory()
        self.study = optuna.create_study(
            storage=self.storage,
            # Optuna's Hyperband draws brackets from a hash of the study's name.
            study_name=f"search-{seed}",
            direction="maximize" if objective.direction == "max" else "minimize",
            pruner=pruner or NopPruner(),
            sampler=make_sampler(0),
        )
        self._id = self.storage.get_study_id_from_name(self.study.study_name)
        self._ids: dict[int, int] = {}
        self._relative: dict[int, Mapping[str, Any]] = {}
        self._learnt: set[int] = set()
        self._core = {axis.name: axis.distribution for axis in _axes(make_sampler.parameters)}
        self._core_is_own = False

    # Facts ------------------------------------------------------------------------------------------------------------

    def begin(self, trial: int) -> None:
        """`trial` is a new one, which the sampler will be asked about."""
        self._ids[trial] = self.storage.create_new_trial(self._id)

    def number(self, trial: int) -> int:
        """The number by which the storage knows `trial`."""
        return self._ids[trial]

    def frozen(self, trial: int) -> FrozenTrial:
        return self.storage.get_trial(self._ids[trial])

    def valued(self, record: ParameterSet) -> None:
        """`record.trial` was given a value, drawn or not."""
        number = self._ids[record.trial]
        if record.parameter.domain.size == 1:
            return  # there was nothing to draw
        if "relative" in record.attributes:
            self._relative[record.trial] = record.attributes["relative"]
        self.set_attributes(record.trial, record.attributes.get("trial", {}))
        for key, value in record.attributes.get("study", {}).items():
            self.storage.set_study_system_attr(self._id, key, value)
        self.storage.note_param(number, Axis(record.parameter), record.value)

    def set_attributes(self, trial: int, attributes: Mapping[str, Any]) -> None:
        for key, value in attributes.items():
            self.storage.set_trial_system_attr(self._ids[trial], key, value)

    def succeeded(self, trial: int) -> None:
        """`trial` has a first score: what it was asked for is what a joint space may hold at most."""
        distributions = self.frozen(trial).distributions
        if not self._core_is_own:
            self._core, self._core_is_own = dict(distributions), True
        else:
            self._core = {name: d for name, d in self._core.items() if distributions.get(name) == d}

    def add(self, values: Sequence[tuple[Parameter, Value]], **state: Any) -> int:
        """Add a trial of another era or study, as `optuna.trial.create_trial` has it. Returns its number."""
        drawn = [(Axis(parameter), value) for parameter, value in values]
        trial = optuna.trial.create_trial(
            params={axis.name: axis.encode(value) for axis, value in drawn},
            distributions={axis.name: axis.distribution for axis, _ in drawn},
            **state,
        )
        number = self.storage.create_new_trial(self._id, trial)
        self._learnt.add(number)
        return number

    # Questions --------------------------------------------------------------------------------------------------------

    def draw(self, trial: int, parameter: Parameter, explored: Collection[Value] = ()) -> Draw:
        """A value of `parameter` for `trial`, none of `explored`, with what `valued` must be given of it."""
        axis = Axis(parameter)

        def rng() -> random.Random:
            return random.Random(derive_seed(self._seed, "draw", trial, parameter.key, -1))

        with self.noting(trial) as noted, self._looking(), _one_thread():
            first = trial not in self._relative
            relative = self._sample_relative(trial) if first else self._relative[trial]

            def draw(attempt: int) -> Value:
                if attempt == 0 and axis.name in relative and _fits(relative[axis.name], axis.distribution):
                    return axis.decode(relative[axis.name])
                return axis.decode(self._sample_independent(trial, axis, attempt))

            value = draw_untaken(draw, parameter.domain, explored, rng)
        kept = {name: attributes for name, attributes in noted.items() if attributes}
        return Draw(value, {"relative": dict(relative), **kept} if first else {})

    @contextmanager
    def noting(self, trial: int) -> Iterator[dict[str, dict[str, Any]]]:
        """Note what samplers and pruners write into attributes meanwhile, and take it back: it is applied from the
        journal."""
        noted: dict[str, dict[str, Any]] = {}
        number, frozen, study = self._ids[trial], self.frozen(trial), self.storage._studies[self._id]
        attributes = dict(study.system_attrs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield noted
        noted["trial"] = _difference(frozen.system_attrs, self.frozen(trial).system_attrs)
        noted["study"] = _difference(attributes, study.system_attrs)
        study.system_attrs = attributes
        self.storage._set_trial(number, frozen)

    # How --------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _looking(self) -> Iterator[None]:
        self.storage.look = self._shown
        try:
            yield
        finally:
            self.storage.look = None

    def _shown(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """The trials as the sampler sees them.

        A sampler of joint draws models only what all of its trials have. One that lacks what every successful trial of
        this era has (its build failed half-way, or it was trained in another space) would take that from it for good.
        """
        joint = self._make_sampler.name in ("cmaes", "gp")

        def useful(trial: FrozenTrial) -> bool:
            has = trial.distributions
            return bool(has) and (not joint or all(has.get(name) == d for name, d in self._core.items()))

        return [t if not t.state.is_finished() or useful(t) else hidden(t) for t in self._look(trials)]

    def _sampling(self, sampler: BaseSampler) -> optuna.Study:
        """The study as `sampler` is to see it. A new one each time: Optuna's remembers the trials it has read."""
        return optuna.Study(self.study.study_name, self.storage, sampler, self.study.pruner)

    def _sample_relative(self, trial: int) -> Mapping[str, Any]:
        """The joint draw of a trial's first question.

        A genetic algorithm may draw a parent again, its continuous values and all, which are not watched elsewhere.
        """
        frozen = self.frozen(trial)
        for attempt in range(ATTEMPTS):
            seed = derive_seed(self._seed, "draw", trial, attempt)
            sampler = self._make_sampler(seed)
            study = self._sampling(sampler)
            sampler.before_trial(study, frozen)
            space = sampler.infer_relative_search_space(study, frozen)
            if self._make_sampler.name == "cmaes" and space:
                sampler = self._make_sampler(seed, **self._sources(study, space))
            drawn = {name: _plain(value) for name, value in sampler.sample_relative(study, frozen, space).items()}
            endless = any(isinstance(distribution, FloatDistribution) for distribution in space.values())
            others = (other.params.items() for other in study.get_trials(deepcopy=False) if other.params)
            if not endless or not any(other <= drawn.items() for other in others):
                return drawn
        return {}

    def _sources(self, study: optuna.Study, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
        """What CMA-ES begins with: it samples from what it drew itself, and takes foreign trials only as the place to
        begin at (Nomura et al. 2021, "Warm Starting CMA-ES for Hyperparameter Optimization", AAAI)."""
        if self._make_sampler.begins_elsewhere:
            return {}
        sources = [
            optuna.trial.create_trial(
                value=trial.value, params={name: trial.params[name] for name in space}, distributions=dict(space)
            )
            for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if trial._trial_id in self._learnt and trial.value is not None and math.isfinite(trial.value)
        ]
        return {"source_trials": sources} if len(sources) >= FEWEST_SOURCES else {}

    def _sample_independent(self, trial: int, axis: Axis, attempt: int) -> Any:
        sampler = self._make_sampler(derive_seed(self._seed, "draw", trial, axis.name, attempt))
        frozen = self.frozen(trial)
        return sampler.sample_independent(self._sampling(sampler), frozen, axis.name, axis.distribution)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch, where a sampler has imported it, use one thread: as many as there are cores take up to four times as
    long for what it is given here, and take the cores from the trials."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def hidden(trial: FrozenTrial) -> FrozenTrial:
    """`trial` as one that has no value: samplers that learn pass it by, those that list configurations still see it."""
    trial = copy.copy(trial)
    trial.state = TrialState.FAIL
    return trial


def _axes(parameters: Sequence[Parameter]) -> list[Axis]:
    return [Axis(parameter) for parameter in parameters if parameter.domain.size != 1 and not parameter.conditions]


def _fits(value: Any, distribution: BaseDistribution) -> bool:
    return bool(distribution._contains(distribution.to_internal_repr(value)))


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _plain(value) for key, value in after.items() if key not in before or before[key] != value}
