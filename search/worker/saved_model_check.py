"""Checks of files that hold a trained model: loaded again, a file must give the model's values on one batch.

Keras writes files that it reads back as another model, without a word: if a layer's `get_config` lacks an argument, if
a layer draws constants when it is made, if a function is called like one of Keras's.
"""

from __future__ import annotations

import json
import traceback
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from search.errors import SearchError
from search.wording import pluralize
from search.worker.data.arrays import Data, Split, spec_from_json
from search.worker.data.kinds import example_of
from search.worker.data.streams import Stream
from search.worker.keras_internals import is_of_torch

__all__ = [
    "CODE_ADVICE",
    "check_saved_model",
    "describe_difference",
    "describe_lost_weights",
    "foreign_names",
    "named_objects",
    "reference_values",
    "tolerances",
    "values_of",
]

Array = np.ndarray[Any, Any]

CODE_ADVICE = (
    "return every argument of a layer from its get_config, keep in weights whatever a layer draws, and call no "
    "function like one of Keras's"
)
"""The changes of a space's code after which Keras reads a file as the same model."""

_SAMPLES = 32
"""Samples of a batch of real data."""

_GENERATED_SIZE = 16
"""Size of every dynamic dimension of generated inputs."""

_TOLERANCES = {"float16": (2**-7, 2**-8), "bfloat16": (2**-4, 2**-5)}
"""Tolerances for models that compute in half precision, eight and four times its rounding error."""


def check_saved_model(model: Any, path: Path, load: Callable[[], Data], inputs: Any) -> None:
    """Check that the `.keras` file `path` gives the values of `model`.

    If Keras cannot read the file, a model that the factory has built must get the same weights from it: MLflow loads
    such a model so. If the model cannot be called on its own, or its values are random, nothing is compared.

    Args:
        load: returns the space's data.
        inputs: the model's inputs as JSON; None if they are not known.

    Raises:
        SearchError: in one line, if the values or the weights differ.
    """
    try:
        x, expected, repeatable = reference_values(model, load, inputs)
    except Exception:
        traceback.print_exc()
        return
    try:
        objects = named_objects(path, model)
        loaded = keras.saving.load_model(path, custom_objects=objects, compile=False, safe_mode=False)
        found = values_of(loaded, x)
    except Exception:
        traceback.print_exc()
        wrong = describe_lost_weights(model, path)
    else:
        wrong = describe_difference(expected, found, tolerances(model)) if repeatable else None
    if wrong is not None:
        raise SearchError(
            f"the .keras file would give other values than the model ({wrong}), so it was not kept: {CODE_ADVICE}"
        )


# Values of a model ----------------------------------------------------------------------------------------------------


def reference_values(model: Any, load: Callable[[], Data], inputs: Any) -> tuple[Any, list[Array], bool]:
    """Return one batch of inputs, the model's values for it, and whether the model gives them every time.

    The batch is one of the validation data, or of the training data. If the data cannot be loaded, or the model does
    not take their inputs, numbers are generated.

    Args:
        load: returns the space's data.
        inputs: the model's inputs as JSON; None if they are not known.

    Raises:
        Exception: that of the model, if it can be called on neither.
    """
    try:
        x = _real_inputs(model, load())
        expected = values_of(model, x)
    except (Exception, SystemExit):
        traceback.print_exc()
        x = generated_inputs(getattr(model, "inputs", None) or [] if inputs is None else spec_from_json(inputs))
        expected = values_of(model, x)
    repeatable = describe_difference(expected, values_of(model, x), tolerances(model)) is None
    return x, expected, repeatable


def _real_inputs(model: Any, data: Data) -> Any:
    part = data.train if data.validation is None else data.validation
    if isinstance(part, Stream):
        return part.first[0]
    assert isinstance(part, Split)
    specs = keras.tree.flatten(getattr(model, "inputs", None) or [])
    fixed = next((spec.shape[0] for spec in specs if spec.shape[0] is not None), None)
    return part.take(slice(fixed or _SAMPLES))[0]


def generated_inputs(specs: Any) -> Any:
    """Return inputs with the shapes and dtypes of `specs`. Whole numbers are 0 or 1: any vocabulary has them."""
    random = np.random.default_rng(0)

    def generate(spec: Any) -> Any:
        shape = [_GENERATED_SIZE if size is None else size for size in spec.shape]
        if "float" in spec.dtype:
            return example_of(spec, random.normal(size=shape).astype("float32"))
        return example_of(spec, random.integers(0, 2, shape).astype("int32" if spec.dtype == "string" else spec.dtype))

    x = keras.tree.map_structure(generate, specs)
    return x[0] if isinstance(x, list) and len(x) == 1 else x


