"""Sessions: a seed gives the same random numbers whatever ran before, and kernels of cached models are kept."""

from __future__ import annotations

import keras
import pytest
import tensorflow as tf

from search.worker import keras_internals
from search.worker.keras_session import session


def draw(seed: int) -> list[float]:
    """Draw numbers from TensorFlow's global random state, which a kernel continues."""
    with session(seed):
        return [float(tf.random.normal(())) for _ in range(3)]


def test_a_seed_gives_the_same_numbers_again() -> None:
    first = draw(101)
    assert len(set(first)) == 3
    assert draw(102) != first
    assert draw(101) == first
    assert draw(101) == first
    tf.keras.utils.set_random_seed(101)
    assert [float(tf.random.normal(())) for _ in range(3)] == first


def test_kernels_are_kept_until_a_seed_is_reused(monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorflow.python.eager import context

    cleared = []
    clear = context.pywrap_tfe.TFE_ContextClearCaches
    monkeypatch.setattr(context.pywrap_tfe, "TFE_ContextClearCaches", lambda handle: (cleared.append(1), clear(handle)))
    draw(103)
    draw(104)
    assert not cleared
    draw(103)
    assert cleared


def test_names_begin_anew_with_each_model_if_keras_has_no_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("keras.src.backend.common.global_state.get_global_attribute")
    keras_internals.counted_names.forget()
    try:
        assert keras_internals.used_names() == {}
        keras_internals.set_used_names({"dense": 3})
        assert "counting of names is off" in keras_internals.counted_names.line
    finally:
        keras_internals.counted_names.forget()


def test_settings_of_the_space_file_for_all_models_stay() -> None:
    default = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        for seed in (105, 106):
            with session(seed):
                assert keras.layers.Dense(1).compute_dtype == "bfloat16"
                keras.config.set_dtype_policy("float64")  # only for this model
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy(default)
