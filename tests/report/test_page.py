"""The page of a report: its parts, its limits, and texts that try to break out of it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from report_studies import LR, begin, failed, many_trials, ten_trials, trained, write

from search import options
from search.cli import main
from search.errors import OptionError
from search.report.html import element, json_script
from search.report.page import make_page
from search.report.reproduce import command_of
from search.report.subject import read_subject
from search.report.trial_table import trials_section
from search.report.writing import write_report
from search.space.domain import Domain, Parameter
from search.study.paths import StudyPaths
from search.study.records import Record, SearchEnded, SearchStarted

EVIL = "</script><script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\"><!--"


def page_of(*studies: StudyPaths) -> str:
    return make_page([read_subject(paths, now=1_796_000_500.0) for paths in studies])


def text_of(page: str) -> str:
    """Return the text that a reader sees, scripts and styles left out."""
    bare = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", bare)))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the page of ten trials."""
    return page_of(write(tmp_path_factory.mktemp("runs"), ten_trials()))


# The parts ------------------------------------------------------------------------------------------------------------


def test_the_answer_comes_first(page: str) -> None:
    text = text_of(page)
    assert text.index("Ended: nothing is left to try.") < text.index("0.9800") < text.index("Learning curves")
    assert "0.9090 test accuracy" in text
    assert "worse on the test data than chance explains" in text
    assert "Best configuration: trial 7" in text
    assert re.search(r"units 160 Int\(16\.\.512\)", text)


def test_each_figure_has_a_heading_a_sentence_and_its_data(page: str) -> None:
    titles = re.findall(r'<section class="figure"[^>]*><h3[^>]*>([^<]*)</h3>', page)
    assert len(titles) == 8
    drawn = re.findall(r'data-figure="([^"]*)"', page)
    assert len(drawn) >= 8
    for id in drawn:
        assert f'id="{id}"' in page
    assert page.count("<figcaption>") == 8
    assert "could not be made" not in page


def test_trials_failures_cost_and_the_way_to_load(page: str) -> None:
    text = text_of(page)
    assert "The best trial took" in text
    assert "ValueError: no such layer 1 trial (failed): 10" in text
    assert "It left no traceback." in text
    assert "get_best_models('digits')" in text
    assert "Its weights are not in the study's folder" in text


def test_headers_have_scopes_and_ids_are_unique(page: str) -> None:
    assert not re.findall(r"<th(?![^>]*scope=)[ >]", page)
    ids = re.findall(r' id="([^"]*)"', re.sub(r"<script(?! type).*?</script>", "", page, flags=re.DOTALL))
    assert len(ids) == len(set(ids))
    for target in re.findall(r'href="#([^"]*)"', page):
        assert target in ids


def test_the_policy_allows_the_pages_own_scripts_and_no_network(page: str) -> None:
    policy = html.unescape(re.findall(r'Content-Security-Policy" content="([^"]*)"', page)[0])
    assert "default-src 'none'" in policy
    assert "http" not in policy
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 3
    for script in scripts:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy


def test_the_command_begins_the_same_search_again(tmp_path: Path) -> None:
    given = {
        "backend": "asha", "max_epochs": 9, "timeout": 90.5, "fuse": False, "tensorboard": True, "workers": 1,
        "try_first": ({"lr": 0.01},), "follow": ("tensorboard",), "study": "other", "runs": "elsewhere",
    }  # fmt: skip
    records = [
        replace(record, options=given) if isinstance(record, SearchStarted) else record for record in ten_trials()
    ]
    words = shlex.split(command_of(read_subject(write(tmp_path, records))))
    assert words[:3] == ["search", "run", "digits.py"]
    pairs = dict(zip(words[3:], [*words[4:], ""], strict=True))
    assert pairs["--max-epochs"] == "9"
    assert json.loads(pairs["--try-first"]) == {"lr": 0.01}
    assert options.check_option("timeout", pairs["--timeout"]) == 90.5
    assert {"--no-fuse", "--tensorboard"} < pairs.keys()
    assert pairs["--seed"] == "7"
    assert not {"--study", "--runs", "--report"} & pairs.keys()


# Other states ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("records", "words"),
    [
        (begin(), ["died without a word", "No trial has begun yet."]),
        (
            [*begin(), *failed(0, "ValueError: boom"), *failed(1, "ValueError: boom")],
            ["2 of 2 trials failed: see the errors below", "ValueError: boom 2 trials (failed): 0, 1"],
        ),
        (
            [*begin(), *trained(0, [0.5], (LR, 0.01)), SearchEnded("stopped by the user", False, 130)],
            ["Ended: stopped by the user.", "There is no result on test data", "needs 4 trials with an objective"],
        ),
        ([*begin(parameters=()), *trained(0, [0.5])], ["It has no hyperparameters."]),
    ],
    ids=["nothing", "failures only", "stopped early", "no hyperparameters"],
)
def test_a_study_is_reported_as_far_as_it_is(tmp_path: Path, records: list[Record], words: list[str]) -> None:
    text = text_of(page_of(write(tmp_path, records)))
    for each in words:
        assert each in text
    assert "could not be made" not in text


