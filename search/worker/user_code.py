"""The user's code in a worker: it is run once for each process, and its functions are called in order.

The order is `load_data`, `build_model`, `compile_model`, `fit_options`, `callbacks`, `fit`.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras

from search.errors import SearchError, SpaceError
from search.space.domain import Value
from search.space.file import Space, SpaceRef, describe_type
from search.worker.data import shared
from search.worker.data.arrays import Data, prepare_data, split_off
from search.worker.data.streams import Stream
from search.worker.hp import LazyHyperParameters
from search.worker.imported_state import ImportedState
from search.worker.keras_internals import used_names
from search.worker.keras_session import import_space, names_after, set_seed
from search.worker.runners.fused import clear_device_copies

_trial_folder: list[Path] = []


def trial_dir() -> Path:
    """Return the running trial's own folder, for callbacks that write files.

    If a factory is called while no trial runs, in a probe or to rebuild a model, the folder is a temporary one.

    Returns:
        An absolute path of a folder that exists.

    Raises:
        SearchError: if called at any other time.

    Example:
        A callback of a space file, which writes the predictions of each epoch::

            import keras
            import numpy as np
            import search

            class Predictions(keras.callbacks.Callback):
                def __init__(self, folder):
                    super().__init__()
                    self.folder = folder

                def on_epoch_end(self, epoch, logs=None):
                    np.save(self.folder / f"predictions-{epoch}.npy", self.model.predict(np.zeros((1, 4)), verbose=0))

            def callbacks(hp):
                return [Predictions(search.trial_dir())]
    """
    if not _trial_folder:
        raise SearchError("search.trial_dir() is known only while a trial runs: call it in build_model or callbacks")
    return _trial_folder[-1]


@contextmanager
def trial_folder(folder: Path | None = None) -> Iterator[None]:
    """Make `trial_dir` return `folder`, by default a temporary folder, within the context."""
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="search-")))
        folder.mkdir(parents=True, exist_ok=True)
        _trial_folder.append(folder)
        stack.callback(_trial_folder.pop)
        yield


@functools.lru_cache(maxsize=1)
def load_space(ref: SpaceRef) -> Space:
    """Run the user's code, once per process, and return its functions."""
    space = import_space(ref)
    _imported[ref] = ImportedState(ref, space)
    return space


def load_unused_space(ref: SpaceRef) -> Space:
    """Return the user's functions, with all Keras objects that the code has made as before the first model."""
    space = load_space(ref)
    if not _imported[ref].reset():
        load_space.cache_clear()
        _loaded.discard(ref)
        clear_data()
        space = load_space(ref)
    return space


def adapts_objects(ref: SpaceRef) -> bool:
    """Return whether `load_data` has changed Keras objects that the code has made while it was imported."""
    return ref in _adapted


def has_common_objects(ref: SpaceRef, model: Any) -> bool:
    """Return whether a model contains Keras objects that the code has made while it was imported."""
    return _imported[ref].is_in(model)


_imported: dict[SpaceRef, ImportedState] = {}
"""The state of the objects that the user's code has made before the first model."""
_loaded: set[SpaceRef] = set()
"""The code whose `load_data` has been called since its import."""
_adapted: set[SpaceRef] = set()


_arrays: dict[SpaceRef, Data] = {}
_counts: dict[tuple[SpaceRef, str], int] = {}


_data_names: dict[SpaceRef, Mapping[str, int]] = {}
"""The names that are taken once the data are loaded, where `load_data` changes a global name of the user's modules."""


def taken_names(ref: SpaceRef) -> Mapping[str, int]:
    """Return the names that a model's layers must come after: those of layers that the user's code may put into it."""
    return _data_names.get(ref, load_space(ref).names)


_reported: set[tuple[SpaceRef, str]] = set()
"""The data that this process has reported, by `DataLoaded.key`."""


def is_reported(ref: SpaceRef, key: str) -> bool:
    """Return whether the driver has been told of these data; from now on it has.

    Args:
        key: the values that `load_data` asked for, as `DataLoaded.key`.
    """
    known = (ref, key) in _reported
    _reported.add((ref, key))
    return known


def clear_user_code() -> None:
    """Drop the space and the data of this process."""
    load_space.cache_clear()
    clear_data()


def clear_data() -> None:
    """Drop the data, so that they are loaded anew when next needed."""
    _arrays.clear()
    _counts.clear()
    _data_names.clear()
    _reported.clear()
    split_off.cache_clear()
    clear_device_copies()


def load_data(ref: SpaceRef, hp: Any = None, folder: str | None = None) -> Data:
    """Return the user's data. Arrays are loaded once per process; streams, and data that depend on `hp`, each time.

    Args:
        hp: the hyperparameters, for a `load_data` that takes them.
        folder: the folder in which another process may have put the arrays that all workers share.
    """
    if ref in _arrays:
        return _arrays[ref]
    space = load_space(ref)
    loaded = shared.load_arrays(folder) if folder is not None else None
    if loaded is None:
        # The user's unseeded shuffles and splits must be the same in every process.
        set_seed(0)
        loaded = prepare_data(_call_load_data(ref, space, hp))
    split_off.cache_clear()
    clear_device_copies()
    if loaded.is_arrays and not space.data_takes_hp:
        _arrays.clear()
        _arrays[ref] = loaded
    return loaded


