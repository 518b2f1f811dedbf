"""Says what is not finite, where that is known."""

import tensorflow as tf


def require_finite(values: tf.Tensor, source: str, remedy: str) -> tf.Tensor:
    """Names what is not finite, as a loss shows it late, or not at all.

    A compiled relu turns NaN into 0, but not its gradient. What XLA compiles
    cannot raise.

    Args:
        values: float tensor.
        source: str. What the values are.
        remedy: str. What to do about it.

    Returns:
        The values.

    Raises:
        InvalidArgumentError: Of TensorFlow, if a value is not finite.
    """
    # Gradients may overflow: loss scaling skips such steps.
    check = tf.debugging.check_numerics(
        tf.stop_gradient(values), f"{source} must be finite. {remedy}"
    )
    with tf.control_dependencies([check]):
        return tf.identity(values)
