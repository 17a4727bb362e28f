"""Steps on JAX whose dynamic scalars are inputs, so that one compiled program serves all trials of equal shapes.

Keras puts a dropout's rate into a program as a constant, or a number that follows from the rate. To find the constants,
a step is traced twice: with the model's own scalars, and with *markers*, numbers that occur nowhere else. A constant
that differs between the traces must be a known form of a marker in one, and the same form of the model's own scalar in
the other. It becomes an input. All else must be the same in both traces, so no number stays in the program unseen.
Programs of a kind, which differ only in their shapes, are compared once in a process.

Keras meets plain floats in both traces. So it decides, and rounds, as it does for a program of the trial's own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from search.worker.capabilities import capability
from search.worker.runners.dynamic_sizes import DynamicScalar
from search.worker.runners.fused import NotDynamic

__all__ = ["LiftedStep", "NotLiftable", "ScalarInputs", "lifting"]

_FORMS: tuple[Callable[[float], float], ...] = (
    lambda number: number,
    lambda number: 1.0 - number,
    lambda number: -number,
    lambda number: math.sqrt(number / (1.0 - number)) if 0 <= number < 1 else math.nan,  # a GaussianDropout's deviation
)
"""The forms in which Keras puts a number into a program."""

_SCALAR = jax.ShapeDtypeStruct((), np.float32)

_Place = tuple[int, int]
"""An operand in a program: the numbers of its equation and of the operand there."""


class NotLiftable(NotDynamic):
    """A program depends on a scalar in a way that is not known here."""


@dataclass(frozen=True, slots=True)
class _Input:
    """An input of a program: a form of a scalar.

    Attributes:
        scalar, form: their indices.
        inverted: the input is one divided by the form. XLA multiplies by it where a program divides by a constant.
    """

    scalar: int
    form: int
    inverted: bool

    def value(self, number: float) -> np.float32:
        value = np.float32(_FORMS[self.form](number))
        return np.float32(1) / value if self.inverted else value


class ScalarInputs:
    """The inputs of a graph's programs for the dynamic scalars, in their order."""

    def __init__(self) -> None:
        self.inputs: list[_Input] = []
        self._is_complete = False

    def complete(self) -> None:
        """Take no further inputs, as compiled programs have these."""
        self._is_complete = True

    def index_of(self, one: _Input) -> int:
        """Return the index of an input, which is added if it is new."""
        if one not in self.inputs:
            if self._is_complete:
                raise NotLiftable("another batch size takes other forms of the scalars")
            self.inputs.append(one)
        return self.inputs.index(one)

    def values(self, scalars: Sequence[DynamicScalar]) -> tuple[Any, ...]:
        """Return the inputs for the scalars of a model, on the device."""
        return tuple(jax.device_put(one.value(scalars[one.scalar].value)) for one in self.inputs)


@dataclass(frozen=True, slots=True)
class _Program:
    """A traced step.

    Attributes:
        traced: a `ClosedJaxpr`.
        uses: the inputs that take the places of constants, by these places.
        outputs: the structure of the outputs.
    """

    traced: Any
    uses: dict[_Place, _Input]
    outputs: Any


class LiftedStep:
    """A step (state, scalars, batch) → (logs, state) with a model's dynamic scalars as inputs.

    Args:
        step: the model's step, a function (state, batch) → (logs, state).
        scalars: the model's dynamic scalars. If there are none, the step is the model's own.
        inputs: the inputs of the graph, to which the step adds.
    """

    def __init__(self, step: Any, scalars: Sequence[DynamicScalar], inputs: ScalarInputs) -> None:
        self._step = step
        self._scalars = scalars
        self._inputs = inputs
        self._programs: dict[Any, _Program] = {}

    def __call__(self, state: Any, scalars: tuple[Any, ...], batch: Any) -> Any:
        if not self._scalars:
            return self._step(state, batch)
        program = self._program(state, batch)
        uses = {place: self._inputs.index_of(one) for place, one in program.uses.items()}
        lifted = _lift(program, uses, len(scalars))
        return jax.tree.unflatten(program.outputs, lifted(jax.tree.leaves((state, batch)), scalars))

    def trace(self, state: Any, batch: Any) -> None:
        """Trace the step for arguments of these shapes and dtypes.

        Raises:
            NotLiftable: the program depends on a scalar in an unknown way.
        """
        if self._scalars:
            self._program(state, batch)

    def _program(self, state: Any, batch: Any) -> _Program:
        specs = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), (state, batch))
        leaves, structure = jax.tree.flatten(specs)
        key = structure, tuple((spec.shape, spec.dtype) for spec in leaves)
        if key not in self._programs:
            self._programs[key] = self._make_program(specs)
        return self._programs[key]

    def _make_program(self, specs: Any) -> _Program:
        own = [scalar.value for scalar in self._scalars]
        markers = _markers(own)
        traced, outputs = self._trace_with(markers, specs)
        uses = dict(_find_uses(traced, markers))
        owners = tuple((type(scalar.owner), scalar.name) for scalar in self._scalars)
        kind = hash((owners, *uses.items(), *_outline(traced, shapes=False)))
        if kind not in _compared:
            _check_uses(traced, self._trace_with(own, specs)[0], uses, own)
            _compared.add(kind)
        for one in uses.values():
            self._inputs.index_of(one)
        return _Program(traced, uses, jax.tree.structure(outputs))

    def _trace_with(self, numbers: Sequence[float], specs: Any) -> tuple[Any, Any]:
        with ExitStack() as restored:
            for scalar, number in zip(self._scalars, numbers, strict=True):
                restored.enter_context(scalar.replaced(number))
            # A function of its own, as JAX would remember the trace of the same one.
            trace = jax.make_jaxpr(lambda *arguments: self._step(*arguments), return_shape=True)
            traced, outputs = trace(*specs)
            return traced, outputs


