import numpy as np
import pytest
import tensorflow as tf

from keras_comet.ops import combine
from keras_comet.ops import dispatch
from keras_comet.ops import find_routed_pairs
from tests.helpers import gradients
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


def combine_in_a_loop(outputs, pairs, weights, upstream):
    """The mixture, and the gradients of `sum(upstream * mixture)`."""
    mixture = np.zeros((len(weights), *outputs.shape[1:]))
    from_outputs, from_weights = np.zeros_like(outputs), np.zeros_like(weights)
    for pair, (row, expert) in enumerate(pairs):
        weight = weights[row, expert]
        if weight != 0.0:
            mixture[row] += weight * outputs[pair]
            from_outputs[pair] = weight * upstream[row]
            from_weights[row, expert] = np.sum(outputs[pair] * upstream[row])
    return mixture, from_outputs, from_weights


# Row 2 has two nonzero weights, so that k = 1 takes the general way.
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_combine_sums_over_the_pairs(k, compiled):
    weights = rows(4, 3, seed=1)
    weights[~CHOSEN] = 0.0
    outputs, upstream = rows(4, 2, 2, seed=2), rows(4, 2, 2, seed=3)
    listed = [[0, 0], [2, 0], [2, 2], [3, 2]]

    def run(*sources):
        pairs = find_routed_pairs(tf.constant(CHOSEN))
        mixtures = []

        def loss():
            mixtures.append(combine(sources[0], pairs, sources[1], k))
            return tf.reduce_sum(upstream * mixtures[0])

        _, found = gradients(loss, sources)
        return mixtures[0], *found

    found = (tf.function(run) if compiled else run)(
        tf.constant(outputs), tf.constant(weights)
    )
    expected = combine_in_a_loop(outputs, listed, weights, upstream)
    for ours, theirs in zip(found, expected, strict=True):
        ours = tf.convert_to_tensor(ours)
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_pair_without_weight_counts_for_nothing(k):
    # Expert 0 has no finite value for row 2: another task asked for it.
    weights = rows(4, 3, seed=1)
    weights[~CHOSEN] = 0.0
    weights[2, 0] = 0.0
    outputs = rows(4, 2, seed=2)
    outputs[1] = np.nan
    pairs = find_routed_pairs(tf.constant(CHOSEN))
    sources = [tf.constant(outputs), tf.constant(weights)]
    mixture, found = gradients(
        lambda: combine(*sources[:1], pairs, sources[1], k), sources
    )
    expected = combine_in_a_loop(
        outputs, [[0, 0], [2, 0], [2, 2], [3, 2]], weights, np.ones((4, 2))
    )
    np.testing.assert_allclose(mixture, expected[0], atol=1e-6)
    np.testing.assert_allclose(
        tf.convert_to_tensor(found[0]), expected[1], atol=1e-6
    )
    # Only the weight of the pair itself can get a gradient from its output.
    others = np.ones((4, 3), bool)
    others[2, 0] = False
    np.testing.assert_allclose(found[1][others], expected[2][others], atol=1e-6)


def test_no_rows_and_no_pairs_are_fine():
    for count in (0, 4):
        pairs = find_routed_pairs(tf.zeros([count, 3], tf.bool))
        routed = dispatch(tf.zeros([count, 5]), pairs)
        assert [each.shape for each in routed] == [(0, 5)] * 3
        combined = combine(tf.zeros([0, 2]), pairs, tf.zeros([count, 3]), 2)
        np.testing.assert_array_equal(combined, np.zeros((count, 2)))
