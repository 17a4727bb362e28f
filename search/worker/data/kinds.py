"""Arrays of all kinds that `model.fit` takes, each in the one form in which a split holds it.

Numbers are a numpy array. Text is a string tensor of TensorFlow's. A sparse matrix is a CSR matrix of SciPy's, a sparse
tensor of another rank a `tf.SparseTensor`. Rows of unequal lengths are a `tf.RaggedTensor`. Keras takes all of these
for validation and evaluation as they are; `batch_of` converts the samples of a training batch.
"""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np

from search.errors import SpaceError

__all__ = [
    "batch_of",
    "bytes_of",
    "example_of",
    "from_plain",
    "in_native_order",
    "is_array_like",
    "is_dense",
    "is_plain",
    "kind_of",
    "plain_parts",
    "rows_at",
    "rows_of",
    "spec_of",
    "spec_of_type",
    "to_array",
]

Kind = Literal["numbers", "text", "sparse data", "ragged data"]


def kind_of(leaf: Any) -> Kind:
    """Return the kind of an array."""
    classes = {cls.__name__ for cls in type(leaf).__mro__}
    if "RaggedTensor" in classes:
        return "ragged data"
    if _is_scipy(leaf) or classes & {"SparseTensor", "JAXSparse"}:
        return "sparse data"
    return "text" if "Tensor" in classes and getattr(leaf.dtype, "name", "") == "string" else "numbers"


def is_plain(leaf: Any) -> bool:
    """Return whether an array is a numpy array of numbers."""
    return isinstance(leaf, np.ndarray) and leaf.dtype.kind != "O"


def is_array_like(leaf: Any) -> bool:
    """Return whether Keras takes `leaf` as an array."""
    return hasattr(leaf, "__array__") or kind_of(leaf) != "numbers"


def _is_scipy(leaf: Any) -> bool:
    return type(leaf).__module__.startswith("scipy.sparse") and hasattr(leaf, "tocoo")


# From the user's form -------------------------------------------------------------------------------------------------


def to_array(leaf: Any, where: str) -> Any:
    """Return an array in the form of its kind, with floats in `keras.config.floatx()`.

    Args:
        where: the array's place, for error messages.

    Raises:
        SpaceError: in one line, if `model.fit` does not take it.
    """
    if not is_array_like(leaf):
        raise SpaceError(f"load_data: {where} holds {_class_of(leaf)}, which is no array: return numpy arrays")
    kind = kind_of(leaf)
    if kind == "sparse data":
        return _to_sparse(leaf, where)
    if kind == "ragged data":
        return _with_floatx(leaf)
    if kind == "text":
        return _text(leaf, where)
    return _to_numpy(leaf, where)


def _to_numpy(leaf: Any, where: str) -> Any:
    try:
        array = np.asarray(_dense(leaf))
    except Exception as error:
        raise SpaceError(
            f"load_data: {where} cannot be made a numpy array ({type(error).__name__}: {error}): return dense arrays"
        ) from error
    if array.dtype.kind == "O" and array.ndim == 1 and len(array) and all(isinstance(item, str) for item in array):
        return _text(array, where, pandas=hasattr(leaf, "iloc"))
    # Extension types such as bfloat16 are of kind V.
    is_float = array.dtype.kind == "f" or "float" in array.dtype.name
    if array.dtype.kind not in "biufc" and not is_float:
        raise SpaceError(f"load_data: {where} is of dtype {array.dtype}: {_advice(array)}")
    if array.ndim == 0:
        raise SpaceError(f"load_data: {where} is a single value: return an array with one row for each sample")
    if is_float and array.dtype.name != keras.config.floatx():
        array = array.astype(keras.config.floatx())
    array = in_native_order(array)
    # Keras makes a pandas Series a column.
    return array[:, None] if hasattr(leaf, "iloc") and array.ndim == 1 else array


def in_native_order(leaf: Any) -> Any:
    """Return a numpy array in this machine's byte order, which JAX and PyTorch need; anything else as it is.

    Files of other fields, such as FITS and IDX, hold big-endian numbers.
    """
    if not isinstance(leaf, np.ndarray) or leaf.dtype.isnative:
        return leaf
    return leaf.astype(leaf.dtype.newbyteorder("="))


def _dense(leaf: Any) -> Any:
    """Return `leaf` in a form that numpy can read."""
    if type(leaf).__module__.partition(".")[0] == "torch":
        leaf = leaf.detach().cpu()
        return leaf.float() if leaf.is_floating_point() else leaf
    if hasattr(leaf, "iloc") and hasattr(leaf, "dtypes") and leaf.ndim == 2:
        # As in Keras: a column of floats makes all columns floats, so that flags beside them are numbers, too.
        floats = [np.dtype(kind) for kind in leaf.dtypes if isinstance(kind, np.dtype) and kind.kind == "f"]
        if any(kind.name != keras.config.floatx() for kind in floats):
            return leaf.astype(keras.config.floatx())
    return leaf


