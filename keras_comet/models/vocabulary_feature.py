"""A feature whose known ids are given."""

import itertools
from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from keras_comet._keras import keras
from keras_comet.gates.seed_state import add_seed_state
from keras_comet.gates.seed_state import next_seed
from keras_comet.models.embedded_feature import EmbeddedFeature
from keras_comet.models.vocabulary import read_vocabulary
from keras_comet.ops.replica_seed import replica_seed


class VocabularyFeature(EmbeddedFeature):
    """Embeds the ids of a vocabulary, and all others as unknown.

    Training data holds known ids alone, as a rule. Some of them are taken for
    unknown ones there, or the rows of these would stay as they were drawn.

    Args:
        vocabulary: strings, bytes or integers, all different: the known ids,
            as a list, a set (which is sorted), an array or a tensor.
        embedding_dim: int. As in `EmbeddedFeature`. Defaults to `32`.
        embeddings_initializer: as in `EmbeddedFeature`.
        embeddings_regularizer: as in `EmbeddedFeature`.
        unknown_rate: float. Share of the ids that training takes for unknown.
            Defaults to `0.01`.
        num_oov_ids: int. Number of rows that unknown ids are hashed to.
            Defaults to `1`.
        seed: int, or `None` for a random one. Seeds the choice of these ids.
            Defaults to `None`.
        **kwargs: what a Keras layer takes.
    """

    def __init__(
        self,
        vocabulary: Iterable[Any],
        embedding_dim: int = 32,
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        unknown_rate: float = 0.01,
        num_oov_ids: int = 1,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            embedding_dim,
            embeddings_initializer,
            embeddings_regularizer,
            **kwargs,
        )
        # A plain list, which Keras neither tracks nor converts.
        self._known = read_vocabulary(vocabulary)
        if not 0.0 <= unknown_rate <= 1.0 or num_oov_ids < 1:
            raise ValueError(
                "`unknown_rate` must be within 0 and 1, and `num_oov_ids` at "
                f"least 1. Received: unknown_rate={unknown_rate}, "
                f"num_oov_ids={num_oov_ids}"
            )
        self.unknown_rate = unknown_rate
        self.num_oov_ids = num_oov_ids
        self.seed = seed
        self.has_strings = isinstance(self._known[0], str)
        lookup = (
            keras.layers.StringLookup
            if self.has_strings
            else keras.layers.IntegerLookup
        )
        self._lookup = lookup(
            vocabulary=self._known,
            num_oov_indices=num_oov_ids,
            oov_token=_find_free(self._known),
        )

    @property
    def num_ids(self) -> int:
        """Number of known ids, and of those that all others share."""
        return len(self._known) + self.num_oov_ids

    def build(self, input_shape: Any = None) -> None:
        # Keras builds again what a model builds when it is loaded.
        if self.built:
            return
        if self.unknown_rate:
            self.seed_state = add_seed_state(self, self.seed)
        super().build(input_shape)

    def find_indices(self, ids: tf.Tensor) -> tf.Tensor:
        """Maps ids of any shape to int64 indices, the unknown ones first."""
        ids = self.as_ids(ids, self.has_strings)
        return tf.cast(self._lookup(ids), tf.int64)

    def embed(
        self, indices: tf.Tensor, training: bool | None = None
    ) -> tf.Tensor:
        if training and self.trainable and self.unknown_rate:
            indices = self._forget_some(indices)
        return super().embed(indices)

    def _forget_some(self, indices: tf.Tensor) -> tf.Tensor:
        """Replaces a share of the indices by those of unknown ids."""
        # Once below the rate, as likely to be anywhere between it and 0.
        drawn = tf.random.stateless_uniform(
            tf.shape(indices), replica_seed(next_seed(self.seed_state))
        )
        unknown = drawn / self.unknown_rate * self.num_oov_ids
        return tf.where(
            drawn < self.unknown_rate, tf.cast(unknown, indices.dtype), indices
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "vocabulary": self._known,
            "unknown_rate": self.unknown_rate,
            "num_oov_ids": self.num_oov_ids,
            "seed": self.seed,
        }


def _find_free(known: list[Any]) -> Any:
    """An id that is not known, as Keras needs one to stand for the others.

    Its own choice, -1 or `"[UNK]"`, would be unknown if it came first.
    """
    taken = set(known)
    if isinstance(known[0], int):
        return next(
            free for free in itertools.count(-1, -1) if free not in taken
        )
    free = "[UNK]"
    while free in taken:
        free += "]"
    return free
