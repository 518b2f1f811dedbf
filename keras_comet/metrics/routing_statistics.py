"""Cardinality, balance and entropy of routing weights."""

import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf


def expert_usage(routing_weights: tf.Tensor) -> tf.Tensor:
    """Mean share of routing weight that each expert gets.

    Args:
        routing_weights: tensor `(..., num_experts)`.

    Returns:
        A tensor `(num_experts,)` that sums to one; zeros for an empty batch.
    """
    weights = tf.convert_to_tensor(routing_weights)
    rows = tf.reshape(weights, [-1, weights.shape[-1]])
    return tf.math.divide_no_nan(
        tf.reduce_sum(rows, axis=0), tf.cast(tf.shape(rows)[0], rows.dtype)
    )


def routing_statistics(routing_weights: Any, k: int | None = None) -> Any:
    """Says in a few numbers how a gate routes a batch.

    Args:
        routing_weights: tensor `(..., num_experts)`, or a dict from task name
            to such a tensor.
        k: int, or `None`. The cap whose share of rows is wanted. Defaults to
            `None`.

    Returns:
        A dict of float32 scalars (for a dict, one for each task):
        `cardinality`, the mean number of experts per row; `sparsity`, 1 -
        cardinality / num_experts; `normalized_entropy` of the experts' shares
        of weight, 1 when all are used alike; `largest_share`;
        `active_experts` and `dead_experts`, those that some row and that no
        row uses; with `k`, `within_k`, the share of rows with at most k.

    Example:

    ```python
    import tensorflow as tf
    import keras_comet

    weights = tf.constant([[0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    float(keras_comet.routing_statistics(weights)["cardinality"])  # 1.5
    ```
    """
    if isinstance(routing_weights, Mapping):
        return {
            task: routing_statistics(weights, k)
            for task, weights in routing_weights.items()
        }
    weights = tf.cast(routing_weights, tf.float32)
    num_experts = weights.shape[-1]
    rows = tf.reshape(weights, [-1, num_experts])
    num_rows = tf.cast(tf.shape(rows)[0], tf.float32)
    counts = tf.math.count_nonzero(rows, axis=-1, dtype=tf.int32)
    usage = expert_usage(rows)
    cardinality = tf.math.divide_no_nan(
        tf.cast(tf.reduce_sum(counts), tf.float32), num_rows
    )
    entropy = -tf.reduce_sum(tf.math.xlogy(usage, usage))
    active = tf.math.count_nonzero(
        tf.reduce_any(tf.not_equal(rows, 0.0), axis=0), dtype=tf.float32
    )
    statistics = {
        "cardinality": cardinality,
        "sparsity": 1.0 - cardinality / num_experts,
        "normalized_entropy": (
            entropy / math.log(num_experts)
            if num_experts > 1
            else tf.constant(1.0)
        ),
        "largest_share": tf.reduce_max(usage),
        "active_experts": active,
        "dead_experts": num_experts - active,
    }
    if k is not None:
        within = tf.reduce_sum(tf.cast(counts <= k, tf.float32))
        statistics["within_k"] = tf.math.divide_no_nan(within, num_rows)
    return statistics
