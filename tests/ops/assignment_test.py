import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_comet.ops import linear_assignment


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("kind", ["normal", "ties"])
def test_assignment_costs_least_of_all_permutations(size, kind):
    random = np.random.default_rng(size)
    assign = tf.function(linear_assignment)
    for _ in range(8):
        if kind == "ties":
            cost = random.integers(-1, 2, (size, size)).astype("float32")
        else:
            cost = random.normal(size=(size, size)).astype("float32")
        found = assign(tf.constant(cost)).numpy()
        np.testing.assert_array_equal(np.sort(found), np.arange(size))
        least = min(
            cost[np.arange(size), order].sum()
            for order in itertools.permutations(range(size))
        )
        np.testing.assert_allclose(
            cost[np.arange(size), found].sum(), least, atol=1e-5
        )


def test_assignment_is_the_same_under_xla():
    cost = np.random.default_rng(0).normal(size=(12, 12)).astype("float32")
    results = [
        tf.function(linear_assignment, jit_compile=jit_compile)(
            tf.constant(cost)
        )
        for jit_compile in (False, True)
    ]
    np.testing.assert_array_equal(*results)


def test_planted_permutation_is_found():
    order = np.random.default_rng(1).permutation(30)
    cost = np.ones((30, 30), "float32")
    cost[np.arange(30), order] = 0.0
    np.testing.assert_array_equal(linear_assignment(tf.constant(cost)), order)


@pytest.mark.parametrize("shape", [(2, 3), (4,), (2, 2, 2)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="square"):
        linear_assignment(tf.zeros(shape))


def test_numpy_arrays_are_taken_in_eager_mode():
    cost = np.array([[4.0, 1.0], [2.0, 3.0]], "float32")
    np.testing.assert_array_equal(linear_assignment(cost), [1, 0])
