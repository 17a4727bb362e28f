"""The function `search.run`, which runs a search from Python."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from search.display.lasting import lasting_output
from search.display.notebook import in_notebook, notebook_view
from search.display.python_messages import name_arguments, python_arguments
from search.driver import launch
from search.driver.loop import View
from search.driver.prepared import MakeView, Result, SearchStopped
from search.driver.source import Source
from search.errors import UNFINISHED, FallsShort, NoResult, OptionError, SearchError, SpaceError, Unfinished
from search.options import Options
from search.results.study_results import StudyResults
from search.space.error_text import escape_controls
from search.space.file import describe_type
from search.study.paths import StudyPaths
from search.study.study import Study


def run(
    space: Any,
    data: Any = None,
    *,
    compile_model: Callable[[Any, Any], Any] | None = None,
    fit_options: Callable[[Any], Any] | None = None,
    callbacks: Callable[..., Any] | None = None,
    fit: Callable[..., Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    accept_changes: bool = False,
    take_over: bool = False,
    progress: bool = True,
    **options: Any,
) -> StudyResults:
    """Search a space file, or a factory with its data.

    In a notebook, without `resume` and `overwrite`, a cell may run again: the same search goes on with its study, and
    returns its results at once if the study is complete. If the code, the data, the seed or the objective are others,
    the search is a new study, `name-2`. Elsewhere a study that exists is refused.

    Args:
        space: the path of a space file, a function that takes `hp` and returns a Keras model, or a
            `keras_tuner.HyperModel`.
        data: (train, validation) or (train, validation, test), as `load_data` of a space file returns them. Each is a
            tuple (x,), (x, y) or (x, y, sample_weight) of arrays with the samples along their first axis, or a source
            of batches. Only with a factory, which needs it.
        compile_model, fit_options, callbacks, fit: functions as in a space file; only with a factory.
        resume: go on with the study if it exists; False by default, so that an existing study is refused.
        overwrite: delete the study if it exists, and begin anew; False by default.
        accept_changes: go on although the space file has changed since the study began; False by default.
        take_over: go on although a process on another machine has not ended in order; the caller knows that it is
            dead. False by default.
        progress: show the progress of the search: on stderr, or in the output of a notebook's cell. True by default.
        options: options of the command line, with underscores: `backend="optuna"`, `max_epochs=27`, `study="digits"`,
            …; `search.options.Options` lists them with their defaults.

    Returns:
        The results of the study.

    Raises:
        UserError: the input is wrong; the message says what is wrong, where, and what to do.
        NoResult: no trial has an objective.
        FallsShort: the search is done, and its best trial does not fulfil `require`; `load_study` has the results.
        Unfinished: the search has stopped before its job's end (`stop_before`); it goes on with `resume=True`.
        SearchError: the search was given up, as too many trials failed, and has results for `load_study`.
        KeyboardInterrupt: the search was stopped; it goes on with `resume=True`.

    Example:
        The file `space.py` defines `build_model` and `load_data`::

            import search

            study = search.run("space.py", study="quick", max_epochs=2, max_trials=2, seed=0, progress=False)
            study.best_params                   # the values of the best trial by name
            model, = study.get_best_models()    # trained, with the weights of its best epoch
    """
    parts = {"compile_model": compile_model, "fit_options": fit_options, "callbacks": callbacks, "fit": fit}
    with python_arguments(), lasting_output():
        search = functools.partial(
            launch.run_search,
            _source(space, data, parts),
            options,
            resume=resume,
            overwrite=overwrite,
            accept_changes=accept_changes,
            take_over=take_over,
        )
        return _search(search, progress)


def _search(search: Callable[..., Result], progress: bool) -> StudyResults:
    """Search, and tell the user how to go on if the search was stopped.

    Args:
        search: `run_search`, which lacks its outputs only.
    """
    notebook = in_notebook()
    make_view, say = _outputs(progress, notebook)
    try:
        result = search(rerun=notebook, make_view=make_view, say=say)
    except SearchStopped as error:
        _say_how_to_go_on(error.paths, notebook, say)
        raise
    if result.end.exit_code == 130:
        _say_how_to_go_on(result.paths, notebook, say)
    if notebook and progress and result.ran:
        say(f"ended: {result.end.reason}")
    _raise_unless_done(result)
    return StudyResults(result.paths, result.study)


def _raise_unless_done(result: Result) -> None:
    """Raise the exception for the end of a search, unless it has ended as it should."""
    end = result.end
    if end.exit_code == 2:
        raise SpaceError(end.reason)
    if end.exit_code == 130:
        raise KeyboardInterrupt(end.reason)
    if end.exit_code == UNFINISHED:
        raise Unfinished(f"{end.reason}: go on with resume=True")
    if end.exit_code == 1:
        raise NoResult(_describe_no_result(result)) if result.study.best is None else SearchError(end.reason)
    if result.shortfall:
        raise FallsShort(result.shortfall)


def _describe_no_result(result: Result) -> str:
    """Return why a search has ended, and why its last trial has no objective."""
    reason = result.end.reason
    errors = [trial.error for _, trial in sorted(result.study.trials.items()) if trial.error is not None]
    if not errors or errors[-1] in reason:
        return reason
    return f"{reason}, and no trial has an objective: the last one has none as {errors[-1]}"


def _say_how_to_go_on(paths: StudyPaths, notebook: bool, say: Callable[[str], None]) -> None:
    name, runs = paths.folder.name, paths.folder.parent
    elsewhere = "" if runs == Path("runs").absolute() else f", runs={str(runs)!r}"
    say(f"the results so far: study = search.load_study({name!r}{elsewhere})")
    say(f"go on with: search.run(…, resume=True){', or run the cell again' if notebook else ''}")


def _say(line: str) -> None:
    print(escape_controls(name_arguments(line)), file=sys.stderr)


def _source(space: object, data: Any, parts: dict[str, Any]) -> Source:
    hypermodel = not isinstance(space, type) and callable(getattr(space, "build", None))
    if callable(space) or hypermodel:
        if data is None:
            raise OptionError("search.run was given a factory and no data: pass data=((x, y), (x_val, y_val))")
        if hypermodel and parts["fit"] is not None:
            raise OptionError("search.run was given a hypermodel and fit: the hypermodel's own is used, leave fit out")
        factory = {"hypermodel": space} if hypermodel else {"build_model": space}
        return Source(parts={**parts, **factory, "data": data})
    if not isinstance(space, (str, Path)):
        raise OptionError(
            f"search.run was given {describe_type(space)}: give a space file's path, a function of hp, or a HyperModel"
        )
    if data is not None or any(part is not None for part in parts.values()):
        raise OptionError(f"search.run was given {space} and parts of a space: they belong into the file")
    return Source(path=Path(space))


class _MessageView:
    """A view that shows messages only."""

    def update(self, now: float) -> None:
        pass

    def say(self, line: str) -> None:
        _say(line)

    def name_slot(self, slot: int, label: str | None) -> None:
        pass

    def close(self) -> None:
        pass


class _ArgumentsView:
    """A view whose messages name arguments of Python's in place of flags."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.update = view.update
        self.name_slot = view.name_slot
        self.close = view.close

    def say(self, line: str) -> None:
        self._view.say(name_arguments(line))


def _outputs(progress: bool, notebook: bool) -> tuple[MakeView, Callable[[str], None]]:
    """Return the maker of the search's view, and the function that prints a line before and after it."""
    if progress and notebook:
        view = notebook_view()
        return view.attach, view.say
    return _view_maker(progress), _say


def _view_maker(progress: bool) -> MakeView:
    def make(study: Study, options: Options, labels: tuple[str, ...]) -> View:
        if not progress:
            return _MessageView()
        from rich.console import Console

        from search.display.live import make_view

        console = Console(stderr=True, highlight=False)
        return _ArgumentsView(make_view(study, options, labels, live=console.is_terminal, console=console))

    return make
