"""What routing weights are replaced by when a gate is overruled."""

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import tensorflow as tf

# Turns the routing weights (..., num_experts) of the next batch into others.
Intervention: TypeAlias = Callable[[tf.Tensor], tf.Tensor]


def make_interventions(
    rows: np.ndarray, seed: int
) -> dict[str | int, Intervention]:
    """Makes the interventions of `routing_ablation`, for one pass of the data.

    Args:
        rows: float array `(rows, num_experts)`, the weights on all data.
        seed: int. Seed of the shuffling.

    Returns:
        A dict from name to intervention; each expert alone has its number.
    """
    return {
        # In float64 the mean of equal rows is exactly that row.
        "mean_weights": _constant(rows.mean(axis=0, dtype="float64")),
        "shuffled": _Shuffled(rows, seed),
        "largest_only": _keep_largest,
        **dict(enumerate(map(_constant, np.eye(rows.shape[-1])))),
    }


class _Shuffled:
    """Deals the rows of all batches out in another order.

    Args:
        rows: float array `(rows, num_experts)`.
        seed: int.
    """

    def __init__(self, rows: np.ndarray, seed: int) -> None:
        self._rows = np.random.default_rng(seed).permutation(rows)
        self._next = 0

    def __call__(self, weights: tf.Tensor) -> tf.Tensor:
        start = self._next
        self._next += math.prod(weights.shape[:-1])
        rows = tf.constant(self._rows[start : self._next], weights.dtype)
        return tf.reshape(rows, weights.shape)


def _keep_largest(weights: tf.Tensor) -> tf.Tensor:
    largest = tf.argmax(weights, axis=-1)
    return tf.one_hot(largest, weights.shape[-1], dtype=weights.dtype)


def _constant(row: np.ndarray) -> Intervention:
    return lambda weights: tf.broadcast_to(
        tf.constant(row, weights.dtype), weights.shape
    )
