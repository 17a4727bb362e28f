"""The `local` executor if its workers cannot be started."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.devices.slots import core_ids, make_slots
from search.errors import SearchError
from search.executors.local import Zygote


def test_the_error_names_the_reason_why_workers_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keras.py").write_text("raise ImportError('no framework')\n")
    monkeypatch.syspath_prepend(tmp_path)
    zygote = Zygote(tmp_path / "log", None)
    (slot,) = make_slots((), 1, core_ids(), 1)
    try:
        with pytest.raises(SearchError, match=r"cannot be started: ImportError: no framework \(exit code 1\); see"):
            zygote.fork(slot, tmp_path / "worker.log")
    finally:
        zygote.close()
