"""Python's private names about imports, for the early fork: which modules are half imported, and the end of an import.

If a release of Python lacks them, no process is forked early, and a new Python imports the framework instead.
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["end_import", "find_half_imported"]


def find_half_imported() -> set[str] | None:
    """Return the names of the modules whose import is under way, None if this Python does not tell."""
    if not hasattr(__spec__, "_initializing"):  # an import sets it at its beginning and at its end
        return None
    # A module may be an object that imports, or raises, if it is asked for an attribute that it lacks.
    specs = {name: getattr(module, "__dict__", {}).get("__spec__") for name, module in list(sys.modules.items())}
    return {name for name, spec in specs.items() if getattr(spec, "_initializing", False)}


def end_import(name: str) -> None:
    """Finish the import of a module that is complete but for what the import system does last."""
    module: Any = sys.modules[name]
    module.__spec__._initializing = False
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
