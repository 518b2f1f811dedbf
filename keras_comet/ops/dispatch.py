"""Sparse dispatch and combine: only the chosen (row, expert) pairs."""

from typing import NamedTuple

import tensorflow as tf

from keras_comet.ops.sparse_product import sparse_product


class RoutedPairs(NamedTuple):
    """The (row, expert) pairs that routing chose, sorted by expert.

    Attributes:
        indices: int64 tensor `(pairs, 2)`: row and expert of each pair.
        counts: int32 tensor `(num_experts,)`: rows that each expert gets.
    """

    indices: tf.Tensor
    counts: tf.Tensor


def find_routed_pairs(chosen: tf.Tensor) -> RoutedPairs:
    """Lists the chosen (row, expert) pairs, those of expert 0 first.

    Args:
        chosen: bool tensor `(rows, num_experts)`.

    Returns:
        The pairs and how many of them belong to each expert.
    """
    by_expert = tf.transpose(chosen)
    pairs = tf.where(by_expert)  # (pairs, 2): expert, row
    counts = tf.math.count_nonzero(by_expert, axis=1, dtype=tf.int32)
    return RoutedPairs(tf.reverse(pairs, axis=[1]), counts)


def dispatch(features: tf.Tensor, pairs: RoutedPairs) -> list[tf.Tensor]:
    """Gathers, for each expert, the rows that are routed to it.

    One gather for all experts, then views of its result.

    Args:
        features: tensor `(rows, ...)`.
        pairs: what `find_routed_pairs` returned.

    Returns:
        A list with one tensor `(counts[e], ...)` for each expert e.
    """
    gathered = tf.gather(features, pairs.indices[:, 0])
    return tf.split(gathered, pairs.counts, num=pairs.counts.shape[0])


def combine(
    expert_outputs: tf.Tensor, pairs: RoutedPairs, routing_weights: tf.Tensor
) -> tf.Tensor:
    """Sums the experts' outputs for each row, weighted.

    `y_b = sum_e g_be f_e(x_b)` over the pairs; right for any number of
    experts per row, and for weights that are zero on some of the pairs.

    Args:
        expert_outputs: tensor `(pairs, ...)` in the order of `pairs`.
        pairs: what `find_routed_pairs` returned.
        routing_weights: tensor `(..., rows, num_experts)`, the leading axes
            for gates that share the pairs. Where it is zero, the output
            counts for nothing, NaN included.

    Returns:
        A tensor `(..., rows, ...)`; rows without a pair are zero.
    """
    *gates, num_rows, num_experts = tf.unstack(tf.shape(routing_weights))
    weights = tf.reshape(routing_weights, [-1, num_experts])
    # Not `> 0`: a NaN must reach the output of its row, not vanish.
    entries = tf.where(tf.not_equal(weights, 0.0))  # (entries, 2)
    positions = tf.tensor_scatter_nd_update(
        tf.zeros([num_rows, num_experts], tf.int64),
        pairs.indices,
        tf.range(tf.shape(pairs.indices, out_type=tf.int64)[0]),
    )
    row_of_pair = entries[:, 0] % tf.cast(tf.maximum(num_rows, 1), tf.int64)
    # The product knows no half precision, nor should a sum be made in it.
    dtype = tf.float64 if expert_outputs.dtype == tf.float64 else tf.float32
    outputs = tf.cast(expert_outputs, dtype)
    units = tf.math.reduce_prod(tf.shape(outputs)[1:])
    combined = sparse_product(
        tf.cast(tf.gather_nd(weights, entries), dtype),
        entries[:, 0],
        tf.gather_nd(positions, tf.stack([row_of_pair, entries[:, 1]], axis=1)),
        tf.shape(weights, out_type=tf.int64)[0],
        tf.reshape(outputs, [tf.shape(outputs)[0], units]),
    )
    shape = [*gates, num_rows, *tf.unstack(tf.shape(outputs)[1:])]
    return tf.cast(tf.reshape(combined, shape), expert_outputs.dtype)
