"""Fixes what tests share: the seed, the session and the dtype policy."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest

from keras_comet._keras import KERAS_3
from keras_comet._keras import keras

# Programs of their own, written for Keras 3.
collect_ignore = [] if KERAS_3 else ["benchmarks", "examples", "studies"]


@pytest.fixture(autouse=True)
def fresh_keras():
    # Without a garbage collection for every test, half of the suite's time.
    keras.backend.clear_session(**({"free_memory": False} if KERAS_3 else {}))
    keras.utils.set_random_seed(0)
    yield
    keras.mixed_precision.set_global_policy("float32")
