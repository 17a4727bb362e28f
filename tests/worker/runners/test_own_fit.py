"""A `fit` of the user's: its `model.fit` trains like any other, and the numbers that it returns count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.executors.inline import InlineExecutor
from search.messages import Interrupt, Message, Probe, Probed, ProbeFailed, Question, Segment, Verdict
from search.space.file import SpaceRef
from search.study.paths import TrialPaths
from search.study.records import Built, Checkpointed, EpochDone
from search.study.trial import Objective
from search.testing.conversation import Conversation
from search.worker.checkpoint import load_weights, read_best

HEAD = """
import keras
import keras_tuner
import numpy as np


def load_data():
    x = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
    y = x.sum(axis=1, keepdims=True)
    return (x[:40], y[:40]), (x[40:], y[40:])


def build_model(hp):
    model = keras.Sequential([
        keras.layers.Input((4,)), keras.layers.Dense(hp.Int("units", 2, 8)), keras.layers.Dropout(0.2),
        keras.layers.Dense(1),
    ])
    model.compile("adam", "mse")
    return model
"""

HANDED_ON = """
def fit(hp, model, train, validation, **kwargs):
    return model.fit(*train, batch_size=hp.Choice("batch_size", [8, 16]), validation_data=validation, **kwargs)
"""

HYPERMODEL = """
class Model(keras_tuner.HyperModel):
    def build(self, hp):
        return build(hp)

    def fit(self, hp, model, *args, **kwargs):
        return model.fit(*args, batch_size=hp.Choice("batch_size", [8, 16]), **kwargs)


build, build_model = build_model, None
hypermodel = Model()
"""

PREPARED = """
def fit(hp, model, train, validation, **kwargs):
    x, y = train
    if hp.Boolean("scale", default=True):
        x = x * 2
    history = model.fit(x, y, validation_split=0.25, **kwargs)
    assert len(history.history["loss"]) == history.epoch[-1] + 1 == kwargs["epochs"]
    return history
"""

RETURNED = """
def fit(hp, model, train, validation, **kwargs):
    model.fit(*train, **kwargs)
    x, y = validation
    return float(np.mean(np.abs(model.predict(x, verbose=0) - y)))
"""

DICT = RETURNED.replace("return float(", "return dict(error=").replace("- y)))", "- y)), other=np.float32(3))")
LIST = RETURNED.replace("return float(", "return [1.0, 3.0, float(").replace("- y)))", "- y)))][:2]")

OWN_EPOCHS = """
def fit(hp, model, train, validation, **kwargs):
    return model.fit(*train, epochs=3, validation_data=validation, **kwargs)
"""

TWICE = """
def fit(hp, model, train, validation, **kwargs):
    model.fit(*train, validation_data=validation, **kwargs)
    model.optimizer.learning_rate = 1e-5
    kwargs |= dict(epochs=2, initial_epoch=0)
    return model.fit(*train, validation_data=validation, **kwargs)
"""

LOOP = """
def fit(hp, model, train, validation, epochs, **kwargs):
    step = hp.Float("step", 0.001, 0.1)
    for epoch in range(epochs):
        model.train_on_batch(*train)
    return {"error": abs(step - 0.01) + 1 / epochs}
