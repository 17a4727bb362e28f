"""A lazy Optuna sampler: it draws one parameter at a time, and its draws can be resumed exactly.

Every back end that models its trials uses it. It is asked for a parameter at the moment the model factory wants it
(define-by-run), through Optuna's public interface: `sample_relative` at a trial's first draw, `sample_independent` for
parameters that the first draw did not cover. A new sampler is made for every draw, seeded from (study seed, trial,
parameter), so nothing depends on a random state. What samplers keep in trial or study attributes (CMA-ES its optimizer,
QMC its position, the joint draw itself) travels with the draw, and so through the journal.
"""

from __future__ import annotations

import copy
import math
import random
import sys
import warnings
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from search.backends import grid, optuna_internals
from search.backends.base import DRAW_ATTEMPTS, draw_unexplored
from search.backends.samplers import Axis, SamplerFactory
from search.space.domain import Parameter, Value
from search.study.records import ParameterSet
from search.study.trial import Draw, Objective, derive_seed

MIN_SOURCE_TRIALS = 10
"""The fewest imported trials from which CMA-ES takes its start: it begins at the best tenth of them."""

Substitute = Callable[[list[FrozenTrial]], list[FrozenTrial]]
"""Returns the trials as a sampler is to see them: as many, in the same order, some replaced by changed copies."""


