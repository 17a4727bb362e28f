"""The folder in which the searches of a module run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def folder(zygote: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the working folder of all searches of a module. They share the session's zygote."""
    folder = tmp_path_factory.mktemp("searches")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("search.executors.selection.shared_zygote", zygote)
        yield folder
