"""Keeps the selectors of DSelect-k off codes that belong to no expert."""

import tensorflow as tf

from keras_comet.regularizers.batch_mean import batch_mean

# As published; bounds the penalty of a selector with no reachable mass.
_EPSILON = 1e-6


def unreachable_codes(reachable_mass: tf.Tensor) -> tf.Tensor:
    """`mean_b sum_j 1 / (1e-6 + mass_bj)`.

    Reference:
    - [Hazimeh et al., 2021](https://arxiv.org/abs/2106.03760), Section 3.2;
      a mean over the batch where the published code sums over it.

    Args:
        reachable_mass: float32 tensor `(..., k)`: the probability that
            selector j puts on codes of experts.

    Returns:
        A float32 scalar.
    """
    return batch_mean(tf.reduce_sum(1.0 / (_EPSILON + reachable_mass), axis=-1))
