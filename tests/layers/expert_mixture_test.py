"""Sparse, dense and automatic dispatch give one result."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras
from tests.helpers import assert_gradients_close
from tests.helpers import gradients
from tests.helpers import rows
from tests.helpers import variables
from tests.layers.expert_kinds import EXPERTS
from tests.layers.expert_kinds import GATES
from tests.layers.expert_kinds import NUM_EXPERTS
from tests.layers.expert_kinds import CountingExpert
from tests.layers.expert_kinds import features_for
from tests.layers.expert_kinds import mixtures
from tests.layers.expert_kinds import routing_inputs_for

DISPATCHES = ["dense", "sparse", "auto"]
# A gate gives weights and knows neither experts nor dispatch: each kind of
# expert with two gates, and each gate with one way to dispatch.
KINDS_AND_GATES = [
    (kind, list(GATES)[(index + step) % len(GATES)])
    for index, kind in enumerate(EXPERTS)
    for step in (0, 2)
]
GATES_AND_DISPATCHES = list(
    zip(GATES, itertools.cycle(DISPATCHES), strict=False)
)


def assert_dispatches_agree(kind, gate, compiled):
    inputs = features_for(kind), routing_inputs_for(gate)
    results = {}
    for dispatch, moe in mixtures(kind, gate).items():
        moe(inputs)
        weights = variables(moe.trainable_weights)

        # Arguments, as a graph has other tensors for those around it.
        def run(*inputs, moe=moe, weights=weights):
            outputs = []

            def loss():
                outputs.append(moe(inputs))
                return tf.reduce_sum(tf.sin(outputs[0]))

            sources = inputs[:1] if gate == "hash" else inputs
            _, found = gradients(loss, [*sources, *weights])
            return outputs[0], found

        # What is expected needs no graph.
        in_a_graph = compiled and dispatch != "dense"
        results[dispatch] = (tf.function(run) if in_a_graph else run)(*inputs)
    outputs, expected = results.pop("dense")
    assert np.abs(outputs).max() > 0.01
    assert all(np.any(tf.convert_to_tensor(each)) for each in expected[:2])
    for found, gradient in results.values():
        np.testing.assert_allclose(found, outputs, atol=1e-5)
        assert_gradients_close(gradient, expected, 1e-5)


@pytest.mark.parametrize(("kind", "gate"), KINDS_AND_GATES)
def test_dispatches_agree_in_eager_mode(kind, gate):
    assert_dispatches_agree(kind, gate, compiled=False)


@pytest.mark.parametrize(
    ("kind", "gate"),
    [(kind, "comet") for kind in EXPERTS if kind != "dense"]
    + [("dense", gate) for gate in GATES],
)
def test_dispatches_agree_in_a_graph(kind, gate):
    assert_dispatches_agree(kind, gate, compiled=True)


@pytest.mark.parametrize("dispatch", DISPATCHES)
@pytest.mark.parametrize("gate", GATES)
def test_mixture_is_the_weighted_sum_of_the_experts(gate, dispatch):
    moe = mixtures("dense", gate)[dispatch]
    features, routing_inputs = features_for("dense"), routing_inputs_for(gate)
    found, weights = moe(
        (features, routing_inputs), return_routing_weights=True
    )
    np.testing.assert_array_equal(weights, moe.gate(routing_inputs))
    expected = np.zeros((13, 3))
    for e, expert in enumerate(moe.experts):
        kernel, bias = (np.asarray(each) for each in expert.get_weights())
        outputs = np.tanh(features.numpy() @ kernel + bias)
        expected += weights.numpy()[:, e : e + 1] * outputs
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("dispatch", DISPATCHES)
@pytest.mark.parametrize("gate", GATES)
def test_a_row_does_not_depend_on_the_others(gate, dispatch):
    moe = mixtures("dense", gate)[dispatch]
    features, routing_inputs = features_for("dense"), routing_inputs_for(gate)
    expected = moe((features, routing_inputs)).numpy()
    order = np.random.default_rng(0).permutation(13)
    for subset in (order, order[:4], [5], [5] * 40):
        found = moe(
            (tf.gather(features, subset), tf.gather(routing_inputs, subset))
        )
        np.testing.assert_allclose(found, expected[subset], atol=1e-6)


@pytest.mark.parametrize("dispatch", DISPATCHES)
@pytest.mark.parametrize("gate", GATES)
def test_an_empty_batch_gives_empty_outputs(gate, dispatch):
    in_a_graph = (gate, dispatch) in GATES_AND_DISPATCHES
    for kind in ("convolution and pooling", "stacked"):
        moe = mixtures(kind, gate)[dispatch]
        inputs = features_for(kind, 2), routing_inputs_for(gate, 2)
        for call in [moe, tf.function(moe)] if in_a_graph else [moe]:
            found = call(tf.nest.map_structure(lambda x: x[:0], inputs))
            assert found.shape == (0, 3)


@pytest.mark.parametrize("dispatch", DISPATCHES)
@pytest.mark.parametrize("gate", GATES)
def test_a_bad_row_leaves_the_others_alone(gate, dispatch):
    moe = mixtures("dense", gate)[dispatch]
    features = features_for("dense").numpy()
    routing_inputs = routing_inputs_for(gate).numpy()
    expected = moe((tf.constant(features), tf.constant(routing_inputs))).numpy()
    others = np.arange(13) != 3
    for bad in (np.inf, np.nan):
        features[3, 1] = bad
        if gate != "hash":
            routing_inputs[3, 1] = bad
        found = moe((tf.constant(features), tf.constant(routing_inputs)))
        np.testing.assert_allclose(
            found.numpy()[others], expected[others], atol=1e-6
        )
    assert np.isnan(found[3]).all()


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_a_nan_in_the_routing_inputs_alone_is_not_hidden(dispatch):
    moe = mixtures("dense", "top_k")[dispatch]
    routing_inputs = routing_inputs_for("top_k").numpy()
    routing_inputs[3] = np.nan
    found = moe((features_for("dense"), tf.constant(routing_inputs))).numpy()
    assert np.isnan(found[3]).all()
    assert np.isfinite(np.delete(found, 3, axis=0)).all()


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_an_expert_may_overflow_on_rows_of_others(dispatch):
    # Expert 1 has no finite value for row 0, which goes to expert 0.
    experts = [
        keras.layers.Activation("linear"),
        keras.layers.Activation(lambda x: tf.math.log(x)),
    ]
    gate = keras_comet.HashGate(2, num_ids=2)
    gate.build((None,))
    gate.assignment.assign([0, 1])
    x = tf.constant([[-1.0], [1.0], [np.e]])
    moe = keras_comet.MixtureOfExperts(experts, gate, dispatch)
    found = moe((x, tf.constant([0, 1, 1])))
    np.testing.assert_allclose(found, [[-1.0], [0.0], [1.0]], atol=1e-6)
    # With two tasks, the pair of row 0 and expert 1 may be computed.
    gates = {name: keras_comet.HashGate(2, num_ids=2) for name in "ab"}
    for each in gates.values():
        each.build((None,))
        each.assignment.assign([0, 1])
    both = keras_comet.MultiGateMixtureOfExperts(experts, gates, dispatch)
    ids = {"a": tf.constant([0, 1, 1]), "b": tf.constant([1, 1, 1])}
    found = both((x, ids))
    np.testing.assert_allclose(found["a"], [[-1.0], [0.0], [1.0]], atol=1e-6)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("dense", "calls"), [(True, 4), (False, 2)])
def test_auto_is_dense_above_half_and_sparse_below(dense, calls, compiled):
    experts = [CountingExpert() for _ in range(4)]
    gate = keras_comet.TopKGate(4, k=4 if dense else 1)
    gate.build((None, 2))
    # Experts 0 and 1 are the first of every row.
    gate.kernel.assign([[9.0, -9.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    moe = keras_comet.MixtureOfExperts(experts, gate)
    moe.build((None, 2))
    call = tf.function(moe) if compiled else moe
    call(tf.constant([[1.0, 0.0], [-1.0, 0.0]]))
    assert sum(int(each.calls) for each in experts) == calls


@pytest.mark.parametrize("dispatch", DISPATCHES)
@pytest.mark.parametrize("kind", ["dropout", "stacked"])
def test_training_reaches_the_experts(kind, dispatch):
    if kind == "dropout":
        experts = [
            keras.Sequential([keras.layers.Dropout(0.5)]) for _ in range(3)
        ]
    else:
        experts = keras_comet.StackedDenseExperts(
            3, 50, dropout=0.5, kernel_initializer="identity"
        )
    moe = keras_comet.MixtureOfExperts(
        experts, keras_comet.TopKGate(3, k=1), dispatch
    )
    x = tf.ones([8, 50])
    # The graph of "auto" holds both others.
    calls = [moe, tf.function(moe)] if dispatch == "auto" else [moe]
    for call in calls:
        for training in (None, False):
            np.testing.assert_allclose(call(x, training=training), x)
        kept = call(x, training=True).numpy()
        # Dropped or doubled, 200 +- 6 standard deviations of 10.
        assert set(np.unique(kept)) == {0.0, 2.0}
        assert 140 < np.count_nonzero(kept) < 260


@pytest.mark.parametrize("dispatch", ["sparse", "auto"])
def test_expert_that_adds_a_loss_needs_dense_dispatch(dispatch):
    experts = [
        keras.layers.Dense(2, activity_regularizer="l2") for _ in range(3)
    ]
    gate = keras_comet.SoftmaxGate(3)
    x = rows(4, 2)
    with pytest.raises(ValueError, match="adds a loss.*dispatch='dense'"):
        keras_comet.MixtureOfExperts(experts, gate, dispatch)(x)
    moe = keras_comet.MixtureOfExperts(experts, gate, "dense")
    moe(x)
    assert len(moe.losses) == 3


def test_regularizers_of_expert_kernels_are_fine_under_any_dispatch():
    for dispatch in DISPATCHES:
        experts = [
            keras.layers.Dense(2, kernel_regularizer=keras.regularizers.L2(0.5))
            for _ in range(3)
        ]
        gate = keras_comet.TopKGate(3, k=1)
        moe = keras_comet.MixtureOfExperts(experts, gate, dispatch)
        moe(rows(4, 2))
        kernels = [np.asarray(each.get_weights()[0]) for each in experts]
        np.testing.assert_allclose(
            np.sort(moe.losses),
            np.sort([0.5 * np.square(kernel).sum() for kernel in kernels]),
            rtol=1e-5,
        )


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("kind", ["dense", "stacked"])
def test_mixed_precision_computes_in_half_and_routes_in_full(kind, policy):
    keras.mixed_precision.set_global_policy(policy)
    x = tf.constant(rows(13, 6))
    results = []
    for moe in mixtures(kind, "comet").values():
        found, weights = moe(x, return_routing_weights=True)
        assert found.dtype == moe.compute_dtype == policy[6:]
        assert weights.dtype == tf.float32
        np.testing.assert_allclose(tf.reduce_sum(weights, -1), 1.0, atol=1e-6)
        results.append(tf.cast(found, tf.float32).numpy())
        assert np.isfinite(results[-1]).all()
    for found in results[1:]:
        # Eight bits of mantissa, and sums of at most five terms.
        np.testing.assert_allclose(found, results[0], atol=2e-2)


@pytest.mark.parametrize(("gate", "dispatch"), GATES_AND_DISPATCHES)
def test_compiled_with_xla_equals_not(gate, dispatch):
    features, routing_inputs = features_for("dense"), routing_inputs_for(gate)
    moe = mixtures("dense", gate)[dispatch]
    moe((features, routing_inputs))
    sources = variables(moe.trainable_weights)

    def run():
        return gradients(
            lambda: tf.reduce_sum(moe((features, routing_inputs)) ** 2),
            sources,
        )

    value, found = run()
    compiled, compiled_found = tf.function(run, jit_compile=True)()
    np.testing.assert_allclose(compiled, value, rtol=1e-5)
    assert_gradients_close(compiled_found, found, 1e-5)


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_all_experts_selected_equals_the_softmax_mixture(dispatch):
    top_k = keras_comet.TopKGate(NUM_EXPERTS, k=NUM_EXPERTS)
    softmax = keras_comet.SoftmaxGate(NUM_EXPERTS)
    experts = EXPERTS["dense"]()
    sparse = keras_comet.MixtureOfExperts(experts, top_k, dispatch)
    dense = keras_comet.MixtureOfExperts(experts, softmax, "dense")
    x = tf.constant(rows(7, 6))
    dense(x)
    sparse(x)
    top_k.set_weights(softmax.get_weights())
    np.testing.assert_allclose(sparse(x), dense(x), atol=1e-6)


@pytest.mark.parametrize("dispatch", DISPATCHES)
@pytest.mark.parametrize(
    "gate_class",
    [
        keras_comet.COMETGate,
        keras_comet.DSelectKGate,
        keras_comet.TopKGate,
        keras_comet.SoftmaxGate,
    ],
)
def test_one_expert_is_that_expert(gate_class, dispatch):
    k = {} if gate_class is keras_comet.SoftmaxGate else {"k": 1}
    expert = keras.layers.Dense(3, "tanh")
    moe = keras_comet.MixtureOfExperts(
        [expert], gate_class(1, **k), dispatch=dispatch
    )
    x = tf.constant(rows(7, 6))
    np.testing.assert_allclose(moe(x), expert(x), atol=1e-6)


@pytest.mark.parametrize("dispatch", DISPATCHES)
@pytest.mark.parametrize("compiled", [False, True])
def test_weights_of_zero_get_gradients_while_searching(dispatch, compiled):
    order = np.array([2, 0, 3, 1])
    permutation = keras_comet.ExpertPermutation(4)
    permutation.freeze([order])
    permutation.frozen.assign(False)
    gate = keras_comet.TopKGate(4, k=2, permutation=permutation)
    experts = [keras.layers.Dense(3, use_bias=False) for _ in range(4)]
    moe = keras_comet.MixtureOfExperts(experts, gate, dispatch)
    x, direction = rows(6, 5), rows(6, 3, seed=1)
    moe(x)
    [searched] = variables([permutation.permutation_weights])

    def find():
        def loss():
            return tf.reduce_sum(moe(tf.constant(x)) * direction)

        return gradients(loss, [searched])[1]

    [found] = (tf.function(find) if compiled else find)()
    # y = sum_e g_e f_e / sum_e g_e with g = G P: by the quotient rule
    # dL/dP[i, e] = sum_b G_bi (L_be - sum_e' g_be' L_be').
    logits = x @ np.array(gate.kernel)
    routed = np.zeros((6, 4))
    for row, each in enumerate(logits):
        top = np.argsort(-each)[:2]
        routed[row, top] = np.exp(each[top]) / np.exp(each[top]).sum()
    worth = np.stack(
        [((x @ np.array(e.kernel)) * direction).sum(1) for e in experts], 1
    )
    by_expert = np.zeros((6, 4))
    by_expert[:, order] = routed
    mean = (by_expert * worth).sum(axis=1, keepdims=True)
    expected = routed.T @ (worth - mean)
    np.testing.assert_allclose(np.array(found)[0], expected, atol=1e-5)
