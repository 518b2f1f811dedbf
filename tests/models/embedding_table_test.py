import json

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet import CategoricalFeature
from keras_comet import EmbeddingTable
from keras_comet import SequenceFeature
from keras_comet._keras import keras

FILMS = ["alien", "brazil", "cube"]


def make_model(names=("film", "seen")):
    """Two features that share a table."""
    films = EmbeddingTable(FILMS, 4)
    features = {
        "film": CategoricalFeature(films),
        "seen": SequenceFeature(films, max_length=2),
    }
    model = keras_comet.MultiGateRecommender(
        {name: features[name] for name in names},
        [keras.layers.Dense(3) for _ in range(2)],
        {"like": keras_comet.TopKGate(2, k=1)},
        [keras_comet.Task("like", "mse")],
    )
    model.compile("adam", run_eagerly=True)
    return model


def request():
    return {
        "film": np.array(["cube", "alien", "new"]),
        "seen": np.array([["brazil", "cube"], ["", "alien"], ["", ""]]),
    }


def tables(model):
    return {id(feature.table) for feature in model.features.values()}


def test_features_share_one_table():
    model = make_model()
    shapes = [tuple(each.shape) for each in model.trainable_variables]
    assert shapes.count((4, 4)) == 1
    film, seen = model.features.values()
    np.testing.assert_array_equal(
        film(tf.constant(FILMS)), seen(tf.constant(FILMS)[:, tf.newaxis])
    )


def test_sharing_survives_files_and_copies(tmp_path):
    model = make_model()
    model.fit(request(), {"like": np.ones([3, 1])}, verbose=0)
    expected = model.predict(request(), verbose=0)["like"]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    copy = keras_comet.MultiGateRecommender.from_config(model.get_config())
    copy.set_weights(model.get_weights())
    for again in (loaded, copy):
        assert len(tables(again)) == 1
        assert not tables(again) & tables(model)
        np.testing.assert_allclose(
            again.predict(request(), verbose=0)["like"], expected, atol=1e-6
        )


def test_known_embeddings_are_the_start_and_may_stay():
    known = np.arange(6.0).reshape(3, 2)
    table = EmbeddingTable(
        FILMS, embeddings=known, num_oov_ids=2, trainable=False
    )
    feature = CategoricalFeature(table)
    rows = feature(tf.constant([*FILMS, "new"]), training=True)
    # A new film is as the mean of the others.
    np.testing.assert_array_equal(rows, [*known, known.mean(axis=0)])
    assert not feature.trainable_weights
    again = EmbeddingTable.from_config(table.get_config())
    again.build()
    again.set_weights(table.get_weights())
    np.testing.assert_array_equal(again(tf.constant(FILMS)), known)
    assert not again.trainable_weights


@pytest.mark.parametrize(
    "kwargs",
    [
        {"embeddings": np.zeros([2, 4])},
        {"embeddings": np.zeros(3)},
        {"embeddings": np.full([3, 2], np.nan)},
        {"embeddings": np.zeros([3, 2]), "embedding_dim": 4},
    ],
)
def test_embeddings_of_other_shapes_raise(kwargs):
    with pytest.raises(ValueError, match=r"shape \(3, .*Received: shape"):
        EmbeddingTable(FILMS, **kwargs)


def test_a_shared_table_is_told_itself_what_it_is_like():
    with pytest.raises(ValueError, match="embedding_dim=4 or None.*=8"):
        CategoricalFeature(EmbeddingTable(FILMS, 4), 8)
    with pytest.raises(ValueError, match="None, {'unknown_rate': 0.5}"):
        CategoricalFeature(EmbeddingTable(FILMS, 4), unknown_rate=0.5)


@pytest.mark.parametrize("make_id", [lambda i: f"id \u00e4 {i}", int])
def test_a_long_vocabulary_is_compressed_in_configs(make_id):
    known = [make_id(index) for index in range(5000)]
    table = EmbeddingTable(known, 1)
    text = json.dumps(table.get_config())
    assert len(text) < 0.6 * len(json.dumps(known))
    again = EmbeddingTable.from_config(json.loads(text))
    assert again.vocabulary == known
    np.testing.assert_array_equal(
        again.find_indices(tf.constant(known[::-1])), np.arange(5000, 0, -1)
    )
