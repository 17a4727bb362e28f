"""Real training whose processes are really killed: nothing is lost, and the search ends as if undisturbed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import forks
import kills
import psutil
import pytest
from places import SLOW

import search
from search.backends.hyperband import Hyperband
from search.devices import slots as devices
from search.errors import SearchError
from search.executors import zygotes
from search.executors.local import LocalExecutor
from search.executors.zygotes import Zygote
from search.messages import Lost, Probe, Probed, ProbeFailed, Segment
from search.space.file import SpaceRef
from search.study import journal
from search.study.paths import StudyPaths
from search.study.records import SegmentEnded, SegmentStarted
from search.study.trial import Objective

COMMAND = [sys.executable, "-c", "import sys; from search.cli import main; sys.exit(main(sys.argv[1:]))"]
OPTIONS = {"seed": 0, "workers": 1, "progress": False}


@pytest.fixture
def space(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EPOCH_SECONDS", "0")
    shutil.copy(SLOW, workplace / "slow.py")
    return workplace / "slow.py"


def history(study: Any) -> list[Any]:
    """Return the facts that must be the same after any disturbance."""
    return [
        (trial.number, trial.params, trial.state, [(epoch.epoch, dict(epoch.logs)) for epoch in trial.curve])
        for trial in study.trials
    ]


@pytest.fixture(scope="module")
def undisturbed(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copy(SLOW, folder / "slow.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("search.executors.selection.shared_zygote", zygote)
        patch.setenv("EPOCH_SECONDS", "0")
        return history(search.run(folder / "slow.py", study="undisturbed", runs=str(folder / "runs"), **OPTIONS))


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_trial_goes_on(space: Path, undisturbed: list[Any]) -> None:
    space.with_name("kill").write_text("0001 0 once")
    study = search.run(space, study="killed", **OPTIONS)
    assert (study.paths.trial(1).folder / "killed").exists()
    assert history(study) == undisturbed
    lost = [entry.record for entry in journal.read(study.paths.journal) if isinstance(entry.record, SegmentEnded)]
    assert [record.error for record in lost if record.outcome == "lost"] == [
        "its process was ended by SIGKILL, out of memory?"
    ]


@pytest.mark.slow
def test_a_trial_that_always_kills_its_worker_fails_and_the_others_go_on(space: Path) -> None:
    space.with_name("kill").write_text("0001 0 always")
    study = search.run(space, study="doomed", **OPTIONS)
    assert [trial.number for trial in study.trials if trial.state == "failed"] == [1]
    assert study.trials[1].progress.segments == 2
    assert "SIGKILL" in (study.trials[1].error or "")
    assert len(study.best_trials()) == len(study.trials) - 1


def ends(study: Any, trial: int) -> list[tuple[str, str | None]]:
    """Return the outcomes of a trial's segments."""
    found = [entry.record for entry in journal.read(study.paths.journal)]
    return [
        (record.outcome, record.error) for record in found if isinstance(record, SegmentEnded) and record.trial == trial
    ]


@pytest.mark.slow
def test_code_that_ends_its_process_is_tried_again_and_then_fails(space: Path) -> None:
    space.with_name("kill").write_text("0001 0 always exit")
    study = search.run(space, study="exits", **OPTIONS)
    trial = study.trials[1]
    assert (trial.state, trial.progress.segments) == ("failed", 2)
    assert [outcome for outcome, _ in ends(study, 1)] == ["lost", "lost"]
    assert trial.error is not None
    assert trial.error.startswith("its code ended the process: ")
    assert "slow.py:" in trial.error
    assert "sys.exit(3)" in trial.error
    assert [each.number for each in study.trials if each.state == "failed"] == [1]


@pytest.mark.slow
def test_an_abort_is_survived(space: Path, undisturbed: list[Any]) -> None:
    space.with_name("kill").write_text("0002 0 once abort")
    study = search.run(space, study="aborted", **OPTIONS)
    assert history(study) == undisturbed
    assert ("lost", "its process was ended by SIGABRT") in ends(study, 2)


