"""The loss that a model was compiled with, under either Keras."""

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
        model: Keras model, compiled.
        x: its inputs.
        y: the labels.
        outputs: what the model returned.
        weights: sample weights, or `None`.
        training: bool. Keras 3 alone is told.

    Returns:
        A scalar tensor.
    """
    arguments = {"training": training} if KERAS_3 else {}
    return model.compute_loss(x, y, outputs, weights, **arguments)
