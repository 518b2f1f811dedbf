"""What all features of a recommender have in common."""

from typing import Any

import tensorflow as tf

from keras_comet._keras import keras


class Feature(keras.layers.Layer):
    """Turns the raw values of one feature into `(batch, width)`.

    Args:
        **kwargs: what a Keras layer takes.
    """

    # Of Keras.
    built: bool

    # Name that a recommender knows the feature by, set by it.
    feature_name: str | None = None

    # Whether gates can route by it: whether it has `lookup`.
    gives_ids = False

    # Name of an input with the weights of the values, if they have any.
    weights_name: str | None = None

    # What to do about more values in a row than the feature takes.
    remedy = "Give each of them a feature of its own."

    def __init__(self, **kwargs: Any) -> None:
        # Raw values need not fit into half precision.
        super().__init__(autocast=False, **kwargs)

    @property
    def title(self) -> str:
        """What errors call the feature."""
        return f"Feature {self.feature_name or self.name!r}"

    @property
    def input_spec_for_serving(self) -> tf.TensorSpec:
        """What a served model expects for this feature."""
        raise NotImplementedError(
            f"{type(self).__name__} must have `input_spec_for_serving`."
        )

    def as_ids(self, ids: tf.Tensor, has_strings: bool) -> tf.Tensor:
        """Returns ids as string or int64 tensor, and refuses other types."""
        if has_strings and ids.dtype == tf.string:
            return ids
        if not has_strings and ids.dtype.is_integer:
            return tf.cast(ids, tf.int64)
        raise ValueError(
            f"{self.title}: its ids are "
            f"{'strings' if has_strings else 'integers'}. Received: ids of "
            f"dtype {ids.dtype.name}. Cast them before, and not to a float, "
            "which Keras rounds to 24 bits."
        )

    def as_rows(self, values: Any, size: int = 1) -> tf.Tensor:
        """Gives values one row for each example, whatever their rank.

        Args:
            values: tensor or array `(batch, size)`, or `(batch,)` if the size
                is 1.
            size: int. Number of values in a row. Defaults to `1`.

        Returns:
            A tensor `(batch, size)`.

        Raises:
            ValueError: If the values have another shape, or rows differ in
                length.
        """
        expected = "(batch,) or (batch, 1)" if size == 1 else f"(batch, {size})"
        if not isinstance(values, (tf.RaggedTensor, tf.SparseTensor)):
            values = tf.convert_to_tensor(values)
            legal = [[None, size]] + ([[None]] if size == 1 else [])
            if any(map(values.shape.is_compatible_with, legal)):
                # Never [-1, size], which makes rows of what is left over.
                return tf.reshape(values, [tf.shape(values)[0], size])
        raise ValueError(
            f"{self.title} takes values of shape {expected}. Received: "
            f"{type(values).__name__} of shape {tuple(values.shape)}. "
            f"{self.remedy}"
        )
