"""Many predictions at once, in Keras and in an export: always the same."""

import concurrent.futures
import gc
import resource

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras
from tests.helpers import rows

THREADS = 4
BATCHES = [rows(size, 5, seed=size) for size in (1, 3, 7, 16)]


@pytest.fixture(scope="module")
def predictors(tmp_path_factory):
    """A model with gates and its export, as functions of a batch."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,), name="features")
    permutation = keras_comet.ExpertPermutation(6)
    mixture = keras_comet.MultiGateMixtureOfExperts(
        keras_comet.StackedDenseExperts(6, [4], "relu"),
        {
            "click": keras_comet.COMETGate(6, permutation=permutation),
            "buy": keras_comet.TopKGate(6, permutation=permutation),
        },
        dispatch="sparse",
    )
    model = keras.Model(inputs, mixture(inputs))
    path = str(tmp_path_factory.mktemp("soak") / "1")
    keras_comet.export_saved_model(model, path)
    loaded = tf.saved_model.load(path)
    serve = loaded.signatures["serving_default"]
    call = tf.function(
        lambda batch: model(batch, training=False),
        input_signature=[tf.TensorSpec((None, 5))],
    )
    return {
        "model": lambda batch: call(tf.constant(batch)),
        # The loaded object, which holds the variables, must live.
        "export": lambda batch, _=loaded: serve(features=tf.constant(batch)),
    }


def soak(predict, calls):
    """Predicts from several threads, and compares each answer."""
    expected = [
        {name: each.numpy() for name, each in predict(batch).items()}
        for batch in BATCHES
    ]

    def answer(index):
        found = predict(BATCHES[index % len(BATCHES)])
        for name, values in expected[index % len(BATCHES)].items():
            np.testing.assert_array_equal(found[name], values)

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        assert len(list(pool.map(answer, range(calls)))) == calls


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model", "export"])
def test_answers_from_four_threads_are_identical(name, predictors):
    soak(predictors[name], 400)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model", "export"])
def test_memory_is_stable_over_ten_thousand_calls(name, predictors):
    soak(predictors[name], 2_000)
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # In rounds, as the pool makes an object for each call of one.
    for _ in range(5):
        soak(predictors[name], 2_000)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    # In KiB: a tensor that is kept for each call would be 5 MiB or more.
    assert grown < 4 * 1024
