"""Masks of padded tokens pass through gates and mixtures."""

import numpy as np
import pytest

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
