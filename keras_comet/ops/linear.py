"""Several linear maps of the same inputs as one matrix product."""

import tensorflow as tf


def linear(
    inputs: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None = None
) -> tf.Tensor:
    """`y[..., u] = sum_d inputs[..., d] kernel[d, u] + bias[u]`.

    Args:
        inputs: float or integer tensor `(..., d)`.
        kernel: float tensor `(d, *units)` of static shape.
        bias: float tensor `(*units,)`, or `None`.

    Returns:
        A tensor `(..., *units)`.

    Raises:
        ValueError: If `inputs` are strings.
    """
    if inputs.dtype == tf.string:
        raise ValueError(
            "A linear map reads numbers. Received: inputs of dtype string. "
            "Encode them first, for example as an embedding."
        )
    inputs = tf.cast(inputs, kernel.dtype)
    depth, *units = kernel.shape
    shape = tf.concat([tf.shape(inputs)[:-1], units], axis=0)
    if 0 in units:
        # oneDNN aborts the process on a product without outputs.
        outputs = tf.zeros(shape, kernel.dtype)
    else:
        outputs = tf.matmul(
            tf.reshape(inputs, [-1, depth]), tf.reshape(kernel, [depth, -1])
        )
        if bias is not None:
            outputs += tf.reshape(bias, [-1])
        outputs = tf.reshape(outputs, shape)
    return tf.ensure_shape(outputs, [*inputs.shape[:-1], *units])
