"""Expert usage: the share of routing weight that each expert gets."""

from typing import Any

import tensorflow as tf

from keras_comet.metrics.routed_rows import routed_rows


def expert_usage(routing_weights: Any) -> tf.Tensor:
    """Mean routing weight of each expert, `u_e = mean_b g_be`.

    The shares sum to one, as each row does. `1 / num_experts` everywhere is
    even usage. Works in eager mode, in graphs and under XLA.

    Args:
        routing_weights: tensor or array `(..., num_experts)`. Rows with NaN
            are left out.

    Returns:
        A float32 tensor `(num_experts,)`; NaN if there is no row to count.

    Raises:
        ValueError: If the number of experts is not known.

    Example:

    ```python
    import keras_comet

    keras_comet.metrics.expert_usage([[1.0, 0.0], [0.5, 0.5]])  # [0.75, 0.25]
    ```
    """
    rows, is_counted = routed_rows(routing_weights)
    num_rows = tf.reduce_sum(tf.cast(is_counted, tf.float32))
    return tf.reduce_sum(rows, axis=0) / num_rows
