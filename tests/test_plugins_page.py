"""The page about plug-ins: its code is installed as a package, passes the kits, and searches.

The commands that name classes of modules are run by `test_doc_pages.py`, as those of any page.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from commands import Command
from installed import install
from places import ROOT, TINY

import search
import search.plugins
from search.backends.base import BackEnd
from search.backends.registry import make_backend
from search.options import Options
from search.plugins.loading import BACKENDS, EXECUTORS, FOLLOWERS, STOP_RULES
from search.scheduler.limits import Limits
from search.study.study import Study
from search.testing import Simulation
from search.testing.backends import SMOOTH
from search.tracking.followers import FollowerSetup

PAGE = (ROOT / "docs" / "how-to" / "plugins.md").read_text()
FILES = {
    block.split("\n", 1)[0].removeprefix("# "): block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
}
PARTS = ("--backend", "nudge:width=0.2", "--stop-rule", "plateau:trials=3", "--follow", "epochs_csv")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the page's package is installed."""
    project = tomllib.loads("".join(re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)))["project"]
    modules = {name: code for name, code in FILES.items() if not name.startswith("test_")}
    return install(tmp_path_factory.mktemp("site"), project["name"], modules, project["entry-points"])


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process have the package, for one test."""
    monkeypatch.syspath_prepend(str(site))
    for registry in (BACKENDS, STOP_RULES, FOLLOWERS):
        registry._loaded.clear()


def test_the_page_names_every_public_name_of_plug_ins() -> None:
    for name in search.plugins.__all__:
        assert getattr(search.plugins, name) is not None
        assert name in PAGE, name
    assert sorted(FILES) == ["nudge.py", "nudge_extras.py", "test_nudge.py"]
    for registry in (BACKENDS, EXECUTORS, STOP_RULES, FOLLOWERS):
        assert f'`"{registry.group}"`' in PAGE
        assert f"`{registry.option} " in PAGE


def test_the_back_end_of_the_page_is_short() -> None:
    code = FILES["nudge.py"]
    assert len([line for line in code[code.index("class") :].splitlines() if line.strip()]) <= 32


@pytest.mark.usefixtures("installed")
def test_the_parts_of_the_page_are_found_by_name_and_search(tmp_path: Path) -> None:
    rule = STOP_RULES.load("plateau:trials=3")
    follower = FOLLOWERS.load("epochs_csv").make(FollowerSetup("simulated", tmp_path, (), print))
    options = Options(backend="nudge:width=0.2", max_epochs=4)
    assert options.backend_options() == {"max_epochs": 4, "width": 0.2}
    assert BACKENDS.source("nudge") == "nudge-search 0.1.0"

    def make(study: Study) -> BackEnd:
        return make_backend(options.backend_name, options.backend_options(), study.objective, study.seed)

    limits = Limits(max_trials=100)
    done = Simulation(SMOOTH, make, max_epochs=4, limits=limits, rules=[rule.make(**rule.arguments)]).run()
    assert done.end is not None
    assert done.end.reason == "the last 3 trials were no better"
    follower.take(done.entries)
    follower.close()
    assert len((tmp_path / "epochs.csv").read_text().splitlines()) == done.study.epochs


@pytest.mark.slow
@pytest.mark.usefixtures("installed")
def test_the_package_of_the_page_searches_and_resumes_and_can_be_missing(
    command: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch, site: Path
) -> None:
    shutil.copy(TINY, workplace / "space.py")
    options = ("--max-epochs", "1", "--workers", "1", "--seed", "1", "--objective", "val_loss", "--no-progress")
    done = command("run", "space.py", *options, "--max-trials", "2", *PARTS)
    assert done.code == 0, done.err
    assert "nudge: up to 2 trials" in done.err
    assert json.loads(command("status", "space", "--json").out)["backend"] == "nudge"
    assert search.load_study("space").study.versions["plug-in nudge"] == "nudge-search 0.1.0"

    done = command("resume", "space", "--max-trials", "40", "--no-progress")
    assert done.code == 0, done.err
    assert "the last 3 trials were no better" in done.err
    assert "beside" not in done.err  # the same back end phase
    trials = json.loads(command("trials", "space", "--json").out)
    lines = (workplace / "runs" / "space" / "epochs.csv").read_text().splitlines()
    assert len(lines) == sum(trial["epochs"] for trial in trials)

    # The package is gone.
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(site)])
    for registry in (BACKENDS, STOP_RULES, FOLLOWERS):
        registry._loaded.clear()
    for looks in (("status", "space"), ("trials", "space"), ("best", "space"), ("show", "space", 0), ("sync", "space")):
        seen = command(*looks)
        assert seen.code == 0, seen.err
    refused = command("resume", "space")
    assert refused.code == 2
    assert "--backend 'nudge' is not known" in refused.err
    assert "from nudge-search 0.1.0" in refused.err
    assert refused.err.count("\n") == 1


@pytest.mark.slow
def test_the_parts_of_the_page_pass_the_kits_and_run_in_a_process_of_their_own(site: Path, tmp_path: Path) -> None:
    (tmp_path / "test_nudge.py").write_text(FILES["test_nudge.py"])
    shutil.copy(TINY, tmp_path / "space.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}

    def python(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert re.search(r"\d\d passed", python("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_nudge.py"))
    # Nothing of the driver's has imported Keras at the end.
    code = "import sys; from search.cli import main; code = main(); print('keras' in sys.modules); sys.exit(code)"
    printed = python("-c", code, "run", "space.py", "--max-epochs", "2", "--max-trials", "20", "--workers", "1", *PARTS)
    assert "the last 3 trials were no better" in printed
    assert "False" in printed.splitlines()
