import numpy as np
import pytest
import tensorflow as tf

from keras_comet import CategoricalFeature
from keras_comet import NumericFeature
from keras_comet._keras import keras


@pytest.mark.parametrize(
    ("vocabulary", "ids", "expected"),
    [
        (["b", "a"], ["a", "b", "zzz", "a"], [2, 1, 0, 2]),
        ([70, -3, 9], [9, 70, 12345, -3], [3, 1, 0, 2]),
    ],
)
def test_lookup_known_and_unknown_ids(vocabulary, ids, expected):
    feature = CategoricalFeature(vocabulary, embedding_dim=2)
    np.testing.assert_array_equal(feature.lookup(tf.constant(ids)), expected)
    assert feature.num_ids == len(vocabulary) + 1


def test_embedding_of_equal_ids_is_equal_and_column_input_works():
    feature = CategoricalFeature(["a", "b"], embedding_dim=3)
    rows = feature(tf.constant([["a"], ["b"], ["x"], ["y"], ["a"]])).numpy()
    assert rows.shape == (5, 3)
    np.testing.assert_array_equal(rows[0], rows[4])
    # Two unknown ids share one embedding.
    np.testing.assert_array_equal(rows[2], rows[3])
    assert np.abs(rows[0] - rows[1]).max() > 0


def test_categorical_feature_rebuilt_from_config_looks_up_the_same():
    feature = CategoricalFeature(np.array([5, 3]), embedding_dim=3)
    config = keras.saving.serialize_keras_object(feature)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == feature.get_config()
    np.testing.assert_array_equal(
        again.lookup(tf.constant([3, 5, 0])), [2, 1, 0]
    )


def test_categorical_feature_returns_its_indices_on_request():
    feature = CategoricalFeature(["a", "b"], embedding_dim=3)
    ids = tf.constant(["b", "x", "a"])
    embeddings, indices = feature(ids, return_indices=True)
    np.testing.assert_array_equal(indices, [2, 0, 1])
    np.testing.assert_array_equal(embeddings, feature(ids))


@pytest.mark.parametrize(
    ("vocabulary", "match"),
    [
        ([], "non-empty"),
        ([0.5], "integers"),
        (["a", "a"], "twice"),
        ([[1, 2]], "non-empty"),
    ],
)
def test_bad_vocabulary_raises(vocabulary, match):
    with pytest.raises(ValueError, match=match):
        CategoricalFeature(vocabulary)


def test_ids_of_the_other_kind_raise():
    with pytest.raises(ValueError, match="holds strings"):
        CategoricalFeature(["a"]).lookup(tf.constant([1]))


def test_numeric_feature_normalizes():
    values = np.array([[1.0, 10.0], [3.0, 30.0]], "float32")
    feature = NumericFeature(values.mean(0), values.var(0))
    np.testing.assert_allclose(feature(values), [[-1, -1], [1, 1]], rtol=1e-6)
    np.testing.assert_allclose(
        NumericFeature(2.0, 4.0)(np.array([2.0, 6.0])), [[0.0], [2.0]]
    )


@pytest.mark.parametrize(
    ("mean", "variance"), [(0.0, 0.0), ([0.0, 1.0], [1.0]), (0.0, -1.0)]
)
def test_bad_normalization_raises(mean, variance):
    with pytest.raises(ValueError, match="variance"):
        NumericFeature(mean, variance)
