"""Several linear maps of the same inputs: all of them, or some for each row."""

from collections.abc import Callable

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


def linear_at(
    inputs: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Prepares `y[..., j] = inputs[...] . kernel[:, j, i] + bias[j, i]`.

    Args:
        inputs: float or integer tensor `(..., d)`.
        kernel: float tensor `(d, j, u)` of static shape.
        bias: float tensor `(j, u)`.

    Returns:
        A function of int tensors `(..., j)`, i for each row and j, which
        returns `(..., j)`. It computes these maps only.
    """
    depth, groups, units = kernel.shape
    inputs = tf.cast(inputs, kernel.dtype)
    # Rows of memory, which are gathered much faster than columns.
    kernels = tf.reshape(tf.transpose(kernel, [1, 2, 0]), [-1, depth])
    biases = tf.reshape(bias, [-1])

    def apply(indices: tf.Tensor) -> tf.Tensor:
        flat = indices + units * tf.range(groups, dtype=indices.dtype)
        products = tf.linalg.matvec(tf.gather(kernels, flat), inputs)
        return products + tf.gather(biases, flat)

    return apply
