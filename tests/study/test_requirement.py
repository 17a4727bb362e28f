"""Requirements of `--require`, and the user's tags."""

from __future__ import annotations

from typing import Any

import pytest
from by_hand import SEARCH_ENDED, completed_trial, evaluated, study_start

from search.errors import OptionError
from search.options import resolve_options
from search.study.requirement import check_metrics, describe_shortfall, parse_requirement
from search.study.study import Study
from search.study.tags import split_tags


@pytest.fixture(scope="module")
def study() -> Study:
    """Return a study whose best trial has 0.7 at its second epoch, with loss 1/2, and 0.65 on the test data."""
    found = Study()
    records = [*study_start(), *completed_trial(0, [0.5, 0.7, 0.6]), evaluated(0, 2, {"accuracy": 0.65}), SEARCH_ENDED]
    for time, record in enumerate(records):
        found.apply(record, float(time))
    return found


@pytest.mark.parametrize(
    "text",
    [
        "val_accuracy>=.7", "val_accuracy <= 0.7", "val_accuracy==0.7", "val_accuracy>0.69", "objective<0.71",
        "loss==0.5", "test_accuracy>.6", " test_accuracy  > 6e-1 ",
    ],
)  # fmt: skip
def test_a_requirement_is_fulfilled_by_the_best_epoch_of_the_best_trial(study: Study, text: str) -> None:
    assert describe_shortfall([text], study) == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("val_accuracy>.7", "the best trial, 0, has val_accuracy 0.7, and --require is val_accuracy>.7"),
        ("val_accuracy>=.9", "has val_accuracy 0.7"),
        ("loss<0.5", "has loss 0.5"),
        ("test_accuracy==.7", "has test_accuracy 0.65"),
        ("test_loss<1", "has no 'test_loss'; it has val_accuracy, loss, test_accuracy"),
    ],
)
def test_a_shortfall_is_one_line(study: Study, text: str, words: str) -> None:
    line = describe_shortfall(["loss<=1", text], study)
    assert words in line
    assert "\n" not in line


@pytest.mark.parametrize("text", ["val_accuracy", "val_accuracy=>.9", ">=.9", "a>=b", "a>=nan", "a>=inf", "", "a>=1>2"])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="in quotes"):
        parse_requirement(text)


@pytest.mark.parametrize("value", [0.9, ["loss<1", 2], True])
def test_other_types_are_refused(value: Any) -> None:
    with pytest.raises(OptionError, match="in quotes"):
        resolve_options({"require": value})


def test_an_unknown_metric_is_named_before_the_search() -> None:
    known = [parse_requirement(text) for text in ("objective>1", "val_f1>1", "loss>1", "test_loss>1")]
    check_metrics(known, ["loss"], ["loss"], "val_f1")
    with pytest.raises(OptionError, match="Did you mean 'loss'"):
        check_metrics([parse_requirement("los>1")], ["loss"], [], "loss")


def test_requirements_hold_for_one_process_and_tags_for_the_study() -> None:
    opts = resolve_options({"require": "loss<1", "tag": ["a=1", "b=2=3", "a=4"]})
    assert opts.require == ("loss<1",)
    assert split_tags(opts.tag) == {"a": "4", "b": "2=3"}
    assert resolve_options({"tag": {"team": "x"}}).tag == ("team=x",)
    assert resolve_options({"tag": ["none"]}, before=opts.to_json()).tag == ()
    assert resolve_options({}, before=opts.to_json()).tag == opts.tag


@pytest.mark.parametrize(
    "tag", ["a", "=1", "mlflow.user=me", "search.study=x", "Search.x=1", "a$=1", "/a=1", "../a=1", 5]
)
def test_tags_that_mlflow_refuses_or_that_are_taken_are_refused(tag: Any) -> None:
    with pytest.raises(OptionError, match="--tag"):
        resolve_options({"tag": [tag]})