def _text(leaf: Any, where: str, pandas: bool = False) -> Any:
    if keras.config.backend() != "tensorflow":
        raise SpaceError(
            f"load_data: {where} is text, which Keras takes only on TensorFlow: encode it first, or set keras_backend "
            'to "tensorflow"'
        )
    import tensorflow as tf

    if pandas:
        raise SpaceError(
            f"load_data: {where} is a pandas Series of text, which Keras does not take: return tf.constant(series)"
        )
    text = tf.convert_to_tensor(leaf, "string")
    if not text.shape.rank:
        raise SpaceError(f"load_data: {where} is a single value: return an array with one row for each sample")
    return text


def _advice(array: np.ndarray[Any, Any]) -> str:
    items = array.ravel()[:1000] if array.dtype.kind == "O" else ()
    if array.dtype.kind in "USO" and all(isinstance(item, (str, bytes)) for item in items):
        return "Keras takes text only as a tensor, return tf.constant(…), or numbers: encode text and categories first"
    if any(isinstance(item, (list, tuple, np.ndarray)) for item in items):
        return "Keras takes rows of unequal lengths only as a tensor, return tf.ragged.constant(…), or pad them"
    return "return numbers, encode text and categories first"


def _to_sparse(leaf: Any, where: str) -> Any:
    if len(leaf.shape) < 2:
        raise SpaceError(f"load_data: {where} is a sparse vector: return a sparse matrix, with one row for each sample")
    if not _is_scipy(leaf) and len(leaf.shape) > 2:
        return _with_floatx(_sorted_tensor(leaf))
    return _with_floatx(leaf.tocsr() if _is_scipy(leaf) else _csr_of(leaf))


def _csr_of(tensor: Any) -> Any:
    from scipy import sparse

    indices, values = _entries(tensor)
    shape = tuple(int(size) for size in tensor.shape)
    return sparse.csr_matrix((values, (indices[:, 0], indices[:, 1])), shape=shape)


def _sorted_tensor(tensor: Any) -> Any:
    import tensorflow as tf

    indices, values = _entries(tensor)
    shape = [int(size) for size in tensor.shape]
    return tf.sparse.reorder(tf.SparseTensor(indices.astype("int64"), values, shape))


