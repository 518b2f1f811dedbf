import numpy as np
import pytest
import tensorflow as tf

from keras_comet import Task
from keras_comet._keras import keras
from keras_comet.models.task_loss import TaskLoss


@pytest.mark.parametrize(
    ("missing", "labels", "expected"),
    [
        (None, [0.0, 1.0], [True, True]),
        (0.0, [0.0, 1.0], [False, True]),
        (float("nan"), [np.nan, 0.0], [False, True]),
        (-1.0, [[-1.0, -1.0], [-1.0, 2.0]], [False, True]),
    ],
)
def test_label_mask(missing, labels, expected):
    task = Task("t", "mse", missing_label=missing)
    found = task.label_mask(tf.constant(labels, tf.float32))
    np.testing.assert_array_equal(found, expected)


def test_label_mask_reads_integers():
    task = Task("t", "sparse_categorical_crossentropy", missing_label=-1)
    found = task.label_mask(tf.constant([3, -1]))
    np.testing.assert_array_equal(found, [True, False])


@pytest.mark.parametrize(
    ("missing", "dtype"),
    [
        (float("nan"), tf.int64),
        # Casts make 0, 255 and True of these.
        (0.5, tf.int32),
        (-1.0, tf.uint8),
        (-1.0, tf.bool),
    ],
)
def test_labels_that_cannot_hold_the_missing_one_raise(missing, dtype):
    task = Task("buy", "mse", missing_label=missing)
    with pytest.raises(ValueError, match=f"'buy'.*{dtype.name}.*{missing}"):
        task.label_mask(tf.cast([0, 1], dtype))


@pytest.mark.parametrize(
    "loss", ["mse", keras.losses.MeanSquaredError(), keras.losses.get("mse")]
)
def test_task_loss_is_the_weighted_mean(loss):
    true = tf.constant([[1.0], [2.0], [5.0]])
    predicted = tf.constant([[0.0], [0.0], [1.0]])
    task_loss = TaskLoss(loss, "t")
    # One row of error 1 and three of error 16 over a weight of four.
    weighted = task_loss(true, predicted, tf.constant([1.0, 0.0, 3.0]))
    np.testing.assert_allclose(weighted, 12.25)
    np.testing.assert_allclose(task_loss(true, predicted), 7.0)


def test_task_loss_without_labelled_rows_is_zero_with_zero_gradient():
    predicted = tf.Variable([[2.0], [3.0]])
    with tf.GradientTape() as tape:
        loss = TaskLoss("mse", "t")(
            tf.zeros([2, 1]), predicted, tf.constant([0.0, 0.0])
        )
    np.testing.assert_array_equal(loss, 0.0)
    np.testing.assert_array_equal(tape.gradient(loss, predicted), [[0], [0]])


def test_task_survives_its_config():
    task = Task(
        "rating",
        keras.losses.Huber(delta=2.0),
        ["mae", keras.metrics.RootMeanSquaredError(name="rmse")],
        weight=0.5,
        missing_label=0.0,
    )
    again = Task.from_config(task.get_config())
    assert again.get_config() == task.get_config()
    assert isinstance(again.loss, keras.losses.Huber)
    assert (again.name, again.weight, again.missing_label) == ("rating", 0.5, 0)


@pytest.mark.parametrize("kwargs", [{"weight": -1.0}, {"units": 0}])
def test_bad_task_raises(kwargs):
    with pytest.raises(ValueError, match="'t'"):
        Task("t", "mse", **kwargs)
