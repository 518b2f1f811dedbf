import json
import re

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet import BucketizedFeature
from keras_comet import CategoricalFeature
from keras_comet import HashedFeature
from keras_comet import MultiCategoricalFeature
from keras_comet import NumericFeature
from keras_comet._keras import keras
from keras_comet._keras import tf_variable


@pytest.mark.parametrize(
    ("vocabulary", "ids", "expected"),
    [
        (["b", "a"], ["a", "b", "zzz", "a"], [2, 1, 0, 2]),
        ([70, -3, 9], [9, 70, 12345, -3], [3, 1, 0, 2]),
        # What Keras calls unknown ids by itself.
        ([-1, 70], [70, -1, 5, -2], [2, 1, 0, 0]),
        (["[UNK]", "a"], ["a", "[UNK]", "b", "[UNK]]"], [2, 1, 0, 0]),
    ],
)
def test_lookup_known_and_unknown_ids(vocabulary, ids, expected):
    feature = CategoricalFeature(vocabulary, embedding_dim=2)
    np.testing.assert_array_equal(feature.lookup(tf.constant(ids)), expected)
    assert feature.num_ids == len(vocabulary) + 1


@pytest.mark.parametrize(
    "vocabulary",
    [
        [b"b", b"\xc3\xa4"],
        np.array([b"b", "ä".encode()]),
        np.array(["b", "ä"], dtype=object),
        np.array([b"b", "ä".encode()], dtype=object),
        [np.str_("b"), np.bytes_("ä".encode())],
        {"ä", "b"},
        frozenset([b"b", "ä".encode()]),
        {"b": 1, "ä": 2}.keys(),
        tf.constant(["b", "ä"]),
        ("b", "ä"),
    ],
    ids=lambda vocabulary: type(vocabulary).__name__,
)
def test_vocabulary_of_strings_may_be_of_any_kind(vocabulary):
    feature = CategoricalFeature(vocabulary, embedding_dim=2)
    ids = tf.constant(["ä", "b", "c"])
    np.testing.assert_array_equal(feature.lookup(ids), [2, 1, 0])
    # Of a set too, though sets of strings differ from process to process.
    config = json.loads(json.dumps(feature.get_config()))
    assert config["vocabulary"]["config"]["vocabulary"] == ["b", "ä"]


@pytest.mark.parametrize(
    "vocabulary",
    [
        {7, 3},
        np.array([3, 7], dtype=object),
        np.array([3, 7], "uint8"),
        tf.constant([3, 7]),
        range(3, 8, 4),
        [np.int32(3), 7],
    ],
    ids=lambda vocabulary: type(vocabulary).__name__,
)
def test_vocabulary_of_integers_may_be_of_any_kind(vocabulary):
    feature = CategoricalFeature(vocabulary, embedding_dim=2)
    ids = tf.constant([7, 3, 5])
    np.testing.assert_array_equal(feature.lookup(ids), [2, 1, 0])


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
    assert again.table.get_config() == feature.table.get_config()
    np.testing.assert_array_equal(
        again.lookup(tf.constant([3, 5, 0])), [2, 1, 0]
    )


def test_categorical_feature_returns_its_indices_on_request():
    feature = CategoricalFeature(["a", "b"], embedding_dim=3)
    ids = tf.constant(["b", "x", "a"])
    embeddings, indices = feature(ids, return_indices=True)
    np.testing.assert_array_equal(indices, [2, 0, 1])
    np.testing.assert_array_equal(embeddings, feature(ids))


def test_unknown_ids_are_spread_over_their_rows():
    feature = CategoricalFeature(["a", "b"], 2, num_oov_ids=3)
    assert feature.num_ids == 5
    indices = feature.lookup(tf.constant([f"new {i}" for i in range(30)]))
    assert set(indices.numpy()) == {0, 1, 2}
    np.testing.assert_array_equal(
        feature.lookup(tf.constant(["a", "b"])), [3, 4]
    )


def one_row_each(**kwargs):
    """Four known ids; embeddings tell the rows that they come from."""
    feature = CategoricalFeature(range(4), embedding_dim=1, **kwargs)
    feature.build()
    feature.trainable_weights[0].assign(
        np.arange(feature.num_ids, dtype="float32")[:, np.newaxis]
    )
    return feature


