"""Logs of an epoch as plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def scalar_logs(logs: Mapping[str, Any]) -> dict[str, float]:
    """Return the scalars among Keras's logs of an epoch as floats, without other values."""
    return {name: float(value) for name, value in logs.items() if np.ndim(value) == 0}
