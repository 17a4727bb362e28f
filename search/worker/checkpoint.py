"""A training's state after an epoch, in one `.npz` without pickles, from which it goes on bit by bit.

The state is `model.variables` (the states of seed generators are among them; metrics start each epoch anew and need not
be kept), `optimizer.variables`, the epoch and its logs, the best epoch so far, and what the callbacks remember. The
weights of the best epoch are a file of their own, for retrieval.

`capture` belongs into the last callback's `on_epoch_end`: when `fit` ends, `EarlyStopping(restore_best_weights=True)`
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

__all__ = ["Checkpoint", "State", "Weights", "capture", "load", "load_weights", "save", "save_weights", "snapshot"]

Array = np.ndarray[Any, Any]

_META = "meta"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What `save` wrote, read back.

    Attributes:
        owner: what tells this trial from any other.
        history: each trained epoch's `epoch` (from 1), `logs` and `seconds`, so that a driver that died before it
            journaled them can be told again.
        best_epoch, best_value: the best epoch so far (counted from 1) and its objective, or None.
        stopped_by_callback: a callback of the user's ended the training there.
        whole: the training cannot go on from here: it belongs to a `fit` of the user's that begins anew.
    """

    path: Path
    owner: dict[str, Any]
    history: list[dict[str, Any]]
    best_epoch: int | None
    best_value: float | None
    stopped_by_callback: bool
    whole: bool
    _groups: dict[str, list[Array]]
    _callbacks: list[dict[str, Any]]
    _trained: dict[str, Any] | None

    @property
    def epoch(self) -> int:
        """How many epochs were trained."""
        return int(self.history[-1]["epoch"]) if self.history else 0

    def restore(self, model: Any) -> None:
        """Put the state into a freshly built and compiled model, bit by bit.

        Raises:
            SpaceError: in one line, where the model or its optimizer is another than the one that was saved.
        """
        if self._trained is not None:
            _compile_again(model, self._trained)
        _assign(model.variables, self._groups["model"], "model", self.path)
        _assign(_optimizer_variables(model), self._groups["optimizer"], "optimizer", self.path)

    def restore_callbacks(self, callbacks: Sequence[Any]) -> None:
        """Put back what the user's callbacks remembered; to be called after `on_train_begin`, which resets them.

        Raises:
            SpaceError: in one line, where they are not the callbacks that were saved.
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
class State:
    """A training's state, copied: later epochs do not change it.

    Attributes:
        trained: what of the model is trained, and by which optimizer: a callback may have changed both.
        lost: the attributes of callbacks that cannot be kept, as "EarlyStopping.name"; functions are not mentioned.
    """

    groups: Mapping[str, Sequence[Array]]
    callbacks: list[dict[str, Any]]
    lost: list[str]
    trained: dict[str, Any] | None = None


def capture(model: Any, callbacks: Sequence[Any]) -> State:
    """The state of a training as it is now.

    Args:
        callbacks: the user's, whose state is kept as far as it is made of JSON's scalars, lists, tuples, dicts, numpy
            arrays and scalars.
    """
    states, remembered, lost = _callback_states(callbacks)
    groups = {
        "model": _values(model, model.variables),
        "optimizer": _values(model, _optimizer_variables(model)),
        "callbacks": remembered,
    }
    return State(groups, states, lost, _trained(model))


def save(
    path: str | Path,
    state: State,
    *,
    owner: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    best_epoch: int | None,
    best_value: float | None,
    stopped_by_callback: bool = False,
    whole: bool = False,
) -> None:
    """Write a trial's state to `path`, all of it or nothing; the rest as in `Checkpoint`."""
    meta = {
        "owner": dict(owner),
        "history": [dict(record) for record in history],
        "best_epoch": best_epoch,
        "best_value": best_value,
        "finished": stopped_by_callback,
        "whole": whole,
        "callbacks": state.callbacks,
        "trained": state.trained,
    }
    _write(Path(path), state.groups, meta)


def load(path: str | Path) -> Checkpoint:
    """Read what `save` wrote. SearchError where the file is missing or damaged."""
    groups, meta = _read(Path(path))
    return Checkpoint(
        path=Path(path),
        owner=meta["owner"],
        history=meta["history"],
        best_epoch=meta["best_epoch"],
        best_value=meta["best_value"],
        stopped_by_callback=meta["finished"],
        whole=meta.get("whole", False),
        _groups=groups,
        _callbacks=meta["callbacks"],
        _trained=meta.get("trained"),
    )


def snapshot(model: Any) -> list[Array]:
    """A copy of `model.weights`: what it takes to evaluate the model as it is now."""
    return _values(model, model.weights)


