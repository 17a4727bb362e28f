"""Exported models load again without search, and predict what the trial's model predicts."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import search
from search import cli
from search.errors import OptionError, SearchError
from search.results import export, export_check
from search.results.export import ENDINGS, plan_export, write_export
from search.results.export_check import Finding, Request, check_export
from search.space.file import SPACE_MODULE, SpaceRef, read_space
from search.study.paths import StudyPaths
from search.worker import checkpoint
from search.worker.data.arrays import spec_to_json
from search.worker.evaluate_best import rebuild_model

Array = np.ndarray[Any, Any]

SPACE = """
import keras
import numpy as np


class Scale(keras.layers.Layer):
    def __init__(self, by=2.0, **options):
        super().__init__(**options)
        self.by = by

    def call(self, x):
        return self.by * x

    def get_config(self):
        return {**super().get_config(), "by": self.by}


def gap(y, predicted):
    return keras.ops.mean(keras.ops.abs(y - predicted))


def build_model(hp):
    model = keras.Sequential([
        keras.Input((4,)),
        Scale(hp.Float("by", 0.5, 2.0)),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.2),
        keras.layers.Lambda(lambda x: x + 1),
        keras.layers.Dense(2),
    ])
    model.compile("adam", gap)
    return model


def load_data():
    x = np.random.default_rng(0).normal(size=(40, 4))
    y = x[:, :2]
    return (x[:32], y[:32]), (x[32:], y[32:])
