"""Private API of TensorFlow, and of Keras on TensorFlow, behind functions with public names.

An island, see `search.worker.capabilities`. Most functions here are right only if `placeholders.works`,
`optimizer_updates.works` and so on: the callers ask.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.framework.function_pb2 import FunctionDef
from tensorflow.core.framework.types_pb2 import DT_FLOAT
from tensorflow.core.protobuf.config_pb2 import ConfigProto

from search.worker.capabilities import capability
from search.worker.keras_internals import tiny_model

__all__ = [
    "PLACE",
    "SLOT_ATTRIBUTES",
    "add_operation",
    "call_function",
    "expect_retracing",
    "function_options",
    "graph_options",
    "index_slots",
    "keep_global_seed",
    "keeping_kernels",
    "kept_kernels",
    "own_operations",
    "placeholders",
    "register_function",
    "replace_attribute",
    "replace_operations",
    "replace_slot_indices",
    "replace_variable",
    "seeds_of",
    "set_value",
    "shared_slots_of",
    "slots_of",
    "traced_updates",
    "unregister_function",
    "update_method",
]


def _versions() -> str:
    return f"TensorFlow {tf.__version__} with Keras {keras.__version__}"


def _context() -> Any:
    from tensorflow.python.eager import context

    return context


# Variables and operations of Keras, replaced --------------------------------------------------------------------------


@capability(
    "graph sharing",
    without="each model has a graph of its own",
    uses=(
        "keras.Variable._value",
        "keras.Variable._shape",
        "keras.optimizers.Optimizer._trainable_variables",
        "keras.optimizers.Optimizer._trainable_variables_indices",
        "keras.optimizers.Optimizer._var_key",
        "keras.optimizers.Optimizer._get_variable_index",
        "keras.src.backend.tensorflow.numpy",
        "keras.src.backend.tensorflow.random",
        "keras.src.backend.tensorflow.random._cast_seed",
        "tensorflow.python.eager.context",
        "tensorflow.python.eager.context.Context.add_function_def",
        "tensorflow.python.eager.context.Context.remove_function",
        "tensorflow.python.eager.context.Context.call_function",
    ),
    packages=_versions,
    for_speed=True,
)
def placeholders() -> bool:
    """Test whether variables and operations can be replaced, and functions called by their names."""
    with tf.init_scope():
        return _variables_are_replaced() and _operations_are_replaced() and _functions_are_called()


def _variables_are_replaced() -> bool:
    """Test whether a variable takes another value's place, and an optimizer finds its slots again."""
    optimizer = tiny_model().optimizer
    variable = optimizer._trainable_variables[0]
    own, placeholder = variable.value, tf.Variable(tf.zeros((1, 2)))
    with ExitStack() as restored:
        replace_variable(restored, variable, placeholder, (1, None))
        replace_slot_indices(restored, optimizer)
        replaced = variable.value is placeholder and tuple(variable.shape) == (1, None)
        indexed = [optimizer._get_variable_index(each) for each in optimizer._trainable_variables] == [0, 1, 2, 3]
    return replaced and indexed and variable.value is own and tuple(variable.shape) == (1, 2)


def _operations_are_replaced() -> bool:
    """Test whether Keras calls what is put in place of an operation, and draws by the seeds that we know of."""
    called: list[str] = []
    with ExitStack() as restored:
        replace_operations(
            restored, add=lambda *_: called.append("add"), dropout=lambda *_, **__: called.append("dropout")
        )
        keras.ops.add(np.float32(1), np.float32(2))
        keras.random.dropout(np.ones(1, "float32"), 0.5, seed=1)
    return called == ["add", "dropout"] and tuple(seeds_of(1).shape) == (2,)


def _functions_are_called() -> bool:
    """Test whether a function that is registered can be called."""
    function = FunctionDef()
    function.signature.name = "search_self_test"
    function.signature.input_arg.add(name="x", type=DT_FLOAT)
    function.signature.output_arg.add(name="y", type=DT_FLOAT)
    node = function.node_def.add(name="z", op="Neg", input=["x"])
    node.attr["T"].type = DT_FLOAT
    function.ret["y"] = "z:y:0"
    register_function(function)
    try:
        (result,) = call_function(b"search_self_test", [tf.constant(1.0)], 1)
    finally:
        unregister_function("search_self_test")
    return float(result) == -1.0


def set_value(variable: Any, value: Any) -> None:
    """Give a Keras variable another variable of TensorFlow's."""
    variable._value = value