@pytest.mark.parametrize("num_oov_ids", [1, 3])
def test_training_takes_the_share_asked_for_as_unknown(num_oov_ids):
    feature = one_row_each(unknown_rate=0.3, num_oov_ids=num_oov_ids, seed=1)
    ids = np.arange(40_000) % 4
    embeddings, indices = feature(ids, return_indices=True, training=True)
    rows = embeddings.numpy()[:, 0]
    # The ids themselves are what others, like a hash gate, are told.
    np.testing.assert_array_equal(indices, ids + num_oov_ids)
    kept = rows == indices
    assert set(rows[~kept]) == set(range(num_oov_ids))
    # Five standard errors of each share.
    for index in range(num_oov_ids):
        share, expected = (rows == index).mean(), 0.3 / num_oov_ids
        error = np.sqrt(expected * (1 - expected) / len(ids))
        assert abs(share - expected) < 5 * error


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_none_or_all_ids_are_taken_as_unknown(rate):
    feature = one_row_each(unknown_rate=rate)
    rows = feature(np.arange(4), training=True)[:, 0]
    np.testing.assert_array_equal(rows, (1 - rate) * np.arange(1, 5))


def test_inference_takes_no_known_id_as_unknown():
    feature = one_row_each(unknown_rate=1.0)
    state = np.array(feature.table.seed_state)
    for arguments in ({}, {"training": False}):
        rows = feature(np.arange(4), **arguments)[:, 0]
        np.testing.assert_array_equal(rows, np.arange(1, 5))
    np.testing.assert_array_equal(feature.table.seed_state, state)


def test_the_row_of_unknown_ids_is_trained():
    feature = one_row_each()
    table = tf_variable(feature.trainable_weights[0])
    ids = np.arange(2000) % 4
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(feature(ids, training=True))
    gradient = tf.convert_to_tensor(tape.gradient(loss, table)).numpy()[:, 0]
    # Each row by as often as it was read: of 2000 ids, 20 as unknown, +- 22.
    assert 0 < gradient[0] < 42
    assert gradient.sum() == 2000


def test_what_is_taken_as_unknown_is_seeded_and_goes_on_from_its_state():
    first, again, other = (
        one_row_each(unknown_rate=0.5, seed=seed) for seed in (1, 1, 2)
    )
    ids = np.arange(100) % 4

    def rows(feature):
        return feature(ids, training=True).numpy()

    before = rows(first)
    np.testing.assert_array_equal(rows(again), before)
    assert (rows(other) != before).any()
    other.set_weights(first.get_weights())
    after = rows(first)
    assert (after != before).any()
    np.testing.assert_array_equal(rows(other), after)


@pytest.mark.parametrize(
    "kwargs", [{"unknown_rate": 1.5}, {"num_oov_ids": 0}, {"embedding_dim": 0}]
)
def test_bad_numbers_of_a_categorical_feature_raise(kwargs):
    with pytest.raises(
        ValueError, match="{}={}".format(*next(iter(kwargs.items())))
    ):
        CategoricalFeature(["a"], **kwargs)


@pytest.mark.parametrize(
    ("vocabulary", "match"),
    [
        ([], "non-empty"),
        ([0.5], "integers"),
        (["a", "a"], "twice"),
        (["a", b"a"], "twice"),
        (["a", 1], "'int', 'str'"),
        (np.array(["a", None], dtype=object), "'NoneType', 'str'"),
        (np.array(["a", np.nan], dtype=object), "'float', 'str'"),
        ([True, False], "'bool'"),
        ("users.txt", "users.txt"),
        (5, "int of 5"),
        ([[1, 2]], "non-empty"),
    ],
)
def test_bad_vocabulary_raises(vocabulary, match):
    with pytest.raises(ValueError, match=match):
        CategoricalFeature(vocabulary)


def test_ids_of_the_other_kind_raise():
    with pytest.raises(ValueError, match="ids are strings"):
        CategoricalFeature(["a"]).lookup(tf.constant([1]))


