"""MLflow's autologging in the user's code: off in the probe, and known to a worker that trains by fused epochs.

`mlflow.autolog` patches `model.fit`. This module imports nothing of MLflow's itself.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

__all__ = ["BYPASSED", "is_autologging", "without_autologging"]

BYPASSED = (
    "mlflow.autolog sees model.fit, and fused epochs bypass it: the search logs the trials itself; --no-fuse has "
    "autologging log them, too"
)

_UTILITIES = "mlflow.utils.autologging_utils"


def without_autologging() -> AbstractContextManager[Any]:
    """Return a context in which MLflow logs nothing by itself, if the user's code has imported it."""
    utilities = sys.modules.get(_UTILITIES)
    context: AbstractContextManager[Any] = nullcontext() if utilities is None else utilities.disable_autologging()
    return context


def is_autologging() -> bool:
    """Return whether the user's code has switched on autologging of `model.fit`."""
    utilities = sys.modules.get(_UTILITIES)
    return utilities is not None and not all(map(utilities.autologging_is_disabled, ("keras", "tensorflow")))
