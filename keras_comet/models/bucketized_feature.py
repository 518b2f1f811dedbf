"""A numeric feature as the buckets that its values fall into."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_comet._keras import serializable
from keras_comet.models.embedded_feature import EmbeddedFeature


@serializable
class BucketizedFeature(EmbeddedFeature):
    """Embeds the bucket that a number falls into.

    For numbers whose effect is not monotonic, such as the hour of a day. NaN
    has a bucket of its own, the last.

    Args:
        boundaries: list of float, rising: bucket i begins at boundary i - 1
            and ends before boundary i.
        embedding_dim: int. Width of the embedding. Defaults to `8`.
        embeddings_initializer: initializer of the table. Defaults to
            `"uniform"`.
        embeddings_regularizer: regularizer of the table. Defaults to `None`.

    Call arguments:
        values: tensor of numbers.

    Input shape:
        `(batch,)` or `(batch, 1)`.

    Output shape:
        `(batch, embedding_dim)`.

    Raises:
        ValueError: If boundaries are none, not finite or not rising,
            `embedding_dim` is below 1, or values have another shape.

    Example:

    ```python
    import tensorflow as tf
    import keras_comet

    feature = keras_comet.BucketizedFeature([18.0, 65.0], embedding_dim=4)
    feature(tf.constant([17.0, 18.0, float("nan")])).shape  # (3, 4)
    ```
    """

    def __init__(
        self,
        boundaries: Sequence[float],
        embedding_dim: int = 8,
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            embedding_dim,
            embeddings_initializer,
            embeddings_regularizer,
            **kwargs,
        )
        edges = np.asarray(boundaries, "float32")
        if (
            edges.ndim != 1
            or not edges.size
            or not np.isfinite(edges).all()
            or not (np.diff(edges) > 0.0).all()
        ):
            raise ValueError(
                "`boundaries` must be a list of finite numbers, each above "
                f"the one before. Received: boundaries={boundaries}"
            )
        # A plain list, which Keras neither tracks nor converts.
        self._boundaries = edges.tolist()

    @property
    def num_ids(self) -> int:
        """Number of buckets, that of NaN included."""
        return len(self._boundaries) + 2

    @property
    def input_spec_for_serving(self) -> tf.TensorSpec:
        """What a served model expects for this feature."""
        return tf.TensorSpec([None], tf.float32)

    def call(self, values: tf.Tensor) -> tf.Tensor:
        numbers = tf.cast(self.as_rows(values)[:, 0], tf.float32)
        is_missing = tf.math.is_nan(numbers)
        known = tf.where(is_missing, tf.zeros_like(numbers), numbers)
        # Not Keras' Discretization: up to Keras 3.10 it miscounts in graphs.
        buckets = tf.searchsorted(
            self._boundaries, known, side="right", out_type=tf.int64
        )
        last = tf.constant(self.num_ids - 1, tf.int64)
        return self.embed(tf.where(is_missing, last, buckets))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "boundaries": self._boundaries}
