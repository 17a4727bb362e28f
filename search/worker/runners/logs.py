"""An epoch's logs as Keras gives them, made plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def scalar_logs(logs: Mapping[str, Any]) -> dict[str, float]:
    """Return the scalars of `logs` as floats; what is not a scalar is left out."""
    return {name: float(value) for name, value in logs.items() if np.ndim(value) == 0}
