"""Says what is not finite, where that is known."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_comet._keras import keras


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


def require_finite_gradients(
    optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]
) -> list[Any]:
    """Ends a step before it has changed any weight, and names one at fault.

    Gradients may be infinite where the loss is not. With a scale of the loss
    they may also overflow: `LossScaleOptimizer` skips such steps by itself.

    Args:
        optimizer: Keras optimizer.
        gradients: list of tensors, `tf.IndexedSlices` or `None`.
        variables: list of the variables they are of.

    Returns:
        The gradients.

    Raises:
        InvalidArgumentError: Of TensorFlow, if a gradient is not finite.
    """
    if isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer):
        return list(gradients)
    checks = [
        tf.debugging.check_numerics(
            tf.convert_to_tensor(getattr(gradient, "values", gradient)),
            f"The gradient of {getattr(variable, 'path', variable.name)!r} "
            "must be finite. No weight was changed by this step. Lower the "
            "learning rate, or look for a division by zero in the model.",
        )
        for gradient, variable in zip(gradients, variables, strict=True)
        if gradient is not None
    ]
    with tf.control_dependencies(checks):
        return [
            None
            if gradient is None
            else tf.nest.map_structure(
                tf.identity, gradient, expand_composites=True
            )
            for gradient in gradients
        ]
