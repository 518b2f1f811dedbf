"""Sparse dispatch and combine: only the chosen (row, expert) pairs."""

from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import tensorflow as tf

from keras_comet.ops.sparse_product import sparse_product


class RoutedPairs(NamedTuple):
    """The (row, expert) pairs that routing chose, sorted by expert.

    Attributes:
        rows: int64 tensor `(pairs,)`, ascending for each expert.
        experts: int64 tensor `(pairs,)`, ascending.
        counts: int32 tensor `(num_experts,)`: rows that each expert gets.
    """

    rows: tf.Tensor
    experts: tf.Tensor
    counts: tf.Tensor


def find_chosen(routing_weights: Sequence[tf.Tensor]) -> tf.Tensor:
    """Finds the (row, expert) pairs that any of several gates chose.

    Args:
        routing_weights: list of tensors `(rows, num_experts)`.

    Returns:
        A bool tensor `(rows, num_experts)`.
    """
    # Not `> 0`: a NaN must reach the output of its row, not vanish.
    return tf.reduce_any(
        tf.stack([tf.not_equal(each, 0.0) for each in routing_weights]), axis=0
    )


def find_routed_pairs(chosen: tf.Tensor) -> RoutedPairs:
    """Lists the chosen (row, expert) pairs, those of expert 0 first.

    Args:
        chosen: bool tensor `(rows, num_experts)`.

    Returns:
        The pairs and how many of them belong to each expert.
    """
    num_experts = chosen.shape[-1]
    experts, rows = tf.unstack(tf.where(tf.transpose(chosen)), axis=1)
    ends = tf.searchsorted(
        experts, tf.range(num_experts, dtype=tf.int64), side="right"
    )
    counts = ends - tf.concat([[0], ends[:-1]], axis=0)
    return RoutedPairs(rows, experts, counts)


def gather_routed(features: tf.Tensor, pairs: RoutedPairs) -> tf.Tensor:
    """Gathers the features of every pair.

    Args:
        features: tensor `(rows, ...)`.
        pairs: what `find_routed_pairs` returned.

    Returns:
        A tensor `(pairs, ...)` in the order of `pairs`.
    """
    if not features.dtype.is_floating:
        return tf.gather(features, pairs.rows)

    @tf.custom_gradient
    def gather(features: tf.Tensor, rows: tf.Tensor) -> Any:
        # Sums over the pairs of a row: that of tf.gather uses one core.
        def gradient(upstream: tf.Tensor) -> Any:
            shape = tf.shape(features, out_type=tf.int64)
            num_pairs = tf.shape(rows, out_type=tf.int64)
            dtype = _sum_dtype(upstream)
            found = sparse_product(
                tf.ones(num_pairs, dtype),
                tf.range(num_pairs[0]),
                rows,
                tf.stack([num_pairs[0], shape[0]]),
                _as_matrix(tf.cast(upstream, dtype)),
                transpose=True,
            )
            return tf.cast(tf.reshape(found, shape), features.dtype), None

        return tf.gather(features, rows), gradient

    # The gradient of tf.cond does not find what a branch did not make.
    gathered: tf.Tensor = gather(tf.identity(features), tf.identity(pairs.rows))
    return gathered


def dispatch(features: tf.Tensor, pairs: RoutedPairs) -> list[tf.Tensor]:
    """Gathers, for each expert, the rows that are routed to it.

    One gather for all experts, then views of its result.

    Args:
        features: tensor `(rows, ...)`.
        pairs: what `find_routed_pairs` returned.

    Returns:
        A list with one tensor `(counts[e], ...)` for each expert e.
    """
    gathered = gather_routed(features, pairs)
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
    *gates, num_rows, num_experts = tf.unstack(
        tf.shape(routing_weights, out_type=tf.int64)
    )
    num_gates = tf.math.reduce_prod(gates) if gates else tf.ones([], tf.int64)
    # (pairs, gates): the weight of each pair
    places = pairs.rows * num_experts + pairs.experts
    offsets = tf.range(num_gates) * num_rows * num_experts
    weights = tf.gather(
        tf.reshape(routing_weights, [-1]), places[:, tf.newaxis] + offsets
    )
    # Not `> 0`: a NaN must reach the output of its row, not vanish.
    entries = tf.where(tf.not_equal(weights, 0.0))
    pair, gate = tf.unstack(entries, axis=1)
    dtype = _sum_dtype(expert_outputs)
    num_pairs, *units = tf.unstack(tf.shape(expert_outputs, out_type=tf.int64))
    combined = sparse_product(
        tf.cast(tf.gather_nd(weights, entries), dtype),
        pair,
        gate * num_rows + tf.gather(pairs.rows, pair),
        tf.stack([num_pairs, num_gates * num_rows]),
        _as_matrix(tf.cast(expert_outputs, dtype)),
        transpose=True,
    )
    shape = tf.stack([*gates, num_rows, *units])
    return tf.cast(tf.reshape(combined, shape), expert_outputs.dtype)


def _sum_dtype(tensor: tf.Tensor) -> tf.DType:
    # The product knows no half precision, nor should a sum be made in it.
    return tf.float64 if tensor.dtype == tf.float64 else tf.float32


def _as_matrix(tensor: tf.Tensor) -> tf.Tensor:
    # Not -1: nothing can be inferred where there are no rows.
    shape = tf.shape(tensor)
    units = tf.math.reduce_prod(shape[1:])
    return tf.reshape(tensor, tf.stack([shape[0], units]))
