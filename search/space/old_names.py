"""Old module names, so that pickles of older versions can be read.

Studies and MLflow hold pickles of factories and data, which name modules of this package. A module that moves again
gets another line here; no line is ever removed.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from search.space import inherited

__all__ = ["MOVED", "Unpickler", "known_classes_kept"]

MOVED: Mapping[str, str] = {
    "search.backends": "search.backends.registry",
    "search.brackets": "search.backends.brackets",
    "search.budget": "search.scheduler.budget",
    "search.checks": "search.driver.checks",
    "search.cleaning": "search.driver.retention",
    "search.compiling": "search.space.compiled",
    "search.controller": "search.scheduler.controller",
    "search.devices": "search.devices.slots",
    "search.domain": "search.space.domain",
    "search.driver": "search.driver.loop",
    "search.events": "search.scheduler.events",
    "search.executors": "search.executors.selection",
    "search.export": "search.results.export",
    "search.failures": "search.scheduler.stopping",
    "search.formats": "search.study.formats",
    "search.given": "search.scheduler.initial",
    "search.harvest": "search.scheduler.final_evaluation",
    "search.homes": "search.scheduler.affinity",
    "search.journal": "search.study.journal",
    "search.launch": "search.driver.launch",
    "search.lock": "search.study.lock",
    "search.novelty": "search.scheduler.deduplication",
    "search.opening": "search.driver.study_handle",
    "search.paths": "search.study.paths",
    "search.patience": "search.scheduler.timeouts",
    "search.pickling": "search.space.pickling",
    "search.progress": "search.display.live",
    "search.python": "search.api",
    "search.records": "search.study.records",
    "search.results": "search.results.study_results",
    "search.scheduler.failure_limit": "search.scheduler.stopping",
    "search.slots": "search.scheduler.slot_pool",
    "search.space": "search.space.file",
    "search.study": "search.study.study",
    "search.tables": "search.display.tables",
    "search.tracking.admission": "search.tracking.mlflow.admission",
    "search.tracking.database": "search.tracking.mlflow.database",
    "search.tracking.files": "search.tracking.mlflow.files",
    "search.tracking.layout": "search.tracking.mlflow.layout",
    "search.tracking.loader": "search.tracking.mlflow.loader",
    "search.tracking.model": "search.tracking.mlflow.model",
    "search.tracking.position": "search.tracking.mlflow.position",
    "search.tracking.retrieve": "search.tracking.mlflow.retrieve",
    "search.tracking.shipper": "search.tracking.mlflow.shipper",
    "search.tracking.store": "search.tracking.mlflow.store",
    "search.tracking.syncer": "search.tracking.mlflow.syncer",
    "search.tracking.ui": "search.tracking.mlflow.ui",
    "search.tracking.view": "search.tracking.mlflow.view",
    "search.tracking.winner": "search.tracking.mlflow.winner",
    "search.trial": "search.study.trial",
    "search.tuners": "search.compat.keras_tuner",
    "search.warm_start": "search.driver.warm_start",
    "search.worker.data": "search.worker.data.arrays",
    "search.worker.distribution": "search.worker.runners.distribution",
    "search.worker.fit": "search.worker.runners.fit",
    "search.worker.freedom": "search.worker.runners.dynamic_sizes",
    "search.worker.fused": "search.worker.runners.fused",
    "search.worker.fused_jax": "search.worker.runners.jax.epochs",
    "search.worker.fused_tensorflow": "search.worker.runners.tensorflow.epochs",
    "search.worker.graphs": "search.worker.runners.graph_cache",
    "search.worker.harvest": "search.worker.evaluate_best",
    "search.worker.held": "search.worker.model_cache",
    "search.worker.own_fit": "search.worker.runners.own_fit",
    "search.worker.rewriting": "search.worker.runners.tensorflow.grappler",
    "search.worker.runner": "search.worker.runners.choose",
    "search.worker.session": "search.worker.keras_session",
    "search.worker.segment": "search.worker.user_code",
    "search.worker.shared": "search.worker.data.shared",
    "search.worker.shortage": "search.worker.failures",
    "search.worker.signature": "search.worker.runners.model_key",
    "search.worker.stand_ins": "search.worker.runners.tensorflow.placeholders",
    "search.worker.streams": "search.worker.data.streams",
    "search.worker.traced": "search.worker.runners.tensorflow.graph_files",
    "search.worker.training": "search.worker.user_code",
    "search.worker.updates": "search.worker.runners.tensorflow.optimizer_updates",
}
"""The present name of each module of an older version."""


_keeps_classes: ContextVar[bool] = ContextVar("_keeps_classes", default=False)


@contextmanager
def known_classes_kept() -> Iterator[None]:
    """Leave the user's classes as they are, within the context, if a pickle has them and this process knows them.

    The process of a script goes on after the unpickling. cloudpickle would give its classes other methods, with copies
    of the global names that they use.
    """
    token = _keeps_classes.set(True)
    try:
        yield
    finally:
        _keeps_classes.reset(token)


def _unless_known(set_state: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return cloudpickle's function that gives a class its attributes, for classes that have no methods yet."""

    def set_state_of_new(cls: Any, state: Any) -> Any:
        is_known = any(inspect.isfunction(value) for value in vars(cls).values())
        return cls if is_known else set_state(cls, state)

    return set_state_of_new


class Unpickler(pickle.Unpickler):
    """An unpickler that reads pickles of older versions, too, and finds the parts that this process has inherited."""

    def persistent_load(self, pid: Any) -> Any:
        """Return an inherited part; a `Missing` if this process lacks it."""
        return inherited.find(pid)

    def find_class(self, module: str, name: str) -> Any:
        """Return the object called `name` in `module`, or in the module that replaced it."""
        found = super().find_class(MOVED.get(module, module), name)
        sets_class = module == "cloudpickle.cloudpickle" and name == "_class_setstate"
        return _unless_known(found) if sets_class and _keeps_classes.get() else found
