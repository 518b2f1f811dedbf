"""A feature that any Keras layer encodes."""

from typing import Any

import tensorflow as tf

from keras_comet._keras import keep_frozen
from keras_comet._keras import keras
from keras_comet._keras import serializable
from keras_comet.containers import deserialize_layers
from keras_comet.containers import register_user
from keras_comet.containers import serialize_layers
from keras_comet.models.feature import Feature


@serializable
class LayerFeature(Feature):
    """Encodes what a row has of a feature by a Keras layer or model.

    For what no feature of this package does: an image or a text embedded
    elsewhere and narrowed by a `Dense` layer, a text tower.

    Args:
        layer: Keras layer or model that returns `(batch, width)`.
        shape: list of int, the shape of one example's values. Defaults to
            `()`: one value.
        values_dtype: str. Type of the values. Defaults to `"float32"`.
        **kwargs: what a Keras layer takes.

    Call arguments:
        values: tensor of the type given.

    Input shape:
        `(batch, *shape)`.

    Output shape:
        `(batch, width)`.

    Raises:
        ValueError: If `layer` is no Keras layer, or returns another rank, or
            values have another shape.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_comet

    poster = keras_comet.LayerFeature(keras.layers.Dense(16), shape=[512])
    poster(np.ones([2, 512], "float32")).shape  # (2, 16)
    ```
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        shape: Any = (),
        values_dtype: str = "float32",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(layer, keras.layers.Layer):
            raise ValueError(
                f"`layer` must be a layer or model of {keras.__name__} "
                f"{keras.__version__}. Received: {layer!r}"
            )
        self.layer = layer
        # A plain tuple, which Keras neither tracks nor converts.
        self._shape = tuple(shape)
        self.values_dtype = tf.as_dtype(values_dtype).name
        register_user([layer])

    @property
    def input_spec_for_serving(self) -> tf.TensorSpec:
        """What a served model expects for this feature."""
        return tf.TensorSpec([None, *self._shape], self.values_dtype)

    def build(self, input_shape: Any = None) -> None:
        # Keras builds again what a model builds when it is loaded.
        if self.built:
            return
        if not self.layer.built:
            self.layer.build((None, *self._shape))
        self.compute_output_shape((None,))
        keep_frozen(self)
        self.built = True

    def call(self, values: tf.Tensor) -> tf.Tensor:
        values = tf.convert_to_tensor(values)
        if not values.shape.is_compatible_with([None, *self._shape]):
            expected = ", ".join(["batch", *map(str, self._shape)])
            raise ValueError(
                f"{self.title} takes values of shape ({expected}). Received: "
                f"shape {tuple(values.shape)}. Pass `shape` for another one."
            )
        return self.layer(tf.cast(values, self.values_dtype))

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        given = (tuple(input_shape)[0], *self._shape)
        shape = tuple(self.layer.compute_output_shape(given))
        if len(shape) != 2:
            raise ValueError(
                f"{self.title}: its layer must return (batch, width). "
                f"Received: {shape} from {self.layer.name!r}. Add a Flatten "
                "or a pooling layer."
            )
        return shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "layer": serialize_layers(self.layer, self),
            "shape": list(self._shape),
            "values_dtype": self.values_dtype,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> "LayerFeature":
        return cls(**deserialize_layers(config, ["layer"], custom_objects))
