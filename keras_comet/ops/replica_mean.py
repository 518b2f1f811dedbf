"""The mean over the examples of all replicas."""

import tensorflow as tf


def replica_mean(total: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Returns a mean whose parts are spread over the replicas.

    A mean of the replicas' means would count an example more where there are
    fewer. The gradient is such that the mean of the replicas' gradients is
    that of the mean over all examples.

    Args:
        total: float scalar. The sum of the values of this replica.
        count: float scalar. The sum of their weights.

    Returns:
        A float scalar, the same on all replicas; 0 if all weights are. Without
        a strategy, `total / count`.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return tf.math.divide_no_nan(total, count)
    # Its gradient would be computed by replicas only, and a search is none.
    totals = tf.stop_gradient(
        context.all_reduce(tf.distribute.ReduceOp.SUM, tf.stack([total, count]))
    )
    mean = tf.math.divide_no_nan(totals[0], totals[1])
    own = tf.math.divide_no_nan(total, totals[1])
    own *= context.num_replicas_in_sync
    return own + tf.stop_gradient(mean - own)