def save_weights(path: str | Path, arrays: Sequence[Array], epoch: int, value: float, *, inputs: Any = None) -> None:
    """Write a snapshot, all of it or nothing.

    Args:
        epoch, value: when it was taken, in trained epochs, and the objective then.
        inputs: what the model takes, as JSON; see `data.describe`.
    """
    _write(Path(path), {"model": arrays}, {"epoch": epoch, "value": value, "inputs": inputs})


@dataclass(frozen=True, slots=True)
class Weights:
    """What `save_weights` wrote, read back; `inputs` is None where the file is of a version that did not keep it."""

    path: Path
    epoch: int
    value: float
    inputs: Any
    _arrays: list[Array]

    def put_into(self, model: Any) -> None:
        """Assign a built model's weights. SpaceError where it is another model than the one that was saved."""
        _assign(model.weights, self._arrays, "model", self.path)


def load_weights(path: str | Path) -> Weights:
    """Read a written snapshot. SearchError where the file is missing or damaged."""
    groups, meta = _read(Path(path))
    return Weights(Path(path), meta["epoch"], meta["value"], meta.get("inputs"), groups["model"])


def _optimizer_variables(model: Any) -> list[Any]:
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return []
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    variables: list[Any] = optimizer.variables
    return variables


def _trained(model: Any) -> dict[str, Any] | None:
    """Which layers are trained, and the optimizer's configuration; None where Keras cannot describe that, and where
    layers were frozen or freed and the model not compiled since, which has no effect yet."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or len(optimizer._trainable_variables) != len(model.trainable_variables):
        return None
    try:
        described = {"layers": _trainable(model), "optimizer": keras.saving.serialize_keras_object(optimizer)}
        json.dumps(described)
    except Exception:
        return None
    return described


def _trainable(model: Any) -> list[bool]:
    """Of each layer, a layer before those within it."""
    return [bool(layer.trainable) for layer in model._flatten_layers()]


def _compile_again(model: Any, trained: Mapping[str, Any]) -> None:
    """Do what a callback did to a model that was built and compiled anew: unfreeze layers, and compile."""
    if trained["layers"] == _trainable(model):
        return
    for layer, trainable in zip(model._flatten_layers(), trained["layers"], strict=False):
        layer.trainable = trainable
    model.optimizer = keras.saving.deserialize_keras_object(trained["optimizer"])
    model.train_function = None  # that of the optimizer before


def _values(model: Any, variables: Sequence[Any]) -> list[Array]:
    if keras.config.backend() == "tensorflow":
        # Also of a variable with a copy on each device, which Keras hands on as it is.
        return [np.array(variable.value.numpy()) for variable in variables]
    # On JAX, a model that is being trained holds its state elsewhere until asked.
    if keras.config.backend() == "jax":
        model.jax_state_sync()
    return [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in variables]


def _assign(variables: Sequence[Any], arrays: Sequence[Array], what: str, path: Path) -> None:
    """Assign all, or raise before anything is assigned."""
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
    """The callbacks' states as JSON, the arrays that it refers to, and the names of what cannot be represented."""
    states, arrays, lost = [], list[Array](), []
    for callback in callbacks:
        attributes = {}
        for name, value in vars(callback).items():
            if _is_kept(callback, name, value):
                before = len(arrays)
                try:
                    attributes[name] = _encode(value, arrays)
                except TypeError:
                    del arrays[before:]
                    lost.append(f"{type(callback).__name__}.{name}")
        states.append({"class": type(callback).__name__, "attributes": attributes})
    return states, arrays, lost


_OPENED: Mapping[type[Any], Sequence[str]] = {
    keras.callbacks.CSVLogger: ("append", "append_header", "csv_file", "writer"),
    keras.callbacks.TensorBoard: ("_summary_module", "_writers"),
}
"""What callbacks of Keras's make anew for each training, and must."""


def _is_kept(callback: Any, name: str, value: Any) -> bool:
    if name in ("model", "_model", "params") or callable(value):
        return False
    if any(name in names for cls, names in _OPENED.items() if isinstance(callback, cls)):
        return False
    if isinstance(value, str) and Path(value).is_absolute():
        return False  # where it writes: the study may have been moved
    # Keras negates `min_delta` once an instance, when it makes `monitor_op`; a restored one would be negated again.
    return not (name == "min_delta" and hasattr(callback, "monitor_op"))


def _encode(value: Any, arrays: list[Array]) -> Any:
    """`value` as JSON that refers to `arrays` by their index. TypeError for what has no representation."""
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
    """Write a file that is either there and whole, or not there; in the latter case what was there before stays."""
    content: dict[str, Any] = {}
    dtypes = {}
    for name, arrays in groups.items():
        for i, array in enumerate(arrays):
            # numpy's format knows no bfloat16 and its like: their bits are kept, and their names.
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
