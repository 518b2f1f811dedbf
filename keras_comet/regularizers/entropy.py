"""Entropy of the selectors: pushes each one to settle on one expert."""

import tensorflow as tf

from keras_comet.regularizers.batch_mean import batch_mean

# Inside the logarithm, as published; keeps 0 log 0 at 0.
_EPSILON = 1e-6


def entropy(selector_probabilities: tf.Tensor) -> tf.Tensor:
    """`mean_b sum_{j,e} -v_bje log(v_bje + 1e-6)`.

    Reference:
    - [Ibrahim et al., 2023](https://arxiv.org/abs/2306.02824), Section 3.2

    Args:
        selector_probabilities: float32 tensor `(..., k, n)`, v.

    Returns:
        A float32 scalar.
    """
    terms = -selector_probabilities * tf.math.log(
        selector_probabilities + _EPSILON
    )
    return batch_mean(tf.reduce_sum(terms, axis=[-2, -1]))
