import functools

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras
from tests.helpers import rows

X = rows(20, 6)


def perceptron():
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(5, "tanh", bias_initializer="normal"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3, bias_initializer="normal"),
            keras.layers.Dropout(0.5),
        ],
        name="bottom",
    )


def images():
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Reshape((6, 1)),
            keras.layers.Conv1D(2, 3, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ],
        name="bottom",
    )


def dense():
    layer = keras.layers.Dense(3, "relu", name="bottom")
    layer.build((None, 6))
    return layer


def odd():
    """A perceptron that stacked experts cannot be equal to."""
    return keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(3, use_bias=False)],
        name="bottom",
    )


@pytest.mark.parametrize(
    "make_gate",
    [
        keras_comet.COMETGate,
        functools.partial(keras_comet.TopKGate, k=1),
    ],
)
@pytest.mark.parametrize(
    ("make", "is_stacked"),
    [(perceptron, True), (dense, True), (images, False), (odd, False)],
)
@pytest.mark.parametrize("scale", [0.1, None])
def test_mixture_starts_equal_to_the_layer(make, is_stacked, make_gate, scale):
    layer = make()
    before = np.array(layer(X))
    mixture = keras_comet.upcycle(
        layer, 4, make_gate=make_gate, deviation_scale=scale
    )
    stacked = isinstance(mixture.experts, keras_comet.StackedDenseExperts)
    assert stacked == is_stacked
    assert mixture.num_experts == 4 and mixture.name == "bottom"
    np.testing.assert_allclose(mixture(X), before, atol=1e-5)
    if is_stacked:
        assert mixture.experts.deviation_scale == scale
        assert mixture.experts.dropout == (0.5 if make is perceptron else 0.0)
    # What was given is left as it is, and shares nothing with the mixture.
    mixture.set_weights([np.ones_like(each) for each in mixture.get_weights()])
    np.testing.assert_array_equal(layer(X), before)


def shared_bottom():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(8, "relu", name="frozen")(inputs)
    hidden = keras.layers.Dense(5, "relu", name="bottom")(hidden)
    outputs = {
        task: keras.layers.Dense(1, name=task)(hidden)
        for task in ("click", "buy")
    }
    model = keras.Model(inputs, outputs)
    model.get_layer("frozen").trainable = False
    return model


def test_model_starts_equal_with_some_layers_replaced():
    model = shared_bottom()
    sparse = keras_comet.upcycle(model, 4, layers=["bottom"])
    expected, found = model(X), sparse(X)
    assert set(found) == {"click", "buy"}
    for task in found:
        np.testing.assert_allclose(found[task], expected[task], atol=1e-5)
    mixture = sparse.get_layer("bottom")
    assert isinstance(mixture, keras_comet.MixtureOfExperts)
    assert not sparse.get_layer("frozen").trainable
    # It trains, and its experts come apart.
    sparse.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    labels = {task: rows(20, 1, seed=2) for task in found}
    sparse.fit(X, labels, verbose=0)
    deviations = np.asarray(mixture.experts.kernels[0])
    assert np.abs(deviations[0] - deviations[1]).max() > 1e-5


@pytest.mark.parametrize(
    "make_experts",
    [
        lambda: keras_comet.StackedDenseExperts(1, 4, "relu", dropout=0.5),
        lambda: [keras.layers.Dense(4, "relu")],
    ],
)
def test_recommender_starts_equal(make_experts):
    names = ["click", "buy"]
    model = keras_comet.MultiGateRecommender(
        features={
            "user": keras_comet.CategoricalFeature(["ann", "bob"], 3),
            "age": keras_comet.NumericFeature(30.0, 25.0),
        },
        experts=make_experts(),
        gates={name: keras_comet.SoftmaxGate(1) for name in names},
        tasks=[keras_comet.Task(name, "mse") for name in names],
        tower_units=[3],
    )
    for index, weight in enumerate(model.trainable_weights):
        weight.assign(rows(*weight.shape, seed=index))
    model.features["age"].trainable = False
    inputs = {
        "user": tf.constant(["bob", "eve", "ann"]),
        "age": tf.constant([20.0, 31.0, 64.0]),
    }
    expected = model(inputs)
    sparse = keras_comet.upcycle(model, 4, deviation_scale=0.1)
    found = sparse(inputs)
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)
    assert sparse.mixture.num_experts == 4
    assert not sparse.features["age"].trainable
    sparse.compile("adam")


def test_what_cannot_be_upcycled_raises():
    with pytest.raises(ValueError, match="must be built.*Call it"):
        keras_comet.upcycle(keras.layers.Dense(3), 4)
    with pytest.raises(ValueError, match=r"\['top'\].*'bottom'"):
        keras_comet.upcycle(shared_bottom(), 4, layers=["top"])
    sparse = keras_comet.MultiGateRecommender(
        features={"age": keras_comet.NumericFeature()},
        experts=keras_comet.StackedDenseExperts(2, 3),
        gates={"buy": keras_comet.SoftmaxGate(2)},
        tasks=[keras_comet.Task("buy", "mse")],
    )

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.bottom = keras.layers.Dense(2, name="bottom")

        def call(self, inputs):
            return self.bottom(inputs)

    subclassed = Subclassed()
    subclassed(X)
    with pytest.raises(ValueError, match="Functional models"):
        keras_comet.upcycle(subclassed, 4, layers=["bottom"])
    with pytest.raises(ValueError, match="one expert.*2 experts"):
        keras_comet.upcycle(sparse, 4)
