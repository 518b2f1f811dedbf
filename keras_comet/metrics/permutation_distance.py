"""How far soft permutations are from being permutations."""

import tensorflow as tf

from keras_comet.ops import linear_assignment


def permutation_distance(permutation_weights: tf.Tensor) -> tf.Tensor:
    """The share of weight that is not on the nearest permutation.

    Zero for a permutation, `1 - 1 / n` for the uniform matrix; half the L1
    distance of a row, on average, where rows sum to one.

    Args:
        permutation_weights: float tensor `(num_permutations, n, n)`.

    Returns:
        A tensor `(num_permutations,)`.
    """
    on_nearest = [
        tf.gather(weights, linear_assignment(-weights), batch_dims=1)
        for weights in tf.unstack(permutation_weights)
    ]
    return 1.0 - tf.reduce_mean(tf.stack(on_nearest), axis=-1)
