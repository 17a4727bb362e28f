"""Checkpoints: the state of a training after an epoch, in one `.npz` file without pickles.

A training continues from its checkpoint with the same bits. The state is `model.variables` (with the states of seed
generators; metrics start anew each epoch and are left out), `optimizer.variables`, the epochs and their logs, the best
epoch so far, and the attributes of callbacks. A second file holds the weights of the best epoch, for retrieval.

Call `capture_state` in the last callback's `on_epoch_end`. When `fit` ends, `EarlyStopping(restore_best_weights=True)`
and optimizers with averaged weights change the model.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from search.errors import SearchError, SpaceError

__all__ = [
    "BestWeights",
    "Checkpoint",
    "TrainingState",
    "capture_state",
    "copy_weights",
    "load_checkpoint",
    "load_weights",
    "save_checkpoint",
    "save_weights",
]

Array = np.ndarray[Any, Any]

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
    """

    path: Path
    owner: dict[str, Any]
    history: list[dict[str, Any]]
    best_epoch: int | None
    best_value: float | None
    stopped_by_callback: bool
    whole: bool
    runner: str | None
    _groups: dict[str, list[Array]]
    _callbacks: list[dict[str, Any]]
    _trained: dict[str, Any] | None

    @property
    def epoch(self) -> int:
        """Number of trained epochs."""
        return int(self.history[-1]["epoch"]) if self.history else 0

    def restore(self, model: Any) -> None:
        """Restore the state, with the same bits, in a freshly built and compiled model.

        Raises:
            SpaceError: in one line, if the model or its optimizer differs from the saved one.
        """
        if self._trained is not None:
            _compile_again(model, self._trained)
        _assign(model.variables, self._groups["model"], "model", self.path)
        _assign(_optimizer_variables(model), self._groups["optimizer"], "optimizer", self.path)

    def restore_callbacks(self, callbacks: Sequence[Any]) -> None:
        """Restore the attributes of the user's callbacks. Call this after `on_train_begin`, which resets them.

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
                setattr(callback, name, _decode(value, self._groups["callbacks"]))


@dataclass(frozen=True, slots=True)
class TrainingState:
    """A copy of a training's state, which later epochs do not change.

    Attributes:
        groups: the arrays of `model`, `optimizer` and `callbacks`.
        callbacks: the class and the attributes of each callback, as JSON.
        lost: the attributes of callbacks that cannot be saved, as "EarlyStopping.name"; functions are not mentioned.
        trained: the trainable layers and the optimizer's configuration, both of which a callback may have changed.
    """

    groups: Mapping[str, Sequence[Array]]
    callbacks: list[dict[str, Any]]
    lost: list[str]
    trained: dict[str, Any] | None = None


def capture_state(model: Any, callbacks: Sequence[Any]) -> TrainingState:
    """Copy the present state of a training.

    Args:
        callbacks: the user's callbacks. Attributes are saved if they consist of JSON's scalars, lists, tuples, dicts,
            numpy arrays and numpy scalars.
    """
    states, remembered, lost = _callback_states(callbacks)
    groups = {
        "model": _values(model, model.variables),
        "optimizer": _values(model, _optimizer_variables(model)),
        "callbacks": remembered,
    }
    return TrainingState(groups, states, lost, _trained(model))


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
        _groups=groups,
        _callbacks=meta["callbacks"],
        _trained=meta.get("trained"),
    )


def copy_weights(model: Any) -> list[Array]:
    """Copy `model.weights`, which are enough to evaluate the model as it is now."""
    return _values(model, model.weights)


def save_weights(path: str | Path, arrays: Sequence[Array], epoch: int, value: float, *, inputs: Any = None) -> None:
    """Write the weights of a model to `path`, completely or not at all.

    Args:
        arrays: as `copy_weights` returned them.
        epoch, value: the number of trained epochs and the objective at the time of the copy.
        inputs: the model's inputs as JSON; see `arrays.spec_to_json`.
    """
    _write(Path(path), {"model": arrays}, {"epoch": epoch, "value": value, "inputs": inputs})


@dataclass(frozen=True, slots=True)
class BestWeights:
    """The weights of a trial's best epoch, read from their file. Files of old versions have no `inputs`."""

    path: Path
    epoch: int
    value: float
    inputs: Any
    _arrays: list[Array]

    def assign_to(self, model: Any) -> None:
        """Assign the weights to a built model. SpaceError if the model differs from the saved one."""
        _assign(model.weights, self._arrays, "model", self.path)


def load_weights(path: str | Path) -> BestWeights:
    """Read weights that `save_weights` wrote. SearchError if the file is missing or damaged."""
    groups, meta = _read(Path(path))
    return BestWeights(Path(path), meta["epoch"], meta["value"], meta.get("inputs"), groups["model"])


def _optimizer_variables(model: Any) -> list[Any]:
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return []
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    variables: list[Any] = optimizer.variables
    return variables


