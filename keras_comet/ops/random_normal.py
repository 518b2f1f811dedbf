"""Random numbers whose only state is a variable that the caller owns."""

import tensorflow as tf

from keras_comet.ops.replica_seed import replica_seed


def random_normal(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Standard normal numbers that depend on nothing but `seed`.

    Under a distribution strategy each replica draws its own.

    Args:
        shape: int32 tensor or list of int.
        seed: int32 tensor `(2,)`.

    Returns:
        A float32 tensor of that shape.
    """
    return tf.random.stateless_normal(shape, replica_seed(seed))
