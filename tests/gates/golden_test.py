"""Parity with the gates that the authors published.

`golden.npz` holds inputs, weights, outputs, losses and gradients of the
published code, run on the TensorFlow version that it asks for.
"""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

import keras_comet

GOLDEN = dict(np.load(pathlib.Path(__file__).with_name("golden.npz")))


def cases(gate):
    return sorted({key.split("/")[1] for key in GOLDEN if key.startswith(gate)})


def arrays(gate, case):
    prefix = f"{gate}/{case}/"
    return {
        key[len(prefix) :]: value
        for key, value in GOLDEN.items()
        if key.startswith(prefix)
    }


def permuted(selector_weights, permutations):
    """`normalize(sum_j G_j P_j)` with soft or hard P, written plainly."""
    weights = np.einsum("bjn,jnm->bm", selector_weights, permutations)
    return weights / weights.sum(axis=-1, keepdims=True)


def soft_permutation(matrices):
    """A permutation that is still searched; the golden ones are soft."""
    permutation = keras_comet.ExpertPermutation(
        matrices.shape[-1], len(matrices)
    )
    permutation.permutation_weights.assign(matrices)
    permutation.frozen.assign(False)
    return permutation


@pytest.mark.parametrize("case", cases("comet"))
def test_comet_matches_published_outputs_losses_and_gradients(case):
    data = arrays("comet", case)
    n, k, _, _, gamma, entropy_weight = data["meta"]
    gate = keras_comet.COMETGate(
        int(n),
        k=int(k),
        gamma=gamma,
        entropy_weight=float(entropy_weight),
        permutation=soft_permutation(data["P"]),
    )
    gate.build(data["x"].shape)
    gate.split_kernel.assign(data["zk"].transpose(1, 2, 0))
    gate.split_bias.assign(data["zb"].T)
    gate.leaf_kernel.assign(data["wk"].transpose(1, 2, 0))
    gate.leaf_bias.assign(data["wb"].T)
    direction = np.linspace(-1, 1, int(n)).astype("float32")
    with tf.GradientTape() as tape:
        weights = gate(tf.constant(data["x"]), training=True)
        regularizer = tf.add_n(gate.losses)
        loss = tf.reduce_sum(weights * direction) + regularizer
    gradients = tape.gradient(
        loss,
        [
            variable(gate.split_kernel),
            variable(gate.split_bias),
            variable(gate.leaf_kernel),
            variable(gate.leaf_bias),
        ],
    )
    np.testing.assert_allclose(weights, data["y"], atol=1e-5)
    np.testing.assert_allclose(regularizer, data["reg"], atol=1e-5)
    for gradient, expected in zip(
        gradients,
        (
            data["gzk"].transpose(1, 2, 0),
            data["gzb"].T,
            data["gwk"].transpose(1, 2, 0),
            data["gwb"].T,
        ),
        strict=True,
    ):
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5)


def variable(weight):
    return weight if isinstance(weight, tf.Variable) else weight.value


@pytest.mark.parametrize("case", cases("dselect"))
def test_dselect_k_matches_published_outputs_and_losses(case):
    data = arrays("dselect", case)
    n, k, _, b, gamma, entropy_weight, zeta = data["meta"]
    n, k, b = int(n), int(k), int(b)
    gate = keras_comet.DSelectKGate(
        n,
        k=k,
        gamma=gamma,
        entropy_weight=float(entropy_weight),
        penalty_weight=float(zeta),
        permutation=soft_permutation(data["P"]),
    )
    gate.build(data["x"].shape)
    depth = data["x"].shape[1]
    gate.selector_kernel.assign(data["zk"].reshape(depth, k, -1))
    gate.selector_bias.assign(data["zb"].reshape(k, -1))
    gate.weight_kernel.assign(data["wk"])
    gate.weight_bias.assign(data["wb"])
    weights = gate(data["x"], training=True)
    # Published rows do not sum to one when n is no power of two.
    total = data["y"].sum(axis=-1, keepdims=True)
    reached = total[:, 0] > 1e-6
    np.testing.assert_allclose(
        weights.numpy()[reached], (data["y"] / total)[reached], atol=1e-5
    )
    np.testing.assert_allclose(weights.numpy().sum(-1), 1.0, atol=1e-6)
    entropy, *penalty = data["losses"]
    np.testing.assert_allclose(gate.losses[0], entropy, atol=1e-5)
    for expected in penalty:
        # Published as a sum over the batch.
        np.testing.assert_allclose(gate.losses[1], expected / b, rtol=1e-5)


@pytest.mark.parametrize("case", cases("topk"))
def test_top_k_matches_published_outputs(case):
    data = arrays("topk", case)
    n, k, _, _ = (int(value) for value in data["meta"])
    if not (data["P"] == data["P"][:1]).all():
        # The published gate averages its k permutations, which breaks the
        # cap; ours is compared without them, through the formula.
        logits = data["x"] @ data["wk"].T + data["wb"]
        kept = np.argsort(-logits, axis=-1)[:, :k]
        expected = np.zeros_like(logits)
        values = np.exp(np.take_along_axis(logits, kept, -1))
        values /= values.sum(-1, keepdims=True)
        np.put_along_axis(expected, kept, values, -1)
        permutation = None
    else:
        expected = data["y"]
        permutation = soft_permutation(data["P"])
    gate = keras_comet.TopKGate(n, k=k, permutation=permutation)
    gate.build(data["x"].shape)
    gate.kernel.assign(data["wk"].T)
    gate.bias.assign(data["wb"])
    np.testing.assert_allclose(gate(data["x"]), expected, atol=1e-5)


@pytest.mark.parametrize("case", cases("hash"))
def test_hash_matches_published_outputs(case):
    data = arrays("hash", case)
    n, b = (int(value) for value in data["meta"])
    permutations = data["P"].mean(0, keepdims=True)
    gate = keras_comet.HashGate(
        n, num_ids=b, permutation=soft_permutation(permutations)
    )
    gate.build((None,))
    gate.assignment.assign(data["idx"])
    np.testing.assert_allclose(gate(np.arange(b)), data["y"], atol=1e-5)
