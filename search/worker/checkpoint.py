"""Checkpoints: the state of a training after an epoch, in one `.npz` file without pickles.

A training continues from its checkpoint with the same bits. The state is `model.variables` (with the states of seed
generators; metrics start anew each epoch and are left out), `optimizer.variables`, what the model's attributes hold
beside these (see `search.worker.model_state`), the epochs and their logs, the best epoch so far, and the attributes of
callbacks. A second file holds the weights of the best epoch, for retrieval.

Call `capture_state` in the last callback's `on_epoch_end`. When `fit` ends, `EarlyStopping(restore_best_weights=True)`
and optimizers with averaged weights change the model.
"""

from __future__ import annotations

import json
import os
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from search.errors import SearchError, SpaceError
from search.space.domain import Value
from search.worker import keras_internals
from search.worker.callback_state import describe_callbacks
from search.worker.model_state import (
    Baseline,
    SavedAttributes,
    build_layers,
    capture_attributes,
    restore_attributes,
)
from search.worker.optimizer_slots import describe_optimizer, weight_places
from search.worker.plain_values import Array, decode
from search.worker.variables import assign_variables, read_variables

__all__ = [
    "BestWeights",
    "Checkpoint",
    "TrainingState",
    "capture_state",
    "copy_weights",
    "load_checkpoint",
    "load_weights",
    "read_best",
    "save_checkpoint",
    "save_weights",
]

