"""The figures of a study, as methods of its results. `search.plots` makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from search.errors import OptionError
from search.study import journal
from search.study.paths import StudyPaths
from search.study.study import Study

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from search.plots.history import By
    from search.plots.importance import Importance

__all__ = ["Plots"]


class Plots:
    """The methods that return Plotly's figures. A notebook shows a figure that a cell ends with; `show()` opens a page.

    Each raises NoResult if the study has no data for the figure, and OptionError if Plotly is not installed.
    """

    paths: StudyPaths
    study: Study

    def plot_curves(self, metric: str | None = None) -> go.Figure:
        """Return the learning curves by epoch.

        Args:
            metric: a name of the epochs' logs, such as "val_loss"; by default the objective.

        Raises:
            NoResult: no epoch has the metric.
        """
        from search.plots.curves import plot_curves

        return plot_curves(self.study, metric)

    def plot_history(self, by: By = "epochs") -> go.Figure:
        """Return the best value over the search and the end of every trial.

        Args:
            by: the axis: "epochs" of all trials together, the default, or "time", of the search.

        Raises:
            NoResult: no trial has ended a segment yet.
            OptionError: `by` is another word.
        """
        from search.plots.attributes import noted_attributes
        from search.plots.history import plot_history

        noted = noted_attributes(journal.read(self.paths.journal)) if self.paths.journal.exists() else {}
        return plot_history(self.study, by, noted)

    def plot_parallel(self, branch: int = 0) -> go.Figure:
        """Return parallel coordinates of the hyperparameters and the objective.

        Args:
            branch: of a conditional space, the number of the branch, from 0, the default: that with the most trials is
                the first.

        Raises:
            NoResult: no trial has an objective, or no hyperparameter varies among those that have one.
            OptionError: there is no such branch.
        """
        from search.plots.parallel import plot_parallel

        figures = plot_parallel(self.study)
        if not 0 <= branch < len(figures):
            raise OptionError(f"branch {branch} of study {self.study.name!r} has no figure: there are {len(figures)}")
        return figures[branch]

    def plot_importance(self) -> go.Figure:
        """Return the importance of each hyperparameter, with the interval of 90 % of the bootstraps.

        See `importances` for the method.

        Raises:
            NoResult: as `importances`.
        """
        from search.plots.importance import plot_importance

        return plot_importance(self.study)

    def plot_slices(self) -> go.Figure:
        """Return the objective against each hyperparameter, the most important first.

        Raises:
            NoResult: no trial has an objective, or no hyperparameter varies among those that have one.
        """
        from search.plots.slices import plot_slices

        return plot_slices(self.study)

    def plot_interaction(self, names: Sequence[str] | None = None) -> go.Figure:
        """Return the trials by two hyperparameters; the colour is the objective.

        Args:
            names: of the two hyperparameters; by default the two most important.

        Raises:
            NoResult: no trial with an objective uses both, or one of them does not vary.
            OptionError: `names` are not two hyperparameters of the study.
        """
        from search.plots.interaction import plot_interaction

        return plot_interaction(self.study, names)

    def plot_timeline(self) -> go.Figure:
        """Return the segments of all trials by slot and time: which slot trained which trial when.

        Raises:
            NoResult: no segment has started yet.
        """
        from search.plots.timeline import plot_timeline

        return plot_timeline(self.study)

    def importances(self, bootstraps: int = 30) -> list[Importance]:
        """Return the importance of each hyperparameter that varies, with intervals; the highest first.

        The method is PED-ANOVA (Watanabe et al. 2023, arXiv:2304.10255): it compares the values of the best trials with
        those of all trials. Optuna computes it, in the form for conditional spaces (arXiv:2601.20800, algorithm 1).

        Args:
            bootstraps: how often the trials are drawn again, with replacement, for the intervals; with 0, `low` and
                `high` equal `value`.

        Raises:
            NoResult: fewer than four trials have an objective, or no hyperparameter varies among them.
        """
        from search.plots.importance import importances

        return importances(self.study, bootstraps)
