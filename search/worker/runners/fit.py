"""The plan of a training (which samples, in which order and batches), and the runner that trains by `model.fit`.

The sample order of an epoch is derived from (seed, epoch). It needs no state: any process can train any epoch, by
either runner, with the same result. For data that come in batches of their own see `search.worker.data.streams`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from search.errors import SpaceError, nearest
from search.study.trial import derive_seed
from search.worker.data import kinds
from search.worker.data.arrays import Data, Split, split_off
from search.worker.data.streams import Stream, for_evaluation, for_training, steps_of

__all__ = [
    "FitRunner",
    "OpenedStreams",
    "TrainingPlan",
    "hold_out_validation",
    "make_training_plan",
    "validation_arguments",
]

Indices = np.ndarray[Any, np.dtype[np.int64]]

_RESERVED_OPTIONS = {
    "x": "the training data come from load_data",
    "y": "the training data come from load_data",
    "sample_weight": "return (x, y, sample_weight) from load_data",
    "validation_data": "return (train, validation) from load_data",
    "epochs": "the search decides it",
    "initial_epoch": "the search decides it",
    "callbacks": "return them from callbacks(hp)",
}
"""Options of `model.fit` that users may not set, with what to do instead."""

_DEFAULT_BATCH_SIZE = 32
"""Keras's default."""


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """The data, batches and sample order of a training: everything but the model.

    Attributes:
        train: the training samples. If they are arrays, class weights have become sample weights.
        validation: the samples to validate on after an epoch, or None.
        seed: the seed from which the order of the samples is derived.
        batch_size, validation_batch_size: samples per batch of arrays; the last batch may be smaller.
        steps: batches per epoch.
        shuffle: False keeps the natural order.
        class_weight: class weights, only for a stream.
        validation_steps: batches per validation, if the user gave a number or the stream is endless.
    """

    train: Split | Stream
    validation: Split | Stream | None
    seed: int
    batch_size: int
    validation_batch_size: int
    steps: int
    shuffle: bool
    class_weight: Mapping[Any, float] | None = None
    validation_steps: int | None = None

    @property
    def arrays(self) -> Split:
        """The training samples of a plan whose training data are arrays."""
        assert isinstance(self.train, Split)
        return self.train

    @property
    def has_streams(self) -> bool:
        """Return whether any of the data come in batches of their own."""
        return isinstance(self.train, Stream) or isinstance(self.validation, Stream)

    @property
    def batches_per_pass(self) -> int:
        """Batches in one pass over arrays. They equal `steps`, unless the user gave `steps_per_epoch`."""
        return math.ceil(self.arrays.samples / self.batch_size)

    def has_same_data(self, other: TrainingPlan) -> bool:
        """Return whether one graph serves both plans: the same arrays, streams whose batches have the same spec.

        Args:
            other: like this plan, one whose streams are described.
        """
        return _is_same(self.train, other.train) and _is_same(self.validation, other.validation)

    def sample_order(self, number: int) -> Indices:
        """Return the order of the samples in pass `number` (from 0) over arrays: indices, shape (samples,)."""
        if not self.shuffle:
            return np.arange(self.arrays.samples)
        return np.random.default_rng(derive_seed(self.seed, "order", number)).permutation(self.arrays.samples)


def _is_same(one: Split | Stream | None, other: Split | Stream | None) -> bool:
    if isinstance(one, Stream):
        return isinstance(other, Stream) and bool(one.element_spec == other.element_spec)
    return one is other or (one is not None and one.is_equal(other))


