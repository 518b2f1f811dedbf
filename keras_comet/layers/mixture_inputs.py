"""What a mixture is called on: features, and perhaps routing inputs."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any


def split_shapes(input_shape: Any) -> tuple[Any, Any, bool]:
    """Splits the shapes of `features` or `(features, routing_inputs)`.

    Returns:
        The shape of the features (or a dict of shapes), that of the routing
        inputs (likewise), which are the features if they came alone, and
        whether routing inputs were given.
    """
    if isinstance(input_shape, Mapping):
        return input_shape, input_shape, False
    first = tuple(input_shape)[0]
    if first is None or isinstance(first, int):
        return tuple(input_shape), tuple(input_shape), False
    features_shape, routing_shape = _check_pair(input_shape)
    if not isinstance(features_shape, Mapping):
        features_shape = tuple(features_shape)
    return features_shape, routing_shape, True


def split_inputs(inputs: Any) -> tuple[Any, Any]:
    """Splits `features` or `(features, routing_inputs)`."""
    if isinstance(inputs, (list, tuple)):
        features, routing_inputs = _check_pair(inputs)
        return features, routing_inputs
    return inputs, inputs


def _check_pair(inputs: Any) -> Any:
    if len(inputs) != 2:
        raise ValueError(
            "A mixture takes `features` or `(features, routing_inputs)`. "
            f"Received: {len(inputs)} inputs. Concatenate features first."
        )
    return inputs


def check_leading_axes(
    features_shape: Sequence[Any],
    weights_shape: Sequence[Any],
    given: bool,
    reads_ids: bool,
) -> tuple[Any, ...]:
    """Returns the shape of what an expert sees of one routed row.

    Args:
        features_shape: shape of the features.
        weights_shape: shape of the gate's routing weights.
        given: bool. Whether routing inputs were given.
        reads_ids: bool. Whether the gate reads ids.
    """
    features_shape, weights_shape = tuple(features_shape), tuple(weights_shape)
    if not given and len(features_shape) > 3:
        raise ValueError(
            "Features of rank 4 and more need routing inputs (batch, "
            "features), as a gate reads one vector per example. Received: "
            f"{features_shape}. Call the layer with (features, routing_inputs)."
        )
    leading = weights_shape[:-1]
    matches = len(features_shape) > len(leading) and all(
        size is None or other is None or size == other
        for size, other in zip(leading, features_shape, strict=False)
    )
    if not matches and not given and reads_ids:
        raise ValueError(
            "A gate took the features for ids, one for each row, as no "
            f"routing inputs were given. Received: features {features_shape}. "
            "Call the layer with (features, ids) or, with several gates, with "
            "(features, {task: what its gate reads})."
        )
    if not matches:
        raise ValueError(
            "The features must start with the axes that are routed, (batch,) "
            f"or (batch, time). Received: features {features_shape} and "
            f"routing weights {weights_shape}"
        )
    return features_shape[len(leading) :]
