"""Export as a SavedModel that TensorFlow Serving loads."""

import contextlib
import io
import os
import uuid
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from keras_comet._keras import keras
from keras_comet.export.default_signature import no_default_signature
from keras_comet.export.frozen_state import find_constants
from keras_comet.export.frozen_state import frozen_state
from keras_comet.export.signature import call_by_names
from keras_comet.export.signature import find_input_signature
from keras_comet.export.signature import name_outputs
from keras_comet.export.warmup import make_warmup_request
from keras_comet.export.warmup import write_warmup_request


def export_saved_model(
    model: keras.Model,
    path: str | os.PathLike[str],
    hard_routing: bool = False,
    input_signature: Mapping[str, tf.TensorSpec] | None = None,
    warmup_inputs: Mapping[str, Any] | None = None,
) -> str | os.PathLike[str]:
    """Writes a model as a SavedModel for TensorFlow Serving.

    The SavedModel has one signature, `"serving_default"`: inference on a
    batch of any size. Inputs and outputs have names, one output for each
    task. It needs neither this package nor Keras to load, holds no Python
    function, and serving assigns no variable. Nor does it search: a
    permutation is one gather with constant indices, and the identity is none.
    The model itself is not changed.

    The files are written beside `path` and moved there at the end: `path`
    holds a whole export or does not exist. For TensorFlow Serving, end it
    with a version number, as in `"models/recommender/1"`: it serves the
    highest one, and begins to as soon as that directory is there.

    Args:
        model: Keras model, built.
        path: str or path. A directory that does not exist yet.
        hard_routing: bool. Whether to switch the hard routing mode on, in the
            export alone, for all gates that have one (`COMETGate`,
            `DSelectKGate`), so that no example gets more than k experts. A
            gate that routes hard in training does so here too. The other
            gates are as they always are. Defaults to `False`.
        input_signature: dict from input name to `tf.TensorSpec`, the first
            axis of each `None`. Defaults to `None`: what the model's
            attribute `input_signature` says, or the inputs of a functional
            or Sequential model. Required for other models; they are called
            with arguments of these names if `call` has them, or else with
            one dict.
        warmup_inputs: dict from input name to array. Rows of a request that
            TensorFlow Serving is to answer before any other, as the first
            one takes longest; it is written into the SavedModel, to the
            model that the directory above the version names. Needs the extra
            `serving`. Defaults to `None`: there is no such request.

    Returns:
        `path`, as given.

    Raises:
        ValueError: If something exists at `path`, the model is not built or
            no Keras model, inputs are not described or have a fixed batch
            size, outputs are no tensors, a permutation is still being
            searched, or `warmup_inputs` do not fit the signature.
        OSError: Or an error of TensorFlow, if the files cannot be written. No
            part of them is left.
        ImportError: If `warmup_inputs` are given, but the package
            `tensorflow-serving-api` is not installed.

    Example:

    ```python
    import tempfile
    import keras
    import keras_comet

    inputs = keras.Input((16,), name="features")
    hidden = keras_comet.MixtureOfExperts(
        [keras.layers.Dense(4) for _ in range(8)], keras_comet.COMETGate(8)
    )(inputs)
    model = keras.Model(inputs, {"click": keras.layers.Dense(1)(hidden)})
    path = tempfile.mkdtemp() + "/1"
    keras_comet.export_saved_model(model, path, hard_routing=True)
    ```
    """
    _check_model(model)
    target = os.fspath(path).rstrip("/" + os.sep)
    if tf.io.gfile.exists(target):
        raise ValueError(
            "An export overwrites nothing. Expected: a path that does not "
            f"exist. Received: path={target!r}. Remove it, or write the next "
            "version beside it."
        )
    signature = find_input_signature(model, input_signature)
    warmup_request = None
    if warmup_inputs is not None:
        warmup_request = make_warmup_request(warmup_inputs, signature, target)

    constants = find_constants(model, hard_routing)

    def serve(inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        with frozen_state(constants):
            return name_outputs(model, call_by_names(model, inputs))

    parent, name = os.path.split(target)
    if parent:
        tf.io.gfile.makedirs(parent)
    # No number, which TensorFlow Serving would take for a version.
    partial = os.path.join(parent, f".{name}.partial-{uuid.uuid4().hex}")
    try:
        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint("serving_default", serve, [signature])
        # Keras prints where it wrote, which is not where it will be.
        with (
            contextlib.redirect_stdout(io.StringIO()),
            no_default_signature(model),
        ):
            archive.write_out(partial)
        if warmup_request is not None:
            write_warmup_request(partial, warmup_request)
        tf.io.gfile.rename(partial, target)
    finally:
        if tf.io.gfile.exists(partial):
            tf.io.gfile.rmtree(partial)
    return path


def _check_model(model: Any) -> None:
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(
            f"`model` must be a model of {keras.__name__} "
            f"{keras.__version__}. Received: {type(model)}"
        )
    if not model.built:
        raise ValueError(
            f"The model {model.name!r} is not built, so it has no variables "
            "to export. Call it on a batch, or fit it, first."
        )
