"""A recommender on two replicas: the same losses and weights as on one."""

import pytest

from keras_comet._keras import KERAS_3
from tests.helpers import run_script

# In this order. With Keras 2, `replicas_test.py` alone searches in `Trainer`.
PARTS = [
    "fit",
    *(["search"] if KERAS_3 else []),
    "resume",
    "train_on_batch",
    "own_model",
]

# Logical devices must be set before TensorFlow starts, and there is one
# strategy, as several mix their collectives up.
SCRIPT = """
import sys
import traceback

import numpy as np
import tensorflow as tf

[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)
import keras_comet
from keras_comet import CategoricalFeature, MultiCategoricalFeature
from keras_comet import NumericFeature, Task, TopKGate
from keras_comet._keras import keras

random = np.random.default_rng(0)
USERS = ["ann", "bob", "cid"]
ROWS = 15
BATCH = 7  # Of the batches of 7, 7 and 1 rows, one replica gets 3, 3 and 0.
genres = [list(random.choice(list("abc"), n)) for n in range(1, ROWS + 1)]
x = {
    "user": random.choice([*USERS, "eve"], ROWS),
    "age": random.integers(0, 9, ROWS),
    "genres": tf.ragged.constant(genres),
    "dense": random.normal(size=(ROWS, 3)).astype("float32"),
}
y = {
    "click": (x["dense"][:, 0] > 0.0).astype("float32"),
    "rating": x["dense"][:, 1] * x["dense"][:, 2],
}
y["rating"][[0, 1, 2, 9]] = np.nan
# `Trainer` needs a row for each replica: 6, 6 and 3.
data = tf.data.Dataset.from_tensor_slices((x, y)).batch(6)

options = []
one = tf.distribute.get_strategy()
two = tf.distribute.MirroredStrategy(["cpu:0", "cpu:1"])


def make(strategy, search_steps=0):
    with strategy.scope():
        keras.utils.set_random_seed(1)
        permutation = keras_comet.ExpertPermutation(3)
        model = keras_comet.MultiGateRecommender(
            features={
                "user": CategoricalFeature(USERS, 4, unknown_rate=0.0),
                "age": CategoricalFeature(range(8), 4, unknown_rate=0.0),
                "genres": MultiCategoricalFeature(
                    ["a", "b"], 4, unknown_rate=0.0
                ),
                "dense": NumericFeature([0.0] * 3, [1.0] * 3),
            },
            experts=keras_comet.StackedDenseExperts(3, [4], "relu"),
            gates={
                "click": TopKGate(3, permutation=permutation),
                "rating": TopKGate(3, permutation=permutation),
            },
            tasks=[
                Task("click", "mse", ["mae"], activation="sigmoid"),
                Task("rating", "mse", ["mae"], missing_label=np.nan),
            ],
            tower_units=[],
            dispatch="dense",
        )
        optimizer = keras.optimizers.SGD(0.1)
        if search_steps:
            optimizer = keras_comet.LocalSearchOptimizer(
                optimizer, search_steps
            )
        model.compile(optimizer)
        model.optimizer.build(model.trainable_variables)
    # What is expected needs no graph.
    tf.config.run_functions_eagerly(strategy is one or "eager" in options)
    return model


def assert_close(first, second):
    assert set(first) == set(second), (set(first), set(second))
    for name, values in first.items():
        np.testing.assert_allclose(
            values, second[name], rtol=1e-5, atol=1e-6, err_msg=name
        )


def assert_equal_models(first, second):
    for ours, theirs in zip(first.get_weights(), second.get_weights()):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def fit():
    models, histories, evaluations = [], [], []
    for strategy in (one, two):
        model = make(strategy)
        models.append(model)
        histories.append(
            model.fit(
                x, y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0
            ).history
        )
        evaluations.append(model.evaluate(data, verbose=0, return_dict=True))
    assert histories[0]["loss"][1] < histories[0]["loss"][0]
    assert_close(*histories)
    assert_close(*evaluations)
    assert_equal_models(*models)


def train_on_batch():
    options.append("eager")
    models = [make(one), make(two)]
    weights = {"click": np.linspace(0.0, 1.0, ROWS)}
    assert_close(
        *(
            model.train_on_batch(x, y, weights, return_dict=True)
            for model in models
        )
    )
    assert_equal_models(*models)


def train(strategy, epochs, search_steps, directory=None):
    model = make(strategy, search_steps)
    trainer = keras_comet.Trainer(
        model,
        data if search_steps else None,
        search_interval=2,
        max_evaluations=4,
        checkpoint_dir=directory,
        checkpoint_interval=2,
    )
    history = trainer.fit(data, epochs, verbose=0)
    return model, history.history, trainer.reports


def search():
    expected, history, reports = train(one, 2, search_steps=4)
    model, same_history, same_reports = train(two, 2, search_steps=4)
    assert_close(history, same_history)
    assert_equal_models(expected, model)
    assert sorted(reports) == sorted(same_reports) == [2, 4]
    for step, report in reports.items():
        np.testing.assert_allclose(
            report.loss_after, same_reports[step].loss_after, rtol=1e-5
        )


def resume():
    # Without the time that tracing two of them takes.
    options.append("eager")
    expected, history, _ = train(one, 2, search_steps=0)
    train(two, 1, 0, sys.argv[1])
    model, resumed, _ = train(two, 2, 0, sys.argv[1])
    assert_close(history, resumed)
    assert_equal_models(expected, model)


def own_model():
    # What `fit` of Keras 3 needs: ids that were looked up in the data set,
    # and as many rows for each replica.
    options.clear()
    lookup = keras.layers.StringLookup(vocabulary=USERS)
    looked_up = tf.data.Dataset.from_tensor_slices(
        ({"user": x["user"], "dense": x["dense"]}, y["click"][:, np.newaxis])
    ).batch(6, drop_remainder=True)
    looked_up = looked_up.map(
        lambda x, y: ({**x, "user": lookup(x["user"])}, y)
    )
    models, histories = [], []
    for strategy in (one, two):
        with strategy.scope():
            keras.utils.set_random_seed(1)
            inputs = {
                "user": keras.Input((), dtype="int64", name="user"),
                "dense": keras.Input((3,), name="dense"),
            }
            users = keras.layers.Embedding(len(USERS) + 1, 4)(inputs["user"])
            mixture = keras_comet.MixtureOfExperts(
                keras_comet.StackedDenseExperts(3, [1]), TopKGate(3), "dense"
            )
            features = keras.layers.Concatenate()([users, inputs["dense"]])
            model = keras.Model(inputs, mixture(features))
            model.compile(keras.optimizers.SGD(0.1), "mse")
        tf.config.run_functions_eagerly(strategy is one)
        histories.append(model.fit(looked_up, epochs=2, verbose=0).history)
        models.append(model)
    assert_close(*histories)
    assert_equal_models(*models)


for part in sys.argv[2:]:
    try:
        globals()[part]()
        print("finished", part)
    except Exception:
        traceback.print_exc()
"""


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("checkpoints"))
    return run_script(SCRIPT, directory, *PARTS)


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_two_replicas_do_as_one(part, process):
    assert f"finished {part}" in process.stdout.splitlines(), process.stderr
