"""Which entries of a row are its largest."""

import tensorflow as tf


def largest_mask(values: tf.Tensor, count: tf.Tensor | int) -> tf.Tensor:
    """Marks the `count` largest entries of each row.

    Of equal entries the first ones are marked, never more than `count`. Works
    under XLA, for a count that is known only when it runs.

    Args:
        values: float tensor `(..., n)`.
        count: int, or integer scalar tensor, at least 1.

    Returns:
        A bool tensor `(..., n)`.
    """
    order = tf.argsort(values, direction="DESCENDING", stable=True)
    rank = tf.argsort(order)
    return rank < count
