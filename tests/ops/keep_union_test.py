import numpy as np
import pytest
import tensorflow as tf

from keras_comet.ops import keep_union
from tests.helpers import gradients


def reference(weights, cap):
    """One row at a time; weights `(tasks, rows, n)`."""
    kept = weights.copy()
    num_tasks, num_rows, n = weights.shape
    for row in range(num_rows):
        given = weights[:, row]
        if np.count_nonzero(given.any(axis=0)) <= cap:
            continue
        total = given.sum(axis=0)
        experts = sorted(range(n), key=lambda e: (-total[e], e))[:cap]
        mean = np.zeros(n)
        for task in range(num_tasks):
            mean[experts] += given[task, experts] / num_tasks
        for task in range(num_tasks):
            own = np.zeros(n)
            own[experts] = given[task, experts]
            if own.sum() == 0.0:
                own = mean
            kept[task, row] = own / own.sum()
    return kept


def draw(num_tasks=3, num_rows=60, n=7, k=2):
    """Rows of k experts for each task, and some of one for all of them."""
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(n) * 0.5, (num_tasks, num_rows))
    smallest = np.sort(weights, axis=-1)[..., -k, None]
    weights = np.where(weights >= smallest, weights, 0.0)
    weights[:, :5] = np.eye(n)[2]
    return weights / weights.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("cap", [1, 2, 3, 6, 7, 9])
def test_each_row_keeps_the_experts_that_tasks_use_most(cap):
    weights = draw()
    found = np.stack(keep_union(list(tf.constant(weights)), cap))
    np.testing.assert_allclose(found, reference(weights, cap), atol=1e-12)
    assert found.any(axis=0).sum(axis=-1).max() <= cap
    np.testing.assert_allclose(found.sum(axis=-1), 1.0, atol=1e-12)


def test_graph_and_xla_equal_numpy_for_a_cap_that_is_a_tensor():
    weights = draw()
    for jit_compile in (False, True):
        keep = tf.function(keep_union, jit_compile=jit_compile)
        found = keep(list(tf.constant(weights)), tf.constant(3))
        np.testing.assert_allclose(found, reference(weights, 3), atol=1e-12)


def test_tokens_are_capped_as_rows_are():
    weights = draw(num_rows=6)
    tokens = list(tf.constant(weights.reshape(3, 2, 3, 7)))
    expected = reference(weights, 3).reshape(3, 2, 3, 7)
    np.testing.assert_allclose(keep_union(tokens, 3), expected, atol=1e-12)


def test_rows_within_the_cap_are_not_changed_by_a_bit():
    weights = draw().astype("float32")
    # Sums that are one but for rounding.
    weights *= np.float32(1.0 + 3e-7)
    within = np.count_nonzero(weights.any(axis=0), axis=-1) <= 4
    assert 0 < within.sum() < len(within)
    found = np.stack(keep_union(list(tf.constant(weights)), 4))
    np.testing.assert_array_equal(found[:, within], weights[:, within])
    assert (found[:, ~within] != weights[:, ~within]).any()


def test_of_equal_sums_the_first_experts_are_kept():
    first, second = (tf.constant([row]) for row in np.eye(4)[[3, 1]])
    both = [(first + second) / 2, (first + second) / 2]
    for weights in ([first, second], both):
        for found in keep_union(weights, 1):
            np.testing.assert_array_equal(found, [[0.0, 1.0, 0.0, 0.0]])


def test_a_task_without_a_kept_expert_takes_the_mean_of_the_others():
    weights = [
        tf.constant([[0.5, 0.5, 0.0, 0.0]], tf.float64),
        tf.constant([[0.75, 0.0, 0.25, 0.0]], tf.float64),
        tf.constant([[0.0, 0.0, 0.0, 1.0]], tf.float64),
        tf.constant([[0.0, 1.0, 0.0, 0.0]], tf.float64),
    ]
    # Sums 1.25, 1.5, 0.25, 1.0: experts 0 and 1 are kept.
    expected = [
        [[0.5, 0.5, 0.0, 0.0]],
        [[1.0, 0.0, 0.0, 0.0]],
        [[1.25 / 2.75, 1.5 / 2.75, 0.0, 0.0]],
        [[0.0, 1.0, 0.0, 0.0]],
    ]
    np.testing.assert_allclose(keep_union(weights, 2), expected, atol=1e-12)


def test_gradient_is_that_of_the_weights_that_are_kept():
    # Expert 0 is kept, and expert 2 for the sake of the second task.
    weights = [
        tf.constant([[0.5, 0.1, 0.4]], tf.float64),
        tf.constant([[0.8, 0.0, 0.2]], tf.float64),
    ]
    _, found = gradients(lambda: keep_union(weights, 2)[0][0, 0], weights)
    # Of y = a / (a + c).
    np.testing.assert_allclose(
        found, [[[0.4 / 0.81, 0.0, -0.5 / 0.81]], np.zeros((1, 3))], atol=1e-12
    )


@pytest.mark.parametrize("lost", [0.0, 1e-30, 1e-37])
def test_gradients_are_finite_where_a_task_lost_all_or_nearly_all(lost):
    weights = [
        tf.constant([[0.5, 0.5, 0.0]]),
        tf.constant([[0.5, 0.5, 0.0]]),
        tf.constant([[lost, lost, 1.0]]),
    ]
    direction = tf.constant([1e3, -1e3, 1.0])
    _, found = gradients(
        lambda: tf.reduce_sum(tf.stack(keep_union(weights, 2)) * direction),
        weights,
    )
    # A product with what a gate multiplies them by must be finite too.
    assert np.abs(np.stack(found)).max() < 1e16


def test_nan_stays_in_its_row():
    weights = draw().astype("float32")
    expected = reference(weights, 3)
    weights[1, 9] = np.nan
    found = np.stack(keep_union(list(tf.constant(weights)), 3))
    assert np.isnan(found[1, 9]).any()
    others = np.arange(60) != 9
    np.testing.assert_allclose(found[:, others], expected[:, others], atol=1e-6)