"""


@pytest.fixture(scope="module")
def searched(zygote: object, tmp_path_factory: pytest.TempPathFactory) -> search.StudyResults:
    folder = tmp_path_factory.mktemp("export")
    (folder / "space.py").write_text(SPACE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("search.executors.selection.shared_zygote", zygote)
        patch.chdir(folder)
        return search.run(
            "space.py", backend="hyperband", max_epochs=2, max_trials=2, seed=0, workers=1, progress=False
        )


@pytest.fixture
def study(searched: search.StudyResults, monkeypatch: pytest.MonkeyPatch) -> search.StudyResults:
    """Search a space with a custom layer, a custom loss and a lambda, in the current folder."""
    monkeypatch.chdir(searched.paths.folder.parent.parent)
    return searched


@pytest.fixture(scope="module")
def x() -> Array:
    return np.random.default_rng(1).normal(size=(5, 4)).astype("float32")


def saved_model(path: Path, x: Any) -> Array:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))  # its variables live as long as this does
    return np.asarray(loaded.serve(x))


def onnx(path: Path, x: Any) -> Array:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    inputs = x if isinstance(x, dict) else {session.get_inputs()[0].name: x}
    (predicted,) = session.run(None, inputs)
    return np.asarray(predicted)


LOADERS: dict[str, Callable[[Path, Any], Array]] = {"savedmodel": saved_model, "onnx": onnx}


@pytest.mark.core
@pytest.mark.usefixtures("forked_checks")
@pytest.mark.parametrize(("format", "rank"), [pytest.param("savedmodel", 1, marks=pytest.mark.slow), ("onnx", 2)])
def test_a_format_that_needs_no_code_predicts_the_same(
    study: search.StudyResults, tmp_path: Path, x: Array, format: str, rank: int, capfd: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / f"model{ENDINGS[format]}"
    assert cli.main(["export", study.name, "--rank", str(rank), "--to", str(to)]) == 0
    trial = study.best_trials()[rank - 1]
    assert capfd.readouterr().out == f"{to}: trial {trial.number}, weights of epoch {trial.best_epoch}\n"
    expected = study.load_models([trial])[0].predict(x, verbose=0)
    assert LOADERS[format](to, x) == pytest.approx(expected, abs=1e-6)
    assert list(tmp_path.iterdir()) == [to]


@pytest.mark.core
@pytest.mark.usefixtures("forked_checks")
def test_the_export_of_a_keras_file_says_what_loading_needs(
    study: search.StudyResults, tmp_path: Path, x: Array, capfd: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "model.keras"
    assert cli.main(["export", study.name, "--to", str(to)]) == 0
    needs = "; load it with custom_objects that have Scale, gap, safe_mode=False, as there is a lambda in it\n"
    assert capfd.readouterr().out.endswith(needs)
    with pytest.raises(Exception, match=r"Scale|[Ll]ambda"):
        keras.models.load_model(to)
    read_space(study.space_ref)
    code = sys.modules[SPACE_MODULE]
    model = keras.models.load_model(to, custom_objects={"Scale": code.Scale, "gap": code.gap}, safe_mode=False)
    expected = study.get_best_models()[0].predict(x, verbose=0)
    assert np.array_equal(model.predict(x, verbose=0), expected)


@pytest.mark.core
@pytest.mark.usefixtures("forked_checks")
def test_weights_load_into_a_model_that_code_has_built(
    study: search.StudyResults, tmp_path: Path, x: Array, capfd: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "model.weights.h5"
    assert cli.main(["export", study.name, "--rank", "2", "--to", str(to)]) == 0
    assert "; load them into a model built with the trial's hyperparameters" in capfd.readouterr().out
    (model,) = study.load_models([study.best_trials()[1]])
    expected = model.predict(x, verbose=0)
    model.set_weights([np.zeros_like(array) for array in model.get_weights()])
    model.load_weights(to)
    assert np.array_equal(model.predict(x, verbose=0), expected)


def test_nothing_is_overwritten_unasked(
    study: search.StudyResults,
    tmp_path: Path,
    x: Array,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export_check, "check_in_fresh_process", lambda planned, file: "")
    file, folder, other = tmp_path / "model.onnx", tmp_path / "model", tmp_path / "precious"
    other.mkdir()
    (other / "thesis.tex").touch()
    for to in (file, folder):
        assert cli.main(["export", study.name, "--to", str(to)]) == 0
        assert cli.main(["export", study.name, "--to", str(to)]) == 2
        assert "it exists: give another name, or --force" in capfd.readouterr().err
        assert cli.main(["export", study.name, "--rank", "2", "--to", str(to), "--force"]) == 0
        expected = study.load_models([study.best_trials()[1]])[0].predict(x, verbose=0)
        assert LOADERS["onnx" if to is file else "savedmodel"](to, x) == pytest.approx(expected, abs=1e-6)
    for to in (other, file):
        assert cli.main(["export", study.name, "--to", str(to), "--format", "savedmodel", "--force"]) == 2
        assert "it exists and is no SavedModel" in capfd.readouterr().err
    assert cli.main(["export", study.name, "--to", str(other), "--format", "onnx", "--force"]) == 2
    assert (other / "thesis.tex").exists()
    assert sorted(tmp_path.iterdir()) == [folder, file, other]


@pytest.mark.parametrize(
    ("to", "format", "message"),
    [
        ("model.h5", None, r"end the name in \.keras, \.weights\.h5 or \.onnx, or in nothing for a SavedModel"),
        ("model.pb", None, "say which with --format"),
        ("model.h5", "weights", r"for --format weights, end the file's name in \.weights\.h5"),
        ("model", "keras", r"end the file's name in \.keras"),
        ("model", "pickle", "--format pickle: use keras, weights, onnx, savedmodel"),
        ("no/model.keras", None, "there is no folder .*: make it first"),
    ],
)
def test_a_path_that_cannot_be_used(
    study: search.StudyResults, tmp_path: Path, to: str, format: str | None, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        plan_export(study, 1, tmp_path / to, format=format)


def test_a_rank_beyond_the_last_is_refused(study: search.StudyResults) -> None:
    with pytest.raises(OptionError, match="--rank 3: study 'space' has 2 trials with an objective"):
        plan_export(study, 3, Path("model.keras"))


def test_a_format_may_be_said_and_a_package_be_missing(
    study: search.StudyResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plan_export(study, 1, Path("model-1.2"), format="savedmodel").format == "savedmodel"
    assert plan_export(study, 1, Path("model.onnx")).keras_backend == "tensorflow"
    installed = {"tensorflow": True}
    monkeypatch.setattr("importlib.util.find_spec", installed.get)
    with pytest.raises(OptionError, match=r"--keras-backend jax: jax is not installed"):
        plan_export(study, 1, Path("model.keras"), keras_backend="jax")
    with pytest.raises(OptionError, match=r"ONNX needs onnx and tf2onnx: pip install onnx tf2onnx"):
        plan_export(study, 1, Path("model.onnx"))


class Branching(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.inner = keras.layers.Dense(2)

    def call(self, x: Any) -> Any:
        return keras.ops.relu(self.inner(x))


def subclass() -> tuple[Any, Any]:
    model = Branching()
    model(keras.KerasTensor((None, 4)))
    return model, np.ones((3, 4), "float32")


def several_inputs() -> tuple[Any, Any]:
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((2,), name="b")}
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Concatenate()([inputs["a"], inputs["b"]])))
    return model, {"a": np.ones((3, 4), "float32"), "b": np.zeros((3, 2), "float32")}


@pytest.mark.core
@pytest.mark.parametrize("format", LOADERS)
@pytest.mark.parametrize("make", [subclass, several_inputs])
def test_models_of_other_kinds(tmp_path: Path, make: Callable[[], tuple[Any, Any]], format: str) -> None:
    model, x = make()
    to = tmp_path / f"model{ENDINGS[format]}"
    assert write_export(model, to, format) == ""
    assert LOADERS[format](to, x) == pytest.approx(model.predict(x, verbose=0), abs=1e-6)


class Calls(keras.layers.Layer):  # type: ignore[misc]  # keras is untyped
    """A layer without `get_config` whose argument Keras cannot write."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def call(self, x: Any) -> Any:
        return self.function(x)


