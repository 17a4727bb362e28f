"""A script that loads champions without the package `search`: `python -I fresh.py`.

A line of its input is a request, in JSON: a tracking address, and a folder for each registered model. A fork carries it
out, and its exit code is a line of the output. So the import of TensorFlow is shared, and nothing else.

Each registered model predicts FOLDER/x.npz. Its output goes to FOLDER/pyfunc.npz. If `mlflow.keras.load_model` can load
the model, the output of that one goes to FOLDER/keras.npz. A fork knows only the tracking address.
"""

import contextlib
import importlib.util
import json
import os
import sys
from pathlib import Path


def main() -> None:
    sys.path[:] = [entry for entry in sys.path if not Path(entry, "search", "tracking").is_dir()]
    assert importlib.util.find_spec("search") is None, "search can be imported"
    import mlflow  # noqa: F401
    import tensorflow  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if not child:
            uri, folders = json.loads(line)
            load(uri, {name: Path(folder) for name, folder in folders.items()})
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def load(uri: str, folders: dict[str, Path]) -> None:
    """Load each model of `folders` in both ways, and save what it predicts."""
    os.environ["MLFLOW_TRACKING_URI"] = uri
    import mlflow

    sys.modules["layers"] = mine = type(sys)("layers")  # a module of the process that loads the models
    models = {name: mlflow.pyfunc.load_model(f"models:/{name}@champion") for name in folders}
    assert sys.modules["layers"] is mine
    for name, folder in folders.items():
        x = inputs(folder)
        if isinstance(x, list):
            x = {f"input_{number}": array for number, array in enumerate(x)}
        save(folder / "pyfunc.npz", models[name].predict(x))
    for name, folder in folders.items():
        with contextlib.suppress(TypeError, ValueError):  # Keras cannot load custom objects
            model = mlflow.keras.load_model(f"models:/{name}@champion")
            save(folder / "keras.npz", model.predict(inputs(folder), verbose=0))


def inputs(folder: Path) -> object:
    import numpy as np

    arrays = dict(np.load(folder / "x.npz"))
    return arrays.get("x", [*arrays.values()] if "x0" in arrays else arrays)


def save(file: Path, answer: object) -> None:
    import numpy as np

    np.savez(file, **(answer if isinstance(answer, dict) else {"y": answer}))


if __name__ == "__main__":
    main()
