import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras
from tests.helpers import assert_gradients_close
from tests.helpers import gradients
from tests.helpers import rows
from tests.helpers import variables

N = 4
SCALE = 0.5
IMAGES = rows(6, 5, 5, 1)


def network(**kwargs):
    return keras.Sequential(
        [
            keras.layers.Conv2D(2, 3, activation="relu", **kwargs),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )


def make_experts():
    experts = keras_comet.SharedBaseExperts(network(), N, SCALE)
    experts.build((None, 5, 5, 1))
    for index, each in enumerate(experts.deviations):
        each.assign(rows(*each.shape, seed=index))
    return experts


def copies(experts):
    """Layers of their own, with the sums as their weights."""
    made = []
    for e in range(N):
        copy = network()
        copy.build((None, 5, 5, 1))
        copy.set_weights(
            [
                np.asarray(base) + SCALE * np.asarray(deviations)[e]
                for base, deviations in zip(
                    experts.layer.weights, experts.deviations, strict=True
                )
            ]
        )
        made.append(copy)
    return made


@pytest.mark.parametrize("dispatch", ["dense", "sparse"])
def test_mixture_and_gradients_equal_those_of_layers_of_their_own(dispatch):
    experts = make_experts()
    plain = copies(experts)
    gate = keras_comet.TopKGate(N, k=2)
    x = (tf.constant(IMAGES), tf.constant(rows(6, 3, seed=9)))
    upstream = rows(6, 3, seed=5)
    losses, found = [], []
    for each in (experts, plain):
        moe = keras_comet.MixtureOfExperts(each, gate, dispatch)
        moe(x)
        sources = variables(
            [*each.layer.weights, *each.deviations]
            if each is experts
            else [w for layer in each for w in layer.weights]
        )

        def run(moe=moe, sources=sources):
            return gradients(
                lambda: tf.reduce_sum(upstream * moe(x, training=True)),
                sources,
            )

        # What is expected needs no graph.
        loss, slopes = (tf.function(run) if each is experts else run)()
        losses.append(loss)
        found.append(slopes)
    np.testing.assert_allclose(*losses, rtol=1e-5)
    by_expert = np.array_split(np.arange(4 * N), N)
    stacks = [
        np.stack([np.asarray(found[1][of[i]]) for of in by_expert])
        for i in range(4)
    ]
    assert_gradients_close(
        found[0],
        [*(each.sum(axis=0) for each in stacks), *(SCALE * s for s in stacks)],
    )


def test_experts_start_as_one():
    experts = keras_comet.SharedBaseExperts(network(), N)
    outputs = experts(IMAGES).numpy()
    assert outputs.shape == experts.compute_output_shape(IMAGES.shape)
    for e in range(N):
        np.testing.assert_array_equal(outputs[:, e], outputs[:, 0])
    np.testing.assert_allclose(outputs[:, 0], experts.layer(IMAGES), atol=1e-6)


def test_idle_experts_are_not_called_and_dropout_draws_every_time():
    layer = keras.Sequential(
        [
            keras.layers.MaxPool2D(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.5),
        ]
    )
    moe = keras_comet.MixtureOfExperts(
        keras_comet.SharedBaseExperts(layer, N),
        keras_comet.TopKGate(N, k=1),
        "sparse",
    )
    x = (tf.ones([1, 8, 8, 1]), tf.ones([1, 3]))
    first, second = (moe(x, training=True).numpy() for _ in range(2))
    assert set(first.ravel()) <= {0.0, 2.0}
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(moe(x), np.ones([1, 16]))


def test_save_and_export_keep_the_outputs(tmp_path):
    inputs = {
        "image": keras.Input((5, 5, 1), name="image"),
        "of": keras.Input((3,), name="of"),
    }
    moe = keras_comet.MixtureOfExperts(
        make_experts(), keras_comet.TopKGate(N, k=2)
    )
    model = keras.Model(inputs, {"y": moe((inputs["image"], inputs["of"]))})
    x = {"image": IMAGES, "of": rows(6, 3, seed=9)}
    expected = model(x)["y"]
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(x)["y"], expected, atol=1e-6)
    path = keras_comet.export_saved_model(model, str(tmp_path / "1"))
    serve = tf.saved_model.load(path).signatures["serving_default"]
    served = serve(**{name: tf.constant(value) for name, value in x.items()})
    np.testing.assert_allclose(served["y"], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: (network(), 0), "num_experts=0"),
        (lambda: (network(), 2, 0.0), "deviation_scale=0.0"),
        (
            lambda: (keras.layers.BatchNormalization(), 2),
            "statistics.*moving_mean.*LayerNormalization",
        ),
        (
            lambda: (network(activity_regularizer="l2"), 2),
            "adds a loss",
        ),
    ],
)
def test_bases_that_cannot_be_shared_raise(make, match):
    with pytest.raises(ValueError, match=match):
        keras_comet.SharedBaseExperts(*make())(IMAGES)
