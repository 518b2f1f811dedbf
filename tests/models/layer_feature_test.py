import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet import LayerFeature
from keras_comet._keras import keras


def test_a_layer_encodes_images_in_a_recommender():
    image = keras.Sequential(
        [keras.layers.Flatten(), keras.layers.Dense(3, name="narrow")]
    )
    feature = LayerFeature(image, shape=[2, 2], values_dtype="uint8")
    model = keras_comet.MultiGateRecommender(
        {"poster": feature},
        [keras.layers.Dense(3) for _ in range(2)],
        {"like": keras_comet.TopKGate(2, k=1)},
        [keras_comet.Task("like", "mse")],
    )
    posters = np.arange(8, dtype="uint8").reshape(2, 2, 2)
    assert model({"poster": posters})["like"].shape == (2, 1)
    assert model.input_signature["poster"].dtype == tf.uint8
    kernel, bias = image.layers[-1].get_weights()
    np.testing.assert_allclose(
        feature(posters), posters.reshape(2, 4) @ kernel + bias, rtol=1e-5
    )


def test_layers_know_whether_they_are_trained():
    feature = LayerFeature(keras.layers.Dropout(0.5), shape=[64])
    values = np.ones([1, 64], "float32")
    np.testing.assert_array_equal(feature(values), values)
    model = keras.Sequential([keras.Input([64]), feature])
    assert set(model(values, training=True).numpy().flat) == {0.0, 2.0}


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: LayerFeature(len), "must be a layer.*len"),
        (
            lambda: LayerFeature(keras.layers.Dense(2), [3, 4]).build(),
            r"\(batch, width\).*\(None, 3, 2\).*Flatten",
        ),
        (
            lambda: LayerFeature(keras.layers.Dense(2), [3])(np.ones([2, 4])),
            r"shape \(batch, 3\).*\(2, 4\)",
        ),
    ],
)
def test_bad_layers_and_values_raise(make, match):
    with pytest.raises(ValueError, match=match):
        make()
