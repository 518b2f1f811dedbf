"""Whatever Keras takes trains and predicts as tensors do."""

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras
from keras_comet._keras import tf_variable

USERS = ["ann", "bob", "new", "bob"]
ITEMS = [7, 9, 7, 0]
AGES = [20.0, 30.0, None, 50.0]
CLICKS = [1, 0, 1, 1]
RATINGS = [3.0, None, None, 1.0]


class Column:
    """Has what matters of a pandas column."""

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def to_numpy(self):
        return np.asarray(self.values, dtype=object)


class Batches(keras.utils.Sequence):
    def __init__(self, *batches, **kwargs):
        super().__init__(**kwargs)
        self.batches = batches
        self.num_epochs = 0

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]

    def on_epoch_end(self):
        self.num_epochs += 1


def inputs(convert=lambda values: values):
    return {
        "user": convert(USERS),
        "item": convert(ITEMS),
        "age": convert(AGES),
    }


def labels(convert=lambda values: values):
    return {"click": convert(CLICKS), "rating": convert(RATINGS)}


def objects(values):
    return np.asarray(values, dtype=object)


def tensors(values):
    return tf.constant([np.nan if each is None else each for each in values])


def columns(values):
    return tensors(values)[:, tf.newaxis]


FORMS = {
    "lists": lambda: (inputs(), labels()),
    "tuples": lambda: (inputs(tuple), labels(tuple)),
    "objects": lambda: (inputs(objects), labels(objects)),
    "pandas": lambda: (inputs(Column), labels(Column)),
    "columns": lambda: (inputs(columns), labels(columns)),
    "bytes": lambda: (
        {**inputs(), "user": np.array(USERS).astype("S")},
        labels(),
    ),
    "strings": lambda: ({**inputs(), "user": np.array(USERS)}, labels()),
    "lists of bytes": lambda: (
        {**inputs(), "user": [user.encode() for user in USERS]},
        labels(),
    ),
}


def make_model():
    keras.utils.set_random_seed(0)
    features = {
        "user": keras_comet.CategoricalFeature(USERS[:2], 2, unknown_rate=0.0),
        "item": keras_comet.CategoricalFeature(ITEMS[:2], 2, unknown_rate=0.0),
        "age": keras_comet.NumericFeature(35.0, 100.0),
    }
    tasks = [
        keras_comet.Task("click", "binary_crossentropy", activation="sigmoid"),
        keras_comet.Task("rating", "mse", missing_label=np.nan),
    ]
    model = keras_comet.MultiGateRecommender(
        features,
        experts=keras_comet.StackedDenseExperts(2, [3], "relu"),
        gates={task.name: keras_comet.SoftmaxGate(2) for task in tasks},
        tasks=tasks,
        tower_units=[2],
        dispatch="dense",
    )
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    return model


@pytest.fixture(scope="module")
def expected():
    """Weights after two steps on tensors, by hand, and what follows."""
    model = make_model()
    x, y = inputs(tensors), labels(tensors)
    for _ in range(2):
        with tf.GradientTape() as tape:
            outputs = model(x, training=True)
            clicks = tf.cast(y["click"], tf.float32)[:, tf.newaxis]
            entropy = keras.losses.binary_crossentropy(clicks, outputs["click"])
            # The others have no rating.
            ratings = tf.gather(outputs["rating"][:, 0], [0, 3])
            loss = tf.reduce_mean(entropy) + tf.reduce_mean(
                (ratings - [3.0, 1.0]) ** 2
            )
        variables = [tf_variable(each) for each in model.trainable_weights]
        gradients = tape.gradient(loss, variables)
        for variable, gradient in zip(variables, gradients, strict=True):
            variable.assign_sub(0.1 * tf.convert_to_tensor(gradient))
    predictions = {task: each.numpy() for task, each in model(x).items()}
    return model.get_weights(), predictions


