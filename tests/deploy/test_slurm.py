"""The job scripts of `deploy/`, run against a stand-in for Slurm."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from places import ROOT, TINY

from search.study.journal import read_all
from search.study.paths import StudyPaths
from search.study.records import EpochDone, SearchEnded

STAND_INS = Path(__file__).with_name("slurm")
JOB = ROOT / "deploy" / "slurm.sh"
JOIN = ROOT / "deploy" / "slurm_join.sh"

SEARCH = f"""#!/usr/bin/env bash
exec {sys.executable} -c 'import sys; from search.cli import main; sys.exit(main())' "$@"
"""
"""The command `search` of this checkout."""

PYTHON = """#!/usr/bin/env bash
if [[ $2 == *get_node_ip_address* ]]; then echo 192.0.2.7 4001 4002; else [[ -e ray.txt ]]; fi
"""
RAY = """#!/usr/bin/env bash
[[ $1 == start ]] || exit 0
echo "$SLURM_PROCID/$SLURM_NTASKS $*" >>ray.txt
exec sleep 100
"""
"""Stand-ins for Ray, and for Python, which finds free ports and connects to Ray."""


class Nodes:
    """A folder with a study's space, in which scripts run as on Slurm's nodes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        paths = [folder / "bin", STAND_INS, Path(sys.executable).parent, os.environ["PATH"]]
        self.environment |= {"PATH": os.pathsep.join(map(str, paths)), "PYTHONPATH": str(ROOT)}
        self.environment |= {"RAY_AUTH_TOKEN_PATH": str(folder / "token"), "JOB_SECONDS": "3600"}
        self.job = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NUM_NODES": "3", "SLURMD_NODENAME": "node1"}
        (folder / "bin").mkdir()
        (folder / "token").write_text(secrets.token_hex(32))
        shutil.copy(TINY, folder / "space.py")

    def write(self, name: str, text: str) -> None:
        """Write a program."""
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def start(self, *command: object, **variables: str) -> subprocess.Popen[str]:
        """Start a command in the job."""
        return subprocess.Popen(
            [str(each) for each in command],
            cwd=self.folder,
            env=self.environment | self.job | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: object, **variables: str) -> tuple[int, str]:
        """Run a command in the job. Return its exit code and its output."""
        with self.start(*command, **variables) as process:
            output, _ = process.communicate()
        return process.returncode, output

    def read(self, name: str) -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    def wait_for(self, name: str, process: subprocess.Popen[str]) -> None:
        """Wait until a process has made a file."""
        while not (self.folder / name).exists():
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.02)


@pytest.fixture
def nodes(tmp_path: Path) -> Nodes:
    return Nodes(tmp_path)


@pytest.fixture
def without_ray(nodes: Nodes) -> Nodes:
    nodes.write("python", PYTHON)
    nodes.write("ray", RAY)
    return nodes


# The scripts alone ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "ends", "requeued"), [(75, 0, "requeue 4711\n"), (0, 0, ""), (2, 2, ""), (130, 130, "")]
)
def test_only_a_search_that_is_not_finished_is_requeued(
    without_ray: Nodes, code: int, ends: int, requeued: str
) -> None:
    waits = "until (($(wc -l <ray.txt) == 3)); do sleep 0.02; done"
    without_ray.write("search", f'#!/usr/bin/env bash\n{waits}\necho "$RAY_ADDRESS $*" >search.txt\nexit {code}\n')
    exit_code, output = without_ray.run(JOB, "space.py", "--max-trials", "9")
    assert exit_code == ends, output
    assert without_ray.read("scontrol.txt") == requeued
    command = "192.0.2.7:4001 run --executor ray --resume --stop-before 5m space.py --max-trials 9\n"
    assert without_ray.read("search.txt") == command
    head, *others = sorted(without_ray.read("ray.txt").splitlines(), key=lambda line: "--head" not in line)
    assert head.startswith("0/1 start --block --num-cpus=1 ")
    assert "--port=4001 --ray-client-server-port=4002 --temp-dir=/tmp/ray-4711" in head
    assert [line.split()[0] for line in sorted(others)] == ["0/2", "1/2"]
    assert all("--address=192.0.2.7:4001" in line for line in others)
    assert not (without_ray.folder / "search-4711.address").exists()


@pytest.mark.slow
def test_a_signal_to_the_job_stops_the_search_in_order(without_ray: Nodes) -> None:
    waits = 'trap "echo stopped >search.txt; exit 130" TERM\ntouch ready\nwhile true; do sleep 0.05; done\n'
    without_ray.write("search", f"#!/usr/bin/env bash\n{waits}")
    job = without_ray.start(JOB, "space.py")
    without_ray.wait_for("ready", job)
    job.terminate()
    job.communicate()
    assert job.returncode == 130
    assert without_ray.read("search.txt") == "stopped\n"
    assert without_ray.read("scontrol.txt") == ""


def test_nodes_of_another_job_join_the_search(without_ray: Nodes) -> None:
    assert without_ray.run(JOIN, "4711")[1].startswith("slurm_join.sh: there is no search-4711.address in ")
    without_ray.write("search", "#!/usr/bin/env bash\ntouch ready\nuntil [[ -e joined ]]; do sleep 0.05; done\n")
    job = without_ray.start(JOB, "space.py", SLURM_JOB_NUM_NODES="1")
    without_ray.wait_for("ready", job)
    joining = without_ray.start(JOIN, "4711", SLURM_JOB_ID="4712", SLURM_JOB_NUM_NODES="2", SLURM_CPUS_PER_TASK="6")
    while without_ray.read("ray.txt").count("--address=192.0.2.7:4001 --block --num-cpus=6") < 2:
        time.sleep(0.02)
    (without_ray.folder / "joined").touch()
    joining.terminate()
    for process in (job, joining):
        process.communicate()
    assert job.returncode == 0