@pytest.mark.slow
def test_a_trial_that_ran_out_of_memory_is_tried_again_in_a_new_process_with_nothing_beside_it(space: Path) -> None:
    space.with_name("kill").write_text("0001 0 once memory")
    options = {**OPTIONS, "workers": 2}
    study = search.run(space, study="memory", **options)
    (first, error), (second, _), *_ = ends(study, 1)
    assert (first, second) == ("no_memory", "reached")
    assert error is not None
    assert error.startswith("out of memory: ")
    assert "ResourceExhaustedError" in error
    assert study.trials[1].state != "failed"
    running: set[int] = set()
    beside: list[set[int]] = []
    for entry in journal.read(study.paths.journal):
        match entry.record:
            case SegmentStarted(trial=number):
                running.add(number)
                if 1 in running:
                    beside.append(set(running))
            case SegmentEnded(trial=number, outcome=outcome):
                running.discard(number)
                if outcome == "no_memory":
                    beside.clear()
    assert len(beside) >= 2  # its retry, and a promotion
    assert all(those == {1} for those in beside)
    assert study.study.epochs == study.study.trained


@pytest.mark.slow
def test_a_trial_that_hangs_is_ended_and_the_search_goes_on(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.scheduler.timeouts.GRACE_SECONDS", 1.0)
    space.with_name("kill").write_text("0001 0 always hang")
    study = search.run(space, study="hangs", trial_timeout="8s", **OPTIONS)
    trial = study.trials[1]
    assert (trial.state, trial.progress.segments) == ("failed", 1)
    assert trial.error == "its epoch came to no end: it hung? (--trial-timeout 8s)"
    assert {each.state for each in study.trials if each is not trial} <= {"completed", "stopped"}


@pytest.mark.slow
def test_a_process_that_gives_no_sign_of_life_is_replaced(tmp_path: Path, zygote: Zygote) -> None:
    space = tmp_path / "slow.py"
    shutil.copy(SLOW, space)
    (tmp_path / "kill").write_text("0000 1 once stop")
    slots = devices.make_slots((), 1, devices.core_ids(), 1)
    executor = LocalExecutor(slots, tmp_path / "log", zygote=zygote, heartbeat=3.0)
    work = replace(segment(tmp_path, 0), space=SpaceRef(path=str(space)))
    reasons: list[str] = []
    try:
        executor.start(0, work)
        process = psutil.Process(executor.pids()[0])
        deadline = time.monotonic() + 60
        while not reasons and time.monotonic() < deadline:
            executor.poll(
                lambda _, work, message: reasons.append(message.reason) if isinstance(message, Lost) else None, 0.1
            )
        assert reasons == ["its process sent no sign of life for 3s: did it hang?"]
        assert not process.is_running()
        executor.start(0, work)
        assert ended(executor, {0}) == {0: "reached"}
    finally:
        executor.close(now=True)


PARENT = """

import subprocess
_made = []
_slow_load = load_data


def load_data():
    if os.getppid() and not _made:
        # A fork, as a PyDataset with processes makes. It has the worker's end of the pipe to the driver.
        pid = os.fork()
        if pid == 0:
            time.sleep(1000)
        _made.append(pid)
        Path(__file__).with_name("child").write_text(str(pid))
    return _slow_load()
"""


def test_processes_of_a_worker_end_with_it(tmp_path: Path, zygote: Zygote) -> None:
    space = tmp_path / "parent.py"
    space.write_text(SLOW.read_text() + PARENT)
    executor = LocalExecutor(devices.make_slots((), 1, devices.core_ids(), 1), tmp_path / "log", zygote=zygote)
    executor.start(0, replace(segment(tmp_path, 0), space=SpaceRef(path=str(space))))
    assert ended(executor, {0}) == {0: "reached"}
    child = psutil.Process(int((tmp_path / "child").read_text()))
    assert child.is_running()
    executor.start(0, replace(segment(tmp_path, 1), space=SpaceRef(path=str(space)), to_epoch=10**6))
    os.kill(executor.pids()[0], signal.SIGKILL)
    assert ended(executor, {0}) == {0: "lost"}
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    executor.close()


def test_a_probe_whose_process_is_killed_is_tried_again(tmp_path: Path, zygote: Zygote) -> None:
    space = tmp_path / "space.py"
    killed = "import os, pathlib\nif len(list(pathlib.Path(__file__).parent.glob('killed-*'))) < {}:\n"
    killed += "    pathlib.Path(__file__).with_name(f'killed-{{os.getpid()}}').touch()\n    os.kill(os.getpid(), 9)\n"
    executor = LocalExecutor(devices.make_slots((), 1, devices.core_ids(), 1), tmp_path / "log", zygote=zygote)
    try:
        space.write_text(killed.format(2) + SLOW.read_text())
        assert isinstance(executor.probe(Probe(SpaceRef(path=str(space)))), Probed)
        (other := tmp_path / "other.py").write_text(killed.format(9) + SLOW.read_text())
        answer = executor.probe(Probe(SpaceRef(path=str(other))))
        assert isinstance(answer, ProbeFailed)
        assert "ended its process (its process was ended by SIGKILL" in answer.message
    finally:
        executor.close()


@pytest.mark.slow
def test_a_dead_zygote_is_replaced_and_its_workers_live_on(tmp_path: Path, templates: forks.Templates) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zygotes, "subprocess", kills.forked_zygotes(templates.address("keras")))
        zygote = Zygote(tmp_path / "log", None)
    slots = devices.make_slots((), 1, devices.core_ids(), 2)
    executor = LocalExecutor(slots, tmp_path / "log", zygote=zygote)
    try:
        executor.start(0, segment(tmp_path, 0))
        survivor = executor.pids()[0]
        os.kill(zygote.pid, signal.SIGKILL)
        wait_until(lambda: not zygote.alive)
        executor.start(1, segment(tmp_path, 1))
        assert executor.zygote_pid != zygote.pid
        assert ended(executor, {0, 1}) == {0: "reached", 1: "reached"}
        assert executor.pids()[0] == survivor
    finally:
        executor.close()
        zygote.close()


