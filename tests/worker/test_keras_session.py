"""Sessions: a seed gives the same random numbers whatever was done before, and what is held stays ready to run."""

from __future__ import annotations

import keras
import pytest
import tensorflow as tf

from search.worker.keras_session import session


def drawn(seed: int) -> list[float]:
    """Numbers of TensorFlow's own random state, each of which a kernel goes on with."""
    with session(seed):
        return [float(tf.random.normal(())) for _ in range(3)]


def test_a_seed_gives_the_same_numbers_again() -> None:
    first = drawn(101)
    assert len(set(first)) == 3
    assert drawn(102) != first
    assert drawn(101) == first
    assert drawn(101) == first
    tf.keras.utils.set_random_seed(101)
    assert [float(tf.random.normal(())) for _ in range(3)] == first


def test_kernels_are_kept_until_a_seed_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorflow.python.eager import context

    cleared = []
    clear = context.pywrap_tfe.TFE_ContextClearCaches
    monkeypatch.setattr(context.pywrap_tfe, "TFE_ContextClearCaches", lambda handle: (cleared.append(1), clear(handle)))
    drawn(103)
    drawn(104)
    assert not cleared
    drawn(103)
    assert cleared


def test_what_the_space_file_sets_for_all_models_stays() -> None:
    usual = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        for seed in (105, 106):
            with session(seed):
                assert keras.layers.Dense(1).compute_dtype == "bfloat16"
                keras.config.set_dtype_policy("float64")  # for this model
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy(usual)
