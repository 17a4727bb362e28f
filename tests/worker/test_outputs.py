"""The files of callbacks: in their trial's own folder, and complete however the training was cut."""

from __future__ import annotations

import csv
from pathlib import Path

import keras
import numpy as np
import pytest

import search
from search.worker import outputs

SPACE = """
import keras
import numpy as np

class Mine(keras.callbacks.CSVLogger):
    pass

def load_data():
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    return (x, x.sum(1)), (x[:16], x[:16].sum(1))

def build_model(hp):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(hp.Int("units", 1, 9)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model

def callbacks(hp, model):
    assert model.optimizer is not None
    return [
        keras.callbacks.BackupAndRestore("backup"),
        keras.callbacks.ModelCheckpoint("kept/{epoch}.keras"),
        keras.callbacks.ModelCheckpoint("best.weights.h5", save_best_only=True, save_weights_only=True),
        keras.callbacks.CSVLogger("log.csv"),
        Mine("tabs/log.tsv", separator="\\t"),
        keras.callbacks.TensorBoard("logs"),
    ]
"""


@pytest.mark.parametrize(
    ("written", "own"),
    [
        ("best.keras", "/runs/s/trials/0003/best.keras"),
        ("logs/{epoch}.keras", "/runs/s/trials/0003/logs/{epoch}.keras"),
        ("../up/log.csv", "/runs/s/trials/0003/up/log.csv"),
        ("/tmp/logs", "/runs/s/trials/0003/logs"),
        ("/tmp/log.txt", "/runs/s/trials/0003/tmp/log.txt"),
        ("log.txt", "/runs/s/trials/0003/callback-1/log.txt"),
        ("/runs/s/trials/0003/mine.csv", "/runs/s/trials/0003/mine.csv"),
        ("gs://bucket/models/best.keras", "gs://bucket/models/s/trials/0003/best.keras"),
    ],
)
def test_paths_are_redirected_into_the_trials_folder(written: str, own: str) -> None:
    callback = keras.callbacks.ModelCheckpoint("x.keras")
    callback.filepath = written
    notices: list[str] = []
    assert outputs.redirect_callbacks([callback], Path("/runs/s/trials/0003"), notices.append) == [callback]
    assert callback.filepath == own
    assert len(notices) == (written != own)


def redirect(*written: str, folder: str = "/runs/s/trials/0003") -> tuple[list[str], list[str]]:
    """Return where callbacks write that wrote to these paths, and the lines for the user."""
    callbacks, notices = [keras.callbacks.CSVLogger("x") for _ in written], list[str]()
    for callback, path in zip(callbacks, written, strict=True):
        callback.filename = path
    outputs.redirect_callbacks(callbacks, Path(folder), notices.append)
    return [callback.filename for callback in callbacks], notices


@pytest.mark.parametrize("execution", ["", "/execution-1"])
def test_a_line_names_the_path_of_a_callback_before_and_after(execution: str) -> None:
    for written, shown in (
        ("/tmp/logs/a.csv", "trials/<number>/a.csv"),
        ("logs/a.csv", "trials/<number>/logs/a.csv"),
        ("gs://bucket/a.csv", "gs://bucket/s/trials/<number>/a.csv"),
    ):
        _, notices = redirect(written, folder=f"/runs/s/trials/0003{execution}")
        assert notices == [f"CSVLogger writes to {shown} in place of {written}: each trial has a file of its own"]


def test_no_two_callbacks_of_a_trial_get_the_same_file() -> None:
    own, _ = redirect("/tmp/a/log.csv", "/tmp/b/log.csv", "log.csv", "/tmp/b/log.csv", "../log.csv")
    assert [path.removeprefix("/runs/s/trials/0003/") for path in own] == [
        "a/log.csv",
        "b/log.csv",
        "log.csv",
        "b/log.csv",
        "callback-1/log.csv",
    ]


def test_lines_of_repeated_epochs_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text('epoch,loss,note\n0,0.5,"a, b"\n1,0.4,\n2,0.3,\n')
    callback = keras.callbacks.CSVLogger(path)
    outputs.resume_outputs([callback], 2)
    assert path.read_text() == 'epoch,loss,note\n0,0.5,"a, b"\n1,0.4,\n'
    assert callback.append


@pytest.mark.slow
def test_each_trial_has_its_own_files(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (workplace / "space.py").write_text(SPACE)
    options = {"backend": "hyperband", "max_epochs": 3, "executions_per_trial": 2, "objective": "val_loss"}
    study = search.run("space.py", workers=2, seed=0, progress=False, **options)
    assert not {path.name for path in workplace.iterdir()} - {"space.py", "runs", "__pycache__"}
    assert any(len(trial.curve) == 3 and trial.progress.segments > 2 for trial in study.trials), "none went on later"
    for trial in study.trials:
        for number, execution in enumerate(trial.executions):
            folder = study.paths.trial(trial.number).folder
            folder = folder / f"execution-{number}" if number else folder
            epochs = len(execution.curve)
            for name, delimiter in (("log.csv", ","), ("tabs/log.tsv", "\t")):
                with (folder / name).open() as file:
                    rows = list(csv.DictReader(file, delimiter=delimiter))
                assert [int(row["epoch"]) for row in rows] == list(range(epochs))
                assert [float(row["loss"]) for row in rows] == [record.logs["loss"] for record in execution.curve]
            assert {path.name for path in (folder / "kept").iterdir()} == {f"{e}.keras" for e in range(1, epochs + 1)}
            assert (folder / "best.weights.h5").exists()
            assert list((folder / "logs" / "train").iterdir())
            model = keras.models.load_model(folder / "kept" / f"{epochs}.keras")
            assert model.count_params() == trial.weight_count
            assert np.isfinite(model.predict(np.zeros((1, 4)), verbose=0)).all()
    output = capfd.readouterr().err
    assert output.count("BackupAndRestore is left out") == 1
    assert output.count("CSVLogger writes to trials/<number>/log.csv in place of log.csv: each trial has a file") == 1
    assert "cannot be saved" not in output