def replace_variable(restored: ExitStack, variable: Any, value: Any, shape: tuple[int | None, ...]) -> None:
    """Give a Keras variable another variable of TensorFlow's, of any shape, until `restored` is closed."""
    replace_attribute(restored, variable, "_value", value)
    replace_attribute(restored, variable, "_shape", shape)


def replace_attribute(restored: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Set an attribute past Keras's `__setattr__`, until `restored` is closed."""
    attributes = vars(owner)
    restored.callback(attributes.__setitem__, name, attributes[name])
    attributes[name] = value


def index_slots(optimizer: Any) -> None:
    """Tell an optimizer which of its slots belong to which variable: it finds them by the variables' addresses."""
    variables = optimizer._trainable_variables
    optimizer._trainable_variables_indices = {optimizer._var_key(each): i for i, each in enumerate(variables)}


def replace_slot_indices(restored: ExitStack, optimizer: Any) -> None:
    """Index an optimizer's slots by the variables that it has now, until `restored` is closed."""
    replace_attribute(restored, optimizer, "_trainable_variables_indices", {})
    index_slots(optimizer)


def replace_operations(restored: ExitStack, add: Callable[..., Any], dropout: Callable[..., Any]) -> None:
    """Have Keras call these in place of its `add` and `dropout`, until `restored` is closed."""
    from keras.src.backend.tensorflow import numpy, random

    replace_attribute(restored, numpy, "add", add)
    replace_attribute(restored, random, "dropout", dropout)


def own_operations() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return Keras's `add` and `dropout` for TensorFlow."""
    from keras.src.backend.tensorflow import numpy, random

    return numpy.add, random.dropout


def seeds_of(seed: Any) -> Any:
    """Return the seeds by which Keras draws for a seed or a generator, as a tensor of shape (2,)."""
    from keras.src.backend.tensorflow import random

    return random._cast_seed(random.draw_seed(seed))


# Functions, by their names --------------------------------------------------------------------------------------------


def register_function(definition: Any) -> None:
    """Make a function known to TensorFlow in this process."""
    _context().context().add_function_def(definition)


def unregister_function(name: str) -> None:
    """Make TensorFlow forget a function."""
    _context().context().remove_function(name)


def call_function(name: bytes, tensors: Sequence[Any], outputs: int) -> Any:
    """Call a registered function, and return its outputs as a list of that length."""
    return _context().context().call_function(name, tensors, outputs)


# Updates of an optimizer ----------------------------------------------------------------------------------------------

SLOT_ATTRIBUTES = (
    "momentums",
    "_accumulated_delta_vars",
    "_accumulated_grads",
    "_accumulators",
    "_average_gradients",
    "_linears",
    "_m",
    "_momentums",
    "_u",
    "_velocities",
    "_velocity_hats",
)
"""Attributes in which Keras's optimizers keep slots, one for each variable."""

_SHARED_ATTRIBUTES = ("_iterations", "_learning_rate", "_u_product")
"""Attributes in which they keep one variable for all."""

_UPDATE_METHOD = "_distributed_tf_update_step"

PLACE = "_class"
"""The attribute of an operation that places it with another one."""


@capability(
    "repeated updates",
    without="the optimizer's update is traced for each variable",
    uses=(
        "keras.optimizers.Optimizer._distributed_tf_update_step",
        "keras.optimizers.Optimizer._get_variable_index",
        "tensorflow.Graph._create_op_internal",
    ),
    packages=_versions,
    for_speed=True,
)
def traced_updates() -> bool:
    """Test whether an optimizer calls its update for all variables at once, and an operation can be repeated."""
    optimizer = tiny_model().optimizer
    variables = list(optimizer._trainable_variables)
    updated: list[Any] = []

    def update(strategy: Any, pairs: Any, learning_rate: Any) -> None:
        updated.extend(variable for _, variable in pairs)

    with update_method(optimizer, lambda _: update):
        optimizer.apply([tf.zeros(variable.shape) for variable in variables], variables)
    with tf.Graph().as_default() as graph:
        one = tf.constant(1.0)
        copy = add_operation(graph, tf.negative(one).op, [one], {})
    known = [optimizer._get_variable_index(variable) for variable in variables] == [0, 1, 2, 3]
    return known and copy.type == "Neg" and len(updated) == len(variables)


@contextmanager
def update_method(optimizer: Any, make: Callable[[Any], Any]) -> Iterator[None]:
    """Replace the method by which an optimizer updates all variables, within.

    Args:
        make: returns the new one for the old one: functions (strategy, (gradient, variable) pairs, learning rate).
    """
    attributes = vars(optimizer)  # past Keras's `__setattr__`
    attributes[_UPDATE_METHOD] = make(getattr(optimizer, _UPDATE_METHOD))
    try:
        yield
    finally:
        del attributes[_UPDATE_METHOD]


def slots_of(optimizer: Any, variable: Any) -> list[Any]:
    """Return the slots of a variable, as variables of TensorFlow's."""
    index = optimizer._get_variable_index(variable)
    slots = [getattr(optimizer, name, None) for name in SLOT_ATTRIBUTES]
    return [slot[index].value for slot in slots if slot]


def shared_slots_of(optimizer: Any) -> list[Any]:
    """Return the optimizer's variables that serve all others, as variables of TensorFlow's."""
    variables = [getattr(optimizer, name, None) for name in _SHARED_ATTRIBUTES]
    return [variable.value for variable in variables if isinstance(variable, keras.Variable)]


def add_operation(graph: Any, operation: Any, inputs: Sequence[Any], attributes: Any) -> Any:
    """Add a copy of an operation to a graph, with other inputs."""
    return graph._create_op_internal(
        operation.type,
        inputs,
        [tensor.dtype for tensor in operation.outputs],
        attrs=attributes,
        op_def=operation.op_def,
    )


# TensorFlow's runtime -------------------------------------------------------------------------------------------------


@capability(
    "light graph optimization",
    without="TensorFlow optimizes each graph in full",
    uses=(
        "tensorflow.python.eager.context",
        "tensorflow.python.eager.context.Context.function_call_options",
        "tensorflow.python.eager.context.FunctionCallOptions",
    ),
    packages=_versions,
    for_speed=True,
)
def graph_options() -> bool:
    """Test whether the options of functions can be read, set and restored."""
    before = _current_options()
    with function_options(lambda options: setattr(options, "meta_optimizer_iterations", 2)):
        within = _current_options()
    return bool(within.meta_optimizer_iterations == 2 and _current_options() == before)


def _current_options() -> Any:
    serialized = _context().context().function_call_options.config_proto_serialized
    return ConfigProto.FromString(serialized).graph_options.rewrite_options


@contextmanager
def function_options(change: Callable[[Any], None]) -> Iterator[None]:
    """Change the options of TensorFlow's graph optimizer for functions that are first called within.

    Args:
        change: changes a `RewriterConfig`.
    """
    context = _context()
    runtime = context.context()
    before = runtime.function_call_options
    config = ConfigProto.FromString(before.config_proto_serialized)
    change(config.graph_options.rewrite_options)
    runtime.function_call_options = context.FunctionCallOptions(before.executor_type, config)
    try:
        yield
    finally:
        runtime.function_call_options = before


@capability(
    "keeping kernels",
    without="TensorFlow makes its kernels again for each model",
    uses=("tensorflow.python.eager.context", "tensorflow.python.eager.context.pywrap_tfe.TFE_ContextClearCaches"),
    packages=_versions,
    for_speed=True,
)
def kept_kernels() -> bool:
    """Test whether seeding TensorFlow clears the kernels by the function that is replaced here."""
    context = _context()
    context.ensure_initialized()
    cleared: list[int] = []
    with ExitStack() as restored:
        replace_attribute(restored, context.pywrap_tfe, "TFE_ContextClearCaches", lambda handle: cleared.append(1))
        tf.random.set_seed(0)
    return bool(cleared)


@contextmanager
def keeping_kernels() -> Iterator[None]:
    """Keep TensorFlow's kernels within, when the session is cleared or TensorFlow is seeded."""
    with ExitStack() as restored:
        replace_attribute(restored, _context().pywrap_tfe, "TFE_ContextClearCaches", lambda handle: None)
        yield


@capability(
    "global seeds",
    without="a search in the process of a script leaves it another global seed",
    uses=("tensorflow.python.eager.context.context",),
    packages=_versions,
)
def global_seed() -> bool:
    """Test whether TensorFlow keeps its global seed, and a generator with it, where they are looked for."""
    kept = vars(_context().context())
    return "_seed" in kept and (kept["_seed"] is None or isinstance(kept.get("_rng"), random.Random))


def keep_global_seed() -> Callable[[], None]:
    """Return a function that gives TensorFlow the global seed, and the generator of seeds, that it has now."""
    if not global_seed.works:
        return lambda: None
    context = _context().context()
    before = {name: value for name, value in vars(context).items() if name in ("_seed", "_rng")}
    return lambda: vars(context).update(before)


def expect_retracing(function: Any) -> Any:
    """Return a `tf.function` that warns of no retracing: each model has one of its name."""
    function._omit_frequent_tracing_warning = True
    return function
