import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from tests import reference
from tests.helpers import rows


def make_gate(n, k, bias=None, **kwargs):
    gate = keras_comet.TopKGate(n, k=k, **kwargs)
    gate.build((None, 4))
    gate.kernel.assign(rows(4, n, seed=1))
    gate.bias.assign(rows(n, seed=2) if bias is None else bias)
    return gate


@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 1), (5, 2), (7, 7), (16, 3)])
def test_weights_are_the_softmax_of_the_k_largest_logits(n, k):
    gate = make_gate(n, k)
    x = rows(10, 4)
    logits = x.astype("float64") @ rows(4, n, seed=1) + rows(n, seed=2)
    expected = [reference.top_k(row, k) for row in logits]
    weights = gate(x).numpy()
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    np.testing.assert_array_equal(np.count_nonzero(weights, axis=-1), k)


def test_logit_of_exactly_zero_stays_selected():
    gate = make_gate(4, 2, bias=[0.0, -1.0, -2.0, 0.0])
    gate.kernel.assign(np.zeros((4, 4)))
    expected = [[0.5, 0.0, 0.0, 0.5]]
    np.testing.assert_allclose(gate(rows(1, 4)), expected, atol=1e-6)


def test_row_of_zeros_selects_k_experts():
    gate = make_gate(4, 2, bias=np.zeros(4))
    weights = np.sort(gate(np.zeros((3, 4), "float32")).numpy())
    np.testing.assert_allclose(weights, [[0.0, 0.0, 0.5, 0.5]] * 3, atol=1e-6)


def test_each_selector_goes_through_its_own_permutation():
    permutation = keras_comet.ExpertPermutation(5, num_permutations=2)
    orders = np.array([[1, 2, 3, 4, 0], [4, 3, 2, 1, 0]])
    permutation.assignment.assign(orders)
    gate = make_gate(5, 2, permutation=permutation)
    x = rows(50, 4)
    logits = x.astype("float64") @ rows(4, 5, seed=1) + rows(5, seed=2)
    expected = np.zeros((50, 5))
    for row, plain in enumerate(reference.top_k(each, 2) for each in logits):
        for selector, expert in enumerate(np.argsort(-plain)[:2]):
            expected[row, orders[selector, expert]] += plain[expert]
    weights = gate(x).numpy()
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    assert np.count_nonzero(weights, axis=-1).max() == 2


def test_noise_is_on_in_training_only():
    gate = make_gate(5, 2, noise=True, seed=3)
    plain = make_gate(5, 2)
    x = rows(20, 4)
    np.testing.assert_array_equal(gate(x), plain(x))
    np.testing.assert_array_equal(gate(x, training=False), plain(x))
    first, second = (gate(x, training=True).numpy() for _ in range(2))
    assert np.abs(first - plain(x)).max() > 1e-3
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_array_equal(gate(x), plain(x))


def test_noise_is_reproducible_from_its_seed():
    x = rows(20, 4)
    draws = {
        seed: [
            make_gate(5, 2, noise=True, seed=seed)(x, training=True)
            for _ in range(2)
        ]
        for seed in (3, 4)
    }
    np.testing.assert_array_equal(*draws[3])
    assert np.abs(draws[3][0] - draws[4][0]).max() > 1e-3


def test_noise_without_a_seed_differs_between_gates():
    x = rows(20, 4)
    first, second = (
        make_gate(5, 2, noise=True)(x, training=True) for _ in range(2)
    )
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_noise_has_the_learned_spread(slope):
    # With two experts, log g_0 - log g_1 is the difference of the logits.
    gate = make_gate(2, 2, bias=[0.0, 0.0], noise=True, seed=1)
    gate.kernel.assign(np.zeros((4, 2)))
    gate.noise_kernel.assign(np.full((4, 2), slope))
    x = np.full((20_000, 4), 0.25, "float32")
    logs = np.log(gate(x, training=True))
    spread = 0.01 + np.log1p(np.exp(slope))
    # The spread of 20,000 numbers is known to one in two hundred.
    np.testing.assert_allclose(
        (logs[:, 0] - logs[:, 1]).std(), np.sqrt(2.0) * spread, rtol=0.025
    )


def test_noise_kernel_gets_a_gradient():
    gate = make_gate(4, 2, noise=True, seed=1)
    x = rows(8, 4)
    kernel = gate.noise_kernel
    kernel = kernel if isinstance(kernel, tf.Variable) else kernel.value
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(gate(x, training=True)[:, 0])
    assert np.abs(tape.gradient(loss, kernel)).max() > 0.0


def test_regularizers_follow_their_formulas():
    gate = make_gate(5, 2, load_balance_weight=0.1, z_loss_weight=0.2)
    x = rows(12, 4)
    logits = x.astype("float64") @ rows(4, 5, seed=1) + rows(5, seed=2)
    usage = np.mean([reference.top_k(row, 2) for row in logits], axis=0)
    z_loss = np.square(np.log(np.exp(logits).sum(1))).mean()
    gate(x, training=True)
    np.testing.assert_allclose(
        sorted(float(loss) for loss in gate.losses),
        sorted([0.1 * usage.var() / usage.mean() ** 2, 0.2 * z_loss]),
        rtol=1e-4,
    )


@pytest.mark.parametrize("compiled", [False, True])
def test_balance_chooses_experts_and_does_not_weigh_them(compiled):
    gate = make_gate(5, 2, balance_rate=0.25)
    call = tf.function(gate) if compiled else gate
    x = rows(40, 4)
    logits = x.astype("float64") @ rows(4, 5, seed=1) + rows(5, seed=2)
    balance = np.zeros(5)
    for _ in range(3):
        expected = np.zeros((40, 5))
        for row, scores in enumerate(logits + balance):
            chosen = np.argsort(-scores)[:2]
            weights = np.exp(logits[row, chosen])
            expected[row, chosen] = weights / weights.sum()
        found = call(tf.constant(x), training=True)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        load = np.count_nonzero(expected, axis=0)
        balance += 0.25 * np.sign(load.mean() - load)
        np.testing.assert_allclose(gate.balance, balance, atol=1e-6)
    # Inference uses the balance, and leaves it alone.
    call(tf.constant(x))
    np.testing.assert_allclose(gate.balance, balance, atol=1e-6)
    assert not gate.losses


def test_balance_evens_the_loads_out():
    gate = make_gate(4, 1, bias=[3.0, 0.0, 0.0, 0.0], balance_rate=0.05)
    x = rows(200, 4)
    assert np.count_nonzero(gate(x), axis=0).max() > 80
    for _ in range(200):
        gate(x, training=True)
    assert np.abs(np.count_nonzero(gate(x), axis=0) - 50).max() <= 10


def test_negative_balance_rate_raises():
    with pytest.raises(ValueError, match="balance_rate=-0.1"):
        keras_comet.TopKGate(4, balance_rate=-0.1)


def test_a_frozen_gate_keeps_its_balance():
    gate = keras_comet.TopKGate(4, k=1, balance_rate=0.5)
    features = rows(16, 3)
    before = np.array(gate(features))
    gate.trainable = False
    for _ in range(3):
        gate(features, training=True)
    np.testing.assert_array_equal(gate(features), before)
