"""Tasks that refer to others: conditional labels, and products (ESMM)."""

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet import Task
from keras_comet._keras import keras
from tests.helpers import gradients
from tests.helpers import rows
from tests.helpers import variables

X = {"x": rows(6, 3)}
CLICK = np.array([1.0, 0.0, 1.0, -1.0, 1.0, 0.0], "float32")
BUY = np.array([1.0, 1.0, 0.0, 1.0, -1.0, 0.0], "float32")


def make_model(*tasks):
    keras.utils.set_random_seed(2)
    model = keras_comet.MultiGateRecommender(
        features={"x": keras_comet.NumericFeature(np.zeros(3), np.ones(3))},
        experts=[keras.layers.Dense(4, "tanh") for _ in range(2)],
        gates={task.name: keras_comet.SoftmaxGate(2) for task in tasks},
        tasks=tasks,
        tower_units=[],
        dispatch="dense",
    )
    model.compile("sgd", run_eagerly=True)
    return model


def click(**kwargs):
    return Task(
        "click",
        "binary_crossentropy",
        activation="sigmoid",
        missing_label=-1.0,
        **kwargs,
    )


def buy(**kwargs):
    return Task(
        "buy", "binary_crossentropy", ["mse"], activation="sigmoid", **kwargs
    )


def entropy(labels, p):
    return -np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p))


def test_a_task_counts_only_where_the_label_of_another_is_one():
    model = make_model(click(), buy(only_if="click", missing_label=-1.0))
    p = {name: each[:, 0] for name, each in model.predict(X, verbose=0).items()}
    found = model.evaluate(
        X, {"click": CLICK, "buy": BUY}, verbose=0, return_dict=True
    )
    # Rows 0, 2 and 4 are clicked; the last one has no label to buy.
    expected = entropy(BUY[[0, 2]], p["buy"][[0, 2]])
    np.testing.assert_allclose(found["buy_loss"], expected, rtol=1e-5)
    [squares] = [each for name, each in found.items() if "mse" in name]
    np.testing.assert_allclose(
        squares, np.mean((BUY - p["buy"])[[0, 2]] ** 2), rtol=1e-5
    )
    # All known labels of the other task count as ever.
    known = CLICK >= 0
    expected = entropy(CLICK[known], p["click"][known])
    np.testing.assert_allclose(found["click_loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(6,), (6, 1)])
@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_positive_labels_are_there_and_one(shape, dtype):
    labels = tf.constant(CLICK.reshape(shape).astype(dtype))
    for missing, expected in ((None, CLICK == 1), (1.0, CLICK == 2)):
        task = Task("click", "mse", missing_label=missing)
        np.testing.assert_array_equal(task.positive_mask(labels), expected)


def test_prediction_is_the_product_and_trains_both_towers(tmp_path):
    model = make_model(click(), buy(times="click"))
    x = tf.constant(X["x"])
    outputs = model({"x": x})
    mixtures = model.mixture(model.features["x"](x))
    towers = {task: model.towers[task](mixtures[task]) for task in mixtures}
    np.testing.assert_allclose(outputs["click"], towers["click"], atol=1e-6)
    np.testing.assert_allclose(
        outputs["buy"], towers["buy"] * towers["click"], atol=1e-6
    )
    # On all rows: p(buy) = p(click) p(buy given click).
    y = {"click": np.abs(CLICK), "buy": np.abs(BUY)}
    found = model.evaluate(X, y, verbose=0, return_dict=True)
    expected = entropy(y["buy"], outputs["buy"].numpy()[:, 0])
    np.testing.assert_allclose(found["buy_loss"], expected, rtol=1e-5)
    weights = [
        weight
        for tower in model.towers.values()
        for weight in variables(tower.trainable_weights)
    ]
    _, slopes = gradients(
        lambda: tf.reduce_sum(model({"x": x})["buy"]), weights
    )
    assert all(np.any(each) for each in slopes)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again({"x": x})["buy"], outputs["buy"])


@pytest.mark.parametrize(
    ("tasks", "match"),
    [
        (lambda: [click(), buy(only_if="clik")], "only_if='clik'.*'buy'"),
        (lambda: [buy(times="click"), click()], "comes before.*'click'"),
        (lambda: [click(units=2), buy(times="click")], "as many units"),
        (lambda: [click(only_if="click")], "another task"),
        (lambda: [click(times="click")], "another task"),
    ],
)
def test_bad_references_raise(tasks, match):
    with pytest.raises(ValueError, match=match):
        make_model(*tasks())
