"""Studies of commit dad0840: killed in the middle and resumed here; and whole ones, back from its MLflow store alone.

`formats/3/studies.tar.xz` holds three of each: one whose space file uses `search.compiled`, one of a factory with a
`tf.data.Dataset`, one of `search.tuners.Hyperband`. `expected.json` in it tells how the whole ones ended.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import search
from search import cli
from search.space.old_names import MOVED
from search.study.journal import read
from search.study.records import FORMAT

STUDIES = Path(__file__).parent / "formats" / "3" / "studies.tar.xz"
NAMES = ("compiled", "dataset", "tuners")
BEST = {"compiled": ("accuracy", max), "dataset": ("accuracy", max), "tuners": ("loss", min)}
"""The metric of each study's objective, and which of its values is the best."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack the studies: `killed` is a folder of runs, `whole` an MLflow store."""
    folder = tmp_path_factory.mktemp("studies")
    with tarfile.open(STUDIES) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "expected.json").read_text()))


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_study_goes_on_to_what_it_would_have_found(
    workplace: Path, folder: Path, expected: dict[str, Any], name: str
) -> None:
    before = search.load_study(name, folder / "killed")
    assert before.study.end is None
    assert 0 < before.study.epochs < sum(len(trial["curve"]) for trial in expected[name])
    runs = str(folder / "killed")
    words = ["--workers", "1", "--gpus", "none", "--no-progress", "--runs", runs]
    assert cli.main(["resume", name, *words]) == 0
    study = search.load_study(name, folder / "killed")
    assert [trial.state for trial in study.trials] == [trial["state"] for trial in expected[name]]
    for trial, other in zip(study.trials, expected[name], strict=True):
        assert dict(trial.params) == other["params"]
        curve = [epoch.logs[study.objective.name] for epoch in trial.curve]
        # The first epochs were trained on another machine, whose last digits may be others.
        np.testing.assert_allclose(curve, other["curve"], rtol=1e-4)
    formats = [entry.format for entry in read(folder / "killed" / name / "journal.jsonl")]
    assert {formats[0], formats[-1]} == {3, FORMAT}
    assert len(study.get_best_models(1)) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_model_comes_back_from_an_old_mlflow_store_alone(
    workplace: Path, folder: Path, expected: dict[str, Any], name: str
) -> None:
    (model,) = search.get_best_models(name, 1, tracking_uri=f"sqlite:///{folder}/whole/mlflow.db")
    x = np.random.default_rng(0).normal(size=(64, 4))
    y = (x.sum(axis=1) > 0).astype("int32")
    metric, best = BEST[name]
    found = model.evaluate(x[48:], y[48:], verbose=0, return_dict=True)[metric]
    assert found == pytest.approx(best(value for trial in expected[name] for value in trial["curve"]), rel=1e-4)


def test_every_old_name_is_a_module_of_today() -> None:
    root = Path(search.__file__).parents[1]
    for name in MOVED.values():
        place = root.joinpath(*name.split("."))
        assert place.with_suffix(".py").exists() or (place / "__init__.py").exists(), name
