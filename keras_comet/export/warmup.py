"""Requests that TensorFlow Serving answers before any other."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

# Where TensorFlow Serving looks, below the version.
_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")


def make_warmup_request(
    inputs: Mapping[str, Any],
    signature: Mapping[str, tf.TensorSpec],
    path: str,
) -> bytes:
    """Makes the record of one request to a served model.

    Args:
        inputs: dict from input name to array, of equally many rows.
        signature: dict from input name to named spec.
        path: str. Where the model will be; the directory above the last one
            gives the name of the model.

    Returns:
        A serialized `PredictionLog`.

    Raises:
        ValueError: If inputs are missing, unknown or of another dtype or
            shape than the signature's, or have different numbers of rows.
        ImportError: If `tensorflow-serving-api` is not installed.
    """
    if set(inputs) != set(signature):
        raise ValueError(
            "`warmup_inputs` must hold an array for each input. Expected: "
            f"{sorted(signature)}. Received: {sorted(inputs)}"
        )
    arrays = {
        name: _convert(name, inputs[name], spec)
        for name, spec in signature.items()
    }
    rows = {name: len(array) for name, array in arrays.items()}
    if len(set(rows.values())) > 1 or 0 in rows.values():
        raise ValueError(
            "`warmup_inputs` must have equally many rows, and at least one. "
            f"Received: {rows}"
        )
    try:
        from tensorflow_serving.apis import prediction_log_pb2
    except ImportError as error:
        raise ImportError(
            "Requests to warm up TensorFlow Serving need its protocol "
            "buffers: pip install 'keras-comet[serving]', or leave "
            "`warmup_inputs` out."
        ) from error
    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = os.path.basename(
        os.path.dirname(os.path.abspath(path))
    )
    request.model_spec.signature_name = "serving_default"
    for name, spec in signature.items():
        tensor = tf.make_tensor_proto(arrays[name], spec.dtype)
        request.inputs[spec.name].CopyFrom(tensor)
    return log.SerializeToString()


def write_warmup_request(directory: str, request: bytes) -> None:
    """Adds a request to a SavedModel.

    Args:
        directory: str. That of the SavedModel.
        request: bytes, as `make_warmup_request` returns.
    """
    path = os.path.join(directory, _FILE)
    tf.io.gfile.makedirs(os.path.dirname(path))
    with tf.io.TFRecordWriter(path) as file:
        file.write(request)


def _convert(
    name: str, values: Any, spec: tf.TensorSpec
) -> np.ndarray[Any, Any]:
    array = np.asarray(values)
    if spec.dtype == tf.string:
        fits = array.dtype.kind in "SU" or all(
            isinstance(each, (str, bytes)) for each in array.flat
        )
    else:
        # float64 for float32, and int32 for int64, but not 1.5 for int64.
        dtype = spec.dtype.as_numpy_dtype
        fits = np.can_cast(array.dtype, dtype, "same_kind")
        array = array.astype(dtype) if fits else array
    if not fits or not spec.shape.is_compatible_with(array.shape):
        raise ValueError(
            f"`warmup_inputs[{name!r}]` does not fit the signature. Expected: "
            f"{spec.dtype.name} of shape {tuple(spec.shape)}. Received: "
            f"{array.dtype} of shape {array.shape}"
        )
    return array