_META = "meta"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that was read from its file.

    Attributes:
        owner: the identity of the training, which no other trial has.
        history: each trained epoch's `epoch` (from 1), `logs` and `seconds`, to report again to a driver that died
            before it journaled them.
        best_epoch, best_value: the best epoch so far (from 1) and its objective, or None.
        stopped_by_callback: whether a user's callback ended the training there.
        whole: whether the training belongs to a user's `fit` that cannot continue and starts anew in each segment.
        runner: the name of that `fit`'s runner; None in files of old versions.
        attributes: the state that the attributes of the model and the callbacks lead to.
        random: the places of the states of seed generators in `arrays("model")`.
        slots: the optimizer, as `describe_optimizer` has described it; None if there is none.
    """

    path: Path
    owner: dict[str, Any]
    history: list[dict[str, Any]]
    best_epoch: int | None
    best_value: float | None
    stopped_by_callback: bool
    whole: bool
    runner: str | None
    attributes: SavedAttributes
    random: list[int]
    slots: dict[str, Any] | None
    _groups: dict[str, list[Array]]
    _callbacks: list[dict[str, Any]]
    _trained: dict[str, Any] | None
    _built_for: list[int] | None

    @property
    def epoch(self) -> int:
        """Number of trained epochs."""
        return int(self.history[-1]["epoch"]) if self.history else 0

    def arrays(self, group: str) -> list[Array]:
        """Return the values of the variables of the `model`, or of its `optimizer`."""
        return self._groups[group]

    def find_unrestorable(self, model: Any) -> list[str]:
        """Return what a new model cannot have again, as the user would write it. Layers are built if that is needed."""
        lost = self.attributes.lost or build_layers(model, self.attributes)
        if not lost and self.attributes.builds and len(model.variables) != len(self._groups["model"]):
            return ["variables"]
        return lost

    def restore(self, model: Any) -> None:
        """Restore the model's state, with the same bits, in a freshly built and compiled model.

        Raises:
            SpaceError: in one line, if the model or its optimizer differs from the saved one.
        """
        self.restore_variables(model)
        restore_attributes(model, (), self.attributes.without_callbacks, self.path)

    def restore_variables(self, model: Any) -> None:
        """Restore only the variables of the model and of its optimizer. Errors are those of `restore`."""
        if self._trained is not None:
            _compile_again(model, self._trained)
        build_layers(model, self.attributes)
        assign_variables(model.variables, self._groups["model"], "model", self.path)
        variables = _optimizer_variables(model, self._built_for)
        assign_variables(variables, self._groups["optimizer"], "optimizer", self.path)

    def restore_others(self, model: Any, callbacks: Sequence[Any]) -> None:
        """Restore all but these variables. Call this after `on_train_begin`, in which callbacks reset their state.

        Raises:
            SpaceError: in one line, if the model or the callbacks differ from the saved ones.
        """
        self.restore_callbacks(callbacks)
        restore_attributes(model, callbacks, self.attributes, self.path)

    @property
    def callback_states(self) -> Sequence[Mapping[str, Any]]:
        """The class and the saved plain attributes of each callback, as JSON."""
        return self._callbacks

    def restore_callbacks(self, callbacks: Sequence[Any]) -> None:
        """Restore the plain attributes of the user's callbacks.

        Raises:
            SpaceError: in one line, if the callbacks differ from the saved ones.
        """
        saved = [state["class"] for state in self._callbacks]
        found = [type(callback).__name__ for callback in callbacks]
        if saved != found:
            raise SpaceError(
                f"{self.path} was saved with callbacks {saved} and callbacks(hp) returned {found}: "
                "return the same callbacks for the same hyperparameters"
            )
        for callback, state in zip(callbacks, self._callbacks, strict=True):
            for name, value in state["attributes"].items():
                setattr(callback, name, decode(value, self._groups["callbacks"]))


@dataclass(frozen=True, slots=True)
class TrainingState:
    """A copy of a training's state, which later epochs do not change.

    Attributes:
        groups: the arrays of `model`, `optimizer` and `callbacks`.
        callbacks: the class and the attributes of each callback, as JSON.
        lost: the attributes of callbacks that cannot be saved, as "EarlyStopping.name"; functions are not mentioned.
        trained: the trainable layers and the optimizer's configuration, both of which a callback may have changed.
        attributes: the state that the attributes of the model and the callbacks lead to.
        built_for: the variables that the optimizer was built for, by their places in `model.variables`. None stands for
            all trainable ones, and for an optimizer whose variables are elsewhere.
        random, slots: as in `Checkpoint`.
    """

    groups: Mapping[str, Sequence[Array]]
    callbacks: list[dict[str, Any]]
    lost: list[str]
    trained: dict[str, Any] | None = None
    attributes: SavedAttributes = field(default_factory=SavedAttributes)
    built_for: list[int] | None = None
    random: list[int] = field(default_factory=list)
    slots: dict[str, Any] | None = None


def capture_state(model: Any, callbacks: Sequence[Any], baseline: Baseline | None = None) -> TrainingState:
    """Copy the present state of a training.

    Args:
        callbacks: the user's callbacks. Their attributes are saved if they are plain values, or lead to variables,
            optimizers and generators of random numbers.
        baseline: the attributes before training. Without one, plain values of the model's are not saved, and all of
            the callbacks' are.
    """
    optimizer_variables = _optimizer_variables(model)
    attributes = capture_attributes(model, callbacks, baseline)
    states, remembered = describe_callbacks(callbacks, baseline.of_callbacks if baseline is not None else None)
    groups = {
        "model": read_variables(model.variables),
        "optimizer": read_variables(optimizer_variables),
        "callbacks": remembered,
        "attributes": attributes.arrays,
    }
    places = weight_places(model)
    return TrainingState(
        groups,
        states,
        attributes.lost_by_callbacks,
        _trained(model),
        attributes,
        _built_for(model),
        random=[place for place, variable in enumerate(model.variables) if id(variable) not in places],
        slots=describe_optimizer(model.optimizer, places) if optimizer_variables else None,
    )


def save_checkpoint(
    path: str | Path,
    state: TrainingState,
    *,
    owner: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    best_epoch: int | None,
    best_value: float | None,
    stopped_by_callback: bool = False,
    whole: bool = False,
    runner: str | None = None,
) -> None:
    """Write a trial's state to `path`, completely or not at all. The other arguments are as in `Checkpoint`."""
    meta = {
        "owner": dict(owner),
        "history": [dict(record) for record in history],
        "best_epoch": best_epoch,
        "best_value": best_value,
        "finished": stopped_by_callback,
        "whole": whole,
        "runner": runner,
        "callbacks": state.callbacks,
        "trained": state.trained,
        "attributes": state.attributes.meta,
        "built_for": state.built_for,
        "random": state.random,
        "slots": state.slots,
    }
    _write(Path(path), state.groups, meta)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint. SearchError if the file is missing or damaged."""
    groups, meta = _read(Path(path))
    return Checkpoint(
        path=Path(path),
        owner=meta["owner"],
        history=meta["history"],
        best_epoch=meta["best_epoch"],
        best_value=meta["best_value"],
        stopped_by_callback=meta["finished"],
        whole=meta.get("whole", False),
        runner=meta.get("runner"),
        attributes=SavedAttributes.of(meta.get("attributes"), groups.get("attributes", [])),
        random=meta.get("random", []),
        slots=meta.get("slots"),
        _groups=groups,
        _callbacks=meta["callbacks"],
        _trained=meta.get("trained"),
        _built_for=meta.get("built_for"),
    )


def copy_weights(model: Any) -> list[Array]:
    """Copy `model.weights`, which are enough to evaluate the model as it is now."""
    if keras.config.backend() == "jax":
        model.jax_state_sync()  # a model in training has its state elsewhere until asked
    return read_variables(model.weights)


def save_weights(
    path: str | Path,
    arrays: Sequence[Array],
    epoch: int,
    value: float,
    *,
    owner: Mapping[str, Any] | None = None,
    inputs: Any = None,
    batch: Any = None,
    attributes: SavedAttributes | None = None,
) -> None:
    """Write the weights of a model to `path`, completely or not at all.

    Args:
        arrays: as `copy_weights` returned them.
        epoch, value: the number of trained epochs and the objective at the time of the copy.
        owner: the identity of the training, as in `Checkpoint`.
        inputs: the model's inputs as JSON; see `arrays.spec_to_json`.
        batch: a batch as the model's `train_step` takes it, likewise.
        attributes: the state of the model that its weights do not have; see `capture_attributes`.
    """
    attributes = attributes or SavedAttributes()
    groups = {"model": arrays, "attributes": attributes.arrays}
    meta = {
        "epoch": epoch,
        "value": value,
        "owner": None if owner is None else dict(owner),
        "inputs": inputs,
        "batch": batch,
        "attributes": attributes.meta,
    }
    _write(Path(path), groups, meta)


@dataclass(frozen=True, slots=True)
class BestWeights:
    """The weights of a trial's best epoch, read from their file.

    Files of old versions have no `owner`, no `inputs`, no `batch` and no attributes.
    """

    path: Path
    epoch: int
    value: float
    owner: Mapping[str, Any] | None
    inputs: Any
    batch: Any
    _arrays: list[Array]
    _attributes: SavedAttributes

    def check_owner(self, seed: int, values: Mapping[str, Value]) -> None:
        """Raise SearchError if the weights are those of another trial, execution or study.

        Args:
            seed: the training seed, which no other execution of a study has.
            values: the trial's hyperparameters, by name.
        """
        if self.owner is None:
            return
        saved = self.owner["values"]
        if self.owner["seed"] != seed or any(saved[name] != value for name, value in values.items() if name in saved):
            raise SearchError(
                f"{self.path} has the weights of another trial (it was copied or renamed): put the right file there, "
                "or take another trial"
            )

    def assign_to(self, model: Any) -> None:
        """Assign the weights to a built model. SpaceError if the model differs from the saved one.

        Attributes that only training creates, which a model that was built anew does not have, cause a warning.
        """
        build_layers(model, self._attributes)
        assign_variables(model.weights, self._arrays, "model", self.path)
        missing = restore_attributes(model, (), self._attributes, self.path, strict=False)
        if missing := list(dict.fromkeys([*missing, *self._attributes.lost])):
            warnings.warn(
                f"the model has its weights, and not its {', '.join(missing)}, which only training makes", stacklevel=2
            )


def load_weights(path: str | Path) -> BestWeights:
    """Read weights that `save_weights` wrote. SearchError if the file is missing or damaged."""
    groups, meta = _read(Path(path))
    attributes = SavedAttributes.of(meta.get("attributes"), groups.get("attributes", []))
    described: dict[str, Any] = {name: meta.get(name) for name in ("epoch", "value", "owner", "inputs", "batch")}
    return BestWeights(path=Path(path), _arrays=groups["model"], _attributes=attributes, **described)


def read_best(path: str | Path, seed: int | None = None) -> tuple[int, float] | None:
    """Return the epoch and the objective of weights that `save_weights` wrote.

    Args:
        seed: the training seed that the weights should be of; any by default.

    Returns:
        None if the file cannot be read, or has the weights of another training.
    """
    try:
        meta = _read_meta(Path(path))
        owner = meta.get("owner")
        is_other = seed is not None and owner is not None and owner["seed"] != seed
        return None if is_other else (meta["epoch"], meta["value"])
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def _optimizer_variables(model: Any, built_for: Sequence[int] | None = None) -> list[Any]:
    """Return the variables of the model's optimizer, which is built if it is not.

    Args:
        built_for: the variables to build it for, by their places in `model.variables`; by default all trainable ones.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return []
    if not optimizer.built:
        known = model.variables
        optimizer.build(model.trainable_variables if built_for is None else [known[i] for i in built_for])
    variables: list[Any] = optimizer.variables
    return variables


