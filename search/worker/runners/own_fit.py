"""A `fit` of the user's: called as KerasTuner calls it, with the training of its model intercepted.

The user's `fit` is given the number of epochs and a list of callbacks, the search's own callback among them. So the
search recognises the trial's training:

- A call of the model's `fit` that is given these very `epochs` is the training. It is checkpointed and continued like
  any other. The user's code before and after that call runs again in each segment.
- Calls that are given only the callbacks are the training, all of them: the trial's epochs are theirs, one after the
  other. If there is one such call, it is continued; if there are several, each segment begins anew.
- A loop of the user's own that calls the callbacks' `on_epoch_end` trains an epoch with each such call. Each segment
  begins anew.
- Any other `fit` is a black box: its result is what it returns, its model is the model as it ends, and its epochs are
  unknown. Each segment begins anew.

Other calls of the model's `fit`, such as a warm-up with epochs of its own, are Keras's.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import keras
import numpy as np

from search.errors import SpaceError
from search.space.file import Space, describe_type
from search.space.fit_arguments import FitArguments, readable
from search.study.trial import Objective
from search.worker.data.arrays import Data, Split, prepare_data, split_off
from search.worker.data.kinds import is_array_like
from search.worker.data.streams import Stream
from search.worker.runners.logs import scalar_logs

__all__ = [
    "BLACK_BOX",
    "OWN_LOOP",
    "SEVERAL_CALLS",
    "EndFit",
    "FitCall",
    "Trainer",
    "call_own_fit",
    "callbacks_of",
    "first_samples",
    "kept_epoch",
    "returned_logs",
]

BLACK_BOX = "black box: begins anew for each segment"
OWN_LOOP = "own loop: begins anew for each segment"
SEVERAL_CALLS = "several calls of model.fit: begins anew for each segment"
"""The runners' names for a user's `fit` that cannot continue."""

_DATA_ARGUMENTS = ("x", "y", "sample_weight", "validation_data", "validation_split")
_NO_OPTIONS = (*_DATA_ARGUMENTS, "self", "kwargs", "epochs", "initial_epoch", "callbacks", "verbose")


class EndFit(BaseException):
    """The end of a user's `fit`, raised where it goes on after the search has ended its training.

    It is no error of the user's, whose `except Exception` must not catch it.
    """


@dataclass(frozen=True, slots=True)
class FitCall:
    """A call of `model.fit` by the user's code.

    Attributes:
        data: the data to train and to validate on.
        options: the other arguments.
        callbacks: the callbacks, without the search's own.
        initial_epoch, epochs: as in `model.fit`.
        has_given_epochs: whether `epochs` is the number that the user's `fit` was given.
    """

    data: Data
    options: Mapping[str, Any]
    callbacks: Sequence[Any] = ()
    initial_epoch: int = 0
    epochs: int = 1
    has_given_epochs: bool = True


class Trainer(Protocol):
    """The search's side of a call of a user's `fit`.

    Attributes:
        closed: True once the trial's training is over. Later calls of `model.fit` are the user's own business.
        histories: the Histories of the trial's training that the user's `fit` was given.
    """

    closed: bool
    histories: list[Any]

    def train(self, call: FitCall) -> Any:
        """Train in place of a call of `model.fit` that belongs to the trial's training. Return its History."""

    def train_plainly(self, fit: Callable[..., Any], call: inspect.BoundArguments) -> Any:
        """Carry out any other call of `model.fit`, and return its History.

        Args:
            fit: Keras's `fit`, which takes the model first.
            call: the call's arguments, the model among them.
        """

    def begin_loop(self) -> None:
        """Take note that a loop of the user's own begins its training."""

    def begin_epoch(self) -> None:
        """Take note that a loop of the user's own begins an epoch."""

    def end_epoch(self, logs: Mapping[str, Any]) -> None:
        """Take note that a loop of the user's own has trained an epoch."""


class _GivenEpochs(int):
    """The number of epochs that a user's `fit` is given. Arithmetic, pickles and JSON make plain numbers of it."""

    __slots__ = ()

    def __copy__(self) -> _GivenEpochs:
        return self

    def __deepcopy__(self, memo: Any) -> _GivenEpochs:
        return self

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)


