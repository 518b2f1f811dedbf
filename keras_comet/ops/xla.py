"""Tells whether the graph at hand will be compiled by XLA."""

import tensorflow as tf


def compiles_with_xla() -> bool:
    """True while a function with `jit_compile=True` is being traced.

    XLA needs shapes that do not depend on the data, so that code with such
    shapes must take another way there.
    """
    if tf.executing_eagerly():
        return False
    graph = tf.compat.v1.get_default_graph()
    while graph is not None:
        context = graph._get_control_flow_context()
        while context is not None:
            if context.IsXLAContext():
                return True
            context = context.outer_context
        graph = getattr(graph, "outer_graph", None)
    return False