def _call_load_data(ref: SpaceRef, space: Space, hp: Any) -> Any:
    path = Path(ref.path) if ref.path else None
    before = shared.module_globals(path)
    with names_after(space.names):
        raw = space.load_data(hp) if space.data_takes_hp else space.load_data()
        if shared.module_globals(path) != before:
            _data_names.setdefault(ref, used_names())
    if ref not in _loaded:
        _loaded.add(ref)
        if not _imported[ref].is_unchanged:
            _adapted.add(ref)
            _imported[ref] = ImportedState(ref, space)
    return raw


def count_batches(ref: SpaceRef, data: Data, options: Mapping[str, Any], tell: Callable[[str], None]) -> Data:
    """Return `data` with the number of batches of each stream for which the user's options do not say how many to read.

    The batches of what `load_data` returns are counted once per process.

    Args:
        options: the user's options for `model.fit`.
        tell: shows a text to the user, if counting takes long.
    """

    def counted(name: str, part: Any) -> Any:
        is_known = not isinstance(part, Stream) or part.batches is not None or part.endless
        return part if is_known or options.get(_STEP_OPTIONS[name]) is not None else _count(ref, name, part, tell)

    return replace(data, train=counted("train", data.train), validation=counted("validation", data.validation))


_STEP_OPTIONS = {"train": "steps_per_epoch", "validation": "validation_steps"}


def _count(ref: SpaceRef, name: str, part: Stream, tell: Callable[[str], None]) -> Stream:
    key, space = (ref, name), load_space(ref)
    if space.data_takes_hp or space.fit is not None or key not in _counts:
        _counts[key] = part.count(
            lambda: tell(
                f"load_data: the batches of the {name} data are being counted, by reading all of them: give "
                f"{_STEP_OPTIONS[name]} in fit_options, and they are not counted (if they have no end, there is no "
                "other way)"
            )
        )
    elif part.kind == "dataset":
        iter(part.source)  # counting would have advanced its shuffle as well
    return replace(part, batches=_counts[key])


def data_values(ref: SpaceRef, hp: LazyHyperParameters) -> Mapping[str, Value]:
    """Return the values that `load_data` has asked `hp` for, right after it was called; none if it takes no `hp`."""
    return dict(hp.used_values) if load_space(ref).data_takes_hp else {}


@dataclass(frozen=True, slots=True)
class TrialSetup:
    """A trial's compiled model, fit options and callbacks, as the user's functions returned them."""

    model: Any
    fit_options: Mapping[str, Any]
    callbacks: list[Any]


def build_trial_model(space: Space, hp: Any) -> Any:
    """Build a compiled model for `hp`. SpaceError if the factory returns anything else."""
    model = space.build_model(hp)
    if not isinstance(model, keras.Model):
        if _is_keras_2(model):
            raise SpaceError(f"build_model returned a Keras 2 model; {_KERAS_3}")
        hint = " (is a return missing?)" if model is None else ""
        shown = f"the class {model.__name__}" if isinstance(model, type) else describe_type(model)
        raise SpaceError(f"build_model returned {shown}: return a keras.Model{hint}")
    if space.compile_model is not None:
        compiled = space.compile_model(hp, model)
        model = compiled if isinstance(compiled, keras.Model) else model
    if not model.compiled and space.fit is None:
        raise SpaceError(
            "the model is not compiled: call model.compile(…) in build_model, or add a compile_model(hp, model)"
        )
    return model


def set_up_trial(space: Space, hp: Any) -> TrialSetup:
    """Call the user's functions in order. SpaceError if one returns an unusable value."""
    model = build_trial_model(space, hp)
    options = space.fit_options(hp) if space.fit_options else {}
    if not isinstance(options, Mapping):
        raise SpaceError(f"fit_options returned {describe_type(options)}: return a dict")
    callbacks = space.make_callbacks(hp, model)
    if isinstance(callbacks, keras.callbacks.Callback):
        callbacks = [callbacks]
    if any(map(_is_keras_2, callbacks if isinstance(callbacks, (list, tuple)) else [callbacks])):
        raise SpaceError(f"callbacks returned a Keras 2 callback; {_KERAS_3}")
    if not isinstance(callbacks, (list, tuple)):
        raise SpaceError(f"callbacks returned {describe_type(callbacks)}: return a list of Keras callbacks")
    for callback in callbacks:
        if not isinstance(callback, keras.callbacks.Callback):
            raise SpaceError(f"callbacks returned a list with {callback!r}: return a list of Keras callbacks")
    hp.note_own_values()
    return TrialSetup(model, options, list(callbacks))


_KERAS_3 = "search trains with Keras 3: import keras in place of tf_keras, and unset TF_USE_LEGACY_KERAS"


def _is_keras_2(value: Any) -> bool:
    """Return whether a value is of a class of Keras 2, or of a subclass."""
    cls = value if isinstance(value, type) else type(value)
    return any(base.__module__.partition(".")[0] == "tf_keras" for base in cls.__mro__)
