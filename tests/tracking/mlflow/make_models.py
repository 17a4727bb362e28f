"""A script that makes winners as a worker would. Its last argument is a folder.

The folder gets a folder for each kind of model, with `space/`, `model.keras`, `exported.json` (values, signature),
`x.npz` and the model's output for it, `y.npz`. The script runs in a process of its own, as tests import no framework.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

PLAIN = """
import keras

def load_data(): ...

def build_model(hp):
    hidden = keras.layers.Dense(hp.Int("units", 1, 9), "gelu")
    return keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(3)])
"""

SEVERAL = """
import keras

def load_data(): ...

def build_model(hp):
    inputs = {name: keras.Input((2,), name=name) for name in ("left", "right")}
    both = keras.layers.Concatenate()(list(inputs.values()))
    outputs = {"sum": keras.layers.Dense(1)(both), "more": keras.layers.Dense(hp.Int("units", 1, 9))(both)}
    return keras.Model(inputs, outputs)
"""

LISTED = """
import keras

def load_data(): ...

def build_model(hp):
    inputs = [keras.Input((2,)), keras.Input((3,))]
    return keras.Model(inputs, keras.layers.Dense(hp.Int("units", 1, 9))(keras.layers.Concatenate()(inputs)))
"""

CUSTOM = """
import keras
import layers
import this_package_is_not_installed_where_models_are_served  # the space file needs it, the model does not

def load_data(): ...

def build_model(hp):
    x = inputs = keras.Input((4,))
    x = layers.Times(layers.FACTOR)(x)
    x = layers.Registered()(x)
    return keras.Model(inputs, keras.layers.Dense(hp.Int("units", 1, 9))(x))
"""

LAYERS = """
import keras

FACTOR = {factor}

class Times(keras.layers.Layer):
    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        return self.factor * FACTOR * x

    def get_config(self):
        return {{**super().get_config(), "factor": self.factor}}

@keras.saving.register_keras_serializable()
class Registered(keras.layers.Layer):
    def call(self, x):
        return x + {factor}
"""

IN_THE_FILE = """
import keras
import search
from search import trial_dir

class Net(keras.Model):
    def __init__(self, units=3, **kwargs):  # without a default, Keras 3.15 cannot save it
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(units)

    def call(self, x):
        return self.dense(x) ** 2

def load_data(): ...

def build(hp):
    return Net(hp.Int("units", 1, 9))

build_model = search.compiled(build, loss="mse", optimizer="sgd")
"""

FUNCTIONS = """
import keras
import numpy as np

SHIFT = 7.0

def load_data(): ...

def relu(x):  # Keras has a function of this name
    return keras.ops.tanh(x) - SHIFT

def build_model(hp):
    x = inputs = keras.Input((4,))
    with hp.name_scope("body"):
        x = keras.layers.Dense(hp.Choice("units", np.array([2, 5])), activation=relu)(x)
    if hp.Choice("norm", ["batch", None]) is not None:
        x = keras.layers.BatchNormalization()(x)
    kind = hp.Choice("kind", ["sum", "none"])
    assert hp.Float("other", 1, 9, parent_name="kind", parent_values=["none"]) is None
    if kind == "sum":
        with hp.conditional_scope("kind", ["sum"]):
            scale = hp.Float("scale", 1, 9)
            assert hp.get("kind") == "sum"
        x = keras.layers.Lambda(lambda t: scale * keras.ops.sum(t, -1, keepdims=True) + SHIFT)(x)
    return keras.Model(inputs, x)
"""

HYPERMODEL = """
import keras
import keras_tuner

def load_data(): ...

class Factory(keras_tuner.HyperModel):
    def build(self, hp):
        class Local(keras.Model):
            def __init__(self):
                super().__init__()
                self.dense = keras.layers.Dense(hp.Int("units", 1, 9))

            def call(self, x):
                return self.dense(x)

        return Local()