def make_training_plan(data: Data, options: Mapping[str, Any], seed: int) -> TrainingPlan:
    """Return the plan for `data` under the user's options for `model.fit`.

    Raises:
        SpaceError: in one line, for an option that the search sets itself, that is unknown, or whose value is invalid.
    """
    _check_options(options)
    user_options = {name: value for name, value in options.items() if value is not None}
    user_batch_size = _positive_int(user_options, "batch_size")
    steps = _positive_int(user_options, "steps_per_epoch")
    validation_steps = _positive_int(user_options, "validation_steps")
    shuffle = user_options.get("shuffle", True)
    if not isinstance(shuffle, (bool, np.bool_)):
        raise SpaceError(f"fit_options returned shuffle={shuffle!r}: use True or False")
    data = hold_out_validation(data, options)
    train, class_weight = data.train, user_options.get("class_weight")
    if isinstance(train, Stream):
        if user_batch_size is not None:
            raise SpaceError("fit_options returned batch_size: leave it out, the data come in batches of their own")
        batch_size, steps = 1, steps_of(train, steps, "steps_per_epoch")
    else:
        if class_weight is not None:
            train, class_weight = replace(train, sample_weight=_class_to_sample_weights(train, class_weight)), None
        # As in Keras: steps without a batch size divide the samples among them.
        batch_size = user_batch_size or (math.ceil(train.samples / steps) if steps else _DEFAULT_BATCH_SIZE)
        steps = steps or math.ceil(train.samples / batch_size)
    if isinstance(data.validation, Stream) and data.validation.endless:
        validation_steps = steps_of(data.validation, validation_steps, "validation_steps")
    return TrainingPlan(
        train=train,
        validation=data.validation,
        seed=seed,
        batch_size=batch_size,
        validation_batch_size=_positive_int(user_options, "validation_batch_size")
        or user_batch_size
        or _DEFAULT_BATCH_SIZE,
        steps=steps,
        shuffle=bool(shuffle),
        class_weight=class_weight,
        validation_steps=validation_steps,
    )


def hold_out_validation(data: Data, options: Mapping[str, Any]) -> Data:
    """Return `data` with the last part of the training samples for validation, if the user's options ask for it.

    As in `model.fit`, the option `validation_split` has no effect if there are validation data.

    Raises:
        SpaceError: in one line, for an invalid fraction, and for data that come in batches.
    """
    fraction = options.get("validation_split")
    if fraction is None or (isinstance(fraction, (int, float, np.number)) and not fraction):
        return data
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float, np.number)) or not 0 < fraction < 1:
        raise SpaceError(f"fit_options returned validation_split={fraction!r}: use a fraction between 0 and 1")
    if data.validation is not None:
        return data
    if isinstance(data.train, Stream):
        raise SpaceError(
            "fit_options returned validation_split: that needs arrays, return (train, validation) from load_data"
        )
    train, validation = split_off(data.train, float(fraction))
    return replace(data, train=train, validation=validation)


def _check_options(options: Mapping[str, Any]) -> None:
    known = [name for name in inspect.signature(keras.Model.fit).parameters if name != "self"]
    for name in options:
        if name in _RESERVED_OPTIONS:
            raise SpaceError(f"fit_options returned {name!r}: leave it out, {_RESERVED_OPTIONS[name]}")
        if name not in known:
            raise SpaceError(f"fit_options returned {name!r}, which model.fit does not take.{nearest(name, known)}")
    if options.get("validation_freq") not in (None, 1):
        raise SpaceError("fit_options returned 'validation_freq': leave it out, every epoch is compared")


def _positive_int(options: Mapping[str, Any], name: str) -> int | None:
    value = options.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise SpaceError(f"fit_options returned {name}={value!r}: use a whole number of at least 1")
    return int(value)


def _class_to_sample_weights(train: Split, class_weight: Any) -> np.ndarray[Any, Any]:
    """Return class weights as sample weights, shape (samples,), for labels or one-hot rows, as Keras does."""
    y = train.y
    if not isinstance(class_weight, Mapping):
        raise SpaceError("fit_options returned class_weight that is no dict: give {class index: weight}")
    if train.sample_weight is not None:
        raise SpaceError("fit_options returned class_weight, and load_data sample weights: give one of the two")
    if y is None or keras.tree.is_nested(y) or not kinds.is_plain(y) or y.ndim > 2:
        raise SpaceError(
            "fit_options returned class_weight: that needs one output with one label (or row) for each sample"
        )
    if y.ndim == 2:
        y = np.argmax(y, axis=-1) if y.shape[-1] != 1 else y[:, 0]
    labels, inverse = np.unique(np.round(y).astype("int32"), return_inverse=True)
    weights = [class_weight.get(int(label), 1.0) for label in labels]
    return np.asarray(weights, dtype=keras.config.floatx())[inverse]


@dataclass(frozen=True, slots=True)
class OpenedStreams:
    """The streams of a plan as `model.fit` takes them, each None if those data are arrays.

    Attributes:
        train: the batches from the first epoch of a segment on.
        validation: the batches of each validation.
    """

    train: Any
    validation: Any

    @classmethod
    def of(cls, plan: TrainingPlan, from_epoch: int) -> OpenedStreams:
        """Open the streams of a plan, for a segment that begins with epoch `from_epoch` (from 0)."""
        train = validation = None
        if isinstance(plan.train, Stream):
            train = for_training(plan.train, plan.steps, from_epoch=from_epoch, seed=plan.seed, shuffle=plan.shuffle)
        if isinstance(plan.validation, Stream):
            validation = for_evaluation(plan.validation, plan.validation_steps)
        return cls(train, validation)


