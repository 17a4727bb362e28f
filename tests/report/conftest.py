"""Settings of the tests of reports."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def quick_imports() -> None:
    """Import what figures need as the command does, in a second instead of four."""
    from search.report.imports import import_plots

    import_plots()
