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
    expert_outputs: tf.Tensor,
    pairs: RoutedPairs,
    routing_weights: tf.Tensor,
    k: int,
) -> tf.Tensor:
    """Sums the experts' outputs for each row, weighted.

    `y_b = sum_e g_be f_e(x_b)` over the pairs; right for any number of
    experts per row, and for weights that are zero on some of the pairs.
    While no row has more than k nonzero weights, as once a gate is sparse,
    it is k gathers, and faster.

    Args:
        expert_outputs: tensor `(pairs, ...)` in the order of `pairs`.
        pairs: what `find_routed_pairs` returned.
        routing_weights: tensor `(rows, num_experts)`. Where it is zero, the
            output counts for nothing, NaN included.
        k: int. The number of nonzero weights per row to be fast for.

    Returns:
        A tensor `(rows, ...)`; rows without a pair are zero.
    """
    cardinality = tf.math.count_nonzero(routing_weights, axis=1)
    highest = tf.reduce_max(cardinality)
    return tf.cond(
        # Without a pair there is nothing that could be gathered.
        (highest > 0) & (highest <= k),
        lambda: _gather_outputs(expert_outputs, pairs, routing_weights, k),
        lambda: _sum_segments(expert_outputs, pairs, routing_weights),
    )


def _gather_outputs(
    expert_outputs: tf.Tensor,
    pairs: RoutedPairs,
    routing_weights: tf.Tensor,
    k: int,
) -> tf.Tensor:
    """Adds up, for each row, what its at most k experts made of it."""
    nonzero = tf.cast(tf.not_equal(routing_weights, 0.0), tf.float32)
    _, experts = tf.math.top_k(nonzero, k, sorted=False)  # (rows, k)
    weights = tf.gather(routing_weights, experts, batch_dims=1)
    # A row with fewer experts is filled up with others that have no weight.
    # They get no gradient, which would be that of another row's output.
    weights = tf.where(
        tf.not_equal(weights, 0.0), weights, tf.zeros_like(weights)
    )
    positions = tf.scatter_nd(
        pairs.indices,
        tf.range(tf.shape(pairs.indices)[0]),
        tf.shape(routing_weights, out_type=tf.int64),
    )
    positions = tf.gather(positions, experts, batch_dims=1)
    return tf.add_n(
        [
            _weigh(tf.gather(expert_outputs, positions[:, j]), weights[:, j])
            for j in range(k)
        ]
    )


def _sum_segments(
    expert_outputs: tf.Tensor, pairs: RoutedPairs, routing_weights: tf.Tensor
) -> tf.Tensor:
    """Adds up each pair's output to its row."""
    return tf.math.unsorted_segment_sum(
        _weigh(expert_outputs, tf.gather_nd(routing_weights, pairs.indices)),
        pairs.indices[:, 0],
        tf.shape(routing_weights)[0],
    )


def _weigh(outputs: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Multiplies `(pairs, ...)` by `(pairs,)`; zero times NaN is zero."""
    # (pairs,) -> (pairs, 1, ...), to multiply along the trailing axes
    shape = [-1] + [1] * (outputs.shape.rank - 1)
    # A pair may be another task's, and its output not even finite.
    return tf.math.multiply_no_nan(
        outputs, tf.reshape(tf.cast(weights, outputs.dtype), shape)
    )
