"""Tests of `benchmarks/regret.py`: scales, pools, the runs of methods, and the file of results."""

from __future__ import annotations

import gzip
import json
import math
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

sys.path.append(str(ROOT / "benchmarks"))

import regret
from regret_methods import Observation, run_method, split_methods
from regret_methods.ours import PoolBackEnd
from regret_methods.peer import Job, run_peer
from regret_problems import ProblemError, ProblemId, load_problem
from regret_problems.pools import RecordedPool, list_pools
from regret_problems.problem import Curve, Problem
from regret_problems.space import Choices, draw_config, only_active, walk_active
from regret_problems.synthetic import SYNTHETIC
from regret_results import Results, ResultsError, RunId, measure, summarise

from search.backends.base import BackEnd
from search.backends.registry import make_backend
from search.space.domain import Domain, Parameter, Value
from search.study.records import ParameterSet, Record, ResultTold, SegmentRequested
from search.study.trial import Objective

OURS_AND_PEERS = ["hyperband", "optuna:pruner=none", "optuna-study:pruner=median", "best-of:n=3"]


def write_pool(folder: Path, count: int = 12, **changes: Any) -> Path:
    """Write a pool of a define-by-run space, in which `units` has no condition, and return its file."""
    domains = {
        "layers": {"kind": "int", "low": 0, "high": 1, "step": 1, "sampling": "linear"},
        "units": {"kind": "int", "low": 1, "high": 1000, "step": None, "sampling": "log"},
        "kind": {"kind": "choice", "values": ["a", "b"], "ordered": False},
        "rate": {"kind": "float", "low": 0.0, "high": 1.0, "step": None, "sampling": "linear"},
    }
    trials = []
    for number in range(count):
        units = {"units": number + 1} if number % 2 else {}
        params = {"layers": number % 2, **units, "kind": "ab"[number % 3 == 0], "rate": number / count}
        accuracy = [0.1 * number, 0.1 * number + 0.05, 0.1 * number + 0.01]
        curves = {"val_accuracy": accuracy, "val_loss": [1 - value for value in accuracy]}
        trials.append({"params": params, "curves": curves, "seconds": 1.0})
    data = {
        "parameters": [{"name": name, "domain": domain} for name, domain in domains.items()],
        "objective": "val_accuracy",
        "direction": "max",
        "epochs": 3,
        "trials": trials,
        **changes,
    }
    path = folder / "tiny.json.gz"
    path.write_bytes(gzip.compress(json.dumps(data).encode()))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one pool."""
    made = tmp_path_factory.mktemp("pools")
    write_pool(made)
    return made


@pytest.fixture(scope="module")
def pool(folder: Path) -> Problem:
    return RecordedPool(str(folder), "tiny")


# Pools ----------------------------------------------------------------------------------------------------------------


def test_the_scale_of_a_pool_is_by_best_values_over_the_epochs(pool: Problem) -> None:
    assert pool.scale == (pytest.approx(1.15), pytest.approx(0.6))  # best values are .05, .15, …, 1.15
    assert pool.regret(1.15) == pytest.approx(0)
    assert pool.regret(0.6) == pytest.approx(1)


def test_a_pool_by_accuracy_counts_again_by_loss(folder: Path) -> None:
    assert list_pools(folder) == ["tiny", "tiny:val_loss"]
    by_loss = RecordedPool(str(folder), "tiny:val_loss")
    assert by_loss.objective == Objective("val_loss", "min")
    assert by_loss.scale == (pytest.approx(-0.15), pytest.approx(0.4))
    assert by_loss.regret(0.4) == pytest.approx(1)


def test_the_recorded_pools_are_four_problems_with_budgets_of_2_to_16_trainings() -> None:
    folder = ROOT / "benchmarks" / "data" / "recorded"
    names = list_pools(folder)
    assert names == ["digits", "digits:val_loss", "images", "text_cnn"]
    problems = [RecordedPool(str(folder), name) for name in names]
    assert [len(problem.configs or ()) for problem in problems] == [400, 400, 150, 300]
    assert {tuple(problem.budgets(1)) for problem in problems} == {(54, 108, 216, 432)}
    digits = {parameter.name: parameter.conditions for parameter in problems[0].parameters}
    assert [str(condition) for condition in digits["units_1"]] == ["layers in [2, 3]"]


def test_conditions_follow_from_the_trials(pool: Problem) -> None:
    conditions = {parameter.name: [str(each) for each in parameter.conditions] for parameter in pool.parameters}
    assert conditions == {"layers": [], "units": ["layers in [1]"], "kind": [], "rate": []}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": [{"params": {}}]}, "is no pool: KeyError: 'curves'"),
        ({"parameters": []}, "should be inactive"),
        ({"objective": "val_auc"}, "no trial has a value of val_auc"),
        ({"trials": []}, "no trial has a value of val_accuracy"),
    ],
)
def test_a_file_that_is_no_pool_is_named_in_one_line(tmp_path: Path, changes: Any, message: str) -> None:
    path = write_pool(tmp_path, **changes)
    with pytest.raises(ProblemError) as error:
        RecordedPool(str(tmp_path), "tiny")
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_the_nearest_trial_left_is_taken(pool: Problem) -> None:
    choices = Choices(pool)
    wanted = {"layers": 1, "units": 2, "kind": "a", "rate": 0.09}
    first, second = choices.nearest(wanted), choices.nearest(wanted)
    assert first == {"layers": 1, "units": 2, "kind": "a", "rate": 1 / 12}
    # An inactive parameter or another choice is as far as the whole range of a number.
    assert second == {"layers": 1, "units": 6, "kind": "a", "rate": 5 / 12}
    rest = [choices.draw(random.Random(0)) for _ in range(10)]
    assert not choices.left
    assert sorted(config["rate"] for config in [first, second, *rest]) == [number / 12 for number in range(12)]


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("method", [*OURS_AND_PEERS, "optuna:sampler=tpe:multivariate=True,pruner=none"])
def test_a_search_tries_each_trial_of_a_pool_once_and_sees_its_curve(pool: Problem, method: str, workers: int) -> None:
    seen = run_method(method, pool, 1, workers, 100)
    epochs = Counter((tuple(each.config.items()), each.epoch) for each in seen)
    assert set(epochs.values()) == {1}
    assert len({config for config, _ in epochs}) == 12  # the budget is larger than the pool
    for each in seen:
        assert each.value == pool.curve(each.config, 1).observed[each.epoch - 1]


@pytest.mark.parametrize("method", [*OURS_AND_PEERS, "best-of:n=2,epochs=1"])
def test_a_training_that_a_callback_ended_early_ends_there(tmp_path: Path, method: str) -> None:
    path = write_pool(tmp_path)
    data = json.loads(gzip.decompress(path.read_bytes()))
    for trial in data["trials"][::2]:
        trial["curves"]["val_accuracy"] = trial["curves"]["val_accuracy"][:1]
    path.write_bytes(gzip.compress(json.dumps(data).encode()))
    short = RecordedPool(str(tmp_path), "tiny")
    seen = run_method(method, short, 0, 2, 100)
    assert len({tuple(each.config.items()) for each in seen}) == 12
    for each in seen:
        assert each.value == short.curve(each.config, 0).observed[each.epoch - 1]


def test_a_missing_value_is_as_far_as_the_whole_range() -> None:
    domain = Domain("float", 0.0, 1.0)
    lone = Noisy()
    lone.parameters = tuple(Parameter(name, domain, 0.0, active) for name, active in (("x", ()), ("y", ())))
    lone.configs = [{"x": 0.0}, {"x": 0.9, "y": 0.0}, {"x": 0.0, "y": 0.99}]
    choices = Choices(lone)
    assert [choices.nearest({"x": 0.0, "y": 0.0}) for _ in range(3)] == [
        *({"x": 0.9, "y": 0.0}, {"x": 0.0, "y": 0.99}, {"x": 0.0})
    ]


def test_a_joint_draw_for_a_pool_is_that_of_a_search_without_one(pool: Problem) -> None:
    """The values of a joint draw belong together, though only the first one's record tells the back end of them."""
    options = {"sampler": "tpe:multivariate=True,n_startup_trials=2", "pruner": "none", "max_epochs": 3}

    def make() -> BackEnd:
        return make_backend("optuna", options, pool.objective, 0)

    plain, within = make(), make()
    assert pool.configs is not None
    plain_parameters = {each.name: Parameter(each.name, each.domain, each.default) for each in pool.parameters}
    for trial, config in enumerate(pool.configs[:6]):
        records: list[Record] = [SegmentRequested(trial, 0, 3, None, None, False, 0)]
        records += [ParameterSet(trial, plain_parameters[name], value) for name, value in config.items()]
        records.append(ResultTold(trial, 3, 0.1 * trial, "reached"))
        for record in records:
            plain.apply(record)
            within.apply(record)
    plain.apply(SegmentRequested(6, 0, 3, None, None, False, 0))
    within.apply(SegmentRequested(6, 0, 3, None, None, False, 0))
    drawn: dict[str, Value] = {}
    for parameter in walk_active(pool.parameters, drawn):
        asked = plain_parameters[parameter.name]
        draw = plain.suggest(6, asked)
        drawn[parameter.name] = draw.value
        plain.apply(ParameterSet(6, asked, draw.value, draw.attributes))
    assert PoolBackEnd(within, pool, 0, at_random=False).draw_whole(6) == drawn


