"""The ways in which a user's `fit` trains: several calls of `model.fit`, a loop of its own, a black box."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from search.executors.inline import InlineExecutor
from search.messages import Interrupt, Notice, Probe, Probed, Verdict
from search.study.paths import TrialPaths
from search.study.records import Built, EpochDone
from search.testing.conversation import Conversation
from search.worker import checkpoint
from tests.worker.runners.test_own_fit import Trial, built

PLAIN = "def fit_options(hp):\n    return dict(batch_size=8)\n"

WARM_UP = """
def fit(hp, model, train, validation, epochs, callbacks, **kwargs):
    model.layers[0].trainable = False
    model.compile("adam", "mse")
    model.fit(*train, epochs=2, verbose=0)
    model.layers[0].trainable = True
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model.fit(*train, validation_data=validation, batch_size=8, epochs=epochs, callbacks=callbacks, **kwargs)
"""

# Only the epochs' number tells these calls from a warm-up, or only the callbacks do.
BY_EPOCHS = """
def fit(hp, model, train, validation, epochs):
    return model.fit(*train, validation_data=validation, batch_size=8, epochs=epochs, verbose=0)
"""

BY_CALLBACKS = """
def fit(hp, model, train, validation, callbacks):
    callbacks = [*callbacks, keras.callbacks.TerminateOnNaN()]
    return model.fit(*train, validation_data=validation, batch_size=8, epochs=4, callbacks=callbacks, verbose=0)
"""

ONE_EPOCH_A_CALL = """
def fit(hp, model, train, validation, epochs, callbacks, **kwargs):
    for epoch in range(epochs):
        history = model.fit(*train, validation_data=validation, batch_size=8, callbacks=callbacks, verbose=0)
        assert history.epoch == [0] and len(history.history["loss"]) == 1
"""

COUNTED = """
def fit(hp, model, train, validation, epochs, callbacks, **kwargs):
    for epoch in range(epochs):
        model.fit(*train, validation_data=validation, batch_size=8, initial_epoch=epoch, epochs=epoch + 1,
                  callbacks=callbacks, verbose=0)
"""

PHASES = """
def fit(hp, model, train, validation, callbacks, **kwargs):
    for epochs in (2, 3):
        model.compile(keras.optimizers.Adam(0.01), "mse")
        model.fit(*train, validation_data=validation, batch_size=8, epochs=epochs, callbacks=callbacks, verbose=0)
