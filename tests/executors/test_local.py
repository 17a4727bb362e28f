"""The `local` executor: its workers as the zygote leaves them, and the error if they cannot be started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from search.devices.slots import core_ids, make_slots
from search.errors import SearchError
from search.executors.local import LocalExecutor
from search.messages import Probe, ProbeFailed
from search.space.file import SpaceRef


def test_the_error_names_the_reason_why_workers_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keras.py").write_text("raise ImportError('no framework')\n")
    monkeypatch.syspath_prepend(tmp_path)
    executor = LocalExecutor(make_slots((), 1, core_ids(), 1), tmp_path / "log")
    try:
        with pytest.raises(SearchError, match=r"cannot be started: ImportError: no framework \(exit code 1\); see"):
            executor.probe(Probe(SpaceRef(path="none.py")))
    finally:
        executor.close()


@pytest.mark.slow
def test_a_worker_collects_its_own_garbage_and_no_imports(tmp_path: Path, zygote: Any) -> None:
    space = tmp_path / "space.py"
    space.write_text(
        "import gc\nraise RuntimeError(f'enabled {gc.isenabled()}, left out {gc.get_freeze_count() > 200_000}')\n"
    )
    executor = LocalExecutor(make_slots((), 1, core_ids(), 1), tmp_path / "log", zygote=zygote)
    try:
        found = executor.probe(Probe(SpaceRef(path=str(space))))
    finally:
        executor.close()
    assert isinstance(found, ProbeFailed)
    assert "enabled True, left out True" in found.message
