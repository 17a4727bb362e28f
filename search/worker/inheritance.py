"""The state that a trial has from its parent, the trial that it continues with other hyperparameters.

The child inherits all that training has learned: the weights (also those that are not trained, such as the statistics
of a BatchNormalization), the optimizer's slots and the number of its steps, and the variables and optimizers that the
model's attributes lead to. All else follows from the child's own hyperparameters and seed, and is as its code has made
it: learning rates and schedules, the layers that are trainable, plain values, random states, callbacks.

A slot that the parent lacks, as its SGD had no momentum, begins anew. If the optimizer is of another class, all of it
does.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from search.errors import SearchError, SpaceError
from search.messages import Segment
from search.study.paths import TrialPaths
from search.wording import pluralize
from search.worker.attributes import is_random_state
from search.worker.checkpoint import load_checkpoint
from search.worker.model_state import build_layers, find_saved
from search.worker.optimizer_slots import matching_slots, weight_places
from search.worker.plain_values import Array, decode
from search.worker.variables import assign_checked, describe_misfit

__all__ = ["BEGINS_ANEW", "Inheritance"]

BEGINS_ANEW = "its fit begins anew in each segment, so it can continue no other trial"


class Inheritance:
    """The checkpoint that a trial's parent has handed on.

    Args:
        segment: of the child.

    Attributes:
        claim: the beginning of an error, without a colon.

    Raises:
        SpaceError: in one line, if there is no such checkpoint, or if no training can continue from it.
    """

    def __init__(self, segment: Segment) -> None:
        parent = segment.inherited
        assert parent is not None
        self.claim = f"trial {segment.trial} cannot continue trial {parent.trial} after epoch {parent.epoch}"
        path = TrialPaths(Path(segment.folder)).inherited(parent.execution)
        try:
            self._saved = load_checkpoint(path)
        except SearchError as error:
            raise self._error(str(error)) from error
        if (self._saved.owner["seed"], self._saved.epoch) != (parent.seed, parent.epoch):
            raise self._error(f"{path} is of another training: put a copy of the right one there, or train again")
        if self._saved.whole:
            raise self._error(BEGINS_ANEW)
        if self._saved.attributes.lost:
            lost = ", ".join(self._saved.attributes.lost)
            raise self._error(f"training changes the model's {lost}, which cannot be saved")

    def give_variables(self, model: Any) -> None:
        """Give a freshly built and compiled model the weights, and its optimizer the slots.

        Raises:
            SpaceError: in one line, if a weight has another shape.
        """
        saved = self._saved
        if failed := build_layers(model, saved.attributes):
            raise self._error(f"its {', '.join(failed)} cannot be built")
        places = weight_places(model)
        weights = [variable for variable in model.variables if id(variable) in places]
        arrays = saved.arrays("model")
        self._assign(weights, [array for place, array in enumerate(arrays) if place not in saved.random], "weight")
        optimizer = getattr(model, "optimizer", None)
        if optimizer is not None and saved.slots is not None:
            if not optimizer.built:
                optimizer.build(model.trainable_variables)
            self._give_slots(optimizer, model, saved.slots, saved.arrays("optimizer"))

    def give_attributes(self, model: Any) -> None:
        """Give the model the state beside these variables. Call this when the training begins.

        What the model has no place for is left out. SpaceError as in `give_variables`.
        """
        saved = self._saved.attributes
        for holder, target, entry in find_saved(model, saved):
            if entry["path"][0] == "optimizer" or is_random_state(holder, target):
                continue
            if entry["kind"] == "variable":
                self._assign([target], decode(entry["data"], saved.arrays), "variable")
            elif entry["kind"] == "optimizer" and target.built and "slots" in entry:
                self._give_slots(target, model, entry["slots"], decode(entry["data"], saved.arrays))
            elif entry["kind"] == "stateful":
                self._load_state(target, decode(entry["data"], saved.arrays))

    def _give_slots(self, optimizer: Any, model: Any, described: dict[str, Any], arrays: Sequence[Array]) -> None:
        pairs = matching_slots(optimizer, weight_places(model), described, arrays)
        self._assign([variable for variable, _ in pairs], [array for _, array in pairs], "optimizer's variable")

    def _assign(self, variables: Sequence[Any], arrays: Sequence[Array], what: str) -> None:
        """Assign all arrays, or none."""
        for variable, array in zip(variables, arrays, strict=False):
            if misfit := describe_misfit(variable, array):
                name, built, saved = misfit
                raise self._error(f"its {what} {name} is {built}, and the parent's is {saved}")
        if len(variables) != len(arrays):
            raise self._error(f"it has {pluralize(len(variables), what)}, and its parent {len(arrays)}")
        assign_checked(variables, arrays)

    def _load_state(self, target: Any, state: dict[str, Any]) -> None:
        """Give an object of PyTorch its state, but an optimizer no hyperparameters."""
        torch = sys.modules["torch"]
        if isinstance(target, torch.optim.lr_scheduler.LRScheduler):
            return
        if isinstance(target, torch.optim.Optimizer):
            state = {**state, "param_groups": target.state_dict()["param_groups"]}
        try:
            target.load_state_dict(state)
        except Exception as error:  # PyTorch has many
            raise self._error(f"its {type(target).__name__} differs from the parent's ({error})") from error

    def _error(self, reason: str) -> SpaceError:
        return SpaceError(f"{self.claim}: {reason}")
