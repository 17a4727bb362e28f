"""Keras's private API, behind functions with public names, on any back end: an island, see `capabilities`."""

from __future__ import annotations

import collections
import functools
import inspect
import opcode
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras

from search.study.trial import Direction
from search.worker.capabilities import capability

__all__ = [
    "ATTRIBUTES_OF_TENSORBOARD",
    "DERIVED_ATTRIBUTES",
    "LEARNING_RATE",
    "MODEL_OF_CALLBACK",
    "TRACKING_ATTRIBUTES",
    "UNTRACED_ATTRIBUTES",
    "assigned_names",
    "build_compiled_parts",
    "built_for",
    "calls_of_layers",
    "direction_of_metric",
    "flatten_layers",
    "function_of_metric",
    "give_unused_name",
    "inherits_direction",
    "is_of_torch",
    "keep_global_seeds",
    "learning_rate_of",
    "metrics_within",
    "seed_unseeded_draws",
    "set_used_names",
    "tiny_model",
    "torch_parts",
    "used_names",
]


def _version() -> str:
    return f"Keras {keras.__version__}"


# The direction of a metric --------------------------------------------------------------------------------------------

# Keras's metrics name their direction. There is no public way to read it: without it, the words of the names decide.

_DIRECTIONS: dict[Any, Direction] = {"up": "max", "down": "min"}


@capability(
    "directions of metrics",
    without="the words of their names decide",
    uses=("keras.Metric._direction",),
    packages=_version,
)
def directions() -> bool:
    """Test whether an accuracy is to go up, an error down, and a mean in neither direction."""
    examples = (keras.metrics.BinaryAccuracy("a"), keras.metrics.MeanSquaredError("b"), keras.metrics.Mean("c"))
    return [getattr(metric, "_direction", None) for metric in examples] == ["up", "down", None]


def direction_of_metric(metric: Any) -> Direction | None:
    """Return the direction that a metric object names, or None."""
    return _DIRECTIONS.get(getattr(metric, "_direction", None)) if directions.works else None


def inherits_direction(metric: Any) -> bool:
    """Return whether a user's class has its metric's direction from a class of Keras.

    The user's class may compute something else, such as one minus the value.
    """
    classes = type(metric).__mro__
    own = classes[: next((number for number, cls in enumerate(classes) if _is_of_keras(cls)), len(classes))]
    return bool(own) and not any(_sets_direction(cls) for cls in own)


