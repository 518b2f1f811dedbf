"""A layer that owns a table of embeddings."""

from typing import Any

import tensorflow as tf

from keras_comet._keras import keep_frozen
from keras_comet._keras import keras


class Embedder(keras.layers.Layer):
    """Looks indices up in a table of its own.

    A subclass gives `num_ids`, the number of rows.

    Args:
        embedding_dim: int. Width of the embedding. Defaults to `32`.
        embeddings_initializer: initializer of the table. Defaults to
            `"uniform"`.
        embeddings_regularizer: regularizer of the table. Defaults to `None`.
        **kwargs: what a Keras layer takes.
    """

    # Of Keras.
    built: bool

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

    def initial_embeddings(self) -> Any:
        """Returns the initializer of the table."""
        return self.embeddings_initializer

    def build(self, input_shape: Any = None) -> None:
        # Keras builds again what a model builds when it is loaded.
        if self.built:
            return
        self._embedding = keras.layers.Embedding(
            self.num_ids,
            self.embedding_dim,
            embeddings_initializer=self.initial_embeddings(),
            embeddings_regularizer=self.embeddings_regularizer,
            dtype=self.dtype_policy,
        )
        self._embedding.build((None,))
        keep_frozen(self)
        self.built = True

    def embed(
        self, indices: tf.Tensor, training: bool | None = None
    ) -> tf.Tensor:
        """Looks indices of any shape up in the table."""
        return self._embedding(indices)

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
