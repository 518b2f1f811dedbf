"""Rows on which several tasks together keep few experts."""

from collections.abc import Sequence

import tensorflow as tf

from keras_comet.ops.largest_mask import largest_mask
from keras_comet.ops.normalize import normalize

# A task with less than this on the experts that are kept has none of them: a
# row that sums to one in float32 means nothing by it, and the gradient of a
# division by it would overflow.
_NOTHING = 1e-12


def keep_union(
    weights: Sequence[tf.Tensor], cap: tf.Tensor | int
) -> list[tf.Tensor]:
    """Leaves each row at most `cap` experts, counted over all tasks.

    A row keeps the experts with the largest sum of the tasks' weights, of
    equal ones the first. What a task has on them is divided by its sum. A task
    that has nothing on them takes the mean of the tasks' kept weights, divided
    by its sum. Rows that use no more experts than `cap` are not changed at
    all. What is not kept is exactly zero and gets no gradient.

    Args:
        weights: list of float tensors `(..., n)`, one for each task,
            nonnegative, every row with a sum of one.
        cap: int, or integer scalar tensor, at least 1.

    Returns:
        A list of tensors like `weights`; every row sums to one.
    """
    # One axis in front, for the tasks.
    stacked = tf.stack(weights)
    is_used = tf.reduce_any(tf.not_equal(stacked, 0.0), axis=0)
    num_used = tf.reduce_sum(tf.cast(is_used, tf.int32), axis=-1, keepdims=True)
    is_kept = largest_mask(tf.reduce_sum(stacked, axis=0), cap)
    kept = tf.where(is_kept, stacked, tf.zeros_like(stacked))
    has_any = tf.reduce_sum(kept, axis=-1, keepdims=True) > _NOTHING
    kept = tf.where(has_any, kept, tf.reduce_sum(kept, axis=0))
    return tf.unstack(
        tf.where(num_used <= cap, stacked, normalize(kept)), num=len(weights)
    )
