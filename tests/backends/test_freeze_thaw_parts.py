"""The parts of freeze-thaw, each against a plain computation of the same thing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from search.backends.freeze_thaw import gaussian_process
from search.backends.freeze_thaw.acquisition import log_expected_improvement, log_probability_of_improvement
from search.backends.freeze_thaw.coordinates import CHOICE_DISTANCE, Coordinates
from search.backends.freeze_thaw.cost import BASE, Costs
from search.backends.freeze_thaw.fitting import Fits
from search.backends.freeze_thaw.gaussian_process import Points, Posterior
from search.backends.freeze_thaw.memory import Known, Memory
from search.backends.freeze_thaw.observations import MAX_POINTS, Curve, Warp, choose_points, powers_of_two
from search.backends.freeze_thaw.structure import Structure
from search.backends.freeze_thaw.surrogate import NEW, observe
from search.space.domain import Condition, Domain, Parameter
from search.study.records import Computed
from search.study.trial import Objective

RATE = Parameter("rate", Domain("float", 1e-4, 1.0, None, "log"))
LAYERS = Parameter("layers", Domain("int", 1, 4))
KIND = Parameter("kind", Domain("choice", values=("a", "b", "c")))
FLAG = Parameter("flag", Domain("boolean", values=(True, False)))
GATE = Parameter("gate", Domain("float", 0.0, 1.0), conditions=(Condition("kind", ("b",)),))


# The Gaussian process -------------------------------------------------------------------------------------------------


def draw_points(count: int = 30, dimensions: int = 3, seed: int = 0) -> Points:
    rng = np.random.default_rng(seed)
    x = rng.random((8, dimensions))
    trial = rng.integers(0, 8, count)
    epoch = 2.0 ** rng.integers(0, 5, count)
    return Points(x[trial], trial, epoch, rng.normal(size=count), 0.1 * rng.random(count))


def draw_hyperparameters(groups: np.ndarray, seed: int = 1) -> np.ndarray:
    means, sds = gaussian_process._prior(groups)
    return means + 0.5 * sds * np.random.default_rng(seed).normal(size=len(means))


def covariance(a: tuple, b: tuple, h: gaussian_process.Hyperparameters) -> float:
    """Return the covariance of two noiseless values (x, trial, epoch), as the module's text has it."""
    (x, i, t), (y, j, s) = a, b
    r = math.sqrt(sum(((u - v) / length) ** 2 for u, v, length in zip(x, y, h.lengths, strict=True)))
    matern = (1 + math.sqrt(5) * r + 5 * r * r / 3) * math.exp(-math.sqrt(5) * r)

    def decay(total: float) -> float:
        return (h.beta / (total + h.beta)) ** h.alpha

    own = matern + h.b * (i == j)
    return own * (h.a1 + h.a2 * decay(t + s)) + 4 + 4 * decay(2 * t) * decay(2 * s)


def test_predictions_are_those_of_the_covariance_in_the_text() -> None:
    points, groups = draw_points(), np.array([0, 1, 1])
    h = gaussian_process.unpack(draw_hyperparameters(groups), groups)
    known = list(zip(points.x, points.trial, points.epoch, strict=True))
    asked = [(points.x[3], points.trial[3], 40.0), (np.array([0.2, 0.9, 0.4]), NEW, 7.0)]
    k = np.array([[covariance(a, b, h) for b in known] for a in known]) + np.diag(h.noise + points.noise)
    cross = np.array([[covariance(a, b, h) for b in known] for a in asked])
    own = np.array([covariance((x, 0, t), (x, 0 if i >= 0 else 1, t), h) for x, i, t in asked])
    mean, sd = Posterior(points, h).predict(
        np.array([x for x, _, _ in asked]), np.array([i for _, i, _ in asked]), np.array([t for _, _, t in asked])
    )
    assert mean == pytest.approx(cross @ np.linalg.solve(k, points.z))
    assert sd**2 == pytest.approx(own - np.diag(cross @ np.linalg.solve(k, cross.T)))


