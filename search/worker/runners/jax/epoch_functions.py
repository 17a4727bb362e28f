"""The compiled functions that run all batches of an epoch on JAX.

If the step may run within a loop, an epoch is one call: a `lax.scan` over its whole batches, then the last, smaller
batch. Else each batch is a call. Calls run ahead, as nothing is read before the epoch's end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from search.worker.data.arrays import Split
from search.worker.runners.fused import copy_to_device

__all__ = ["EpochFunction", "Scalars", "State", "Variables", "may_loop", "values_of"]

Variables = tuple[Sequence[Any], ...]
"""The variables of the model, of its optimizer if it is trained, and of its metrics: a sequence for each group."""
State = tuple[list[Any], ...]
"""The values of `Variables`."""
Scalars = tuple[Any, ...]
"""The numbers that are inputs of a program beside the variables: float32 arrays of shape ()."""

_MAX_COMPILERS = 4
"""Threads that compile, at most: as many as a trial has programs."""


@dataclass(frozen=True, slots=True)
class _Programs:
    """The programs of an epoch, which are being compiled.

    Attributes:
        epoch: runs all batches; None if each batch is a call.
        steps: run one batch, by its size.
    """

    epoch: Future[Any] | None
    steps: dict[int, Future[Any]]


class EpochFunction:
    """A function that runs all batches of an epoch.

    Args:
        step: the model's step, a function (state, scalars, batch) → (logs, state).
        own_logs: whether the step's logs count.
    """

    def __init__(self, step: Any, own_logs: bool) -> None:
        def run_step(state: State, scalars: Scalars, batch: Any) -> tuple[State, Any]:
            logs, state = step(state, scalars, batch)
            return state, logs if own_logs else None

        # A jitted function within another is traced once for all programs.
        traced_once = jax.jit(run_step)

        def run_one(state: State, scalars: Scalars, batch: Any) -> tuple[State, Any]:
            new: tuple[State, Any] = traced_once(state, scalars, batch)
            return new

        def run_all(state: State, scalars: Scalars, data: Any, batches: Any, rest: Any) -> tuple[State, Any]:
            def run_indices(state: State, indices: Any) -> tuple[State, Any]:
                return run_one(state, scalars, _take(data, indices))

            logs = None
            if len(batches):
                state, each = jax.lax.scan(run_indices, state, batches)
                logs = jax.tree.map(lambda values: values[-1], each)
            return run_indices(state, rest) if len(rest) else (state, logs)

        self._run_one = jax.jit(run_one, donate_argnums=0)
        self._run_all = jax.jit(run_all, donate_argnums=0)
        self._programs: dict[tuple[int, int], _Programs] = {}

    def prepare(self, variables: Variables, scalars: Scalars, split: Split, batch_size: int) -> None:
        """Trace in this thread, as Keras must, and begin to compile in others."""
        if (split.samples, batch_size) in self._programs:
            return
        state, data = values_of(variables), copy_to_device(split.step_data, jnp.asarray)
        batches, rest = _cut(np.arange(split.samples, dtype="int32"), batch_size)

        def trace(size: int) -> Any:
            return self._run_one.trace(state, scalars, _batch_spec(data, size))

        first = trace(min(batch_size, split.samples))
        if may_loop(first.jaxpr, len(jax.tree.leaves(state))):
            programs = _Programs(_compile(self._run_all.lower(state, scalars, data, batches, rest)), {})
        else:
            steps = {min(batch_size, split.samples): _compile(first.lower())}
            if len(rest) and len(batches):
                steps[len(rest)] = _compile(trace(len(rest)).lower())
            programs = _Programs(None, steps)
        self._programs[split.samples, batch_size] = programs

    def __call__(self, state: State, scalars: Scalars, data: Any, order: Any, batch_size: int) -> tuple[Any, State]:
        """Return the logs of the last step, or None if they do not count, and the variables' new values.

        Args:
            state: the variables' values. Their memory is given away.
            scalars: the program's other inputs, which stay.
            order: the order of the samples: indices, shape (samples,), int32.
        """
        programs, logs = self._programs[len(order), batch_size], None
        try:
            if programs.epoch is not None:
                state, logs = programs.epoch.result()(state, scalars, data, *_cut(order, batch_size))
                return logs, state
            for begin in range(0, len(order), batch_size):
                indices = order[begin : begin + batch_size]
                run_one = programs.steps[len(indices)].result()
                # A function that all models share takes the batch: within the step each model would compile it.
                state, logs = run_one(state, scalars, _take_compiled(data, indices))
        except Exception:
            # A GPU without memory for the program may have some when the trial is tried again.
            del self._programs[len(order), batch_size]
            raise
        return logs, state


def may_loop(step: Any, states: int) -> bool:
    """Return whether a step may run within a loop.

    On a processor XLA's convolutions are several times slower within a loop. A step that changes the shape or the type
    of a variable cannot be repeated.

    Args:
        step: the step's jaxpr. Its first inputs and its first outputs are the values of the variables.
        states: the number of these values.
    """
    before, after = ([(each.shape, each.dtype) for each in avals[:states]] for avals in (step.in_avals, step.out_avals))
    if before != after:
        return False
    return jax.default_backend() != "cpu" or "conv_general_dilated" not in _primitives(step.jaxpr)


def _primitives(jaxpr: Any) -> Iterator[str]:
    """Yield the names of a jaxpr's primitives, also of those in the functions that it calls."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(part, "jaxpr", part)  # of a closed one
                if hasattr(inner, "eqns"):
                    yield from _primitives(inner)


_compilers: list[ThreadPoolExecutor] = []
"""The pool of the threads that compile, once it is needed: after the fork."""


def _compile(lowered: Any) -> Future[Any]:
    """Begin to compile a program, on as many threads at once as the worker has cores. XLA holds no lock of Python's."""
    if not _compilers:
        cores = int(os.environ.get("PJRT_NPROC") or os.cpu_count() or 1)
        _compilers.append(ThreadPoolExecutor(min(cores, _MAX_COMPILERS), "compile"))
    return _compilers[0].submit(lowered.compile)


def _cut(order: Any, batch_size: int) -> tuple[Any, Any]:
    """Return the indices of whole batches, shape (batches, batch_size), and of the rest."""
    whole = len(order) - len(order) % batch_size
    return order[:whole].reshape(-1, batch_size), order[whole:]


def _batch_spec(data: Any, size: int) -> Any:
    return keras.tree.map_structure(lambda array: jax.ShapeDtypeStruct((size, *array.shape[1:]), array.dtype), data)


def _take(data: Any, indices: Any) -> Any:
    return keras.tree.map_structure(lambda array: array[indices], data)


_take_compiled = jax.jit(_take)


def values_of(variables: Variables) -> State:
    """Return the values of the variables."""
    return tuple([variable.value for variable in group] for group in variables)