def test_what_is_missing_is_named(without_ray: Nodes) -> None:
    assert without_ray.run(JOB) == (
        2,
        "slurm.sh: give the space file: sbatch deploy/slurm.sh SPACE.py [options of search run]\n",
    )
    code, output = without_ray.run("env", "-u", "SLURM_JOB_ID", JOB, "space.py")
    assert (code, "SLURM_JOB_ID: is not set: start this script with sbatch" in output) == (1, True)
    without_ray.write("ray", '#!/usr/bin/env bash\n[[ $1 == get-auth-token ]] || { echo "no room"; exit 1; }\n')
    code, output = without_ray.run(JOB, "space.py")
    assert (code, "Ray did not start on node1" in output, output.count("no room")) == (1, True, 3)


# With Ray and searches ------------------------------------------------------------------------------------------------


WAITS = """
import sys, time, ray
ray.init(sys.argv[1], log_to_driver=False)
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]):
    time.sleep(0.2)
"""
"""Waits for the nodes of a cluster."""

SLOW_FIRST = """
import os, time

class Slow(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if "SLURM_RESTART_COUNT" not in os.environ:
            time.sleep(1)

def callbacks(hp):
    return [Slow()]
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_on_two_nodes_and_one_that_joins_is_requeued_and_goes_on(nodes: Nodes) -> None:
    """`squeue` gives the end of the job: 12 s from the moment at which the search asks."""
    nodes.job["SLURM_JOB_NUM_NODES"] = "2"
    with (nodes.folder / "space.py").open("a") as file:
        file.write(SLOW_FIRST)
    (nodes.folder / "waits.py").write_text(WAITS)
    nodes.write("search", SEARCH.replace("exec", f'{sys.executable} waits.py "$RAY_ADDRESS" "$NODES" && exec'))
    options = ["--executor", "local", "--workers", "1", "--seed", "0", "--backend", "optuna", "--pruner", "none"]
    command = [JOB, "space.py", "--stop-before", "4s", "--max-trials", "4", "--max-epochs", "6", *options]
    job = nodes.start(*command, NODES="3", JOB_SECONDS="12")
    nodes.wait_for("search-4711.address", job)
    joining = nodes.start(JOIN, "4711", SLURM_JOB_ID="4712", SLURM_JOB_NUM_NODES="1")
    output, _ = job.communicate()
    joining.terminate()
    joining.communicate()
    assert job.returncode == 0, output
    assert "the search is not finished: job 4711 is requeued" in output
    assert nodes.read("scontrol.txt") == "requeue 4711\n"
    code, output = nodes.run(*command, SLURM_RESTART_COUNT="1", NODES="2")
    assert code == 0, output
    records = [entry.record for entry in read_all(StudyPaths.of(str(nodes.folder / "runs"), "space").journal)]
    ends = [record for record in records if isinstance(record, SearchEnded)]
    assert [(end.exit_code, end.complete) for end in ends] == [(75, False), (0, True)]
    epochs = [(record.trial, record.epoch) for record in records if isinstance(record, EpochDone)]
    assert epochs == [(trial, epoch) for trial in range(4) for epoch in range(1, 7)]


@pytest.fixture
def eight(nodes: Nodes) -> Callable[..., list[str]]:
    """Return a function that starts eight drivers of a study at once, and returns the lines of those refused."""
    nodes.write("search", SEARCH)
    nodes.write("coded", '#!/usr/bin/env bash\n"$@" 2>&1\necho "exit $?"\n')

    def start(*starter: str) -> list[str]:
        options = ["--max-trials", "1", "--max-epochs", "1", "--workers", "1", "--no-progress", "--overwrite"]
        _, output = nodes.run("srun", "--ntasks=8", *starter, "coded", "search", "run", "space.py", *options)
        assert output.count("exit 0") == 1, output
        assert output.count("exit 2") == 7, output
        return [line for line in output.splitlines() if line.startswith("search: ")]

    return start


@pytest.mark.slow
def test_one_of_eight_drivers_that_srun_starts_runs_and_seven_name_the_fix(
    eight: Callable[..., list[str]], nodes: Nodes
) -> None:
    for _ in range(2):  # the second time there is a study to overwrite
        lines = eight()
        assert len(lines) == 7
        assert all("srun has started 8 copies" in line and "srun --ntasks=1" in line for line in lines)
    records = [entry.record for entry in read_all(StudyPaths.of(str(nodes.folder / "runs"), "space").journal)]
    assert sum(isinstance(record, SearchEnded) for record in records) == 1


@pytest.mark.slow
def test_without_slurms_variables_one_of_eight_drivers_runs_and_seven_say_who(eight: Callable[..., list[str]]) -> None:
    for _ in range(2):
        lines = eight("env", "-u", "SLURM_PROCID", "-u", "SLURM_NTASKS")
        assert len(lines) == 7
        assert all("start this command once" in line for line in lines)
