"""Options: where they come from, what they may be, and what is said where they may not."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from search import options
from search.errors import OptionError
from search.options import FIELDS, Options, choose_objective, resolve, seconds


def refused(**given: Any) -> str:
    with pytest.raises(OptionError) as caught:
        resolve(given, {})
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_what_is_said_wins_over_the_journal_and_that_over_the_file() -> None:
    file = {"max_epochs": 5, "factor": 4, "seed": 1}
    before = {"max_epochs": 6, "factor": 5, "removed_long_ago": 1}
    resolved = resolve({"max_epochs": 7, "workers": None}, file, before)
    assert (resolved.max_epochs, resolved.factor, resolved.seed, resolved.iterations) == (7, 5, 1, 1)


def test_options_come_back_from_a_journal() -> None:
    said = resolve({"backend": "optuna", "timeout": "2h", "seed": 0, "gpus": "0,1", "target": 0.5})
    assert resolve({}, before=said.to_json()) == said
    assert said.seed == 0


@pytest.mark.parametrize("name", ["digits", "our best 1.0", "catalog.schema.model", "é", "x" * 200])
def test_a_registered_models_name_is_taken_as_it_is(name: str) -> None:
    assert resolve({"register": name}).register == name


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
        ({"backend": "optuna", "iterations": 2}, ["--iterations goes with --backend hyperband"]),
    ],
)
def test_what_cannot_be_is_explained(given: dict[str, Any], words: list[str]) -> None:
    message = refused(**given)
    assert all(word in message for word in words), message


def test_an_unknown_option_of_the_file_says_where_it_is() -> None:
    with pytest.raises(OptionError, match=r"^space.py: .*'max_epoch'\. Did you mean 'max_epochs'"):
        resolve({}, {"max_epoch": 3}, where="space.py")


def test_while_the_file_is_not_known_it_may_yet_name_the_back_end() -> None:
    assert resolve({"pruner": "asha"}).pruner == "asha"
    assert resolve({"pruner": "asha"}, {"backend": "optuna"}).backend == "optuna"


def test_an_option_of_the_other_back_end_may_stand_in_the_file() -> None:
    assert resolve({"backend": "optuna"}, {"iterations": 3}).backend == "optuna"


@pytest.mark.parametrize(("text", "whole"), [("3", 3), ("3.0", 3), (3.0, 3), (" 12 ", 12)])
def test_numbers_may_be_text(text: Any, whole: int) -> None:
    value = resolve({"max_epochs": text}).max_epochs
    assert value == whole
    assert type(value) is int


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), (90, 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("1h30m", 5400), ("1d", 86400), ("1h 30min", 5400)],
)
def test_times(text: Any, expected: float) -> None:
    assert seconds(text, "--timeout") == expected


@pytest.mark.parametrize("text", ["", "s", "1w", "h1", "-3", "1h-3m", "1..5s", True, None, "nan", "inf", "0s"])
def test_times_that_are_none(text: Any) -> None:
    with pytest.raises(OptionError, match="--timeout"):
        seconds(text, "--timeout")


@pytest.mark.parametrize("name", [name for name, f in FIELDS.items() if "low" in f.metadata])
def test_limits_are_kept_and_told(name: str) -> None:
    low = FIELDS[name].metadata["low"]
    back_end = FIELDS[name].metadata.get("backend", "hyperband")
    if name == "timeout":
        return  # a time has its own words
    assert "at least" in (said := refused(**{name: low - 1, "backend": back_end})) or "more than" in said
    if not FIELDS[name].metadata.get("above"):
        assert getattr(resolve({name: low, "backend": back_end}), name) == low


def test_every_default_is_one_that_may_be_given() -> None:
    for name, field in FIELDS.items():
        if field.default is not None:
            assert options.check(name, field.default) == field.default
        assert field.metadata["help"]
    assert {field.name for field in dataclasses.fields(Options)} == set(FIELDS)


@pytest.mark.parametrize(
    ("given", "total"),
    [
        ({}, None),
        ({"max_total_epochs": 9}, 9),
        ({"backend": "optuna"}, 375),
        ({"backend": "optuna", "max_epochs": 9}, 75),
        ({"backend": "optuna", "max_total_epochs": 9}, 9),
        ({"backend": "optuna", "max_trials": 9}, None),
        ({"backend": "optuna", "timeout": 9}, None),
        ({"backend": "optuna", "target": 9}, None),
    ],
)
def test_a_search_without_a_budget_takes_what_hyperband_would(given: dict[str, Any], total: int | None) -> None:
    assert resolve(given).total_epochs == total


# Objectives -----------------------------------------------------------------------------------------------------------

LOGS = ("accuracy", "loss", "val_accuracy", "val_loss")
DIRECTIONS = {"accuracy": "max", "loss": "min"}


def chosen(compiled: tuple[str, ...] = ("accuracy",), validated: bool = True, **given: Any) -> tuple[str, str]:
    found = choose_objective(resolve(given), LOGS, compiled, DIRECTIONS, validated=validated)
    return found.name, found.direction


def test_the_one_metric_is_the_objective_else_the_loss() -> None:
    assert chosen() == ("val_accuracy", "max")
    assert chosen(()) == ("val_loss", "min")
    assert chosen(("accuracy", "auc")) == ("val_loss", "min")
    assert chosen(("my_metric",)) == ("val_loss", "min")
    assert chosen(objective="loss") == ("loss", "min")
    assert chosen(objective="val_loss", direction="max") == ("val_loss", "max")


def test_objectives_that_cannot_be() -> None:
    with pytest.raises(OptionError, match=r"'val_acuracy' is not among.*accuracy, loss.*Did you mean 'val_accuracy'"):
        chosen(objective="val_acuracy")
    with pytest.raises(OptionError, match=r"needs validation data"):
        chosen(validated=False)
    with pytest.raises(OptionError, match=r"'odd' is better is not known.*--direction"):
        choose_objective(resolve({"objective": "odd"}), ("odd",), (), {}, validated=True)
