"""The display in notebooks: progress that replaces itself, and studies and trials as HTML."""

from __future__ import annotations

import html.parser
import math
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from study_builder import LR, UNITS, StudyBuilder, typical

from search.display.html import curve_line, progress_bar, study_html, table, trial_html, trials_html
from search.display.notebook import KEPT_LINES, NotebookView, in_notebook, notebook_view
from search.options import Options
from search.study.records import EpochDone, ParameterSet, SearchEnded
from search.study.study import Study

HYPERBAND = Options(backend="hyperband")
HOSTILE = '<script>alert("x")</script>\x1b[31m'


class Reader(html.parser.HTMLParser):
    """The text, the tags and the styles of a document, which must close every tag that it opens."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: set[str] = set()
        self.styles: list[str] = []
        self._open: list[str] = []
        self.feed(document)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._open.append(tag)
        self.tags.add(tag)
        self.styles += [value or "" for name, value in attributes if name == "style"]

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


class Cell:
    """A cell of a notebook, and its clock."""

    def __init__(self) -> None:
        self.outputs: list[dict[str, str]] = []
        self.now = 0.0
        self.view = NotebookView(self.outputs.append, lambda: self.now)

    @property
    def plain(self) -> str:
        return self.outputs[-1]["text/plain"]

    @property
    def html(self) -> Reader:
        return Reader(self.outputs[-1]["text/html"])


def running(builder: StudyBuilder, options: Options = HYPERBAND) -> Cell:
    cell = Cell()
    cell.view.attach(builder.study, options, ("GPU 0", "GPU 1"))
    cell.view.update(builder.now)
    return cell


# Progress -------------------------------------------------------------------------------------------------------------


def test_a_running_search_is_shown_as_in_a_terminal() -> None:
    cell = running(typical(), Options(backend="hyperband", target=0.99))
    text = cell.html.text
    assert "digits · hyperband · max val_accuracy · seed 7 · target 0.99" in text
    assert text[1:9] == ["slot", "trial", "rung", "epoch", "now", "best", "s/epoch", "hyperparameters"]
    assert text[9:17] == ["GPU 0", "4", "b2 r0", "3/9", "0.6000", "0.6123", "0.42", "lr=0.0001 units=16"]
    assert "best val_accuracy 0.9722 · trial 0 · epoch 2 · lr=0.003 units=64" in text
    assert "6 trials: 2 running, 1 paused, 1 completed, 1 stopped, 1 failed" in text
    assert "6 trials: 2 running" in cell.plain


def test_the_output_is_replaced_at_most_twice_a_second_and_only_if_it_changes() -> None:
    builder = typical()
    cell = running(builder)
    for cell.now in (0.1, 0.3, 0.49):
        builder.epochs(4, 0.7)
        cell.view.update(builder.now)
    assert len(cell.outputs) == 1
    cell.now = 0.5
    cell.view.update(builder.now)
    assert len(cell.outputs) == 2
    cell.now = 5.0
    cell.view.update(builder.now)
    assert len(cell.outputs) == 2


def test_lines_of_the_beginning_are_shown_at_once_and_stay_above_the_progress() -> None:
    cell = Cell()
    cell.view.say("study digits in runs: go on with --resume")
    assert cell.plain == "study digits in runs: go on with resume=True"
    builder = typical()
    cell.view.attach(builder.study, HYPERBAND, ("GPU 0",))
    cell.view.say("trial 3 failed: see `search show digits 3`")
    cell.now = 1.0
    cell.view.update(builder.now)
    assert cell.plain.splitlines()[:3] == [
        "study digits in runs: go on with resume=True",
        "trial 3 failed: see `search.load_study('digits').trials[3]`",
        "digits · hyperband · max val_accuracy · seed 7",
    ]


def test_lines_are_bounded_and_the_plan_is_kept() -> None:
    cell = running(typical())
    for number in range(1000):
        cell.view.say(f"line {number}")
    cell.view.close()
    shown = [line for line in cell.plain.splitlines() if line.startswith(("line", "…"))]
    assert len(shown) == KEPT_LINES + 1
    assert (shown[0], shown[8], shown[-1]) == ("line 0", "… 900 lines left out …", "line 999")


def test_the_last_state_stays() -> None:
    builder = typical()
    cell = running(builder)
    builder.apply(SearchEnded("the time is up", complete=True, exit_code=0))
    cell.view.close()
    assert "th" not in cell.html.tags  # no slot runs any more
    assert "left" not in cell.plain.splitlines()[-1]
    assert "running" not in cell.plain
    cell.view.say("ended: the time is up")
    assert cell.plain.startswith("ended: the time is up\n")


def test_a_line_of_another_thread_waits_for_the_next_drawing() -> None:
    cell = Cell()
    thread = threading.Thread(target=cell.view.say, args=["from a thread"])
    thread.start()
    thread.join()
    assert cell.outputs == []
    cell.view.close()
    assert cell.plain == "from a thread"


def test_slots_may_open_and_close() -> None:
    cell = running(typical())
    cell.view.name_slot(3, "GPU 3")
    cell.view.name_slot(1, None)
    cell.now = 1.0
    cell.view.update(2_000_000.0)
    assert "GPU 3" in cell.html.text
    assert "GPU 1" not in cell.html.text


def test_a_kernel_is_told_from_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not in_notebook()
    shells: list[Any] = [None, SimpleNamespace(), SimpleNamespace(kernel=object())]
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shells[0]))
    found = []
    while shells:
        found.append(in_notebook())
        shells.pop(0)
    assert found == [False, False, True]


def test_an_output_is_shown_once_and_then_updated(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, str]] = []

    def record(kind: str) -> Any:
        return lambda output, raw, display_id: calls.append((kind, display_id))

    display = SimpleNamespace(display=record("display"), update_display=record("update"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    view = notebook_view()
    for text in ("one", "two", "three"):
        view.say(text)
    assert [kind for kind, _ in calls] == ["display", "update", "update"]
    assert len({name for _, name in calls}) == 1


# Studies and trials ---------------------------------------------------------------------------------------------------


def test_a_study_shows_its_state_and_its_best_trials_with_all_hyperparameters() -> None:
    builder = typical()
    text = Reader(study_html(builder.study, alive=False, now=builder.now)).text
    assert "digits: its process is gone; `search.run(…, resume=True)` goes on" in text
    assert "best val_accuracy 0.9722 · trial 0 · epoch 2 · lr=0.003 units=64" in text
    at = text.index("rank")
    assert text[at : at + 9] == [
        "rank", "trial", "val_accuracy", "best epoch", "epochs", "time", "lr", "units", "layers",
    ]  # fmt: skip
    assert text[at + 9 : at + 18] == ["1", "0", "0.9722", "2", "3", "1.3s", "0.003", "64", "3"]


def test_a_study_without_a_result_is_shown() -> None:
    text = Reader(study_html(StudyBuilder().study, alive=True, now=0.0)).text
    assert text[0] == "digits: running, process 4321 on box"
    assert "best: none yet" in text


def test_a_list_of_trials_is_a_table() -> None:
    study = typical().study
    text = Reader(trials_html(study, [*study.trials.values()][:2], alive=True)).text
    assert text[:9] == [
        "trial", "state", "epochs", "val_accuracy", "best epoch", "pace", "lr", "units", "layers",
    ]  # fmt: skip
    assert text[9:11] == ["0", "paused"]
    assert len(text) == 27
    assert Reader(trials_html(study, [], alive=True)).text == ["no trials"]


def test_a_trial_shows_its_values_exactly_and_a_curve_for_each_metric() -> None:
    builder = typical()
    builder.apply(ParameterSet(4, LR, 0.1234567890123))
    reader = Reader(trial_html(builder.study.trials[4]))
    assert reader.text[0] == "trial 4: running, 3 epochs, objective 0.6123 at epoch 2"
    assert {"0.1234567890123", str(LR.domain), "16", str(UNITS.domain), "layers"} <= {*reader.text}
    assert reader.text[-3:] == ["val_accuracy", "0.6123", "0.6000"]
    assert "polyline" in reader.tags
    assert "ValueError: no such layer" in Reader(trial_html(builder.study.trials[3])).text[0]


def test_a_trial_without_epochs_is_shown() -> None:
    assert Reader(trial_html(typical().study.trials[5])).text == ["trial 5: running, 0 epochs"]
    assert repr(typical().study.trials[5]) == "<trial 5: running, 0 epochs>"


def hostile() -> Study:
    builder = StudyBuilder(objective=HOSTILE)
    builder.request(0, 3)
    builder.values(0, **{HOSTILE: HOSTILE})
    builder.apply(EpochDone(0, 0, 1, {HOSTILE: 0.5}, 1.0))
    builder.apply(EpochDone(0, 0, 2, {HOSTILE: math.nan}, 1.0))
    return builder.study


def test_every_text_is_escaped_and_every_colour_is_the_notebooks() -> None:
    study = hostile()
    documents = [
        study_html(study, alive=True, now=0.0),
        trials_html(study, [study.trials[0]], alive=True),
        trial_html(study.trials[0]),
        table([HOSTILE], []),
        progress_bar(0.3),
    ]
    cell = Cell()
    cell.view.attach(study, HYPERBAND, (HOSTILE,))
    cell.view.say(HOSTILE)
    cell.view.update(0.0)
    documents.append(cell.outputs[-1]["text/html"])
    for document in documents:
        reader = Reader(document)
        assert "script" not in reader.tags
        assert "\x1b" not in document
        for style in reader.styles:
            colours = [part for part in style.split(";") if part.strip().startswith(("color", "background"))]
            assert colours in ([], [" background: currentColor"], ["background: currentColor"])
    assert sum(HOSTILE.replace("\x1b", " ") in "".join(Reader(document).text) for document in documents[:4]) == 4


@pytest.mark.parametrize(
    ("values", "lines"),
    [
        ([], 0), ([1.0], 0), ([math.nan, 1.0], 0), ([1.0, 1.0], 1), ([1.0, math.nan, 2.0], 2),
        ([1e308, -1e308, 0.0], 1), ([*range(10_000)], 1),
    ],
)  # fmt: skip
def test_a_curve_has_a_gap_where_a_value_is_not_finite(values: list[float], lines: int) -> None:
    picture = curve_line(values, "loss")
    assert picture.count("<polyline") == lines
    assert "nan" not in picture
    assert "inf" not in picture
    assert len(picture) < 4000
