"""Values that MLflow refuses: sent again, and those refused for good named, counted, and sent by the next process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from by_hand import SEARCH_ENDED, completed_trial, shown_runs, study_start
from stores import WriteStudy, local_address

from search import cli
from search.study.journal import read_all
from search.study.paths import StudyPaths
from search.tracking.mlflow import refusals, store
from search.tracking.mlflow.changes import Change, LogRequest, Point
from search.tracking.mlflow.position import Position
from search.tracking.mlflow.refusals import Refusal, Refusals
from search.tracking.mlflow.syncer import Syncer

pytestmark = pytest.mark.usefixtures("unflushed")

Refuses = Callable[[list[Any]], bool]
"""A function that decides by its metrics whether a request is refused."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> dict[str, Refuses]:
    """Return the rule by which MLflow refuses requests, under "refuses"; a test sets it."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    log_batch, rule = MlflowClient.log_batch, {"refuses": lambda metrics: False}

    def log(self: Any, run_id: str, metrics: Any = (), **rest: Any) -> Any:
        if rule["refuses"](metrics):
            raise MlflowException("bad \x1b[31mrequest", error_code=1000)  # BAD_REQUEST: status 400
        return log_batch(self, run_id, metrics=metrics, **rest)

    monkeypatch.setattr(MlflowClient, "log_batch", log)
    monkeypatch.setattr(refusals, "REFUSED_SECONDS", 0.0)
    return rule


def losses(paths: StudyPaths, trial: int) -> list[int]:
    """Return the steps of a trial's losses in the local store."""
    runs = shown_runs(store.connect(local_address(paths.folder.parent)))
    return [step for step, _, _ in runs[f"trial-{trial:04d}"]["points"].get("loss", [])]


def study() -> list[Any]:
    return [*study_start(), *completed_trial(0, [0.5, 0.6, 0.7]), *completed_trial(1, [0.4, 0.5]), SEARCH_ENDED]


def test_a_refusal_that_passes_loses_no_point(write: WriteStudy, server: dict[str, Refuses]) -> None:
    left = [True] * 3
    server["refuses"] = lambda metrics: bool(left and left.pop())
    paths = write(study())
    syncer = Syncer(paths, local_address(paths.folder.parent), warn=pytest.fail)
    syncer.drain()
    assert syncer.left_out == ""
    assert Position.load(paths.tracking).refused == {}
    assert (losses(paths, 0), losses(paths, 1)) == ([1, 2, 3], [1, 2])


def second_loss(metrics: list[Any]) -> bool:
    """Refuse the loss of the second epoch."""
    return any(metric.key == "loss" and metric.step == 2 for metric in metrics)


def test_what_is_refused_for_good_is_counted_and_the_rest_arrives_and_the_next_process_sends_it(
    write: WriteStudy, server: dict[str, Refuses]
) -> None:
    server["refuses"] = second_loss
    paths = write(study())
    warnings: list[str] = []
    syncer = Syncer(paths, local_address(paths.folder.parent), warn=warnings.append)
    syncer.drain()
    assert syncer.left_out == r"1 value of trial 0 (bad \x1b[31mrequest), 1 value of trial 1 (bad \x1b[31mrequest)"
    assert warnings == [
        r"MLflow refuses 1 value of trial 0 (bad \x1b[31mrequest): left out; `search sync digits` sends it again"
    ]
    assert Position.load(paths.tracking).refused == {0: 1, 1: 1}
    assert (losses(paths, 0), losses(paths, 1)) == ([1, 3], [1])
    server["refuses"] = lambda metrics: False
    later = Syncer(paths, local_address(paths.folder.parent), warn=pytest.fail)
    later.drain()
    assert later.left_out == ""
    assert Position.load(paths.tracking).refused == {}
    assert (losses(paths, 0), losses(paths, 1)) == ([1, 2, 3], [1, 2])
    runs = shown_runs(store.connect(local_address(paths.folder.parent)))
    assert {run["status"] for run in runs.values()} == {"FINISHED"}


def test_sync_does_not_say_that_all_is_there(
    write: WriteStudy, server: dict[str, Refuses], capfd: pytest.CaptureFixture[str]
) -> None:
    server["refuses"] = second_loss
    paths = write(study())
    for _ in range(2):
        assert cli.main(["sync", "digits", "--runs", str(paths.folder.parent)]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert "has study digits but for 1 value of trial 0 (bad" in err
    server["refuses"] = lambda metrics: False
    assert cli.main(["sync", "digits", "--runs", str(paths.folder.parent)]) == 0
    assert capfd.readouterr().out.startswith("study digits is in MLflow at ")
    assert losses(paths, 0) == [1, 2, 3]


def test_the_end_of_a_search_waits_for_refused_values_and_says_if_some_are_missing(
    write: WriteStudy, server: dict[str, Refuses]
) -> None:
    server["refuses"] = second_loss
    paths = write(study_start())
    for refuses in (second_loss, lambda metrics: False):
        server["refuses"] = refuses
        follower = Syncer(paths, local_address(paths.folder.parent), warn=lambda line: None)
        follower.start()
        write(completed_trial(0 if refuses is second_loss else 1, [0.5, 0.6]), follower=follower)
        assert follower.finish(60) == (refuses is not second_loss)
    assert Position.load(paths.tracking).offset == read_all(paths.journal)[-1].end
    assert (losses(paths, 0), losses(paths, 1)) == ([1, 2], [1, 2])


# The parts ------------------------------------------------------------------------------------------------------------


def test_a_later_tag_or_status_is_not_replaced_by_one_that_was_refused() -> None:
    now = [0.0]
    position = Position()
    refused = Refusals(position, lambda: now[0])
    refused.add(3, Refusal(Change(tags={"a": "1", "b": "1"}, status="RUNNING"), "no"))
    assert list(refused.due()) == []  # not at once
    assert position.refused == {3: 3}
    refused.outdate(3, Change(tags={"a": "2"}, status="FINISHED"))
    now[0] = 2.0
    ((run, change, last),) = refused.due()
    assert (run, change.tags, change.status, last) == (3, {"b": "1"}, None, False)
    refused.outdate(3, Change(tags={"b": "2"}))
    assert (list(refused.due()), position.refused, refused.describe()) == ([], {}, "")


@pytest.mark.parametrize("counts", [(1, 0, 0), (0, 1, 1), (3, 2, 2), (1000, 1, 0)])
def test_halves_have_all_of_a_request(counts: tuple[int, int, int]) -> None:
    points = [Point(f"m{number}", 1.0, 0, number) for number in range(counts[0])]
    params, tags = (
        {f"{kind}{number}": "x" for number in range(count)} for kind, count in zip("pt", counts[1:], strict=True)
    )
    request = LogRequest(points, params, tags)
    halves = request.halves()
    if sum(counts) == 1:
        assert halves == ()
        return
    one, other = halves
    assert abs(sum(map(len, one)) - sum(map(len, other))) <= 1
    assert ([*one.points, *other.points], one.params | other.params, one.tags | other.tags) == (points, params, tags)


def test_a_position_of_an_older_version_has_no_refusals(tmp_path: Path) -> None:
    file = tmp_path / "tracking.json"
    file.write_text(json.dumps({"uid": "u", "trials": {"1": "r"}, "models": {}}))
    assert Position.load(file) == Position(uid="u", trials={1: "r"})
