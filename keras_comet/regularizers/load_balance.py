"""Load balance: pushes a gate to use all of its experts."""

import tensorflow as tf

from keras_comet.regularizers.batch_mean import batch_mean


def load_balance(routing_weights: tf.Tensor) -> tf.Tensor:
    """Squared coefficient of variation of the experts' shares of weight.

    With `u_e = mean_b g_be`, which sum to one: `n sum_e u_e^2 - 1`. It is 0
    when all experts are used alike and n - 1 when one takes everything,
    whatever the size of the batch.

    Reference:
    - [Shazeer et al., 2017](https://arxiv.org/abs/1701.06538), Eq. (6), (7)

    Args:
        routing_weights: float32 tensor `(..., n)`, g.

    Returns:
        A float32 scalar.
    """
    num_experts = routing_weights.shape[-1]
    rows = tf.reshape(routing_weights, [-1, num_experts])
    usage = batch_mean(rows, axis=0)
    # The square of the sum is the 1 above, and 0 for an empty batch.
    return num_experts * tf.reduce_sum(tf.square(usage)) - tf.square(
        tf.reduce_sum(usage)
    )
