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
@pytest.mark.parametrize(
    ("training", "compiled"), [(False, False), (True, False), (True, True)]
)
@pytest.mark.parametrize("dispatch", ["dense", "sparse", "auto"])
def test_mixture_equals_a_loop_over_the_pairs(training, dispatch, compiled):
    random = np.random.default_rng(0)
    experts = keras_comet.StackedDenseExperts(
        32, [5, 3], "tanh", bias_initializer="normal"
    )
    moe = keras_comet.MixtureOfExperts(experts, GivenGate(32), dispatch)
    moe.build(((None, 4), (None, 32)))
    parameters = variables([*experts.kernels, *experts.biases])

    def run(x, weights, upstream):
        mixtures = []

        def loss():
            mixtures.append(moe((x, weights), training=training))
            return tf.reduce_sum(upstream * mixtures[0])

        _, found = gradients(loss, [x, weights, *parameters])
        return [mixtures[0], *found]

    if compiled:
        # One graph for batches of any size.
        specs = [tf.TensorSpec([None, width]) for width in (4, 32, 3)]
        run = tf.function(run, input_signature=specs)
    for batch in (1, 2, 40):
        x, upstream = rows(batch, 4), rows(batch, 3, seed=1)
        weights = np.zeros((batch, 32), "float32")
        for row in range(batch):
            # Expert 0 stays idle.
            chosen = 1 + random.choice(31, 5 if row == 2 else 2, replace=False)
            weights[row, chosen] = random.dirichlet(np.ones(len(chosen)))
        found = run(*(tf.constant(each) for each in (x, weights, upstream)))
        expected = mix_in_a_loop(
            *(each.astype("float64") for each in (x, weights, upstream)),
            [np.asarray(each, "float64") for each in experts.kernels],
            [np.asarray(each, "float64") for each in experts.biases],
        )
        # Sparse dispatch knows nothing of experts without weight.
        found[2] = tf.where(weights > 0, found[2], 0.0)
        expected[2][weights == 0] = 0.0
        assert_gradients_close(
            found, [*expected[:3], *expected[3], *expected[4]]
        )


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


@pytest.mark.slow
def test_trace_grows_in_proportion_to_the_number_of_experts():
    small, medium, large = (trace_step(n) for n in (4, 8, 16))
    growth = (len(large) - len(medium)) / 8
    assert growth <= 1.01 * (len(medium) - len(small)) / 4
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
        ({"units": [3, "4"]}, "integer"),
        ({"units": 3.0}, "integer"),
        ({"activation": ["relu"]}, r"Received: 1 for units=\[3, 2\]"),
        ({"dropout": 1.5}, "1.5"),
        ({"deviation_scale": 0.0}, "deviation_scale=0.0"),
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


def merge(experts):
    """The kernels and biases of the experts, by the formula."""
    return [
        np.asarray(base) + experts.deviation_scale * np.asarray(deviations)
        for base, deviations in zip(
            [*experts.base_kernels, *experts.base_biases],
            [*experts.kernels, *experts.biases],
            strict=True,
        )
    ]


def make_shared(num_experts=32, scale=0.3, **kwargs):
    """Experts that share a base and have deviations, in a sparse mixture."""
    keras.utils.set_random_seed(0)
    experts = keras_comet.StackedDenseExperts(
        num_experts, [5, 3], "tanh", deviation_scale=scale, **kwargs
    )
    experts.build((None, 4))
    for index, variable in enumerate([*experts.kernels, *experts.biases]):
        variable.assign(rows(*variable.shape, seed=index))
    return experts


