import sys

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras
from keras_comet.analysis import ExpertSimilarity
from tests.helpers import rows

FEATURES = rows(12, 3)


def make_model(experts, dispatch="auto"):
    gate = keras_comet.TopKGate(3, k=1)
    moe = keras_comet.MixtureOfExperts(experts, gate, dispatch, name="moe")
    return keras.Sequential([keras.Input((3,)), moe])


def similarity_by_hand(outputs):
    """Loops over pairs and rows. Outputs `(num_experts, rows, width)`."""
    center = outputs.reshape(-1, outputs.shape[-1]).mean(axis=0)
    matrix = np.array(
        [
            [
                np.mean(
                    [
                        (a - center)
                        @ (b - center)
                        / np.sqrt(((a - center) ** 2).sum())
                        / np.sqrt(((b - center) ** 2).sum())
                        for a, b in zip(one, other, strict=True)
                    ]
                )
                for other in outputs
            ]
            for one in outputs
        ]
    )
    shares = np.linalg.eigvalsh(matrix)
    shares /= shares.sum()
    return matrix, np.exp(-np.sum(shares * np.log(shares)))


@pytest.mark.parametrize("dispatch", ["dense", "sparse"])
def test_matrix_equals_numpy(dispatch):
    experts = [keras.layers.Dense(4, "relu") for _ in range(3)]
    model = make_model(experts, dispatch)
    found = keras_comet.expert_similarity(model, FEATURES)["moe"]
    outputs = np.stack([np.asarray(expert(FEATURES)) for expert in experts])
    matrix, effective_experts = similarity_by_hand(outputs.astype("float64"))
    np.testing.assert_allclose(found.matrix, matrix, atol=1e-6)
    assert found.effective_experts == pytest.approx(effective_experts)
    assert found.verdict == (
        f"3 experts are like {effective_experts:.1f} unrelated ones"
    )


def test_stacked_experts_are_compared_without_dropout():
    experts = keras_comet.StackedDenseExperts(3, [5, 4], "relu", dropout=0.9)
    model = make_model(experts)
    outputs = np.asarray(experts(FEATURES)).swapaxes(0, 1)
    found = keras_comet.expert_similarity(model, FEATURES)["moe"]
    matrix, _ = similarity_by_hand(outputs.astype("float64"))
    np.testing.assert_allclose(found.matrix, matrix, atol=1e-5)


def test_first_batch_of_a_data_set_is_compared():
    model = make_model([keras.layers.Dense(4) for _ in range(3)])
    data = tf.data.Dataset.from_tensor_slices((FEATURES, FEATURES)).batch(5)
    found = keras_comet.expert_similarity(model, data)["moe"]
    expected = keras_comet.expert_similarity(model, FEATURES[:5])["moe"]
    np.testing.assert_array_equal(found.matrix, expected.matrix)


def test_equal_experts_are_one_expert():
    experts = [keras.layers.Dense(4, "relu") for _ in range(3)]
    model = make_model(experts)
    for expert in experts[1:]:
        expert.set_weights(experts[0].get_weights())
    found = keras_comet.expert_similarity(model, FEATURES)["moe"]
    np.testing.assert_allclose(found.matrix, 1.0, atol=1e-12)
    assert found.effective_experts == pytest.approx(1.0)
    assert found.verdict == "these experts are one expert"


def test_experts_that_differ_by_a_constant_are_not_one():
    experts = [keras.layers.Dense(1) for _ in range(3)]
    model = make_model(experts)
    for expert, bias in zip(experts, (10.0, -10.0, -10.0), strict=True):
        expert.set_weights([np.ones((3, 1)), np.array([bias])])
    found = keras_comet.expert_similarity(model, FEATURES)["moe"]
    # Opposite signs, whatever the row.
    np.testing.assert_allclose(
        found.matrix, [[1, -1, -1], [-1, 1, 1], [-1, 1, 1]], atol=1e-12
    )