hypermodel = Factory()
"""

PICKLED = """
import sys
import cloudpickle
import keras

class InTheNotebook(keras.layers.Layer):
    def call(self, x):
        return 3 * x

def build_model(hp):
    return keras.Sequential([keras.Input((4,)), InTheNotebook(), keras.layers.Dense(hp.Int("units", 1, 9))])

parts = {"build_model": build_model, "data": None}
open(sys.argv[1], "wb").write(cloudpickle.dumps(parts))
"""

UNITS = {"units": 5}
KINDS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "plain": ({"space.py": PLAIN}, UNITS),
    "several": ({"space.py": SEVERAL}, UNITS),
    "listed": ({"space.py": LISTED}, UNITS),
    "custom": ({"space.py": CUSTOM, "layers.py": LAYERS.format(factor=2)}, UNITS),
    "others": ({"space.py": CUSTOM, "layers.py": LAYERS.format(factor=5)}, UNITS),
    "in_the_file": ({"keras.py": IN_THE_FILE}, UNITS),
    "functions": ({"space.py": FUNCTIONS}, {"body/units": 5, "norm": None, "kind": "sum", "scale": 2.5}),
    "hypermodel": ({"space.py": HYPERMODEL}, UNITS),
    "pickled": ({"space.pkl": PICKLED}, UNITS),
}


def make_winner(folder: Path, kind: str) -> None:
    """Make the winner of one kind in `folder`."""
    import cloudpickle
    import keras
    import numpy as np

    from search.worker.hp import LazyHyperParameters

    files, values = KINDS[kind]
    space = folder / "space"
    space.mkdir(parents=True)
    for name, text in files.items():
        (space / name).write_text(text)
    main = next(iter(files))
    if main.endswith(".pkl"):
        namespace: dict[str, Any] = {"__name__": "__main__"}
        sys.argv[1:] = [str(space / main)]
        exec(files[main], namespace)
        build = cloudpickle.loads((space / main).read_bytes())["build_model"]
    else:
        build = _factory(space / main)
    keras.utils.set_random_seed(1)
    model = build(LazyHyperParameters(values=values))
    random = np.random.default_rng(0)
    x: Any = random.normal(size=(6, 4)).astype("float32")
    if kind == "several":
        x = {"left": x[:, :2], "right": x[:, 2:]}
    elif kind == "listed":
        x = [x[:, :2], x[:, 1:]]
    y = model.predict(x, verbose=0)
    model.compile("sgd", "mse")
    model.save(folder / "model.keras")
    np.savez(folder / "x.npz", **_named(x, "x"))
    np.savez(folder / "y.npz", **_named(y, "y"))
    exported = {"values": values, "space": main, "signature": {"inputs": _tensors(x), "outputs": _tensors(y)}}
    (folder / "exported.json").write_text(json.dumps(exported))


def _factory(file: Path) -> Any:
    """Return the factory of a space file, imported as by a worker."""
    import types

    from search.space.file import import_space_file

    # One of the files imports it.
    sys.modules["this_package_is_not_installed_where_models_are_served"] = types.ModuleType("stub")
    module = import_space_file(file)
    return getattr(module, "build_model", None) or module.hypermodel.build


def _named(data: Any, name: str) -> dict[str, Any]:
    if isinstance(data, dict):
        return data
    return {f"{name}{i}": one for i, one in enumerate(data)} if isinstance(data, list) else {name: data}


def _tensors(data: Any) -> list[dict[str, Any]]:
    items = (
        data.items()
        if isinstance(data, dict)
        else [(None, one) for one in (data if isinstance(data, list) else [data])]
    )
    return [{"name": name, "dtype": str(one.dtype), "shape": [-1, *one.shape[1:]]} for name, one in items]


if __name__ == "__main__":
    folder = Path(sys.argv[-1])
    for each in KINDS:
        make_winner(folder / each, each)
