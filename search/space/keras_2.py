"""The replacements of idioms of Keras 2 (and of Keras Tuner's first versions) that fail in Keras 3.

A script of 2020 fails with an exception that names what is gone, and seldom what to write instead. Where Keras's own
message says it, as for the ending `.weights.h5`, there is no entry here.
"""

from __future__ import annotations

import re

__all__ = ["replacement_of"]

_LAYERS = (
    "normalization|core|merge|convolutional|recurrent|embeddings|advanced_activations|pooling|wrappers|noise|local"
    "|experimental"
)
"""Modules of `keras.layers` that are gone. Their layers are not."""

_UTILS = "np_utils|generic_utils|vis_utils|layer_utils|data_utils"

_SESSIONS = "get_session|set_session|get_default_graph|placeholder|function|set_learning_phase|tf"

_MISSING = r"(?:has no attribute|cannot import name) "

_TABLE = tuple(
    (frozenset(kinds.split()), re.compile(pattern), replacement)
    for kinds, pattern, replacement in (
        # Optimizers and callbacks.
        ("ValueError", r"Argument\(s\) not recognized: \{.*'lr':", "Keras 3 calls it learning_rate"),
        ("AttributeError", r"object has no attribute 'lr'$", "Keras 3 calls it learning_rate"),
        (
            "ImportError",
            r"`keras\.optimizers\.legacy` is not supported",
            "write keras.optimizers.Adam for keras.optimizers.legacy.Adam, and so for the others",
        ),
        (
            "AttributeError",
            r"'keras\.optimizers' has no attribute 'experimental'",
            "write keras.optimizers.Adam for keras.optimizers.experimental.Adam, and so for the others",
        ),
        (
            "AttributeError ImportError",
            rf"{_MISSING}'(adam|sgd|rmsprop|adagrad|adadelta|adamax|nadam)'",
            "the class has a capital: keras.optimizers.Adam, SGD, RMSprop, …",
        ),
        (
            "TypeError",
            r"TensorBoard\.__init__\(\) got an unexpected keyword argument '(write_grads|batch_size)'",
            "leave it out, Keras 3 has no such option",
        ),
        ("TypeError", r"ModelCheckpoint\.__init__\(\) got .* argument 'period'", "write save_freq='epoch'"),
        # Models.
        (
            "AttributeError",
            r"object has no attribute 'predict_classes'",
            "write model.predict(x).argmax(axis=-1), or model.predict(x) > 0.5 for one output",
        ),
        ("AttributeError", r"object has no attribute 'predict_proba'", "write model.predict(x)"),
        ("AttributeError", r"object has no attribute 'reset_states'", "write reset_state()"),
        (
            "TypeError",
            r"AveragePooling\dD\.__init__\(\) missing .* 'pool_size'",
            "write pool_size=2, which was the default",
        ),
        (
            "AttributeError",
            r"object has no attribute '(?P<name>fit|evaluate|predict)_generator'",
            r"write model.\g<name>, which takes a generator, too",
        ),
        (
            "TypeError",
            r"(fit|evaluate|predict)\(\) got .* argument '(workers|use_multiprocessing|max_queue_size)'",
            "leave it out; in Keras 3 a keras.utils.PyDataset has this setting",
        ),
        ("TypeError", r"fit\(\) got .* argument 'nb_epoch'", "write epochs"),
        (
            "TypeError",
            r"compile\(\) got .* argument '(sample_weight_mode|target_tensors)'",
            "leave it out, Keras 3 needs no such setting",
        ),
        ("AttributeError", r"object has no attribute 'to_yaml'", "write model.to_json()"),
        (
            "AttributeError",
            r"object has no attribute '(?P<name>input|output)_shape'",
            r"write layer.\g<name>.shape",
        ),
        # Layers.
        (
            "ValueError",
            r"Unrecognized keyword arguments passed to \w+: \{.*'batch_input_shape':",
            "begin the model with keras.Input(batch_shape=…)",
        ),
        (
            "AttributeError",
            r"'keras\.layers' has no attribute 'experimental'",
            "write keras.layers.Rescaling for keras.layers.experimental.preprocessing.Rescaling, and so for the others",
        ),
        (
            "AttributeError ImportError",
            rf"{_MISSING}'CuDNN(?P<name>LSTM|GRU)'",
            r"write keras.layers.\g<name>, which uses cuDNN by itself",
        ),
        (
            "AttributeError ImportError",
            rf"{_MISSING}'merge'",
            "write keras.layers.Concatenate, Add or Multiply",
        ),
        (
            "ModuleNotFoundError",
            rf"No module named '(?:tensorflow\.)?keras\.layers\.({_LAYERS})'",
            "import the layer from keras.layers",
        ),
        (
            "ModuleNotFoundError",
            r"No module named '(?:tensorflow\.)?keras\.engine",
            "import Layer from keras.layers, and Model from keras.models",
        ),
        # Names that moved.
        (
            "AttributeError ImportError ModuleNotFoundError",
            rf"('keras\.utils' has no attribute|cannot import name|keras\.utils\.) ?'?({_UTILS})'",
            "its functions are in keras.utils: keras.utils.to_categorical, plot_model, get_custom_objects, Sequence, …",
        ),
        (
            "AttributeError ImportError",
            rf"{_MISSING}'ImageDataGenerator'|'keras\.preprocessing\.image' has no attribute 'ImageDataGenerator'",
            "import it from tensorflow.keras.preprocessing.image, or use keras.utils.image_dataset_from_directory",
        ),
        (
            "ModuleNotFoundError",
            r"No module named 'keras\.preprocessing\.text'",
            "import it from tensorflow.keras.preprocessing.text, or use keras.layers.TextVectorization",
        ),
        (
            "ModuleNotFoundError",
            r"No module named '(?:tensorflow\.)?keras\.wrappers\.scikit_learn'",
            "write keras.wrappers.SKLearnClassifier or SKLearnRegressor",
        ),
        ("AttributeError ImportError", rf"{_MISSING}'Reduction'", "give the name, such as reduction='sum'"),
        # keras.backend.
        (
            "AttributeError ModuleNotFoundError ImportError",
            rf"No module named '(?:tensorflow\.)?keras\.backend\.tensorflow_backend'"
            rf"|'keras\.backend' has no attribute '({_SESSIONS})'",
            "Keras 3 has no sessions and graphs: leave it out",
        ),
        ("AttributeError", r"'keras\.backend' has no attribute 'get_value'", "write keras.ops.convert_to_numpy(value)"),
        ("AttributeError", r"'keras\.backend' has no attribute 'set_value'", "write variable.assign(value)"),
        (
            "AttributeError",
            r"'keras\.backend' has no attribute '(?P<name>\w+)'",
            r"such functions are in keras.ops: keras.ops.\g<name> if it is there",
        ),
        # Keras Tuner before version 1.
        ("AttributeError", r"'HyperParameters' object has no attribute 'Range'", "write hp.Int"),
        (
            "AttributeError",
            r"'HyperParameters' object has no attribute '(?P<name>Linear|Logarithmic)'",
            "write hp.Float, with sampling='log' for Logarithmic",
        ),
    )
)
"""The types of an exception, a pattern of its message, and the replacement."""


def replacement_of(kind: str, message: str) -> str:
    """Return what to write in Keras 3, if an exception shows an idiom of Keras 2; "" if it does not.

    Args:
        kind: the name of the exception's type.
        message: its text, on one line.
    """
    for kinds, pattern, replacement in _TABLE:
        if kind in kinds and (match := pattern.search(message)) is not None:
            return match.expand(replacement)
    return ""