def _built_for(model: Any) -> list[int] | None:
    """Return the variables that the optimizer was built for; see `TrainingState`."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return None
    built_for = keras_internals.built_for(optimizer)
    if built_for is None:
        return None
    found = [id(variable) for variable in built_for]
    if found == [id(variable) for variable in model.trainable_variables]:
        return None
    places = {id(variable): i for i, variable in enumerate(model.variables)}
    return [places[each] for each in found] if all(each in places for each in found) else None


def _trained(model: Any) -> dict[str, Any] | None:
    """Return the trainable layers and the optimizer's configuration as JSON.

    None if Keras cannot serialize the optimizer. None also if layers were frozen or unfrozen and the model not compiled
    since, which has no effect yet.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return None
    if len(keras_internals.built_for(optimizer) or ()) != len(model.trainable_variables):
        return None
    try:
        trained = {"layers": _trainable(model), "optimizer": keras.saving.serialize_keras_object(optimizer)}
        json.dumps(trained)
    except Exception:
        return None
    return trained


def _trainable(model: Any) -> list[bool]:
    """Return whether each layer is trainable, an outer layer before its inner ones."""
    return [bool(layer.trainable) for layer in keras_internals.flatten_layers(model)]


def _compile_again(model: Any, trained: Mapping[str, Any]) -> None:
    """Repeat on a new model what a callback did to the saved one: unfreeze layers, and compile."""
    if trained["layers"] == _trainable(model):
        return
    for layer, trainable in zip(keras_internals.flatten_layers(model), trained["layers"], strict=False):
        layer.trainable = trainable
    model.optimizer = keras.saving.deserialize_keras_object(trained["optimizer"])
    model.train_function = None  # it was made for the previous optimizer