class _SearchCallback(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped
    """The search's callback among those that a user's `fit` is given; a loop of the user's own calls it.

    Its epochs are counted, whatever numbers they have. If a loop trains another model, they are not the trial's.
    """

    def __init__(self, model: Any, trainer: Trainer) -> None:
        super().__init__()
        self._of = model
        self._trainer = trainer

    def __copy__(self) -> _SearchCallback:
        return self

    def __deepcopy__(self, memo: Any) -> _SearchCallback:
        return self

    @property
    def model(self) -> Any:
        """The model that is trained. It may be assigned, as in older examples."""
        return self._model

    @model.setter
    def model(self, model: Any) -> None:
        self._model = model

    @property
    def _listens(self) -> bool:
        return not self._trainer.closed and (self._model is None or self._model is self._of)

    def knows(self, history: Any) -> bool:
        """Return whether a History is of the trial's training, which the search has recorded."""
        return any(history is known for known in self._trainer.histories)

    def on_train_begin(self, logs: Any = None) -> None:
        if self._listens:
            self._trainer.begin_loop()

    def on_epoch_begin(self, epoch: Any, logs: Any = None) -> None:
        if self._listens:
            self._trainer.begin_epoch()

    def on_epoch_end(self, epoch: Any, logs: Any = None) -> None:
        if self._listens:
            self._trainer.end_epoch(logs or {})


def call_own_fit(
    space: Space,
    hp: Any,
    model: Any,
    data: Data,
    *,
    epochs: int,
    options: Mapping[str, Any],
    callbacks: list[Any],
    trainer: Trainer,
) -> Any:
    """Call the user's `fit`, and return its result.

    Args:
        epochs, callbacks: to give to the user's `fit`; the search's own callback is added.
        options: further keyword arguments to give.
        trainer: trains.
    """
    assert space.fit is not None
    given, own = _GivenEpochs(epochs), _SearchCallback(model, trainer)

    def intercepted(*args: Any, **kwargs: Any) -> Any:
        fit = type(model).fit
        call = inspect.signature(fit).bind(model, *args, **kwargs)
        named, found = _by_name(call), callbacks_of(call)
        is_given = any(each is known for each in found for known in (*callbacks, own))
        if not trainer.closed and (is_given or named["epochs"] is given):
            return trainer.train(_make_fit_call(named, data, [each for each in found if each is not own], given))
        return trainer.train_plainly(fit, call)

    keywords = {**options, "epochs": given, "initial_epoch": 0, "callbacks": [*callbacks, own], "verbose": 0}
    positional, named = space.fit_arguments(data.raw)
    if type(model).fit is not keras.Model.fit:  # a loop of the model's own, which calls the callbacks
        return _call_with_accepted(space.fit, (hp, model, *positional), {**named, **keywords})
    object.__setattr__(model, "fit", intercepted)
    try:
        return _call_with_accepted(space.fit, (hp, model, *positional), {**named, **keywords})
    finally:
        object.__delattr__(model, "fit")


def _call_with_accepted(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a function with those of `kwargs` that it takes, and does not itself pass on under the same name."""
    parameters = inspect.signature(function).parameters
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        kwargs = {name: value for name, value in kwargs.items() if name in parameters}
    while True:
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            # As in `model.fit(*args, epochs=hp.Int("epochs", 5, 20), **kwargs)`: the user's own value is used.
            repeated = re.search(r"multiple values for keyword argument '(\w+)'", str(error))
            if repeated is None or repeated[1] not in kwargs:
                raise
            kwargs = {name: value for name, value in kwargs.items() if name != repeated[1]}


def _by_name(call: inspect.BoundArguments) -> dict[str, Any]:
    """Return the arguments of a call of `model.fit` by name; the epochs even if they are left out."""
    parameter = call.signature.parameters.get("epochs")
    default = 1 if parameter is None or parameter.default is parameter.empty else parameter.default
    return {"epochs": default, **call.arguments, **call.arguments.get("kwargs", {})}


def callbacks_of(call: inspect.BoundArguments) -> list[Any]:
    """Return the callbacks of a call of `model.fit`."""
    callbacks = _by_name(call).get("callbacks") or []
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = callbacks.callbacks
    return list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]


def _make_fit_call(
    bound: Mapping[str, Any], loaded: Data, callbacks: Sequence[Any], given_epochs: _GivenEpochs
) -> FitCall:
    epochs = bound["epochs"]
    return FitCall(
        data=_data_of(bound, loaded),
        options={name: value for name, value in bound.items() if name not in _NO_OPTIONS},
        callbacks=callbacks,
        initial_epoch=int(bound.get("initial_epoch") or 0),
        epochs=int(epochs),
        has_given_epochs=epochs is given_epochs,
    )


def _data_of(bound: Mapping[str, Any], loaded: Data) -> Data:
    """Return the data of a call of `model.fit`: `loaded` itself if they are what `load_data` returned."""
    x, y, weight = (readable(bound.get(name), name) for name in ("x", "y", "sample_weight"))
    if x is None:
        raise SpaceError("model.fit was given no data: pass x and y, or a dataset, on to it")
    raw = (x,) if y is None and weight is None else (x, y) if weight is None else (x, y, weight)
    validation = readable(bound.get("validation_data"), "validation_data")
    if isinstance(validation, list):
        validation = tuple(validation)
    train, held_out = loaded.raw_splits
    if _is_same(raw, train) and _is_same(validation, held_out) and not bound.get("validation_split"):
        return loaded
    is_stream = x is not None and y is None and weight is None and not _is_arrays(x)
    data = prepare_data((x if is_stream else raw, validation))
    if bound.get("validation_split") and validation is None:
        if isinstance(data.train, Stream):
            raise SpaceError("fit calls model.fit with validation_split: that needs arrays, give validation_data")
        train, held_out = split_off(data.train, bound["validation_split"])
        data = replace(data, train=train, validation=held_out)
    return data


def _is_same(a: Any, b: Any) -> bool:
    """Return whether two splits consist of the same objects."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(one is other for one, other in zip(a, b, strict=True))
    if isinstance(a, tuple) and len(a) == 1:
        return a[0] is b
    return a is b


def _is_arrays(value: Any) -> bool:
    return all(is_array_like(leaf) for leaf in keras.tree.flatten(value))


# Results --------------------------------------------------------------------------------------------------------------


def returned_logs(
    returned: Any,
    objective: Objective,
    *,
    own: Sequence[Any] = (),
    kept: Sequence[tuple[Any, int]] = (),
    required: bool = False,
) -> dict[str, float]:
    """Return the numbers in the result of a user's `fit`.

    Args:
        returned: a History, the objective, a dict of metrics, or a list of these. The numbers of a History are those
            of its last epoch, which belong to the model as it ended.
        own: the Histories that the search gave to the user's `fit`. They add nothing.
        kept: pairs (History, index) of trainings that ended with the weights of an earlier epoch.
        required: whether the result must have numbers.

    Raises:
        SpaceError: the user's `fit` returned anything else.
    """
    if any(returned is history for history in own) or (returned is None and not required):
        return {}
    if isinstance(returned, (int, float, np.number)) and not isinstance(returned, bool):
        return {objective.name: float(returned)}
    if isinstance(returned, Mapping):
        return scalar_logs(returned)
    if isinstance(returned, keras.callbacks.History):
        index = next((index for history, index in kept if history is returned), -1)
        columns = {name: values for name, values in returned.history.items() if -len(values) <= index < len(values)}
        return scalar_logs({name: values[index] for name, values in columns.items()})
    if isinstance(returned, list) and returned:
        found = [returned_logs(item, objective, own=own, kept=kept, required=required) for item in returned]
        names = [name for name in found[0] if all(name in logs for logs in found)]
        return {name: float(np.mean([logs[name] for logs in found])) for name in names}
    if np.ndim(returned) == 0 and hasattr(returned, "__array__"):
        return {objective.name: float(np.asarray(returned))}
    raise SpaceError(
        f"fit returned {describe_type(returned)}: return a History, the objective as a float, a dict of metrics, or a "
        f"list of these{', or give model.fit the epochs and the callbacks that fit was given' if required else ''}"
    )


def kept_epoch(history: Any, callbacks: Sequence[Any]) -> int | None:
    """Return the index in `history` of the epoch whose weights an EarlyStopping has restored; None if none has."""
    for callback in reversed(callbacks):
        restores = isinstance(callback, keras.callbacks.EarlyStopping) and callback.restore_best_weights
        if restores and callback.best_weights is not None and callback.best_epoch in history.epoch:
            return int(history.epoch.index(callback.best_epoch))
    return None


# Probes ---------------------------------------------------------------------------------------------------------------


def first_samples(data: Data, batch_size: int) -> Data:
    """Return the first two batches of arrays, for a probe; streams as they are."""
    if isinstance(data.raw, FitArguments):
        return prepare_data(data.raw.map(lambda name, value: _first_rows(name, value, 2 * batch_size)))
    if not isinstance(data.train, Split):
        return data
    raw = tuple(
        part.part(slice(2 * batch_size)).packed if isinstance(part, Split) else part
        for part in (data.train, data.validation)
    )
    return prepare_data(raw)


def _first_rows(name: str, value: Any, rows: int) -> Any:
    """Return the first rows of an argument that `model.fit` takes as arrays; others as they are."""

    def first(array: Any) -> Any:
        return getattr(array, "iloc", array)[:rows]

    if name not in _DATA_ARGUMENTS or value is None or not _is_arrays(value):
        return value
    try:
        return keras.tree.map_structure(first, value)
    except Exception:
        return value  # sparse tensors have no rows; then the probe sees all of them
