import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras
from tests.helpers import assert_gradients_close
from tests.helpers import gradients
from tests.helpers import rows
from tests.helpers import variables


def test_each_expert_is_a_perceptron_of_its_own():
    experts = keras_comet.StackedDenseExperts(
        3, [5, 2], activation=["tanh", None], bias_initializer="normal"
    )
    x = rows(4, 6)
    found = experts(tf.constant(x)).numpy()
    assert found.shape == (4, 3, 2)
    first, second = (np.asarray(each) for each in experts.kernels)
    first_bias, second_bias = (np.asarray(each) for each in experts.biases)
    for e in range(3):
        hidden = np.tanh(x @ first[e] + first_bias[e])
        np.testing.assert_allclose(
            found[:, e], hidden @ second[e] + second_bias[e], atol=1e-5
        )


class GivenGate(keras_comet.gates.Gate):
    """Its routing inputs are the weights."""

    def route(self, routing_inputs, training):
        return routing_inputs[..., tf.newaxis, :], {}


def mix_in_a_loop(x, weights, upstream, kernels, biases):
    """Two tanh layers, pair after pair, and the gradients of all but x."""
    mixture = np.zeros(upstream.shape)
    from_x, from_weights = np.zeros(x.shape), np.zeros(weights.shape)
    from_kernels = [np.zeros(each.shape) for each in kernels]
    from_biases = [np.zeros(each.shape) for each in biases]
    for row, expert in zip(*np.nonzero(weights), strict=True):
        inputs = [x[row]]
        for kernel, bias in zip(kernels, biases, strict=True):
            inputs.append(np.tanh(inputs[-1] @ kernel[expert] + bias[expert]))
        weight, output = weights[row, expert], inputs.pop()
        mixture[row] += weight * output
        from_weights[row, expert] = output @ upstream[row]
        slope = weight * upstream[row]
        for layer in (1, 0):
            slope = slope * (1 - output**2)
            from_kernels[layer][expert] += np.outer(inputs[layer], slope)
            from_biases[layer][expert] += slope
            slope = kernels[layer][expert] @ slope
            output = inputs[layer]
        from_x[row] += slope
    # Through the gate's normalization of rows that sum to one already.
    from_weights -= (from_weights * weights).sum(1, keepdims=True)
    return mixture, from_x, from_weights, from_kernels, from_biases


# One and two rows are few for 32 experts; the third row has five of them.
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dispatch", ["dense", "sparse", "auto"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("batch", [1, 2, 40])
def test_mixture_equals_a_loop_over_the_pairs(
    batch, training, dispatch, compiled
):
    random = np.random.default_rng(0)
    experts = keras_comet.StackedDenseExperts(
        32, [5, 3], "tanh", bias_initializer="normal"
    )
    x, upstream = rows(batch, 4), rows(batch, 3, seed=1)
    weights = np.zeros((batch, 32), "float32")
    for row in range(batch):
        # Expert 0 stays idle.
        chosen = 1 + random.choice(31, 5 if row == 2 else 2, replace=False)
        weights[row, chosen] = random.dirichlet(np.ones(len(chosen)))
    moe = keras_comet.MixtureOfExperts(experts, GivenGate(32), dispatch)
    moe.build(((None, 4), (None, 32)))
    parameters = variables([*experts.kernels, *experts.biases])
    inputs = [tf.constant(x), tf.constant(weights)]

    def run():
        mixtures = []

        def loss():
            mixtures.append(moe(tuple(inputs), training=training))
            return tf.reduce_sum(upstream * mixtures[0])

        _, found = gradients(loss, [*inputs, *parameters])
        return [mixtures[0], *found]

    found = (tf.function(run) if compiled else run)()
    expected = mix_in_a_loop(
        *(each.astype("float64") for each in (x, weights, upstream)),
        [np.asarray(each, "float64") for each in experts.kernels],
        [np.asarray(each, "float64") for each in experts.biases],
    )
    # Sparse dispatch knows nothing of experts without weight.
    found[2] = tf.where(weights > 0, found[2], 0.0)
    expected[2][weights == 0] = 0.0
    assert_gradients_close(found, [*expected[:3], *expected[3], *expected[4]])


