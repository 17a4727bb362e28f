"""One trial on several devices: the same results as on one."""

from __future__ import annotations

from pathlib import Path

import pytest

import search
from search.errors import OptionError, SearchError
from search.executors.zygotes import Zygote

SPACE = """
import keras
import numpy as np

def load_data():
    x = np.random.default_rng(0).normal(size=({samples}, 4)).astype("float32")
    y = (x.sum(1) > 0).astype("int32")
    return (x, y), (x[:40], y[:40])

def build_model(hp):
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf
        print("replicas:", tf.distribute.get_strategy().num_replicas_in_sync)
    else:
        print("replicas:", keras.distribution.distribution().device_mesh.devices.size)
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(hp.Int("units", 4, 9), activation="tanh"), keras.layers.Dense(2)]
    )
    model.compile(
        keras.optimizers.Adam(hp.Float("rate", 1e-3, 1e-1)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model

def fit_options(hp):
    return {{"batch_size": {batch}}}
"""
OPTIONS = {
    "backend": "hyperband",
    "max_epochs": 2,
    "max_trials": 2,
    "workers": 1,
    "seed": 0,
    "objective": "val_loss",
    "progress": False,
}


def losses(study: search.StudyResults) -> list[list[float]]:
    return [[record.logs["val_loss"] for record in trial.curve] for trial in study.trials]


def write(folder: Path, samples: int, batch: int) -> Path:
    path = folder / "space.py"
    path.write_text(SPACE.format(samples=samples, batch=batch))
    return path


@pytest.mark.slow
def test_two_devices_give_the_results_of_one(workplace: Path) -> None:
    space = write(workplace, samples=96, batch=32)
    one = search.run(space, study="one", **OPTIONS)
    two = search.run(space, study="two", logical_devices=2, **OPTIONS)
    for trial in two.trials:
        assert "replicas: 2" in two.paths.trial(trial.number).log.read_text()
        assert trial.runner == "fit: distribute strategy"
    for a, b in zip(losses(one), losses(two), strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    (model,) = two.get_best_models()
    scope: dict[str, object] = {}
    exec(space.read_text(), scope)
    _, validation = scope["load_data"]()  # type: ignore[operator]
    assert model.evaluate(*validation, verbose=0)[0] == pytest.approx(two.best_trials(1)[0].objective, rel=1e-4)


def test_a_batch_that_cannot_be_cut_evenly_is_an_error(workplace: Path) -> None:
    space = write(workplace, samples=99, batch=33)
    with pytest.raises(SearchError, match="batches of 33 cannot be shared by 2 devices: use a multiple of that"):
        search.run(space, logical_devices=2, **OPTIONS)


def test_only_workers_spread_a_trial(workplace: Path) -> None:
    with pytest.raises(OptionError, match="leave executor='inline' out"):
        search.run(write(workplace, 96, 32), logical_devices=2, executor="inline", **OPTIONS)


@pytest.mark.slow
def test_jax_takes_any_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The last batch of an epoch cannot be cut in two."""
    monkeypatch.chdir(tmp_path)
    space = write(tmp_path, samples=99, batch=32)
    space.write_text(space.read_text().replace('print("replicas:", keras.dist', '0 and print("", keras.dist'))
    zygote = Zygote(tmp_path / "zygote.log", "jax")
    monkeypatch.setattr("search.executors.selection.shared_zygote", zygote)
    try:
        one = search.run(space, study="one", keras_backend="jax", **OPTIONS)
        two = search.run(space, study="two", keras_backend="jax", logical_devices=2, **OPTIONS)
    finally:
        zygote.close()
    for a, b in zip(losses(one), losses(two), strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    printed = capfd.readouterr().err
    assert "1 at once: CPU" in printed
    assert "as 2 devices" in printed


def test_torch_trains_on_one_device() -> None:
    from search import options
    from search.driver import checks
    from search.messages import Probed

    probed = Probed("", (), (), {}, (), (), {}, 0, "", 32, (1, 1), "", {"keras_backend": "torch"})
    with pytest.raises(OptionError, match="--logical-devices 2: Keras on torch trains on one device"):
        checks.check_keras(options.resolve_options({"logical_devices": 2}), probed, 2)
