"""Random numbers whose only state is a variable that the caller owns."""

import tensorflow as tf


def random_normal(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Standard normal numbers that depend on nothing but `seed`.

    Under a distribution strategy each replica draws its own.

    Args:
        shape: int32 tensor or list of int.
        seed: int32 tensor `(2,)`.

    Returns:
        A float32 tensor of that shape.
    """
    context = tf.distribute.get_replica_context()
    replica = context.replica_id_in_sync_group if context else 0
    replica = tf.reshape(tf.cast(replica, tf.int32), [1])
    return tf.random.stateless_normal(
        shape, seed + tf.concat([[0], replica * 2**24], axis=0)
    )
