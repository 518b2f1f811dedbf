import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from tests import reference
from tests.helpers import rows
from tests.helpers import variables

SIZES = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 23]
NAMES = ("selector_kernel", "selector_bias", "weight_kernel", "weight_bias")


def make_gate(n, k=2, depth=4, **kwargs):
    """A built gate with random weights, and its logits by formula."""
    gate = keras_comet.DSelectKGate(n, k=k, **kwargs)
    gate.build((None, depth))
    random = np.random.default_rng(n)
    weights = {}
    for name in NAMES:
        if hasattr(gate, name):
            shape = tuple(getattr(gate, name).shape)
            weights[name] = random.normal(size=shape)
            getattr(gate, name).assign(weights[name].astype("float32"))

    def logits(x):
        digits = np.tile(weights["selector_bias"], (len(x), 1, 1))
        mixture = np.tile(weights["weight_bias"], (len(x), 1))
        if "weight_kernel" in weights:
            digits += np.einsum("bd,dkm->bkm", x, weights["selector_kernel"])
            mixture += x @ weights["weight_kernel"]
        return digits, mixture

    return gate, logits


@pytest.mark.parametrize("n", SIZES)
def test_routing_weights_match_the_slow_codes(n):
    for k in {1, min(3, n)}:
        gate, logits = make_gate(n, k, gamma=3.0)
        x = rows(8, 4)
        expected = [
            reference.dselect_k(digits, mixture, n, 3.0)
            for digits, mixture in zip(*logits(x), strict=True)
        ]
        np.testing.assert_allclose(gate(x), expected, atol=2e-6)


@pytest.mark.parametrize("n", [4, 6])
def test_static_form_routes_every_example_alike(n):
    gate, logits = make_gate(n, gamma=3.0, example_conditioned=False)
    x = rows(5, 4)
    digits, mixture = logits(x)
    expected = reference.dselect_k(digits[0], mixture[0], n, 3.0)
    np.testing.assert_allclose(gate(x), np.tile(expected, (5, 1)), atol=2e-6)
    assert len(gate.trainable_weights) == 2
    assert tuple(gate.selector_bias.shape) == (2, gate.num_digits)
    assert tuple(gate.weight_bias.shape) == (2,)


def spell(gate, codes, weight_logits=(0.0, 0.0)):
    """Lets each selector of a static gate have one code, saturated."""
    m = gate.num_digits
    digits = [[code >> (m - 1 - i) & 1 for i in range(m)] for code in codes]
    gate.selector_bias.assign(100.0 * (2.0 * np.array(digits) - 1.0))
    gate.weight_bias.assign(weight_logits)


@pytest.mark.parametrize("hard_routing", [False, True])
@pytest.mark.parametrize("code", [5, 6, 7])
def test_row_on_codes_of_no_expert_is_folded_back(code, hard_routing):
    gate, _ = make_gate(5, example_conditioned=False, hard_routing=hard_routing)
    spell(gate, [code, 7], weight_logits=[0.0, np.log(3.0)])
    expected = np.zeros(5)
    # 101 -> 001, 110 -> 010, 111 -> 011.
    expected[code - 4] += 0.25
    expected[3] += 0.75
    np.testing.assert_allclose(
        gate(rows(2, 4)), np.tile(expected, (2, 1)), atol=1e-6
    )


def test_selector_off_the_experts_leaves_the_row_to_the_others():
    gate, _ = make_gate(5, example_conditioned=False)
    spell(gate, [7, 2], weight_logits=[5.0, 0.0])
    np.testing.assert_allclose(
        gate(rows(1, 4)), [[0.0, 0.0, 1.0, 0.0, 0.0]], atol=1e-6
    )


def test_hard_routing_keeps_the_likeliest_expert_of_each_selector():
    gate, logits = make_gate(6, k=2, gamma=3.0, hard_routing=True)
    x = rows(20, 4)
    expected = np.zeros((20, 6))
    for b, (digits, mixture) in enumerate(zip(*logits(x), strict=True)):
        weights = np.exp(mixture) / np.exp(mixture).sum()
        for selector in range(2):
            steps = [reference.smooth_step(z, 3.0) for z in digits[selector]]
            codes = reference.reach_codes(steps, 6)
            if max(codes) > 0.0:
                expected[b, np.argmax(codes)] += weights[selector]
            else:
                full = reference.reach_codes(steps, 8)
                expected[b, np.argmax(full[6:]) + 2] += weights[selector]
    np.testing.assert_allclose(gate(x), expected, atol=2e-6)
    assert np.count_nonzero(gate(x), axis=-1).max() <= 2


def test_saturated_gate_selects_at_most_k():
    gate, _ = make_gate(13, k=3, gamma=1e-6)
    counts = np.count_nonzero(gate(rows(200, 4)), axis=-1)
    assert counts.max() <= 3


def test_penalty_is_the_batch_mean_of_reciprocal_reachable_mass():
    gate, logits = make_gate(5, gamma=6.0, penalty_weight=0.2)
    x = rows(7, 4)
    total = 0.0
    for digits in logits(x)[0]:
        for selector in digits:
            steps = [reference.smooth_step(z, 6.0) for z in selector]
            total += 1.0 / (1e-6 + sum(reference.reach_codes(steps, 5)))
    gate(x, training=True)
    [loss] = gate.losses
    np.testing.assert_allclose(loss, 0.2 * total / 7, rtol=1e-5)


def test_power_of_two_has_no_penalty():
    gate, _ = make_gate(8, penalty_weight=0.2)
    gate(rows(7, 4), training=True)
    assert not gate.losses


def test_entropy_is_of_the_selectors():
    gate, logits = make_gate(
        4, gamma=6.0, entropy_weight=0.3, penalty_weight=0.0
    )
    x = rows(7, 4)
    total = 0.0
    for digits in logits(x)[0]:
        for selector in digits:
            steps = [reference.smooth_step(z, 6.0) for z in selector]
            v = np.array(reference.reach_codes(steps, 4))
            total -= (v * np.log(v + 1e-6)).sum()
    gate(x, training=True)
    [loss] = gate.losses
    np.testing.assert_allclose(loss, 0.3 * total / 7, rtol=1e-5)


def test_penalty_moves_selectors_onto_experts():
    # From near a code of no expert, its gradient alone reaches an expert's.
    gate, _ = make_gate(
        5, k=1, gamma=1.0, penalty_weight=1.0, example_conditioned=False
    )
    gate.selector_bias.assign([[0.3, 0.3, 0.3]])
    x = tf.constant(rows(1, 4))
    weights = variables([gate.selector_bias])

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            gate(x, training=True)
            loss = tf.add_n(gate.losses)
        [gradient] = tape.gradient(loss, weights)
        weights[0].assign_sub(1e-2 * gradient)
        return loss

    for _ in range(200):
        loss = step()
    # The reciprocal of a mass of one.
    np.testing.assert_allclose(loss, 1.0, atol=1e-2)
