"""Requests that are written into an export, and what serving them gives."""

import os
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from keras_comet._keras import keras
from keras_comet.export import export_saved_model
from keras_comet.export.warmup import make_warmup_request
from tests.helpers import rows

SIGNATURE = {
    "user": tf.TensorSpec([None], tf.string, "user"),
    "age": tf.TensorSpec([None], tf.int64, "age"),
    "past films": tf.TensorSpec([None, None], tf.int64, "past_films"),
    "dense": tf.TensorSpec([None, 3], tf.float32, "dense"),
}
INPUTS = {
    "user": ["ann", "zoë"],
    "age": np.array([3, 4], "int32"),
    "past films": [[1, 2, 3, 4], [5, 6, 7, 8]],
    # Of another dtype, which NumPy made.
    "dense": rows(2, 3).astype("float64"),
}


def read(serialized):
    log = prediction_log_pb2.PredictionLog.FromString(serialized)
    request = log.predict_log.request
    return request.model_spec, {
        name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()
    }


def test_request_holds_the_inputs_as_the_signature_wants_them():
    path = "models/recommender/1"
    model_spec, inputs = read(make_warmup_request(INPUTS, SIGNATURE, path))
    assert model_spec.name == "recommender"
    assert model_spec.signature_name == "serving_default"
    assert set(inputs) == {"user", "age", "past_films", "dense"}
    assert list(inputs["user"]) == [b"ann", "zoë".encode()]
    for name, dtype in (
        ("age", "int64"),
        ("past_films", "int64"),
        ("dense", "float32"),
    ):
        assert inputs[name].dtype == dtype
        expected = INPUTS[name.replace("_", " ")]
        np.testing.assert_allclose(inputs[name], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user": None}, r"Expected: .*'user'\]. Received: \['age', 'dense'"),
        ({"users": ["ann"]}, "Received: .*'users'"),
        ({"user": [1, 2]}, "'user'.*Expected: string of shape .None,.. Rec"),
        ({"user": ["ann", None]}, "'user'.*Received: object"),
        ({"age": [1.5, 2.5]}, "'age'.*Expected: int64.*Received: float64"),
        ({"age": ["1", "2"]}, "'age'.*Expected: int64"),
        ({"dense": rows(2, 4)}, r"\(None, 3\). Received: .* \(2, 4\)"),
        ({"dense": rows(3)}, r"\(None, 3\). Received: .* \(3,\)"),
        ({"dense": rows(3, 3)}, "equally many rows.*'dense': 3"),
    ],
)
def test_inputs_that_do_not_fit_the_signature_raise(change, message):
    inputs = {**INPUTS, **change}
    if change == {"user": None}:
        del inputs["user"]
    with pytest.raises(ValueError, match=message):
        make_warmup_request(inputs, SIGNATURE, "models/recommender/1")


def test_no_rows_raise():
    signature = {"age": SIGNATURE["age"]}
    with pytest.raises(ValueError, match="at least one. Received: {'age': 0}"):
        make_warmup_request({"age": np.zeros(0, "int64")}, signature, "m/1")


def make_model():
    inputs = keras.Input((3,), name="numbers")
    return keras.Model(inputs, keras.layers.Dense(2)(inputs))


def test_export_answers_the_request_that_it_holds(tmp_path):
    model = make_model()
    path = tmp_path / "recommender" / "1"
    x = rows(2, 3)
    export_saved_model(model, path, warmup_inputs={"numbers": x})
    file = path / "assets.extra" / "tf_serving_warmup_requests"
    [record] = tf.data.TFRecordDataset([str(file)])
    model_spec, inputs = read(record.numpy())
    assert model_spec.name == "recommender"
    signatures = tf.saved_model.load(path).signatures
    served = signatures[model_spec.signature_name](
        **{name: tf.constant(value) for name, value in inputs.items()}
    )
    np.testing.assert_allclose(served["output"], model(x), atol=1e-6)


def test_request_that_does_not_fit_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="must hold an array for each input"):
        export_saved_model(make_model(), tmp_path / "1", warmup_inputs={})
    assert os.listdir(tmp_path) == []


def test_missing_package_gives_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    with pytest.raises(ImportError, match=r"pip install 'keras-comet\[serving"):
        make_warmup_request(INPUTS, SIGNATURE, "models/recommender/1")
