"""Keeps Keras 3 from a signature of its own beside the one asked for."""

import contextlib
from collections.abc import Iterator
from typing import Any

from keras_comet._keras import KERAS_3
from keras_comet._keras import flatten_layers
from keras_comet._keras import keras


@contextlib.contextmanager
def no_default_signature(model: Any) -> Iterator[None]:
    """Hides the shapes that Keras 3 would trace models of a SavedModel with.

    It takes all inputs of a model that overrides `call` for floats, which a
    model of ids refuses.

    Args:
        model: Keras model, built.
    """
    if not KERAS_3:
        yield
        return
    models = [
        layer
        for layer in flatten_layers(model)
        if isinstance(layer, keras.Model)
    ]
    shapes = [each._build_shapes_dict for each in models]
    try:
        for each in models:
            each._build_shapes_dict = None
        yield
    finally:
        for each, value in zip(models, shapes, strict=True):
            each._build_shapes_dict = value
