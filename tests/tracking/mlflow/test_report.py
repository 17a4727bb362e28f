"""The report as an artifact of the study's parent run."""

from __future__ import annotations

from pathlib import Path

import pytest
from by_hand import SEARCH_ENDED, header
from stores import WriteStudy, local_address

from search.study.records import BackendChanged, Record, SearchStarted
from search.tracking.mlflow import store
from search.tracking.mlflow.position import Position
from search.tracking.mlflow.syncer import Syncer

pytestmark = pytest.mark.usefixtures("unflushed")


def test_the_report_is_shipped_at_the_end_and_again_when_it_has_changed(
    write: WriteStudy, runs: Path, tmp_path: Path
) -> None:
    started: list[Record] = [header(), BackendChanged("hyperband", {}), SearchStarted("host", 1, {})]
    paths, uri = write(started), local_address(runs)
    paths.report.write_text("first")

    def artifacts() -> list[str]:
        Syncer(paths, uri, warn=pytest.fail).drain()
        run = Position.load(paths.tracking).run_id
        return [item.path for item in store.connect(uri).list_artifacts(run)]

    assert "report.html" not in artifacts()  # a search that runs is not at its end
    write([SEARCH_ENDED])
    assert "report.html" in artifacts()
    paths.report.write_text("second")
    assert "report.html" in artifacts()
    run = Position.load(paths.tracking).run_id
    copy = store.connect(uri).download_artifacts(run, "report.html", str(tmp_path))
    assert Path(copy).read_text() == "second"


@pytest.mark.parametrize(("asked", "ships"), [(False, False), (True, True)])
def test_a_server_gets_the_report_only_if_the_user_asks_for_it(write: WriteStudy, asked: bool, ships: bool) -> None:
    paths = write([header()])
    syncer = Syncer(paths, "http://127.0.0.1:9", log_report=asked, warn=pytest.fail)
    assert syncer._ships_report is ships
