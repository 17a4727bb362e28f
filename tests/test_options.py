"""Tests of options: their sources, their values, and the messages about wrong ones."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from search import options
from search.display.python_messages import name_arguments, python_arguments
from search.driver.objective import objective_for_metrics
from search.errors import OptionError, nearest
from search.options import (
    FIELDS,
    Options,
    resolve_options,
)
from search.study.trial import Objective
from search.wording import format_bytes


def refusal(**given: Any) -> str:
    with pytest.raises(OptionError) as caught:
        resolve_options(given, {})
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_given_options_win_over_the_journal_and_the_journal_over_the_file() -> None:
    file = {"max_epochs": 5, "factor": 4, "seed": 1}
    before = {"max_epochs": 6, "factor": 5, "removed_long_ago": 1}
    resolved = resolve_options({"max_epochs": 7, "workers": None}, file, before)
    assert (resolved.max_epochs, resolved.factor, resolved.seed, resolved.iterations) == (7, 5, 1, 1)


def test_options_come_back_from_a_journal() -> None:
    given = resolve_options({"backend": "optuna", "timeout": "2h", "seed": 0, "gpus": "0,1", "target": 0.5})
    assert resolve_options({}, before=given.to_json()) == given
    assert given.seed == 0


@pytest.mark.parametrize("name", ["digits", "our best 1.0", "catalog.schema.model", "é", "x" * 200])
def test_names_for_a_registered_model_are_accepted(name: str) -> None:
    assert resolve_options({"register": name}).register == name


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"max_epoch": 3}, ["unknown option 'max_epoch'", "Did you mean 'max_epochs'"]),
        ({"zzzz": 3}, ["unknown option 'zzzz'", "search run --help"]),
        ({"backend": "hyperbnd"}, ["--backend 'hyperbnd'", "Did you mean 'hyperband'"]),
        ({"direction": "up"}, ["--direction 'up'", "min, max"]),
        ({"max_epochs": 0}, ["--max-epochs is 0", "at least 1"]),
        ({"max_epochs": 2.5}, ["--max-epochs is 2.5", "whole number"]),
        ({"max_epochs": "many"}, ["--max-epochs", "whole number"]),
        ({"max_epochs": True}, ["--max-epochs", "whole number"]),
        ({"max_epochs": 10**400}, ["--max-epochs"]),
        ({"factor": 1}, ["--factor is 1", "at least 2"]),
        ({"gpus_per_trial": 0}, ["--gpus-per-trial is 0", "more than 0"]),
        ({"target": float("nan")}, ["--target", "number"]),
        ({"seed": -1}, ["--seed is -1", "at least 0"]),
        ({"seed": 2**31}, ["--seed", "at most 2147483647"]),
        ({"timeout": "soon"}, ["--timeout is 'soon'", "1h30m"]),
        ({"timeout": 0}, ["--timeout is 0", "more than 0"]),
        ({"register": "a/b"}, ["--register 'a/b'", "without '/'"]),
        ({"register": " "}, ["--register ' '"]),
        ({"register": ""}, ["--register ''"]),
        ({"register": "x@champion"}, ["--register"]),
        ({"register": ".."}, ["--register"]),
        ({"fuse": "yes"}, ["fuse is 'yes'", "True or False"]),
        ({"pruner": "asha"}, ["--pruner goes with --backend optuna", "hyperband"]),
        ({"sampler": "tpe", "backend": "freeze-thaw"}, ["--sampler goes with --backend hyperband or asha or optuna"]),
        ({"iterations": 2, "backend": "freeze-thaw"}, ["--iterations goes with --backend hyperband"]),
        ({"backend": "asha", "pruner": "median"}, ["--pruner goes with --backend optuna", "asha"]),
        ({"backend": "asha", "iterations": 2}, ["--iterations goes with --backend hyperband"]),
        ({"backend": "optuna", "iterations": 2}, ["--iterations goes with --backend hyperband"]),
    ],
)
def test_wrong_options_are_refused_with_an_explanation(given: dict[str, Any], words: list[str]) -> None:
    message = refusal(**given)
    assert all(word in message for word in words), message


def test_an_unknown_option_of_the_file_is_located() -> None:
    with pytest.raises(OptionError, match=r"^space.py: .*'max_epoch'\. Did you mean 'max_epochs'"):
        resolve_options({}, {"max_epoch": 3}, where="space.py")


def test_an_unread_file_may_still_name_the_back_end() -> None:
    assert resolve_options({"pruner": "asha"}).pruner == "asha"
    assert resolve_options({"pruner": "asha"}, {"backend": "optuna"}).backend == "optuna"


def test_the_file_may_have_an_option_of_the_other_back_end() -> None:
    assert resolve_options({"backend": "optuna"}, {"iterations": 3}).backend == "optuna"
    assert resolve_options({}, {"iterations": 3}, before={"backend": "optuna"}).backend == "optuna"


def test_a_seed_makes_freeze_thaw_count_epochs() -> None:
    def of(**given: Any) -> dict[str, Any]:
        return resolve_options({"backend": "freeze-thaw", **given}).backend_options()

    assert "cost" not in of()
    assert of(seed=0)["cost"] == "epochs"
    assert of(seed=0, backend="freeze-thaw:cost=seconds")["cost"] == "seconds"
    assert "cost" not in of(seed=0, backend="hyperband")
    for first in (Options(backend="freeze-thaw"), Options(backend="freeze-thaw", seed=3)):
        assert resolve_options({}, {"seed": 4}, first.to_json()).backend_options() == first.backend_options()


@pytest.mark.parametrize(("text", "whole"), [("3", 3), ("3.0", 3), (3.0, 3), (" 12 ", 12)])
def test_numbers_may_be_text(text: Any, whole: int) -> None:
    value = resolve_options({"max_epochs": text}).max_epochs
    assert value == whole
    assert type(value) is int


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), (90, 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("1h30m", 5400), ("1d", 86400), ("1h 30min", 5400)],
)
def test_times_are_parsed(text: Any, expected: float) -> None:
    assert options.check_option("timeout", text) == expected


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("20GB", 2 * 10**10),
        ("1.5 GB", 15 * 10**8),
        ("2GiB", 2 * 2**30),
        ("500mb", 5 * 10**8),
        ("3k", 3000),
        ("7B", 7),
        (123, 123),
        (1e9, 10**9),
    ],
)
def test_sizes(text: Any, size: int) -> None:
    assert options.check_option("disk", text) == size


@pytest.mark.parametrize("text", ["", "x", "GB", "1.2.3GB", "-3", "5EB", "0", "0.1", 0, True, None, math.nan, math.inf])
def test_wrong_sizes(text: Any) -> None:
    with pytest.raises(OptionError, match=r"--disk is .*: (give a number of bytes, or a size|it must be more than 0)"):
        options.check_option("disk", text)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (999, "999B"), (999_499, "999kB"), (999_500, "1MB"), (21_345_678, "21.3MB"), (2 * 10**15, "2000TB")],
)
def test_sizes_in_messages(size: int, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize("text", ["", "s", "1w", "h1", "-3", "1h-3m", "1..5s", True, None, "nan", "inf", "0s"])
def test_wrong_times_are_refused(text: Any) -> None:
    with pytest.raises(OptionError, match="--timeout"):
        options.check_option("timeout", text)


@pytest.mark.parametrize("name", [name for name, f in FIELDS.items() if "low" in f.metadata])
def test_limits_are_enforced_and_named(name: str) -> None:
    low = FIELDS[name].metadata["low"]
    back_end = FIELDS[name].metadata.get("backend", "hyperband")
    if name == "timeout":
        return  # times have messages of their own
    message = refusal(**{name: low - 1, "backend": back_end})
    assert "at least" in message or "more than" in message
    if not FIELDS[name].metadata.get("above"):
        assert getattr(resolve_options({name: low, "backend": back_end}), name) == low


def test_every_default_is_a_valid_option() -> None:
    for name, field in FIELDS.items():
        if field.default is not None:
            assert options.check_option(name, field.default) == field.default
        assert field.metadata["help"]
    assert {field.name for field in dataclasses.fields(Options)} == set(FIELDS)


@pytest.mark.parametrize(
    ("given", "total"),
    [
        ({}, None),
        ({"max_total_epochs": 9}, 9),
        ({"backend": "freeze-thaw"}, 375),
        ({"backend": "freeze-thaw", "executions_per_trial": 3}, 1125),
        ({"backend": "asha"}, 375),
        ({"backend": "asha", "max_trials": 9}, None),
        ({"backend": "optuna"}, 375),
        ({"backend": "optuna", "max_epochs": 9}, 75),
        ({"backend": "optuna", "max_total_epochs": 9}, 9),
        ({"backend": "optuna", "max_trials": 9}, None),
        ({"backend": "optuna", "timeout": 9}, None),
        ({"backend": "optuna", "target": 9}, None),
    ],
)
def test_a_search_without_a_budget_takes_the_epochs_of_hyperband(given: dict[str, Any], total: int | None) -> None:
    assert resolve_options(given).total_epochs == total


# Objectives -----------------------------------------------------------------------------------------------------------

LOGS = ("accuracy", "loss", "val_accuracy", "val_loss")
DIRECTIONS = {"accuracy": "max", "loss": "min"}


def choose_objective(
    compiled: tuple[str, ...] = ("accuracy",), validated: bool = True, **given: Any
) -> tuple[str, str]:
    found = objective_for_metrics(resolve_options(given), LOGS, compiled, DIRECTIONS, validated=validated)
    return found.name, found.direction


def test_a_single_metric_is_the_objective_else_the_loss() -> None:
    assert choose_objective() == ("val_accuracy", "max")
    assert choose_objective(()) == ("val_loss", "min")
    assert choose_objective(("accuracy", "auc")) == ("val_loss", "min")
    assert choose_objective(("my_metric",)) == ("val_loss", "min")
    assert choose_objective(objective="loss") == ("loss", "min")
    assert choose_objective(objective="val_loss", direction="max") == ("val_loss", "max")


def test_a_part_of_the_loss_is_no_objective_unless_it_is_named() -> None:
    logs, directions = ("kl_loss", "loss", "val_kl_loss", "val_loss"), {"kl_loss": "min", "loss": "min"}

    def choose(**given: Any) -> Objective:
        return objective_for_metrics(resolve_options(given), logs, ("kl_loss",), directions, validated=True)

    assert choose() == Objective("val_loss", "min")
    assert choose(objective="val_kl_loss") == Objective("val_kl_loss", "min")
    logs = ("kl_loss", "val_kl_loss")  # the only loss that is logged
    assert choose() == Objective("val_kl_loss", "min")


def test_words_decide_for_a_name_that_no_metric_has() -> None:
    """A callback, or a `fit` of the user's own, may log it."""

    def choose(name: str, directions: dict[str, str] | None = None, **given: Any) -> str:
        given |= {"objective": name}
        logs = ("loss", "val_loss", *(directions or {}))
        return objective_for_metrics(
            resolve_options(given), logs, (), directions or {}, validated=True, extra=True
        ).direction

    assert choose("val_my_f1") == "max"
    assert choose("my_error") == "min"
    assert choose("my_error", direction="max") == "max"
    assert choose("error", {"error": "max"}) == "max"
    for name in ("val_score", "neg_error"):
        with pytest.raises(OptionError, match=rf"more or less of '{name}' is better is not known"):
            choose(name)


