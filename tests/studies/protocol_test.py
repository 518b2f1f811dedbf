import inspect
import math

import pytest

from studies import protocol
from studies.protocol import Run
from studies.protocol import best_rate
from studies.protocol import final_records
from studies.protocol import grid_rate
from studies.protocol import rates_wanted
from studies.protocol import remaining_runs
from studies.records import Record


def record(arm, learning_rate, seed=0, validation_loss=1.0, test_loss=1.0):
    return Record(
        study="toy",
        arm=arm,
        learning_rate=learning_rate,
        seed=seed,
        validation_loss=validation_loss,
        test_loss=test_loss,
        score=0.5,
        cardinality=2.0,
        within_k=1.0,
        dead_experts=0,
        seconds=10.0,
        epochs=8,
        best_epoch=3,
    )


def test_grid_rate_steps_by_a_factor():
    steps = (-2, -1, 0, 1, 2)
    expected = [3.2e-4, 8e-4, 2e-3, 5e-3, 1.25e-2]
    assert [grid_rate(step) for step in steps] == pytest.approx(expected)


def test_rates_wanted_begins_with_the_first_steps():
    assert rates_wanted({}, (0, 1)) == [2e-3, 5e-3]
    assert rates_wanted({2e-3: 1.0}, (0, 1)) == [5e-3]


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ({2e-3: 1.0, 5e-3: 2.0}, [8e-4]),
        ({2e-3: 2.0, 5e-3: 1.0}, [1.25e-2]),
        ({8e-4: 2.0, 2e-3: 1.0, 5e-3: 2.0}, []),
        ({8e-4: 0.5, 2e-3: 1.0, 5e-3: 2.0}, [3.2e-4]),
        ({2e-3: 1.0, 5e-3: math.nan}, [8e-4]),
    ],
)
def test_rates_wanted_widens_until_the_best_lies_inside(losses, expected):
    assert rates_wanted(losses, (0, 1)) == pytest.approx(expected)


def test_rates_wanted_ends_where_nothing_can_be_learned():
    losses = {grid_rate(step): float(step) for step in range(-6, 2)}
    assert rates_wanted(losses, (0, 1)) == []


def test_best_rate_takes_nan_for_the_largest_loss():
    assert best_rate({1e-3: math.nan, 2e-3: 3.0, 5e-3: 2.0}) == 5e-3


def test_choice_ignores_test_losses_and_other_seeds():
    records = [
        record("a", 8e-4, validation_loss=2.0, test_loss=0.0),
        record("a", 2e-3, validation_loss=1.0, test_loss=9.0),
        record("a", 5e-3, validation_loss=2.0, test_loss=0.0),
        record("a", 5e-3, seed=1, validation_loss=0.1),
    ]
    assert remaining_runs(["a"], records, 2, (0, 1)) == [Run("a", 2e-3, 1)]
    assert final_records(records, (0, 1)) == {"a": records[1:2]}
    assert "test_loss" not in inspect.getsource(protocol)


def test_remaining_runs_choose_rates_first_then_seed_by_seed():
    done = [
        record(arm, rate, validation_loss=abs(rate - 2e-3))
        for arm in ("a", "b")
        for rate in (8e-4, 2e-3, 5e-3)
    ]
    assert remaining_runs(["a", "c", "b"], done, 3, (0,)) == [
        Run("c", 2e-3, 0),
        Run("a", 2e-3, 1),
        Run("b", 2e-3, 1),
        Run("a", 2e-3, 2),
        Run("b", 2e-3, 2),
    ]