def _markers(own: Sequence[float]) -> list[float]:
    """Return a number between 0.25 and 0.75 for each scalar. No form of it is one of another, or of the scalar."""
    count = len(own)
    for begin in itertools.count(1, count):
        markers = [0.25 + 0.5 * (number * 0.6180339887498949 % 1) for number in range(begin, begin + count)]
        bits = [_bits(np.float32(form(number))) for form in _FORMS for number in markers]
        changes = (form(one) != form(other) for form in _FORMS for one, other in zip(markers, own, strict=True))
        if len(set(bits)) == len(bits) and all(changes):
            return markers
    raise AssertionError("there are more numbers than scalars")


_compared: set[int] = set()
"""The kinds of programs whose traces were compared."""


# Programs as JAX traces them ------------------------------------------------------------------------------------------


def _find_uses(marked: Any, markers: Sequence[float]) -> Iterator[tuple[_Place, _Input]]:
    """Yield where a program takes forms of the markers, and as which inputs."""
    known = {
        _bits(np.float32(form(marker))): (scalar, index)
        for scalar, marker in enumerate(markers)
        for index, form in enumerate(_FORMS)
    }
    for at, equation in enumerate(marked.eqns):
        for operand, each in enumerate(equation.invars):
            constant = _constant(each)
            if constant in known:
                yield (at, operand), _Input(*known[constant], _divides(equation, operand))


def _check_uses(marked: Any, own: Any, uses: dict[_Place, _Input], numbers: Sequence[float]) -> None:
    """Check that a program with a model's own numbers differs from the marked one in `uses` alone, by these forms.

    Raises:
        NotLiftable: it does not.
    """
    if list(_outline(marked)) != list(_outline(own)):
        raise NotLiftable("the program's equations depend on a scalar")
    for at, (one, other) in enumerate(zip(marked.eqns, own.eqns, strict=True)):
        for operand, (marker, number) in enumerate(zip(one.invars, other.invars, strict=True)):
            use = uses.get((at, operand))
            expected = _constant(marker) if use is None else _bits(np.float32(_FORMS[use.form](numbers[use.scalar])))
            if _constant(number) != expected:
                raise NotLiftable(f"`{one.primitive}` takes a scalar in an unknown form")


def _divides(equation: Any, operand: int) -> bool:
    """Return whether an equation divides a variable by the operand of this number."""
    return equation.primitive.name == "div" and operand == 1 and not isinstance(equation.invars[0], core.Literal)


def _bits(value: Any) -> tuple[str, bytes]:
    return str(value.dtype), value.tobytes()


def _constant(operand: Any) -> tuple[str, bytes] | None:
    """Return dtype and bits of a constant; None for a variable."""
    return _bits(np.asarray(operand.val, operand.aval.dtype)) if isinstance(operand, core.Literal) else None


def _outline(traced: Any, *, shapes: bool = True) -> Iterator[Any]:
    """Yield all that tells programs apart, except the constants that their own equations take.

    Args:
        shapes: False if programs are of one kind however large their arrays are.
    """
    yield from (_bits(np.asarray(constant)) for constant in traced.consts)
    yield from map(_constant, traced.jaxpr.outvars)
    for equation in traced.eqns:
        yield from _outline_of(equation, shapes)


def _outline_of(equation: Any, shapes: bool) -> Iterator[Any]:
    yield equation.primitive.name
    for variable in (*equation.invars, *equation.outvars):
        yield str(variable.aval) if shapes else str(getattr(variable.aval, "dtype", ""))
    for name, parameter in equation.params.items():
        if isinstance(parameter, (bool, float, str)) or (shapes and isinstance(parameter, int)):
            yield name, parameter
        for inner in parameter if isinstance(parameter, (list, tuple)) else (parameter,):
            for each in getattr(inner, "eqns", ()):  # of a program within
                yield from map(_constant, each.invars)
                yield from _outline_of(each, shapes)


