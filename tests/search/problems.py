"""Problems whose best permutation is known."""

import numpy as np
import tensorflow as tf

import keras_comet

KINDS = ("hash", "top_k", "dselect_k", "comet")
DEPTH = 12
HIDDEN = 6


def make_gate(kind, n, batch, permutation):
    if kind == "hash":
        gate = keras_comet.HashGate(n, num_ids=batch, permutation=permutation)
        gate.build((None,))
        return gate
    if kind == "top_k":
        gate = keras_comet.TopKGate(n, permutation=permutation)
    # Narrow smooth-steps: every split and digit saturates.
    elif kind == "comet":
        gate = keras_comet.COMETGate(n, gamma=1e-4, permutation=permutation)
    else:
        gate = keras_comet.DSelectKGate(n, gamma=1e-4, permutation=permutation)
    gate.build((None, DEPTH))
    return gate


def draw_gate(gate, random):
    """Makes a gate choose experts at random."""
    if isinstance(gate, keras_comet.HashGate):
        drawn = random.integers(0, gate.num_experts, gate.num_ids)
        gate.assignment.assign(drawn)
        return
    for name in ("kernel", "split_kernel", "selector_kernel"):
        if hasattr(gate, name):
            kernel = getattr(gate, name)
            kernel.assign(random.normal(size=kernel.shape))


class Planted:
    """Fixed experts, a gate relabelled by a hidden permutation, a tanh head.

    With `num_layers` mixtures one after the other, each with a permutation.
    """

    def __init__(
        self, kind, n, seed, batch=256, num_permutations=1, num_layers=1
    ):
        self.num_experts = n
        self.mixtures = []
        self.permutations = []
        depth = DEPTH
        for _ in range(num_layers):
            permutation = keras_comet.ExpertPermutation(n, num_permutations)
            # Each is relu(x W), as biases are zero.
            experts = keras_comet.StackedDenseExperts(n, [HIDDEN], "relu")
            experts.build((None, depth))
            gate = make_gate(kind, n, batch, permutation)
            # Fewer operations to trace, and the same result.
            self.mixtures.append(
                keras_comet.MixtureOfExperts(experts, gate, dispatch="dense")
            )
            self.permutations.append(permutation)
            depth = HIDDEN
        self.features = tf.Variable(tf.zeros((batch, DEPTH)))
        self.reads = tf.range(batch) if kind == "hash" else self.features
        self.head = tf.Variable(tf.zeros((HIDDEN, 1)))
        self.target = tf.Variable(tf.zeros((batch, 1)))
        self.draw(seed)

    def draw(self, seed):
        """Draws all anew, without another function to trace."""
        random = np.random.default_rng([seed, self.num_experts])
        self.features.assign(random.normal(size=self.features.shape))
        for mixture in self.mixtures:
            for weight in mixture.experts.trainable_weights:
                shape = tuple(weight.shape)
                if len(shape) == 3:
                    kernel = random.normal(size=shape) / shape[1] ** 0.5
                    weight.assign(kernel)
            draw_gate(mixture.gate, random)
        self.head.assign(random.normal(size=self.head.shape))
        for each in self.permutations:
            num_rows = each.num_permutations
            each.freeze(
                [random.permutation(self.num_experts) for _ in range(num_rows)]
            )
        self.target.assign(self.predict())
        for each in self.permutations:
            each.freeze([range(self.num_experts)] * each.num_permutations)

    def predict(self):
        hidden = tf.convert_to_tensor(self.features)
        reads = tf.convert_to_tensor(self.reads)
        for mixture in self.mixtures:
            hidden = mixture((hidden, reads), training=False)
        return tf.tanh(hidden @ self.head)

    def loss(self):
        return tf.reduce_mean((self.predict() - self.target) ** 2)
