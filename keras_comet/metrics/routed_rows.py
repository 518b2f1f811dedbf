"""Routing weights as rows, the unusable ones marked."""

from typing import Any

import tensorflow as tf


def routed_rows(routing_weights: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Flattens the leading axes and finds the rows that can be counted.

    Args:
        routing_weights: tensor or array `(..., num_experts)`.

    Returns:
        The rows `(rows, num_experts)` in float32, zeros where one held NaN or
        infinity, and a bool tensor `(rows,)`: true for all other rows but
        those of padding, whose weights are all 0.

    Raises:
        ValueError: If the number of experts is not known or 0.
    """
    weights = tf.convert_to_tensor(routing_weights)
    if not weights.shape.rank or not weights.shape[-1]:
        raise ValueError(
            "`routing_weights` must have the shape (..., num_experts) with a "
            f"known number of experts. Received: shape {weights.shape}. Use "
            "tf.ensure_shape on a tensor of unknown shape."
        )
    rows = tf.reshape(tf.cast(weights, tf.float32), [-1, weights.shape[-1]])
    is_finite = tf.reduce_all(tf.math.is_finite(rows), axis=-1)
    rows = tf.where(is_finite[:, tf.newaxis], rows, 0.0)
    return rows, tf.reduce_any(rows != 0.0, axis=-1)


def mean_over(is_counted: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Averages the values of the rows that are counted; of none, it is NaN.

    Args:
        is_counted: bool tensor `(rows,)`.
        values: float32 tensor `(rows,)`.
    """
    counted = tf.cast(is_counted, tf.float32)
    return tf.reduce_sum(counted * values) / tf.reduce_sum(counted)
