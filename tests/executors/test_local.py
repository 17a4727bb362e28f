"""The `local` executor where its workers cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.devices import slots as devices
from search.errors import SearchError
from search.executors.local import Zygote


def test_what_keeps_workers_from_starting_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keras.py").write_text("raise ImportError('no framework')\n")
    monkeypatch.syspath_prepend(tmp_path)
    zygote = Zygote(tmp_path / "log", None)
    (slot,) = devices.make_slots((), 1, devices.core_ids(), 1)
    try:
        with pytest.raises(SearchError, match=r"cannot be started: ImportError: no framework \(exit code 1\); see"):
            zygote.fork(slot, tmp_path / "worker.log")
    finally:
        zygote.close()
