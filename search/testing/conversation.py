"""One segment in an executor, from the driver's side, for the contract kits and for tests.

The model is so small that an epoch takes milliseconds.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search.executors.base import Executor
from search.messages import (
    Answer,
    Interrupt,
    Lost,
    Message,
    Question,
    Segment,
    SlotClosed,
    SlotOpened,
    Verdict,
)
from search.space.domain import Value
from search.space.file import SpaceRef
from search.study.records import DataLoaded, EpochDone, SegmentEnded
from search.study.trial import Objective

SPACE = """
import keras
import numpy as np

search_options = dict(max_epochs=5)


def build_model(hp):
    kind = hp.Choice("kind", ["sound", "raises", "diverges", "ends"])
    if kind == "raises":
        raise ValueError("no such layer")
    start = keras.initializers.Constant(float("nan")) if kind == "diverges" else "glorot_uniform"
    model = keras.Sequential([
        keras.layers.Input((4,)),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(hp.Int("units", 2, 8), kernel_initializer=start),
        keras.layers.Dense(1),
    ])
    model.compile(optimizer=keras.optimizers.Adam(hp.Float("rate", 1e-3, 1e-1, sampling="log")), loss="mse")
    return model


def callbacks(hp):
    # No epoch is so much better than the first: the second is the last.
    if hp.get("kind") != "ends":
        return []
    return [keras.callbacks.EarlyStopping(monitor="loss", min_delta=1e9, patience=1)]


def load_data():
    x = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    y = x.sum(axis=1, keepdims=True)
    return (x[:32], y[:32]), (x[32:], y[32:])
"""

VALUES: dict[str, Value] = {"kind": "sound", "units": 5, "rate": 0.01}
TIMEOUT = 60.0

_ids = itertools.count(1)


class Conversation:
    """The messages of one segment.

    Args:
        executor: the executor that runs the segment.
        values: the answers by name; other questions are answered with the default.
        react: called with each epoch's record. The message that it returns is sent to the worker.
        slot: the slot that the segment runs in.

    Attributes:
        messages: the worker's messages so far, except those in `data`.
        changes: the slots that closed or opened meanwhile, each with the message.
        data: the data that the worker reports, once per process.
        work: the id of the segment.

    Example:
        A part of a test of an executor, with the fixtures of `MessageContract`::

            from search.testing import Conversation, ExecutorContract

            class TestMine(ExecutorContract):
                def test_three_epochs_are_trained(self, executor, segment):
                    conversation = Conversation(executor, {"kind": "sound", "units": 5, "rate": 0.01}).run(segment())
                    assert conversation.end.outcome == "reached"
    """

    def __init__(
        self,
        executor: Executor,
        values: Mapping[str, Value] | None = None,
        react: Callable[[EpochDone], Verdict | Interrupt | None] = lambda _: None,
        slot: int = 0,
    ) -> None:
        self.messages: list[Message] = []
        self.changes: list[tuple[int, SlotClosed | SlotOpened]] = []
        self.data: list[DataLoaded] = []
        self.work = 0
        self._executor = executor
        self._values = dict(values or {})
        self._react = react
        self._slot = slot

    def run(self, segment: Segment) -> Conversation:
        """Run `segment`, and wait for its last message. Return this conversation.

        Raises:
            AssertionError: no last message came in 60 seconds, or one of another piece of work.
        """
        self.work = next(_ids)
        self._executor.start(self._slot, replace(segment, id=self.work))
        deadline = time.monotonic() + TIMEOUT
        while not self.messages or not isinstance(self.messages[-1], (SegmentEnded, Lost)):
            assert time.monotonic() < deadline, f"no last message; so far: {self.messages}"
            self._executor.poll(self._receive, 0.1)
        return self

    def answer(self, question: Question) -> Answer | Interrupt:
        """Return the reply to `question`. Subclasses may override it."""
        parameter = question.parameter
        return Answer(self._values.get(parameter.name, parameter.default))

    def _receive(self, slot: int, work: int, message: Message) -> None:
        if isinstance(message, (SlotClosed, SlotOpened)):
            assert work == 0
            self.changes.append((slot, message))
            return
        assert (slot, work) == (self._slot, self.work)
        ended = self.messages and isinstance(self.messages[-1], (SegmentEnded, Lost))
        assert not ended, "a message after the last one"
        if isinstance(message, DataLoaded):
            self.data.append(message)
            return
        self.messages.append(message)
        if isinstance(message, Question):
            self._executor.send(slot, work, self.answer(message))
        elif isinstance(message, EpochDone) and (reply := self._react(message)) is not None:
            self._executor.send(slot, work, reply)

    @property
    def kinds(self) -> list[str]:
        """The class name of each message."""
        return [type(message).__name__ for message in self.messages]

    @property
    def curve(self) -> list[dict[str, float]]:
        """The logs of each epoch."""
        return [dict(message.logs) for message in self.messages if isinstance(message, EpochDone)]

    @property
    def end(self) -> SegmentEnded:
        """The last message, which must be `SegmentEnded`."""
        assert isinstance(self.messages[-1], SegmentEnded), self.messages[-1]
        return self.messages[-1]


class Segments:
    """The fixtures of the kits of executors: a space file, and segments of its trials."""

    @pytest.fixture
    def space(self, tmp_path: Path) -> SpaceRef:
        (tmp_path / "space.py").write_text(SPACE)
        return SpaceRef(str(tmp_path / "space.py"))

    @pytest.fixture
    def segment(self, space: SpaceRef, tmp_path: Path) -> Callable[..., Segment]:
        """Return a function that makes segments of trials, each with its own folder."""

        def make(trial: int = 0, to_epoch: int = 3, from_epoch: int = 0, **options: Any) -> Segment:
            return Segment(
                trial=trial,
                execution=options.pop("execution", 0),
                space=space,
                values=options.pop("values", VALUES),
                seed=options.pop("seed", 7),
                from_epoch=from_epoch,
                to_epoch=to_epoch,
                objective=Objective("val_loss", "min"),
                folder=str(tmp_path / f"trial-{trial}"),
                **options,
            )

        return make