LEAKY = """

_held = []
_slow_build = build_model


def build_model(hp):
    _held.append(np.ones(hp.Int("megabytes", 0, 1000) << 17))
    return _slow_build(hp)
"""


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [0, 300])
def test_a_worker_that_has_grown_is_replaced_between_segments(tmp_path: Path, zygote: Zygote, megabytes: int) -> None:
    """Memory of the first segment (data, the framework's runtime) is no growth; that of later segments is."""
    space = tmp_path / "leaky.py"
    space.write_text(SLOW.read_text() + LEAKY)
    slots = devices.make_slots((), 1, devices.core_ids(), 1)
    executor = LocalExecutor(slots, tmp_path / "log", zygote=zygote, growth=200 << 20)
    pids = []
    for trial in range(4):
        work = segment(tmp_path, trial)
        values = {**work.values, "megabytes": megabytes}
        executor.start(0, replace(work, space=SpaceRef(path=str(space)), values=values))
        pids.append(executor.pids()[0])
        assert ended(executor, {0}) == {0: "reached"}
    executor.close()
    assert [pids.index(pid) for pid in pids] == ([0, 0, 2, 2] if megabytes else [0, 0, 0, 0])


def test_a_dead_worker_is_replaced_in_well_under_a_second(tmp_path: Path, zygote: Zygote) -> None:
    executor = LocalExecutor(devices.make_slots((), 1, devices.core_ids(), 1), tmp_path / "log", zygote=zygote)
    executor.start(0, segment(tmp_path, 0))
    os.kill(executor.pids()[0], signal.SIGKILL)
    assert ended(executor, {0}) == {0: "lost"}
    began = time.monotonic()
    executor.start(0, segment(tmp_path, 1))
    # A fork takes milliseconds and an import of the framework seconds. No noise of a busy machine lies between.
    assert time.monotonic() - began < 1
    assert ended(executor, {0}) == {0: "reached"}
    executor.close()


def segment(folder: Path, trial: int) -> Segment:
    return Segment(
        trial=trial,
        execution=0,
        space=SpaceRef(path=str(SLOW)),
        values={"units": 8, "activation": "relu", "dropout": 0.1, "learning_rate": 0.01},
        seed=0,
        from_epoch=0,
        to_epoch=2,
        objective=Objective("val_accuracy", "max"),
        folder=str(folder / f"{trial:04d}"),
    )


def ended(executor: LocalExecutor, slots: set[int]) -> dict[int, str]:
    """Return how the segments in `slots` end."""
    outcomes: dict[int, str] = {}

    def handle(slot: int, work: int, message: Any) -> None:
        if type(message).__name__ == "Lost":
            outcomes[slot] = "lost"
        if isinstance(message, SegmentEnded):
            outcomes[slot] = message.outcome

    deadline = time.monotonic() + 60
    while outcomes.keys() != slots and time.monotonic() < deadline:
        executor.poll(handle, 0.1)
    return outcomes


