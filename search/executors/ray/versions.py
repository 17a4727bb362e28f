"""The versions on each node. Nothing of `search` is imported here: a node may lack it, and is asked all the same.

The function that looks at a node travels with its source, see `search.executors.ray.cluster.check_nodes`.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import platform
from collections.abc import Mapping, Sequence

__all__ = ["describe_difference", "installed"]


def installed(packages: Sequence[str]) -> dict[str, str | None]:
    """Return the versions in this process: of Python, Ray, `search` and `packages`; None for what is missing.

    Nothing but Ray and `search` is imported.
    """
    import ray

    found: dict[str, str | None] = {"python": platform.python_version(), "ray": ray.__version__, "search": None}
    with contextlib.suppress(ImportError):
        found["search"] = importlib.import_module("search").__version__
    for package in packages:
        found[package] = None
        if importlib.util.find_spec(package) is None:
            continue
        names = importlib.metadata.packages_distributions().get(package) or [package]
        try:
            found[package] = importlib.metadata.version(names[0])
        except importlib.metadata.PackageNotFoundError:
            found[package] = "?"
    return found


def describe_difference(here: Mapping[str, str | None], there: Mapping[str, str | None]) -> str | None:
    """Return the first difference of a node from the driver, for users; None if they are alike."""
    for name, version in here.items():
        other = there.get(name)
        if other == version:
            continue
        if other is None:
            return f"has no {name}: install {name} {version} there"
        return f"has {name} {other}, and this process has {version}: install the same version"
    return None
