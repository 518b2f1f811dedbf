import numpy as np
import tensorflow as tf

from keras_comet.ops import combine
from keras_comet.ops import dispatch
from keras_comet.ops import find_routed_pairs
from tests.helpers import rows

# Expert 1 is idle, row 1 has no expert, row 2 has two.
CHOSEN = np.array([[1, 0, 0], [0, 0, 0], [1, 0, 1], [0, 0, 1]], bool)


def test_pairs_are_listed_by_expert():
    pairs = find_routed_pairs(tf.constant(CHOSEN))
    np.testing.assert_array_equal(
        pairs.indices, [[0, 0], [2, 0], [2, 2], [3, 2]]
    )
    np.testing.assert_array_equal(pairs.counts, [2, 0, 2])


def test_each_expert_gets_its_rows():
    features = rows(4, 5)
    routed = dispatch(
        tf.constant(features), find_routed_pairs(tf.constant(CHOSEN))
    )
    for expert, found in enumerate(routed):
        np.testing.assert_array_equal(found, features[CHOSEN[:, expert]])


def test_combine_sums_over_the_pairs():
    weights = rows(4, 3, seed=1)
    weights[3, 2] = 0.0
    outputs = rows(4, 2, 2, seed=2)
    pairs = find_routed_pairs(tf.constant(CHOSEN))
    expected = np.zeros((4, 2, 2))
    for pair, (row, expert) in enumerate([[0, 0], [2, 0], [2, 2], [3, 2]]):
        expected[row] += weights[row, expert] * outputs[pair]
    found = combine(tf.constant(outputs), pairs, tf.constant(weights))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_no_rows_and_no_pairs_are_fine():
    for count in (0, 4):
        pairs = find_routed_pairs(tf.zeros([count, 3], tf.bool))
        routed = dispatch(tf.zeros([count, 5]), pairs)
        assert [each.shape for each in routed] == [(0, 5)] * 3
        combined = combine(tf.zeros([0, 2]), pairs, tf.zeros([count, 3]))
        np.testing.assert_array_equal(combined, np.zeros((count, 2)))