@pytest.mark.parametrize(
    ("make", "values", "shape"),
    [
        (CategoricalFeature, np.zeros([4, 3], "int64"), (4, 3)),
        (CategoricalFeature, np.zeros([2, 1, 1], "int64"), (2, 1, 1)),
        (CategoricalFeature, np.int64(0), ()),
        (
            CategoricalFeature,
            tf.ragged.constant([[0, 1], [1]], dtype=tf.int64),
            (2, None),
        ),
        (NumericFeature, np.zeros([2, 3], "float32"), (2, 3)),
        (NumericFeature, np.float32(0.0), ()),
        # Six values of two would be three rows.
        (
            lambda _: NumericFeature([0.0, 0.0], [1.0, 1.0]),
            np.zeros(6, "float32"),
            (6,),
        ),
    ],
)
def test_several_values_in_a_row_are_an_error(make, values, shape):
    feature = make([0, 1]) if make is CategoricalFeature else make(0.0)
    feature.feature_name = "cast"
    message = (
        f"'cast' takes.*{re.escape(f'shape {shape}')}.*(MultiCategorical|mean)"
    )
    with pytest.raises(ValueError, match=message):
        feature(values)


@pytest.mark.parametrize("size", [1, 3])
def test_a_graph_of_unknown_width_makes_no_rows(size):
    feature = NumericFeature([2.0] * size, [4.0] * size)

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32)])
    def encode(values):
        return feature(values)

    rows = np.full([2, size], 6.0, "float32")
    np.testing.assert_array_equal(
        encode(rows), [[2.0] * size + [0.0] * size] * 2
    )
    with pytest.raises(tf.errors.InvalidArgumentError):
        encode(np.zeros([2, 2 * size], "float32"))


def test_numeric_feature_normalizes():
    values = np.array([[1.0, 10.0], [3.0, 30.0]], "float32")
    feature = NumericFeature(values.mean(0), values.var(0), missing="mean")
    np.testing.assert_allclose(feature(values), [[-1, -1], [1, 1]], rtol=1e-6)
    np.testing.assert_allclose(
        NumericFeature(2.0, 4.0)(np.array([2.0, 6.0])), [[0.0, 0.0], [2.0, 0.0]]
    )


@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf])
def test_a_missing_number_is_the_mean_with_an_indicator(missing):
    values = np.array([[1.0, missing], [3.0, 30.0]], "float32")
    filled = [[-1.0, 0.0], [1.0, 1.0]]
    indicators = [[0.0, 1.0], [0.0, 0.0]]
    given = {"mean": [2.0, 20.0], "variance": [1.0, 100.0]}
    feature = NumericFeature(**given)
    np.testing.assert_array_equal(
        feature(values), np.concatenate([filled, indicators], axis=1)
    )
    assert feature.compute_output_shape((None, 2)) == (None, 4)
    feature = NumericFeature(**given, missing="mean")
    np.testing.assert_array_equal(feature(values), filled)


