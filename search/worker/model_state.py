"""The state of a training outside `model.variables` and `model.optimizer`: saved, compared and restored.

`search.worker.attributes` finds it. Variables, optimizers and generators of random numbers are always saved. Plain
values are saved only if they differ from those that a new model has, which a `Baseline` holds. If training changes
anything else, or makes a variable that a new model does not have, the state is `lost`, and the trial cannot continue.
"""

from __future__ import annotations

import itertools
import operator
import warnings
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import Any

import keras
import numpy as np

from search.errors import SpaceError
from search.worker import keras_internals
from search.worker.attributes import Found, Path, describe_path, find_attributes, inner_layers, kind_of, roots_of
from search.worker.callback_state import CallbackBaseline, fingerprint_object
from search.worker.optimizer_slots import describe_optimizer, weight_places
from search.worker.plain_values import Array, decode, encode, fingerprint, is_tensor
from search.worker.variables import HINT, assign_checked, check_variables, read_variables

__all__ = [
    "Baseline",
    "SavedAttributes",
    "Unbuilt",
    "build_layers",
    "capture_attributes",
    "find_saved",
    "restore_attributes",
    "unbuilt_layers",
]

_LARGE = 1 << 20
"""Bytes of an array that is compared by its content only until it was found unchanged once."""


