"""A feature that is encoded by a table of embeddings."""

from typing import Any

import tensorflow as tf

from keras_comet._keras import keep_frozen
from keras_comet._keras import keras
from keras_comet.models.feature import Feature


class EmbeddedFeature(Feature):
    """Maps raw values to indices, and these to rows of a table.

    A subclass gives `num_ids`, the number of rows, and calls `embed`.

    Args:
        embedding_dim: int. Width of the embedding. Defaults to `32`.
        embeddings_initializer: initializer of the table. Defaults to
            `"uniform"`.
        embeddings_regularizer: regularizer of the table. Defaults to `None`.
        **kwargs: what a Keras layer takes.
    """

    def __init__(
        self,
        embedding_dim: int = 32,
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if embedding_dim < 1:
            raise ValueError(
                "`embedding_dim` must be at least 1. "
                f"Received: embedding_dim={embedding_dim}"
            )
        self.embedding_dim = embedding_dim
        self.embeddings_initializer = keras.initializers.get(
            embeddings_initializer
        )
        self.embeddings_regularizer = keras.regularizers.get(
            embeddings_regularizer
        )

    @property
    def num_ids(self) -> int:
        """Number of indices, from 0 on."""
        raise NotImplementedError(f"{type(self).__name__} must have `num_ids`.")

    def build(self, input_shape: Any = None) -> None:
        # Keras builds again what a model builds when it is loaded.
        if self.built:
            return
        self._embedding = keras.layers.Embedding(
            self.num_ids,
            self.embedding_dim,
            embeddings_initializer=self.embeddings_initializer,
            embeddings_regularizer=self.embeddings_regularizer,
            dtype=self.dtype_policy,
        )
        self._embedding.build((None,))
        keep_frozen(self)
        self.built = True

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

    def embed(
        self, indices: tf.Tensor, training: bool | None = None
    ) -> tf.Tensor:
        """Looks indices of any shape up in the table."""
        return self._embedding(indices)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        return (tuple(input_shape)[0], self.embedding_dim)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "embedding_dim": self.embedding_dim,
            "embeddings_initializer": keras.initializers.serialize(
                self.embeddings_initializer
            ),
            "embeddings_regularizer": keras.regularizers.serialize(
                self.embeddings_regularizer
            ),
        }
