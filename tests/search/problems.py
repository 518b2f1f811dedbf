"""Problems whose best permutation is known."""

import numpy as np
import tensorflow as tf

import keras_comet

KINDS = ("hash", "top_k", "dselect_k", "comet")
DEPTH = 12
HIDDEN = 6


def make_gate(kind, n, batch, random, permutation):
    """A gate that has settled on experts, and what it reads."""
    if kind == "hash":
        gate = keras_comet.HashGate(n, num_ids=batch, permutation=permutation)
        gate.build((None,))
        gate.assignment.assign(random.integers(0, n, batch))
        return gate
    if kind == "top_k":
        gate = keras_comet.TopKGate(n, permutation=permutation)
        gate.build((None, DEPTH))
        gate.kernel.assign(random.normal(size=(DEPTH, n)))
        return gate
    # Narrow smooth-steps: every split and digit saturates.
    if kind == "comet":
        gate = keras_comet.COMETGate(n, gamma=1e-4, permutation=permutation)
        gate.build((None, DEPTH))
        gate.split_kernel.assign(random.normal(size=gate.split_kernel.shape))
        return gate
    gate = keras_comet.DSelectKGate(n, gamma=1e-4, permutation=permutation)
    gate.build((None, DEPTH))
    gate.selector_kernel.assign(random.normal(size=gate.selector_kernel.shape))
    return gate


class Planted:
    """Fixed experts, a gate relabelled by a hidden permutation, a tanh head.

    With `num_layers` mixtures one after the other, each with a permutation.
    """

    def __init__(
        self, kind, n, seed, batch=256, num_permutations=1, num_layers=1
    ):
        random = np.random.default_rng([seed, n])
        self.mixtures = []
        self.permutations = []
        features = random.normal(size=(batch, DEPTH)).astype("float32")
        reads = np.arange(batch) if kind == "hash" else features
        self.features, self.reads = tf.constant(features), tf.constant(reads)
        depth = DEPTH
        for _ in range(num_layers):
            permutation = keras_comet.ExpertPermutation(n, num_permutations)
            # Each is relu(x W), as biases are zero.
            experts = keras_comet.StackedDenseExperts(n, [HIDDEN], "relu")
            experts.build((None, depth))
            kernels = random.normal(size=(n, depth, HIDDEN)) / depth**0.5
            experts.set_weights(
                [
                    kernels if each.shape.rank == 3 else np.zeros(each.shape)
                    for each in map(tf.convert_to_tensor, experts.weights)
                ]
            )
            gate = make_gate(kind, n, batch, random, permutation)
            # Fewer operations to trace, and the same result.
            self.mixtures.append(
                keras_comet.MixtureOfExperts(experts, gate, dispatch="dense")
            )
            self.permutations.append(permutation)
            depth = HIDDEN
        self.head = tf.constant(random.normal(size=(HIDDEN, 1)), tf.float32)
        identity = [np.array(each.assignment) for each in self.permutations]
        for each in self.permutations:
            each.assignment.assign(
                [random.permutation(n) for _ in range(num_permutations)]
            )
        self.target = self.predict()
        for each, order in zip(self.permutations, identity, strict=True):
            each.assignment.assign(order)

    def predict(self):
        hidden = self.features
        for mixture in self.mixtures:
            hidden = mixture((hidden, self.reads), training=False)
        return tf.tanh(hidden @ self.head)

    def loss(self):
        return tf.reduce_mean((self.predict() - self.target) ** 2)
