"""The private names of Keras that workers need on any back end, each behind a public name."""

from __future__ import annotations

import functools
import opcode
import sys
import types
from collections.abc import Iterator
from typing import Any

import keras
from keras.src.random import seed_generator

__all__ = ["assigned_names", "built_for", "flatten_layers", "learning_rate_of", "seed_unseeded_draws"]

_FRAMEWORKS = ("keras", "tensorflow", "torch")
_STORE_ATTR, _EXTENDED_ARG = opcode.opmap["STORE_ATTR"], opcode.opmap["EXTENDED_ARG"]


def flatten_layers(layer: Any) -> list[Any]:
    """Return a layer and all layers in it, an outer one before its inner ones."""
    layers: list[Any] = layer._flatten_layers()
    return layers


def built_for(optimizer: Any) -> list[Any]:
    """Return the variables that an optimizer was built for; none if it is not built."""
    return list(optimizer._trainable_variables)


def learning_rate_of(optimizer: Any) -> Any:
    """Return an optimizer's learning rate: a variable, a schedule or a function."""
    return optimizer._learning_rate


def seed_unseeded_draws(seed: int) -> None:
    """Set the state from which `keras.random` draws if it is given no seed."""
    seed_generator.global_seed_generator().state.assign([seed % 2**31, 0])


@functools.cache
def assigned_names(cls: type[Any]) -> frozenset[str]:
    """Return the attributes that Keras or its framework may assign to an object of `cls`.

    These are all names that the methods of the class's bases in these packages assign to, on any object.
    """
    bases = [base for base in cls.__mro__ if base.__module__.partition(".")[0] in _FRAMEWORKS]
    names = frozenset[str]().union(*map(_names_assigned_in, bases))
    if issubclass(cls, keras.Model):
        names |= {"history"}  # assigned by a callback
    torch = sys.modules.get("torch")
    if torch is not None and issubclass(cls, torch.nn.Module):
        names = names.union(vars(torch.nn.Module()))  # assigned by their names as strings
    return names


@functools.cache
def _names_assigned_in(cls: type[Any]) -> frozenset[str]:
    return frozenset(
        name for member in vars(cls).values() for code in _codes_of(member) for name in _stored_attributes(code)
    )


def _codes_of(member: Any) -> Iterator[types.CodeType]:
    """Yield the code of a function, also of a wrapped one, or of a property's functions."""
    functions: list[Any] = [member.fget, member.fset] if isinstance(member, property) else [member]
    for function in functions:
        function = getattr(function, "__func__", function)
        while hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        code = getattr(function, "__code__", None)
        if isinstance(code, types.CodeType):
            yield code


def _stored_attributes(code: types.CodeType) -> Iterator[str]:
    """Yield the names of attributes that a code assigns. `dis` would find them too, in ten times the time."""
    operations, arguments = code.co_code[::2], code.co_code[1::2]
    at = operations.find(_STORE_ATTR)
    while at >= 0:
        extended = arguments[at - 1] << 8 if at and operations[at - 1] == _EXTENDED_ARG else 0
        yield code.co_names[extended | arguments[at]]
        at = operations.find(_STORE_ATTR, at + 1)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _stored_attributes(constant)