def test_few_rows_leave_each_other_alone():
    experts = keras_comet.StackedDenseExperts(32, [5, 3], "tanh")
    gate = keras_comet.TopKGate(32)
    moe = keras_comet.MixtureOfExperts(experts, gate, "sparse")
    x, routing_inputs = rows(2, 4), tf.constant(rows(2, 6, seed=1))
    expected = moe((tf.constant(x), routing_inputs))
    x[0] = np.nan
    found = moe((tf.constant(x), routing_inputs))
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1], expected[1], atol=1e-6)


def trace_step(num_experts):
    """The operations in the graph of a training step."""
    experts = keras_comet.StackedDenseExperts(num_experts, [5, 3], "relu")
    gate = keras_comet.TopKGate(num_experts)
    moe = keras_comet.MixtureOfExperts(experts, gate)
    moe.build((None, 4))
    sources = variables(moe.trainable_weights)

    def step(x):
        return gradients(lambda: tf.reduce_sum(moe(x, training=True)), sources)

    graph = (
        tf.function(step)
        .get_concrete_function(tf.TensorSpec([None, 4]))
        .graph.as_graph_def()
    )
    functions = [each.node_def for each in graph.library.function]
    return [node.op for nodes in functions for node in nodes]


def test_trace_grows_in_proportion_to_the_number_of_experts():
    small, medium, large = (trace_step(n) for n in (8, 16, 32))
    growth = (len(large) - len(medium)) / 16
    assert growth <= 1.01 * (len(medium) - len(small)) / 8
    # The gradient of an index would be as large as all kernels, for each.
    assert large.count("StridedSliceGrad") < 10


def test_variables_are_one_stack_for_each_layer():
    experts = keras_comet.StackedDenseExperts(3, [5, 2])
    experts.build((None, 6))
    assert [tuple(each.shape) for each in experts.kernels] == [
        (3, 6, 5),
        (3, 5, 2),
    ]
    assert [tuple(each.shape) for each in experts.biases] == [(3, 5), (3, 2)]
    assert len(experts.trainable_weights) == 4


@pytest.mark.parametrize("seed", [None, 7])
def test_each_expert_starts_as_a_layer_of_its_own_would(seed):
    # Glorot's limit for one kernel is sqrt(6 / (200 + 100)).
    experts = keras_comet.StackedDenseExperts(
        3, 100, kernel_initializer=keras.initializers.GlorotUniform(seed=seed)
    )
    experts.build((None, 200))
    [kernel] = [np.asarray(each) for each in experts.kernels]
    limit = np.sqrt(6 / 300)
    for expert in range(3):
        assert 0.99 * limit < np.abs(kernel[expert]).max() <= limit
    assert np.abs(kernel[0] - kernel[1]).max() > 0.1 * limit
    assert np.abs(kernel[1] - kernel[2]).max() > 0.1 * limit


def test_kernel_regularizer_adds_its_loss_once():
    experts = keras_comet.StackedDenseExperts(
        3, 2, kernel_regularizer=keras.regularizers.L2(0.5)
    )
    moe = keras_comet.MixtureOfExperts(experts, keras_comet.TopKGate(3))
    moe(tf.constant(rows(4, 6)))
    [kernel] = [np.asarray(each) for each in experts.kernels]
    [loss] = moe.losses
    np.testing.assert_allclose(loss, 0.5 * np.square(kernel).sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"num_experts": 0}, "num_experts=0"),
        ({"units": 0}, "units=0"),
        ({"units": []}, r"units=\[\]"),
        ({"units": [3, 0]}, r"units=\[3, 0\]"),
        ({"activation": ["relu"]}, r"Received: 1 for units=\[3, 2\]"),
        ({"dropout": 1.5}, "1.5"),
    ],
)
def test_bad_arguments_raise(kwargs, match):
    with pytest.raises(ValueError, match=match):
        keras_comet.StackedDenseExperts(
            **{"num_experts": 2, "units": [3, 2], **kwargs}
        )


def test_unknown_number_of_features_raises():
    with pytest.raises(ValueError, match=r"known.*\(None, None\)"):
        keras_comet.StackedDenseExperts(2, 3).build((None, None))