def test_an_export_names_the_class_without_get_config(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((2,)), Calls(lambda x: x)])
    with pytest.raises(SearchError) as raised:
        write_export(model, tmp_path / "m.keras", "keras")
    assert str(raised.value).removeprefix(f"--to {tmp_path / 'm.keras'}: ") == (
        "Calls has no get_config, so Keras cannot write it: give Calls a method get_config that returns the arguments "
        "of its __init__, or export only the weights, to a name that ends in .weights.h5"
    )


def test_a_model_that_a_format_cannot_express_leaves_nothing(tmp_path: Path) -> None:
    unbuilt = keras.Sequential([keras.layers.Dense(1)])
    with pytest.raises(SearchError, match=r"--to .*: the model cannot be written as savedmodel .* try another format"):
        write_export(unbuilt, tmp_path / "model", "savedmodel")
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_keras_classes_needs_no_code(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, activation="relu")])
    model.compile("sgd", keras.losses.mean_squared_error, metrics=["mae", keras.metrics.binary_accuracy])
    assert write_export(model, tmp_path / "model.keras", "keras") == ""
    torch = {"optimizer": {"module": "keras.src.backend.torch.optimizers.torch_adam", "class_name": "Adam"}}
    assert export.loading_needs(torch) == "load it with compile=False where PyTorch is not installed"


# Checks ---------------------------------------------------------------------------------------------------------------

FAULTY = """
import keras
import numpy as np

CALLS = [0]


class Scale(keras.layers.Layer):
    def __init__(self, by=2.0, **options):
        super().__init__(**options)
        self.by = by

    def call(self, x):
        return self.by * x

    def get_config(self):
        return super().get_config()


class Drawn(keras.layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.shift = np.random.default_rng().normal(size=4).astype("float32")

    def call(self, x):
        return x + self.shift


class Hidden(keras.layers.Layer):
    def build(self, shape):
        self.factor = keras.ops.convert_to_tensor(np.random.default_rng().normal(size=4).astype("float32"))

    def call(self, x):
        return x * self.factor


class Noise(keras.layers.Layer):
    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x))


def relu(x):  # Keras has a function of this name
    return keras.ops.tanh(x)


def layer_of(hp):
    kind = hp.Choice("kind", ["plain", "argument", "drawn", "hidden", "name", "global", "noise", "local"])
    if kind == "argument":
        return Scale(3.0)
    if kind == "drawn":
        return Drawn()
    if kind == "hidden":
        return Hidden()
    if kind == "global":
        return keras.layers.Lambda(lambda x: x * CALLS[0])
    if kind == "name":
        return keras.layers.Activation(relu)
    if kind == "noise":
        return Noise()
    if kind == "local":
        def twice(x):
            return 2 * x
        return keras.layers.Activation(twice)
    return keras.layers.Dense(4, activation="relu")


def build_model(hp):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), layer_of(hp), keras.layers.Dense(2)])
    model.compile("adam", "mse")
    return model


def load_data():
    x = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    return (x, x[:, :2]), None
"""


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Finding]:
    """Return a function that exports a model of some `kind` and returns the finding of the check."""
    folder = tmp_path_factory.mktemp("faulty")
    (folder / "space.py").write_text(FAULTY)
    ref = SpaceRef(path=str(folder / "space.py"))

    def export_and_check(kind: str, format: str = "keras", **changes: Any) -> Finding:
        keras.utils.set_random_seed(0)
        weights = folder / f"{kind}.npz"
        space = read_space(ref)
        if not weights.exists():
            model = space.build_model(export_hp(kind))
            inputs = spec_to_json(keras.KerasTensor((None, 4), "float32"))
            checkpoint.save_weights(weights, model.get_weights(), 1, 0.5, inputs=inputs)
        model, _ = rebuild_model(space, {"kind": kind}, weights, 0)
        to = folder / f"{kind}{ENDINGS[format]}"
        write_export(model, to, format)
        return check_export(replace(Request(ref, {"kind": kind}, weights, 1, to, format), **changes))

    return export_and_check


