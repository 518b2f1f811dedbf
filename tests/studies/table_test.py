import dataclasses

import pytest

from studies.table import mean_and_error
from studies.table import seconds_to_best
from studies.table import to_markdown
from tests.studies.protocol_test import record


def test_mean_and_error_by_hand():
    # Deviations -1, 0, 1: variance 1, error 1 / sqrt(3).
    assert mean_and_error([1.0, 2.0, 3.0]) == "2.0000 ± 0.5774"
    assert mean_and_error([0.25]) == "0.2500"
    assert mean_and_error([0.25], sign="+") == "+0.2500"
    assert mean_and_error([]) == ""


def test_seconds_to_best_are_a_part_of_all():
    assert seconds_to_best(record("a", 1e-3)) == pytest.approx(3.75)


def test_table_by_hand():
    one = [
        record("one", 2e-3, seed, validation_loss=0.5, test_loss=loss)
        for seed, loss in enumerate((0.2, 0.4))
    ]
    gated = [
        dataclasses.replace(each, arm="top_k", learning_rate=8e-4)
        for each in one
    ]
    gated = [
        dataclasses.replace(
            each,
            validation_loss=0.4,
            test_loss=each.test_loss - 0.1 * (1 + each.seed),
        )
        for each in gated
    ]
    lines = to_markdown({"one": one, "top_k": gated}, "AUC").splitlines()
    assert lines[0].split(" | ")[6] == "AUC"
    # Test losses 0.1 and 0.2, differences -0.1 and -0.2.
    assert lines[2] == (
        "| top_k | 0.0008 | 2 | 0.4000 ± 0.0000 | 0.1500 ± 0.0500 "
        "| -0.1500 ± 0.0500 | 0.5000 ± 0.0000 | 2.00 | 1.000 | 0.0 | 3.0 "
        "| 4 |"
    )
    assert lines[3].startswith("| one | 0.002 | 2 | 0.5000 ± 0.0000 | 0.3000")
    assert "agreement" not in lines[0]


def test_table_shows_agreement_where_it_is_known():
    found = dataclasses.replace(record("a", 1e-3), agreement=0.75)
    lines = to_markdown({"a": [found]}, "AUC").splitlines()
    assert lines[0].endswith("| agreement |")
    assert lines[2].endswith("| 0.7500 |")
