import concurrent.futures
import threading

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet.gates.capture import capture_calls
from keras_comet.gates.replace import replace_routing
from tests.helpers import rows

FEATURES = rows(6, 3)


def reverse(gate, weights):
    return weights[..., ::-1]


def test_weights_are_replaced_within_the_context_alone():
    gate = keras_comet.COMETGate(4)
    expected = gate(FEATURES).numpy()
    with replace_routing(reverse), capture_calls() as calls:
        reversed_weights = gate(FEATURES)
        with replace_routing(lambda gate, weights: 2.0 * weights):
            doubled = gate(FEATURES)
        again = gate(FEATURES)
    np.testing.assert_array_equal(reversed_weights, expected[:, ::-1])
    np.testing.assert_array_equal(doubled, 2.0 * expected)
    np.testing.assert_array_equal(again, expected[:, ::-1])
    # What is noted is what the gate returned.
    assert calls[0][1] is reversed_weights
    np.testing.assert_array_equal(gate(FEATURES), expected)


def test_nothing_is_left_after_an_error():
    gate = keras_comet.COMETGate(4)
    expected = gate(FEATURES).numpy()

    def fail(gate, weights):
        raise RuntimeError

    with pytest.raises(RuntimeError), replace_routing(fail):
        gate(FEATURES)
    np.testing.assert_array_equal(gate(FEATURES), expected)


def test_calls_in_a_graph_are_left_as_they_are():
    gate = keras_comet.COMETGate(4)
    expected = gate(FEATURES).numpy()
    with replace_routing(reverse):
        found = tf.function(gate)(FEATURES)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("dispatch", ["dense", "sparse", "auto"])
def test_experts_that_were_not_chosen_serve_when_told_to(dispatch):
    experts = keras_comet.StackedDenseExperts(4, 2)
    gate = keras_comet.TopKGate(4, k=1)
    moe = keras_comet.MixtureOfExperts(experts, gate, dispatch)
    chosen = gate(FEATURES).numpy().argmax(axis=-1)
    moe(FEATURES)
    others = np.eye(4, dtype="float32")[(chosen + 1) % 4]
    with replace_routing(lambda gate, weights: tf.constant(others)):
        found = moe(FEATURES)
    kernel, bias = experts.kernels[0].numpy(), experts.biases[0].numpy()
    expected = [
        row @ kernel[expert] + bias[expert]
        for row, expert in zip(FEATURES, (chosen + 1) % 4, strict=True)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_threads_replace_their_own_calls_alone():
    gate = keras_comet.SoftmaxGate(4)
    expected = gate(FEATURES).numpy()
    # Both contexts are open before either calls the gate.
    barrier = threading.Barrier(2, timeout=60)

    def call(factor):
        with replace_routing(lambda gate, weights: factor * weights):
            barrier.wait()
            weights = gate(FEATURES).numpy()
            barrier.wait()
        return weights

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = list(pool.map(call, (2.0, 3.0)))
    np.testing.assert_allclose(found[0], 2.0 * expected, rtol=1e-6)
    np.testing.assert_allclose(found[1], 3.0 * expected, rtol=1e-6)
