import concurrent.futures
import threading

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras
from keras_comet.gates.capture import capture_calls
from keras_comet.gates.capture import routing_weights
from keras_comet.metrics import routing_statistics

DENSE = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")


def make_experts(num_experts=4):
    return [keras.layers.Dense(3) for _ in range(num_experts)]


def make_moe(gate):
    return keras_comet.MixtureOfExperts(make_experts(gate.num_experts), gate)


def softmax_by_hand(gate, features):
    logits = features @ gate.kernel.numpy() + gate.bias.numpy()
    powers = np.exp(logits)
    return powers / powers.sum(axis=-1, keepdims=True)


class Subclassed(keras.Model):
    """Takes a dict with strings; one mixture inside another layer."""

    def __init__(self):
        super().__init__()
        self.by_user = make_moe(keras_comet.HashGate(4, name="by_user"))
        self.block = keras.Sequential(
            [
                keras.Input((3,)),
                make_moe(keras_comet.SoftmaxGate(4, name="inner")),
            ]
        )

    def call(self, inputs):
        return self.block(self.by_user((inputs["dense"], inputs["user"])))


def test_functional_model_gives_weights_by_task():
    inputs = keras.Input((3,))
    gates = {t: keras_comet.SoftmaxGate(4) for t in ("click", "buy")}
    moe = keras_comet.MultiGateMixtureOfExperts(make_experts(), gates)
    model = keras.Model(inputs, moe(inputs))
    weights = routing_weights(model, DENSE)
    assert list(weights) == ["click", "buy"]
    for task, gate in gates.items():
        assert isinstance(weights[task], np.ndarray)
        np.testing.assert_allclose(
            weights[task], softmax_by_hand(gate, DENSE), atol=1e-6
        )


def test_sequential_model_gives_weights_by_gate_name():
    gate = keras_comet.SoftmaxGate(4, name="gate")
    model = keras.Sequential([make_moe(gate), keras.layers.Dense(1)])
    weights = routing_weights(model, DENSE)
    assert list(weights) == ["gate"]
    np.testing.assert_allclose(
        weights["gate"], softmax_by_hand(gate, DENSE), atol=1e-6
    )


@pytest.mark.parametrize("dtype", [str, object, bytes])
def test_subclassed_model_takes_numpy_strings(dtype):
    users = np.array(["ann", "bob", "ann", "cid", "dan", "ann"]).astype(dtype)
    weights = routing_weights(Subclassed(), {"dense": DENSE, "user": users})
    assert list(weights) == ["by_user", "inner"]
    by_user = weights["by_user"]
    np.testing.assert_array_equal((by_user == 1.0).sum(axis=-1), 1)
    np.testing.assert_array_equal(by_user[[0, 0]], by_user[[2, 5]])


def test_tokens_keep_their_axes():
    inputs = keras.Input((7, 3))
    gate = keras_comet.TopKGate(4, k=2, name="gate")
    model = keras.Model(inputs, make_moe(gate)(inputs))
    tokens = np.random.default_rng(0).normal(size=(2, 7, 3))
    weights = routing_weights(model, tokens)["gate"]
    assert weights.shape == (2, 7, 4)
    statistics = routing_statistics(weights, k=1)
    assert float(statistics["cardinality"]) == 2.0
    assert float(statistics["within_k"]) == 0.0


def test_training_is_off():
    gate = keras_comet.TopKGate(4, noise=True)
    model = keras.Sequential([keras.layers.Dropout(0.9), make_moe(gate)])
    model(DENSE)
    before = [w.copy() for w in model.get_weights()]
    first = routing_weights(model, DENSE)
    second = routing_weights(model, DENSE)
    np.testing.assert_array_equal(first[gate.name], second[gate.name])
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_equal_labels_get_the_names_of_their_gates():
    tasks = ("click", "buy")
    layers = [
        keras_comet.MultiGateMixtureOfExperts(
            make_experts(),
            {
                task: keras_comet.SoftmaxGate(4, name=f"{level}_{task}")
                for task in (tasks if level == "low" else tasks[:1])
            },
        )
        for level in ("low", "high")
    ]
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers[1](layers[0](inputs)["click"]))
    weights = routing_weights(model, DENSE)
    assert list(weights) == ["click/low_click", "buy", "click/high_click"]


