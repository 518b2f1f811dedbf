from typing import Any

import numpy as np
import pytest

from keras_comet.datasets import Split
from keras_comet.datasets import synthetic_multitask


def _held_out_error(k: int, routed_as_task: int | None) -> float:
    """Relative error on task_1 of a mixture of linear experts.

    The experts are fitted with the true routing of a task, or without any.
    """
    data = synthetic_multitask(6000, num_experts=4, k=k)

    def inputs(split: Split) -> tuple[np.ndarray, np.ndarray]:
        known = ~np.isnan(split.labels["task_1"])
        x, y = split.features["x"][known], split.labels["task_1"][known]
        if routed_as_task is not None:
            experts = data.ground_truth["assignment"][routed_as_task]
            weights = np.zeros((len(x), 4))
            chosen = experts[split.features["group_id"][known]]
            np.put_along_axis(weights, chosen, 1 / k, axis=1)
            x = np.einsum("bn,bd->bnd", weights, x).reshape(len(x), -1)
        return x, y

    x, y = inputs(data.train)
    solution = np.linalg.lstsq(x, y, rcond=None)[0]
    x, y = inputs(data.test)
    return float(np.mean((x @ solution - y) ** 2) / np.var(y))


@pytest.mark.parametrize("k", [1, 2])
def test_synthetic_true_assignment_explains_the_labels(k: int) -> None:
    error = _held_out_error(k, routed_as_task=1)
    assert error < 0.25  # what is left is not linear
    assert _held_out_error(k, routed_as_task=0) > 1.5 * error
    assert _held_out_error(k, routed_as_task=None) > 1.5 * error


def test_synthetic_shapes_types_and_splits() -> None:
    data = synthetic_multitask(1005, num_tasks=3, num_features=5)
    sizes = [data.train.num_rows, data.validation.num_rows, data.test.num_rows]
    assert sizes == [805, 100, 100]
    assert data.train.features["x"].shape == (805, 5)
    assert data.train.features["x"].dtype == np.float32
    assert data.train.features["group_id"].dtype == np.int64
    assert list(data.train.labels) == ["task_0", "task_1", "task_2"]
    assert data.train.labels["task_2"].dtype == np.float32
    assert data.vocabularies["group_id"].tolist() == list(range(8))


def test_synthetic_labels_are_binary_then_partly_missing() -> None:
    labels = synthetic_multitask(5000, num_tasks=3).train.labels
    assert set(np.unique(labels["task_0"])) == {0.0, 1.0}
    for task in ("task_1", "task_2"):
        missing = np.isnan(labels[task])
        # Five standard deviations of a share of 0.2 of 4000 rows.
        assert missing.mean() == pytest.approx(0.2, abs=0.032)
        assert np.nanvar(labels[task]) == pytest.approx(1.0, abs=0.5)
    both = np.isnan(labels["task_1"]) & np.isnan(labels["task_2"])
    assert both.mean() == pytest.approx(0.04, abs=0.016)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_synthetic_assignment_is_distinct_and_balanced(k: int) -> None:
    data = synthetic_multitask(100, num_tasks=2, num_experts=5, k=k)
    assignment = data.ground_truth["assignment"]
    assert assignment.shape == (2, 10, k)
    assert all(len(set(experts)) == k for experts in assignment.reshape(-1, k))
    for task in assignment:
        assert np.bincount(task[:, 0]).tolist() == [2] * 5


def test_synthetic_same_seed_repeats_other_seed_differs() -> None:
    first, second = (synthetic_multitask(50, seed=3) for _ in range(2))
    other = synthetic_multitask(50, seed=4)
    for part in range(2):
        for name, array in first.train[part].items():
            np.testing.assert_array_equal(array, second.train[part][name])
            assert not np.array_equal(array, other.train[part][name])


def test_synthetic_more_rows_keep_the_assignment() -> None:
    few, many = synthetic_multitask(50), synthetic_multitask(500)
    np.testing.assert_array_equal(
        few.ground_truth["assignment"], many.ground_truth["assignment"]
    )


def test_synthetic_noise_has_the_given_deviation() -> None:
    silent, noisy = (
        synthetic_multitask(5000, num_tasks=2, noise=noise).train.labels
        for noise in (0.0, 0.5)
    )
    difference = noisy["task_1"] - silent["task_1"]
    assert np.nanstd(difference) == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_rows": 9}, "num_rows=9"),
        ({"num_tasks": 0}, "num_tasks=0"),
        ({"num_experts": 0}, "num_experts=0"),
        ({"num_features": 0}, "num_features=0"),
        ({"k": 0}, "k=0"),
        ({"k": 5}, "k=5, num_experts=4"),
        ({"noise": -0.1}, "noise=-0.1"),
        ({"noise": float("nan")}, "noise=nan"),
    ],
)
def test_synthetic_argument_out_of_range_raises(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        synthetic_multitask(**arguments)
