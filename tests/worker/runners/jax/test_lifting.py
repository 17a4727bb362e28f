"""Constants of a traced step that become inputs of its program."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from search.worker.runners.dynamic_sizes import DynamicScalar
from search.worker.runners.jax.lifting import LiftedStep, NotLiftable, ScalarInputs, lifting

X = np.random.default_rng(0).normal(size=1000).astype("float32")
VALUES = (0.1, 1 / 3, 0.999)


class Step:
    """A step with two numbers, which `compute` uses."""

    def __init__(self, compute: Any, rate: float = 0.3, factor: float = 0.3) -> None:
        self.compute, self.rate, self.factor = compute, rate, factor

    @property
    def scalars(self) -> list[DynamicScalar]:
        return [DynamicScalar(self, "rate"), DynamicScalar(self, "factor")]

    def __call__(self, state: Any, batch: Any) -> Any:
        return None, [self.compute(self, state[0], batch)]


def lift(step: Step, size: int = 1000) -> tuple[LiftedStep, ScalarInputs]:
    inputs = ScalarInputs()
    lifted = LiftedStep(step, step.scalars, inputs)
    lifted.trace([X], X[:size])
    inputs.complete()
    return lifted, inputs


FORMS = {
    "itself": lambda step, x, y: x * step.rate + y * step.factor,
    "the rest to one": lambda step, x, y: x * (1.0 - step.rate) + y,
    "a quotient": lambda step, x, y: x / (1.0 - step.rate) + y,
    "a power": lambda step, x, y: x * step.rate ** jnp.sum(y > 0),
    "bounds": lambda step, x, y: jnp.clip(x, -step.rate, step.rate) + y,
    "a deviation": lambda step, x, y: x * np.sqrt(step.rate / (1.0 - step.rate)).item() + y,
    "an argument of a function": lambda step, x, y: jax.nn.leaky_relu(x, step.rate) + y,
    "a derivative": lambda step, x, y: jax.grad(lambda z: step.factor * jnp.sum(z * z))(x) + y,
    "a bound to draw below": lambda step, x, y: jax.random.bernoulli(jax.random.key(0), 1.0 - step.rate, x.shape) * y,
}


@pytest.mark.parametrize("form", FORMS)
def test_one_program_gives_the_bits_of_each_numbers_own(form: str) -> None:
    lifted, inputs = lift(Step(FORMS[form]))
    program = jax.jit(lifted.__call__).lower([X], inputs.values(Step(FORMS[form]).scalars), X).compile()
    for rate, factor in zip(VALUES, reversed(VALUES), strict=True):
        step = Step(FORMS[form], rate, factor)
        _, (own,) = jax.jit(step.__call__)([X], X)
        _, (shared,) = program([X], inputs.values(step.scalars), X)
        np.testing.assert_array_equal(np.asarray(shared).view("u4"), np.asarray(own).view("u4"))


UNKNOWN = {
    "takes a scalar in an unknown form": lambda step, x, y: x * step.rate**2 + y,
    "equations depend": lambda step, x, y: jax.lax.cond(x[0] > 0, lambda: x * step.rate, lambda: x),
    "`mul` takes a scalar": lambda step, x, y: x.astype("bfloat16") * step.rate,
    "equations depend on a scalar": lambda step, x, y: x * np.full(1000, step.rate, "float32"),
    "the program's equations": lambda step, x, y: x * y if step.rate < 0.2 else x + y,
    "the program's equations depend": lambda step, x, y: jnp.roll(x, int(100 * step.rate)),
}


@pytest.mark.parametrize("reason", UNKNOWN)
def test_a_number_that_stays_in_the_program_unseen_is_refused(reason: str) -> None:
    with pytest.raises(NotLiftable, match=reason):
        lift(Step(UNKNOWN[reason], rate=0.1))


def test_a_number_that_no_program_takes_is_no_input() -> None:
    lifted, inputs = lift(Step(lambda step, x, y: x + y))
    assert inputs.inputs == []
    _, (result,) = jax.jit(lifted.__call__)([X], (), X)
    np.testing.assert_array_equal(result, X + X)


def test_equal_numbers_are_told_apart() -> None:
    lifted, inputs = lift(Step(lambda step, x, y: x * step.rate - y * step.factor, rate=0.5, factor=0.5))
    other = Step(None, rate=0.25, factor=2.0)
    _, (result,) = jax.jit(lifted.__call__)([X], inputs.values(other.scalars), X)
    np.testing.assert_array_equal(result, X * np.float32(0.25) - X * np.float32(2.0))


def test_the_step_is_left_as_it_was() -> None:
    step = Step(FORMS["itself"], 0.1, 0.2)
    lift(step)
    assert (step.rate, step.factor) == (0.1, 0.2)


def test_another_size_of_batch_may_take_no_other_form() -> None:
    lifted, _ = lift(Step(lambda step, x, y: x * (step.rate if len(y) == 1000 else 1.0 - step.rate)))
    lifted.trace([X], X)
    with pytest.raises(NotLiftable, match="another batch size"):
        lifted.trace([X], X[:10])


def test_the_self_test_passes() -> None:
    lifting.forget()
    assert lifting.works
