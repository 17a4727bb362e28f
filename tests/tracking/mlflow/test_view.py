"""The page that MLflow's UI opens for a study: its state, and its display in a browser."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from by_hand import SEARCH_ENDED, epochs, evaluated, header, reached, started
from stores import WriteStudy, local_address

from search.space.domain import Domain, Parameter, Value
from search.study.paths import StudyPaths
from search.study.records import (
    BackendChanged,
    Built,
    ParameterSet,
    Record,
    SearchStarted,
    SegmentRequested,
    TrialEnded,
)
from search.study.study import Study
from search.tracking.mlflow import store, ui, view
from search.tracking.mlflow.position import Position
from search.tracking.mlflow.retrieve import find_remote_study, list_remote_trials
from search.tracking.mlflow.syncer import Syncer

pytestmark = pytest.mark.usefixtures("unflushed")

RATE = Parameter("rate", Domain("float", 1e-4, 1e-1, sampling="log"))
UNITS = Parameter("units", Domain("int", 8, 64))
KIND = Parameter("kind", Domain("choice", values=("a", "b")))
DEPTH = Parameter("depth", Domain("int", 1, 4))
FIXED = Parameter("fixed", Domain("fixed", values=(3,)))
MIXED = Parameter("mixed", Domain("choice", values=(1, "many")))


def trial(number: int, score: float, *values: tuple[Parameter, Value]) -> list[Record]:
    return [
        SegmentRequested(number, 0, 2, 0, 0, False, number), *(ParameterSet(number, *value) for value in values),
        started(number, 0, 2), Built(number, 9, "fused"), *epochs(number, [score / 2, score]),
        *reached(number, 2, 2, score), TrialEnded(number, "completed"),
    ]  # fmt: skip


def start(*parameters: Parameter) -> list[Record]:
    header_of_probe = replace(header(), parameters=parameters)
    return [header_of_probe, BackendChanged("hyperband", {}), SearchStarted("host", 1, {})]


def twelve_trials() -> list[Record]:
    """Return a study of twelve trials: the best have a rate near 0.01, and only those of kind b have a depth."""
    records = start(RATE, UNITS, KIND)
    for number in range(12):
        rate = 10 ** (-4 + 3 * number / 11)
        kind = "ab"[number % 2]
        deeper = [(DEPTH, 1 + number % 3)] if kind == "b" else []
        score = 0.9 - 0.3 * abs(math.log10(rate) + 2)
        records += trial(number, score, (RATE, rate), (UNITS, 8 + 5 * number % 7), (KIND, kind), (FIXED, 3), *deeper)
    return [*records, SEARCH_ENDED]


def fold(records: list[Record]) -> Study:
    study = Study()
    for time, record in enumerate(records):
        study.apply(record, float(time))
    return study


def charts(page: str) -> dict[str, dict[str, Any]]:
    return {chart["uuid"]: chart for chart in json.loads(page)["compareRunCharts"]}


# The page -------------------------------------------------------------------------------------------------------------


def test_before_any_trial_the_page_shows_the_parameters_of_the_probe() -> None:
    page = view.make_page(fold(start(UNITS, RATE, FIXED)))
    found = charts(page)
    assert found["common"]["selectedParams"] == ["units", "log10_rate"]
    assert found["common"]["selectedMetrics"] == ["objective"]
    assert found["scatter-0"]["xaxis"] == {"key": "log10_rate", "type": "PARAM"}
    assert found["curve"]["metricKey"] == "val_accuracy"
    assert json.loads(page)["orderByAsc"] is False
    assert json.loads(page)["searchFilter"] == view.trials_filter("0123456789abcdef")


def test_at_the_end_the_page_shows_the_parameters_of_the_trials() -> None:
    text = view.make_page(fold([*twelve_trials(), evaluated(7, 2, {"accuracy": 0.8})]))
    found = charts(text)
    assert found["common"]["selectedParams"] == ["log10_rate", "units", "kind"]
    assert found["branch-0"]["selectedParams"] == ["log10_rate", "units", "depth"]  # kind is always b there
    assert found["scatter-0"]["xaxis"]["key"] == "log10_rate"
    assert len([uuid for uuid in found if uuid.startswith("scatter")]) == view.SCATTER_CHARTS
    page = json.loads(text)
    assert page["selectedColumns"] == [
        "tags.`search.best`", "metrics.`objective`", "metrics.`best_epoch`", "metrics.`last_epoch`",
        "metrics.`test_accuracy`", "params.`rate`", "params.`units`", "params.`kind`", "params.`depth`",
        "tags.`search.state`",
    ]  # fmt: skip
    sections = {section["uuid"]: section["name"] for section in page["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in found.values()} <= sections.keys()
    assert sections["branch-0"] == "kind = b"


def test_each_branch_has_a_section_and_an_inner_branch_has_the_outer_ones_parameters() -> None:
    inner = Parameter("inner", Domain("int", 1, 9))
    records = start(KIND, UNITS)
    for number in range(12):
        kind, deep = "ab"[number % 2], number % 4 == 1
        values = [(KIND, kind), *([(DEPTH, 1 + number % 4)] if kind == "b" else [(UNITS, 8 + number)])]
        records += trial(number, 0.1 + 0.01 * number, *values, *([(inner, number)] if deep else []))
    page = view.make_page(fold(records))
    sections = {section["uuid"]: section["name"] for section in json.loads(page)["compareRunSections"]}
    assert [sections[f"branch-{i}"] for i in range(3)] == ["kind = b", "kind = a", "depth = 2"]
    assert [charts(page)[f"branch-{i}"]["selectedParams"] for i in range(3)] == [
        ["depth"],
        ["units"],
        ["depth", "inner"],
    ]
    assert "branch-3" not in sections


def test_a_condition_too_long_for_a_title_is_cut_by_us() -> None:
    kind = Parameter("the_kind_of_the_network", Domain("choice", values=("convolutional", "other")))
    records = start(kind)
    for number in range(8):
        values = [(kind, "convolutional"), (DEPTH, 1 + number)] if number < 4 else [(kind, "other")]
        records += trial(number, 0.1, *values)
    names = [section["name"] for section in json.loads(view.make_page(fold(records)))["compareRunSections"]]
    assert "the_kind_of_the_network = …" in names


def test_at_the_end_the_best_run_is_pinned_and_the_baseline() -> None:
    records = twelve_trials()
    run_ids = {number: f"run-{number}" for number in range(12)}
    page = json.loads(view.make_page(fold(records), run_ids))
    assert page["runsPinned"] == ["run-7"]
    assert charts(json.dumps(page))["table"]["baselineColumnUuid"] == "run-7"
    assert "runsPinned" not in json.loads(view.make_page(fold(records[:-1]), run_ids))  # another may become the best


def test_a_parameter_of_numbers_and_words_is_no_axis() -> None:
    records = start(UNITS, MIXED)
    for number in range(6):
        records += trial(number, 0.1 * number, (UNITS, 8 + number), (MIXED, 1 if number % 2 else "many"))
    found = charts(view.make_page(fold(records)))
    assert found["common"]["selectedParams"] == ["units"]


def test_of_too_many_parameters_the_least_used_ones_are_omitted() -> None:
    many = [Parameter(f"a_parameter_with_a_long_name_{i}", Domain("int", 1, 9)) for i in range(120)]
    records = start(*many)
    for number in range(6):
        records += trial(number, 0.1 * number, *((each, 1 + number) for each in many[: 100 if number else 120]))
    page = view.make_page(fold(records))
    assert 4800 < len(page) <= view.MAX_CHARACTERS
    shown = charts(page)["common"]["selectedParams"]
    assert shown == [each.name for each in many[: len(shown)]]
    assert len(shown) > 30


@pytest.mark.parametrize(
    "values",
    [[8, 7, 6, 5, 4, 3, 2, 1], [4, 5, 3, 6, 2, 7, 1, 8], ["x", "x", "x", "x", "y", "y", "y", "y"]],
    ids=["more is better", "the middle is best", "a choice"],
)
def test_the_parameter_with_the_most_influence_comes_first(values: list[Value]) -> None:
    columns: dict[str, list[Value]] = {"strong": values, "idle": [1, 3, 5, 7, 8, 6, 4, 2]}
    parameters = {
        name: Parameter(name, Domain("choice", values=tuple(set(column)))) for name, column in columns.items()
    }
    for order in (["strong", "idle"], ["idle", "strong"]):
        records = start(*(parameters[name] for name in order))
        for number in range(8):
            values_of_trial = ((parameters[name], columns[name][number]) for name in order)
            records += trial(number, 0.9 - 0.1 * number, *values_of_trial)
        assert charts(view.make_page(fold(records)))["scatter-0"]["xaxis"]["key"] == "strong"


# In MLflow ------------------------------------------------------------------------------------------------------------


def sync(paths: StudyPaths) -> str:
    """Ship the missing entries. Return the study's page in MLflow."""
    uri = local_address(paths.folder.parent)
    Syncer(paths, uri, warn=pytest.fail).drain()
    client = store.connect(uri)
    tags = client.get_experiment(Position.load(paths.tracking).experiment_id).tags
    return str(tags["mlflow.sharedViewState.search-0123456789abcdef"])


