"""Problems whose best permutation is known."""

import keras
import numpy as np
import tensorflow as tf

import keras_comet

GATES = ("hash", "top_k", "dselect_k", "comet")

_ROWS = 1024
_FEATURES = 24
_OUTPUTS = 12


class PlantedProblem:
    """A gate whose outputs a hidden permutation has relabelled.

    Fixed experts, a gate with at most two experts a row, a nonlinear head;
    the targets are the model's own outputs under the hidden permutation, so
    that the smallest loss is zero, and known where.

    Args:
        gate: str. One of `GATES`; COMET and DSelect-k are saturated.
        num_experts: int.
        seed: int.
    """

    def __init__(self, gate: str, num_experts: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.num_experts = num_experts
        self.permutation = keras_comet.ExpertPermutation(num_experts)
        rows = rng.normal(size=(_ROWS, _FEATURES)).astype("float32")
        self._features = tf.constant(rows)
        self._routing_inputs = self._features
        if gate == "hash":
            self._routing_inputs = tf.range(_ROWS)
        self._mixture = keras_comet.MixtureOfExperts(
            [
                keras.layers.Dense(_OUTPUTS, "relu", use_bias=False)
                for _ in range(num_experts)
            ],
            self._make_gate(gate),
        )
        self._head = tf.constant(rng.normal(size=(_OUTPUTS, 1)), tf.float32)
        self._predict()
        self._draw_weights(gate, rng)
        self.hidden = rng.permutation(num_experts)[np.newaxis]
        self.permutation.freeze(self.hidden)
        self._targets = self._predict()
        self.permutation.freeze(np.arange(num_experts)[np.newaxis])
        self.loss_before = float(self.loss())

    def _make_gate(self, gate: str) -> keras_comet.Gate:
        shared = {"permutation": self.permutation}
        if gate == "hash":
            return keras_comet.HashGate(
                self.num_experts, num_ids=_ROWS, **shared
            )
        if gate == "top_k":
            return keras_comet.TopKGate(self.num_experts, k=2, **shared)
        # So narrow a smooth-step is a step.
        shared["gamma"] = 1e-4
        if gate == "dselect_k":
            return keras_comet.DSelectKGate(self.num_experts, k=2, **shared)
        return keras_comet.COMETGate(self.num_experts, k=2, **shared)

    def _draw_weights(self, gate: str, rng: np.random.Generator) -> None:
        for expert in self._mixture.experts:
            shape = expert.kernel.shape
            expert.kernel.assign(rng.normal(size=shape) / np.sqrt(_FEATURES))
        layer = self._mixture.gate
        if gate == "hash":
            layer.assignment.assign(rng.integers(0, self.num_experts, _ROWS))
        elif gate == "top_k":
            layer.kernel.assign(rng.normal(size=layer.kernel.shape))
        elif gate == "dselect_k":
            shape = layer.selector_kernel.shape
            layer.selector_kernel.assign(rng.normal(size=shape))
        else:
            layer.split_kernel.assign(rng.normal(size=layer.split_kernel.shape))

    def _predict(self) -> tf.Tensor:
        mixtures = self._mixture((self._features, self._routing_inputs))
        return tf.tanh(mixtures @ self._head)

    @tf.function(autograph=False)
    def loss(self) -> tf.Tensor:
        """Computes the mean squared error under the permutation as it is."""
        return tf.reduce_mean(tf.square(self._predict() - self._targets))

    def recovered(self) -> float:
        """Computes the share of the loss at the start that is gone."""
        return 1.0 - float(self.loss()) / self.loss_before


def train_permutation(
    problem: PlantedProblem,
    optimizer: keras_comet.LocalSearchOptimizer,
    steps: int,
) -> None:
    """Trains nothing but the permutation, with the whole data as a batch."""
    weights = problem.permutation.permutation_weights

    @tf.function(autograph=False)
    def step() -> None:
        with tf.GradientTape() as tape:
            loss = problem.loss()
        optimizer.apply([tape.gradient(loss, weights.value)], [weights])

    optimizer.build([weights])
    for _ in range(steps):
        step()


def search_as_published(
    problem: PlantedProblem, steps: int, learning_rate: float, seed: int
) -> None:
    """Searches as published, written from the formula.

    Logits uniform within 0.05, trained by Adam; P is their Sinkhorn
    relaxation with 20 pairs of normalizations, at a temperature that falls
    from 1e-3 to 1e-7 exponentially; at the end the linear assignment.

    Args:
        problem: `PlantedProblem`, whose permutation it freezes.
        steps: int.
        learning_rate: float.
        seed: int. Of the logits.
    """
    size = problem.num_experts
    rng = np.random.default_rng(seed)
    start = rng.uniform(-0.05, 0.05, (1, size, size)).astype("float32")
    logits = tf.Variable(start)
    adam = keras.optimizers.Adam(learning_rate)
    adam.build([logits])
    permutation = problem.permutation
    permutation.frozen.assign(False)
    weights = permutation.permutation_weights.value

    @tf.function(autograph=False)
    def step(progress: tf.Tensor) -> None:
        temperature = 1e-3 * tf.pow(1e-4, progress)
        with tf.GradientTape() as tape:
            log_weights = logits / temperature
            for _ in range(20):
                log_weights -= tf.reduce_logsumexp(log_weights, -1, True)
                log_weights -= tf.reduce_logsumexp(log_weights, -2, True)
            soft = tf.exp(log_weights)
        weights.assign(soft)
        with tf.GradientTape() as loss_tape:
            loss = problem.loss()
        upstream = loss_tape.gradient(loss, weights)
        adam.apply([tape.gradient(soft, logits, upstream)], [logits])

    for index in range(steps):
        step(tf.constant(index / steps, tf.float32))
    permutation.permutation_weights.assign(logits)
    permutation.freeze()
