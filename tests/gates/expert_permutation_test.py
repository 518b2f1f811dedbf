import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from tests.helpers import rows
from tests.helpers import variables


def test_starts_as_the_identity():
    permutation = keras_comet.ExpertPermutation(4, num_permutations=2)
    np.testing.assert_array_equal(
        permutation.assignment, [[0, 1, 2, 3], [0, 1, 2, 3]]
    )
    weights = np.abs(rows(3, 2, 4))
    np.testing.assert_allclose(
        permutation(tf.constant(weights)), weights.sum(1), rtol=1e-6
    )


@pytest.mark.parametrize(
    "orders", [[[2, 0, 3, 1]], [[2, 0, 3, 1], [3, 2, 1, 0]]]
)
def test_output_i_goes_to_expert_assignment_i(orders):
    permutation = keras_comet.ExpertPermutation(4, len(orders))
    permutation.assignment.assign(orders)
    weights = rows(3, 2, 4)
    expected = np.zeros((3, 4))
    for selector in range(2):
        order = orders[selector % len(orders)]
        for output, expert in enumerate(order):
            expected[:, expert] += weights[:, selector, output]
    np.testing.assert_allclose(
        permutation(tf.constant(weights)), expected, atol=1e-6
    )


def test_assigning_changes_every_gate_that_shares_it_at_once():
    permutation = keras_comet.ExpertPermutation(4)
    gates = [
        keras_comet.SoftmaxGate(4, permutation=permutation),
        keras_comet.COMETGate(4, permutation=permutation),
    ]
    calls = [tf.function(gate) for gate in gates]
    x = tf.constant(rows(3, 5))
    before = [call(x).numpy() for call in calls]
    permutation.assignment.assign([[3, 0, 2, 1]])
    for call, old in zip(calls, before, strict=True):
        np.testing.assert_allclose(
            call(x).numpy()[:, [3, 0, 2, 1]], old, atol=1e-6
        )


def test_nothing_is_trained_and_no_gradient_is_lost():
    permutation = keras_comet.ExpertPermutation(4)
    permutation.assignment.assign([[3, 0, 2, 1]])
    [searched] = variables(permutation.trainable_weights)
    weights = tf.constant(rows(3, 2, 4))
    direction = rows(3, 4, seed=1)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        value = tf.reduce_sum(permutation(weights) * direction)
    found, of_search = tape.gradient(value, [weights, searched])
    expected = np.repeat(direction[:, np.newaxis, [3, 0, 2, 1]], 2, axis=1)
    np.testing.assert_allclose(found, expected)
    assert of_search is None


@pytest.mark.parametrize(
    "kwargs", [{"num_experts": 0}, {"num_permutations": 0}]
)
def test_sizes_below_one_raise(kwargs):
    [(name, _)] = kwargs.items()
    with pytest.raises(ValueError, match=f"{name}=0"):
        keras_comet.ExpertPermutation(**{"num_experts": 3, **kwargs})


def test_other_number_of_selectors_raises():
    permutation = keras_comet.ExpertPermutation(4, num_permutations=3)
    with pytest.raises(ValueError, match="2 selectors.*num_permutations=3"):
        keras_comet.TopKGate(4, k=2, permutation=permutation)(rows(2, 4))
    with pytest.raises(ValueError, match="2 selectors.*num_permutations=3"):
        permutation(tf.zeros([5, 2, 4]))