def test_equal_names_are_numbered():
    moes = [
        make_moe(keras_comet.SoftmaxGate(n, name="gate")) for n in (3, 4, 5)
    ]
    weights = routing_weights(keras.Sequential(moes), DENSE)
    assert {label: each.shape[1] for label, each in weights.items()} == {
        "gate/gate": 3,
        "gate/gate_1": 4,
        "gate/gate_2": 5,
    }


def test_gate_called_twice_gives_the_rows_of_both_calls():
    gate = keras_comet.SoftmaxGate(4, name="gate")
    low, high = keras.Input((3,)), keras.Input((2, 3))
    model = keras.Model([low, high], [gate(low), gate(high)])
    tokens = np.stack([DENSE, -DENSE], axis=1)
    weights = routing_weights(model, [DENSE, tokens])["gate"]
    assert weights.shape == (18, 4)
    rows = np.concatenate([DENSE, tokens.reshape(-1, 3)])
    # Keras may compute the two nodes in any order.
    np.testing.assert_allclose(
        np.sort(weights, axis=0),
        np.sort(softmax_by_hand(gate, rows), axis=0),
        atol=1e-6,
    )


def test_nothing_is_observed_afterwards():
    gate = keras_comet.SoftmaxGate(4, name="gate")
    model = keras.Sequential([make_moe(gate)])
    weights = routing_weights(model, DENSE)
    model(DENSE[:2])
    assert weights["gate"].shape == (6, 4)


def test_model_without_gate_raises():
    model = keras.Sequential([keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="called no gate"):
        routing_weights(model, DENSE)


def test_gate_in_a_graph_raises():
    class Compiled(keras.Model):
        def __init__(self):
            super().__init__()
            self.gate = keras_comet.SoftmaxGate(4)

        @tf.function(autograph=False)
        def call(self, inputs):
            return self.gate(inputs)

    with pytest.raises(ValueError, match="called in a graph"):
        routing_weights(Compiled(), DENSE)


def test_threads_capture_their_own_calls_alone():
    gates = [keras_comet.SoftmaxGate(n, name=f"gate_{n}") for n in (3, 4)]
    models = [keras.Sequential([make_moe(gate)]) for gate in gates]
    for model in models:
        model(DENSE)
    # Both captures are open before either model is called.
    barrier = threading.Barrier(2, timeout=60)

    def capture(model):
        with capture_calls() as calls:
            barrier.wait()
            model(DENSE)
            barrier.wait()
        return [gate for gate, _ in calls]

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        captured = list(pool.map(capture, models))
    assert captured == [[gate] for gate in gates]


def test_calls_are_captured_in_order_and_also_after_an_error():
    gate = keras_comet.SoftmaxGate(4)
    with pytest.raises(RuntimeError), capture_calls():
        raise RuntimeError
    gate(DENSE)
    with capture_calls() as calls:
        first, second = gate(DENSE), gate(-DENSE)
        with capture_calls() as inner:
            gate(DENSE)
    gate(DENSE)
    assert [
        weights is each
        for (_, weights), each in zip(calls, (first, second), strict=True)
    ] == [True, True]
    assert len(inner) == 1


def test_capture_changes_nothing_in_a_trace():
    gate = keras_comet.COMETGate(4)
    gate.build((None, 3))

    def trace():
        route = tf.function(lambda x: gate(x, training=True))
        graph = route.get_concrete_function(tf.TensorSpec([None, 3])).graph
        return [op.type for op in graph.get_operations()]

    expected = trace()
    with capture_calls():
        found = trace()
    assert found == expected
