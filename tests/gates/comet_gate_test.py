import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from tests import reference
from tests.helpers import rows

SIZES = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 23]


def make_gate(n, k=2, depth=4, spread=1.0, **kwargs):
    """A built gate with random weights, and those weights in float64."""
    gate = keras_comet.COMETGate(n, k=k, **kwargs)
    gate.build((None, depth))
    random = np.random.default_rng(n)
    weights = {}
    for name in ("split_kernel", "split_bias", "leaf_kernel", "leaf_bias"):
        variable = getattr(gate, name)
        weights[name] = spread * random.normal(size=tuple(variable.shape))
        variable.assign(weights[name].astype("float32"))
    return gate, weights


@pytest.mark.parametrize("n", SIZES)
def test_routing_weights_match_the_recursive_tree(n):
    for k in {1, min(3, n)}:
        # A width at which some splits are saturated and others are not.
        gate, weights = make_gate(n, k, gamma=3.0)
        x = rows(6, 4)
        expected = reference.comet(x, **weights, gamma=3.0)
        np.testing.assert_allclose(gate(x), expected, atol=2e-6)
        np.testing.assert_array_equal(
            gate(x).numpy() == 0.0, np.isclose(expected, 0.0, atol=1e-30)
        )


@pytest.mark.parametrize("n", [2, 5, 8, 11])
def test_hard_routing_rounds_each_split_to_its_nearer_side(n):
    gate, weights = make_gate(n, gamma=3.0, hard_routing=True)
    x = rows(6, 4)
    # A step of no width is what rounding is.
    expected = reference.comet(x, **weights, gamma=1e-12)
    np.testing.assert_allclose(gate(x), expected, atol=2e-6)
    assert np.count_nonzero(gate(x), axis=-1).max() <= 2


@pytest.mark.parametrize("n", [512, 600])
@pytest.mark.parametrize("compiled", [False, True])
def test_many_experts_are_routed_along_the_paths_alike(n, compiled):
    gate, weights = make_gate(n, gamma=3.0, hard_routing=True)
    call = tf.function(gate) if compiled else gate
    x = rows(12, 4)
    expected = reference.comet(x, **weights, gamma=1e-12)
    np.testing.assert_allclose(call(x), expected, atol=2e-6)
    assert np.count_nonzero(call(x), axis=-1).max() <= 2
    np.testing.assert_allclose(
        gate(x.reshape(3, 4, 4)), expected.reshape(3, 4, n), atol=2e-6
    )
    # The way is chosen where the gate is called, not where it is traced.
    gate.hard_routing = False
    soft = reference.comet(x, **weights, gamma=3.0)
    np.testing.assert_allclose(call(x), soft, atol=5e-6)


@pytest.mark.parametrize("n", [3, 8, 13])
def test_saturated_gate_selects_at_most_k(n):
    gate, weights = make_gate(n, k=2, gamma=1e-3)
    x = rows(200, 4)
    logits = np.einsum("bd,dki->bki", x, weights["split_kernel"])
    saturated = np.abs(logits + weights["split_bias"]).min((1, 2)) >= 5e-4
    assert saturated.mean() > 0.5
    counts = np.count_nonzero(gate(x[saturated]), axis=-1)
    assert counts.max() <= 2
    assert counts.min() == 1


def test_undecided_gate_starts_dense():
    gate = keras_comet.COMETGate(6)
    weights = gate(rows(50, 8)).numpy()
    assert (np.count_nonzero(weights, axis=-1) == 6).mean() > 0.9


def test_entropy_is_of_the_trees_before_the_permutation():
    permutation = keras_comet.ExpertPermutation(5)
    permutation.assignment.assign([[4, 2, 0, 1, 3]])
    gate, weights = make_gate(
        5, gamma=3.0, entropy_weight=0.3, permutation=permutation
    )
    x = rows(6, 4)
    expected = 0.0
    for row in x:
        for tree in range(2):
            logits = row @ weights["split_kernel"][:, tree]
            splits = [
                reference.smooth_step(z, 3.0)
                for z in logits + weights["split_bias"][tree]
            ]
            v = np.array(reference.reach_leaves(splits))
            expected -= (v * np.log(v + 1e-6)).sum() / len(x)
    gate(x, training=True)
    [loss] = gate.losses
    np.testing.assert_allclose(loss, 0.3 * expected, rtol=1e-5)


def test_tokens_are_routed_one_by_one():
    gate, _ = make_gate(5, gamma=3.0)
    tokens = rows(2, 3, 4)
    flat = gate(tokens.reshape(6, 4)).numpy()
    np.testing.assert_allclose(gate(tokens), flat.reshape(2, 3, 5), atol=1e-7)


def test_variables_have_the_documented_shapes():
    gate, _ = make_gate(5, k=3)
    shapes = {
        name: tuple(getattr(gate, name).shape)
        for name in ("split_kernel", "split_bias", "leaf_kernel", "leaf_bias")
    }
    assert shapes == {
        "split_kernel": (4, 3, 4),
        "split_bias": (3, 4),
        "leaf_kernel": (4, 3, 5),
        "leaf_bias": (3, 5),
    }
    assert len(gate.trainable_weights) == 4


def test_trace_is_small():
    # The recursive port of the published code makes thousands for n = 64.
    gate = keras_comet.COMETGate(64)
    gate.build((None, 32))
    graph = (
        tf.function(gate).get_concrete_function(tf.TensorSpec([None, 32])).graph
    )
    operations = [
        each for each in graph.get_operations() if each.type != "Placeholder"
    ]
    assert len(operations) < 150
