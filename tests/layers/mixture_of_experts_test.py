from types import SimpleNamespace

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
from tests.layers.expert_kinds import features_for


def make_moe(dispatch="auto", gate="top_k"):
    return keras_comet.MixtureOfExperts(
        EXPERTS["dense"](), GATES[gate](), dispatch=dispatch
    )


@pytest.mark.parametrize("dispatch", ["dense", "sparse", "auto"])
@pytest.mark.parametrize("kind", ["dense", "stacked"])
def test_tokens_are_routed_one_by_one(kind, dispatch):
    moe = keras_comet.MixtureOfExperts(
        EXPERTS[kind](), GATES["top_k"](), dispatch=dispatch
    )
    tokens = rows(2, 4, 6)
    flat = np.asarray(moe(tokens.reshape(8, 6)))
    np.testing.assert_allclose(moe(tokens), flat.reshape(2, 4, 3), atol=1e-6)


@pytest.mark.parametrize("dispatch", ["dense", "sparse", "auto"])
@pytest.mark.parametrize("kind", ["dense", "stacked"])
def test_sequences_are_routed_whole_by_vectors(kind, dispatch):
    experts = EXPERTS[kind]()
    moe = keras_comet.MixtureOfExperts(
        experts, keras_comet.HashGate(NUM_EXPERTS, num_ids=5), dispatch
    )
    sequences = tf.constant(rows(5, 2, 6))
    ids = tf.range(5)
    found, weights = moe((sequences, ids), return_routing_weights=True)
    assert found.shape == (5, 2, 3)
    for row, expert in enumerate(np.argmax(weights, axis=-1)):
        if kind == "dense":
            expected = experts[expert](sequences[row])
        else:
            expected = experts(sequences[row])[:, expert]
        np.testing.assert_allclose(found[row], expected, atol=1e-6)


def test_routing_weights_are_returned_on_request():
    moe = make_moe()
    inputs = keras.Input((6,))
    model = keras.Model(inputs, moe(inputs, return_routing_weights=True))
    x = tf.constant(rows(4, 6))
    mixture, weights = model(x)
    np.testing.assert_allclose(weights, moe.gate(x), atol=1e-6)
    np.testing.assert_allclose(mixture, moe(x), atol=1e-6)


def test_batch_size_may_be_unknown():
    moe = make_moe("sparse")
    moe.build((None, 6))
    traced = tf.function(moe).get_concrete_function(tf.TensorSpec([None, 6]))
    assert traced.output_shapes == [None, 3]
    x = rows(4, 6)
    np.testing.assert_allclose(traced(x), moe(x), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (
            lambda: keras_comet.MixtureOfExperts(
                [keras.layers.Dense(2), keras.layers.Dense(3, name="wide")],
                keras_comet.SoftmaxGate(2),
            )(rows(2, 4)),
            r"same output shape.*1 \(wide\): \(3,\)",
        ),
        (
            lambda: keras_comet.MixtureOfExperts(
                EXPERTS["dense"](), keras_comet.SoftmaxGate(4)
            ),
            "3 experts.*num_experts=4",
        ),
        (lambda: make_moe(dispatch="fast"), "must be one of.*'fast'"),
        (
            lambda: keras_comet.MixtureOfExperts(
                [], keras_comet.SoftmaxGate(1)
            ),
            "at least one layer",
        ),
        (
            lambda: keras_comet.MixtureOfExperts(
                keras.layers.Dense(3), keras_comet.SoftmaxGate(1)
            ),
            "must be a list of Keras layers",
        ),
        (
            lambda: keras_comet.MixtureOfExperts(
                [tf.tanh], keras_comet.SoftmaxGate(1)
            ),
            "must be a list of Keras layers",
        ),
        (
            lambda: keras_comet.MixtureOfExperts(
                [keras.layers.Dense(3)] * 2, keras_comet.SoftmaxGate(2)
            ),
            "more than once",
        ),
        (
            lambda: keras_comet.MixtureOfExperts(
                EXPERTS["dense"](), keras.layers.Dense(5)
            ),
            "must be a keras_comet.Gate",
        ),
    ],
)
def test_bad_arguments_raise(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        (rows(2, 4, 4, 1), r"rank 4.*\(features, routing_inputs\)"),
        ((rows(2, 6), rows(3, 6)), r"start with.*\(2, 6\).*\(3, 3\)"),
        ((rows(2, 6), rows(2, 3, 6)), r"start with.*\(2, 6\).*\(2, 3, 3\)"),
        ((rows(2, 6), rows(6)), "batch axis"),
        ((rows(2, 6),), "Received: 1 inputs"),
        ((rows(2, 6), rows(2, 6), rows(2, 6)), "Received: 3 inputs"),
        ((rows(2, 6), {"a": rows(2, 6)}), "MultiGateMixtureOfExperts"),
        (rows(6), "batch axis"),
    ],
)
def test_inputs_that_do_not_fit_raise(inputs, match):
    with pytest.raises(ValueError, match=match):
        make_moe()(tf.nest.map_structure(tf.constant, inputs))


def test_gate_by_ids_without_ids_raises():
    moe = keras_comet.MixtureOfExperts(
        keras_comet.StackedDenseExperts(3, 2), keras_comet.HashGate(3)
    )
    with pytest.raises(ValueError, match=r"Call the layer with \(features, id"):
        moe(rows(6, 5))


