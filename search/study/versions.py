"""Versions of libraries: those that a study ran with, against those of today."""

from __future__ import annotations

import os
from collections.abc import Mapping

KERAS_BACKENDS = ("tensorflow", "jax", "torch")
"""The frameworks that Keras computes with."""


FRAMEWORKS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
"""The names of the frameworks, as their makers write them."""


def framework_name(keras_backend: str | None) -> str:
    """Return the name of the framework that a process will import for Keras.

    Args:
        keras_backend: the user's option; None for Keras's own choice.
    """
    name = keras_backend or os.environ.get("KERAS_BACKEND") or "tensorflow"
    return FRAMEWORKS.get(name, name)


def changed_versions(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return the libraries whose versions differ, as "keras 3.14.0 (now 3.15.1)"; "" if there are none.

    Frameworks other than the Keras back end compute nothing, and are left out.
    """
    idle = set(KERAS_BACKENDS) - {now.get("keras_backend")} | {"keras_backend"}
    return ", ".join(
        f"{name} {version} (now {now[name]})"
        for name, version in before.items()
        if name not in idle and name in now and now[name] != version
    )