def test_the_gradient_is_that_of_the_value() -> None:
    points, groups = draw_points(), np.array([0, 1, 1])
    prior = gaussian_process._prior(groups)
    theta = draw_hyperparameters(groups)
    _, gradient = gaussian_process._objective(theta, points, groups, *prior)
    for index in range(len(theta)):
        step = np.zeros(len(theta))
        step[index] = 1e-5
        above, below = (gaussian_process._objective(theta + s, points, groups, *prior)[0] for s in (step, -step))
        assert gradient[index] == pytest.approx((above - below) / 2e-5, rel=1e-4, abs=1e-4)


def test_a_fit_finds_the_length_scale_of_a_parameter_that_matters() -> None:
    rng = np.random.default_rng(3)
    x = rng.random((60, 2))
    points = Points(x, np.arange(60), np.full(60, 8.0), np.sin(9 * x[:, 0]), np.zeros(60))
    groups = np.arange(2)
    h = gaussian_process.unpack(gaussian_process.fit(points, groups), groups)
    assert h.lengths[0] < 0.5 * h.lengths[1]


def test_equal_points_are_no_fault() -> None:
    points = Points(np.zeros((5, 1)), np.zeros(5, int), np.ones(5), np.zeros(5), np.zeros(5))
    theta = gaussian_process.fit(points, np.zeros(1, int))
    mean, sd = Posterior(points, gaussian_process.unpack(theta, np.zeros(1, int))).predict(
        np.zeros((1, 1)), np.array([NEW]), np.ones(1)
    )
    assert np.isfinite([mean[0], sd[0]]).all()


# Acquisition ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("u", [-8.0, -1.001, -0.999, 0.0, 3.0])
def test_the_expected_improvement_is_its_integral(u: float) -> None:
    mean, sd, threshold = 2.0 + u * 0.5, 0.5, 2.0
    integral, _ = quad(lambda z: (z - threshold) * norm.pdf(z, mean, sd), threshold, threshold + 20, epsabs=0)
    assert log_expected_improvement(np.array([mean]), np.array([sd]), threshold)[0] == pytest.approx(math.log(integral))


def test_the_expected_improvement_is_stable_far_away() -> None:
    # Computed with 60 digits.
    found = log_expected_improvement(np.array([-1e5, -1001.0, -999.0, -50.0]), np.ones(4), 0.0)
    assert found == pytest.approx([-5000000023.94479, -501015.23645108583, -499015.2324510965, -1258.744182868461])


def test_the_probability_of_improvement() -> None:
    found = log_probability_of_improvement(np.array([0.0, 1.0]), np.array([1.0, 2.0]), 1.0)
    assert found == pytest.approx([math.log(0.15865525393145707), math.log(0.5)])


# Coordinates ----------------------------------------------------------------------------------------------------------


def test_values_come_back_from_their_coordinates() -> None:
    coordinates = Coordinates([RATE, LAYERS, KIND, FLAG, GATE])
    values = {"rate": 0.01, "layers": 3, "kind": "b", "flag": False, GATE.key: 0.25}
    row = coordinates.row(values)
    assert row[0] == pytest.approx(0.5)
    assert coordinates.values(row) == pytest.approx(values)
    assert "flag" not in coordinates.values(coordinates.row({**values, "flag": 7}))
    assert np.isnan(coordinates.row({"rate": 0.01})).tolist() == [False, True, True, True, True]


def test_coordinates_of_finite_domains_are_snapped_to_the_middle_of_their_bins() -> None:
    coordinates = Coordinates([LAYERS, RATE])
    table = coordinates.snap(np.array([[0.3, 0.3], [-1.0, 2.0], [np.nan, 0.5]]))
    assert table == pytest.approx(np.array([[0.375, 0.3], [0.125, 1.0], [np.nan, 0.5]]), nan_ok=True)


