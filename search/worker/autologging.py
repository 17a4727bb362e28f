"""MLflow's autologging in the user's code: off in the probe, and known to a worker that trains by fused epochs.

`mlflow.autolog` patches `model.fit`. This module imports nothing of MLflow's itself.
"""

from __future__ import annotations

from search.tracking.mlflow.internals import capabilities_off, is_autologging, without_autologging

__all__ = ["BYPASSED", "capabilities_off", "is_autologging", "without_autologging"]

BYPASSED = (
    "mlflow.autolog sees model.fit, and fused epochs bypass it: the search logs the trials itself; --no-fuse has "
    "autologging log them, too"
)
