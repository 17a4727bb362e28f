"""The difference between validation and test, and the part of it that chance explains."""

from __future__ import annotations

import math

import pytest
from report_studies import DATA, LR, begin, ten_trials, trained

from search.report.chance import compare_splits, count_samples, describe_difference, standard_error
from search.study import records as facts
from search.study.records import DataLoaded, Record
from search.study.study import Study


def fold(records: list[Record]) -> Study:
    study = Study()
    for second, record in enumerate(records):
        study.apply(record, float(second))
    return study


def test_the_standard_error_of_a_share() -> None:
    assert standard_error("accuracy", 0.9, 100) == pytest.approx(0.03)
    assert standard_error("val_sparse_categorical_accuracy", 0.5, 400) == pytest.approx(0.025)
    assert standard_error("accuracy", 1.0, 400) == 0
    for metric, value, samples in [("loss", 0.5, 100), ("accuracy", 0.9, None), ("accuracy", 1.2, 100)]:
        assert standard_error(metric, value, samples) is None


def test_a_winner_that_is_worse_on_the_test_data_than_chance_explains() -> None:
    study = fold(ten_trials(test=0.909))
    assert study.best is not None
    (pair,) = compare_splits(study, study.best)
    assert (pair.metric, pair.test) == ("accuracy", 0.909)
    assert pair.validation == pytest.approx(0.98)
    assert pair.allowed == pytest.approx(2 * math.sqrt(0.98 * 0.02 / 360 + 0.909 * 0.091 / 360))
    assert pair.beyond_chance is True
    text = describe_difference(pair, 10)
    assert "Validation 0.9800, test 0.9090" in text
    assert "chosen among 10 trials on 360 validation samples" in text
    assert "worse on the test data than chance explains: the difference is 0.071" in text


def test_a_difference_that_chance_explains() -> None:
    study = fold(ten_trials(test=0.97))
    assert study.best is not None
    (pair,) = compare_splits(study, study.best)
    assert pair.beyond_chance is False
    assert describe_difference(pair, 10).endswith("So they agree.")


def test_test_data_that_are_easier_than_chance_explains() -> None:
    study = fold([*begin(), *trained(0, [0.5], (LR, 0.01)), facts.Tested(0, 0, 1, {"accuracy": 0.9})])
    (pair,) = compare_splits(study, study.trials[0])
    assert pair.beyond_chance is True
    assert "easier than chance explains" in describe_difference(pair, 1)


def test_without_a_number_of_samples_nothing_is_claimed() -> None:
    records = [record for record in ten_trials() if record is not DATA]
    study = fold(records)
    assert study.best is not None
    (pair,) = compare_splits(study, study.best)
    assert pair.beyond_chance is None
    assert "No standard error is known for an unknown number of samples" in describe_difference(pair, 10)


@pytest.mark.parametrize(
    ("parts", "samples"),
    [
        ({"x": "float32[360,64] ab", "y": "int32[360] cd"}, 360),
        ({"x 0": "float32[360,64] ab", "x 1": "float32[360,2] ab", "y 0": "int32[360] cd"}, 360),
        ({"x": "sparse:float32[50,3] ab"}, 50),
        ({"batches": "12", "first x": "float32[32,64]", "first y": "int32[32] ab"}, 384),
        ({"batches": "endless", "first y": "int32[32] ab"}, None),
        ({"batches": "12"}, None),
        ({}, None),
    ],
)
def test_the_samples_of_a_split(parts: dict[str, str], samples: int | None) -> None:
    records = [*begin()[:-1], DataLoaded({}, {"validation": parts}), *trained(0, [0.5])]
    study = fold(records)
    assert count_samples(study, study.trials[0], "validation") == samples


def test_the_samples_of_data_that_depend_on_hyperparameters() -> None:
    data = [DataLoaded({"lr": size / 1000}, {"test": {"y": f"int32[{size}] ab"}}) for size in (10, 20)]
    study = fold([*begin()[:-1], *data, *trained(0, [0.5], (LR, 0.02)), *trained(1, [0.5], (LR, 0.03))])
    assert count_samples(study, study.trials[0], "test") == 20
    assert count_samples(study, study.trials[1], "test") is None