@pytest.mark.parametrize("dispatch", ["dense", "sparse", "auto"])
@pytest.mark.parametrize("batch", [1, 3])
def test_other_routing_inputs_than_features_raise_later_too(dispatch, batch):
    # One row of weights must not be broadcast, also where it could be.
    moe = make_moe(dispatch)
    inputs = tf.constant(rows(2, 6)), tf.constant(rows(batch, 6))
    moe(inputs[0])
    with pytest.raises(ValueError, match="start with"):
        moe(inputs)


def test_features_may_be_integers():
    moe = make_moe()
    x = np.arange(12).reshape(2, 6) - 5
    np.testing.assert_allclose(
        moe(tf.constant(x)), moe(tf.constant(x, tf.float32)), atol=1e-6
    )


def test_images_are_routed_by_vectors():
    experts = EXPERTS["convolution and pooling"]()
    moe = keras_comet.MixtureOfExperts(
        experts, keras_comet.HashGate(NUM_EXPERTS, num_ids=5), "sparse"
    )
    images = features_for("convolution and pooling", 5)
    found, weights = moe((images, tf.range(5)), return_routing_weights=True)
    for row, expert in enumerate(np.argmax(weights, axis=-1)):
        expected = experts[expert](images[row : row + 1])[0]
        np.testing.assert_allclose(found[row], expected, atol=1e-5)


@pytest.mark.parametrize("dispatch", ["dense", "sparse", "auto"])
@pytest.mark.parametrize("batch", [0, 1, 7])
def test_shared_experts_are_added_for_every_row(dispatch, batch):
    experts = [keras.layers.Dense(3, "tanh") for _ in range(4)]
    shared = [keras.layers.Dense(3, "relu") for _ in range(2)]
    gates = {t: keras_comet.TopKGate(4, k=1) for t in ("click", "buy")}
    both = keras_comet.MultiGateMixtureOfExperts(
        experts, gates, dispatch, shared_experts=shared
    )
    x = rows(batch, 5)
    found, weights = both(tf.constant(x), return_routing_weights=True)
    of_experts = np.stack([np.asarray(each(x)) for each in experts])
    always = sum(np.asarray(each(x)) for each in shared)
    for task, mixture in found.items():
        expected = np.einsum("be,ebu->bu", weights[task], of_experts) + always
        np.testing.assert_allclose(mixture, expected, atol=1e-5)


def test_shared_experts_train_on_every_row():
    shared = keras_comet.StackedDenseExperts(2, 3)
    moe = keras_comet.MixtureOfExperts(
        keras_comet.StackedDenseExperts(4, 3),
        keras_comet.TopKGate(4),
        "sparse",
        shared_experts=shared,
    )
    x = rows(6, 5)
    moe(tf.constant(x))
    _, found = gradients(
        lambda: tf.reduce_sum(moe(tf.constant(x), training=True)),
        variables([*shared.kernels, *shared.biases]),
    )
    expected = np.broadcast_to(x.sum(axis=0)[:, np.newaxis], (2, 5, 3))
    np.testing.assert_allclose(found[0], expected, atol=1e-4)
    np.testing.assert_allclose(found[1], np.full((2, 3), 6.0), atol=1e-5)


def test_shared_experts_of_another_width_raise():
    moe = keras_comet.MixtureOfExperts(
        [keras.layers.Dense(3) for _ in range(2)],
        keras_comet.TopKGate(2),
        shared_experts=[keras.layers.Dense(4)],
    )
    with pytest.raises(ValueError, match=r"\(3,\).*\(4,\)"):
        moe(rows(6, 5))


@pytest.mark.parametrize("dispatch", ["dense", "sparse", "auto"])
def test_keras_compiles_with_xla_on_a_gpu_where_all_is_dense(
    dispatch, monkeypatch
):
    moe = keras_comet.MixtureOfExperts(
        [keras.layers.Dense(3) for _ in range(2)],
        keras_comet.TopKGate(2),
        dispatch,
    )
    model = keras.Sequential([keras.Input((5,)), moe])
    gpu = SimpleNamespace(device_type="GPU")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda *_: [gpu])
    model.compile("sgd", "mse")
    assert model.jit_compile == (dispatch == "dense")


@pytest.mark.parametrize("dispatch", ["dense", "sparse", "auto"])
@pytest.mark.parametrize(
    "gate_class", [keras_comet.COMETGate, keras_comet.TopKGate]
)
def test_gradient_penalties_equal_those_of_the_plain_sum(gate_class, dispatch):
    experts = [keras.layers.Dense(3, "tanh") for _ in range(4)]
    gate = gate_class(4)
    moe = keras_comet.MixtureOfExperts(experts, gate, dispatch)
    x = tf.constant(rows(6, 5))
    moe(x)
    sources = variables(moe.trainable_weights)

    def plain(x):
        weights = tf.unstack(gate(x, training=True), axis=-1)
        return tf.add_n(
            [
                weight[:, tf.newaxis] * expert(x)
                for weight, expert in zip(weights, experts, strict=True)
            ]
        )

    def differentiate(function):
        def penalty():
            _, [slope] = gradients(lambda: tf.reduce_sum(function(x) ** 2), [x])
            return tf.reduce_sum(slope**2)

        return gradients(penalty, sources)

    penalty, found = differentiate(lambda x: moe(x, training=True))
    expected_penalty, expected = differentiate(plain)
    np.testing.assert_allclose(penalty, expected_penalty, rtol=1e-5)
    assert_gradients_close(found, expected, 1e-4)
