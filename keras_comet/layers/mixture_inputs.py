"""What a mixture is called on: features, and perhaps routing inputs."""

from typing import Any

import tensorflow as tf


def split_shapes(input_shape: Any) -> tuple[Any, Any]:
    """Splits the shapes of `features` or `(features, routing_inputs)`.

    Returns:
        The shape of the features, and the shape of the routing inputs (or a
        dict of shapes), which is `None` if features came alone.
    """
    first = tuple(input_shape)[0]
    if first is None or isinstance(first, int):
        return tuple(input_shape), None
    features_shape, routing_shape = _check_pair(input_shape)
    return tuple(features_shape), routing_shape


def split_inputs(inputs: Any) -> tuple[tf.Tensor, Any]:
    """Splits `features` or `(features, routing_inputs)`."""
    if isinstance(inputs, (list, tuple)):
        features, routing_inputs = _check_pair(inputs)
        return features, routing_inputs
    return inputs, None


def _check_pair(inputs: Any) -> Any:
    if len(inputs) != 2:
        raise ValueError(
            "A mixture takes `features` or `(features, routing_inputs)`. "
            f"Received: {len(inputs)} inputs. Concatenate features into one "
            "tensor first."
        )
    return inputs


def check_leading_axes(
    features_shape: tuple[int | None, ...],
    weights_shape: tuple[int | None, ...],
    given: bool,
) -> tuple[int | None, ...]:
    """Returns the shape of what an expert sees of one routed row.

    Args:
        features_shape: shape of the features.
        weights_shape: shape of the gate's routing weights.
        given: bool. Whether routing inputs were given.

    Raises:
        ValueError: If the features do not start with the gate's leading
            axes, or features of rank 4 came without routing inputs.
    """
    if not given and len(features_shape) > 3:
        raise ValueError(
            "Features of rank 4 and more need routing inputs of their own, "
            "as a gate reads one vector per example. Received: features "
            f"{features_shape}. Call the layer with (features, "
            "routing_inputs), routing_inputs of shape (batch, features)."
        )
    leading = weights_shape[:-1]
    matches = len(features_shape) > len(leading) and all(
        size is None or other is None or size == other
        for size, other in zip(leading, features_shape, strict=False)
    )
    if not matches:
        raise ValueError(
            "The features must start with the axes that are routed, (batch,) "
            f"or (batch, time). Received: features {features_shape} and "
            f"routing weights {weights_shape}"
        )
    return features_shape[len(leading) :]