class FitRunner:
    """A runner that trains by `model.fit`, on any backend of Keras.

    Attributes:
        name: "fit: <why not fused>".
    """

    def __init__(self, model: Any, plan: TrainingPlan, reason: str) -> None:
        self.name = f"fit: {reason}"
        self._model = model
        self._plan = plan

    def run(self, from_epoch: int, to_epoch: int, callbacks: list[Any], streams: OpenedStreams | None = None) -> None:
        """Train epochs `from_epoch` to `to_epoch - 1` (from 0), driving `callbacks`.

        Args:
            streams: the plan's streams, if they are open.
        """
        plan = self._plan
        streams = streams or OpenedStreams.of(plan, from_epoch)
        options: dict[str, Any] = {}
        epoch_hook = _EpochHook()
        if isinstance(plan.train, Stream):
            x = streams.train
            options = {"steps_per_epoch": plan.steps, "class_weight": plan.class_weight}
        else:
            x = epoch_hook.batches = _ArrayBatches(plan, from_epoch)
        with _step_gets_x_alone(self._model, plan):
            # An instance's `fit` may have been replaced by one that leads here, so the class's is called.
            type(self._model).fit(
                self._model,
                x,
                initial_epoch=from_epoch,
                epochs=to_epoch,
                callbacks=[*callbacks, epoch_hook],
                # Keras shuffles the *batches* of a PyDataset; ours have an order.
                shuffle=False,
                verbose=0,
                **options,
                **validation_arguments(plan, streams.validation),
            )


@contextmanager
def _step_gets_x_alone(model: Any, plan: TrainingPlan) -> Iterator[None]:
    """Hand x itself to `model.train_step`, as `fit` does with arrays. Of a PyDataset it hands over `(x,)`."""
    if isinstance(plan.train, Stream) or isinstance(plan.train.step_data, tuple):
        yield
        return
    step = model.train_step

    def train_step(*arguments: Any) -> Any:
        *state, data = arguments  # on JAX the state comes first
        return step(*state, data[0] if isinstance(data, (tuple, list)) else data)

    object.__setattr__(model, "train_step", train_step)
    try:
        yield
    finally:
        object.__delattr__(model, "train_step")


def validation_arguments(plan: TrainingPlan, opened: Any = None) -> dict[str, Any]:
    """Return the arguments of `model.fit` that concern validation.

    Args:
        opened: a stream for validation, if it is open.
    """
    validation = plan.validation
    if validation is None:
        return {}
    steps = {} if plan.validation_steps is None else {"validation_steps": plan.validation_steps}
    if isinstance(validation, Split):
        return {
            "validation_data": validation.packed,
            "validation_batch_size": plan.validation_batch_size,
            **steps,
        }
    return {"validation_data": for_evaluation(validation, plan.validation_steps) if opened is None else opened}


class _ArrayBatches(keras.utils.PyDataset):  # type: ignore[misc]  # keras is untyped
    """Batches of arrays, one epoch at a time. One worker: without threads, batches come in order.

    With `steps_per_epoch`, an epoch need not begin where a pass over the samples does. So batches are counted over all
    epochs: a trial trains on the same ones however it is cut into segments.
    """

    def __init__(self, plan: TrainingPlan, epoch: int) -> None:
        super().__init__(workers=1, use_multiprocessing=False)
        self._plan = plan
        self._orders: dict[int, Indices] = {}
        self.epoch = epoch

    def __len__(self) -> int:
        return self._plan.steps

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        plan = self._plan
        number, batch = divmod(self.epoch * plan.steps + index, plan.batches_per_pass)
        if number not in self._orders:
            self._orders = {number: plan.sample_order(number)}
        return plan.arrays.take(self._orders[number][batch * plan.batch_size : (batch + 1) * plan.batch_size])


class _EpochHook(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped
    """A callback that tells the batches of arrays which epoch begins.

    The hooks of a PyDataset would not do: they fire before epoch 0, and ahead of time.
    """

    batches: _ArrayBatches | None = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self.batches is not None:
            self.batches.epoch = epoch
        # A callback that compiles (to unfreeze layers) leaves None, which `fit` would call.
        if getattr(self.model, "train_function", self) is None:
            self.model.make_train_function(force=True)