def _is_of_keras(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "keras"


def _sets_direction(cls: type) -> bool:
    code = getattr(inspect.unwrap(vars(cls).get("__init__", cls)), "__code__", None)
    return "_direction" in vars(cls) or "_direction" in getattr(code, "co_names", ())


def metrics_within(metric: Any) -> list[Any] | None:
    """Return the metrics that Keras holds in one metric, as it does with compiled ones. None for any other metric."""
    inner = getattr(metric, "metrics", None) if _is_of_keras(type(metric)) else None
    return list(inner) if isinstance(inner, (list, tuple)) else None


@capability(
    "functions of metrics",
    without="a metric is not recognized as the loss",
    uses=("keras.metrics.MeanMetricWrapper._fn",),
    packages=_version,
)
def functions() -> bool:
    """Test whether a metric that averages a function holds it."""
    return keras.metrics.MeanMetricWrapper(keras.ops.abs, name="d")._fn is keras.ops.abs


def function_of_metric(metric: Any) -> Any:
    """Return the function or the loss object that a metric averages, or None."""
    function = getattr(metric, "_fn", None) if functions.works else None
    while isinstance(function, functools.partial):
        function = function.func
    return function


# Names ----------------------------------------------------------------------------------------------------------------

# Keras names an object that the user does not name by its class, with the number of names that the class has had.


def _counters() -> Any:
    from keras.src.backend.common import global_state

    fresh: collections.defaultdict[str, int] = collections.defaultdict(int)
    return global_state.get_global_attribute("object_name_uids", fresh, set_to_default=True)


@capability(
    "counting of names",
    without="a model's layers are named without regard to those that the space file makes while it is imported",
    uses=("keras.src.backend.common.global_state", "keras.src.utils.naming"),
    packages=_version,
)
def counted_names() -> bool:
    """Test whether Keras's counters can be read and set, and give the next name."""
    from keras.src.utils import naming

    before = dict(_counters())
    _replace_counters({"search_self_test": 1})
    try:
        layer = type("SearchSelfTest", (keras.layers.Layer,), {})()
        named = layer.name, naming.auto_name(naming.to_snake_case("SearchSelfTest")), _counters()["search_self_test"]
    finally:
        _replace_counters(before)
    return named == ("search_self_test_1", "search_self_test_2", 3)


def _replace_counters(counts: Mapping[str, int]) -> None:
    counters = _counters()
    counters.clear()
    counters.update(counts)


def used_names() -> dict[str, int]:
    """Return how many names Keras has given in this process, by prefix: {"dense": 2} for `dense` and `dense_1`."""
    return dict(_counters()) if counted_names.works else {}


def set_used_names(counts: Mapping[str, int]) -> None:
    """Make Keras give names as if it had given `counts`, which are in the form of `used_names`."""
    if counted_names.works:
        _replace_counters(counts)


def give_unused_name(model: Any, used: Mapping[str, int]) -> None:
    """Rename a model that Keras has named, if its name is among those that `used` counts."""
    if not counted_names.works:
        return
    from keras.src.utils import naming

    prefix = naming.to_snake_case(type(model).__name__)
    found = re.fullmatch(rf"{re.escape(prefix)}(?:_(\d+))?", model.name)
    if found is not None and int(found[1] or 0) < used.get(prefix, 0):
        model.name = naming.auto_name(prefix)


# Parts of a model -----------------------------------------------------------------------------------------------------


@functools.cache
def tiny_model(number: int = 0) -> Any:
    """Return a compiled model for self-tests, with a width of 2 + `number`. No names and no draws are used up."""
    before = used_names()
    layers = [
        keras.Input((1,), dtype="float32", name="self_test_input"),
        keras.layers.Dense(2 + number, name="self_test_hidden", dtype="float32", kernel_initializer="ones"),
        keras.layers.Dense(1, name="self_test_output", dtype="float32", kernel_initializer="ones"),
    ]
    model = keras.Sequential(layers, name="self_test")
    model.compile(keras.optimizers.SGD(0.5, name="self_test_sgd"), "mse", metrics=["mae"])
    model.optimizer.build(model.trainable_variables)
    set_used_names(before)
    return model


@capability(
    "walking through layers",
    without="layers are found in the attributes of others",
    uses=("keras.Layer._flatten_layers",),
    packages=_version,
)
def flat_layers() -> bool:
    """Test whether a model gives itself and its layers."""
    model = tiny_model()
    return {id(layer) for layer in model._flatten_layers()} >= {id(layer) for layer in (model, *model.layers)}


def flatten_layers(layer: Any) -> list[Any]:
    """Return a layer and all layers in it, an outer one before its inner ones."""
    return list(layer._flatten_layers()) if flat_layers.works else list(_layers_in_attributes(layer, {}).values())


def _layers_in_attributes(layer: Any, found: dict[int, Any]) -> dict[int, Any]:
    """Add a layer, and the layers in its attributes and in containers there, to `found`, by their identities."""
    found[id(layer)] = layer
    waiting = [vars(layer)]
    while waiting:
        value = waiting.pop(0)
        if isinstance(value, (list, tuple, dict)):
            waiting += value.values() if isinstance(value, dict) else value
        elif isinstance(value, keras.Layer) and id(value) not in found:
            _layers_in_attributes(value, found)
    return found


@capability(
    "dynamic widths",
    without="each width of a layer has a graph of its own",
    uses=("keras.Sequential._functional", "keras.Model._nodes_by_depth"),
    packages=_version,
    for_speed=True,
)
def layer_calls() -> bool:
    """Test whether the calls that make up a model are found."""
    model = tiny_model()
    return bool([call.operation for call in _calls_of(model)][1:] == model.layers)


def _calls_of(model: Any) -> list[Any]:
    by_depth = getattr(model, "_functional", model)._nodes_by_depth
    return [call for depth in sorted(by_depth, reverse=True) for call in by_depth[depth]]


def calls_of_layers(model: Any) -> list[Any]:
    """Return the calls of layers and other operations that make up a model, in their order; none if not known.

    A call has an `operation`, `input_tensors` and `outputs`.
    """
    is_functional = hasattr(getattr(model, "_functional", model), "_nodes_by_depth")
    return _calls_of(model) if layer_calls.works and is_functional else []


@capability(
    "quick building of metrics",
    without="a symbolic call builds them",
    uses=("keras.Model._compile_metrics", "keras.Model._compile_loss"),
    packages=_version,
    for_speed=True,
)
def compiled_parts() -> bool:
    """Test whether the variables of a model's metrics and losses can be made from its labels and outputs."""
    model = tiny_model()
    _build_parts(model, keras.KerasTensor((None, 1), name="self_test_labels"))
    return len(model.metrics_variables) == 4  # a sum and a number of samples, of the loss and of a metric


def build_compiled_parts(model: Any, y: Any) -> bool:
    """Make the variables of the metrics and losses of a model with one output. Return False if that cannot be done.

    Args:
        y: the labels, as a `keras.KerasTensor`.
    """
    if compiled_parts.works:
        _build_parts(model, y)
    return compiled_parts.works


def _build_parts(model: Any, y: Any) -> None:
    for part in (model._compile_metrics, model._compile_loss):
        if part is not None and not part.built:
            part.build(y, model.outputs[0])


# Model keys -----------------------------------------------------------------------------------------------------------

TRACKING_ATTRIBUTES = {"_self_unconditional_dependency_names", "_self_unconditional_deferred_dependencies"}
"""Attributes of containers that TensorFlow tracks. Under other names, models with branches may share fewer graphs."""

UNTRACED_ATTRIBUTES = {
    *TRACKING_ATTRIBUTES,
    "_tracker",  # a layer's list of its variables and parts, which are attributes, too
    "_nodes",  # of a functional model, by their addresses; its operations refer to them
    "_self_unconditional_checkpoint_dependencies",
    "_distribution_strategy",
    "_call_signature",  # of the object's class
    "_trainable_variables_indices",  # of an optimizer, by their addresses
    "_build_shapes_dict",  # of a layer
    "_auto_config",  # of a layer: its constructor's arguments
}
"""Attributes that say nothing more of the graph, or differ between equal models."""

DERIVED_ATTRIBUTES = {(keras.KerasTensor, "_shape"), (keras.InputSpec, "shape"), (keras.InputSpec, "axes")}
"""Sizes that follow from the model's input sizes and its layers' attributes."""

# State ----------------------------------------------------------------------------------------------------------------

_FRAMEWORKS = ("keras", "tensorflow", "torch")
_STORE_ATTR, _EXTENDED_ARG = opcode.opmap["STORE_ATTR"], opcode.opmap["EXTENDED_ARG"]

LEARNING_RATE = "_learning_rate"
"""The attribute in which an optimizer keeps its learning rate, also in checkpoints."""

ATTRIBUTES_OF_TENSORBOARD = ("_summary_module", "_writers")
"""Attributes that Keras's callback for TensorBoard must make anew for each training."""

MODEL_OF_CALLBACK = "_model"
"""The attribute in which a callback keeps its model."""


@capability(
    "variables of optimizers",
    without="a trial whose callbacks freeze or unfreeze layers cannot go on from a checkpoint",
    uses=("keras.optimizers.Optimizer._trainable_variables",),
    packages=_version,
)
def optimizer_variables() -> bool:
    """Test whether an optimizer tells which variables it was built for."""
    model = tiny_model()
    return [id(each) for each in model.optimizer._trainable_variables] == [id(each) for each in model.weights]


def built_for(optimizer: Any) -> list[Any] | None:
    """Return the variables that an optimizer was built for: none if it is not built. None if that cannot be known."""
    return list(getattr(optimizer, "_trainable_variables", ())) if optimizer_variables.works else None


@capability(
    "learning rates",
    without="a schedule of your own class is not in a checkpoint",
    uses=("keras.optimizers.Optimizer._learning_rate",),
    packages=_version,
)
def learning_rates() -> bool:
    """Test whether an optimizer keeps its learning rate, a variable."""
    optimizer = tiny_model().optimizer
    return getattr(optimizer, LEARNING_RATE) is optimizer.learning_rate


def learning_rate_of(optimizer: Any) -> Any:
    """Return an optimizer's learning rate: a variable, a schedule or a function."""
    return getattr(optimizer, LEARNING_RATE, None) if learning_rates.works else optimizer.learning_rate


@capability(
    "seeds of unseeded draws",
    without="draws of keras.random without a seed differ if a trial goes on from a checkpoint",
    uses=("keras.src.random.seed_generator",),
    packages=_version,
)
def unseeded_draws() -> bool:
    """Test whether Keras has the generator of such draws."""
    from keras.src.random.seed_generator import global_seed_generator

    return tuple(global_seed_generator().state.shape) == (2,)


def seed_unseeded_draws(seed: int) -> None:
    """Set the state from which `keras.random` draws if it is given no seed. There is no public way."""
    if unseeded_draws.works:
        from keras.src.random.seed_generator import global_seed_generator

        global_seed_generator().state.assign([seed % 2**31, 0])


@capability(
    "global seeds",
    without="a search in the process of a script leaves it another global seed",
    uses=(
        "keras.src.backend.common.global_state.get_global_attribute",
        "keras.src.backend.common.global_state.set_global_attribute",
        "keras.src.random.seed_generator.GLOBAL_SEED_GENERATOR",
        "keras.src.utils.rng_utils.GLOBAL_RANDOM_SEED",
    ),
    packages=_version,
)
def global_seeds() -> bool:
    """Test whether Keras reads its seed from the state that is written here. Each thread has a state of its own."""
    from keras.src.utils import rng_utils

    _set_global_attributes([7, None])
    return bool(rng_utils.get_random_seed() == 7)


def keep_global_seeds() -> Callable[[], None]:
    """Return a function that gives Keras the global seed and the generator of unseeded draws that it has now."""
    if not global_seeds.works:
        return lambda: None
    from keras.src.backend.common import global_state

    return functools.partial(
        _set_global_attributes, [global_state.get_global_attribute(name) for name in _names_of_seeds()]
    )


def _set_global_attributes(values: Sequence[Any]) -> None:
    from keras.src.backend.common import global_state

    for name, value in zip(_names_of_seeds(), values, strict=True):
        global_state.set_global_attribute(name, value)


def _names_of_seeds() -> tuple[str, str]:
    from keras.src.random import seed_generator
    from keras.src.utils import rng_utils

    return rng_utils.GLOBAL_RANDOM_SEED, seed_generator.GLOBAL_SEED_GENERATOR


def torch_parts(module: Any) -> Iterator[tuple[str, Any]]:
    """Yield a name and a value for all that PyTorch knows of a layer itself, and Keras may not."""
    for name in ("_parameters", "_buffers"):
        yield name, getattr(module, name, {})
    for name, inner in module.named_children():
        if name != "_torch_params":
            yield name, inner


def is_of_torch(module: str) -> bool:
    """Return whether a class of this module, in a `.keras` file, is one of Keras's for PyTorch."""
    return module.startswith("keras.src.backend.torch")


@functools.cache
def assigned_names(cls: type[Any]) -> frozenset[str]:
    """Return the attributes that Keras or its framework may assign to an object of `cls`.

    These are all names that the methods of the class's bases in these packages assign to, on any object.
    """
    bases = [base for base in cls.__mro__ if base.__module__.partition(".")[0] in _FRAMEWORKS]
    names = frozenset[str]().union(*map(_names_assigned_in, bases))
    if issubclass(cls, keras.Model):
        names |= {"history"}  # assigned by a callback
    torch = sys.modules.get("torch")
    if torch is not None and issubclass(cls, torch.nn.Module):
        names = names.union(vars(torch.nn.Module()))  # assigned by their names as strings
    return names


@functools.cache
def _names_assigned_in(cls: type[Any]) -> frozenset[str]:
    return frozenset(
        name for member in vars(cls).values() for code in _codes_of(member) for name in _stored_attributes(code)
    )


def _codes_of(member: Any) -> Iterator[types.CodeType]:
    """Yield the code of a function, also of a wrapped one, or of a property's functions."""
    functions: list[Any] = [member.fget, member.fset] if isinstance(member, property) else [member]
    for function in functions:
        function = getattr(function, "__func__", function)
        while hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        code = getattr(function, "__code__", None)
        if isinstance(code, types.CodeType):
            yield code


def _stored_attributes(code: types.CodeType) -> Iterator[str]:
    """Yield the names of attributes that a code assigns. `dis` would find them too, in ten times the time."""
    operations, arguments = code.co_code[::2], code.co_code[1::2]
    at = operations.find(_STORE_ATTR)
    while at >= 0:
        extended = arguments[at - 1] << 8 if at and operations[at - 1] == _EXTENDED_ARG else 0
        yield code.co_names[extended | arguments[at]]
        at = operations.find(_STORE_ATTR, at + 1)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _stored_attributes(constant)
