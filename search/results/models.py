"""Trained models, made from a trial's values and its weights.

The factory is called again with the trial's values, and the weights of the best epoch are loaded.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.errors import SpaceError
from search.space.domain import Value
from search.space.file import Space, SpaceRef, describe_error, without_arguments
from search.space.old_names import known_classes_kept
from search.study.study import Study
from search.study.versions import changed_versions

__all__ = ["SavedModel", "build_models", "describe_no_weights"]


@dataclass(frozen=True, slots=True)
class SavedModel:
    """A trial's model on disk.

    Attributes:
        params: the hyperparameters, by name.
        weights: the file of its weights.
        reference: the file with a batch and the model's outputs for it, if the search has stored one.
        seed: the training seed of the weights' execution.
        epoch: the epoch that the weights should be of.
    """

    trial: int
    params: Mapping[str, Value]
    weights: Path
    seed: int
    epoch: int | None
    reference: Path | None = None


def describe_no_weights(study: Study, folder: Path) -> str:
    """Return a line about a study without weights in `folder`, the folder of its trials."""
    if study.is_imported:
        return (
            f"study {study.name!r} was imported without code and weights: build a model with the values that "
            f"`search best {study.name}` prints"
        )
    return f"study {study.name!r} has no weights in {folder}: MLflow may have them"


def build_models(ref: SpaceRef, chosen: Sequence[SavedModel], versions: Mapping[str, str]) -> list[Any]:
    """Call the factory with each trial's values, and load its weights.

    The layers have the names that they had in training. A model whose own name this process has used gets another, so
    that several can be parts of one model.

    Args:
        versions: the libraries that the study ran with. A warning names those whose versions have changed.
    """
    _choose_keras(versions)
    from search.worker.keras_session import import_space, settings_of_a_worker

    if difference := _difference(versions):
        warnings.warn(difference, stacklevel=3)
    try:
        with without_arguments(ref), settings_of_a_worker(), known_classes_kept():
            space = import_space(ref)
            return [_build_one(space, item) for item in chosen]
    except (Exception, SystemExit) as error:
        path = Path(ref.path) if ref.path else None
        raise SpaceError(describe_error(error, path, elsewhere=ref.label)) from error


def _build_one(space: Space, item: SavedModel) -> Any:
    from search.worker.data.arrays import spec_from_json
    from search.worker.evaluate_best import rebuild_model
    from search.worker.keras_internals import give_unused_name, used_names
    from search.worker.keras_session import names_after, seeded
    from search.worker.rebuilt_check import check_reference

    used = used_names()
    with seeded(item.seed), names_after(space.names):
        model, weights = rebuild_model(space, item.params, item.weights, item.seed)
    give_unused_name(model, used)
    if weights.epoch != item.epoch:
        # Its process was killed between the epoch's end and the next checkpoint.
        warnings.warn(
            f"trial {item.trial}: the weights are of epoch {weights.epoch} ({weights.value:.4g}), the best was "
            f"{item.epoch}",
            stacklevel=_USERS_CALL,
        )
    difference = ""
    if item.reference is not None and weights.inputs is not None:
        difference = check_reference(item.reference, model, spec_from_json(weights.inputs))
    if difference:
        warnings.warn(f"trial {item.trial}: {difference}", stacklevel=_USERS_CALL)
    return model


_USERS_CALL = 5 if sys.version_info < (3, 12) else 4  # before Python 3.12 a comprehension has a frame of its own


def _choose_keras(versions: Mapping[str, str]) -> None:
    """Choose the study's Keras back end, if this process has not chosen one."""
    backend = versions.get("keras_backend")
    chosen = "keras" in sys.modules or "KERAS_BACKEND" in os.environ
    if backend and not chosen and importlib.util.find_spec(backend) is not None:
        os.environ["KERAS_BACKEND"] = backend


def _difference(versions: Mapping[str, str]) -> str:
    """Return the difference between this process's libraries and the study's, in words; "" if there is none."""
    from search.worker import probe

    now = probe.installed_versions()
    backend = now["keras_backend"]
    if versions.get("keras_backend", backend) != backend:
        return (
            f"the study ran with Keras on {versions['keras_backend']}, this process runs it on {backend}: the weights "
            "are the same, predictions may differ in their last digits"
        )
    computes = {name: versions[name] for name in ("keras", backend) if name in versions}
    changed = changed_versions(computes, now)
    return f"the study last ran with {changed}: predictions may differ" if changed else ""