def test_values_of_a_choice_are_equally_far_apart_and_a_lacking_parameter_adds_nothing() -> None:
    coordinates = Coordinates([KIND, GATE])
    rows = [{"kind": kind} for kind in "abc"] + [{"kind": "b", GATE.key: 0.9}]
    encoded = coordinates.encode(np.array([coordinates.row(row) for row in rows]))
    distances = [np.linalg.norm(encoded[i] - encoded[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert distances == pytest.approx([CHOICE_DISTANCE] * 3)
    assert np.linalg.norm(encoded[1] - encoded[3]) == pytest.approx(0.4)
    assert coordinates.groups.tolist() == [0, 0, 0, 1]


def test_a_range_that_grows_keeps_its_values() -> None:
    coordinates = Coordinates([Parameter("units", Domain("int", 1, 10))])
    version = coordinates.version
    coordinates.note(Parameter("units", Domain("int", 1, 100)))
    assert coordinates.version > version
    assert coordinates.values(coordinates.row({"units": 70})) == {"units": 70}
    coordinates.note(Parameter("units", Domain("int", 5, 6)))
    assert coordinates.values(coordinates.row({"units": 70})) == {"units": 70}


# Structure ------------------------------------------------------------------------------------------------------------


def test_conditions_are_obeyed_before_any_trial() -> None:
    coordinates = Coordinates([KIND, GATE])
    table = Structure(coordinates).restrict(np.array([[1 / 6, 0.5], [0.5, 0.5], [5 / 6, 0.5]]))
    assert np.isnan(table[:, 1]).tolist() == [True, False, True]


@pytest.mark.parametrize(
    "asks", [lambda kind, layers: kind == "b", lambda kind, layers: layers > 2, lambda kind, layers: kind != "c"]
)
def test_undeclared_conditions_are_learned_from_trials(asks) -> None:
    extra = Parameter("extra", Domain("float", 0.0, 1.0))
    coordinates = Coordinates([RATE, KIND, LAYERS, extra])
    structure = Structure(coordinates)
    rng = np.random.default_rng(0)
    rows: list[np.ndarray] = []
    for _ in range(25):
        values = {"rate": 10 ** rng.uniform(-4, 0), "kind": "abc"[rng.integers(3)], "layers": int(rng.integers(1, 5))}
        if asks(values["kind"], values["layers"]):
            values["extra"] = rng.random()
        rows.append(coordinates.row(values))
        structure.learn(lambda: rows, rows[-1])
    table = structure.restrict(coordinates.snap(rng.random((200, 4))))
    for row in table:
        values = coordinates.values(row)
        assert ("extra" in values) == asks(values["kind"], values["layers"])


# Observations ---------------------------------------------------------------------------------------------------------


def curve_of(*values: float) -> Curve:
    curve = Curve()
    for epoch, value in enumerate(values, 1):
        curve.note(0, epoch, value)
    return curve


def test_a_curve_is_the_mean_of_the_executions() -> None:
    curve = curve_of(0.5, math.nan, 0.75)
    assert curve.best == 0.75
    assert curve.note(1, 1, 1.0)
    assert curve.note(1, 3, 0.25)
    assert not curve.note(1, 3, 9.0)
    assert curve.values == pytest.approx([0.75, math.nan, 0.5], nan_ok=True)
    assert curve.best == 0.75
    assert curve.last(2) == 0.75
    assert curve_of(0.5, 0.25, 1.0).best_until(2) == 0.5


def test_a_curve_is_observed_at_powers_of_two_and_at_its_end() -> None:
    epochs = powers_of_two(27)
    assert epochs == (1, 2, 4, 8, 16, 27)
    assert curve_of(*range(1, 7)).observed(epochs) == [1, 2, 4, 6]
    assert curve_of(1, 2, 3, math.nan).observed(epochs) == [1, 2]
    assert curve_of().observed(epochs) == []


def test_beyond_the_most_points_the_best_trials_are_seen_whole() -> None:
    curves = [curve_of(*(number + epoch / 100 for epoch in range(16))) for number in range(100)]
    places, epochs = choose_points(curves, powers_of_two(27), np.random.default_rng(0))
    assert len(places) == MAX_POINTS
    for place in range(70, 100):
        assert sorted(epochs[places == place]) == [1, 2, 4, 8, 16]
    assert len(set(places.tolist())) > 60


def test_the_warp_has_no_unit_and_spreads_the_best() -> None:
    curves = [curve_of(value) for value in (0.1, 0.5, 0.8, 0.89, 0.9)]
    values = np.array([0.1, 0.5, 0.8, 0.89, 0.9])
    z = Warp.of(curves, values)(values)
    scaled = [curve_of(1e9 * value - 7e8) for value in values]
    assert Warp.of(scaled, 1e9 * values - 7e8)(1e9 * values - 7e8) == pytest.approx(z)
    assert z.mean() == pytest.approx(0)
    assert z.std() == pytest.approx(1)
    assert (z[4] - z[2]) > (z[2] - z[0])
    assert Warp.of(curves, values).threshold == pytest.approx(z[4])


def test_equal_values_are_no_fault_of_the_warp() -> None:
    warp = Warp.of([curve_of(1.0), curve_of(1.0)], np.ones(2))
    assert np.isfinite(warp(np.ones(2))).all()


# Memory, costs and fits -----------------------------------------------------------------------------------------------


def memory_of(*trials: Known) -> Memory:
    memory = Memory(Objective("val_loss", "min"), [RATE], 27)
    memory.trials.extend(trials)
    return memory


def trained(rate: float, seconds: float, *, epochs: int = 3, **others) -> Known:
    known = Known(0, {"rate": rate}, built=True, **others)
    for epoch in range(1, epochs + 1):
        known.curve.note(0, epoch, -rate)
        known.note_seconds(seconds)
    return known


def test_a_failed_trial_is_seen_as_the_worst_at_the_end() -> None:
    failed = Known(1, {"rate": 0.5}, built=True)
    failed.curve.failed = True
    observed = observe(memory_of(trained(0.1, 1.0), trained(0.2, 1.0), failed), 27, np.random.default_rng(0))
    assert observed is not None
    place = observed.points.trial.tolist().index(2)
    assert observed.points.epoch[place] == 27
    assert observed.points.z[place] == observed.points.z.min()


def test_costs_are_seconds_of_what_is_left() -> None:
    fast, slow = trained(1e-4, 1.0), trained(1.0, 4.0)
    memory = memory_of(*[trained(1e-4 * 10 ** (4 * i / 9), 4 ** (i / 9)) for i in range(10)], fast, slow)
    costs = Costs(memory, 27, by_seconds=True)
    table = memory.table([10, 11])
    by_place = costs.of(table, [10, 11]) - BASE
    assert by_place[1] / by_place[0] == pytest.approx(4.0)
    new = costs.of(table, [NEW, NEW]) - BASE
    assert 2.0 < new[1] / new[0] < 4.0
    assert Costs(memory, 27, by_seconds=False).of(table, [10, NEW]).tolist() == [24 + BASE, 27 + BASE]


def test_a_dropped_checkpoint_and_a_model_to_build_cost_time() -> None:
    trial = trained(0.1, 2.0, build_seconds=10.0, weight_count=10**7)
    memory = memory_of(trial, trained(0.1, 2.0))
    trial.used_at = memory.segments = 100
    memory.segments += 1
    assert Costs(memory, 27, by_seconds=True).of(memory.table([0]), [0])[0] == 24 + BASE
    memory.segments += 100
    # It takes 10 s to build the model, and 0.6 s to read 120 MB.
    assert Costs(memory, 27, by_seconds=True).of(memory.table([0]), [0])[0] == pytest.approx(24 + 5.3 + BASE)
    trial.saved = False
    assert Costs(memory, 27, by_seconds=True).of(memory.table([0]), [0])[0] == 27 + 5 + BASE


def test_a_fit_is_made_when_there_are_enough_new_points() -> None:
    fits = Fits()
    memory = memory_of(*[trained(rate, 1.0) for rate in (0.1, 0.2, 0.4)])

    def look():
        return observe(memory, 27, np.random.default_rng(0))

    fits.note(3, look)
    assert fits.due is None
    fits.note(9, look)
    assert fits.due is not None
    assert fits.due.number == 0
    result = fits.due.run()
    assert result["lengths"].keys() == {"rate"}
    assert len(result["others"]) == 6
    fits.apply(Computed(0, result))
    assert fits.hyperparameters == result
    fits.note(10, look)
    assert fits.due is None
    fits.note(11, look)
    assert fits.due is not None
    fits.apply(Computed(1, {}, "it failed"))
    assert fits.hyperparameters == result
