"""The loss that a model was compiled with, under either Keras."""

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from keras_comet._keras import KERAS_3
from keras_comet._keras import keras


def unpack_batch(model: Any, batch: Any) -> tuple[Any, Any, Any]:
    """Splits a batch; a recommender also masks missing labels.

    Args:
        model: Keras model.
        batch: tuple `(x, y)` or `(x, y, sample_weight)`.

    Returns:
        A tuple `(x, y, sample_weight)`.
    """
    mask = getattr(model, "apply_label_mask", lambda batch: batch)
    return keras.utils.unpack_x_y_sample_weight(mask(batch))


def compute_loss(
    model: Any, x: Any, y: Any, outputs: Any, weights: Any, training: bool
) -> tf.Tensor:
    """Returns the compiled loss of a batch, regularizers included.

    Args:
        model: Keras model, compiled, or a `tfrs.Model`, whose `compute_loss`
            takes the batch and calls the model by itself.
        x: its inputs.
        y: the labels.
        outputs: what the model returned.
        weights: sample weights, or `None`.
        training: bool. Keras 3 alone is told.

    Returns:
        A scalar tensor.
    """
    if "y_pred" not in inspect.signature(model.compute_loss).parameters:
        parts = [each for each in (x, y, weights) if each is not None]
        batch = x if y is None else tuple(parts)
        loss = model.compute_loss(batch, training=training)
        return tf.add_n([loss, *model.losses])
    arguments = {"training": training} if KERAS_3 else {}
    return model.compute_loss(x, y, outputs, weights, **arguments)


def compute_losses(model: Any, batch: Any) -> tuple[float, dict[str, float]]:
    """Computes the compiled loss of a batch eagerly, regularizers left out.

    Metrics of the model are changed: call it within `keep_metrics`.

    Args:
        model: Keras model, compiled.
        batch: tuple `(x, y)` or `(x, y, sample_weight)` of tensors.

    Returns:
        The loss, and a dict from output to its part, before loss weights.
        Keras notes none for a model with one output.
    """
    x, y, weights = unpack_batch(model, batch)
    outputs = model(x, training=False)
    for tracker in _find_trackers(model).values():
        tracker.reset_state()
    loss = compute_loss(model, x, y, outputs, weights, training=False)
    regularizers = sum(float(tf.reduce_sum(each)) for each in model.losses)
    # Asked again, as Keras makes them when it first computes the loss.
    return float(loss) - regularizers, {
        output: float(tracker.result())
        for output, tracker in _find_trackers(model).items()
    }


def _find_trackers(model: Any) -> dict[str, Any]:
    """Finds the metrics in which Keras notes the losses of several outputs."""
    return {
        metric.name.removesuffix("_loss"): metric
        for metric in model.metrics
        if metric.name.endswith("_loss")
    }


@contextlib.contextmanager
def keep_metrics(model: Any) -> Iterator[None]:
    """Leaves the metrics of a model as they were, as losses change them.

    Args:
        model: Keras model.

    Yields:
        Nothing.
    """
    values = [
        (variable, tf.identity(tf.convert_to_tensor(variable)))
        for metric in model.metrics
        for variable in metric.variables
    ]
    try:
        yield
    finally:
        # Those too that were made meanwhile.
        model.reset_metrics()
        for variable, value in values:
            variable.assign(value)
