"""Router z-loss: keeps gate logits small."""

import tensorflow as tf

from keras_comet.regularizers.batch_mean import batch_mean


def z_loss(logits: tf.Tensor) -> tf.Tensor:
    """`mean_b (log sum_e exp(l_be))^2`.

    Reference:
    - [Zoph et al., 2022](https://arxiv.org/abs/2202.08906), Eq. (5)

    Args:
        logits: float32 tensor `(..., n)`, l.

    Returns:
        A float32 scalar.
    """
    return batch_mean(tf.square(tf.reduce_logsumexp(logits, axis=-1)))
