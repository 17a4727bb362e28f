"""Data that come in batches: an epoch has the same batches in any segment and process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from search.driver.checks import objective_of
from search.errors import SpaceError
from search.executors.inline import InlineExecutor
from search.messages import Evaluate, Evaluated, Notice, Probe, Probed, Segment
from search.options import Options
from search.space.file import SpaceRef
from search.study.records import Built
from search.study.trial import Objective
from search.testing.conversation import Conversation
from search.worker.data import streams
from search.worker.data.arrays import prepare_data
from search.worker.data.streams import as_stream, for_training
from search.worker.runners.fit import make_training_plan
from search.worker.runners.graph_cache import cached_graphs, clear_graph_cache
from search.worker.segment import clear_caches

SPACE = """
import keras
import numpy as np
import tensorflow as tf

rng = np.random.default_rng(0)
X = rng.normal(size=(90, 4)).astype("float32")
Y = X.sum(axis=1, keepdims=True)
TRAIN, VALIDATION, TEST = (X[:48], Y[:48]), (X[48:72], Y[48:72]), (X[72:], Y[72:])  # whole batches: traced once


class Sequence(keras.utils.PyDataset):
    def __init__(self, x, y, **options):
        super().__init__(**options)
        self.x, self.y, self.order, self.rng = x, y, np.arange(len(x)), np.random.default_rng(3)

    def __len__(self):
        return -(-len(self.x) // 8)

    def __getitem__(self, i):
        part = self.order[8 * i : 8 * i + 8]
        return self.x[part], self.y[part]

    def on_epoch_end(self):
        self.rng.shuffle(self.order)


def batches(x, y):
    def make():
        for i in range(0, len(x), 8):
            yield x[i : i + 8], y[i : i + 8]

    return make


def endless(x, y):
    def make():
        for _ in range(20):
            yield from batches(x, y)()
        raise AssertionError("read to its end")

    return make


def generated(data):
    specs = tuple(tf.TensorSpec((None, *part.shape[1:]), part.dtype) for part in data)
    return tf.data.Dataset.from_generator(endless(*data), output_signature=specs)


def dataset(data):
    return tf.data.Dataset.from_tensor_slices(data)


KINDS = dict(
    seeded=lambda: (dataset(TRAIN).shuffle(50, seed=4).batch(8), dataset(VALIDATION).batch(8), dataset(TEST).batch(8)),
    uncounted=lambda: (dataset(TRAIN).filter(lambda x, y: x[0] > -1).shuffle(50).batch(8), VALIDATION),
    endless=lambda: (dataset(TRAIN).shuffle(50).repeat().batch(8), VALIDATION),
    pydataset=lambda: (Sequence(*TRAIN), Sequence(*VALIDATION), Sequence(*TEST)),
    threads=lambda: (Sequence(*TRAIN, workers=3), Sequence(*VALIDATION)),
    function=lambda: (batches(*TRAIN), batches(*VALIDATION), batches(*TEST)),
    generated=lambda: (generated(TRAIN), endless(*VALIDATION)),
    repeated=lambda: (endless(*TRAIN), dataset(VALIDATION).batch(8).repeat()),
    mixed=lambda: (TRAIN, dataset(VALIDATION).batch(8), TEST),
)


def load_data():
    return KINDS["KIND"]()


def fit_options(hp):
    return OPTIONS


def build_model(hp):
    model = keras.Sequential([
        keras.layers.Dense(hp.Int("units", 2, 8), activation="relu"), keras.layers.Dropout(0.2), keras.layers.Dense(1)
    ])
    model.compile("adam", "mse")
    return model
"""


class Study:
    """Trials of a space file with one kind of data."""

    def __init__(self, folder: Path, kind: str, options: str = "{}") -> None:
        self.folder = folder
        text = SPACE.replace('KINDS["KIND"]', f'KINDS["{kind}"]').replace("return OPTIONS", f"return {options}")
        (folder / "space.py").write_text(text)
        self.ref = SpaceRef(str(folder / "space.py"))

    def train(self, trial: int, from_epoch: int, to_epoch: int) -> Conversation:
        """Train a segment as in a separate process."""
        segment = Segment(
            trial=trial,
            execution=0,
            space=self.ref,
            values={"units": 6},
            seed=7,
            from_epoch=from_epoch,
            to_epoch=to_epoch,
            objective=Objective("val_loss", "min"),
            folder=str(self.folder / f"trial-{trial}"),
        )
        return Conversation(InlineExecutor()).run(segment)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("seeded", "{}"),
        ("seeded", "dict(steps_per_epoch=4, validation_steps=2)"),
        ("uncounted", "{}"),
        ("endless", "dict(steps_per_epoch=5)"),
        ("pydataset", "{}"),
        ("pydataset", "dict(steps_per_epoch=4, shuffle=False)"),
        ("threads", "{}"),
        ("function", "{}"),
        ("function", "dict(steps_per_epoch=4)"),
        ("uncounted", "dict(steps_per_epoch=4)"),
        ("generated", "dict(steps_per_epoch=4, validation_steps=2)"),
        ("mixed", "{}"),
    ],
)
def test_a_trial_in_several_segments_has_the_results_of_one(tmp_path: Path, kind: str, options: str) -> None:
    study = Study(tmp_path, kind, options)
    whole = study.train(0, 0, 4)
    assert whole.end.outcome == "reached", whole.end.error
    assert study.train(1, 0, 2).curve + study.train(1, 2, 4).curve == whole.curve
    assert len(whole.curve) == 4
    # No two epochs have the same batches in the same order, so their losses differ.
    assert len({logs["loss"] for logs in whole.curve}) == 4
    built = next(message for message in whole.messages if isinstance(message, Built))
    assert built.runner == "fused"


@pytest.mark.slow
def test_trials_whose_streams_depend_on_hyperparameters_share_a_graph(tmp_path: Path) -> None:
    study = Study(tmp_path, "seeded")
    space = tmp_path / "space.py"
    space.write_text(space.read_text().replace("def load_data():", "def load_data(hp):"))
    clear_graph_cache()
    curves = [study.train(trial, 0, 2).curve for trial in range(2)]
    assert curves[0] == curves[1]
    assert [graph is None for graph in cached_graphs()] == [False]


@pytest.mark.parametrize("kind", ["seeded", "pydataset", "function", "mixed"])
def test_test_data_are_evaluated_on_the_best_weights(tmp_path: Path, kind: str) -> None:
    study = Study(tmp_path, kind)
    study.train(0, 0, 2)
    executor = InlineExecutor()
    messages: list[Any] = []
    folder, objective = tmp_path / "trial-0", Objective("val_loss", "min")
    files = {
        "weights": str(folder / "best-0.npz"),
        "folder": str(folder),
        "reference": "",
        "model": str(folder / "m.keras"),
    }
    executor.start(0, Evaluate(0, study.ref, {"units": 6}, seed=7, objective=objective, **files))
    executor.poll(lambda slot, work, message: messages.append(message), 0)
    (evaluated,) = messages
    assert isinstance(evaluated, Evaluated)
    assert (evaluated.error, evaluated.warning) == (None, "")
    assert evaluated.logs is not None
    assert 0 < evaluated.logs["loss"] < 100


@pytest.mark.parametrize("kind", ["generated", "repeated"])
def test_data_without_an_end_are_not_counted(tmp_path: Path, kind: str) -> None:
    study = Study(tmp_path, kind, "dict(steps_per_epoch=4, validation_steps=2)")
    probed = InlineExecutor().probe(Probe(study.ref))
    assert isinstance(probed, Probed), probed
    assert (probed.validated, probed.samples) == (True, (None, None))
    assert "val_loss" in probed.metrics
    assert objective_of(Options(), probed).name == "val_loss"
    assert study.train(0, 0, 2).end.outcome == "reached"


def test_counting_that_takes_long_is_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = Study(tmp_path, "function")
    InlineExecutor().probe(Probe(study.ref))
    assert "counted" not in capsys.readouterr().err
    monkeypatch.setattr(streams, "COUNTING_SECONDS", -1.0)
    probed = InlineExecutor().probe(Probe(study.ref))
    assert isinstance(probed, Probed), probed
    assert probed.samples == (6, 3)
    train, validation = capsys.readouterr().err.splitlines()
    assert "the batches of the train data are being counted" in train
    assert "give steps_per_epoch in fit_options" in train
    assert "give validation_steps in fit_options" in validation
    clear_caches()  # as in another process
    texts = [message.text for message in study.train(0, 0, 1).messages if isinstance(message, Notice)]
    assert texts == [train, validation]


def test_several_threads_read_the_batches_of_one_thread(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert (
        Study(tmp_path / "a", "pydataset").train(0, 0, 2).curve == Study(tmp_path / "b", "threads").train(0, 0, 2).curve
    )


X = np.arange(12, dtype="float32").reshape(6, 2)


def test_streams_are_recognized() -> None:
    dataset = tf.data.Dataset.from_tensor_slices((X, X)).batch(4)
    stream = as_stream(dataset, "train")
    assert stream is not None
    assert (stream.kind, stream.batches, stream.endless, stream.count()) == ("dataset", 2, False, 2)
    assert stream.x_spec.shape == (None, 2)
    assert [part.shape for part in stream.first] == [(4, 2), (4, 2)]
    endless = as_stream(dataset.repeat(), "train")
    assert endless is not None
    assert endless.endless
    uncounted = as_stream(dataset.filter(lambda x, y: True), "train")
    assert uncounted is not None
    assert (uncounted.batches, uncounted.count()) == (None, 2)
    function = as_stream(lambda: iter([(X, X)] * 3), "train")
    assert function is not None
    assert (function.count(), function.x_spec.shape) == (3, (None, 2))
    assert as_stream((X, X), "train") is None


def test_a_function_is_advanced_past_completed_epochs() -> None:
    stream = as_stream(lambda: iter([(np.full(1, i),) for i in range(3)]), "train")
    assert stream is not None
    counted = type(stream)(stream.kind, stream.source, 3, False)
    feed = iter(for_training(counted, 2, from_epoch=2))
    assert [int(next(feed)[0][0]) for _ in range(5)] == [1, 2, 0, 1, 2]


def test_a_function_of_unknown_length_is_advanced_without_reading_each_past_pass() -> None:
    read = []

    def make() -> Any:
        for i in range(3):
            read.append(i)
            yield (np.full(1, i),)

    stream = as_stream(make, "train")
    assert stream is not None
    feed = iter(for_training(stream, 2, from_epoch=50))
    assert [int(next(feed)[0][0]) for _ in range(3)] == [1, 2, 0]
    assert len(read) < 20


@pytest.mark.parametrize(
    ("raw", "options", "message"),
    [
        (((i for i in range(3)), None), {}, "can be read only once: return the function that makes it"),
        ((tf.data.Dataset.from_tensors((X, X)).repeat(), None), {}, "without an end.*steps_per_epoch"),
        (
            (tf.data.Dataset.from_tensors((X, X)), tf.data.Dataset.from_tensors((X, X)).repeat()),
            {},
            "without an end.*validation_steps",
        ),
        ((tf.data.Dataset.from_tensors((X, X)), None), {"batch_size": 8}, "batch_size: leave it out"),
        ((tf.data.Dataset.from_tensors((X, X)), None), {"validation_split": 0.5}, "that needs arrays"),
    ],
)
def test_unreadable_data_are_refused_in_one_line(raw: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        make_training_plan(prepare_data(raw), options, 0)


def test_a_pydataset_without_a_length_is_refused(tmp_path: Path) -> None:
    class Endless(keras.utils.PyDataset):
        @property
        def num_batches(self) -> None:
            return None

        def __getitem__(self, index: int) -> Any:
            return X, X

    with pytest.raises(SpaceError, match="without an end"):
        make_training_plan(prepare_data((Endless(), None)), {}, 0)


def test_the_reader_of_a_first_batch_is_not_dropped_while_it_reads_ahead() -> None:
    ended = []

    def generate() -> Any:
        try:
            for number in range(6):
                yield np.full((2, 1), number, "float32"), np.zeros((2, 1), "float32")
        finally:
            ended.append(True)

    spec = tf.TensorSpec((2, 1)), tf.TensorSpec((2, 1))
    kept = as_stream(tf.data.Dataset.from_generator(generate, output_signature=spec).prefetch(1), "train")
    assert kept is not None
    assert kept.first[0][0] == 0
    assert not ended
    for _ in range(4):  # so many are kept
        other = as_stream(tf.data.Dataset.from_tensors((np.zeros((2, 1)), np.zeros((2, 1)))), "train")
        assert other is not None
        assert other.first
    assert ended


@pytest.mark.parametrize("epoch", [0, 3])
def test_no_pass_is_begun_before_a_batch_of_it_is_asked_for(epoch: int) -> None:
    """A shuffled dataset draws a seed for each pass, so a pass begun early would change the order of a validation."""

    def passes(count: int) -> list[list[int]]:
        dataset = tf.data.Dataset.range(20).shuffle(20, seed=1).batch(5)
        return [np.concatenate(list(dataset)).tolist() for _ in range(count)]

    dataset = tf.data.Dataset.range(20).shuffle(20, seed=1).batch(5)
    stream = as_stream(dataset, "train")
    assert stream is not None
    feed = iter(for_training(stream, 4, from_epoch=epoch))
    trained = np.concatenate([next(feed) for _ in range(4)]).tolist()
    time.sleep(0.1)  # in which a thread would read ahead
    validated = np.concatenate(list(dataset)).tolist()
    assert [trained, validated] == passes(epoch + 2)[-2:]
