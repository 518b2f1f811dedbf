"""Moves of a search over permutations, the most promising first."""

import itertools
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import TypeAlias

import numpy as np
import tensorflow as tf

from keras_comet.ops import linear_assignment

# All rows `(n,)` of the assignments of all permutations, one after another.
Rows: TypeAlias = tuple[np.ndarray[Any, Any], ...]

# A gradient `(n, n)` for each row: `[i, e]` is what output i at expert e
# costs, to first order.
Costs: TypeAlias = Sequence[np.ndarray[Any, Any]]

# 3-cycles are sought among the outputs that gain most by moving.
_MOST_OUTPUTS = 64

_assign = tf.function(linear_assignment)


def neighbours(rows: Rows, costs: Costs) -> Iterator[Rows]:
    """Yields the rows of least first-order cost, and then every swap.

    Args:
        rows: tuple of int arrays `(n,)`.
        costs: list of float arrays `(n, n)`, one for each row.
    """
    return itertools.chain(assignments(rows, costs), swaps(rows, costs))


def assignments(rows: Rows, costs: Costs) -> Iterator[Rows]:
    """Yields the rows of least first-order cost: all at once, then each.

    Args:
        rows: tuple of int arrays `(n,)`.
        costs: list of float arrays `(n, n)`, one for each row.
    """
    best = tuple(_assign(cost).numpy() for cost in costs)
    if len(rows) > 1:
        yield best
    for index, row in enumerate(best):
        yield _replace(rows, index, row)


def swaps(rows: Rows, costs: Costs) -> Iterator[Rows]:
    """Yields every swap of two experts within a row.

    Args:
        rows: tuple of int arrays `(n,)`.
        costs: list of float arrays `(n, n)`, one for each row.
    """
    deltas, moves = [], []
    for index, (row, cost) in enumerate(zip(rows, costs, strict=True)):
        delta = _first_order_deltas(row, cost)
        first, second = np.triu_indices(len(row), 1)
        deltas.append((delta + delta.T)[first, second])
        moves += [(index, [i, j]) for i, j in zip(first, second, strict=True)]
    for best in np.argsort(np.concatenate(deltas), kind="stable"):
        yield _cycle(rows, *moves[best])


def three_cycles(rows: Rows, costs: Costs, count: int) -> list[Rows]:
    """Lists cyclic exchanges of three experts within a row.

    Args:
        rows: tuple of int arrays `(n,)`.
        costs: list of float arrays `(n, n)`, one for each row.
        count: int. Most cycles to list.
    """
    cycles = []
    for index, (row, cost) in enumerate(zip(rows, costs, strict=True)):
        delta = _first_order_deltas(row, cost)
        candidates = np.argsort(delta.min(axis=1))[:_MOST_OUTPUTS]
        delta = delta[np.ix_(candidates, candidates)]
        total = delta[:, :, np.newaxis] + delta + delta.T[:, np.newaxis]
        outputs = np.arange(len(candidates))
        i, j, k = np.ix_(outputs, outputs, outputs)
        # Each cycle once, and of three different outputs.
        total = np.where((i < j) & (i < k) & (j != k), total, np.inf)
        for flat in np.argsort(total, axis=None)[:count]:
            if np.isfinite(total.flat[flat]):
                cycle = candidates[list(np.unravel_index(flat, total.shape))]
                cycles.append((total.flat[flat], index, cycle))
    cycles.sort(key=lambda each: each[0])
    return [_cycle(rows, index, cycle) for _, index, cycle in cycles[:count]]


def _first_order_deltas(
    row: np.ndarray[Any, Any], cost: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """Returns at `[i, j]` what output i taking the expert of j changes."""
    cost = cost[:, row]
    return cost - np.diag(cost)[:, np.newaxis]


def _cycle(rows: Rows, index: int, outputs: Any) -> Rows:
    """Gives each of the outputs the expert of the next one."""
    row = rows[index].copy()
    row[outputs] = row[np.roll(outputs, -1)]
    return _replace(rows, index, row)


def _replace(rows: Rows, index: int, row: np.ndarray[Any, Any]) -> Rows:
    return (*rows[:index], row, *rows[index + 1 :])
