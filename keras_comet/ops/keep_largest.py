"""Rows that keep their largest weights only."""

import tensorflow as tf

from keras_comet.ops.largest_mask import largest_mask
from keras_comet.ops.normalize import normalize


def keep_largest(weights: tf.Tensor, count: tf.Tensor | int) -> tf.Tensor:
    """Keeps the largest weights of each row, and divides them by their sum.

    Weights that are not kept are exactly zero and get no gradient. Of equal
    weights the first ones are kept, never more than `count`.

    Args:
        weights: float tensor `(..., n)`, nonnegative, every row with a sum
            above zero.
        count: int, or integer scalar tensor, at least 1.

    Returns:
        A tensor like `weights`; every row sums to one.
    """
    is_kept = largest_mask(weights, count)
    return normalize(tf.where(is_kept, weights, tf.zeros_like(weights)))
