"""The variables of an optimizer by what they are for, so that another optimizer of the class can take them over.

A slot is a variable of an optimizer's that belongs to one of the model's variables, such as Adam's `momentum`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from search.worker import keras_internals
from search.worker.plain_values import Array

__all__ = ["describe_optimizer", "matching_slots", "weight_places"]


def weight_places(model: Any) -> dict[int, int]:
    """Return the place of each weight among the model's weights, by its `id`."""
    return {id(variable): place for place, variable in enumerate(model.weights)}


def describe_optimizer(optimizer: Any, places: Mapping[int, int]) -> dict[str, Any]:
    """Return an optimizer's class, and of each of its variables the variable that it belongs to and its name, as JSON.

    Args:
        optimizer: a built one.
        places: those of `weight_places`.
    """
    return {"class": _class_name(optimizer), "slots": _describe_slots(optimizer, places)}


def matching_slots(
    optimizer: Any, places: Mapping[int, int], described: Mapping[str, Any], arrays: Sequence[Array]
) -> list[tuple[Any, Array]]:
    """Return the variables of an optimizer for which another one has a value, each with that value.

    Learning rates are left out. If the optimizers' classes differ, there are none.

    Args:
        optimizer: a built one.
        places: those of the model that it belongs to.
        described: the other one, as `describe_optimizer` has described it.
        arrays: the values of the other one's variables.
    """
    if described["class"] != _class_name(optimizer):
        return []
    known = dict(zip(_numbered(described["slots"]), arrays, strict=True))
    rates = {id(keras_internals.learning_rate_of(each)) for each in _with_inner(optimizer)}
    own = zip(_numbered(_describe_slots(optimizer, places)), optimizer.variables, strict=True)
    return [(variable, known[key]) for key, variable in own if key in known and id(variable) not in rates]


def _with_inner(optimizer: Any) -> Iterator[Any]:
    """Yield an optimizer and those that it wraps, as that of mixed precision does."""
    while optimizer is not None:
        yield optimizer
        optimizer = getattr(optimizer, "inner_optimizer", None)


def _class_name(optimizer: Any) -> str:
    return "/".join(type(each).__name__ for each in _with_inner(optimizer))


def _describe_slots(optimizer: Any, places: Mapping[int, int]) -> list[list[Any]]:
    owners: dict[str, int | str] = {}
    for each in _with_inner(optimizer):
        for variable in keras_internals.built_for(each) or ():
            path = str(getattr(variable, "path", getattr(variable, "name", "")))
            owners[f"{path.replace('/', '_')}_"] = places.get(id(variable), path)
    return [_describe_slot(str(getattr(variable, "name", "")), owners) for variable in optimizer.variables]


def _describe_slot(name: str, owners: Mapping[str, int | str]) -> list[Any]:
    """Return (owner, name) of a variable. Keras's names of slots begin with the path of the variable they belong to."""
    cuts = (place for place in range(len(name), 0, -1) if name[place - 1] == "_")
    cut = next((place for place in cuts if name[:place] in owners), 0)
    return [owners.get(name[:cut]), name[cut:]]


def _numbered(slots: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
    """Return the slots as keys, of which no two are the same."""
    seen: Counter[tuple[Any, ...]] = Counter()
    keys = []
    for slot in map(tuple, slots):
        keys.append((*slot, seen[slot]))
        seen[slot] += 1
    return keys
