"""Experts and routing of the sizes that the benchmarks share."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import keras_comet
from benchmarks.baselines import Layers
from benchmarks.baselines import has_relu


class GivenWeights(keras_comet.Gate):
    """Routes by weights that come in as the routing inputs.

    So the benchmarks control density and skew. A trainable scale for each
    expert keeps the gradient of the weights in the training step.
    """

    def build(self, input_shape):
        self.scale = self.add_weight(
            name="scale", shape=(self.num_experts,), initializer="ones"
        )
        super().build(input_shape)

    def route(self, routing_inputs, training):
        """The weights themselves, as one selector."""
        scaled = routing_inputs * tf.convert_to_tensor(self.scale)
        return scaled[..., tf.newaxis, :], {}


def make_layers(num_experts: int, depth: int, *widths: int) -> Layers:
    """Draws kernels and biases of equal perceptrons, stacked."""
    rng = np.random.default_rng(0)
    layers = []
    for width in widths:
        spread = np.sqrt(2.0 / depth)
        kernels = spread * rng.standard_normal((num_experts, depth, width))
        biases = 0.01 * rng.standard_normal((num_experts, width))
        layers.append((kernels.astype("float32"), biases.astype("float32")))
        depth = width
    return layers


def list_experts(
    layers: Layers, dtype: str = "float32"
) -> list[keras.layers.Layer]:
    """Makes a list of Keras models with these weights."""
    experts = []
    for expert in range(len(layers[0][0])):
        model = keras.Sequential(
            [
                keras.layers.Dense(units, activation, dtype=dtype)
                for units, activation in _units_and_activations(layers)
            ]
        )
        model.build((None, layers[0][0].shape[1]))
        model.set_weights([each[expert] for layer in layers for each in layer])
        experts.append(model)
    return experts


def stacked_experts(layers: Layers) -> keras_comet.StackedDenseExperts:
    """Makes `StackedDenseExperts` with these weights."""
    units, activations = zip(*_units_and_activations(layers), strict=True)
    experts = keras_comet.StackedDenseExperts(
        len(layers[0][0]), list(units), list(activations)
    )
    experts.build((None, layers[0][0].shape[1]))
    for index, (kernels, biases) in enumerate(layers):
        experts.kernels[index].assign(kernels)
        experts.biases[index].assign(biases)
    return experts


def _units_and_activations(layers: Layers) -> list[tuple[int, str | None]]:
    return [
        (
            kernels.shape[-1],
            "relu" if has_relu(index, len(layers)) else None,
        )
        for index, (kernels, _) in enumerate(layers)
    ]


def convolution_experts(num_experts: int) -> list[keras.layers.Layer]:
    """Makes experts of two convolutions with pooling, for images 28 x 28."""
    experts = []
    for _ in range(num_experts):
        model = keras.Sequential(
            [
                keras.layers.Conv2D(16, 3, activation="relu"),
                keras.layers.MaxPool2D(),
                keras.layers.Conv2D(32, 3, activation="relu"),
                keras.layers.MaxPool2D(),
                keras.layers.Flatten(),
                keras.layers.Dense(64),
            ]
        )
        model.build((None, 28, 28, 1))
        experts.append(model)
    return experts


def random_rows(batch: int, *shape: int) -> np.ndarray:
    """Draws standard normal features."""
    rng = np.random.default_rng(1)
    return rng.standard_normal((batch, *shape)).astype("float32")


def balanced_weights(
    batch: int, num_experts: int, k: int, seed: int = 0
) -> np.ndarray:
    """Draws routing weights of k random experts a row, all equally likely."""
    rng = np.random.default_rng(seed)
    keys = rng.random((batch, num_experts))
    experts = np.argsort(keys, axis=1)[:, :k]
    return _draw_weights(experts, num_experts, rng)


def skewed_weights(batch: int, num_experts: int, seed: int = 0) -> np.ndarray:
    """Draws weights of two experts a row; 0 and 1 take 60 % of the pairs."""
    rng = np.random.default_rng(seed)
    keys = rng.random((batch, num_experts))
    # Both, one or none of the two: (2 * 0.4 + 0.4) / 2 = 0.6 of the pairs.
    popular = rng.choice([2, 1, 0], size=batch, p=[0.4, 0.4, 0.2])
    keys[:, :2] += 1.0
    first = rng.integers(2, size=batch)
    rows = np.arange(batch)
    keys[rows[popular > 0], first[popular > 0]] -= 2.0
    keys[rows[popular > 1], 1 - first[popular > 1]] -= 2.0
    experts = np.argsort(keys, axis=1)[:, :2]
    return _draw_weights(experts, num_experts, rng)


def _draw_weights(
    experts: np.ndarray, num_experts: int, rng: np.random.Generator
) -> np.ndarray:
    """Draws weights of the given experts that sum to one."""
    weights = np.zeros((len(experts), num_experts), "float32")
    values = rng.uniform(0.1, 1.0, size=experts.shape)
    values /= values.sum(axis=1, keepdims=True)
    np.put_along_axis(weights, experts, values.astype("float32"), axis=1)
    return weights


def count_pairs(weights: list[np.ndarray]) -> int:
    """Counts the distinct (row, expert) pairs of several gates."""
    return int(np.count_nonzero(np.any([w > 0 for w in weights], axis=0)))


def make_mixture(
    experts: Any, num_gates: int, dispatch: str, dtype: str = "float32"
) -> tuple[Callable[..., Any], keras_comet.MultiGateMixtureOfExperts]:
    """Makes a mixture of these experts under `GivenWeights`.

    Returns:
        A function of rows and a list of routing weights, one a gate, and the
        mixture that it calls.
    """
    stacked = isinstance(experts, keras_comet.StackedDenseExperts)
    num_experts = experts.num_experts if stacked else len(experts)
    tasks = [f"task_{index}" for index in range(num_gates)]
    mixture = keras_comet.MultiGateMixtureOfExperts(
        experts,
        {task: GivenWeights(num_experts) for task in tasks},
        dispatch=dispatch,
        dtype=dtype,
    )

    def combine(rows: Any, routing_weights: Any) -> list[Any]:
        named = dict(zip(tasks, routing_weights, strict=True))
        return list(mixture((rows, named)).values())

    return combine, mixture


def with_gates(
    combine: Callable[..., Any], num_experts: int, num_gates: int
) -> tuple[Callable[..., Any], list[Any]]:
    """Lets a baseline run, and train, the gates that our mixture has.

    Returns:
        A function like `combine`, of rows and a list of routing weights, and
        the variables of the gates.
    """
    gates = [GivenWeights(num_experts) for _ in range(num_gates)]
    for gate in gates:
        gate.build((None, num_experts))

    def call(rows: Any, routing_weights: Any) -> Any:
        weights = [
            gate(each)
            for gate, each in zip(gates, routing_weights, strict=True)
        ]
        return combine(rows, weights)

    return call, [v for gate in gates for v in gate.trainable_variables]