"""


class Trial:
    """Trials of a space file with a `fit`."""

    def __init__(self, folder: Path, fit: str, objective: str = "val_loss") -> None:
        (folder / "space.py").write_text(HEAD + fit)
        self.folder, self.ref, self.objective = folder, SpaceRef(str(folder / "space.py")), Objective(objective, "min")

    def train(self, trial: int, from_epoch: int, to_epoch: int, react: Any = None, **options: Any) -> Conversation:
        segment = Segment(
            trial=trial,
            execution=0,
            space=self.ref,
            values=options.pop("values", {"units": 4}),
            seed=5,
            from_epoch=from_epoch,
            to_epoch=to_epoch,
            objective=self.objective,
            folder=str(self.folder / f"trial-{trial}"),
            **options,
        )
        return Conversation(InlineExecutor(), react=react or (lambda _: None)).run(segment)


def built(talk: Conversation) -> Built:
    return next(message for message in talk.messages if isinstance(message, Built))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Conversation:
    """Return a training without a `fit`."""
    folder = tmp_path_factory.mktemp("plain")
    return Trial(folder, "def fit_options(hp):\n    return dict(batch_size=8)\n").train(0, 0, 4)


@pytest.mark.core
@pytest.mark.parametrize("fit", [HANDED_ON, HYPERMODEL], ids=["fit", "hypermodel"])
def test_an_own_fit_trains_and_continues_as_without_it(tmp_path: Path, fit: str, plain: Conversation) -> None:
    own = Trial(tmp_path, fit)
    whole = own.train(0, 0, 4)
    assert whole.end.outcome == "reached", whole.end.error
    assert [message.parameter.name for message in whole.messages if isinstance(message, Question)] == ["batch_size"]
    assert built(whole) == Built(0, 25, "fused", own_fit=True)
    assert own.train(1, 0, 1).curve + own.train(1, 1, 4).curve == whole.curve
    assert plain.curve == whole.curve
    assert built(plain).own_fit is False


def test_data_that_it_prepares_are_trained_on(tmp_path: Path) -> None:
    own = Trial(tmp_path, PREPARED)
    whole = own.train(0, 0, 3)
    assert whole.end.outcome == "reached", whole.end.error
    assert set(whole.curve[0]) == {"loss", "val_loss"}
    assert own.train(1, 0, 2).curve + own.train(1, 2, 3).curve == whole.curve
    other = own.train(2, 0, 3, values={"units": 4, "scale": False})
    assert other.curve[0] != whole.curve[0]


@pytest.mark.parametrize(("fit", "objective"), [(RETURNED, "mae"), (DICT, "error"), (LIST, "mae")], ids=str.split)
def test_returned_numbers_belong_to_the_last_epoch(tmp_path: Path, fit: str, objective: str) -> None:
    own = Trial(tmp_path, fit, objective)
    whole = own.train(0, 0, 3)
    assert whole.end.outcome == "reached", whole.end.error
    assert [objective in logs for logs in whole.curve] == [False, False, True]
    assert whole.kinds[-5:] == [*["EpochDone"] * 3, "Checkpointed", "SegmentEnded"]
    if objective == "error":
        assert whole.curve[-1]["other"] == 3
    if fit is LIST:
        assert whole.curve[-1]["mae"] == 2.0
    # The journal may know less than the checkpoint on disk.
    again = own.train(0, 0, 3)
    assert again.curve == whole.curve


@pytest.mark.core
def test_each_segment_has_the_number_returned_at_its_end(tmp_path: Path) -> None:
    own = Trial(tmp_path, RETURNED, "mae")
    parts = own.train(1, 0, 2), own.train(1, 2, 3)
    assert ["mae" in logs for part in parts for logs in part.curve] == [False, True, True]
    assert parts[1].curve[-1] == own.train(0, 0, 3).curve[-1]


def test_its_own_number_of_epochs_ends_the_training(tmp_path: Path) -> None:
    own = Trial(tmp_path, OWN_EPOCHS)
    talk = own.train(0, 0, 9)
    assert (talk.end.outcome, talk.end.epoch, len(talk.curve)) == ("stopped_by_callback", 3, 3)
    # If a rung cuts the training, it goes on. A training that is complete does not begin again.
    assert own.train(1, 0, 2).end.outcome == "reached"
    rest = own.train(1, 2, 9)
    assert (rest.end.outcome, rest.end.epoch) == ("stopped_by_callback", 3)
    assert rest.curve == talk.curve[2:]
    assert own.train(2, 0, 3).end.outcome == "reached"
    assert own.train(2, 3, 9).kinds == ["Built", "Checkpointed", "SegmentEnded"]


def test_a_second_training_follows_each_segment(tmp_path: Path) -> None:
    own = Trial(tmp_path, TWICE)
    whole = own.train(0, 0, 3)
    assert whole.end.outcome == "reached", whole.end.error
    assert len(whole.curve) == 3
    own.train(1, 0, 1)
    assert own.train(1, 1, 3).curve == whole.curve[1:]


def test_an_own_fit_without_model_fit_begins_anew_for_each_segment(tmp_path: Path) -> None:
    own = Trial(tmp_path, LOOP, "error")
    first = own.train(0, 0, 2, values={"units": 4, "step": 0.01})
    assert first.kinds == ["Built", "EpochDone", "Checkpointed", "SegmentEnded"]
    assert built(first) == Built(0, 25, "black box: begins anew for each segment", own_fit=True, black_box=True)
    done = next(message for message in first.messages if isinstance(message, EpochDone))
    assert (done.epoch, done.trained, done.logs) == (2, 2, {"error": 0.5})
    second = own.train(0, 2, 4, values={"units": 4, "step": 0.01})
    done = next(message for message in second.messages if isinstance(message, EpochDone))
    assert (done.epoch, done.trained, done.logs) == (4, 4, {"error": 0.25})
    # An epoch that the journal has missed is reported again, not trained again.
    again = own.train(0, 2, 4, values={"units": 4, "step": 0.01})
    assert again.curve == second.curve
    assert next(message for message in again.messages if isinstance(message, Checkpointed)).best_epoch == 4


def test_verdicts_and_interrupts_reach_an_own_fit(tmp_path: Path) -> None:
    own = Trial(tmp_path, HANDED_ON)

    def stop(message: Message) -> Verdict:
        assert isinstance(message, EpochDone)
        return Verdict(message.epoch == 2)

    talk = own.train(0, 0, 9, stop, judged=True)
    assert (talk.end.outcome, talk.end.epoch) == ("stopped", 2)
    talk = own.train(1, 0, 9, lambda message: Interrupt() if message.epoch == 3 else None)
    assert (talk.end.outcome, talk.end.epoch) == ("interrupted", 3)
    assert own.train(1, 3, 5).curve == own.train(2, 0, 5).curve[3:]


def test_an_error_after_an_interrupt_is_no_failure(tmp_path: Path) -> None:
    own = Trial(
        tmp_path,
        HANDED_ON.replace("    return model", "    history = model") + "    return history.history['loss'][8]\n",
    )
    talk = own.train(0, 0, 9, lambda message: Interrupt() if message.epoch == 3 else None)
    assert (talk.end.outcome, talk.end.epoch) == ("interrupted", 3)
    rest = own.train(0, 3, 9)
    assert rest.end.outcome == "reached", rest.end.error


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        ("def fit(hp, model, train, validation, **kwargs):\n    return None\n", "fit returned None"),
        ("def fit(hp, model, train, validation, **kwargs):\n    return 'good'\n", "fit returned a str"),
        (
            "def fit(hp, model, train, validation, epochs):\n    model.fit(train[0], train[1][:3], epochs=epochs)\n",
            "x has 40, y has 3",
        ),
    ],
)
def test_an_error_of_an_own_fit_is_one_clear_line(tmp_path: Path, fit: str, message: str) -> None:
    talk = Trial(tmp_path, fit).train(0, 0, 1)
    assert talk.end.outcome == "failed"
    assert talk.end.error is not None
    assert message in talk.end.error
    assert "\n" not in talk.end.error


DIVERGED = "    model.fit(train[0], train[1] * np.nan, **kwargs)\n"


@pytest.mark.parametrize(
    ("before", "error", "outcome"),
    [
        ("", "keras_tuner.errors.FatalValueError", "fatal"),
        (DIVERGED, "keras_tuner.errors.FatalError", "fatal"),
        (DIVERGED, "ValueError", "failed"),
        ("", "keras_tuner.errors.FailedTrialError", "failed"),
        ("", "ValueError", "raised"),
    ],
)
def test_an_exception_of_an_own_fit_does_what_kerastuner_says(
    tmp_path: Path, before: str, error: str, outcome: str
) -> None:
    fit = f"def fit(hp, model, train, validation, **kwargs):\n{before}    raise {error}('no licence')\n"
    assert Trial(tmp_path, fit, "loss").train(0, 0, 2).end.outcome == outcome


def probed(folder: Path, fit: str) -> Probed:
    own = Trial(folder, fit)
    found = InlineExecutor().probe(Probe(own.ref))
    assert isinstance(found, Probed), found
    return found


def test_a_probe_finds_its_parameters_and_runner(tmp_path: Path) -> None:
    found = probed(tmp_path, HANDED_ON)
    assert [parameter.name for parameter in found.parameters] == ["units", "batch_size"]
    assert (found.metrics, found.runner, found.own_fit) == (("loss", "val_loss"), "fused", True)
    assert found.batch_size == 8
    found = probed(tmp_path, LOOP)
    assert [parameter.name for parameter in found.parameters] == ["units", "step"]
    assert (found.metrics, found.runner) == ((), "black box: begins anew for each segment")
    # A `fit` that fails on a few samples may work on all.
    found = probed(tmp_path, "def fit(hp, model, train, validation, **kwargs):\n    return 1 / (len(train[0]) // 40)\n")
    assert found.metrics == ()


def test_an_error_of_a_fit_is_reported_by_the_probe_as_itself(tmp_path: Path) -> None:
    # It comes before the only question, too.
    fit = "def fit(hp, model, train, validation, **kwargs):\n    undefined(hp.Int('later', 1, 2))\n"
    failed = InlineExecutor().probe(Probe(Trial(tmp_path, fit).ref))
    assert isinstance(failed, ProbeFailed)
    assert failed.message.endswith(": NameError: name 'undefined' is not defined")
    assert "space.py:" in failed.message
    assert "undefined" in failed.traceback


@pytest.mark.slow
@pytest.mark.parametrize(("fit", "objective"), [(HANDED_ON, "val_loss"), (LOOP, "error")], ids=["continues", "anew"])
def test_a_trial_whose_checkpoint_was_dropped_is_trained_again(tmp_path: Path, fit: str, objective: str) -> None:
    own = Trial(tmp_path, fit, objective)
    whole = own.train(0, 0, 4)
    parts = [own.train(1, 0, 2)]
    files = TrialPaths(tmp_path / "trial-1")
    files.checkpoint(0).unlink()
    parts.append(own.train(1, 2, 4, best=read_best(files.best(0))))
    assert whole.curve == parts[1].curve
    first, second = (load_weights(TrialPaths(tmp_path / f"trial-{trial}").best(0)) for trial in (0, 1))
    assert (first.epoch, first.value) == (second.epoch, second.value)
    for one, two in zip(first._arrays, second._arrays, strict=True):
        np.testing.assert_array_equal(one, two)
