"""The files of a trial behind a URL: whole states only, and one writer."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from search.storage.objects import Superseded, TrialObjects


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"memory://{tmp_path}/trials/0000" if request.param == "memory" else str(tmp_path / "trials/0000")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Return two local files by their names in the storage, one of which is in a folder."""
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    return {"checkpoint-0.npz": tmp_path / "a", "execution-1/log.csv": tmp_path / "b"}


def stored(url: str) -> set[str]:
    """Return the paths of all objects, without the tokens in them."""
    fs, root = fsspec.url_to_fs(url)
    fs.invalidate_cache()
    return {"/".join(p.partition("-")[0] for p in path[len(root) + 1 :].split("/")) for path in fs.find(root)}


def read(objects: TrialObjects, name: str, tmp_path: Path) -> str:
    objects.get(name, tmp_path / "got")
    return (tmp_path / "got").read_text()


def test_another_worker_finds_the_files(url: str, files: dict[str, Path], tmp_path: Path) -> None:
    first = TrialObjects(url)
    assert first.claim() == {}
    first.put(files)
    before = first.put({"checkpoint-0.npz": files["execution-1/log.csv"]})
    second = TrialObjects(url)
    assert second.claim() == before
    assert read(second, "checkpoint-0.npz", tmp_path) == "b"
    assert read(second, "execution-1/log.csv", tmp_path) == "b"
    after = second.put({"log.txt": files["checkpoint-0.npz"]}, gone=["execution-1/log.csv"])
    assert after.keys() == {"checkpoint-0.npz", "log.txt"}
    assert after["checkpoint-0.npz"] == before["checkpoint-0.npz"]
    # Nothing is left of what is replaced.
    assert stored(url) == {"000002.000001", "000002.000001/log.txt", "000001.000002/checkpoint"}


def test_a_worker_that_was_given_up_writes_no_more(url: str, files: dict[str, Path]) -> None:
    first, second = TrialObjects(url), TrialObjects(url)
    first.claim()
    first.put(files)
    second.claim()
    with pytest.raises(Superseded, match="belongs to another worker now"):
        first.put(files)
    assert second.put({}).keys() == files.keys()


def test_a_write_that_breaks_off_changes_nothing(
    url: str, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = TrialObjects(url)
    first.claim()
    first.put(files)
    (tmp_path / "a").write_text("new")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrialObjects, "_write_list", die)
        with pytest.raises(KeyboardInterrupt):
            first.put(files)
    second = TrialObjects(url)
    second.claim()
    assert read(second, "checkpoint-0.npz", tmp_path) == "a"
    second.put({})
    assert len(stored(url)) == 3


def test_half_a_list_does_not_count(url: str, files: dict[str, Path], tmp_path: Path) -> None:
    first = TrialObjects(url)
    first.claim()
    first.put(files)
    fs, root = fsspec.url_to_fs(url)
    fs.pipe_file(f"{root}/000001.000002-abcd.json", b'{"check')
    second = TrialObjects(url)
    assert second.claim().keys() == files.keys()
    assert read(second, "checkpoint-0.npz", tmp_path) == "a"


def test_deleted_files_are_gone_for_the_next_worker(url: str, files: dict[str, Path]) -> None:
    first = TrialObjects(url)
    first.claim()
    first.put(files)
    TrialObjects(url).remove(["checkpoint-0.npz", "best-0.npz"])
    assert TrialObjects(url).versions().keys() == {"execution-1/log.csv"}
    # The worker of the trial's final evaluation may have it meanwhile.
    first.put({})
    TrialObjects(url).remove(["execution-1/log.csv"])
    assert stored(url) == set()


def test_a_checkpoint_is_copied_to_a_child(url: str, files: dict[str, Path], tmp_path: Path) -> None:
    parent, child = TrialObjects(url), TrialObjects(url.replace("0000", "0001"))
    with pytest.raises(FileNotFoundError):
        parent.copy("checkpoint-0.npz", child, "parent-0.npz")
    parent.claim()
    parent.put(files)
    TrialObjects(url).copy("checkpoint-0.npz", child, "parent-0.npz")
    parent.put({}, gone=["checkpoint-0.npz"])
    worker = TrialObjects(url.replace("0000", "0001"))
    assert worker.claim().keys() == {"parent-0.npz"}
    assert read(worker, "parent-0.npz", tmp_path) == "a"