def check(model, expected):
    for found, weight in zip(model.get_weights(), expected[0], strict=True):
        np.testing.assert_allclose(found, weight, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_arrays_of_any_kind_train_and_predict(form, expected):
    model = make_model()
    x, y = FORMS[form]()
    model.fit(x, y, batch_size=4, verbose=0)
    model.train_on_batch(x, y)
    check(model, expected)
    for predictions in (model.predict_on_batch(x), model(x)):
        for task, values in expected[1].items():
            np.testing.assert_allclose(predictions[task], values, atol=1e-6)


@pytest.mark.parametrize("form", ["lists", "objects", "bytes"])
def test_generators_of_any_kind_train_and_predict(form, expected):
    model = make_model()
    batch = FORMS[form]()
    model.fit(
        (batch for _ in range(2)),
        validation_data=(batch for _ in range(1)),
        steps_per_epoch=2,
        validation_steps=1,
        verbose=0,
    )
    check(model, expected)
    predictions = model.predict(
        (batch[:1] for _ in range(2)), steps=2, verbose=0
    )
    for task, values in expected[1].items():
        np.testing.assert_allclose(
            predictions[task], np.tile(values, [2, 1]), atol=1e-6
        )


@pytest.mark.parametrize("form", ["lists", "objects", "bytes"])
def test_py_datasets_of_any_kind_train_and_predict(form, expected):
    model = make_model()
    batch = FORMS[form]()
    data = Batches(batch, batch)
    model.fit(data, validation_data=Batches(batch), verbose=0)
    assert data.num_epochs > 0
    check(model, expected)
    predictions = model.predict(Batches(batch[:1]), verbose=0)
    for task, values in expected[1].items():
        np.testing.assert_allclose(predictions[task], values, atol=1e-6)


def test_validation_data_may_be_lists():
    model = make_model()
    data = FORMS["lists"]()
    history = model.fit(*data, validation_data=data, verbose=0).history
    found = model.evaluate(*data, verbose=0, return_dict=True)
    np.testing.assert_allclose(history["val_loss"], [found["loss"]], rtol=1e-6)


def test_losses_of_a_batch_have_names():
    model = make_model()
    data = FORMS["lists"]()
    found = model.test_on_batch(*data, return_dict=True)
    trained = model.train_on_batch(*data, return_dict=True)
    assert set(found) == {"loss", "click_loss", "rating_loss"}
    np.testing.assert_allclose(
        found["loss"], found["click_loss"] + found["rating_loss"], rtol=1e-6
    )
    assert set(trained) == set(found)


@pytest.mark.parametrize("way", ["arrays", "batch", "generator", "tf.data"])
def test_tasks_without_sample_weight_have_the_weight_one(way):
    model = make_model()
    x, y = FORMS["lists"]()
    weight = [1.0, 0.0, 2.0, 0.0]
    reference = model.evaluate(
        x,
        y,
        sample_weight={"click": weight, "rating": [1.0] * 4},
        verbose=0,
        return_dict=True,
    )
    plain = model.evaluate(x, y, verbose=0, return_dict=True)
    if way == "arrays":
        found = model.evaluate(
            x, y, sample_weight={"click": weight}, verbose=0, return_dict=True
        )
    elif way == "batch":
        # Older releases of Keras 3 go on from the metrics of what came before.
        model.reset_metrics()
        found = model.test_on_batch(x, y, {"click": weight}, return_dict=True)
    else:
        batch = (
            inputs(tensors),
            labels(tensors),
            {"click": tf.constant(weight)},
        )
        data = tf.data.Dataset.from_tensors(batch)
        if way == "generator":
            data = (each for each in [(x, y, {"click": weight})])
        found = model.evaluate(data, steps=1, verbose=0, return_dict=True)
    assert found == pytest.approx(reference)
    assert found["rating_loss"] == pytest.approx(plain["rating_loss"])
    assert found["click_loss"] != pytest.approx(plain["click_loss"])


def test_sample_weights_of_other_tasks_raise():
    model = make_model()
    x, y = FORMS["lists"]()
    weights = {"clicks": [1.0] * 4}
    data = tf.data.Dataset.from_tensors(
        (inputs(tensors), labels(tensors), weights)
    )
    for arguments in ((x, y, weights), (data,)):
        method = model.test_on_batch if len(arguments) == 3 else model.evaluate
        with pytest.raises(ValueError, match="Received: \\['clicks'\\]"):
            method(*arguments)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"user": ["ann", None, "bob", "bob"]}, "'user'.*'NoneType', 'str'"),
        ({"user": ["ann", np.nan, "bob", "bob"]}, "'user'.*'float', 'str'"),
        ({"item": [7, None, 7, 7]}, "'item'.*'NoneType', 'int'"),
        ({"item": [7, "9", 7, 7]}, "'item'.*'int', 'str'"),
        ({"item": USERS}, "'item'.*ids are integers.*string"),
        ({"user": ITEMS}, "'user'.*ids are strings.*int64"),
        ({"age": USERS}, "'age' takes numbers"),
        # Keras makes float32 of them.
        ({"item": [7.5, 9.0, 7.0, 0.0]}, "'item'.*float"),
        ({"item": np.array([2.0**24 + 1] * 4)}, "'item'.*rounds to 24 bits"),
        ({"item": [True] * 4}, "'item'.*bool"),
    ],
)
def test_values_that_are_no_ids_or_numbers_raise(change, match):
    model = make_model()
    with pytest.raises(ValueError, match=match):
        model.predict({**inputs(), **change}, verbose=0)


def make_model_of_all_features():
    model = keras_comet.MultiGateRecommender(
        {
            "genres": keras_comet.MultiCategoricalFeature(["a", "b"], 2),
            "query": keras_comet.HashedFeature(5, 2),
            "hour": keras_comet.BucketizedFeature([8.0, 16.0], 2),
        },
        experts=keras_comet.StackedDenseExperts(2, [3], "relu"),
        gates={"click": keras_comet.HashGate(2, num_ids=5)},
        tasks=[keras_comet.Task("click", "mse")],
        tower_units=[2],
        dispatch="dense",
    )
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    return model


def rows_of_genres(genres):
    return {
        "genres": genres,
        "query": ["x", "y", "z"],
        "hour": [7.0, 23.0, None],
    }


GENRES = [["a", "b"], ["b"], []]
PADDED = tf.constant([["a", "b"], ["b", ""], ["", ""]])


@pytest.mark.parametrize(
    "genres",
    [
        GENRES,
        Column(np.array([*GENRES, None], dtype=object)[:3]),
        tf.ragged.constant(GENRES),
    ],
    ids=["lists", "pandas", "ragged"],
)
def test_rows_may_differ_in_length(genres):
    model = make_model_of_all_features()
    y = {"click": [0.0, 1.0, 0.0]}
    model.fit(rows_of_genres(genres), y, verbose=0)
    expected = model(rows_of_genres(PADDED))["click"]
    found = model.predict(rows_of_genres(genres), verbose=0)["click"]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_all_features_are_loaded_and_served_from_raw_values(tmp_path):
    model = make_model_of_all_features()
    x = rows_of_genres(PADDED)
    expected = model(x)["click"]
    assert len(np.unique(expected)) == 3
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(again(x)["click"], expected)
    keras_comet.export_saved_model(model, tmp_path / "1")
    serve = tf.saved_model.load(tmp_path / "1").signatures["serving_default"]
    served = serve(
        genres=PADDED,
        query=tf.constant(x["query"]),
        hour=tf.constant([7.0, 23.0, np.nan]),
    )
    np.testing.assert_allclose(served["click"], expected, atol=1e-6)
