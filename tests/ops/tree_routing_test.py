import numpy as np
import pytest
import tensorflow as tf

from keras_comet.ops import follow_splits
from keras_comet.ops import leaf_probabilities
from tests import reference


@pytest.mark.parametrize("num_leaves", [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 23])
def test_leaves_are_reached_as_the_recursion_says(num_leaves):
    splits = np.random.default_rng(num_leaves).random((4, num_leaves - 1))
    np.testing.assert_allclose(
        leaf_probabilities(tf.constant(splits)),
        [reference.reach_leaves(row) for row in splits],
        atol=1e-12,
    )


@pytest.mark.parametrize("num_leaves", [3, 6, 8])
def test_saturated_splits_reach_one_leaf_exactly(num_leaves):
    splits = np.random.default_rng(0).integers(0, 2, (20, num_leaves - 1))
    reached = leaf_probabilities(tf.constant(splits, tf.float32)).numpy()
    np.testing.assert_array_equal(np.count_nonzero(reached, axis=-1), 1)
    np.testing.assert_array_equal(reached.max(-1), 1.0)


@pytest.mark.parametrize("num_leaves", [2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 23])
def test_a_walk_ends_in_the_leaf_that_is_reached(num_leaves):
    left = np.random.default_rng(0).integers(0, 2, (40, num_leaves - 1))
    asked = []

    def goes_left(split):
        asked.append(split)
        return tf.gather(left, split, batch_dims=1) == 1

    leaves = follow_splits(goes_left, num_leaves, tf.zeros([40], tf.int32))
    expected = [np.argmax(reference.reach_leaves(row)) for row in left]
    np.testing.assert_array_equal(leaves, expected)
    assert len(asked) == np.ceil(np.log2(num_leaves))


def test_leading_axes_are_free_and_may_be_empty_or_unknown():
    splits = np.random.default_rng(0).random((2, 3, 4)).astype("float32")
    whole = leaf_probabilities(tf.constant(splits))
    np.testing.assert_array_equal(
        whole[1], leaf_probabilities(tf.constant(splits[1]))
    )
    assert leaf_probabilities(tf.zeros([0, 3, 4])).shape == (0, 3, 5)
    specification = tf.TensorSpec([None, 3, 4])
    traced = tf.function(leaf_probabilities).get_concrete_function(
        specification
    )
    assert traced.output_shapes == [None, 3, 5]
