"""Mixtures and a gate in plain TensorFlow, to compare keras_comet with."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

Expert = Callable[[tf.Tensor], tf.Tensor]

# Kernels (num_experts, inputs, units) and biases (num_experts, units) of each
# layer. All layers have a relu but the last of several.
Layers = Sequence[tuple[np.ndarray, np.ndarray]]


def has_relu(index: int, num_layers: int) -> bool:
    """Whether the layer of this index has a relu."""
    return index < num_layers - 1 or num_layers == 1


class Perceptron(tf.Module):
    """One expert with variables of its own.

    Args:
        layers: list of `(kernel, bias)`.
    """

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.kernels = [tf.Variable(kernel) for kernel, _ in layers]
        self.biases = [tf.Variable(bias) for _, bias in layers]

    def __call__(self, rows: tf.Tensor) -> tf.Tensor:
        for index, kernel in enumerate(self.kernels):
            rows = tf.nn.bias_add(tf.matmul(rows, kernel), self.biases[index])
            if has_relu(index, len(self.kernels)):
                rows = tf.nn.relu(rows)
        return rows


def make_perceptrons(layers: Layers) -> list[Perceptron]:
    """Makes one `Perceptron` for each expert of stacked layers."""
    return [
        Perceptron([(k[expert], b[expert]) for k, b in layers])
        for expert in range(len(layers[0][0]))
    ]


def dense_loop(
    experts: Sequence[Expert],
    rows: tf.Tensor,
    routing_weights: Sequence[tf.Tensor],
) -> list[tf.Tensor]:
    """Calls all experts on all rows, one after the other.

    Args:
        experts: list of functions of rows.
        rows: tensor `(rows, ...)`.
        routing_weights: list of tensors `(rows, num_experts)`, one a gate.

    Returns:
        A list with one mixture `(rows, units)` a gate.
    """
    outputs = [expert(rows) for expert in experts]
    return [
        tf.add_n([y * w[:, e : e + 1] for e, y in enumerate(outputs)])
        for w in routing_weights
    ]


class DenseEinsum(tf.Module):
    """All experts on all rows, one product a layer over stacked kernels.

    Args:
        layers: list of `(kernels, biases)`, stacked.
    """

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.kernels = [tf.Variable(kernel) for kernel, _ in layers]
        self.biases = [tf.Variable(bias) for _, bias in layers]

    def __call__(
        self, rows: tf.Tensor, routing_weights: Sequence[tf.Tensor]
    ) -> list[tf.Tensor]:
        hidden = rows
        equation = "bi,nio->nbo"
        for index, kernel in enumerate(self.kernels):
            hidden = tf.einsum(equation, hidden, kernel)
            hidden += self.biases[index][:, tf.newaxis]
            if has_relu(index, len(self.kernels)):
                hidden = tf.nn.relu(hidden)
            equation = "nbi,nio->nbo"
        return [tf.einsum("nbo,bn->bo", hidden, w) for w in routing_weights]


def masked_loop(
    experts: Sequence[Expert],
    rows: tf.Tensor,
    routing_weights: Sequence[tf.Tensor],
) -> list[tf.Tensor]:
    """Calls each expert on its rows, and adds its output to those rows.

    Takes and returns what `dense_loop` does. What any gate chose is computed
    once.
    """
    chosen = tf.reduce_any(tf.stack([w > 0.0 for w in routing_weights]), 0)
    totals: list[tf.Tensor] = []
    for e, expert in enumerate(experts):
        indices = tf.where(chosen[:, e])
        output = expert(tf.gather(rows, indices[:, 0]))
        if not totals:
            shape = tf.stack([tf.shape(rows)[0], tf.shape(output)[-1]])
            totals = [tf.zeros(shape, output.dtype) for _ in routing_weights]
        totals = [
            tf.tensor_scatter_nd_add(
                total,
                indices,
                output * tf.gather(w[:, e : e + 1], indices[:, 0]),
            )
            for total, w in zip(totals, routing_weights, strict=True)
        ]
    return totals


def smooth_step(z: tf.Tensor, gamma: float = 1.0) -> tf.Tensor:
    """`-2 z^3/gamma^3 + 3 z/(2 gamma) + 1/2`, with 0 and 1 outside."""
    z = tf.clip_by_value(z, -gamma / 2, gamma / 2)
    return -2 / gamma**3 * z**3 + 3 / (2 * gamma) * z + 0.5


class RecursiveTree(tf.Module):
    """COMET's gate computed node by node, each node with its own variables.

    The formula of the paper as a recursion over the nodes of k trees: a split
    hands its probability to its two children, a leaf computes its logit.

    Args:
        split_kernel: array `(features, k, num_experts - 1)`, heap order.
        split_bias: array `(k, num_experts - 1)`.
        leaf_kernel: array `(features, k, num_experts)`, left to right.
        leaf_bias: array `(k, num_experts)`.
    """

    def __init__(
        self,
        split_kernel: np.ndarray,
        split_bias: np.ndarray,
        leaf_kernel: np.ndarray,
        leaf_bias: np.ndarray,
    ) -> None:
        super().__init__()
        self.splits = self._make_nodes(split_kernel, split_bias)
        self.leaves = self._make_nodes(leaf_kernel, leaf_bias)

    def _make_nodes(self, kernel: np.ndarray, bias: np.ndarray) -> list[Any]:
        return [
            (tf.Variable(kernel[:, :, i]), tf.Variable(bias[:, i]))
            for i in range(kernel.shape[-1])
        ]

    def __call__(self, rows: tf.Tensor) -> tf.Tensor:
        root = tf.ones([tf.shape(rows)[0], self.leaves[0][1].shape[0]])
        # (batch, k, num_experts), and one softmax over the last two axes.
        reached = tf.stack(self._descend(0, root, rows), axis=-1)
        logits = tf.stack(
            [tf.matmul(rows, kernel) + bias for kernel, bias in self.leaves],
            axis=-1,
        )
        possible = tf.where(reached > 0.0, logits, logits.dtype.min)
        highest = tf.reduce_max(possible, axis=[1, 2], keepdims=True)
        weights = reached * tf.exp(
            tf.minimum(logits - tf.stop_gradient(highest), 0.0)
        )
        weights = tf.reduce_sum(weights, axis=1)
        return weights / tf.reduce_sum(weights, axis=1, keepdims=True)

    def _descend(
        self, node: int, probability: tf.Tensor, rows: tf.Tensor
    ) -> list[tf.Tensor]:
        """Computes the probabilities of the leaves below, left to right."""
        if node >= len(self.splits):
            return [probability]
        kernel, bias = self.splits[node]
        left = smooth_step(tf.matmul(rows, kernel) + bias)
        return [
            *self._descend(2 * node + 1, probability * left, rows),
            *self._descend(2 * node + 2, probability * (1.0 - left), rows),
        ]