"""

LATER_EPOCHS = """
class Numbers(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        assert epoch >= 10

    def on_epoch_end(self, epoch, logs):
        logs["number"] = epoch


def fit(hp, model, train, validation, epochs, callbacks, **kwargs):
    history = model.fit(*train, batch_size=8, validation_data=validation, initial_epoch=10, epochs=10 + epochs,
                        callbacks=[*callbacks, Numbers()], verbose=0)
    assert history.epoch == list(range(10, 10 + epochs))
"""

LOOP = """
def fit(hp, model, train, validation, epochs, callbacks, **kwargs):
    x, y = train
    for epoch in range(epochs):
        for start in range(0, len(x), 8):
            model.train_on_batch(x[start : start + 8], y[start : start + 8])
        # From the third epoch on, the model is spoilt.
        if epoch >= 2:
            model.set_weights([weight + 1 for weight in model.get_weights()])
        value = model.evaluate(*validation, verbose=0)
        for callback in callbacks:
            callback.on_epoch_end(epoch, {"val_loss": np.float32(value)})
    return model
"""
LOOP = LOOP.replace("    return model\n", "")
DRIVEN = LOOP.replace(
    "    for epoch in", "    callbacks = keras.callbacks.CallbackList(callbacks, model=model)\n    for epoch in"
).replace(
    "        for callback in callbacks:\n            callback.on",
    "        callbacks.on_epoch_begin(epoch)\n        callbacks.on",
)

# As in KerasTuner's guide "Tune hyperparameters in your custom training loop".
GUIDE = """
class Model(keras_tuner.HyperModel):
    def build(self, hp):
        return build(hp)

    def fit(self, hp, model, x, y, validation_data, callbacks=None, **kwargs):
        batch_size = hp.Int("batch_size", 8, 24, step=8, default=16)
        optimizer = keras.optimizers.Adam(hp.Float("learning_rate", 1e-4, 1e-1, sampling="log", default=1e-2))
        loss_fn = keras.losses.MeanSquaredError()
        epoch_loss_metric = keras.metrics.Mean()
        for callback in callbacks:
            SET_MODEL
        best_epoch_loss = float("inf")
        for epoch in range(3):
            for start in range(0, len(x), batch_size):
                with tf.GradientTape() as tape:
                    loss = loss_fn(y[start : start + batch_size], model(x[start : start + batch_size]))
                gradients = tape.gradient(loss, model.trainable_variables)
                optimizer.apply_gradients(zip(gradients, model.trainable_variables))
            if epoch == 2:
                model.set_weights([weight * 2 for weight in model.get_weights()])
            images, labels = validation_data
            epoch_loss_metric.update_state(loss_fn(labels, model(images)))
            epoch_loss = float(epoch_loss_metric.result().numpy())
            for callback in callbacks:
                callback.on_epoch_end(epoch, logs={"my_metric": epoch_loss})
            epoch_loss_metric.reset_state()
            best_epoch_loss = min(best_epoch_loss, epoch_loss)
        return best_epoch_loss


import tensorflow as tf

build, build_model = build_model, None
hypermodel = Model()
"""

BLACK_BOX = """
def fit(hp, model, train, validation, **kwargs):
    log = keras.callbacks.CSVLogger("logs/curve.csv")
    stop = keras.callbacks.EarlyStopping(start_from_epoch=1, restore_best_weights=RESTORE)
    rates = keras.callbacks.LearningRateScheduler(lambda epoch: 0.01 if epoch < 3 else 1.0)
    callbacks = [stop, rates, log]
    return model.fit(*train, batch_size=8, validation_data=validation, epochs=5, callbacks=callbacks, verbose=0)
"""


def best_weights(trial: Trial, number: int) -> checkpoint.BestWeights:
    return checkpoint.load_weights(TrialPaths(trial.folder / f"trial-{number}").best(0))


def score_of_best_weights(trial: Trial, number: int) -> float:
    """Return the loss on the validation data of the weights that come back."""
    from search.worker.hp import LazyHyperParameters
    from search.worker.user_code import build_trial_model, load_data, load_space

    model = build_trial_model(load_space(trial.ref), LazyHyperParameters(values={"units": 4}))
    best_weights(trial, number).assign_to(model)
    data = load_data(trial.ref).raw
    return float(model.evaluate(*data[1], verbose=0))


def records(talk: Conversation) -> list[EpochDone]:
    return [message for message in talk.messages if isinstance(message, EpochDone)]


def runner(talk: Conversation) -> str:
    """Return the last runner that was reported."""
    return [message.runner for message in talk.messages if isinstance(message, Built)][-1]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Conversation:
    """Return a training of 4 epochs without a `fit`."""
    return Trial(tmp_path_factory.mktemp("plain"), PLAIN).train(0, 0, 4)


# Calls of model.fit ---------------------------------------------------------------------------------------------------


def test_a_warm_up_is_not_the_training(tmp_path: Path) -> None:
    own = Trial(tmp_path, WARM_UP)
    whole = own.train(0, 0, 4)
    assert whole.end.outcome == "reached", whole.end.error
    assert ([record.epoch for record in records(whole)], runner(whole)) == ([1, 2, 3, 4], "fused")
    # The checkpoint is restored in the model that was compiled again.
    assert own.train(1, 0, 1).curve + own.train(1, 1, 4).curve == whole.curve


@pytest.mark.slow
@pytest.mark.parametrize("fit", [BY_EPOCHS, BY_CALLBACKS], ids=["epochs", "callbacks"])
def test_the_epochs_or_the_callbacks_that_it_is_given_tell_the_training(
    tmp_path: Path, fit: str, plain: Conversation
) -> None:
    own = Trial(tmp_path, fit)
    assert own.train(1, 0, 1).curve + own.train(1, 1, 4).curve == plain.curve


def test_epochs_of_several_calls_are_counted_on(tmp_path: Path, plain: Conversation) -> None:
    own = Trial(tmp_path, COUNTED)
    whole = own.train(0, 0, 4)
    assert whole.end.outcome == "reached", whole.end.error
    assert runner(whole) == "several calls of model.fit: begins anew for each segment"
    assert [record.epoch for record in records(whole)] == [1, 2, 3, 4]
    assert whole.curve == plain.curve
    # The first segment has one call, so only the second shows that there are several: it begins anew.
    first, second, third = own.train(1, 0, 1), own.train(1, 1, 3), own.train(1, 3, 4)
    assert runner(first) == "fused"
    assert first.curve + second.curve[-2:] + third.curve[-1:] == plain.curve
    assert [record.epoch for record in records(third)] == [1, 2, 3, 4]
    assert best_weights(own, 1).epoch == best_weights(own, 0).epoch
    assert math.isclose(score_of_best_weights(own, 1), best_weights(own, 0).value, rel_tol=1e-5)


def test_one_epoch_a_call_trains_each_epoch(tmp_path: Path) -> None:
    own = Trial(tmp_path, ONE_EPOCH_A_CALL)
    whole = own.train(0, 0, 4)
    assert whole.end.outcome == "reached", whole.end.error
    assert [record.epoch for record in records(whole)] == [1, 2, 3, 4]
    assert own.train(1, 0, 2).curve + own.train(1, 2, 4).curve[-2:] == whole.curve
    # Its samples have another order in each call.
    assert len({round(logs["loss"], 6) for logs in whole.curve}) == 4
    # A journal that has lost the segment's end gets it again without training.
    again = own.train(1, 2, 4)
    assert (again.curve, again.end.outcome) == (whole.curve[2:], "reached")


@pytest.mark.slow
def test_calls_with_epochs_of_their_own_end_with_the_segment_or_themselves(tmp_path: Path) -> None:
    own = Trial(tmp_path, PHASES)
    whole = own.train(0, 0, 9)
    assert (whole.end.outcome, whole.end.epoch, len(whole.curve)) == ("stopped_by_callback", 5, 5)
    first, second = own.train(1, 0, 3), own.train(1, 3, 9)
    assert (first.end.outcome, first.end.epoch) == ("reached", 3)
    assert first.curve == whole.curve[:3]
    assert (second.end.outcome, second.curve) == ("stopped_by_callback", whole.curve)


@pytest.mark.slow
def test_calls_are_stopped_and_interrupted_between_them(tmp_path: Path) -> None:
    own = Trial(tmp_path, ONE_EPOCH_A_CALL)
    stopped = own.train(0, 0, 9, lambda message: Verdict(message.epoch == 2), judged=True)
    assert (stopped.end.outcome, stopped.end.epoch) == ("stopped", 2)
    interrupted = own.train(1, 0, 4, lambda message: Interrupt() if message.epoch == 2 else None)
    assert interrupted.end.outcome == "interrupted"
    assert own.train(1, interrupted.end.epoch, 4).curve == own.train(2, 0, 4).curve


@pytest.mark.slow
def test_an_initial_epoch_of_its_own_numbers_what_callbacks_see(tmp_path: Path) -> None:
    own = Trial(tmp_path, LATER_EPOCHS)
    whole = own.train(0, 0, 3)
    assert whole.end.outcome == "reached", whole.end.error
    assert [(record.epoch, record.logs["number"]) for record in records(whole)] == [(1, 10), (2, 11), (3, 12)]
    assert own.train(1, 0, 1).curve + own.train(1, 1, 3).curve == whole.curve


def test_a_returned_best_value_belongs_to_its_epoch(tmp_path: Path) -> None:
    fit = WARM_UP.replace("    return model.fit", "    history = model.fit").replace("Adam(0.01)", "Adam(1.0)")
    own = Trial(tmp_path, fit + '    return {"val_loss": min(history.history["val_loss"]), "size": 7}\n')
    talk = own.train(0, 0, 4)
    assert talk.end.outcome == "reached", talk.end.error
    values = [logs["val_loss"] for logs in talk.curve]
    assert values[-1] != min(values)
    assert talk.curve[-1]["size"] == 7


# A loop of the user's own ---------------------------------------------------------------------------------------------


@pytest.mark.core
@pytest.mark.parametrize(
    "fit", [LOOP, pytest.param(DRIVEN, marks=pytest.mark.slow)], ids=["callbacks", "callback list"]
)
def test_an_own_loop_is_recorded_epoch_by_epoch(tmp_path: Path, fit: str) -> None:
    own = Trial(tmp_path, fit)
    whole = own.train(0, 0, 4)
    assert whole.end.outcome == "reached", whole.end.error
    assert runner(whole) == "own loop: begins anew for each segment"
    assert [(record.epoch, record.trained) for record in records(whole)] == [(1, 1), (2, 1), (3, 1), (4, 1)]
    # The best epoch's weights come back, not the last's.
    assert best_weights(own, 0).epoch == 2
    assert math.isclose(score_of_best_weights(own, 0), whole.curve[1]["val_loss"], rel_tol=1e-5)
    # A promotion trains again from the beginning, with the same result.
    assert own.train(1, 0, 1).curve == whole.curve[:1]
    assert own.train(1, 1, 4).curve == whole.curve
    assert math.isclose(score_of_best_weights(own, 1), whole.curve[1]["val_loss"], rel_tol=1e-5)


def test_an_own_loop_is_stopped_interrupted_and_ended(tmp_path: Path) -> None:
    own = Trial(tmp_path, LOOP)
    stopped = own.train(0, 0, 9, lambda message: Verdict(message.epoch == 2), judged=True)
    assert (stopped.end.outcome, stopped.end.epoch, len(stopped.curve)) == ("stopped", 2, 2)
    interrupted = own.train(1, 0, 3, lambda message: Interrupt() if message.epoch == 2 else None)
    assert (interrupted.end.outcome, interrupted.end.epoch) == ("interrupted", 2)
    whole = own.train(2, 0, 3)
    assert own.train(1, 2, 3).curve == whole.curve
    # A loop that asks for more epochs than the search grants is ended.
    endless = Trial(tmp_path, LOOP.replace("range(epochs)", "range(1, 1000)"))
    talk = endless.train(3, 0, 2)
    assert (talk.end.outcome, talk.end.epoch, len(talk.curve)) == ("reached", 2, 2)


def test_a_diverged_own_loop_fails(tmp_path: Path) -> None:
    own = Trial(tmp_path, LOOP.replace("np.float32(value)", "np.nan if epoch == 1 else value"))
    talk = own.train(0, 0, 4)
    assert (talk.end.outcome, talk.end.error) == ("failed", "diverged: val_loss is nan at epoch 2")


def test_an_objective_that_an_own_loop_returns_belongs_to_its_last_epoch(tmp_path: Path) -> None:
    fit = LOOP.replace('{"val_loss": np.float32(value)}', '{"other": np.float32(value)}')
    own = Trial(tmp_path, fit.replace("range(epochs)", "range(2)") + "    return value\n")
    talk = own.train(0, 0, 4)
    assert (talk.end.outcome, talk.end.epoch) == ("stopped_by_callback", 2)
    assert ["val_loss" in logs for logs in talk.curve] == [False, True]
    assert math.isclose(score_of_best_weights(own, 0), talk.curve[1]["val_loss"], rel_tol=1e-5)


@pytest.mark.core
@pytest.mark.parametrize(
    "set_model",
    [
        "callback.set_model(model)",
        *(pytest.param(code, marks=pytest.mark.slow) for code in ("callback.model = model", "pass")),
    ],
)
def test_the_loop_of_keras_tuners_guide(tmp_path: Path, set_model: str) -> None:
    own = Trial(tmp_path, GUIDE.replace("SET_MODEL", set_model), "my_metric")
    values = {"units": 4, "batch_size": 16, "learning_rate": 0.01}
    talk = own.train(0, 0, 1000, values=values)
    assert (talk.end.outcome, talk.end.epoch) == ("stopped_by_callback", 3), talk.end.error
    curve = [logs["my_metric"] for logs in talk.curve]
    assert curve[1] < curve[0] < curve[2]
    assert (best_weights(own, 0).epoch, best_weights(own, 0).value) == (2, curve[1])
    assert math.isclose(score_of_best_weights(own, 0), curve[1], rel_tol=1e-5)
    # The same value as of its best epoch is returned if the search grants no more epochs than that.
    last = own.train(1, 0, 3, values=values)
    assert [logs["my_metric"] for logs in last.curve] == curve


# A black box ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restore", [True, False])
def test_the_result_of_a_black_box_is_that_of_its_model_as_it_ends(tmp_path: Path, restore: bool) -> None:
    own = Trial(tmp_path, BLACK_BOX.replace("RESTORE", str(restore)))
    talk = own.train(0, 0, 3)
    assert talk.end.outcome == "reached", talk.end.error
    assert built(talk) == Built(0, 25, "black box: begins anew for each segment", own_fit=True, black_box=True)
    assert len(talk.curve) == 1
    assert (tmp_path / "trial-0" / "logs" / "curve.csv").exists()
    assert math.isclose(score_of_best_weights(own, 0), talk.curve[0]["val_loss"], rel_tol=1e-5)


def test_a_black_box_that_leaves_its_model_untrained_is_named(tmp_path: Path) -> None:
    fit = """
def fit(hp, model, train, validation, callbacks, **kwargs):
    other = keras.models.clone_model(model)
    other.compile("adam", "mse")
    return other.fit(*train, validation_data=validation, epochs=2, callbacks=callbacks, verbose=0)
"""
    talk = Trial(tmp_path, fit).train(0, 0, 3)
    assert (talk.end.outcome, runner(talk)) == ("reached", "black box: begins anew for each segment"), talk.end.error
    (notice,) = [message.text for message in talk.messages if isinstance(message, Notice)]
    assert notice.startswith("fit has not trained the model that it was given")


@pytest.mark.parametrize("returned", ["None", "model.fit(*train, epochs=epochs - 1, callbacks=callbacks)"])
def test_a_fit_without_any_result_fails_in_one_line(tmp_path: Path, returned: str) -> None:
    talk = Trial(tmp_path, f"def fit(hp, model, train, validation, epochs, callbacks):\n    return {returned}\n").train(
        0, 0, 1
    )
    assert talk.end.outcome == "failed"
    assert talk.end.error is not None
    assert "give model.fit the epochs and the callbacks that fit was given" in talk.end.error
    assert "\n" not in talk.end.error


# Probes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fit", "metrics", "found"),
    [
        (WARM_UP, ("loss", "val_loss"), "fused"),
        (LOOP, ("val_loss",), "own loop: begins anew for each segment"),
        (
            BLACK_BOX.replace("RESTORE", "True"),
            ("loss", "val_loss", "learning_rate"),
            "black box: begins anew for each segment",
        ),
    ],
    ids=["warm-up", "loop", "black box"],
)
def test_a_probe_finds_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fit: str, metrics: Any, found: str
) -> None:
    monkeypatch.chdir(tmp_path)
    own = Trial(tmp_path, fit)
    probed = InlineExecutor().probe(Probe(own.ref))
    assert isinstance(probed, Probed), probed
    assert (probed.metrics, probed.runner) == (metrics, found)
    # The files of callbacks do not fall into the present folder.
    assert not (tmp_path / "logs").exists()
