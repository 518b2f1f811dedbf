"""Replaces what gates return, for as long as a context lasts."""

import contextlib
from collections.abc import Callable
from collections.abc import Iterator

import tensorflow as tf

from keras_comet.gates.base import Gate
from keras_comet.gates.base import routing_replacement


@contextlib.contextmanager
def replace_routing(
    function: Callable[[Gate, tf.Tensor], tf.Tensor],
) -> Iterator[None]:
    """Lets a function change what gates return meanwhile in this thread.

    Calls in a graph are left as they are. Within a replacement, another one
    takes over until it ends. Nothing of it is left in the gates.

    Args:
        function: function of a gate and its routing weights
            `(..., num_experts)` that returns others of the same shape.

    Yields:
        Nothing.
    """
    token = routing_replacement.set(function)
    try:
        yield
    finally:
        routing_replacement.reset(token)