class _Storage(optuna.storages.InMemoryStorage):
    """Optuna's storage of one study, which may show a sampler other versions of the trials than it keeps.

    As there is one study, a trial's number is its identifier, too.
    """

    substitute: Substitute | None = None

    def __init__(self) -> None:
        super().__init__()
        self._captures: int | None = None
        self._of_trial: dict[str, Any] = {}
        self._of_study: dict[str, Any] = {}

    def note_value(self, number: int, axis: Axis, value: Value) -> None:
        """Set a parameter of trial `number`."""
        optuna_internals.set_param(self, number, axis.name, axis.encode(value), axis.distribution)

    def note_epoch(self, number: int, epoch: int, value: float) -> None:
        """Add the objective after an epoch. If an epoch is trained again, its first value stands."""
        optuna_internals.set_intermediate_value(self, number, epoch, value)

    @contextmanager
    def captured(self, number: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Keep the system attributes that are written meanwhile apart: those of trial `number`, those of the study.

        They are seen until the end of the context, and then forgotten.
        """
        self._captures = number
        try:
            yield self._of_trial, self._of_study
        finally:
            self._captures, self._of_trial, self._of_study = None, {}, {}

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute of a trial, apart from the others if it is captured."""
        if trial_id == self._captures:
            self._of_trial[key] = value
        else:
            super().set_trial_system_attr(trial_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Set an attribute of the study, apart from the others if it is captured."""
        if self._captures is not None:
            self._of_study[key] = value
        else:
            super().set_study_system_attr(study_id, key, value)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Return the study's attributes, with captured ones."""
        return {**super().get_study_system_attrs(study_id), **self._of_study}

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a trial, with captured attributes."""
        trial = super().get_trial(trial_id)
        return self._with_captured(trial) if self._of_trial and trial_id == self._captures else trial

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials in one of `states`, as `substitute` shows them if it is set."""
        if self.substitute is None and not self._of_trial:
            return super().get_all_trials(study_id, deepcopy, states)
        trials = super().get_all_trials(study_id, deepcopy=False)
        if self._of_trial:
            trials = [self._with_captured(trial) if trial.number == self._captures else trial for trial in trials]
        if self.substitute is not None:
            trials = self.substitute(trials)
        found = [trial for trial in trials if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def _with_captured(self, trial: FrozenTrial) -> FrozenTrial:
        trial = copy.copy(trial)
        trial.system_attrs = {**trial.system_attrs, **self._of_trial}
        return trial


class LazySampler:
    """An Optuna sampler that draws one parameter at a time, and its trials in one phase.

    The trials are an Optuna study in memory. `draw` leaves them unchanged: only what follows from records changes them,
    through the methods here or by a back end's own changes of `storage`. A trial is known by its number in the search;
    the storage numbers trials in its own way (`storage_number`).

    Args:
        objective, seed: of the study.
        make_sampler: makes the sampler, once for every draw.
        pruner: the study's pruner, for a back end that has one.
        substitute: changes how the sampler sees the trials.

    Attributes:
        study: Optuna's study, in memory.
        storage: the trials of that study.
    """

    def __init__(
        self,
        objective: Objective,
        seed: int,
        make_sampler: SamplerFactory,
        *,
        pruner: BasePruner | None = None,
        substitute: Substitute = list,
    ) -> None:
        self._seed = seed
        self._make_sampler = make_sampler
        self._substitute = substitute
        self.storage = _Storage()
        self.study = optuna.create_study(
            storage=self.storage,
            # Optuna's Hyperband draws brackets from a hash of the study's name.
            study_name=f"search-{seed}",
            direction="maximize" if objective.direction == "max" else "minimize",
            pruner=pruner or NopPruner(),
            sampler=make_sampler(0),
        )
        self._id = self.storage.get_study_id_from_name(self.study.study_name)
        self._numbers: dict[int, int] = {}
        self._joint_draws: dict[int, Mapping[str, Any]] = {}
        self._imported: set[int] = set()
        self._common_space = {axis.name: axis.distribution for axis in _axes(make_sampler.parameters)}
        self._common_space_is_own = False

    # Facts ----------------------------------------------------------------------------------------------------------

    def begin_trial(self, trial: int) -> None:
        """Add a new trial, for which the sampler will draw."""
        self._numbers[trial] = self.storage.create_new_trial(self._id)

    def storage_number(self, trial: int) -> int:
        """Return the number by which the storage knows `trial`."""
        return self._numbers[trial]

    def frozen_trial(self, trial: int) -> FrozenTrial:
        """Return `trial` as Optuna has it."""
        return self.storage.get_trial(self._numbers[trial])

    def set_value(self, record: ParameterSet) -> None:
        """Take in the value of a parameter, drawn or not, and the attributes of its draw."""
        number = self._numbers[record.trial]
        if record.parameter.domain.size == 1:
            return  # nothing was drawn
        if "relative" in record.attributes:
            self._joint_draws[record.trial] = record.attributes["relative"]
        self.set_attributes(record.trial, record.attributes.get("trial", {}))
        for key, value in record.attributes.get("study", {}).items():
            self.storage.set_study_system_attr(self._id, key, value)
        self.storage.note_value(number, Axis(record.parameter), record.value)

    def set_attributes(self, trial: int, attributes: Mapping[str, Any]) -> None:
        """Set the system attributes of `trial` that a sampler or pruner wrote."""
        for key, value in attributes.items():
            self.storage.set_trial_system_attr(self._numbers[trial], key, value)

    def note_success(self, trial: int) -> None:
        """Take in that `trial` has a first score: a joint space holds at most the parameters that it was asked for."""
        distributions = self.frozen_trial(trial).distributions
        if not self._common_space_is_own:
            self._common_space, self._common_space_is_own = dict(distributions), True
        else:
            self._common_space = {
                name: distribution
                for name, distribution in self._common_space.items()
                if distributions.get(name) == distribution
            }

    def import_trial(self, values: Sequence[tuple[Parameter, Value]], **state: Any) -> int:
        """Add a trial of another phase or study, with a state as `optuna.trial.create_trial` takes it.

        Returns:
            Its number in the storage.
        """
        drawn = [(Axis(parameter), value) for parameter, value in values]
        trial = optuna.trial.create_trial(
            params={axis.name: axis.encode(value) for axis, value in drawn},
            distributions={axis.name: axis.distribution for axis, _ in drawn},
            **state,
        )
        number = self.storage.create_new_trial(self._id, trial)
        self._imported.add(number)
        return number

    # Queries --------------------------------------------------------------------------------------------------------

    def draw(self, trial: int, parameter: Parameter, explored: Collection[Value] = ()) -> Draw:
        """Return a value of `parameter` for `trial`, none of `explored`, with the attributes that `set_value` needs."""
        if self._make_sampler.name == grid.NAME:
            return Draw(grid.next_value(parameter, explored))
        axis = Axis(parameter)

        def rng() -> random.Random:
            return random.Random(derive_seed(self._seed, "draw", trial, parameter.key, -1))

        with self.captured_attributes(trial) as captured, self._substituted(), _one_thread():
            first = trial not in self._joint_draws
            joint = self._draw_jointly(trial) if first else self._joint_draws[trial]

            def draw(attempt: int) -> Value:
                if attempt == 0 and axis.name in joint and axis.contains(joint[axis.name]):
                    return axis.decode(joint[axis.name])
                return axis.decode(self._draw_independently(trial, axis, attempt))

            value = draw_unexplored(draw, parameter.domain, explored, rng)
        kept = {name: attributes for name, attributes in captured.items() if attributes}
        return Draw(value, {"relative": dict(joint), **kept} if first else {})

    def visible_trials(self) -> list[FrozenTrial]:
        """Return the trials as the sampler sees them."""
        return self._visible(self.study.get_trials())

    @contextmanager
    def captured_attributes(self, trial: int) -> Iterator[dict[str, dict[str, Any]]]:
        """Capture the attributes that samplers and pruners write meanwhile. The trials stay as they are.

        The attributes of `trial` are found under "trial" at the end, those of the study under "study". They are set
        when their record is applied.
        """
        captured: dict[str, dict[str, Any]] = {}
        before = self.frozen_trial(trial).system_attrs, self.storage.get_study_system_attrs(self._id)
        with warnings.catch_warnings(), self.storage.captured(self._numbers[trial]) as written:
            warnings.simplefilter("ignore")
            yield captured
        captured["trial"] = _changed_items(before[0], written[0])
        captured["study"] = _changed_items(before[1], written[1])

    # How a value is drawn -------------------------------------------------------------------------------------------

    @contextmanager
    def _substituted(self) -> Iterator[None]:
        """Show samplers the visible trials meanwhile."""
        self.storage.substitute = self._visible
        try:
            yield
        finally:
            self.storage.substitute = None

    def _visible(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """Return `trials` as the sampler sees them.

        A sampler of joint draws models only the parameters that all of its trials have. A trial that lacks one which
        every successful trial of this phase has would remove it from the model for good: the trial's build failed
        half-way, or it was trained in another space. Such a trial is hidden.
        """
        joint = self._make_sampler.name in ("cmaes", "gp")

        def is_useful(trial: FrozenTrial) -> bool:
            has = trial.distributions
            return bool(has) and (not joint or all(has.get(name) == d for name, d in self._common_space.items()))

        return [t if not t.state.is_finished() or is_useful(t) else hidden_copy(t) for t in self._substitute(trials)]

    def _study_for(self, sampler: BaseSampler) -> optuna.Study:
        """Return the study for `sampler`: a new object each time, as Optuna's caches the trials that it has read."""
        return optuna.Study(self.study.study_name, self.storage, sampler, self.study.pruner)

    def _draw_jointly(self, trial: int) -> Mapping[str, Any]:
        """Return the joint draw of a trial, made at its first question.

        A genetic algorithm may draw a parent again, with all of its continuous values. The controller watches finite
        domains only, so such a draw is repeated here.
        """
        frozen = self.frozen_trial(trial)
        for attempt in range(DRAW_ATTEMPTS):
            seed = derive_seed(self._seed, "draw", trial, attempt)
            sampler = self._make_sampler(seed)
            study = self._study_for(sampler)
            sampler.before_trial(study, frozen)
            space = sampler.infer_relative_search_space(study, frozen)
            if self._make_sampler.name == "cmaes" and space:
                sampler = self._make_sampler(seed, **self._source_trials(study, space))
            drawn = {name: _to_python(value) for name, value in sampler.sample_relative(study, frozen, space).items()}
            continuous = any(isinstance(distribution, FloatDistribution) for distribution in space.values())
            others = (other.params.items() for other in study.get_trials(deepcopy=False) if other.params)
            if not continuous or not any(other <= drawn.items() for other in others):
                return drawn
        return {}

    def _source_trials(self, study: optuna.Study, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
        """Return CMA-ES's argument for its start from imported trials; empty if there are too few.

        CMA-ES samples from its own trials, and takes imported ones only as its start (Nomura et al. 2021, "Warm
        Starting CMA-ES for Hyperparameter Optimization", AAAI).
        """
        if self._make_sampler.excludes_source_trials:
            return {}
        sources = [
            optuna.trial.create_trial(
                value=trial.value, params={name: trial.params[name] for name in space}, distributions=dict(space)
            )
            for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if trial.number in self._imported and trial.value is not None and math.isfinite(trial.value)
        ]
        return {"source_trials": sources} if len(sources) >= MIN_SOURCE_TRIALS else {}

    def _draw_independently(self, trial: int, axis: Axis, attempt: int) -> Any:
        sampler = self._make_sampler(derive_seed(self._seed, "draw", trial, axis.name, attempt))
        frozen = self.frozen_trial(trial)
        return sampler.sample_independent(self._study_for(sampler), frozen, axis.name, axis.distribution)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limit torch to one thread, if a sampler has imported it.

    With as many threads as cores it takes up to four times as long for problems of this size, and takes the cores from
    the trials.
    """
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


def hidden_copy(trial: FrozenTrial) -> FrozenTrial:
    """Return a copy of `trial` without a value: samplers that learn skip it, those that list configurations see it."""
    trial = copy.copy(trial)
    trial.state = TrialState.FAIL
    return trial


def _axes(parameters: Sequence[Parameter]) -> list[Axis]:
    """Return the axes of the parameters that every trial has, and that have more than one value."""
    return [Axis(parameter) for parameter in parameters if parameter.domain.size != 1 and not parameter.conditions]


def _to_python(value: Any) -> Any:
    """Return a NumPy scalar as Python's own."""
    return value.item() if hasattr(value, "item") else value


def _changed_items(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _to_python(value) for key, value in after.items() if key not in before or before[key] != value}
