"""A hash of ids that is the same in every process and on every machine."""

import tensorflow as tf


def stable_hash(ids: tf.Tensor, num_buckets: int, seed: int) -> tf.Tensor:
    """Maps integer or string ids to buckets, evenly and for good.

    Strings go through SipHash with the seed as key; integers through the
    64-bit finalizer of SplitMix, which needs no conversion to strings and
    compiles with XLA.

    Args:
        ids: integer or string tensor of any shape. Every value is legal.
        num_buckets: int. Number of buckets, at least 1.
        seed: int. Another seed gives another, unrelated mapping.

    Returns:
        An int32 tensor like `ids`, within [0, num_buckets).

    Raises:
        ValueError: If `ids` are neither integers nor strings.

    Example:

    ```python
    import tensorflow as tf
    from keras_comet.ops import stable_hash

    stable_hash(tf.constant(["ann", "bob"]), num_buckets=8, seed=0)
    ```
    """
    if ids.dtype == tf.string:
        return tf.cast(
            tf.strings.to_hash_bucket_strong(
                ids, num_buckets, key=[seed & (2**63 - 1), num_buckets]
            ),
            tf.int32,
        )
    if not ids.dtype.is_integer:
        raise ValueError(
            "Ids are hashed by value and must be integers or strings. "
            f"Received: ids of dtype {ids.dtype.name}. Cast them first."
        )
    bits = tf.bitcast(tf.cast(ids, tf.int64), tf.uint64)
    bits += tf.constant((seed * 0x9E3779B97F4A7C15) % 2**64, tf.uint64)
    for shift, factor in (
        (30, 0xBF58476D1CE4E5B9),
        (27, 0x94D049BB133111EB),
    ):
        bits = tf.bitwise.bitwise_xor(bits, _shift_right(bits, shift))
        bits *= tf.constant(factor, tf.uint64)
    bits = tf.bitwise.bitwise_xor(bits, _shift_right(bits, 31))
    # The high half is the better mixed one, and fits a nonnegative int64.
    high = tf.cast(_shift_right(bits, 33), tf.int64)
    return tf.cast(high % num_buckets, tf.int32)


def _shift_right(bits: tf.Tensor, places: int) -> tf.Tensor:
    return tf.bitwise.right_shift(bits, tf.constant(places, tf.uint64))