@dataclass(frozen=True, slots=True)
class SavedAttributes:
    """A copy of the state that the attributes of a model and its callbacks lead to.

    Attributes:
        entries: each saved value as JSON: its `path`, its `kind`, and its `data`, which refer to `arrays`.
        builds: the layers that training builds, by their paths, with what their `build_from_config` takes.
        lost: the model's attributes that training changes and no file can hold, as the user would write them.
        lost_by_callbacks: attributes of callbacks that no file can hold, as "EarlyStopping.name".
    """

    entries: list[dict[str, Any]] = field(default_factory=list)
    arrays: list[Array] = field(default_factory=list)
    builds: list[list[Any]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    lost_by_callbacks: list[str] = field(default_factory=list)

    @property
    def meta(self) -> dict[str, Any]:
        """All but the arrays, as JSON."""
        return {"entries": self.entries, "builds": self.builds, "lost": self.lost}

    @property
    def without_callbacks(self) -> SavedAttributes:
        """The part that belongs to the model."""
        return replace(self, entries=[each for each in self.entries if not each["path"][0].startswith("callbacks")])

    @classmethod
    def of(cls, meta: Mapping[str, Any] | None, arrays: Sequence[Array]) -> SavedAttributes:
        """Return what `meta` and the arrays describe; nothing for a file of an old version, without `meta`."""
        return cls(arrays=list(arrays), **meta) if meta else cls()


class Baseline:
    """The attributes of a model before training: those that the user's code gives to any new model.

    Args:
        callbacks: the user's callbacks, whose `on_train_begin` has been called.
        unbuilt: the layers that were not built before a checkpoint was restored; see `unbuilt_layers`.
        saved: the callbacks' states in the checkpoint that the training continues from; see `CallbackBaseline`.

    Attributes:
        of_callbacks: the plain attributes of the callbacks.
    """

    def __init__(
        self,
        model: Any,
        callbacks: Sequence[Any] = (),
        unbuilt: Unbuilt | None = None,
        saved: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.of_callbacks = CallbackBaseline(callbacks, saved)
        self.variables = len(model.variables)
        self.unbuilt = unbuilt_layers(model) if unbuilt is None else unbuilt
        self._found: dict[Path, Found] = {}
        self._fingerprints: dict[Path, bytes] = {}
        self._built: set[Path] = set()
        self._unchanged: set[Path] = set()
        self._positions: dict[Path, object] = {}
        self._objects: dict[Path, bytes | None] = {}
        for found in find_attributes(model, callbacks):
            if found.kind == "unbuilt":
                continue
            self._found[found.path] = found
            if found.kind == "plain":
                self._fingerprints[found.path] = fingerprint(found.value)
            elif found.kind == "iterator":
                self._positions[found.path] = _position(found.value)
            elif found.kind == "opaque" and _is_of_callback(found.path):
                self._objects[found.path] = fingerprint_object(found.value)
            elif found.kind == "optimizer" and found.value.built:
                self._built.add(found.path)

    @property
    def paths(self) -> Collection[Path]:
        """The paths of all values."""
        return self._found.keys()

    def has_built(self, path: Path) -> bool:
        """Return whether the user's code has built the optimizer at a path."""
        return path in self._built

    def has_same_class(self, found: Found) -> bool:
        """Return whether an attribute has had a value of this kind and class before training."""
        before = self._found.get(found.path)
        return before is not None and before.kind == found.kind and type(before.value) is type(found.value)

    def has_same_object(self, found: Found) -> bool:
        """Return whether an attribute still has its first object, which may have changed."""
        before = self._found.get(found.path)
        return before is not None and before.value is found.value

    def is_unchanged(self, found: Found) -> bool:
        """Return whether an attribute has the value that it had before training, as far as that can be known."""
        before = self._found.get(found.path)
        if before is None or before.kind != found.kind:
            return False
        if found.kind == "iterator":
            return before.value is found.value and self._positions[found.path] == _position(found.value)
        if found.kind == "structure":
            return bool(before.value == found.value)
        if self._objects.get(found.path) is not None:
            return self._objects[found.path] == fingerprint_object(found.value)
        if before.value is found.value and (_is_constant(found) or found.path in self._unchanged):
            return True
        if found.kind == "opaque":
            return False
        unchanged = self._fingerprints[found.path] == fingerprint(found.value)
        if unchanged and isinstance(found.value, np.ndarray) and found.value.nbytes > _LARGE:
            self._unchanged.add(found.path)
        return unchanged


def _is_of_callback(path: Path) -> bool:
    return bool(path[0].startswith("callbacks"))


def _is_constant(found: Found) -> bool:
    """Return whether an object is known, or has to be taken, to stay as it is."""
    if isinstance(found.value, np.ndarray):
        return not found.value.flags.writeable
    return found.kind == "opaque" or (is_tensor(found.value) and keras.config.backend() != "torch")


def _position(iterator: Any) -> object:
    """Return a value that changes as an iterator advances. Values of iterators that do not tell are never equal."""
    rest = operator.length_hint(iterator, -1)
    return repr(iterator) if isinstance(iterator, itertools.count) else object() if rest < 0 else rest


Unbuilt = list[tuple[Path, Any]]


def unbuilt_layers(model: Any) -> Unbuilt:
    """Return the layers without variables yet, by their paths. Only a `train_step` of the user's may build them."""
    return [(found.path, found.value) for found in find_attributes(model) if found.kind == "unbuilt"]


# Capture --------------------------------------------------------------------------------------------------------------


def capture_attributes(
    model: Any, callbacks: Sequence[Any] = (), baseline: Baseline | None = None, *, weights_only: bool = False
) -> SavedAttributes:
    """Copy the state that a model's attributes lead to, and that neither its variables nor its optimizer have.

    Args:
        callbacks: the user's callbacks. Their attributes are included, except plain ones.
        baseline: the attributes before training. Without one, no plain values are saved, nothing of the model's is
            lost, and all of the callbacks' that cannot be saved is.
        weights_only: leave out optimizers and generators of random numbers, which an evaluation does not need.
    """
    if keras.config.backend() == "jax":
        model.jax_state_sync()  # a model in training has its state elsewhere until asked
    found = find_attributes(model, callbacks)
    capture = _Capture(model, found, baseline)
    for each in found:
        if not (weights_only and (each.kind in ("optimizer", "generator") or each.path[0] == "optimizer")):
            capture.add(each)
    if not weights_only:
        capture.note_missing(found)
    roots = roots_of(model, callbacks)
    lost = {path: describe_path(path, roots) for path in capture.lost}
    names = [name for path, name in lost.items() if not any(path[:n] in lost for n in range(1, len(path)))]
    if baseline is not None and not capture.builds and len(model.variables) != baseline.variables:
        names.append("variables")
    of_callbacks = [describe_path(path[:2], roots) for path in capture.lost_by_callbacks]
    return SavedAttributes(capture.entries, capture.arrays, capture.builds, names, list(dict.fromkeys(of_callbacks)))


class _Capture:
    """One capture.

    Attributes:
        entries, arrays, builds: as in `SavedAttributes`.
        lost, lost_by_callbacks: the paths of what is lost.
    """

    def __init__(self, model: Any, found: Sequence[Found], baseline: Baseline | None) -> None:
        self.entries: list[dict[str, Any]] = []
        self.arrays: list[Array] = []
        self.lost: list[Path] = []
        self.lost_by_callbacks: list[Path] = []
        self._baseline = baseline
        built = [] if baseline is None else [(path, layer) for path, layer in baseline.unbuilt if layer.built]
        self.builds = [[list(path), config] for path, layer in built if (config := layer.get_build_config())]
        self._rebuilt = [path for path, _ in built if path != ("model",)]
        self._references = {id(variable): ["model", ["variable", i]] for i, variable in enumerate(model.variables)}
        self._references |= {id(each.value): list(each.path) for each in found if each.kind == "variable"}
        self._model = model

    def add(self, found: Found) -> None:
        """Save a value, or note that it is lost."""
        baseline = self._baseline
        if baseline is None and found.kind in ("opaque", "iterator") and _is_of_callback(found.path):
            self._lose(found)
        elif found.kind in ("structure", "opaque", "iterator"):
            if baseline is not None and not baseline.is_unchanged(found):
                self._lose(found)
        elif found.kind == "plain":
            if baseline is not None and not baseline.is_unchanged(found):
                self._save(found, found.value, in_place=baseline.has_same_object(found))
        elif found.kind != "unbuilt":
            if baseline is not None and not baseline.has_same_class(found) and not self._is_rebuilt(found):
                self._lose(found)
            elif found.kind == "optimizer":
                self._add_optimizer(found)
            else:
                self._save(found, _READ[found.kind](found.value))

    def note_missing(self, found: Sequence[Found]) -> None:
        """Note attributes of the model that training has deleted. If an outer one was replaced, that one was saved."""
        if self._baseline is None:
            return
        paths = {each.path for each in found}
        replaced = {each.path for each in found if each.kind != "structure"}
        for path in self._baseline.paths:
            if path in paths or _is_of_callback(path):
                continue
            if not any(path[:n] in replaced for n in range(1, len(path))):
                self.lost.append(path)

    def _is_rebuilt(self, found: Found) -> bool:
        """Return whether a value belongs to a layer that training has built, and that will be built on restoring."""
        return any(found.path[: len(path)] == path for path in self._rebuilt)

    def _lose(self, found: Found) -> None:
        if _is_of_callback(found.path):
            self.lost_by_callbacks.append(found.path)
        elif not self._is_rebuilt(found):
            self.lost.append(found.path)

    def _add_optimizer(self, found: Found) -> None:
        built_for = keras_internals.built_for(found.value) or ()
        references = [self._references.get(id(variable)) for variable in built_for]
        if None in references:
            if self._baseline is not None and not self._baseline.has_built(found.path):
                self._lose(found)
                return
            references = []
        slots = describe_optimizer(found.value, weight_places(self._model))
        self._save(found, read_variables(found.value.variables), built_for=references, slots=slots)

    def _save(self, found: Found, value: Any, **more: Any) -> None:
        try:
            data = encode(value, self.arrays)
        except TypeError:
            self._lose(found)
        else:
            self.entries.append({"path": list(found.path), "kind": found.kind, "data": data, **more})


# Restoring ------------------------------------------------------------------------------------------------------------


def build_layers(model: Any, saved: SavedAttributes) -> list[str]:
    """Build the layers of a new model that its training builds. Return the names of those that cannot be built."""
    places = _Places(model)
    failed = []
    for path, config in [(_as_path(path), config) for path, config in saved.builds]:
        try:
            layer = places.find(path)
            if not layer.built:
                # Keras warns of a layer without a `build` of its own. The layers in it are on the list, too.
                with warnings.catch_warnings(action="ignore"):
                    layer.build_from_config(_with_tuples(config))
        except Exception:  # the user's code may raise anything
            failed.append(describe_path(path, places.roots))
    return failed


def _with_tuples(config: Any) -> Any:
    """Return a build configuration that was read from JSON as Keras has made it."""
    if isinstance(config, dict):
        return {key: _with_tuples(value) for key, value in config.items()}
    return tuple(_with_tuples(item) for item in config) if isinstance(config, list) else config


def restore_attributes(
    model: Any, callbacks: Sequence[Any], saved: SavedAttributes, file: FilePath, *, strict: bool = True
) -> list[str]:
    """Restore the state, all of it or none.

    Args:
        file: the file that has held the state, for errors.
        strict: if the model lacks a saved value, raise an error.

    Returns:
        What the model lacks, if not `strict`.

    Raises:
        SpaceError: in one line, if the model differs from the saved one.
    """
    places = _Places(model, callbacks)
    present, missing = [], []
    for entry in saved.entries:
        path, kind = _as_path(entry["path"]), entry["kind"]
        try:
            target = places.find(path[:-1] if kind == "plain" else path)
        except (AttributeError, KeyError, IndexError, TypeError):
            target = None
        if target is None or (kind != "plain" and kind_of(target) != kind):
            missing.append(describe_path(path, places.roots))
        else:
            present.append((path, target, entry))
    if missing and strict:
        raise SpaceError(f"{file} holds {missing[0]}, which the model that was built lacks: {HINT}")
    for path, target, entry in present:
        if entry["kind"] == "optimizer" and not target.built and entry["built_for"]:
            target.build([places.find(_as_path(reference)) for reference in entry["built_for"]])
        if entry["kind"] in ("optimizer", "variable"):
            variables = target.variables if entry["kind"] == "optimizer" else [target]
            check_variables(variables, decode(entry["data"], saved.arrays), describe_path(path, places.roots), file)
    for path, target, entry in present:
        value = decode(entry["data"], saved.arrays)
        if entry["kind"] == "plain":
            places.put(path, value, in_place=entry["in_place"])
        else:
            _WRITE[entry["kind"]](target, value)
    return missing


def find_saved(model: Any, saved: SavedAttributes) -> list[tuple[Any, Any, dict[str, Any]]]:
    """Return (holder, value, entry) of the saved values that can be set in place, and that `model` has a place for.

    Optimizers are built as the saved ones. Values of callbacks are left out.
    """
    places = _Places(model)
    found = []
    for entry in saved.entries:
        path, kind = _as_path(entry["path"]), entry["kind"]
        try:
            holder, value = places.find(path[:-1]), places.find(path)
            if kind == "optimizer" and kind_of(value) == kind and not value.built and entry["built_for"]:
                value.build([places.find(_as_path(reference)) for reference in entry["built_for"]])
        except (AttributeError, KeyError, IndexError, TypeError):
            continue
        if kind == kind_of(value):
            found.append((holder, value, entry))
    return found


def _as_path(data: Sequence[Any]) -> Path:
    return (data[0], *map(tuple, data[1:]))


class _Places:
    """The places in a model and its callbacks to which paths lead.

    Attributes:
        roots: where paths begin.
    """

    def __init__(self, model: Any, callbacks: Sequence[Any] = ()) -> None:
        self.roots = roots_of(model, callbacks)
        self._parts: dict[tuple[int, str], list[Any]] = {}

    def find(self, path: Path) -> Any:
        """Return the value at a path. AttributeError, LookupError or TypeError if there is none."""
        value = self.roots[path[0]]
        for kind, key in path[1:]:
            if kind == ".":
                value = getattr(value, key)
            elif kind == "[":
                value = value[key]
            else:
                value = self._parts_of(value, kind)[key]
        return value

    def _parts_of(self, layer: Any, kind: str) -> list[Any]:
        if (id(layer), kind) not in self._parts:
            self._parts[id(layer), kind] = layer.variables if kind == "variable" else inner_layers(layer)
        return self._parts[id(layer), kind]

    def put(self, path: Path, value: Any, *, in_place: bool) -> None:
        """Set the value at a path. With `in_place`, a container or an array that is there is changed itself."""
        if in_place and _change(self.find(path), value):
            return
        holder, (kind, key) = self.find(path[:-1]), path[-1]
        if kind == ".":
            try:
                setattr(holder, key, value)
            except AttributeError:
                object.__setattr__(holder, key, value)  # of a frozen dataclass
        elif isinstance(holder, tuple):
            items = [value if i == key else item for i, item in enumerate(holder)]
            whole = type(holder)(*items) if hasattr(holder, "_fields") else tuple(items)
            self.put(path[:-1], whole, in_place=False)
        else:
            holder[key] = value


def _change(present: Any, value: Any) -> bool:
    """Give a container or an array the content of `value`. Return False if that cannot be."""
    if isinstance(present, (list, set, dict, deque)):
        present.clear()
        (present.update if isinstance(present, (set, dict)) else present.extend)(value)
        return True
    if getattr(present, "shape", None) != getattr(value, "shape", None) or present is None:
        return False
    if isinstance(present, np.ndarray) and present.dtype == value.dtype and present.flags.writeable:
        present[...] = value
        return True
    if is_tensor(present) and keras.config.backend() == "torch" and present.dtype == value.dtype:
        present.detach().copy_(value)
        return True
    return False


# Random numbers and PyTorch -------------------------------------------------------------------------------------------


def _read_generator(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.get_state() if isinstance(generator, np.random.RandomState) else generator.getstate()


def _write_generator(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.setstate(state)


_READ: Mapping[str, Any] = {
    "variable": lambda variable: read_variables([variable]),
    "generator": _read_generator,
    "stateful": lambda value: value.state_dict(),
}
_WRITE: Mapping[str, Any] = {
    "variable": lambda variable, arrays: assign_checked([variable], arrays),
    "optimizer": lambda optimizer, arrays: assign_checked(optimizer.variables, arrays),
    "generator": _write_generator,
    "stateful": lambda value, state: value.load_state_dict(state),
}