def test_wrong_objectives_are_refused() -> None:
    with pytest.raises(OptionError, match=r"'val_acuracy' is not among.*accuracy, loss.*Did you mean 'val_accuracy'"):
        choose_objective(objective="val_acuracy")
    with pytest.raises(OptionError, match=r"needs validation data"):
        choose_objective(validated=False)
    with pytest.raises(OptionError, match=r"'odd' is better is not known.*--direction"):
        objective_for_metrics(resolve_options({"objective": "odd"}), ("odd",), (), {}, validated=True)


def test_a_name_with_its_words_in_another_order_is_found() -> None:
    names = ("loss", "accuracy", "val_loss", "val_accuracy")
    assert nearest("accuracy_val", names) == " Did you mean 'val_accuracy'?"
    assert nearest("acuracy", names) == " Did you mean 'accuracy'?"
    assert nearest("f1", names) == ""


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("Give one with --objective", "Give one with objective=…"),
        ("--max-epochs is 0: it must be at least 1", "max_epochs is 0: it must be at least 1"),
        ("exists: go on with --resume, or give --study", "exists: go on with resume=True, or give study"),
        ("say --direction max or min", "say direction='max' or 'min'"),
        ("goes with --backend optuna, and", "goes with backend='optuna', and"),
        ("--no-fuse has autologging log them", "fuse=False has autologging log them"),
        ("--tensorboard needs the package", "tensorboard=True needs the package"),
        ("unknown option 'x'. See search run --help", "unknown option 'x'. See help(search.run)"),
        ("--json and a--b stay", "--json and a--b stay"),
    ],
)
def test_messages_for_python_name_arguments(line: str, named: str) -> None:
    assert name_arguments(line) == named


def test_an_inner_block_keeps_the_names_of_the_outer_one() -> None:
    with pytest.raises(OptionError) as caught, python_arguments({"study": "project_name"}), python_arguments():
        raise OptionError("give another with --study")
    assert str(caught.value) == "give another with project_name"


@pytest.mark.parametrize(
    ("line", "python"),
    [
        ("go on with: search resume digits", "go on with: search.run(…, resume=True)"),
        ("`search resume digits` goes on", "`search.run(…, resume=True)` goes on"),
        ("files are missing: search resume brings it", "files are missing: search.run(…, resume=True) brings it"),
        ("go on with search resume, on another cluster", "go on with search.run(…, resume=True), on another cluster"),
        ("see search trials a.b-2", "see search.load_study('a.b-2').trials"),
        ("1 failed: `search show d 12` says why", "1 failed: `search.load_study('d').trials[12]` says why"),
        ("the search resumes", "the search resumes"),
    ],
)
def test_commands_in_messages_become_calls(line: str, python: str) -> None:
    assert name_arguments(line) == python