def test_unrelated_experts_are_as_many():
    # Outputs on axes of their own, whose signs change from row to row.
    experts = [keras.layers.Dense(3, use_bias=False) for _ in range(3)]
    model = make_model(experts)
    for expert, row in zip(experts, np.eye(3), strict=True):
        expert.set_weights([np.outer(np.ones(3), row)])
    features = np.concatenate([FEATURES, -FEATURES])
    found = keras_comet.expert_similarity(model, features)["moe"]
    np.testing.assert_allclose(found.matrix, np.eye(3), atol=1e-12)
    assert found.effective_experts == pytest.approx(3.0)
    assert found.verdict == "3 experts are like 3.0 unrelated ones"


def test_experts_that_return_nothing_are_one_expert():
    experts = [
        keras.layers.Dense(2, kernel_initializer="zeros") for _ in range(3)
    ]
    found = keras_comet.expert_similarity(make_model(experts), FEATURES)["moe"]
    np.testing.assert_array_equal(found.matrix, 1.0)


def test_rows_with_nan_are_left_out():
    experts = [keras.layers.Dense(4) for _ in range(3)]
    model = make_model(experts)
    expected = keras_comet.expert_similarity(model, FEATURES)["moe"]
    bad = np.full((1, 3), np.nan, "float32")
    found = keras_comet.expert_similarity(
        model, np.concatenate([bad, FEATURES])
    )["moe"]
    np.testing.assert_allclose(found.matrix, expected.matrix, atol=1e-6)
    found = keras_comet.expert_similarity(model, bad)["moe"]
    assert np.isnan(found.matrix).all() and np.isnan(found.effective_experts)


def test_padding_is_left_out():
    experts = [keras.layers.Dense(4) for _ in range(3)]
    moe = keras_comet.MixtureOfExperts(
        experts, keras_comet.TopKGate(3), name="moe"
    )
    inputs = keras.Input((None, 3))
    model = keras.Model(inputs, moe(keras.layers.Masking()(inputs)))
    tokens = np.zeros((4, 7, 3), "float32")
    tokens[:, 2:5] = FEATURES.reshape(4, 3, 3)
    found = keras_comet.expert_similarity(model, tokens)["moe"]
    outputs = np.stack([np.asarray(expert(FEATURES)) for expert in experts])
    matrix, _ = similarity_by_hand(outputs.astype("float64"))
    np.testing.assert_allclose(found.matrix, matrix, atol=1e-6)


def test_each_mixture_sees_its_own_rows_and_equal_names_are_numbered():
    tokens = FEATURES.reshape(4, 3, 3)
    moes = [
        keras_comet.MixtureOfExperts(
            [keras.layers.Dense(3) for _ in range(n)],
            keras_comet.SoftmaxGate(n),
            name="moe",
        )
        for n in (2, 3)
    ]

    class Stack(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = moes

        def call(self, inputs):
            return self.second(self.first(inputs))

    model = Stack()
    found = keras_comet.expert_similarity(model, tokens)
    assert list(found) == ["moe", "moe_1"]
    hidden = np.asarray(moes[0](tokens))
    for moe, inputs, each in zip(
        moes, (tokens, hidden), found.values(), strict=True
    ):
        outputs = [np.asarray(e(inputs)).reshape(12, 3) for e in moe.experts]
        matrix, _ = similarity_by_hand(np.stack(outputs).astype("float64"))
        np.testing.assert_allclose(each.matrix, matrix, atol=1e-5)


def test_plot_shows_the_matrix_and_no_pyplot():
    loaded = "matplotlib.pyplot" in sys.modules
    matrix = np.array([[1.0, -0.5], [-0.5, 1.0]])
    axes, bar = ExpertSimilarity(matrix, 1.75).plot().axes
    np.testing.assert_array_equal(axes.images[0].get_array(), matrix)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("expert", "expert")
    assert axes.get_title() == "2 experts are like 1.8 unrelated ones"
    assert bar.get_ylabel() == "similarity of the outputs"
    assert ("matplotlib.pyplot" in sys.modules) == loaded


def test_model_without_mixture_raises():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="called no mixture"):
        keras_comet.expert_similarity(model, FEATURES)