def test_a_running_study_says_so(tmp_path: Path) -> None:
    subject = read_subject(write(tmp_path, ten_trials()[:-2]), now=1_796_000_500.0)
    text = text_of(make_page([replace(subject, running=True)]))
    assert "Running, as of 2026-11-30 01:01 UTC." in text


def test_several_studies_are_compared_first(tmp_path: Path) -> None:
    page = page_of(write(tmp_path, ten_trials("first")), write(tmp_path, ten_trials("second", test=None)))
    text = text_of(page)
    assert text.index("first has the best val_accuracy") < text.index("All studies over time") < text.index("Answer")
    assert re.search(r"second max val_accuracy 0\.9800 \S 11 30", text)
    assert page.count(">Best configuration: trial 7</h4>") == 2
    assert len(re.findall(r' id="study-1"', page)) == 1


def test_studies_with_different_objectives_are_not_ranked(tmp_path: Path) -> None:
    other = [*begin("other", objective="val_auc"), *trained(0, [0.5], (LR, 0.1), objective="val_auc")]
    text = text_of(page_of(write(tmp_path, ten_trials()), write(tmp_path, other)))
    assert "different objectives" in text
    assert "could not be made" not in text


def test_many_trials_and_hyperparameters_have_limits(tmp_path: Path) -> None:
    table = trials_section(read_subject(write(tmp_path, many_trials(parameters=200, trials=70))))
    shown = table.count('<th scope="row"')
    assert 50 < shown < 70
    assert f"The best {shown} of 70 trials; {70 - shown} are left out." in text_of(table)
    assert len(table) < 2_000_000


# Hostile texts --------------------------------------------------------------------------------------------------------


def hostile() -> list[Record]:
    kind = Parameter(EVIL, Domain("choice", values=(EVIL, "\u2028 %{x} $y$ \ud800")))
    emoji = Parameter("😀" * 100, Domain("float", 0.001, 1.0, sampling="log"))
    secret = {"backend": "hyperband", "tracking_uri": "http://bob:hunter2@host/?token=verysecret"}
    records = begin("hostile", (kind, emoji), objective="val_<b>", options=secret)
    for number in range(12):
        values = (kind, kind.domain.values[number % 2]), (emoji, 0.001 * (number + 1))
        records += trained(number, [0.1 * number, 0.05], *values, objective="val_<b>")
    records += failed(12, f"{EVIL} postgresql://bob:hunter2@db", (kind, EVIL))
    return [*records, SearchEnded(f"ended {EVIL}", True, 0)]


@pytest.fixture
def hostile_report(tmp_path: Path) -> Path:
    paths = write(tmp_path, hostile())
    paths.trial(12).folder.mkdir(parents=True)
    paths.trial(12).traceback.write_text(f"\x1b[31mTraceback\x1b[0m\n  {EVIL}\n http://bob:hunter2@host\n")
    paths.space.mkdir()
    (paths.space / "digits.py").write_text(f'API_KEY = "verysecret"\n{EVIL}\n')
    return write_report([paths])


def test_no_text_breaks_out_and_no_secret_is_shown(hostile_report: Path) -> None:
    page = hostile_report.read_text()
    assert page.count("<script>") == 3
    assert "<img" not in page
    assert "hunter2" not in page
    assert "verysecret" not in page
    assert EVIL in html.unescape(page)
    assert "\x1b" not in page


def test_attributes_and_data_are_escaped() -> None:
    assert element("p", "<i>", title='"x"') == '<p title="&quot;x&quot;">&lt;i&gt;</p>'
    script = json_script(json.dumps({"a": EVIL + "\u2028"}, ensure_ascii=False), "x")
    inner = script[script.index(">") + 1 : -len("</script>")]
    assert not set("<>&\u2028") & set(inner)
    assert json.loads(inner) == {"a": EVIL + "\u2028"}


CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-component-update"),
    *("--disable-background-networking", "--disable-sync", "--window-size=1400,3000", "--virtual-time-budget=20000"),
]


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="needs chromium")
def test_a_browser_runs_the_pages_scripts_and_no_others(hostile_report: Path, tmp_path: Path) -> None:
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", hostile_report.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "<title>hostile: report</title>" in done.stdout
    assert 'data-ready="true"' in done.stdout
    assert done.stdout.count("js-plotly-plot") >= 2
    assert 'class="plot failed' not in done.stdout


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_writes_the_newest_study_and_prints_the_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = write(tmp_path, ten_trials())
    assert main(["report", "--runs", str(tmp_path)]) == 0
    assert Path(capsys.readouterr().out.strip()).resolve() == paths.report
    assert "<h1>" in paths.report.read_text()
    write(tmp_path, ten_trials("other"))
    assert main(["report", "digits", "other", "--runs", str(tmp_path)]) == 0
    assert (tmp_path / "report-digits-vs-other.html").exists()


def test_wrong_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write(tmp_path, ten_trials())
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for arguments, words in [
        (["nothing"], "no study 'nothing'"),
        (["--output", str(tmp_path / "no" / "x.html")], "cannot be written"),
        (["--open"], "--open needs a display"),
    ]:
        assert main(["report", *arguments, "--runs", str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert words in error
    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    from search.report import page

    page._plotly.cache_clear()
    with pytest.raises(OptionError, match="a report needs plotly: pip install plotly"):
        write_report([paths])
    assert not paths.report.exists()