def wait_until(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_back_end_that_breaks_ends_the_search_in_one_line_and_a_resume_goes_on(
    space: Path, undisturbed: list[Any]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        ask, asked = Hyperband.ask, []

        def breaks(self: Hyperband, *, new: bool, child: bool) -> Any:
            asked.append(new)
            if len(asked) > 6:
                raise ZeroDivisionError("no such bracket")
            return ask(self, new=new, child=child)

        patch.setattr(Hyperband, "ask", breaks)
        message = (
            r"^the search broke \(ZeroDivisionError: no such bracket\): nothing journaled is lost, .*search\.log\)$"
        )
        with pytest.raises(SearchError, match=message):
            search.run(space, study="broken", **OPTIONS)
    paths = StudyPaths.of(space.parent / "runs", "broken")
    assert "ZeroDivisionError" in paths.log.read_text()
    assert history(search.run(space, study="broken", resume=True, **OPTIONS)) == undisturbed


HOLDS_A_FILE = """

class Keeper(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.file, self.source = open(__file__), open(__file__)

    def on_epoch_end(self, epoch, logs=None):
        self.file = open(__file__)


def callbacks(hp):
    return [Keeper()]
"""


@pytest.mark.slow
def test_a_callbacks_state_that_no_checkpoint_can_have_is_reported_once(
    workplace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    space = workplace / "keeper.py"
    space.write_text(SLOW.read_text() + HOLDS_A_FILE)
    search.run(space, max_total_epochs=6, **OPTIONS)
    said = capfd.readouterr().err
    assert said.count("the state of Keeper.file cannot be saved: if a trial continues later, it starts anew") == 1
    assert "Keeper.source" not in said


# The disk -------------------------------------------------------------------------------------------------------------

SMALL_DISK = """
mount -t tmpfs -o size=8m tmpfs small || exit 99
"$@" --runs small
echo "exit $?"
rm small/ballast kill
cp -r small/. runs
"""


@pytest.mark.slow
def test_a_full_disk_ends_the_search_in_one_line_and_with_room_it_goes_on(space: Path, undisturbed: list[Any]) -> None:
    """The disk is a mount of its own namespace; a worker fills it to the last byte."""
    (space.parent / "small").mkdir()
    (space.parent / "runs").mkdir()
    space.with_name("kill").write_text("0003 0 once disk")
    arguments = ["run", str(space), "--study", "full", "--seed", "0", "--workers", "1", "--no-progress"]
    store = f"sqlite:///{space.parent / 'mlflow.db'}"
    done = subprocess.run(
        [*UNSHARE, "sh", "-c", SMALL_DISK, "sh", *COMMAND, *arguments, "--tracking-uri", store],
        cwd=space.parent,
        env={**os.environ, "BALLAST": str(space.parent / "small" / "ballast")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip(f"no disk of our own can be mounted here: {done.stderr.strip()[-200:]}")
    assert done.stdout == "exit 2\n", done
    said = done.stderr.splitlines()
    (line,) = [line for line in said if line.startswith("search: ")]
    assert "the disk is full" in line
    assert "make room on the disk, and resume" in line
    assert "Traceback" not in done.stderr
    # There is room where the study was copied to.
    study = search.run(space, study="full", resume=True, tracking_uri=store, **OPTIONS)
    assert history(study) == undisturbed
    assert study.study.trained - study.study.epochs <= 1
    assert {trial.state for trial in study.trials} == {"completed", "stopped"}


UNSHARE = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--mount"]

# The driver -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_search_whose_folder_is_deleted_writes_its_journal_again_and_goes_on(
    space: Path, undisturbed: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    paths = StudyPaths.of("runs", "deleted")

    def delete() -> None:
        wait_until(lambda: epochs(paths) > 3)
        paths.folder.rename("gone")

    deleting = threading.Thread(target=delete)
    deleting.start()
    study = search.run(space, study="deleted", **OPTIONS)
    deleting.join()
    said = capfd.readouterr().err
    assert "another program deleted or moved" in said
    assert history(study) == undisturbed
    assert history(search.load_study("deleted")) == undisturbed
    assert list(paths.space.iterdir())
    assert epochs(StudyPaths.of(".", "gone")) < epochs(paths)


def begin(space: Path, name: str, templates: forks.Templates) -> forks.Process:
    """Start a search in a process of its own, with epochs slow enough to be interrupted within one."""
    arguments = ["run", str(space), "--study", name, "--seed", "0", "--workers", "1", "--no-progress"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPOCH_SECONDS", "0.2")
        return kills.start_driver(space.parent, arguments, (), templates)


def epochs(paths: StudyPaths) -> int:
    if not paths.journal.exists():
        return 0
    return paths.journal.read_bytes().count(b'"kind":"epoch_done"')


def family(templates: forks.Templates, zygote: Zygote) -> list[psutil.Process]:
    """Return the zygote of the driver, and its workers. The zygote of the tests is a fork of the same template."""
    zygotes = psutil.Process(templates.pid("keras")).children()
    return [process for each in zygotes if each.pid != zygote.pid for process in (each, *each.children(recursive=True))]


@pytest.mark.slow
def test_workers_whose_threads_cannot_run_end_with_the_driver_too(
    space: Path, templates: forks.Templates, zygote: Zygote
) -> None:
    space.with_name("kill").write_text("0000 0 always lock")
    process = begin(space, "stuck", templates)
    held = StudyPaths.of(space.parent / "runs", "stuck").trial(0).folder / "held"
    wait_until(lambda: held.exists() or process.poll() is not None)
    children = family(templates, zygote)
    assert len(children) >= 2
    process.kill()
    process.wait(60)
    _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "times"),
    [
        pytest.param(signal.SIGKILL, 1, marks=pytest.mark.core),
        (signal.SIGINT, 1),
        (signal.SIGINT, 2),
        (signal.SIGTERM, 1),
        (signal.SIGHUP, 1),
    ],
)
def test_a_driver_that_is_ended_is_resumed_to_the_same_search(
    space: Path,
    undisturbed: list[Any],
    templates: forks.Templates,
    zygote: Zygote,
    number: signal.Signals,
    times: int,
) -> None:
    paths = StudyPaths.of(space.parent / "runs", "stopped")
    process = begin(space, "stopped", templates)
    wait_until(lambda: epochs(paths) >= 5 or process.poll() is not None)
    children = family(templates, zygote)
    assert len(children) >= 2  # the zygote, and a worker
    for _ in range(times):
        os.kill(process.pid, number)
        time.sleep(0.02)
    process.wait(60)
    stderr = (space.parent / "output.txt").read_text()
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        if times == 1:
            assert "go on with: search resume stopped" in stderr
        else:
            assert "stopped; nothing journaled is lost: go on with: search resume stopped" in stderr
        assert "Traceback" not in stderr
    _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []
    interrupted = search.load_study("stopped", space.parent / "runs")
    assert len(interrupted.trials) < len(undisturbed)

    study = search.run(space, study="stopped", resume=True, **OPTIONS)
    assert history(study) == undisturbed
    repeated = study.study.trained - study.study.epochs
    # A checkpointed epoch is not trained again. At most the epochs of one segment lie between two checkpoints.
    assert repeated == 0 if (number, times) == (signal.SIGINT, 1) else repeated <= 2


@pytest.mark.slow
def test_a_search_whose_processes_are_all_stopped_for_a_while_counts_that_in_no_time(space: Path) -> None:
    """As when a job is suspended, or a container paused."""
    arguments = ["run", space.name, "--study", "stopped", "--seed", "0", "--max-trials", "1", "--workers", "1"]
    limits = ["--timeout", "12", "--trial-timeout", "12", "--max-epochs", "8", "--backend", "optuna"]
    environment = os.environ | {"EPOCH_SECONDS": "0.5"}
    driver = subprocess.Popen([*COMMAND, *arguments, *limits], cwd=space.parent, env=environment)
    path = StudyPaths.of("runs", "stopped").journal
    wait_until(lambda: path.exists() and b'"kind":"epoch_done"' in path.read_bytes())
    stopped = [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]
    for process in stopped:
        process.suspend()
    time.sleep(13)
    for process in stopped:
        process.resume()
    assert driver.wait(60) == 0
    study = search.load_study("stopped")
    assert [(trial.state, trial.epochs) for trial in study.trials] == [("completed", 8)]
    assert study.study.end is not None
    assert study.study.end.reason == "the budget of 1 trial is tried"
    assert study.study.seconds() < 12
    assert max(epoch.seconds for epoch in study.trials[0].curve) < 6