def test_a_back_end_that_chooses_from_a_pool_gets_its_configurations(
    pool: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    from regret_methods import ours

    from search.backends.hyperband import Hyperband

    given = []

    class Choosing(Hyperband):
        def __init__(self, objective: Objective, seed: int, *, max_epochs: int = 27, pool: Any = None) -> None:
            super().__init__(objective, seed, max_epochs=max_epochs)
            given.append(pool)
            self._pool = list(pool)

        def suggest(self, trial: int, parameter: Parameter, explored: Any = ()) -> Any:
            from search.study.trial import Draw

            return Draw(self._pool[trial][parameter.name])

    monkeypatch.setattr(type(ours.BACKENDS), "find", lambda self, name: Choosing)
    seen = run_method("hyperband", pool, 0, 1, 9)
    assert given[0] == pool.configs
    assert seen[0].config == pool.configs[0]


# Runs -----------------------------------------------------------------------------------------------------------------


class Noisy(Problem):
    """A problem whose noise misleads: the true values fall as the observed ones rise."""

    name = "noisy"
    objective = Objective("val_loss", "min")
    max_epochs = 4
    parameters = (Parameter("x", Domain("float", 0.0, 1.0), 0.0),)
    trainings = (1, 2)

    def curve(self, config: Any, seed: int) -> Curve:
        return Curve([0.4, 0.2, math.nan, 0.3], [4.0, 3.0, 2.0, 1.0])

    def find_scale(self) -> tuple[float, float]:
        return 1.0, 5.0


def test_regret_is_of_the_true_value_of_the_best_observed_epoch() -> None:
    identity = RunId("noise", "noisy", "", "m", 0, 1, (0, 1, 3, 4))
    seen = [Observation(epoch, {"x": 0.0}, epoch, Noisy().curve({}, 0).observed[epoch - 1]) for epoch in (4, 3, 2, 1)]
    run = measure(identity, Noisy(), seen, 0.0)
    assert run.value == [None, 4.0, 3.0, 3.0]
    assert run.regret == [None, 0.75, 0.5, 0.5]
    assert (run.trials, run.epochs, run.test) == (1, 4, None)


class Scripted:
    """A peer that asks for three trainings of three epochs, and stops the second after its first one."""

    def __init__(self) -> None:
        self.asked = 0
        self.ended: list[tuple[int, int, bool]] = []

    def ask(self) -> Job | None:
        self.asked += 1
        return Job({"x": float(self.asked)}, 0, 4, self.asked) if self.asked <= 3 else None

    def tell(self, job: Job, epoch: int, value: float) -> bool:
        return bool(job.trial == 2)

    def end(self, job: Job, epoch: int, *, failed: bool) -> None:
        self.ended.append((job.trial, epoch, failed))


def test_virtual_workers_run_side_by_side_and_an_epoch_takes_a_second() -> None:
    peer = Scripted()
    seen = run_peer(lambda _: peer, Noisy(), 0, workers=2, horizon=100)
    assert [(each.time, each.config["x"], each.epoch) for each in seen] == [
        *((1, 1.0, 1), (1, 2.0, 1), (2, 1.0, 2), (2, 3.0, 1), (3, 1.0, 3), (3, 3.0, 2), (4, 3.0, 3))
    ]
    assert peer.ended == [(2, 1, False), (1, 3, True), (3, 3, True)]  # a value that is no number fails a trial
    assert [each.time for each in run_peer(lambda _: Scripted(), Noisy(), 0, workers=1, horizon=2)] == [1, 2]


@pytest.mark.parametrize("method", OURS_AND_PEERS)
def test_a_conditional_space_is_searched_until_the_horizon(method: str) -> None:
    problem = load_problem(ProblemId("conditional", "nested"))
    seen = run_method(method, problem, 3, 3, 30)
    times = Counter(each.time for each in seen)
    assert set(times) == set(range(1, 31))
    assert set(times.values()) == {3}
    for each in seen:
        assert only_active(problem.parameters, each.config) == each.config
        assert each.value == problem.curve(each.config, 3).observed[each.epoch - 1]


@pytest.mark.parametrize("method", OURS_AND_PEERS)
def test_domains_that_a_library_lacks_have_their_own_values(method: str) -> None:
    odd = Noisy()
    domains = [
        Domain("int", 8, 64, 2, "log"),
        Domain("float", 0.1, 1.0, None, "reverse_log"),
        Domain("choice", values=(1, "a", None)),
        Domain("choice", values=(1, 2, 4), ordered=True),
    ]
    odd.parameters = tuple(Parameter(f"x{n}", domain, domain.at(0.0)) for n, domain in enumerate(domains))
    seen = run_method(method, odd, 0, 1, 60)
    for each in seen:
        assert all(parameter.domain.contains(each.config[parameter.name]) for parameter in odd.parameters)
    assert len({each.config["x2"] for each in seen}) == 3


@pytest.mark.parametrize("name", SYNTHETIC)
def test_no_synthetic_configuration_is_better_than_the_best_known(name: str) -> None:
    problem = load_problem(ProblemId("synthetic", name))
    rng = random.Random(1)
    configs = [draw_config(problem.parameters, rng) for _ in range(200)]
    finals = [problem.curve(config, 0).true[-1] for config in configs]
    assert max(finals) <= problem.best


def test_early_ranks_mislead_on_crossing_curves_and_not_on_flat_ones() -> None:
    def agreement(name: str) -> float:
        problem = load_problem(ProblemId("synthetic", name))
        rng = random.Random(1)
        curves = [problem.curve(draw_config(problem.parameters, rng), 0).true for _ in range(200)]
        pairs = list(zip(curves[::2], curves[1::2], strict=True))
        return sum((a[1] < b[1]) == (a[-1] < b[-1]) for a, b in pairs) / len(pairs)

    assert agreement("flat-8d") == 1
    assert agreement("crossing-8d") < 0.8
    assert agreement("late-2d") < 0.8


# LCBench --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lcbench() -> Problem:
    pytest.importorskip("onnxruntime")
    return load_problem(ProblemId("lcbench", "1", str(ROOT / "benchmarks" / "data" / "lcbench")))


CONFIG = {
    "batch_size": 64,
    "learning_rate": 0.01,
    "momentum": 0.9,
    "weight_decay": 0.01,
    "num_layers": 3,
    "max_units": 256,
    "max_dropout": 0.2,
}


def test_noise_has_the_deviation_of_400_samples_and_repeats(lcbench: Problem) -> None:
    noisy = load_problem(ProblemId("noise", "1", str(ROOT / "benchmarks" / "data" / "lcbench")))
    true = lcbench.curve(CONFIG, 0).observed
    assert noisy.curve(CONFIG, 7) == noisy.curve(CONFIG, 7)
    deviations: list[float] = []
    for seed in range(60):
        curve = noisy.curve(CONFIG, seed)
        assert curve.true == true
        deviations += [
            (seen - value) / math.sqrt(value * (100 - value) / 400)
            for seen, value in zip(curve.observed, true, strict=True)
        ]
    assert math.sqrt(sum(each**2 for each in deviations) / len(deviations)) == pytest.approx(1, abs=0.05)


def test_lcbench_has_test_values_and_budgets_of_2_to_40_trainings(lcbench: Problem) -> None:
    assert lcbench.budgets(1) == [104, 260, 520, 1040, 2080]
    assert lcbench.budgets(16) == [13, 26, 52, 104]
    value = lcbench.test_value(CONFIG, 52)
    assert value is not None
    assert 0 < value < 1


@pytest.mark.slow
def test_the_scale_of_lcbench_is_that_of_50000_configurations(lcbench: Problem) -> None:
    assert lcbench.scale == (pytest.approx(97.277, abs=1e-3), pytest.approx(78.559, abs=1e-3))


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[RunId]:
    """Let the benchmark run its searches here, and return the list to which it adds them."""
    ran: list[RunId] = []

    def run_all(tasks: Sequence[regret.Task], jobs: int) -> Iterator[Any]:
        for task in tasks:
            ran.append(task[1])
            yield task, regret.run_task(task)

    monkeypatch.setattr(regret, "run_all", run_all)
    return ran


def test_a_table_has_a_row_a_method_and_an_interrupted_file_goes_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], in_this_process: list[RunId]
) -> None:
    file = tmp_path / "results.json"
    command = ["--problems", "pools", "--pools", str(folder), "--seeds", "0-1", "--json", str(file)]
    assert regret.main([*command, "--methods", "best-of:n=3"]) == 0
    assert len(in_this_process) == 4
    assert regret.main([*command, "--methods", "best-of:n=3,hyperband"]) == 0
    assert [run.method for run in in_this_process[4:]] == ["hyperband"] * 4
    whole = json.loads(file.read_text())
    printed = capsys.readouterr().out
    assert len(whole["runs"]) == 8
    assert [row["method"] for row in whole["summary"]] == ["best-of:n=3", "hyperband"]
    assert {"mean", "median", "error", "seconds"} <= whole["summary"][0].keys()
    assert printed.count("| hyperband ") == 1
    file.write_text(json.dumps({**whole, "runs": whole["runs"][:5]}))
    assert regret.main([*command, "--methods", "best-of:n=3,hyperband"]) == 0
    assert len(in_this_process) == 8 + 3
    again = json.loads(file.read_text())
    for run in (*whole["runs"], *again["runs"]):
        del run["seconds"]
    assert again["runs"] == whole["runs"]