def _trained(model: Any) -> dict[str, Any] | None:
    """Return the trainable layers and the optimizer's configuration as JSON.

    None if Keras cannot serialize the optimizer. None also if layers were frozen or unfrozen and the model not compiled
    since, which has no effect yet.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or len(optimizer._trainable_variables) != len(model.trainable_variables):
        return None
    try:
        trained = {"layers": _trainable(model), "optimizer": keras.saving.serialize_keras_object(optimizer)}
        json.dumps(trained)
    except Exception:
        return None
    return trained


def _trainable(model: Any) -> list[bool]:
    """Return whether each layer is trainable, an outer layer before its inner ones."""
    return [bool(layer.trainable) for layer in model._flatten_layers()]


def _compile_again(model: Any, trained: Mapping[str, Any]) -> None:
    """Repeat on a new model what a callback did to the saved one: unfreeze layers, and compile."""
    if trained["layers"] == _trainable(model):
        return
    for layer, trainable in zip(model._flatten_layers(), trained["layers"], strict=False):
        layer.trainable = trainable
    model.optimizer = keras.saving.deserialize_keras_object(trained["optimizer"])
    model.train_function = None  # it was made for the previous optimizer


def _values(model: Any, variables: Sequence[Any]) -> list[Array]:
    if keras.config.backend() == "tensorflow":
        # This also reads a variable with a copy on each device, which Keras returns unconverted.
        return [np.array(variable.value.numpy()) for variable in variables]
    # On JAX, a model in training has its state elsewhere until asked.
    if keras.config.backend() == "jax":
        model.jax_state_sync()
    return [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in variables]


def _assign(variables: Sequence[Any], arrays: Sequence[Array], what: str, path: Path) -> None:
    """Assign all arrays, or raise SpaceError before any is assigned."""
    hint = "build_model must give the same model, compiled in the same way, for the same hyperparameters"
    if len(variables) != len(arrays):
        raise SpaceError(
            f"{path} holds {len(arrays)} variables of the {what}, the one that was built has {len(variables)}: {hint}"
        )
    for variable, array in zip(variables, arrays, strict=True):
        built = f"{variable.dtype}{list(variable.shape)}"
        saved = f"{array.dtype.name}{list(array.shape)}"
        if built != saved:
            raise SpaceError(
                f"{path} holds {saved} for the {what}'s variable {variable.path}, which is {built}: {hint}"
            )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


# Callbacks ------------------------------------------------------------------------------------------------------------


def _callback_states(callbacks: Sequence[Any]) -> tuple[list[dict[str, Any]], list[Array], list[str]]:
    """Return the callbacks' states as JSON, the arrays that it refers to, and the attributes that cannot be saved."""
    states, arrays, lost = [], list[Array](), []
    for callback in callbacks:
        attributes = {}
        for name, value in vars(callback).items():
            if _is_state(callback, name, value):
                before = len(arrays)
                try:
                    attributes[name] = _encode(value, arrays)
                except TypeError:
                    del arrays[before:]
                    lost.append(f"{type(callback).__name__}.{name}")
        states.append({"class": type(callback).__name__, "attributes": attributes})
    return states, arrays, lost


_RENEWED: Mapping[type[Any], Sequence[str]] = {
    keras.callbacks.CSVLogger: ("append", "append_header", "csv_file", "writer"),
    keras.callbacks.TensorBoard: ("_summary_module", "_writers"),
}
"""Attributes that Keras's callbacks must make anew for each training."""


def _is_state(callback: Any, name: str, value: Any) -> bool:
    if name in ("model", "_model", "params") or callable(value):
        return False
    if any(name in names for cls, names in _RENEWED.items() if isinstance(callback, cls)):
        return False
    if isinstance(value, str) and Path(value).is_absolute():
        return False  # an output path: the study may have been moved
    # Keras negates `min_delta` once per instance, when it makes `monitor_op`. A restored one would be negated again.
    return not (name == "min_delta" and hasattr(callback, "monitor_op"))


def _encode(value: Any, arrays: list[Array]) -> Any:
    """Return `value` as JSON, with indices into `arrays`, to which arrays are appended. TypeError if that fails."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (np.ndarray, np.generic)) and not (value.dtype.hasobject or value.dtype.names):
        arrays.append(np.array(value))
        return {"array" if isinstance(value, np.ndarray) else "scalar": len(arrays) - 1}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_encode(item, arrays) for item in value]}
    if type(value) is dict:
        return {"dict": [[_encode(key, arrays), _encode(item, arrays)] for key, item in value.items()]}
    raise TypeError(f"{type(value).__name__} has no representation")


def _decode(data: Any, arrays: Sequence[Array]) -> Any:
    if not isinstance(data, dict):
        return data
    ((kind, content),) = data.items()
    if kind == "array":
        return arrays[content]
    if kind == "scalar":
        return arrays[content][()]
    if kind == "dict":
        return {_decode(key, arrays): _decode(item, arrays) for key, item in content}
    items = [_decode(item, arrays) for item in content]
    return tuple(items) if kind == "tuple" else items


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
        with open(temporary, "wb") as file:
            np.savez(file, **content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
