"""The weighted sum of the outputs of all experts."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import tensorflow as tf


def weighted_sum(
    expert_outputs: Sequence[tf.Tensor], routing_weights: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """Sums the outputs of all experts, weighted by each of several gates.

    `y_b = sum_e g_be f_e(x_b)`. Where a weight is zero, the output counts for
    nothing, infinity and NaN included.

    Args:
        expert_outputs: list of tensors `(rows, ...)`, one for each expert.
        routing_weights: list of tensors `(rows, num_experts)`, one for each
            gate.

    Returns:
        A list of tensors `(rows, ...)`, one for each gate.
    """
    num_experts = len(expert_outputs)

    def multiply_and_add(
        multiply: Callable[..., tf.Tensor], tensors: Sequence[tf.Tensor]
    ) -> list[tf.Tensor]:
        outputs, weights = tensors[:num_experts], tensors[num_experts:]
        return [_multiply_and_add(multiply, outputs, each) for each in weights]

    # An expert may overflow on rows that are not routed to it. That is rare,
    # and the product that allows for it slow. The gradient is made by hand,
    # as that of tf.cond is zeros for what was not done.
    @tf.custom_gradient
    def sum_fast(*tensors: tf.Tensor) -> Any:
        sums = multiply_and_add(tf.multiply, tensors)
        finite = tf.reduce_all(
            [tf.reduce_all(tf.math.is_finite(each)) for each in sums]
        )

        def differentiate(
            multiply: Callable[..., tf.Tensor], upstream: Sequence[tf.Tensor]
        ) -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                sums = multiply_and_add(multiply, tensors)
            gradients: list[tf.Tensor] = tape.gradient(
                sums, tensors, list(upstream)
            )
            return gradients

        def gradient(*upstream: tf.Tensor) -> Any:
            return tf.cond(
                finite,
                lambda: differentiate(tf.multiply, upstream),
                lambda: differentiate(tf.math.multiply_no_nan, upstream),
            )

        sums = tf.cond(
            finite,
            lambda: sums,
            lambda: multiply_and_add(tf.math.multiply_no_nan, tensors),
        )
        return sums, gradient

    # The gradient of tf.cond does not find what a branch did not make.
    sums: list[tf.Tensor] = sum_fast(
        *[tf.identity(each) for each in (*expert_outputs, *routing_weights)]
    )
    return sums


def _multiply_and_add(
    multiply: Callable[..., tf.Tensor],
    outputs: Sequence[tf.Tensor],
    weights: tf.Tensor,
) -> tf.Tensor:
    # (rows,) -> (rows, 1, ...), to multiply along the trailing axes
    shape = [-1] + [1] * (outputs[0].shape.rank - 1)
    # The gradient of unstacking is one stack, that of an index a matrix for
    # each expert.
    columns = tf.unstack(weights, num=len(outputs), axis=1)
    return tf.add_n(
        [
            multiply(output, tf.reshape(tf.cast(column, output.dtype), shape))
            for output, column in zip(outputs, columns, strict=True)
        ]
    )
