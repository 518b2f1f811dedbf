"""Drives every gate through random and extreme settings."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies

import keras_comet
from tests.helpers import gradients
from tests.helpers import variables


def comet(n, k, gamma, hard, permutation):
    return keras_comet.COMETGate(
        n,
        k=k,
        gamma=gamma,
        entropy_weight=0.1,
        hard_routing=hard,
        permutation=permutation,
    )


def dselect_k(n, k, gamma, hard, permutation):
    return keras_comet.DSelectKGate(
        n,
        k=k,
        gamma=gamma,
        entropy_weight=0.1,
        hard_routing=hard,
        permutation=permutation,
    )


def static_dselect_k(n, k, gamma, hard, permutation):
    return keras_comet.DSelectKGate(
        n,
        k=k,
        gamma=gamma,
        hard_routing=hard,
        example_conditioned=False,
        permutation=permutation,
    )


def top_k(n, k, gamma, hard, permutation):
    return keras_comet.TopKGate(
        n,
        k=k,
        noise=hard,
        seed=0,
        load_balance_weight=0.1,
        permutation=permutation,
    )


def hash_ids(n, k, gamma, hard, permutation):
    return keras_comet.HashGate(
        n, num_ids=50 if hard else None, permutation=permutation
    )


def softmax(n, k, gamma, hard, permutation):
    return keras_comet.SoftmaxGate(
        n, load_balance_weight=0.1, permutation=permutation
    )


ALWAYS_CAPPED = (top_k, hash_ids)

scales = strategies.sampled_from([0.0, 1e-6, 1e-3, 1.0, 1e3, 1e6])


@strategies.composite
def cases(draw):
    n = draw(strategies.integers(1, 17))
    batch = draw(strategies.integers(0, 6))
    random = np.random.default_rng(draw(strategies.integers(0, 2**32)))
    x = draw(scales) * random.normal(size=(batch, 3))
    if batch > 2:
        x[0] = 0.0
        x[1] = draw(scales) * np.array([1.0, -1.0, 1.0])
    return {
        "n": n,
        "k": draw(strategies.integers(1, n)),
        "gamma": 10.0 ** draw(strategies.floats(-3, 3)),
        "hard": draw(strategies.booleans()),
        "permutations": draw(strategies.sampled_from([0, 1, "k"])),
        "spread": draw(strategies.sampled_from([1e-3, 1.0, 30.0])),
        "x": x.astype("float32"),
        "random": random,
    }


def make_permutation(make, case):
    if case["permutations"] == 0:
        return None
    each = case["permutations"] == "k" and make not in (hash_ids, softmax)
    permutation = keras_comet.ExpertPermutation(
        case["n"], case["k"] if each else 1
    )
    permutation.assignment.assign(
        case["random"].permuted(permutation.assignment, axis=1)
    )
    return permutation


@pytest.mark.parametrize(
    "make", [comet, dselect_k, static_dselect_k, top_k, hash_ids, softmax]
)
@hypothesis.given(case=cases())
def test_rows_stay_on_the_simplex_with_finite_gradients(make, case):
    gate = make(
        case["n"],
        case["k"],
        case["gamma"],
        case["hard"],
        make_permutation(make, case),
    )
    x = tf.constant(case["x"])
    if gate.reads_ids:
        x = tf.cast(tf.abs(x[:, 0]), tf.int64) % 50
    gate.build(x.shape)
    for weight in gate.trainable_weights:
        values = case["random"].normal(size=tuple(weight.shape))
        weight.assign(case["spread"] * values.astype("float32"))
    weights = gate(x, training=False).numpy()
    assert (weights >= 0.0).all()
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-6)
    if make in ALWAYS_CAPPED or (case["hard"] and make is not softmax):
        assert np.count_nonzero(weights, axis=-1).max(initial=0) <= gate.k

    direction = np.linspace(-1, 1, case["n"]).astype("float32")

    def loss():
        routed = gate(x, training=True)
        return tf.add_n([tf.reduce_sum(routed * direction), *gate.losses])

    sources = variables(gate.trainable_weights)
    if not gate.reads_ids:
        sources.append(x)
    value, found = gradients(loss, sources)
    assert np.isfinite(value)
    for source, gradient in zip(sources, found, strict=True):
        assert np.isfinite(gradient).all(), source