# Files ----------------------------------------------------------------------------------------------------------------


def _write(path: Path, groups: Mapping[str, Sequence[Array]], meta: Mapping[str, Any]) -> None:
    """Write a file completely, or leave the previous one untouched."""
    content: dict[str, Any] = {}
    dtypes = {}
    for name, arrays in groups.items():
        for i, array in enumerate(arrays):
            # numpy's format has no bfloat16 and the like: save their bits and their names.
            foreign = array.dtype.kind == "V"
            content[f"{name}/{i}"] = array.view(f"u{array.itemsize}") if foreign else array
            if foreign:
                dtypes[f"{name}/{i}"] = array.dtype.name
    sizes = {name: len(arrays) for name, arrays in groups.items()}
    text = json.dumps({**meta, "sizes": sizes, "dtypes": dtypes})
    content[_META] = np.frombuffer(text.encode(), dtype=np.uint8)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        for attempt in (1, 2):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(temporary, "wb") as file:
                    np.savez(file, **content)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
                return
            except FileNotFoundError:  # another program has just deleted the folder
                if attempt == 2:
                    raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _read_meta(path: Path) -> dict[str, Any]:
    """Read all of a file but its arrays."""
    with np.load(path, allow_pickle=False) as file:
        meta: dict[str, Any] = json.loads(file[_META].tobytes())
    return meta


def _read(path: Path) -> tuple[dict[str, list[Array]], dict[str, Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            content = dict(file)
        meta: dict[str, Any] = json.loads(content[_META].tobytes())
        for key, name in meta["dtypes"].items():
            content[key] = content[key].view(np.dtype(name))
        groups = {name: [content[f"{name}/{i}"] for i in range(size)] for name, size in meta["sizes"].items()}
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise SearchError(f"{path} is missing or damaged ({error}): put a copy of it back, or train again") from error
    return groups, meta
