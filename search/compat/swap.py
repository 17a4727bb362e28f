"""The swap of modules: `import keras_tuner` finds our tuners in a process that has called `install`."""

from __future__ import annotations

import importlib
import sys

__all__ = ["install"]

_OURS = "search.compat.keras_tuner"


def install() -> None:
    """Put our modules in place of KerasTuner's in this process: `keras_tuner`, and `kerastuner`, its name of 2020."""
    importlib.import_module(_OURS)
    for name, module in list(sys.modules.items()):
        if name == _OURS or name.startswith(f"{_OURS}."):
            for package in ("keras_tuner", "kerastuner"):
                sys.modules[name.replace(_OURS, package, 1)] = module
