import numpy as np
import pytest
import tensorflow as tf

from keras_comet.ops import combine
from keras_comet.ops import dispatch
from keras_comet.ops import find_routed_pairs
from keras_comet.ops import gather_routed
from tests.helpers import gradients
from tests.helpers import rows

# Expert 1 is idle, row 1 has no expert, row 2 has two.
CHOSEN = np.array([[1, 0, 0], [0, 0, 0], [1, 0, 1], [0, 0, 1]], bool)
LISTED = [[0, 0], [2, 0], [2, 2], [3, 2]]


def test_pairs_are_listed_by_expert():
    pairs = find_routed_pairs(tf.constant(CHOSEN))
    np.testing.assert_array_equal(pairs.rows, [0, 2, 2, 3])
    np.testing.assert_array_equal(pairs.experts, [0, 0, 2, 2])
    np.testing.assert_array_equal(pairs.counts, [2, 0, 2])


def test_each_expert_gets_its_rows():
    features = rows(4, 5)
    routed = dispatch(
        tf.constant(features), find_routed_pairs(tf.constant(CHOSEN))
    )
    for expert, found in enumerate(routed):
        np.testing.assert_array_equal(found, features[CHOSEN[:, expert]])


@pytest.mark.parametrize("shape", [(5,), (2, 3), ()])
@pytest.mark.parametrize("compiled", [False, True])
def test_gathered_rows_get_the_sum_of_their_gradients(compiled, shape):
    features, upstream = rows(4, *shape), rows(4, *shape, seed=1)

    def run(features):
        pairs = find_routed_pairs(tf.constant(CHOSEN))
        _, [found] = gradients(
            lambda: tf.reduce_sum(upstream * gather_routed(features, pairs)),
            [features],
        )
        return found

    found = (tf.function(run) if compiled else run)(tf.constant(features))
    expected = np.zeros_like(features)
    for pair, (row, _) in enumerate(LISTED):
        expected[row] += upstream[pair]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_gradients_of_gathered_rows_are_summed_in_full_precision():
    # 257 times 1: eight bits of mantissa end at 256.
    pairs = find_routed_pairs(tf.ones([1, 257], tf.bool))
    features = tf.ones([1, 1], tf.bfloat16)
    _, [found] = gradients(
        lambda: tf.reduce_sum(
            tf.cast(gather_routed(features, pairs), "float32")
        ),
        [features],
    )
    assert found.dtype == tf.bfloat16
    np.testing.assert_array_equal(found, tf.constant([[257.0]], tf.bfloat16))


def test_ids_are_gathered_too():
    pairs = find_routed_pairs(tf.constant(CHOSEN))
    found = gather_routed(tf.constant(["a", "b", "c", "d"]), pairs)
    np.testing.assert_array_equal(found, [b"a", b"c", b"c", b"d"])


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


@pytest.mark.parametrize("compiled", [False, True])
def test_combine_sums_over_the_pairs(compiled):
    weights = rows(4, 3, seed=1)
    weights[~CHOSEN] = 0.0
    outputs, upstream = rows(4, 2, 2, seed=2), rows(4, 2, 2, seed=3)

    def run(*sources):
        pairs = find_routed_pairs(tf.constant(CHOSEN))
        mixtures = []

        def loss():
            mixtures.append(combine(sources[0], pairs, sources[1]))
            return tf.reduce_sum(upstream * mixtures[0])

        _, found = gradients(loss, sources)
        return mixtures[0], *found

    found = (tf.function(run) if compiled else run)(
        tf.constant(outputs), tf.constant(weights)
    )
    expected = combine_in_a_loop(outputs, LISTED, weights, upstream)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_combine_serves_several_gates_at_once():
    # Each gate uses some of the pairs; what another asked for may be NaN.
    outputs, upstream = rows(4, 2, seed=2), rows(2, 4, 2, seed=3)
    weights = rows(2, 4, 3, seed=1) * CHOSEN
    weights[0, 2, 0] = weights[1, 3, 2] = weights[1, 2, 0] = 0.0
    outputs[1] = np.nan
    pairs = find_routed_pairs(tf.constant(CHOSEN))
    sources = [tf.constant(outputs), tf.constant(weights, tf.float32)]
    mixtures = combine(sources[0], pairs, sources[1])
    _, found = gradients(
        lambda: tf.reduce_sum(
            upstream * combine(sources[0], pairs, sources[1])
        ),
        sources,
    )
    expected = [
        combine_in_a_loop(outputs, LISTED, *each)
        for each in zip(weights, upstream, strict=True)
    ]
    np.testing.assert_allclose(mixtures, [e[0] for e in expected], atol=1e-6)
    np.testing.assert_allclose(
        found[0], sum(each[1] for each in expected), atol=1e-6
    )
    np.testing.assert_allclose(found[1], [e[2] for e in expected], atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_combine_sums_in_full_precision(dtype):
    # 257 times 1: eight bits of mantissa end at 256.
    count = 257
    pairs = find_routed_pairs(tf.ones([1, count], tf.bool))
    outputs = tf.ones([count, 1], dtype)
    found = combine(outputs, pairs, tf.ones([1, count]))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, tf.constant([[257.0]], dtype))
    thirds = combine(outputs / 3, pairs, tf.ones([1, count]))
    np.testing.assert_allclose(
        tf.cast(thirds, "float64"), [[257 / 3]], rtol=5e-3
    )


def test_no_rows_and_no_pairs_are_fine():
    for count in (0, 4):
        pairs = find_routed_pairs(tf.zeros([count, 3], tf.bool))
        routed = dispatch(tf.zeros([count, 5]), pairs)
        assert [each.shape for each in routed] == [(0, 5)] * 3
        combined = combine(tf.zeros([0, 2]), pairs, tf.zeros([count, 3]))
        np.testing.assert_array_equal(combined, np.zeros((count, 2)))
