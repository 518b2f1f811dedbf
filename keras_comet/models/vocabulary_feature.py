"""A feature whose known ids are given."""

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from keras_comet._keras import keep_frozen
from keras_comet.containers import deserialize_layers
from keras_comet.containers import register_user
from keras_comet.containers import serialize_layers
from keras_comet.models.embedding_table import EmbeddingTable
from keras_comet.models.feature import Feature

_OPTIONS = (
    "embeddings",
    "embeddings_initializer",
    "embeddings_regularizer",
    "num_oov_ids",
    "seed",
    "unknown_rate",
)


class VocabularyFeature(Feature):
    """Embeds ids by an `EmbeddingTable`: its own, or a shared one.

    Args:
        vocabulary: the known ids, or an `EmbeddingTable`, which other features
            may have as well.
        embedding_dim: int. Width of the embedding. Defaults to `None`.
        **kwargs: further arguments of an `EmbeddingTable`, and what a Keras
            layer takes.
    """

    def __init__(
        self,
        vocabulary: Iterable[Any] | EmbeddingTable,
        embedding_dim: int | None = None,
        **kwargs: Any,
    ) -> None:
        options = {
            name: kwargs.pop(name) for name in _OPTIONS if name in kwargs
        }
        super().__init__(**kwargs)
        if isinstance(vocabulary, EmbeddingTable):
            if options or embedding_dim not in (None, vocabulary.embedding_dim):
                raise ValueError(
                    "What a shared EmbeddingTable is like, it is told itself. "
                    f"Expected: embedding_dim={vocabulary.embedding_dim} or "
                    f"None. Received: embedding_dim={embedding_dim}, {options}"
                )
            self.table = vocabulary
        else:
            self.table = EmbeddingTable(
                vocabulary, embedding_dim, dtype=self.dtype_policy, **options
            )
        register_user([self.table])

    @property
    def embedding_dim(self) -> int:
        """Width of the embeddings."""
        return self.table.embedding_dim

    @property
    def num_ids(self) -> int:
        """Number of known ids, and of those that all others share."""
        return self.table.num_ids

    @property
    def has_strings(self) -> bool:
        """Whether ids are strings, or else integers."""
        return self.table.has_strings

    def build(self, input_shape: Any = None) -> None:
        self.table.build()
        keep_frozen(self)
        self.built = True

    def find_indices(self, ids: tf.Tensor) -> tf.Tensor:
        """Maps ids of any shape to int64 indices, the unknown ones first."""
        return self.table.find_indices(self.as_ids(ids, self.has_strings))

    def embed(
        self, indices: tf.Tensor, training: bool | None = None
    ) -> tf.Tensor:
        """Looks indices of any shape up in the table."""
        return self.table.embed(indices, training)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        return (tuple(input_shape)[0], self.embedding_dim)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "vocabulary": serialize_layers(self.table, self),
            "embedding_dim": self.embedding_dim,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> "VocabularyFeature":
        return cls(**deserialize_layers(config, ["vocabulary"], custom_objects))
