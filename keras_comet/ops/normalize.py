"""Rows that sum to one."""

from typing import Any

import tensorflow as tf


def normalize(weights: tf.Tensor) -> tf.Tensor:
    """`y_i = w_i / sum_j w_j` along the last axis.

    The gradient is `(u_i - sum_j u_j y_j) / sum_j w_j`, which takes half of the
    operations that the rule for quotients does, and no square of a sum.

    Args:
        weights: float tensor `(..., n)` with a sum other than zero.

    Returns:
        A tensor like `weights`.
    """

    @tf.custom_gradient
    def divide(weights: tf.Tensor) -> Any:
        total = tf.reduce_sum(weights, axis=-1, keepdims=True)
        normalized = weights / total

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            mean = tf.reduce_sum(upstream * normalized, axis=-1, keepdims=True)
            return (upstream - mean) / total

        return normalized, gradient

    return divide(weights)
