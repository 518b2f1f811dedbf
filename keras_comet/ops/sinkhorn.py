"""Sinkhorn normalization: logits to a nearly doubly stochastic matrix."""

import tensorflow as tf


def sinkhorn(
    logits: tf.Tensor, temperature: float | tf.Tensor, num_iterations: int
) -> tf.Tensor:
    """Alternately normalizes the rows and the columns of `exp(logits / t)`.

    Works on logarithms, so that a low temperature neither overflows nor
    underflows. The columns are normalized last: they sum to one exactly, the
    rows nearly, the better the more iterations.

    Reference:
    - [Mena et al., 2018](https://arxiv.org/abs/1802.08665), Eq. (5)

    Args:
        logits: float tensor `(..., n, n)`.
        temperature: float or scalar tensor, above 0. The lower, the closer
            to a permutation.
        num_iterations: int. Pairs of normalizations, at least 1.

    Returns:
        A tensor `(..., n, n)`, positive, with columns that sum to one.

    Raises:
        ValueError: If `num_iterations` is below 1.
    """
    if num_iterations < 1:
        raise ValueError(
            "`num_iterations` must be at least 1, as one pair of "
            "normalizations is the least that makes columns sum to one. "
            f"Received: num_iterations={num_iterations}"
        )
    log_weights = logits / tf.cast(temperature, logits.dtype)
    for _ in range(num_iterations):
        log_weights = tf.nn.log_softmax(log_weights, axis=-1)
        log_weights = tf.nn.log_softmax(log_weights, axis=-2)
    return tf.exp(log_weights)