def _entries(tensor: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the indices of a sparse tensor's values, shape (values, rank), and the values."""
    if not hasattr(tensor, "indices") or not hasattr(tensor, "values"):  # JAX's
        from jax.experimental import sparse

        tensor = tensor if isinstance(tensor, sparse.BCOO) else sparse.BCOO.fromdense(tensor.todense())
        tensor = sparse.bcoo_update_layout(tensor, n_batch=0, n_dense=0)
        indices, values = np.asarray(tensor.indices), np.asarray(tensor.data)
        inside = (indices < np.asarray(tensor.shape)).all(axis=1)  # the others are padding
        return indices[inside], values[inside]
    return np.asarray(tensor.indices), np.asarray(tensor.values)


def _with_floatx(leaf: Any) -> Any:
    """Return a sparse or ragged array with any floats in Keras's type."""
    floatx = keras.config.floatx()
    if _dtype_name(leaf) == floatx or "float" not in _dtype_name(leaf):
        return leaf
    if _is_scipy(leaf):
        return leaf.astype(floatx)
    import tensorflow as tf

    return tf.cast(leaf, floatx)


def _class_of(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


# Facts ----------------------------------------------------------------------------------------------------------------


def rows_of(leaf: Any) -> int:
    """Return the number of samples of an array."""
    return int(leaf.shape[0])


def bytes_of(leaf: Any) -> int:
    """Return the size of an array in bytes."""
    return sum(part.nbytes for part in plain_parts(leaf)) if kind_of(leaf) != "text" else 0


def plain_parts(leaf: Any) -> list[np.ndarray[Any, Any]]:
    """Return the numpy arrays that hold the contents of an array of any kind."""
    kind = kind_of(leaf)
    if kind == "text":
        return [np.asarray(leaf.numpy()).astype(bytes)]
    if kind == "ragged data":
        return [*plain_parts(leaf.flat_values), *(np.asarray(splits) for splits in leaf.nested_row_splits)]
    if _is_scipy(leaf):
        matrix = leaf.tocsr().sorted_indices()
        return [matrix.data, matrix.indices.astype("int64"), matrix.indptr.astype("int64")]
    return [*_entries(leaf)] if kind == "sparse data" else [np.asarray(leaf)]


def from_plain(array: np.ndarray[Any, Any]) -> Any:
    """Return numbers or text from the one array that `plain_parts` returned for them."""
    if array.dtype.kind != "S":
        return array
    import tensorflow as tf

    return tf.constant(array)


def _dtype_name(leaf: Any) -> str:
    return str(leaf.dtype.name)


def spec_of(leaf: Any) -> Any:
    """Return the shape and dtype of an array's batches as a `keras.KerasTensor`, with batch size None."""
    kind, shape, dtype = kind_of(leaf), tuple(leaf.shape[1:]), _dtype_name(leaf)
    if kind == "ragged data":
        return _spec(shape, dtype, ragged_rank=leaf.ragged_rank, row_splits_dtype=leaf.row_splits.dtype.name)
    return _spec(shape, dtype, sparse=kind == "sparse data")


def spec_of_type(spec: Any) -> Any:
    """Return what `spec_of` returns for the batches of an element of a dataset, from its `tf.TypeSpec`."""
    shape, dtype = tuple(spec.shape[1:]), spec.dtype.name
    if type(spec).__name__ == "RaggedTensorSpec":
        return _spec(shape, dtype, ragged_rank=spec.ragged_rank, row_splits_dtype=spec.row_splits_dtype.name)
    return _spec(shape, dtype, sparse=type(spec).__name__ == "SparseTensorSpec")


def _spec(shape: tuple[int | None, ...], dtype: str, *, sparse: bool = False, **ragged: Any) -> Any:
    """Return a `keras.KerasTensor`. On a back end that has no ragged or sparse tensors, batches are dense."""
    backend = keras.config.backend()
    if ragged and backend == "tensorflow":
        return keras.KerasTensor((None, *shape), dtype, ragged=True, **ragged)
    sparse = sparse and backend in ("tensorflow", "jax")
    return keras.KerasTensor((None, *shape), dtype, sparse=sparse)


# Batches --------------------------------------------------------------------------------------------------------------


def rows_at(leaf: Any, indices: Any) -> Any:
    """Return the rows of an array at `indices` (an index array without repeats, or a slice), in the array's form."""
    if is_plain(leaf) or _is_scipy(leaf):
        return leaf[indices]
    import tensorflow as tf

    rows = np.arange(rows_of(leaf))[indices]
    return _sparse_rows(leaf, rows) if kind_of(leaf) == "sparse data" else tf.gather(leaf, rows)


def _sparse_rows(tensor: Any, rows: Any) -> Any:
    import tensorflow as tf

    target = np.full(rows_of(tensor), -1)
    target[rows] = np.arange(len(rows))
    indices, values = _entries(tensor)
    chosen = target[indices[:, 0]] >= 0
    indices = np.column_stack([target[indices[chosen, 0]], indices[chosen, 1:]])
    return tf.sparse.reorder(tf.SparseTensor(indices, values[chosen], [len(rows), *tensor.shape[1:]]))


def batch_of(leaf: Any) -> Any:
    """Return the samples of a batch as Keras's back end takes them from a PyDataset."""
    backend, kind = keras.config.backend(), kind_of(leaf)
    if kind == "ragged data":
        return leaf if backend == "tensorflow" else leaf.to_tensor().numpy()
    if kind != "sparse data":
        return in_native_order(leaf)
    if backend not in ("tensorflow", "jax"):
        return _to_dense(leaf)
    return _to_tensor(leaf) if backend == "tensorflow" else leaf


def _to_dense(leaf: Any) -> Any:
    if _is_scipy(leaf):
        return leaf.toarray()
    import tensorflow as tf

    return tf.sparse.to_dense(leaf).numpy()


def _to_tensor(leaf: Any) -> Any:
    if not _is_scipy(leaf):
        return leaf
    import tensorflow as tf

    matrix = leaf.tocsr().sorted_indices().tocoo()
    indices = np.column_stack([matrix.row, matrix.col]).astype("int64")
    return tf.SparseTensor(indices, matrix.data, matrix.shape)


def is_dense(spec: Any) -> bool:
    """Return whether a `keras.KerasTensor` stands for a dense tensor of numbers."""
    return not (spec.dtype == "string" or getattr(spec, "sparse", False) or getattr(spec, "ragged", False))


def example_of(spec: Any, array: np.ndarray[Any, Any]) -> Any:
    """Return the numbers of a dense `array` as an input of the kind of a `keras.KerasTensor`. Any text is empty."""
    if is_dense(spec):
        return array
    import tensorflow as tf

    if spec.dtype == "string":
        array = np.full(array.shape, "")
    if getattr(spec, "ragged", False):
        return tf.RaggedTensor.from_tensor(array, ragged_rank=spec.ragged_rank)
    tensor = tf.sparse.from_dense(array) if getattr(spec, "sparse", False) else tf.constant(array)
    return batch_of(_csr_of(tensor)) if getattr(spec, "sparse", False) and array.ndim == 2 else tensor