def test_a_missing_number_is_refused_on_request():
    feature = NumericFeature(missing="error")
    feature.feature_name = "age"
    compiled = tf.function(feature)
    whole = np.array([[1.0], [2.0]], "float32")
    np.testing.assert_array_equal(feature(whole), whole)
    np.testing.assert_array_equal(compiled(whole), whole)
    gap = np.array([[1.0], [np.nan]], "float32")
    with pytest.raises(ValueError, match="'age'.*Fill it.*in row 1"):
        feature(gap)
    with pytest.raises(tf.errors.InvalidArgumentError, match="age.*Fill it"):
        compiled(gap)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_large_raw_numbers_survive_half_precision(policy):
    # 200,000 is infinite in float16.
    feature = NumericFeature(2e5, 1e10, dtype=policy)
    rows = feature(np.array([2e5, 3e5, np.nan], "float32"))
    assert rows.dtype == feature.compute_dtype
    np.testing.assert_array_equal(
        tf.cast(rows, tf.float32), [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    )


@pytest.mark.parametrize("kwargs", [{"mean": np.nan}, {"variance": np.inf}])
def test_normalization_by_missing_numbers_raises(kwargs):
    with pytest.raises(ValueError, match="nanmean"):
        NumericFeature(**kwargs)


def test_unknown_policy_for_missing_numbers_raises():
    with pytest.raises(ValueError, match="missing='zero'"):
        NumericFeature(missing="zero")


def test_hashed_ids_are_the_same_everywhere_and_spread():
    feature = HashedFeature(8, embedding_dim=2)
    ids = tf.constant([f"user {index}" for index in range(800)])
    indices = feature.lookup(ids).numpy()
    # 100 in each of the bins, within five standard deviations.
    assert np.abs(np.bincount(indices, minlength=8) - 100).max() < 50
    np.testing.assert_array_equal(HashedFeature(8).lookup(ids), indices)
    embeddings, found = feature(ids, return_indices=True)
    np.testing.assert_array_equal(found, indices)
    table = feature.get_weights()[0]
    np.testing.assert_array_equal(embeddings, table[indices])
    integers = HashedFeature(8, has_strings=False)
    assert integers.lookup(tf.constant([5, -5], tf.int32)).shape == (2,)
    with pytest.raises(ValueError, match="ids are integers.*string"):
        integers(ids)
    with pytest.raises(ValueError, match="num_bins=0"):
        HashedFeature(0)


def table_of(feature):
    """Row i of the table is (i, 10 i)."""
    feature.build()
    rows = np.arange(feature.num_ids, dtype="float32")
    feature.trainable_weights[0].assign(np.stack([rows, 10 * rows], axis=1))
    return feature


MULTI = {"embedding_dim": 2, "unknown_rate": 0.0}


@pytest.mark.parametrize(
    ("vocabulary", "ids"),
    [
        # An unknown id is row 0; the last row has no id at all.
        (["a", "b"], [["b", "a"], ["b", ""], ["z", "b"], ["", ""]]),
        ([5, 6], [[6, 5], [6, 0], [7, 6], [0, 0]]),
    ],
)
def test_several_ids_are_combined(vocabulary, ids):
    expected = np.array([3.0, 2.0, 2.0, 0.0])[:, np.newaxis] * [1.0, 10.0]
    counts = np.array([2.0, 1.0, 2.0, 1.0])[:, np.newaxis]
    for combiner, rows in (("sum", expected), ("mean", expected / counts)):
        feature = table_of(
            MultiCategoricalFeature(vocabulary, combiner=combiner, **MULTI)
        )
        np.testing.assert_allclose(feature(tf.constant(ids)), rows)
        ragged = tf.ragged.constant(
            [[each for each in row if each] for row in ids],
            dtype=tf.constant(ids).dtype,
        )
        np.testing.assert_allclose(feature(ragged), rows)


def test_ids_are_weighted_by_another_input(tmp_path):
    ids = tf.ragged.constant([["b", "a"], ["z", "b"], []])
    weights = tf.ragged.constant([[0.5, 3.0], [2.0, 1.0], []])
    # 2 and 1; 0, as it is unknown, and 2.
    sums = np.array([0.5 * 2 + 3.0, 2.0, 0.0])[:, np.newaxis] * [1.0, 10.0]
    totals = np.array([3.5, 3.0, 1.0])[:, np.newaxis]
    for combiner, rows in (("sum", sums), ("mean", sums / totals)):
        feature = table_of(
            MultiCategoricalFeature(["a", "b"], combiner=combiner, **MULTI)
        )
        np.testing.assert_allclose(feature(ids, weights=weights), rows)
        np.testing.assert_allclose(
            feature(ids.to_tensor(), weights=weights.to_tensor()), rows
        )
    with pytest.raises(ValueError, match=r"weight for each id.*\(3, 1\)"):
        feature(ids, weights=np.ones([3, 1]))


@pytest.mark.slow
def test_a_recommender_reads_and_serves_weights_of_ids(tmp_path):
    def make(weights_name="shares"):
        feature = MultiCategoricalFeature(
            ["a", "b"], weights_name=weights_name, **MULTI
        )
        return keras_comet.MultiGateRecommender(
            {"genres": feature, "age": NumericFeature()},
            [keras.layers.Dense(3) for _ in range(2)],
            {"like": keras_comet.TopKGate(2, k=1)},
            [keras_comet.Task("like", "mse")],
        )

    model = make()
    inputs = {
        "genres": [["b", "a"], ["b"]],
        "shares": [[0.9, 0.1], [1.0]],
        "age": [1.0, 2.0],
    }
    model.compile("adam")
    model.fit(inputs, {"like": [0.0, 1.0]}, verbose=0)
    expected = model.predict(inputs, verbose=0)["like"]
    even = {**inputs, "shares": [[0.5, 0.5], [1.0]]}
    found = model.predict(even, verbose=0)["like"]
    assert abs(found[0] - expected[0]) > 1e-6
    np.testing.assert_allclose(found[1], expected[1], atol=1e-6)
    keras_comet.export_saved_model(model, tmp_path / "1")
    served = tf.saved_model.load(tmp_path / "1").signatures["serving_default"](
        genres=tf.constant([["b", "a"], ["b", ""]]),
        shares=tf.constant([[0.9, 0.1], [1.0, 0.0]]),
        age=tf.constant([1.0, 2.0]),
    )
    np.testing.assert_allclose(served["like"], expected, atol=1e-6)
    with pytest.raises(ValueError, match="missing: \\['shares'\\]"):
        model({name: inputs[name] for name in ("genres", "age")})
    with pytest.raises(ValueError, match="weights_name='age' of 'genres'"):
        make("age")


def test_padding_may_be_chosen_and_is_never_taken_as_unknown():
    feature = table_of(
        MultiCategoricalFeature(
            range(3), 2, unknown_rate=1.0, combiner="sum", padding_value=-1
        )
    )
    ids = tf.constant([[0, 2, -1]])
    np.testing.assert_array_equal(feature(ids), [[4.0, 40.0]])
    np.testing.assert_array_equal(feature(ids, training=True), [[0.0, 0.0]])
    np.testing.assert_array_equal(feature(ids[:, 2:]), [[0.0, 0.0]])


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"combiner": "max"}, "combiner='max'"),
        ({"padding_value": "x"}, "padding_value='x'"),
        ({"padding_value": 2}, "padding_value=2"),
        ({"vocabulary": [0, 1]}, "padding_value=0"),
    ],
)
def test_bad_arguments_of_several_ids_raise(kwargs, match):
    with pytest.raises(ValueError, match=match):
        MultiCategoricalFeature(**{"vocabulary": [1, 2], **kwargs})


