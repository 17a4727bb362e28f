"""Cells that run twice: the study that a search in a notebook goes on with, decided before anything is written."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import search
from search.driver.reruns import Rerun, find_rerun, write_digests
from search.driver.source import Source
from search.space.digests import digest_files
from search.study.journal import Journal
from search.study.lock import Lock
from search.study.paths import StudyPaths
from search.study.records import BackendChanged, Header, Record, SearchEnded, SearchStarted
from search.study.trial import Objective

OPTIONS = {"max_epochs": 3, "backend": "hyperband", "keras_backend": "tensorflow", "try_first": [{"lr": 0.1}]}


def build(width: int) -> Callable[[Any], int]:
    return lambda hp: width


def factory(width: int = 3, value: int = 0) -> Source:
    return Source(parts={"build_model": build(width), "data": (np.full(4, value), np.zeros(4))})


def begin(runs: Path, source: Source, name: str = "study", complete: bool = True) -> StudyPaths:
    """Write a study that searched `source`."""
    paths = StudyPaths.of(runs, name)
    paths.space.mkdir(parents=True)
    write_digests(source, paths)
    digest = "parameters"
    if source.path is not None:
        (paths.space / source.path.name).write_bytes(source.path.read_bytes())
        digest = digest_files(((source.path.name, str(source.path)),))
    objectives = (Objective("val_loss", "min"),)
    header = Header(7, "uid", name, 5, objectives, str(source.path or ""), digest, (), {"keras_backend": "tensorflow"})
    records: list[Record] = [header, BackendChanged("hyperband", {}), SearchStarted("box", 1, OPTIONS)]
    records += [SearchEnded("the budget is trained", complete=True, exit_code=0)] if complete else []
    with_lock = Lock(paths.lock)
    journal = Journal(paths.journal)
    journal.append(records, time.time())
    journal.close()
    with_lock.release()
    return paths


def find(runs: Path, source: Source, /, **given: Any) -> Rerun:
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*")}
    found = find_rerun(source, given, str(runs), "study")
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*")} == before, "something was written"
    return found


def test_a_free_name_is_a_new_study(tmp_path: Path) -> None:
    found = find(tmp_path / "runs", factory())
    assert (found.handle.name, found.handle.exists, found.complete, found.line) == ("study", False, False, "")


def test_the_same_search_goes_on_and_a_complete_one_is_not_run_again(tmp_path: Path) -> None:
    begin(tmp_path, factory(), complete=False)
    found = find(tmp_path, factory())
    assert (found.handle.name, found.handle.exists, found.complete) == ("study", True, False)
    begin(tmp_path / "done", factory())
    found = find(tmp_path / "done", factory())
    assert found.complete
    assert "complete (the budget is trained)" in found.line


@pytest.mark.parametrize(
    ("given", "complete"),
    [
        ({"max_epochs": 3, "study": "study", "runs": "elsewhere", "seed": 5, "max_trials": None}, True),
        ({"objective": "val_loss", "direction": "min", "try_first": [{"lr": 0.1}]}, True),
        ({"max_epochs": 9}, False),
        ({"workers": 2}, False),
    ],
)
def test_a_complete_study_goes_on_if_more_is_asked_for(tmp_path: Path, given: dict[str, Any], complete: bool) -> None:
    begin(tmp_path, factory())
    found = find(tmp_path, factory(), **given)
    assert (found.handle.name, found.handle.exists) == ("study", True)
    assert found.complete is complete


@pytest.mark.parametrize(
    ("source", "given", "words"),
    [
        (factory(width=4), {}, "other code"),
        (factory(value=1), {}, "other data"),
        (factory(4, 1), {}, "other code and other data"),
        (factory(), {"seed": 6}, "seed 5"),
        (factory(), {"objective": "val_accuracy"}, "objective val_loss"),
        (factory(), {"direction": "max"}, "direction min"),
        (factory(), {"keras_backend": "jax"}, "keras_backend tensorflow"),
        (Source(path=Path(__file__)), {}, "a factory"),
    ],
)
def test_another_search_is_a_study_of_its_own(
    tmp_path: Path, source: Source, given: dict[str, Any], words: str
) -> None:
    begin(tmp_path, factory())
    found = find(tmp_path, source, **given)
    assert (found.handle.name, found.handle.exists, found.complete) == ("study-2", False, False)
    assert found.line == f"study 'study' was run with {words}: this search is a new study, 'study-2'"


def test_a_changed_search_goes_on_with_its_own_study(tmp_path: Path) -> None:
    begin(tmp_path, factory(1))
    begin(tmp_path, factory(2), "study-2")
    begin(tmp_path, factory(3), "study-3", complete=False)
    assert [find(tmp_path, factory(width)).handle.name for width in (1, 2, 3, 4)] == [
        "study", "study-2", "study-3", "study-4",
    ]  # fmt: skip
    found = find_rerun(factory(2), {}, str(tmp_path), "study", {"study-2": "other hyperparameters"})
    assert found.handle.name == "study-4"


def test_a_study_without_digests_is_another_one(tmp_path: Path) -> None:
    paths = begin(tmp_path, factory())
    paths.factory.unlink()
    assert "an earlier version of search" in find(tmp_path, factory()).line
    paths.factory.write_text("[1]")
    assert find(tmp_path, factory()).handle.name == "study-2"


def test_a_space_file_is_the_same_as_long_as_its_text_is(tmp_path: Path) -> None:
    space = tmp_path / "space.py"
    space.write_text("x = 1\n")
    runs = tmp_path / "runs"
    paths = begin(runs, Source(path=space))
    assert not paths.factory.exists()
    assert find(runs, Source(path=space)).complete
    assert find(runs, factory()).line.startswith("study 'study' was run with a space file")
    space.write_text("x = 2\n")
    assert "other files" in find(runs, Source(path=space)).line
    space.write_text("x = 1\n")
    (paths.space / "beside.py").write_text("y = 1\n")  # a local module that is gone by now
    assert find(runs, Source(path=space)).handle.name == "study-2"


@pytest.mark.slow
def test_a_search_runs_twice_in_a_notebook(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.api.in_notebook", lambda: True)
    widths = workplace / "widths.txt"
    widths.write_text("8")
    x = np.random.default_rng(0).normal(size=(32, 4))
    data = (x, x[:, 0]), (x, x[:, 0])

    def net(hp: Any) -> Any:
        import keras

        model = keras.Sequential(
            [keras.layers.Dense(hp.Int("units", 2, int(widths.read_text()))), keras.layers.Dense(1)]
        )
        model.compile("sgd", "mse")
        return model

    def run(max_trials: int = 1) -> search.StudyResults:
        return search.run(net, data=data, max_epochs=1, max_trials=max_trials, workers=1, progress=False)

    first = run()
    before = first.paths.journal.read_bytes()
    assert run().study.uid == first.study.uid
    assert first.paths.journal.read_bytes() == before
    # The code is the same. A build shows that its hyperparameters are not.
    widths.write_text("9")
    assert run(max_trials=2).name == "net-2"
    assert first.paths.journal.read_bytes() == before
    monkeypatch.setattr("search.api.in_notebook", lambda: False)
    with pytest.raises(search.SearchError, match="exists in runs"):
        run()