def export_hp(kind: str) -> Any:
    from search.worker.hp import LazyHyperParameters

    return LazyHyperParameters(values={"kind": kind})


@pytest.mark.parametrize("format", ENDINGS)
def test_a_model_that_is_saved_whole_passes(faulty: Callable[..., Finding], format: str) -> None:
    assert faulty("plain", format) == Finding()


@pytest.mark.parametrize("kind", ["argument", "drawn", "hidden", "name"])
def test_a_keras_file_that_silently_gives_other_values_is_found(faulty: Callable[..., Finding], kind: str) -> None:
    assert faulty(kind).wrong.startswith("the file gives other values than the trial's model (values up to ")


def test_constants_that_each_build_draws_are_found_in_every_format(faulty: Callable[..., Finding]) -> None:
    assert "gives other values than the trial's model" in faulty("drawn", "savedmodel").wrong
    assert faulty("drawn", "weights") == Finding()  # equal weights are all that a file of weights promises


def test_a_file_that_cannot_be_called_is_found(faulty: Callable[..., Finding]) -> None:
    assert "the file cannot be loaded and called (" in faulty("global").wrong
    assert "name 'CALLS' is not defined" in faulty("global").wrong
    assert faulty("global", "savedmodel") == Finding()


def test_objects_within_functions_are_found_for_loading(faulty: Callable[..., Finding]) -> None:
    assert faulty("local") == Finding()


def test_random_values_are_not_compared(faulty: Callable[..., Finding]) -> None:
    assert faulty("noise") == Finding(remark="it was loaded and not compared, as the model's values are random")


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
def test_weights_that_are_lost_or_changed_are_found(faulty: Callable[..., Finding], tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), keras.layers.Dense(4), keras.layers.Dense(2)])
    model.save_weights(tmp_path / "other.weights.h5")
    wrong = faulty("plain", "weights", file=tmp_path / "other.weights.h5").wrong
    assert wrong.startswith("the file would give other weights than the trial's (of the weights, values up to ")
    (tmp_path / "broken.weights.h5").write_bytes(b"rubbish")
    assert "the file cannot be loaded: OSError" in faulty("plain", "weights", file=tmp_path / "broken.weights.h5").wrong


def test_weights_of_another_epoch_than_the_best_are_not_exported(faulty: Callable[..., Finding]) -> None:
    wrong = faulty("plain", epoch=3).wrong
    assert wrong.startswith("the saved weights are of epoch 1, and the logged value is of epoch 3: go on with search")


def test_a_space_that_no_longer_builds_fails(faulty: Callable[..., Finding], tmp_path: Path) -> None:
    (tmp_path / "space.py").write_text("raise ValueError('gone')\n")
    wrong = faulty("plain", space=SpaceRef(path=str(tmp_path / "space.py"))).wrong
    assert wrong == f"the trial's model cannot be built: {tmp_path / 'space.py'}:1: ValueError: gone"


def test_onnx_is_checked_without_onnxruntime(faulty: Callable[..., Finding], monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name == "onnxruntime" else find(name))
    assert faulty("plain", "onnx") == Finding()


@pytest.mark.usefixtures("forked_checks")
def test_an_export_with_other_values_leaves_nothing(
    study: search.StudyResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(study.paths.folder, Path("runs", study.name))
    code = StudyPaths.of("runs", study.name).space / "space.py"
    code.write_text(code.read_text().replace('{**super().get_config(), "by": self.by}', "super().get_config()"))
    Path("model.keras").write_text("another model")
    assert cli.main(["export", study.name, "--to", "model.keras", "--force"]) == 2
    line = capfd.readouterr().err
    assert line.startswith(
        "search: --to model.keras: nothing is written, as a fresh process found that the file gives other "
    )
    assert "return every argument of a layer from its get_config" in line
    assert line.count("\n") == 1
    assert Path("model.keras").read_text() == "another model"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.keras", "runs"]


def test_a_check_whose_process_dies_fails(
    study: search.StudyResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_check, "run_python", lambda code, environment, output: -9)
    planned = plan_export(study, 1, tmp_path / "model.keras")
    with pytest.raises(OptionError, match=r"the process that loads the file has died with exit code -9"):
        export_check.check_in_fresh_process(planned, tmp_path / "model.keras")


@pytest.mark.slow
@pytest.mark.parametrize("format", ENDINGS)
def test_a_check_runs_in_a_process_of_its_own(study: search.StudyResults, tmp_path: Path, format: str) -> None:
    to = tmp_path / f"model{ENDINGS[format]}"
    assert cli.main(["export", study.name, "--to", str(to)]) == 0
    assert to.exists()
