"""The tower of one task: from its mixture to its prediction."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_comet._keras import keras
from keras_comet.containers import LayerDict


class TaskTower(keras.layers.Layer):
    """Predicts by a few relu layers and one layer of the task's own.

    Args:
        hidden_units: list of int. Widths of the relu layers.
        units: int. Width of the prediction.
        activation: activation of the prediction.
        **kwargs: what a Keras layer takes.
    """

    def __init__(
        self,
        hidden_units: Sequence[int],
        units: int,
        activation: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        layers = [
            keras.layers.Dense(width, "relu", dtype=self.dtype_policy)
            for width in hidden_units
        ]
        # Losses need float32 under every precision policy.
        layers.append(keras.layers.Dense(units, activation, dtype="float32"))
        self.dense = LayerDict(
            {str(index): layer for index, layer in enumerate(layers)},
            dtype=self.dtype_policy,
            name="dense",
        )

    def build(self, input_shape: Any) -> None:
        shape = tuple(input_shape)
        for layer in self.dense.values():
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
        self.built = True

    def call(self, features: tf.Tensor) -> tf.Tensor:
        for layer in self.dense.values():
            features = layer(features)
        return features

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        units = self.dense.values()[-1].units
        return (*tuple(input_shape)[:-1], units)
