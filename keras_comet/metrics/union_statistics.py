"""How many experts several tasks use together."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from keras_comet.metrics.routed_rows import mean_over
from keras_comet.metrics.routed_rows import routed_rows


def union_statistics(
    routing_weights: Mapping[str, Any],
) -> dict[str, tf.Tensor]:
    """Counts the experts that any of several tasks uses for a row.

    Rows with NaN, for any task, are left out.

    Args:
        routing_weights: dict from task to tensor or array
            `(..., num_experts)`, of equal shapes.

    Returns:
        A dict with the mean over rows, `union_cardinality`, and the largest
        number, `largest_union`: float32 scalars, NaN if there is no row.

    Raises:
        ValueError: If the weights are no dict, or differ in shape.
    """
    if not isinstance(routing_weights, Mapping):
        raise ValueError(
            "`union=True` counts the experts of several tasks. Expected: a "
            f"dict by task. Received: {type(routing_weights).__name__}"
        )
    shapes = {
        task: tuple(tf.convert_to_tensor(each).shape)
        for task, each in routing_weights.items()
    }
    if len(set(shapes.values())) != 1:
        raise ValueError(
            "`union=True` is for tasks that choose among the same experts for "
            f"the same rows. Received: weights of shapes {shapes}. Give the "
            "tasks of one MultiGateMixtureOfExperts."
        )
    rows, are_counted = zip(
        *map(routed_rows, routing_weights.values()), strict=True
    )
    is_used = tf.reduce_any(tf.not_equal(tf.stack(rows), 0.0), axis=0)
    is_counted = tf.reduce_all(tf.stack(are_counted), axis=0)
    num_used = tf.reduce_sum(tf.cast(is_used, tf.float32), axis=-1)
    mean = mean_over(is_counted, num_used)
    largest = tf.reduce_max(tf.where(is_counted, num_used, 0.0))
    return {
        "union_cardinality": mean,
        "largest_union": tf.where(tf.math.is_nan(mean), mean, largest),
    }