def test_runs_of_other_versions_are_not_mixed(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    results = Results(file, {"optuna": "4"})
    results.add(measure(RunId("pools", "x", "", "m", 0, 1, (1,)), Noisy(), [], 0.0))
    assert len(Results(file, {"optuna": "4"}).runs) == 1
    with pytest.raises(ResultsError, match=r"has runs with optuna 4 \(now 5\): name another file"):
        Results(file, {"optuna": "5"})


def test_the_standard_error_is_over_seeds_of_the_mean_over_tasks() -> None:
    runs = []
    for task, regrets in {"a": (1.0, 3.0), "b": (5.0, 5.0)}.items():
        for seed, value in enumerate(regrets):
            seen = [Observation(1, {"x": 0.0}, 1, 0.0)]
            run = measure(RunId("pools", task, "", "m", seed, 1, (1,)), Noisy(), seen, 1.0)
            runs.append(replace(run, regret=[value]))
    (row,) = summarise(runs)
    assert row["mean"] == [3.5]
    assert row["median"] == [4.0]
    assert row["error"] == [pytest.approx(0.5)]  # the means of the seeds are 3 and 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "hyperbnd"], "'hyperbnd' is not known: use hyperband,"),
        (["--methods", "hyperband:sampler=x"], "--sampler 'x' is not known"),
        (["--methods", "best-of:n=0"], "whole numbers of at least 1"),
        (["--methods", "optuna-study:pruner=x"], "use none, median, hyperband, halving"),
        (["--tasks", "5-2"], "'5-2' is no number and no range"),
        (["--seeds", "a"], "'a' is no number and no range"),
        (["--workers", "0"], "no whole number of at least 1"),
        (["--budgets", "9,3"], "the smallest first"),
        (["--problems", "x"], "'x' is not known: use lcbench,"),
        (["--problems", "pools", "--pools", "/nowhere"], "has no pool"),
        (["--problems", "lcbench", "--data", "/nowhere"], "give the folder of model.onnx with --data"),
        (["--problems", "lcbench", "--tasks", "99"], "the surrogate has no such task"),
        (["--problems", "synthetic", "--json", __file__], "is no file of this benchmark"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "lcbench" in arguments:
        pytest.importorskip("onnxruntime")
    try:
        status: Any = regret.main(arguments)
    except SystemExit as exit:
        status = exit.code
    printed = capsys.readouterr()
    assert (status, printed.out) == (2, "")
    assert message in printed.err
    assert printed.err.count("\n") == 1


def test_the_arguments_of_a_method_may_have_commas() -> None:
    text = "hyperband:sampler=tpe:seed=1,factor=4,keras-tuner,optuna:pruner=median"
    assert list(split_methods(text)) == ["hyperband:sampler=tpe:seed=1,factor=4", "keras-tuner", "optuna:pruner=median"]


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.delenv("KERAS_BACKEND", raising=False)  # KerasTuner needs no TensorFlow for it
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    methods = "hyperband,optuna-study:pruner=median,keras-tuner"
    for file, jobs in zip(files, ("1", "2"), strict=True):
        command = ["--methods", methods, "--problems", "noise,conditional", "--tasks", "1", "--seeds", "0"]
        command += ["--budgets", "52,104", "--workers", "2", "--jobs", jobs, "--json", str(file)]
        assert regret.main(command) == 0
    one, two = [json.loads(file.read_text())["runs"] for file in files]
    for run in (*one, *two):
        del run["seconds"]
    assert len(one) == 3 * 2
    assert one == two
