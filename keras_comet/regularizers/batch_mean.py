"""The mean over the batch, which may be empty."""

import tensorflow as tf


def batch_mean(values: tf.Tensor, axis: int | None = None) -> tf.Tensor:
    """Mean, or 0 if there is nothing: a replica may get no row of a batch.

    Args:
        values: float tensor.
        axis: int. The axis to average, or `None` for all. Defaults to `None`.

    Returns:
        A tensor without that axis, or a scalar.
    """
    total = tf.reduce_sum(values, axis=axis)
    count = tf.size(values) if axis is None else tf.shape(values)[axis]
    return tf.math.divide_no_nan(total, tf.cast(count, values.dtype))
