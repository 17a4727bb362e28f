"""The driver's view of trials' files behind a URL: handed on, deleted, and brought into the study's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.driver.study_files import UrlFiles
from search.errors import StudyError, Unavailable
from search.storage.objects import TrialObjects
from search.study.paths import StudyPaths


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"memory://{tmp_path}/study-abc"


@pytest.fixture
def paths(tmp_path: Path) -> StudyPaths:
    return StudyPaths(tmp_path / "runs" / "study")


def write(url: str, trial: int, files: dict[str, str], tmp_path: Path) -> None:
    """Store files of a trial with these texts, as its worker does."""
    objects, places = TrialObjects(f"{url}/trials/{trial:04d}"), {}
    for name, text in files.items():
        places[name] = tmp_path / f"{trial}-{name}"
        places[name].write_text(text)
    objects.claim()
    objects.put(places)


def names(url: str, trial: int) -> set[str]:
    return set(TrialObjects(f"{url}/trials/{trial:04d}").versions())


def test_a_child_has_its_parents_checkpoint_before_the_parent_goes_on(
    url: str, paths: StudyPaths, tmp_path: Path
) -> None:
    files, parent, child = UrlFiles(url), paths.trial(0), paths.trial(1)
    files.hand_on(parent, child, 0, again=False)
    assert names(url, 1) == set()
    write(url, 0, {"checkpoint-0.npz": "first"}, tmp_path)
    files.hand_on(parent, child, 0, again=False)
    write(url, 0, {"checkpoint-0.npz": "second"}, tmp_path)
    files.hand_on(parent, child, 0, again=True)
    worker = TrialObjects(files.storage_of(child))
    assert set(worker.claim()) == {"parent-0.npz"}
    worker.get("parent-0.npz", tmp_path / "got")
    assert (tmp_path / "got").read_text() == "first"
    # Another study's trial may have left one.
    files.delete([parent.checkpoint(0)], at_once=True)
    files.hand_on(parent, child, 0, again=False)
    assert names(url, 1) == set()


def test_files_are_deleted_by_the_process_that_begins_after_a_kill(url: str, paths: StudyPaths, tmp_path: Path) -> None:
    for trial in range(2):
        write(url, trial, {"checkpoint-0.npz": "x", "log.csv": "x"}, tmp_path)
    files = UrlFiles(url)
    files.delete([paths.trial(0).checkpoint(0), paths.trial(7).checkpoint(0)])
    assert files.finish(60) == []
    assert (names(url, 0), names(url, 1)) == ({"log.csv"}, {"checkpoint-0.npz", "log.csv"})


def test_files_are_brought_into_the_studys_folder(url: str, paths: StudyPaths, tmp_path: Path) -> None:
    files, trial = UrlFiles(url), paths.trial(0)
    write(url, 0, {"best-0.npz": "first", "log.txt": "log"}, tmp_path)
    files.bring(trial, ["best-0.npz", "log.txt", "traceback.txt"])
    assert files.finish(60) == []
    trial.best(0).unlink()  # the trial was not among the best for a while
    files.bring(trial, ["best-0.npz"])
    assert files.finish(60) == []
    assert trial.best(0).read_text() == "first"
    write(url, 0, {"best-0.npz": "second", "reference-0.npz": "r", "model.keras": "m"}, tmp_path)
    files.bring(trial, ["best-0.npz"])
    files.bring_evaluated(trial, paths.model)
    assert files.finish(60) == []
    assert {path.name: path.read_text() for path in trial.folder.iterdir()} == {
        "best-0.npz": "second",
        "log.txt": "log",
        "reference-0.npz": "r",
    }
    assert paths.model.read_text() == "m"
    assert "model.keras" not in names(url, 0)


def test_what_could_not_be_brought_is_told_at_the_end(
    url: str, paths: StudyPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Unavailable("storage memory://x does not answer")

    write(url, 0, {"best-0.npz": "x"}, tmp_path)
    files, trial = UrlFiles(url), paths.trial(0)
    with monkeypatch.context() as patch:
        patch.setattr(TrialObjects, "versions", away)
        patch.setattr(TrialObjects, "_find", away)
        files.bring(trial, ["best-0.npz"])
        files.delete([trial.checkpoint(0)])
        (line,) = files.finish(60)
        with pytest.raises(StudyError, match="does not answer: resume when it is back"):
            files.hand_on(trial, paths.trial(1), 0, again=True)
    assert "best-0.npz is missing (storage memory://x does not answer): search resume brings it" in line
    files.bring(trial, ["best-0.npz"])
    assert files.finish(60) == []
