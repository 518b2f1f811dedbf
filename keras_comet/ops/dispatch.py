"""Sparse dispatch and combine: only the chosen (row, expert) pairs."""

from typing import NamedTuple

import tensorflow as tf


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
        routing_weights: tensor `(rows, num_experts)`. Where it is zero, the
            output counts for nothing, NaN included.

    Returns:
        A tensor `(rows, ...)`; rows without a pair are zero.
    """
    weights = tf.gather_nd(routing_weights, pairs.indices)
    weights = tf.cast(weights, expert_outputs.dtype)
    # (pairs,) -> (pairs, 1, ...), to multiply along the trailing axes
    shape = [-1] + [1] * (expert_outputs.shape.rank - 1)
    # A pair may be another task's, and its output not even finite.
    return tf.math.unsorted_segment_sum(
        tf.math.multiply_no_nan(expert_outputs, tf.reshape(weights, shape)),
        pairs.indices[:, 0],
        tf.shape(routing_weights)[0],
    )
