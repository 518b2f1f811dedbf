"""Random numbers that differ from replica to replica."""

import tensorflow as tf


def replica_seed(seed: tf.Tensor) -> tf.Tensor:
    """Gives each replica of a distribution strategy a seed of its own.

    Args:
        seed: int32 tensor `(2,)`.

    Returns:
        An int32 tensor `(2,)`; without a strategy, `seed`.
    """
    context = tf.distribute.get_replica_context()
    replica = context.replica_id_in_sync_group if context else 0
    replica = tf.reshape(tf.cast(replica, tf.int32), [1])
    return seed + tf.concat([[0], replica * 2**24], axis=0)