def values_of(model: Any, x: Any) -> list[Array]:
    """Return the outputs of a Keras model for `x`, as in a prediction."""
    return [np.asarray(keras.ops.convert_to_numpy(value)) for value in keras.tree.flatten(model(x, training=False))]


def tolerances(model: Any) -> tuple[float, float]:
    """Return the tolerance relative to each value, and that relative to an output's largest value.

    The second one is needed for values near 0: the rounding error of a sum is that of its terms.
    """
    dtypes = {getattr(layer, "compute_dtype", None) for layer in (model, *model.layers)}
    return max((_TOLERANCES[dtype] for dtype in dtypes if dtype in _TOLERANCES), default=(1e-4, 1e-5))


def describe_difference(
    expected: Sequence[Array], found: Sequence[Array], tolerance: tuple[float, float] = (0.0, 0.0)
) -> str | None:
    """Return the first difference between two lists of arrays, in words; None if they are equal.

    Args:
        tolerance: as `tolerances` returns it; by default floats must be equal. Other values always must.
    """
    if len(expected) != len(found):
        return f"{pluralize(len(found), 'array')}, not {len(expected)}"
    for one, other in zip(expected, found, strict=True):
        if one.shape != other.shape:
            return f"the shape {list(other.shape)}, not {list(one.shape)}"
        if "float" in one.dtype.name:
            one, other = one.astype("float64"), other.astype("float64")
            largest = float(np.max(np.abs(one), where=np.isfinite(one), initial=0.0))
            close = np.isclose(other, one, rtol=tolerance[0], atol=tolerance[1] * largest, equal_nan=True)
            if not close.all():
                worst = float(np.max(np.abs(one - other)[~close]))
                return f"values up to {largest:.3g} differ by up to {worst:.3g}"
        elif not np.array_equal(one, other):
            return f"values of type {one.dtype.name} differ"
    return None


def describe_lost_weights(model: Any, path: Path) -> str | None:
    """Return the difference between the model's weights and those in the file `path`, in words; None if there is none.

    The model's weights are those of the file afterwards.
    """
    expected = [np.array(weight) for weight in model.get_weights()]
    # A weight that the file does not have must not keep the right value.
    model.set_weights([np.full_like(w, np.nan) if "float" in w.dtype.name else w + np.ones_like(w) for w in expected])
    model.load_weights(path)
    wrong = describe_difference(expected, model.get_weights())
    return None if wrong is None else f"of the weights, {wrong}"


# Files of Keras -------------------------------------------------------------------------------------------------------


def named_objects(path: Path, model: Any) -> dict[str, Any]:
    """Return the classes and functions that a `.keras` file names and Keras does not have, as `model` refers to them.

    A function that is called like one of Keras's is not among them: Keras takes its own, whatever it is given.
    """
    with zipfile.ZipFile(path) as file:
        names = set(foreign_names(json.loads(file.read("config.json"))))
    return {part.__name__: part for part in _parts(model) if part.__name__ in names}


def _parts(model: Any) -> Iterator[Any]:
    """Yield the functions that a model refers to, and the classes of its parts."""
    todo, seen = [model], set()
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, (list, tuple)):
            todo += item
        elif isinstance(item, dict):
            todo += item.values()
        elif hasattr(type(item), "get_config") and hasattr(item, "__dict__"):
            yield type(item)
            todo += vars(item).values()
        elif callable(item) and not isinstance(item, type) and isinstance(getattr(item, "__name__", None), str):
            yield item


def foreign_names(config: Any) -> Iterator[str]:
    """Yield the names in a `.keras` file's configuration that Keras does not have.

    Two names stand for other things: `__lambda__` for the code of a Lambda, `__torch__` for an optimizer of PyTorch's.
    """
    if isinstance(config, dict):
        module, name = str(config.get("module") or ""), str(config.get("class_name"))
        if name == "__lambda__":
            yield name
        elif is_of_torch(module):
            yield "__torch__"
        elif module == "builtins" and name == "function":
            if not _is_of_keras(str(config["config"])):
                yield str(config["config"])
        elif config.get("registered_name") and not module.startswith("keras"):
            yield name
        for value in config.values():
            yield from foreign_names(value)
    elif isinstance(config, list):
        for value in config:
            yield from foreign_names(value)


def _is_of_keras(function: str) -> bool:
    """Return whether Keras has a function of this name."""
    kinds = (keras.activations, keras.losses, keras.metrics, keras.initializers, keras.regularizers, keras.constraints)
    return any(hasattr(kind, function) for kind in kinds)
