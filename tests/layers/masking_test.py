"""Masks of padded tokens pass through gates and mixtures."""

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras

TOKENS = np.array([[1, 2, 0], [3, 0, 0]])


def embed(ids):
    return keras.layers.Embedding(4, 5, mask_zero=True)(ids)


def gate():
    return keras_comet.COMETGate(3)


def experts(kind):
    if kind == "stacked":
        return keras_comet.StackedDenseExperts(3, [2])
    return [keras.layers.Dense(2) for _ in range(3)]


def mixture(kind):
    return keras_comet.MixtureOfExperts(experts(kind), gate())


def multi_gate(kind):
    return keras_comet.MultiGateMixtureOfExperts(
        experts(kind), {"buy": gate(), "click": gate()}
    )


def assert_padding_left_out(tokens, mean):
    present = (TOKENS != 0)[..., np.newaxis]
    expected = (np.asarray(tokens) * present).sum(1) / present.sum(1)
    np.testing.assert_allclose(mean, expected, atol=1e-6)


def as_list(outputs):
    return list(outputs.values()) if isinstance(outputs, dict) else [outputs]


@pytest.mark.parametrize("routed_by", ["features", "other inputs"])
@pytest.mark.parametrize("kind", ["list", "stacked"])
@pytest.mark.parametrize("make", [mixture, multi_gate])
def test_masked_tokens_are_left_out_after_a_mixture(make, kind, routed_by):
    ids = keras.Input((3,), dtype="int32")
    features = embed(ids)
    inputs = features
    if routed_by == "other inputs":
        inputs = (features, keras.layers.Embedding(4, 2)(ids))
    outputs = as_list(make(kind)(inputs))
    means = [keras.layers.GlobalAveragePooling1D()(each) for each in outputs]
    (*found,) = keras.Model(ids, [*outputs, *means])(TOKENS)
    count = len(outputs)
    for tokens, mean in zip(found[:count], found[count:], strict=True):
        assert_padding_left_out(tokens, mean)


def test_masked_tokens_are_left_out_after_a_gate():
    ids = keras.Input((3,), dtype="int32")
    weights = gate()(embed(ids))
    mean = keras.layers.GlobalAveragePooling1D()(weights)
    tokens, found = keras.Model(ids, [weights, mean])(TOKENS)
    assert_padding_left_out(tokens, found)


def test_sequence_routed_whole_keeps_its_mask():
    ids, vector = keras.Input((3,), dtype="int32"), keras.Input((4,))
    outputs = mixture("list")((embed(ids), vector))
    mean = keras.layers.GlobalAveragePooling1D()(outputs)
    model = keras.Model([ids, vector], [outputs, mean])
    tokens, found = model([TOKENS, np.ones((2, 4), "float32")])
    assert_padding_left_out(tokens, found)


def padded(seed=0):
    """Tokens of which some are padding, with numbers that would be seen."""
    mask = np.array([[True, True, False], [True, False, False]])
    tokens = np.random.default_rng(seed).normal(size=(2, 3, 5))
    return np.where(mask[..., np.newaxis], tokens, 50.0).astype("float32"), mask


GATES = {
    "comet": lambda: keras_comet.COMETGate(
        3, entropy_weight=0.3, load_balance_weight=0.2
    ),
    "dselect_k": lambda: keras_comet.DSelectKGate(
        3, entropy_weight=0.3, load_balance_weight=0.2
    ),
    "top_k": lambda: keras_comet.TopKGate(
        3, load_balance_weight=0.2, z_loss_weight=0.1, balance_rate=0.1
    ),
}


@pytest.mark.parametrize("kind", GATES)
def test_padding_takes_no_part_in_routing(kind, eager):
    tokens, mask = padded()
    with_padding, without = GATES[kind](), GATES[kind]()
    for each in (with_padding, without):
        each.build((None, 3, 5))
    without.set_weights(with_padding.get_weights())
    expected = without(tokens[mask], training=True).numpy()
    weights = with_padding(tokens, training=True, mask=mask).numpy()
    np.testing.assert_allclose(weights[mask], expected, atol=1e-6)
    assert not weights[~mask].any()
    np.testing.assert_allclose(with_padding.losses, without.losses, rtol=1e-5)
    # Scale, bias and steps too.
    for ours, theirs in zip(
        with_padding.get_weights(), without.get_weights(), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_padding_takes_no_part_in_statistics():
    tokens, mask = padded()
    weights = GATES["top_k"]()(tokens, mask=mask)
    found = keras_comet.routing_statistics(weights, k=2)
    expected = keras_comet.routing_statistics(weights[mask], k=2)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)
    assert found["cardinality"] == 2.0


@pytest.mark.parametrize("routed_by", ["features", "other inputs"])
@pytest.mark.parametrize("dispatch", ["sparse", "dense"])
@pytest.mark.parametrize("make", [mixture, multi_gate])
def test_padding_costs_no_expert_and_changes_nothing(make, dispatch, routed_by):
    ids = keras.Input((None,), dtype="int32")
    moe = make("list")
    moe.dispatch = dispatch
    inputs = features = embed(ids)
    if routed_by == "other inputs":
        # Without a mask of their own.
        inputs = (features, keras.layers.Embedding(4, 2)(ids))
    outputs = as_list(moe(inputs))
    model = keras.Model(ids, [*outputs, *outputs[:1]])
    narrow, wide = (
        np.asarray(model(each)[0])
        for each in (TOKENS[:, :2], np.pad(TOKENS, [(0, 0), (0, 4)]))
    )
    np.testing.assert_allclose(wide[:, :2], narrow, atol=1e-6)
    assert not wide[:, 2:].any()
    assert not wide[1, 1:].any()


@pytest.mark.parametrize("kind", ["list", "stacked"])
@pytest.mark.parametrize("training", [False, True])
def test_nothing_but_padding_gives_zeros(kind, training):
    ids = keras.Input((None,), dtype="int32")
    moe = mixture(kind)
    moe.dispatch = "sparse"
    model = keras.Model(ids, moe(embed(ids)))
    outputs = model(np.zeros([2, 3], "int32"), training=training)
    np.testing.assert_array_equal(outputs, np.zeros([2, 3, 2]))


def test_masked_training_under_xla_is_an_error():
    tokens, mask = padded()
    layer = gate()
    layer.build((None, 3, 5))

    @tf.function(jit_compile=True)
    def route(training):
        return layer(tokens, training=training, mask=tf.constant(mask))

    weights = route(False).numpy()
    np.testing.assert_allclose(weights.sum(-1), mask, atol=1e-6)
    with pytest.raises(ValueError, match="jit_compile=False"):
        route(True)
