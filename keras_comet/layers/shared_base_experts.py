"""Experts that are one Keras layer, each with deviations of its own."""

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_comet._keras import KERAS_3
from keras_comet._keras import keras
from keras_comet._keras import serializable
from keras_comet.ops import RoutedPairs
from keras_comet.ops import dispatch
from keras_comet.ops import if_nonempty


@serializable
class SharedBaseExperts(keras.layers.Layer):
    """n experts that share a base: any Keras layer or model, such as a CNN.

    With v the trainable variables of the layer, expert e calls it with
    `v + s D_e`. All rows train v, those of an expert its deviations D_e, which
    start at zero: experts begin as one. See `StackedDenseExperts` with
    `deviation_scale`, which is faster, for perceptrons. Deviations are added
    in every call, which takes little where a kernel serves many places of an
    image.

    Needs Keras 3. A row draws a dropout mask of its own for each expert.

    Args:
        layer: Keras layer or model, which these experts own.
        num_experts: int. Number of experts, at least 1.
        deviation_scale: float above 0. The deviations' learning rate relative
            to the base's, under Adam. Defaults to `1.0`.

    Attributes:
        layer: the base.
        deviations: list of variables `(num_experts, *shape)`, one for each
            trainable variable of the layer.

    Call arguments:
        rows: tensor `(batch, ...)`.
        training: bool. Passed on.

    Output shape:
        `(batch, num_experts, ...)`: the outputs of all experts.

    Raises:
        ValueError: Under Keras 2; if `num_experts` is below 1 or
            `deviation_scale` not above 0; if the layer adds a loss when it is
            called, or keeps statistics, as `BatchNormalization` does.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_comet

    network = keras.Sequential(
        [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten()]
    )
    moe = keras_comet.MixtureOfExperts(
        keras_comet.SharedBaseExperts(network, 8), keras_comet.TopKGate(8, k=2)
    )
    images = np.ones((3, 6, 6, 1), "float32")
    moe((images, np.ones((3, 5), "float32"))).shape  # (3, 64)
    ```
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        num_experts: int,
        deviation_scale: float = 1.0,
        **kwargs: Any,
    ) -> None:
        if not KERAS_3:
            raise ValueError(
                "SharedBaseExperts need `stateless_call` of Keras 3. "
                "Received: Keras 2. Use StackedDenseExperts with "
                "`deviation_scale`, or a list of layers that share nothing."
            )
        super().__init__(**kwargs)
        if num_experts < 1 or not deviation_scale > 0.0:
            raise ValueError(
                "`num_experts` must be at least 1, and `deviation_scale` above "
                f"0. Received: num_experts={num_experts}, "
                f"deviation_scale={deviation_scale}"
            )
        self.layer = layer
        self.num_experts = num_experts
        self.deviation_scale = deviation_scale

    def build(self, input_shape: Any) -> None:
        if not self.layer.built:
            self.layer.build(tuple(input_shape))
        kept = [
            variable.path
            for variable in self.layer.non_trainable_variables
            if "seed" not in variable.name
        ]
        if kept and self.layer.trainable:
            raise ValueError(
                "The base of experts must not keep statistics, which each of "
                f"them would need for its own rows. Received: {kept}. Use "
                "LayerNormalization, or a list of layers."
            )
        for index, variable in enumerate(self.layer.trainable_variables):
            deviation = self.add_weight(
                name=f"deviation_{index}",
                shape=(self.num_experts, *variable.shape),
                initializer="zeros",
            )
            # An attribute, as TensorFlow checkpoints do not look into lists.
            setattr(self, f"deviation_{index}", deviation)
        self._deviates = [v.path for v in self.layer.trainable_variables]
        self.built = True

    @property
    def deviations(self) -> list[Any]:
        """Variables, one for each trainable variable of the layer."""
        numbers = range(len(self._deviates)) if self.built else []
        return [getattr(self, f"deviation_{index}") for index in numbers]

    def as_given(self) -> "SharedBaseExperts":
        """Returns the experts as a mixture was given them."""
        return self

    def row_output_shape(self, row_shape: Sequence[Any]) -> tuple[Any, ...]:
        """Returns the shape of what an expert makes of one row."""
        shape = self.layer.compute_output_shape((None, *row_shape))
        return tuple(shape)[1:]

    def call(self, rows: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return tf.stack(self.call_all(rows, bool(training)), axis=1)

    def call_all(self, rows: tf.Tensor, training: bool) -> list[tf.Tensor]:
        """Returns what each expert makes of all rows."""
        by_expert = self._deviations_by_expert()
        return [self._call_expert(each, rows, training) for each in by_expert]

    def call_routed(
        self, rows: tf.Tensor, pairs: RoutedPairs, training: bool
    ) -> tf.Tensor:
        """Returns what the experts make of their rows, in order of `pairs`."""
        routed = zip(
            self._deviations_by_expert(), dispatch(rows, pairs), strict=True
        )
        return tf.concat(
            [
                if_nonempty(
                    routed_rows,
                    functools.partial(
                        self._call_expert, deviations, training=training
                    ),
                    self.row_output_shape(rows.shape[1:]),
                    self.compute_dtype,
                )
                for deviations, routed_rows in routed
            ],
            axis=0,
        )

    def _deviations_by_expert(self) -> list[dict[str, tf.Tensor]]:
        """Lists what each expert adds, by the path of the variable."""
        # Unstacking makes views, and its gradient is one stack.
        by_variable = [
            tf.unstack(self.deviation_scale * tf.convert_to_tensor(each))
            for each in self.deviations
        ]
        return [
            {
                path: views[expert]
                for path, views in zip(self._deviates, by_variable, strict=True)
            }
            for expert in range(self.num_experts)
        ]

    def _call_expert(
        self, deviations: dict[str, tf.Tensor], rows: tf.Tensor, training: bool
    ) -> tf.Tensor:
        def read(variables: list[Any]) -> list[tf.Tensor]:
            return [
                # In full precision; layers cast what they read themselves.
                tf.convert_to_tensor(variable.value)
                + tf.cast(deviations[variable.path], variable.dtype)
                if variable.path in deviations
                else tf.convert_to_tensor(variable.value)
                for variable in variables
            ]

        num_losses = len(self.layer.losses)
        outputs, state, losses = self.layer.stateless_call(
            read(self.layer.trainable_variables),
            read(self.layer.non_trainable_variables),
            rows,
            return_losses=True,
            training=training,
        )
        if len(losses) > num_losses:
            raise ValueError(
                f"The base {self.layer.name!r} adds a loss when it is called "
                "(an activity regularizer, for example), which would be lost. "
                "Received: a layer with such a loss. Add it to the model "
                "instead."
            )
        if training:
            for variable, value in zip(
                self.layer.non_trainable_variables, state, strict=True
            ):
                if variable.path not in deviations:
                    variable.assign(value)
        outputs = tf.cast(outputs, self.compute_dtype)
        outputs.set_shape([None, *self.row_output_shape(rows.shape[1:])])
        return outputs

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        batch, *row_shape = tuple(input_shape)
        return (batch, self.num_experts, *self.row_output_shape(row_shape))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "layer": keras.saving.serialize_keras_object(self.layer),
            "num_experts": self.num_experts,
            "deviation_scale": self.deviation_scale,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> "SharedBaseExperts":
        layer = keras.saving.deserialize_keras_object(
            config["layer"], custom_objects=custom_objects
        )
        return cls(**{**config, "layer": layer})