def test_the_experiment_has_the_page_from_the_beginning_and_a_new_one_at_the_end(write: WriteStudy) -> None:
    records = twelve_trials()
    assert sync(write(records[:3])) == view.make_page(fold(records[:3]))
    paths = write(records[3:])
    assert sync(paths) == view.make_page(fold(records), Position.load(paths.tracking).trials)
    paths.tracking.unlink()
    assert sync(paths) == view.make_page(fold(records), Position.load(paths.tracking).trials)


def test_a_value_sampled_in_log_has_its_logarithm_as_a_param(write: WriteStudy, runs: Path) -> None:
    own = Parameter("log10_rate", Domain("float", -4, -1))
    rate = Parameter("other", Domain("float", 0.5, 0.99, sampling="reverse_log"))
    records = start(UNITS)
    records += trial(0, 0.5, (RATE, 0.01), (UNITS, 8), (rate, 0.9), (KIND, "a"))
    records += trial(1, 0.5, (own, -3.5), (RATE, 0.001))
    sync(write(records))
    client = store.connect(local_address(runs))
    study = find_remote_study(client, "digits")
    found = [client.get_run(each.run_id).data.params for each in list_remote_trials(study)]
    assert found[0] == {
        "rate": "0.01", "log10_rate": "-2", "units": "8", "other": "0.9", "log10_other": "-0.0457575", "kind": "a",
    }  # fmt: skip
    assert found[1] == {"log10_rate": "-3.5", "rate": "0.001"}


