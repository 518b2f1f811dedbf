"""A conditional that leaves no trace where its condition is known."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def static_cond(
    pred: Any, true_fn: Callable[[], Any], false_fn: Callable[[], Any]
) -> Any:
    """Calls one of two functions; in a graph, `tf.cond` only if it must.

    Eager tensors, constants of a graph, and Python and NumPy bools are known
    while the graph is traced, which then holds the branch that is taken and
    no conditional.

    Args:
        pred: bool scalar: tensor, array or Python bool.
        true_fn: function without arguments, called if `pred` is true.
        false_fn: function without arguments, called if it is not; returns
            tensors of the same types and structure.

    Returns:
        What the function that was called returns.
    """
    known = tf.get_static_value(pred)
    if known is None:
        return tf.cond(pred, true_fn, false_fn)
    return true_fn() if known else false_fn()
