"""Notebooks in a real kernel: cells that run twice, outputs that replace themselves, and an interrupted search."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbconvert import HTMLExporter

import search

DATA = """
import numpy as np, search
x = np.random.default_rng(0).normal(size=(64, 4)); y = (x.sum(axis=1) > 0).astype("int32")
data = (x[:48], y[:48]), (x[48:], y[48:])
"""
FACTORY = """
def build_model(hp):
    import keras
    layers = [keras.layers.Dense(hp.Int("units", 2, 8)), keras.layers.Dense(2, activation="softmax")]
    model = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
"""
SEARCH = """
study = search.run(
    build_model, data=data, objective="val_accuracy", backend="optuna", max_epochs=2, max_trials=4, workers=2
)
study
"""
SLOW_SEARCH = """
def callbacks(hp):
    import keras, time
    return [keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: time.sleep(0.2))]

search.run(
    build_model, data=data, callbacks=callbacks, study="slow", objective="val_accuracy", backend="optuna",
    max_epochs=500, max_trials=4, workers=2,
)
"""


class Notebook:
    """A notebook in a kernel of its own."""

    def __init__(self, client: NotebookClient, kernel: KernelManager) -> None:
        self._client = client
        self._kernel = kernel

    def run(self, source: str) -> dict[str, str]:
        """Run a cell. Return the last output of each kind: `display`, `result`, `stream` and `error`, as plain text."""
        cell = nbformat.v4.new_code_cell(source)
        self._client.nb.cells.append(cell)
        self._client.execute_cell(cell, len(self._client.nb.cells) - 1)
        found: dict[str, str] = {}
        for output in cell.outputs:
            kind = {"display_data": "display", "execute_result": "result"}.get(output.output_type, output.output_type)
            text = output.get("ename") or output.get("text") or output["data"]["text/plain"]
            found[kind] = text
        return found

    def interrupt_at(self, journal: Path, record: str) -> threading.Thread:
        """Interrupt the kernel when the study has the record."""

        def wait() -> None:
            while not (journal.exists() and record in journal.read_text()):
                time.sleep(0.05)
            self._kernel.interrupt_kernel()

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        return thread

    def html(self) -> str:
        page, _ = HTMLExporter().from_notebook_node(self._client.nb)
        return str(page)


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    # The kernel imports the package that this process tests.
    monkeypatch.setenv("PYTHONPATH", str(Path(search.__file__).parents[1]), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    kernel = KernelManager(kernel_name="python3")
    client = NotebookClient(nbformat.v4.new_notebook(), km=kernel, timeout=250, allow_errors=True)
    with client.setup_kernel(cwd=str(tmp_path)):
        yield Notebook(client, kernel)


@pytest.mark.slow
def test_a_notebook_from_its_first_cell_to_an_interrupt(notebook: Notebook, tmp_path: Path) -> None:
    notebook.run(DATA + FACTORY)
    first = notebook.run(SEARCH)
    assert set(first) == {"display", "result"}, first.get("stream")
    assert "4 trials" in first["display"]
    assert "ended: the budget of 4 trials is tried" in first["display"]
    assert first["result"].startswith(f"<study 'build_model' in {tmp_path}/runs/build_model: 4 trials")
    journal = (tmp_path / "runs" / "build_model" / "journal.jsonl").read_bytes()

    notebook.run(FACTORY.replace("import keras\n", "import keras  # a comment\n\n"))
    again = notebook.run(SEARCH)
    assert again["result"] == first["result"]
    assert again["display"].startswith("study 'build_model' is of this search and complete")
    assert (tmp_path / "runs" / "build_model" / "journal.jsonl").read_bytes() == journal

    notebook.run(FACTORY.replace("2, 8", "2, 9"))
    changed = notebook.run(SEARCH)
    assert "'build_model' was run with other code: this search is a new study, 'build_model-2'" in changed["display"]
    assert "study 'build_model-2'" in changed["result"]

    assert notebook.run("study.best_trial")["result"].startswith("<trial ")
    assert notebook.run("study.best_trials(2)")["result"].startswith("[<trial ")
    assert "params_units" in notebook.run("study.trials_dataframe().T")["result"]
    assert "val_accuracy" in notebook.run("study.curves_dataframe()")["result"]
    page = notebook.html()
    assert page.count('role="progressbar"') == 2
    assert "best epoch" in page

    journal_of_slow = tmp_path / "runs" / "slow" / "journal.jsonl"
    thread = notebook.interrupt_at(journal_of_slow, '"epoch_done"')
    stopped = notebook.run(SLOW_SEARCH)
    thread.join()
    assert stopped["error"] == "KeyboardInterrupt"
    assert "stopping when the running epochs end" in stopped["display"]
    assert "the results so far: study = search.load_study('slow')" in stopped["display"]
    assert "go on with: search.run(…, resume=True), or run the cell again" in stopped["display"]
    assert '"checkpointed"' in journal_of_slow.read_text()
    # The pruner may have stopped one of the two.
    assert " paused" in notebook.run("search.load_study('slow')")["result"]
