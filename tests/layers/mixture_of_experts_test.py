import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras

GATES = {
    "comet": lambda: keras_comet.COMETGate(5, gamma=0.3),
    "dselect_k": lambda: keras_comet.DSelectKGate(5, gamma=0.3),
    "top_k": lambda: keras_comet.TopKGate(5),
    "softmax": lambda: keras_comet.SoftmaxGate(5),
}


def dense_experts():
    return [keras.layers.Dense(3, "tanh") for _ in range(5)]


def nested_experts():
    return [
        keras.Sequential(
            [keras.layers.Dense(4), keras.layers.BatchNormalization()]
        )
        for _ in range(5)
    ]


def stacked_experts():
    return keras_comet.StackedDenseExperts(5, [4, 3], "tanh")


def rows(count=13, seed=0):
    values = np.random.default_rng(seed).normal(size=(count, 6))
    return values.astype("float32")


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    "experts", [dense_experts, nested_experts, stacked_experts]
)
@pytest.mark.parametrize("gate", GATES)
def test_sparse_and_auto_equal_dense(gate, experts, compiled):
    moe = keras_comet.MixtureOfExperts(experts(), GATES[gate]())
    moe.build((None, 6))

    def run(x):
        with tf.GradientTape() as tape:
            outputs = moe(x)
            loss = tf.reduce_sum(tf.sin(outputs))
        weights = [getattr(w, "value", w) for w in moe.trainable_weights]
        if not isinstance(weights[0], tf.Variable):
            weights = moe.trainable_weights
        # In eager mode an idle expert is not on the tape at all.
        return outputs, tape.gradient(
            loss, weights, unconnected_gradients="zero"
        )

    results = {}
    for dispatch in ("dense", "sparse", "auto"):
        moe.dispatch = dispatch
        function = tf.function(run) if compiled else run
        results[dispatch] = function(tf.constant(rows()))
    for dispatch in ("sparse", "auto"):
        outputs, gradients = results[dispatch]
        np.testing.assert_allclose(outputs, results["dense"][0], atol=1e-5)
        for ours, dense in zip(gradients, results["dense"][1], strict=True):
            np.testing.assert_allclose(ours, dense, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dispatch", ["dense", "sparse", "auto"])
def test_a_row_does_not_depend_on_the_others(dispatch):
    moe = keras_comet.MixtureOfExperts(
        dense_experts(), GATES["top_k"](), dispatch=dispatch
    )
    x = rows()
    alone = np.concatenate([moe(x[i : i + 1]) for i in range(len(x))])
    np.testing.assert_allclose(moe(x), alone, atol=1e-6)
    x[3] = np.nan
    bad = np.asarray(moe(x))
    assert np.isnan(bad[3]).all()
    others = np.arange(len(x)) != 3
    np.testing.assert_allclose(bad[others], alone[others], atol=1e-6)
    assert moe(x[:0]).shape == (0, 3)


def test_idle_convolution_experts_train():
    # The gradient of pooling over an empty batch aborts the process.
    experts = [
        keras.Sequential(
            [
                keras.layers.Conv2D(2, 3),
                keras.layers.MaxPool2D(),
                keras.layers.Flatten(),
            ]
        )
        for _ in range(3)
    ]
    moe = keras_comet.MixtureOfExperts(
        experts, keras_comet.HashGate(3, num_ids=3), dispatch="sparse"
    )
    images, ids = keras.Input((6, 6, 1)), keras.Input((), dtype="int32")
    model = keras.Model(
        [images, ids], keras.layers.Dense(1)(moe((images, ids)))
    )
    model.compile("sgd", "mse")
    x = np.ones((4, 6, 6, 1), "float32")
    history = model.fit(
        [x, np.ones(4, "int32")], np.ones((4, 1)), epochs=2, verbose=0
    )
    assert np.isfinite(history.history["loss"]).all()


def test_tokens_are_routed_one_by_one():
    moe = keras_comet.MixtureOfExperts(dense_experts(), GATES["top_k"]())
    tokens = rows(6).reshape(2, 3, 6)
    expected = np.asarray(moe(tokens.reshape(6, 6))).reshape(2, 3, 3)
    np.testing.assert_allclose(moe(tokens), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (
            lambda: keras_comet.MixtureOfExperts(
                [keras.layers.Dense(2), keras.layers.Dense(3)],
                keras_comet.SoftmaxGate(2),
            )(rows()),
            "same output shape",
        ),
        (
            lambda: keras_comet.MixtureOfExperts(
                dense_experts(), keras_comet.SoftmaxGate(4)
            ),
            "num_experts=4",
        ),
        (
            lambda: keras_comet.MixtureOfExperts(
                dense_experts(), GATES["comet"](), dispatch="fast"
            ),
            "'fast'",
        ),
        (
            lambda: keras_comet.MixtureOfExperts(
                dense_experts(), GATES["comet"]()
            )(np.ones((2, 4, 4, 1), "float32")),
            "rank 4",
        ),
        (lambda: keras_comet.COMETGate(4, k=5), "k=5"),
        (lambda: keras_comet.TopKGate(4, k=0), "k=0"),
        (lambda: keras_comet.COMETGate(0), "num_experts=0"),
        (lambda: keras_comet.DSelectKGate(4, gamma=0.0), "gamma=0.0"),
        (lambda: keras_comet.SoftmaxGate(4)(np.ones(3, "float32")), "batch"),
        (
            lambda: keras_comet.HashGate(4, num_ids=3)(np.array([7])),
            "id 7",
        ),
    ],
)
def test_bad_input_raises(make, match):
    with pytest.raises(ValueError, match=match):
        make()
