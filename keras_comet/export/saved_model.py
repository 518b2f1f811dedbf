"""SavedModels that TensorFlow Serving loads."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from keras_comet._keras import flatten_layers
from keras_comet._keras import keras


def export_saved_model(
    model: Any,
    path: Any,
    hard_routing: bool = False,
    input_signature: Mapping[str, tf.TensorSpec] | None = None,
) -> pathlib.Path:
    """Writes a model as a SavedModel with named inputs and outputs.

    The signature `serving_default` takes one input per feature, by name and
    for any batch size, and returns one output per task, by name.

    Args:
        model: built Keras model. `MultiGateRecommender` and functional models
            know their inputs; others need `input_signature`.
        path: str or path of the directory to make.
        hard_routing: bool. Whether gates with smooth-steps round their
            routing, so that at most k experts run. Defaults to `False`.
        input_signature: dict from input name to `tf.TensorSpec`. Defaults to
            `None`: what the model says.

    Returns:
        The path.

    Raises:
        ValueError: If the path exists, or the inputs are not known.
    """
    path = pathlib.Path(path)
    if path.exists():
        raise ValueError(
            "`path` must not exist, as nothing is overwritten. "
            f"Received: {path}. Remove it, or name another."
        )
    signature = _find_signature(model, input_signature)
    specs = {
        name: tf.TensorSpec(spec.shape, spec.dtype, name=name)
        for name, spec in signature.items()
    }
    by_name = input_signature is not None or hasattr(model, "input_signature")

    def serve(inputs: Any) -> dict[str, tf.Tensor]:
        if not by_name and len(inputs) == 1:
            [inputs] = inputs.values()
        elif not by_name and not isinstance(model.input, dict):
            inputs = [inputs[name] for name in specs]
        outputs = model(inputs, training=False)
        if isinstance(outputs, Mapping):
            return dict(outputs)
        if isinstance(outputs, (list, tuple)):
            return dict(zip(model.output_names, outputs, strict=True))
        return {"output": outputs}

    path.parent.mkdir(parents=True, exist_ok=True)
    # Renamed at the end, so that a crash leaves no half export behind.
    unfinished = tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        archive = keras.export.ExportArchive()
        archive.track(model)
        with _hard_routing(model, hard_routing):
            archive.add_endpoint(
                "serving_default", serve, input_signature=[specs]
            )
            archive.write_out(unfinished)
        os.rename(unfinished, path)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return path


def _find_signature(
    model: Any, given: Mapping[str, tf.TensorSpec] | None
) -> Mapping[str, tf.TensorSpec]:
    if given is not None:
        return given
    if hasattr(model, "input_signature"):
        return model.input_signature
    tensors = getattr(model, "inputs", None)
    if not model.built or not tensors:
        raise ValueError(
            "The model must be functional and built, or its inputs named by "
            "`input_signature`, a dict from name to tf.TensorSpec. Received: "
            f"{type(model).__name__} {model.name!r}"
        )
    return {
        each.name: tf.TensorSpec([None, *each.shape[1:]], each.dtype)
        for each in tensors
    }


@contextlib.contextmanager
def _hard_routing(model: Any, wanted: bool) -> Iterator[None]:
    """Rounds routing while the model is traced anew."""
    gates = [
        layer
        for layer in flatten_layers(model)
        if wanted and hasattr(layer, "hard_routing")
    ]
    before = [gate.hard_routing for gate in gates]
    try:
        for gate in gates:
            gate.hard_routing = True
        yield
    finally:
        for gate, value in zip(gates, before, strict=True):
            gate.hard_routing = value