@pytest.mark.parametrize(
    ("ids", "match"),
    [
        (tf.constant([1, 2]), "\\(batch, length\\).*CategoricalFeature"),
        (tf.constant([["a"]]), "integers.*string"),
        (tf.ragged.constant([[1.0], []]), "integers.*float32"),
    ],
)
def test_bad_several_ids_raise(ids, match):
    with pytest.raises(ValueError, match=match):
        MultiCategoricalFeature([1, 2])(ids)


def test_numbers_fall_into_buckets():
    feature = table_of(BucketizedFeature([1.0, 2.5], embedding_dim=2))
    values = [-np.inf, 0.9, 1.0, 2.4, 2.5, np.inf, np.nan]
    for call in (feature, tf.function(feature)):
        rows = call(tf.constant(values, tf.float32))[:, 0]
        np.testing.assert_array_equal(rows, [0, 0, 1, 1, 2, 2, 3])
    assert feature(tf.constant([[1], [3]])).shape == (2, 2)


@pytest.mark.parametrize("boundaries", [[], [2.0, 1.0], [1.0, np.nan], [[1.0]]])
def test_bad_boundaries_raise(boundaries):
    with pytest.raises(ValueError, match="boundaries="):
        BucketizedFeature(boundaries)


@pytest.mark.parametrize(
    ("mean", "variance"), [(0.0, 0.0), ([0.0, 1.0], [1.0]), (0.0, -1.0)]
)
def test_bad_normalization_raises(mean, variance):
    with pytest.raises(ValueError, match="variance"):
        NumericFeature(mean, variance)
