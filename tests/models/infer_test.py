import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet import MultiGateRecommender
from keras_comet._keras import keras

COLUMNS = {
    "user": ["ann", "bob", "ann", "cy"],
    "film": np.array([7, 9, 9, 7]),
    "genres": [["crime"], ["crime", "drama"], [], ["drama"]],
    "tags": np.array([[1, 0], [2, 1], [0, 0], [3, 0]]),
    "age": [None, 20.0, 40.0, 30.0],
    "place": np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 3.0], [2.0, 1.0]]),
}
LABELS = {
    "watch": [1, 0, 1, 0],
    "stars": [5.0, np.nan, 1.0, np.nan],
    "minutes": np.array([0.0, 4.0, 4.0, 0.0]),
}


def test_columns_become_the_features_that_they_are():
    model = MultiGateRecommender.from_data(COLUMNS, LABELS, embedding_dim=4)
    features = dict(model.features.items())
    kinds = {name: type(each).__name__ for name, each in features.items()}
    assert kinds == {
        "user": "CategoricalFeature",
        "film": "CategoricalFeature",
        "genres": "MultiCategoricalFeature",
        "tags": "MultiCategoricalFeature",
        "age": "NumericFeature",
        "place": "NumericFeature",
    }
    assert features["user"].table.vocabulary == ["ann", "bob", "cy"]
    assert features["film"].table.vocabulary == [7, 9]
    assert features["genres"].table.vocabulary == ["crime", "drama"]
    assert features["tags"].table.vocabulary == [1, 2, 3]
    assert features["age"].mean == [30.0]
    assert features["age"].variance == [np.float32(200.0 / 3.0)]
    assert features["age"].missing == "indicator"
    assert features["place"].mean == [2.0, 2.0]
    assert features["place"].variance == [2.0, 1.0]
    assert features["place"].missing == "mean"


def test_labels_become_the_tasks_that_they_are():
    watch, stars, minutes = MultiGateRecommender.from_data(
        COLUMNS, LABELS
    ).tasks
    assert (watch.loss, watch.activation) == ("binary_crossentropy", "sigmoid")
    assert watch.missing_label is None
    assert (stars.loss, minutes.loss) == ("mse", "mse")
    # The variances are 4 and 4.
    assert (stars.weight, minutes.weight) == (0.25, 0.25)
    assert np.isnan(stars.missing_label)
    assert minutes.missing_label is None


def test_a_model_of_data_trains_saves_and_exports(tmp_path):
    model = MultiGateRecommender.from_data(COLUMNS, LABELS, num_experts=4)
    model.compile("adam", run_eagerly=True)
    history = model.fit(COLUMNS, LABELS, verbose=0).history
    assert np.isfinite(history["loss"][0])
    expected = model.predict(COLUMNS, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for task, values in again.predict(COLUMNS, verbose=0).items():
        np.testing.assert_allclose(values, expected[task], atol=1e-6)


def test_what_is_given_is_not_inferred():
    age = keras_comet.BucketizedFeature([25.0, 35.0])
    stars = keras_comet.Task("stars", "mae", missing_label=float("nan"))
    experts = [keras.layers.Dense(4) for _ in range(3)]
    model = MultiGateRecommender.from_data(
        COLUMNS,
        LABELS,
        num_experts=3,
        features={"age": age},
        tasks=[stars],
        experts=experts,
    )
    assert list(model.features) == list(COLUMNS)
    assert model.features["age"] is age
    assert [task.name for task in model.tasks] == list(LABELS)
    assert model.tasks[1] is stars
    assert model.mixture.experts == experts


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"a": [1.0, 1.0]}, "'a'.*differ.*features={'a'"),
        ({"a": [float("nan"), None]}, "'a'.*Drop it"),
        ({"a": [[], []]}, "'a'.*Drop it"),
        ({"a": np.zeros([2, 2, 2])}, r"shape \(2, 2, 2\)"),
        ({"a": [1, 2], "b": [1]}, "'a': 2, 'b': 1"),
        ({"a": []}, "there must be rows"),
        ({}, "must have a column"),
    ],
)
def test_columns_without_use_raise(columns, match):
    with pytest.raises(ValueError, match=match):
        MultiGateRecommender.from_data(columns, {"y": [0, 1]})


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ({"y": ["good", "bad"]}, "'y' must be numbers.*Number classes"),
        ({"y": np.zeros([2, 2])}, r"shape \(2, 2\)"),
        ({"y": [None, float("nan")]}, "'y' are all missing"),
        ({}, "must have labels"),
    ],
)
def test_labels_without_use_raise(labels, match):
    with pytest.raises(ValueError, match=match):
        MultiGateRecommender.from_data({"a": [1, 2]}, labels)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"features": {"b": keras_comet.NumericFeature()}}, "\\['b'\\]"),
        ({"tasks": [keras_comet.Task("z", "mse")]}, "\\['z'\\]"),
    ],
)
def test_names_that_no_column_has_raise(kwargs, match):
    with pytest.raises(ValueError, match=f"Received: {match} as well"):
        MultiGateRecommender.from_data({"a": [1, 2]}, {"y": [0, 1]}, **kwargs)


def test_ragged_tensors_are_columns():
    ids = tf.ragged.constant([["a", "b"], ["b"]])
    model = MultiGateRecommender.from_data({"ids": ids}, {"y": [0, 1]})
    assert model.features["ids"].table.vocabulary == ["a", "b"]