class NoTags:
    """A client of a real store that accepts no tags of experiments."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        if name == "set_experiment_tag":
            from mlflow.exceptions import MlflowException
            from mlflow.protos import databricks_pb2

            raise MlflowException("the value is too long", databricks_pb2.INVALID_PARAMETER_VALUE)
        return getattr(self._client, name)


def test_without_the_tag_the_address_is_that_of_the_uis_own_charts(
    write: WriteStudy, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write(twelve_trials())
    client = store.connect(local_address(runs))
    with monkeypatch.context() as patch:
        patch.setattr(store, "connect", lambda uri: NoTags(client))
        Syncer(paths, local_address(runs), warn=pytest.fail).drain()
    study = find_remote_study(client, "digits")
    plain = ui.study_address("http://here/", study)
    assert "searchFilter=tags" in plain
    assert "viewStateShareKey" not in plain
    sync(paths)
    ready = ui.study_address("http://here/", study)
    # The UI reads the tag only if the address has no state of its own.
    assert ready == (
        f"http://here/#/experiments/{study.experiment_id}/runs?workflowType=machine_learning"
        "&viewStateShareKey=search-0123456789abcdef&compareRunsMode=CHART"
    )


# In a browser ---------------------------------------------------------------------------------------------------------

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update"),
    *("--disable-background-networking", "--disable-sync", "--window-size=2600,2400", "--virtual-time-budget=60000"),
]


@pytest.fixture
def served(write: WriteStudy, runs: Path) -> Iterator[str]:
    """Yield the address that `search ui` prints, which serves the study meanwhile."""
    sync(write(twelve_trials()))
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "import sys; from search.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "ui", "digits", "--runs", str(runs), "--port", str(port), "--no-browser"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("http"):
            yield line.strip()
            break
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) > 1  # MLflow's command, and the server that it starts
    process.send_signal(signal.SIGTERM)
    process.stderr.read()
    assert process.wait(30) == 0
    _, alive = psutil.wait_procs(children, timeout=1)
    assert alive == []


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="needs chromium")
def test_a_browser_shows_the_charts_and_the_columns(served: str, tmp_path: Path) -> None:
    def dom(address: str) -> str:
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return done.stdout

    dom(served)  # at the first request, the server loads modules
    page = dom(served)
    assert "log10_rate vs. objective" in page
    assert "kind = b" in page
    assert page.count(">Parallel Coordinates<") == 2
    assert re.search(r">trial-\d+ \(val_accuracy\)<", page)  # the curves' legend
    assert "<strong>12</strong> matching runs" in page  # without the parent run
    assert re.findall(r">(trial-\d{4})</span></a>", page)[:3] == ["trial-0007", "trial-0008", "trial-0006"]
    table = dom(served.replace("&compareRunsMode=CHART", ""))
    for column in (
        "tags.`search.best`",
        "metrics.`objective`",
        "metrics.`best_epoch`",
        "params.`rate`",
        "params.`depth`",
        "tags.`search.state`",
    ):
        assert f'col-id="{column}"' in table, column