@pytest.mark.parametrize("dispatch", ["dense", "sparse"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("batch", [1, 40])
def test_shared_base_equals_a_loop_over_the_pairs(batch, training, dispatch):
    experts = make_shared()
    x, upstream = rows(batch, 4), rows(batch, 3, seed=1)
    weights = np.zeros((batch, 32), "float32")
    weights[:, 3:5] = [0.75, 0.25]
    weights[batch // 2, 7] = 1.0
    weights /= weights.sum(axis=1, keepdims=True)
    moe = keras_comet.MixtureOfExperts(experts, GivenGate(32), dispatch)
    moe.build(((None, 4), (None, 32)))
    mixtures = []

    def loss():
        inputs = (tf.constant(x), tf.constant(weights))
        mixtures.append(moe(inputs, training=training))
        return tf.reduce_sum(upstream * mixtures[0])

    groups = (
        experts.base_kernels,
        experts.base_biases,
        experts.kernels,
        experts.biases,
    )
    _, found = gradients(loss, [v for each in groups for v in variables(each)])
    merged = [each.astype("float64") for each in merge(experts)]
    expected, _, _, from_kernels, from_biases = mix_in_a_loop(
        *(each.astype("float64") for each in (x, weights, upstream)),
        merged[:2],
        merged[2:],
    )
    from_stacks = [*from_kernels, *from_biases]
    np.testing.assert_allclose(mixtures[0], expected, atol=1e-5)
    # A base has the gradients of all experts, a deviation s times its own.
    assert_gradients_close(
        found,
        [
            *(each.sum(axis=0) for each in from_stacks),
            *(0.3 * each for each in from_stacks),
        ],
    )


def test_experts_with_a_base_start_as_one():
    experts = keras_comet.StackedDenseExperts(3, [5, 2], deviation_scale=0.1)
    x = rows(4, 6)
    found = experts(x).numpy()
    for e in range(3):
        np.testing.assert_array_equal(found[:, e], found[:, 0])
    first, second = (np.asarray(each) for each in experts.base_kernels)
    np.testing.assert_allclose(found[:, 0], x @ first @ second, atol=1e-5)
    # As one layer of its own would start, not as a stack of them.
    limit = np.sqrt(6 / (6 + 5))
    assert 0.8 * limit < np.abs(first).max() <= limit


def test_a_row_has_one_dropout_mask_for_all_of_its_experts():
    rate = 0.5
    experts = keras_comet.StackedDenseExperts(
        4, [64, 32], dropout=rate, bias_initializer="ones"
    )
    experts.build((None, 6))
    # Equal experts: what differs is the mask.
    for variable in (*experts.kernels, *experts.biases):
        variable.assign(np.broadcast_to(variable[:1], variable.shape))
    x = rows(8, 6)
    outputs = experts(x, training=True).numpy()
    for e in range(4):
        np.testing.assert_allclose(outputs[:, e], outputs[:, 0], atol=1e-5)
    assert 0.35 < np.mean(outputs == 0.0) < 0.65
    # Each layer and each row has its own.
    assert not np.array_equal(outputs[0] == 0.0, outputs[1] == 0.0)
    moe = keras_comet.MixtureOfExperts(
        experts, keras_comet.TopKGate(4), "sparse"
    )
    mixed = moe(x, training=True).numpy()
    # The sum of two experts has zeros where either has.
    assert 0.35 < np.mean(mixed == 0.0) < 0.65
    assert np.all(experts(x).numpy() != 0.0)


def test_deviations_move_as_far_as_their_scale_says_under_adam():
    experts = make_shared(2, scale=0.03)
    model = keras.Sequential([keras.Input((4,)), experts])
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=True)
    before = merge(experts)
    base = [np.array(each) for each in experts.base_kernels]
    model.fit(rows(8, 4), rows(8, 2, 3, seed=1), verbose=0)
    moved = [
        np.abs(after - start)
        for after, start in zip(experts.base_kernels, base, strict=True)
    ]
    # The first step of Adam is the learning rate, whatever the gradient is
    # that is not next to zero.
    for each in moved:
        np.testing.assert_allclose(np.median(each), 0.01, rtol=1e-3)
    changes = [
        after - start
        for after, start in zip(merge(experts), before, strict=True)
    ]
    for change in changes[:2]:
        apart = np.abs(np.abs(change) / 0.01 - 1.0)
        np.testing.assert_allclose(np.median(apart), 0.03, rtol=0.01)