def _lift(
    program: _Program, uses: dict[_Place, int], count: int
) -> Callable[[Sequence[Any], Sequence[Any]], list[Any]]:
    """Return a program as a function of its arguments and of `count` inputs, of which `uses` has the indices."""
    variables = _trace(lambda *inputs: inputs, *[_SCALAR] * count).invars
    jaxpr = program.traced.jaxpr
    made_by = {variable: equation for equation in jaxpr.eqns for variable in equation.outvars}
    equations: list[Any] = []
    for at, equation in enumerate(jaxpr.eqns):
        operands = [variables[uses[at, n]] if (at, n) in uses else each for n, each in enumerate(equation.invars)]
        if any(program.uses[at, n].inverted for n in range(len(operands)) if (at, n) in uses):
            equations += _multiply(equation, operands, made_by)
        else:
            equations.append(equation.replace(invars=operands))
    # As constants the inputs need no names.
    lifted = jaxpr.replace(constvars=[*jaxpr.constvars, *variables], eqns=equations)

    def call(arguments: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        closed = core.ClosedJaxpr(lifted, [*program.traced.consts, *inputs])
        results: list[Any] = core.jaxpr_as_fun(closed)(*arguments)
        return results

    return call


def _multiply(division: Any, operands: Sequence[Any], made_by: dict[Any, Any]) -> Iterator[Any]:
    """Yield the equations for a division by an input: a multiplication by the reciprocal.

    A dropout's gradient is `select(mask, x, 0) / rate`. LLVM draws a constant factor into the selection, and an input
    it does not. Outside, it merges the product with a sum behind it, and last bits differ. So it is drawn in here.
    """
    dividend, factor = operands
    if (selection := made_by.get(dividend)) is not None and _selects_or_zero(selection, made_by):
        mask, *cases = selection.invars
        is_zero = [_is_zero(case, made_by) for case in cases]

        def select(mask: Any, no: Any, yes: Any, factor: Any) -> Any:
            return jax.lax.select_n(mask, no if is_zero[0] else no * factor, yes if is_zero[1] else yes * factor)

        drawn_in = _trace(select, mask.aval, *(case.aval for case in cases), _SCALAR)
        yield from _inline(drawn_in, [mask, *cases, factor], division.outvars)
    else:
        product = _trace(lambda x, factor: x * factor, dividend.aval, _SCALAR)
        yield from _inline(product, operands, division.outvars)


def _selects_or_zero(equation: Any, made_by: dict[Any, Any]) -> bool:
    return equation.primitive.name == "select_n" and [_is_zero(each, made_by) for each in equation.invars[1:]] in (
        [True, False],
        [False, True],
    )


def _is_zero(variable: Any, made_by: dict[Any, Any]) -> bool:
    maker = None if isinstance(variable, core.Literal) else made_by.get(variable)
    literal = None if maker is None or maker.primitive.name != "broadcast_in_dim" else maker.invars[0]
    return isinstance(literal, core.Literal) and literal.val == 0


def _trace(function: Any, *specs: Any) -> Any:
    return jax.make_jaxpr(function)(*specs).jaxpr


def _inline(jaxpr: Any, operands: Sequence[Any], results: Sequence[Any]) -> Iterator[Any]:
    """Yield a program's equations, with other variables for its arguments and results."""
    known = dict(zip((*jaxpr.invars, *jaxpr.outvars), (*operands, *results), strict=True))
    for equation in jaxpr.eqns:
        yield equation.replace(
            invars=[one if isinstance(one, core.Literal) else known.get(one, one) for one in equation.invars],
            outvars=[known.get(one, one) for one in equation.outvars],
        )


# Self-test ------------------------------------------------------------------------------------------------------------


class _Dropping:
    """A step that takes a rate as a dropout does."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, state: Any, batch: Any) -> Any:
        return None, [state[0] / (1.0 - self.rate) + jnp.sum(batch) * self.rate]


@capability(
    "numbers as inputs of programs",
    without="a dropout rate, a penalty and the like are compiled anew for each value",
    uses=(),
    packages=lambda: f"JAX {jax.__version__}",
    for_speed=True,
)
def lifting() -> bool:
    """Test whether a step with a rate of 0.9 serves a rate of 0.5."""
    inputs = ScalarInputs()
    step, other = _Dropping(0.9), _Dropping(0.5)
    lifted = LiftedStep(step, [DynamicScalar(step, "rate")], inputs)
    state, batch = [np.ones(3, np.float32)], np.ones(2, np.float32)
    lifted.trace(state, batch)
    scalars = inputs.values([DynamicScalar(other, "rate")])
    _, (result,) = jax.jit(lifted.__call__)(state, scalars, batch)
    return len(scalars) == 2 and bool((np.asarray(result) == 3.0).all())
