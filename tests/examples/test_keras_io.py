"""Keras's own examples as spaces: each is searched, and its best model gives the objective that was logged.

Each file in `tests/keras_io` is one example, written as its user would, with small made-up data. It says itself what it
expects, in a module-level dict `EXPECTED`:

- special: what the example does that others do not.
- exports: "keras" if Keras can save its model whole; "weights" if only its weights; None if neither.
- reason: why it is not "keras".
- tolerance: how far a new evaluation may be from the logged objective, relative to it; 1e-5 by default. A validation
  that draws random numbers needs more. None: no evaluation gives the objective.
- kind: the kind of example that this one stands for; it is also searched with Optuna and without fused epochs.
- objective, direction: those of the search, if the default is not meant.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras_tuner
import kills
import pytest
from commands import Command
from places import KERAS_IO

import search
from search.results.study_results import StudyResults
from search.space.file import Space, SpaceRef, read_space
from search.study.paths import StudyPaths

HYPERBAND = ("--backend", "hyperband", "--factor", 2)
OPTUNA = ("--backend", "optuna", "--pruner", "median:n_startup_trials=1")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(autouse=True)
def policy_stays() -> Iterator[None]:
    """Set back the dtype policy for all models: an example may set it, and this process reads the examples' files."""
    import keras

    policy = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(policy)


def read_expected(path: Path) -> dict[str, Any]:
    """Return the dict `EXPECTED` of a space file without running the file."""
    for statement in ast.parse(path.read_text()).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "EXPECTED":
            found: dict[str, Any] = ast.literal_eval(statement.value)
            return found
    raise AssertionError(f"{path} has no EXPECTED")


EXAMPLES = {path.stem: read_expected(path) for path in sorted(KERAS_IO.glob("*.py"))}
KINDS = [name for name, expected in EXAMPLES.items() if "kind" in expected]


def search_example(command: Command, name: str, study: str, trials: int, *options: object) -> StudyResults:
    """Search an example with a number of trials, let none of them fail, and return the results."""
    expected = EXAMPLES[name]
    for option in ("objective", "direction"):
        options += (f"--{option}", expected[option]) if option in expected else ()
    outcome = command(
        *("run", KERAS_IO / f"{name}.py", "--study", study, "--max-epochs", 2, "--max-trials", trials),
        *("--backend", "hyperband", "--workers", 1, "--seed", 0, "--no-progress", *options),
    )
    assert outcome.code == 0, outcome.out[-3000:] + outcome.err[-3000:]
    results = StudyResults(StudyPaths.of("runs", study))
    failed = [trial.number for trial in results.trials if trial.state == "failed"]
    assert not failed, outcome.out[-3000:] + outcome.err[-3000:]
    assert results.study.best is not None
    return results


def validation_of(space: Space, values: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the validation data of a space, and the options that Keras evaluates them with."""
    hp = keras_tuner.HyperParameters()
    hp.values = dict(values)
    train, validation, *_ = space.load_data(hp) if space.data_takes_hp else space.load_data()
    options = space.fit_options(hp) if space.fit_options else {}
    if options.get("validation_split"):
        begin = math.floor(len(train[0]) * (1 - options["validation_split"]))
        validation = tuple(part[begin:] for part in train)
    evaluated = {"steps": options["validation_steps"]} if options.get("validation_steps") else {}
    if isinstance(validation, tuple):
        # The mean loss of a single output does not weigh batches by size, so the batch size counts.
        evaluated["batch_size"] = options.get("validation_batch_size") or options.get("batch_size") or 32
    return validation, evaluated


def evaluate_best(name: str, results: StudyResults) -> dict[str, float]:
    """Return the metrics of the best model on the validation data of its example."""
    best = results.study.best
    assert best is not None
    (model,) = search.get_best_models(results.name)
    space = read_space(SpaceRef(path=str(KERAS_IO / f"{name}.py")))
    validation, options = validation_of(space, best.params)
    given = validation if isinstance(validation, tuple) else (validation,)
    found: dict[str, float] = model.evaluate(*given, **options, return_dict=True, verbose=0)
    return found


@pytest.mark.usefixtures("workplace", "forked_checks")
@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_searched(example: str, command: Command) -> None:
    expected = EXAMPLES[example]
    results = search_example(command, example, example, 2, *HYPERBAND)
    assert any(len(trial.curve) == 2 for trial in results.trials)
    best = results.study.best
    assert best is not None
    assert best.objective is not None
    tolerance = expected.get("tolerance", 1e-5)
    if tolerance is None:
        search.get_best_models(example)
    else:
        found = float(evaluate_best(example, results)[results.study.objective.name.removeprefix("val_")])
        assert math.isclose(found, best.objective, rel_tol=tolerance, abs_tol=1e-6), (found, best.objective)
    check_exports(command, example, expected["exports"])


def check_exports(command: Command, study: str, exports: str | None) -> None:
    """Export the best model in the ways that Keras can, and let one line refuse the others."""
    for ending, possible in ((".keras", exports == "keras"), (".weights.h5", exports is not None)):
        outcome = command("export", study, "--to", f"model{ending}")
        assert outcome.code == (0 if possible else 2), (ending, outcome)
        assert Path(f"model{ending}").exists() == possible
        lines = [line for line in outcome.err.splitlines() if line.startswith("search: ")]
        assert len(lines) == (0 if possible else 1), outcome.err


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("name", KINDS)
def test_an_example_is_searched_with_optuna_and_without_fused_epochs(name: str, command: Command) -> None:
    fused = search_example(command, name, "fused", 2, *OPTUNA)
    plain = search_example(command, name, "plain", 2, *OPTUNA, "--no-fuse")
    kills.assert_same(kills.history(plain.study), kills.history(fused.study))
