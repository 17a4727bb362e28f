"""The names that the author of a back end, an executor, a stop rule or a follower imports.

`docs/how-to/plugins.md` has examples. Nothing here imports a framework.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.backends.base import BackEnd as BackEnd
    from search.backends.base import ComputingBackEnd as ComputingBackEnd
    from search.backends.base import RankingBackEnd as RankingBackEnd
    from search.backends.base import draw_unexplored as draw_unexplored
    from search.backends.base import draw_uniformly as draw_uniformly
    from search.backends.base import running_best as running_best
    from search.backends.base import values_in_space as values_in_space
    from search.executors.base import Executor as Executor
    from search.executors.base import ExecutorSetup as ExecutorSetup
    from search.scheduler.stopping import CountingStopRule as CountingStopRule
    from search.scheduler.stopping import StopRule as StopRule
    from search.space.domain import Domain as Domain
    from search.space.domain import Parameter as Parameter
    from search.space.domain import Value as Value
    from search.study import records as records
    from search.study.journal import Entry as Entry
    from search.study.records import SearchEnded as SearchEnded
    from search.study.study import Study as Study
    from search.study.trial import Computation as Computation
    from search.study.trial import Decision as Decision
    from search.study.trial import Done as Done
    from search.study.trial import Draw as Draw
    from search.study.trial import Objective as Objective
    from search.study.trial import Suggestion as Suggestion
    from search.study.trial import Wait as Wait
    from search.study.trial import derive_seed as derive_seed
    from search.study.trials import Trial as Trial
    from search.tracking.followers import Follower as Follower
    from search.tracking.followers import FollowerSetup as FollowerSetup

# Each name is imported on first use: the registries below are needed by modules that these names come from.
_EXPORTS = {
    "BackEnd": "search.backends.base",
    "Computation": "search.study.trial",
    "ComputingBackEnd": "search.backends.base",
    "CountingStopRule": "search.scheduler.stopping",
    "Decision": "search.study.trial",
    "Domain": "search.space.domain",
    "Done": "search.study.trial",
    "Draw": "search.study.trial",
    "Entry": "search.study.journal",
    "Executor": "search.executors.base",
    "ExecutorSetup": "search.executors.base",
    "Follower": "search.tracking.followers",
    "FollowerSetup": "search.tracking.followers",
    "Objective": "search.study.trial",
    "Parameter": "search.space.domain",
    "RankingBackEnd": "search.backends.base",
    "SearchEnded": "search.study.records",
    "StopRule": "search.scheduler.stopping",
    "Study": "search.study.study",
    "Suggestion": "search.study.trial",
    "Trial": "search.study.trials",
    "Value": "search.space.domain",
    "Wait": "search.study.trial",
    "derive_seed": "search.study.trial",
    "draw_unexplored": "search.backends.base",
    "draw_uniformly": "search.backends.base",
    "records": "search.study.records",
    "running_best": "search.backends.base",
    "values_in_space": "search.backends.base",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'search.plugins' has no attribute {name!r}")
    import importlib

    module = importlib.import_module(_EXPORTS[name])
    return module if name == "records" else getattr(module, name)


def __dir__() -> list[str]:
    return __all__
