"""Looks at the routing of a model of any shape."""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_comet._keras import flatten_layers
from keras_comet.gates.base import Gate
from keras_comet.gates.base import observe_gates


def routing_weights(model: Any, inputs: Any) -> dict[str, np.ndarray]:
    """Calls a model once, at inference, and returns what its gates chose.

    Args:
        model: Keras model with gates at any depth.
        inputs: one batch of the model's inputs.

    Returns:
        A dict from task name (without one: name of the gate) to routing
        weights `(batch, num_experts)`.

    Raises:
        ValueError: If the model has no gate.
    """
    if not any(isinstance(layer, Gate) for layer in flatten_layers(model)):
        raise ValueError(
            "The model must have at least one gate. Received: "
            f"{type(model).__name__} {model.name!r} without any"
        )
    weights: dict[str, np.ndarray] = {}

    def record(gate: Gate, routed: tf.Tensor) -> None:
        label = gate.task or gate.name
        if label in weights:
            label = f"{label}/{gate.name}"
        weights[label] = routed.numpy()

    tensors = tf.nest.map_structure(tf.convert_to_tensor, inputs)
    with observe_gates(record):
        model(tensors, training=False)
    return weights
