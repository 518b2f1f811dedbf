"""Computes what layers cannot do without rows."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import tensorflow as tf


def if_nonempty(
    rows: tf.Tensor,
    compute: Callable[[tf.Tensor], tf.Tensor],
    output_shape: Sequence[Any],
    dtype: Any,
) -> tf.Tensor:
    """Calls a function of rows, unless there are none.

    Several Keras layers abort the process, or return NaN, for the gradient of
    an empty batch.

    Args:
        rows: tensor `(rows, ...)`.
        compute: function of rows that returns a tensor `(rows, ...)`.
        output_shape: list of int. What it makes of one row.
        dtype: dtype of what it returns.

    Returns:
        What the function returns, or a tensor without rows.
    """
    rows = tf.ensure_shape(rows, [None, *rows.shape[1:]])
    return tf.cond(
        tf.shape(rows)[0] > 0,
        lambda: compute(rows),
        lambda: tf.zeros([0, *output_shape], dtype),
    )
