"""A categorical feature with several ids in a row."""

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from keras_comet._keras import serializable
from keras_comet.models.embedding_table import EmbeddingTable
from keras_comet.models.multi_id_feature import MultiIdFeature


@serializable
class MultiCategoricalFeature(MultiIdFeature):
    """Embeds any number of ids in each row, and combines the embeddings.

    For what an example has several of in no order, such as genres. A row
    without ids is encoded as zeros. Unknown ids are treated as by
    `CategoricalFeature`.

    Args:
        vocabulary: the known ids, as in `EmbeddingTable`, or such a table,
            which other features may share.
        embedding_dim: int. Width of the embedding. Defaults to `None`: 32, or
            that of the shared table.
        combiner: str. `"mean"` or `"sum"` of the embeddings of a row. Defaults
            to `"mean"`.
        padding_value: str or int. What fills short rows up, and is no id.
            Defaults to `None`: `""` for strings, and 0 for integers.
        weights_name: str. Name of a further input of a recommender, which
            holds a weight for each id: the sum is one of weighted
            embeddings then, and the mean that sum over the sum of the
            weights. Defaults to `None`: all ids count alike.
        **kwargs: `embeddings`, `embeddings_initializer`,
            `embeddings_regularizer`, `unknown_rate`, `num_oov_ids` and
            `seed`, as in `EmbeddingTable`, and what a Keras layer takes.

    Attributes:
        table: the `EmbeddingTable`.

    Call arguments:
        ids: string or integer tensor, as the vocabulary, or `RaggedTensor`.
        weights: float tensor or `RaggedTensor` of the shape of the ids.
            Defaults to `None`.
        training: bool. Some ids are taken for unknown ones when true, unless
            the table is frozen.

    Input shape:
        `(batch, length)`, of any length.

    Output shape:
        `(batch, embedding_dim)`.

    Raises:
        ValueError: If the vocabulary is empty, has duplicates, or holds the
            padding or anything but strings or integers, an argument is out of
            its range, or ids have another shape or type.

    Example:

    ```python
    import tensorflow as tf
    import keras_comet

    genres = keras_comet.MultiCategoricalFeature(["drama", "crime"], 4)
    genres(tf.constant([["crime", "drama"], ["drama", ""]])).shape  # (2, 4)
    ```
    """

    def __init__(
        self,
        vocabulary: Iterable[Any] | EmbeddingTable,
        embedding_dim: int | None = None,
        combiner: str = "mean",
        padding_value: str | int | None = None,
        weights_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            vocabulary, embedding_dim, padding_value=padding_value, **kwargs
        )
        if combiner not in ("mean", "sum"):
            raise ValueError(
                "`combiner` must be 'mean' or 'sum'. "
                f"Received: combiner={combiner!r}"
            )
        self.combiner = combiner
        self.weights_name = weights_name

    def call(
        self,
        ids: tf.Tensor,
        weights: tf.Tensor | None = None,
        training: bool | None = None,
    ) -> tf.Tensor:
        embeddings, is_id = self.embed_rows(ids, training)
        counted = tf.cast(is_id, embeddings.dtype)
        if weights is not None:
            weights = self._as_weights(weights, is_id.shape)
            counted *= tf.cast(weights, counted.dtype)
        counted = counted[..., tf.newaxis]
        # (batch, length, embedding_dim) to (batch, embedding_dim)
        combined = tf.reduce_sum(embeddings * counted, axis=1)
        if self.combiner == "sum":
            return combined
        return tf.math.divide_no_nan(combined, tf.reduce_sum(counted, axis=1))

    def _as_weights(self, weights: Any, shape: tf.TensorShape) -> tf.Tensor:
        """Returns weights in float32, of the shape of the ids."""
        if isinstance(weights, tf.RaggedTensor):
            weights = weights.to_tensor()
        weights = tf.cast(weights, tf.float32)
        if not weights.shape.is_compatible_with(shape):
            raise ValueError(
                f"{self.title} takes one weight for each id. Expected: shape "
                f"{tuple(shape)}. Received: {tuple(weights.shape)}"
            )
        # A graph may know less of the shapes.
        return tf.ensure_shape(weights, shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "combiner": self.combiner,
            "weights_name": self.weights_name,
        }
