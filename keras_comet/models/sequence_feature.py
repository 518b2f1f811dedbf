"""A categorical feature with a history of ids in each row."""

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from keras_comet._keras import serializable
from keras_comet.models.embedding_table import EmbeddingTable
from keras_comet.models.multi_id_feature import MultiIdFeature

_POOLINGS = ("attention", "mean", "last")


@serializable
class SequenceFeature(MultiIdFeature):
    """Embeds the ids of each row in their order, and pools the last of them.

    For histories, such as the films that a user has seen. The latest id comes
    last; padding may be anywhere. A row without ids is encoded as zeros.
    Unknown ids are treated as by `CategoricalFeature`.

    With attention, the id that has `a` later ones gets the weight
    `softmax(q . e / sqrt(embedding_dim) + b_a)`, e its embedding; q and b
    begin at zero, that is, with the mean.

    Args:
        vocabulary: the known ids, as in `EmbeddingTable`, or such a table,
            which other features may share.
        embedding_dim: int. Width of the embedding. Defaults to `None`: 32, or
            that of the shared table.
        max_length: int. Number of ids that are read, the last of each row.
            Defaults to `50`.
        pooling: str. `"attention"`, `"mean"`, or `"last"` for the embedding of
            the last id. Defaults to `"attention"`.
        padding_value: str or int. What fills short rows up, and is no id.
            Defaults to `None`: `""` for strings, and 0 for integers.
        **kwargs: `embeddings`, `embeddings_initializer`,
            `embeddings_regularizer`, `unknown_rate`, `num_oov_ids` and
            `seed`, as in `EmbeddingTable`, and what a Keras layer takes.

    Attributes:
        table: the `EmbeddingTable`.
        query: variable `(embedding_dim,)`, q; with attention.
        recency_bias: variable `(max_length,)`, b; with attention.

    Call arguments:
        ids: string or integer tensor, as the vocabulary, or `RaggedTensor`.
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

    seen = keras_comet.SequenceFeature(["alien", "brazil", "cube"], 4)
    seen(tf.ragged.constant([["cube", "alien"], ["brazil"]])).shape  # (2, 4)
    ```
    """

    def __init__(
        self,
        vocabulary: Iterable[Any] | EmbeddingTable,
        embedding_dim: int | None = None,
        max_length: int = 50,
        pooling: str = "attention",
        padding_value: str | int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            vocabulary, embedding_dim, padding_value=padding_value, **kwargs
        )
        if max_length < 1 or pooling not in _POOLINGS:
            raise ValueError(
                "`max_length` must be at least 1, and `pooling` one of "
                f"{_POOLINGS}. Received: max_length={max_length}, "
                f"pooling={pooling!r}"
            )
        self.max_length = max_length
        self.pooling = pooling

    def build(self, input_shape: Any = None) -> None:
        # Keras builds again what a model builds when it is loaded.
        if self.built:
            return
        if self.pooling == "attention":
            self.query = self.add_weight(
                shape=(self.embedding_dim,), initializer="zeros", name="query"
            )
            self.recency_bias = self.add_weight(
                shape=(self.max_length,),
                initializer="zeros",
                name="recency_bias",
            )
        super().build(input_shape)

    def call(self, ids: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return self.pool(*self.embed_rows(ids, training))

    def pool(self, embeddings: tf.Tensor, is_id: tf.Tensor) -> tf.Tensor:
        """Combines the embeddings of each row.

        Args:
            embeddings: tensor `(batch, length, embedding_dim)`.
            is_id: bool tensor `(batch, length)`, false for padding.

        Returns:
            A tensor `(batch, embedding_dim)`.
        """
        # (batch, length): the number of ids that come later in the row.
        age = tf.cumsum(
            tf.cast(is_id, tf.int32), axis=1, exclusive=True, reverse=True
        )
        length = 1 if self.pooling == "last" else self.max_length
        is_read = is_id & (age < length)
        # In float32, as embeddings may be of half precision.
        logits = tf.zeros_like(age, tf.float32)
        if self.pooling == "attention":
            query = tf.cast(self.query, tf.float32)
            scale = self.embedding_dim**-0.5
            logits = tf.einsum(
                "blw,w->bl", tf.cast(embeddings, tf.float32), query * scale
            )
            # No row of a padded batch is older than the oldest bias.
            age = tf.minimum(age, self.max_length - 1)
            bias = tf.cast(self.recency_bias, tf.float32)
            logits += tf.gather(bias, age)
        logits = tf.where(is_read, logits, tf.fill(tf.shape(logits), -1e9))
        # Of a row without ids, all weights are set to zero.
        weights = tf.nn.softmax(logits) * tf.cast(is_read, tf.float32)
        weights = tf.cast(weights, embeddings.dtype)
        # (batch, length, embedding_dim) to (batch, embedding_dim)
        return tf.einsum("bl,blw->bw", weights, embeddings)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "max_length": self.max_length,
            "pooling": self.pooling,
        }
