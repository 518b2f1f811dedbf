"""A vocabulary and its embeddings, which features may share."""

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_comet._keras import keras
from keras_comet._keras import serializable
from keras_comet.gates.seed_state import add_seed_state
from keras_comet.gates.seed_state import next_seed
from keras_comet.models.embedder import Embedder
from keras_comet.models.vocabulary import pack_vocabulary
from keras_comet.models.vocabulary import read_vocabulary
from keras_comet.models.vocabulary import unpack_vocabulary
from keras_comet.ops.replica_seed import replica_seed


@serializable
class EmbeddingTable(Embedder):
    """Embeds the ids of a vocabulary, and all others as unknown.

    Given to several features as their vocabulary, it makes them share one
    table: the film that is scored, and the films that a user has seen.

    Training data holds known ids alone, as a rule. Some of them are taken for
    unknown ones there, or the rows of these would stay as they were drawn.

    TensorFlow's lookup tables have no kernel for XLA: do not compile a model
    with this layer with `jit_compile=True`.

    Args:
        vocabulary: strings, bytes or integers, all different: the known ids,
            as a list, a set (which is sorted), an array or a tensor.
        embedding_dim: int. Width of the embeddings. Defaults to `None`: that
            of `embeddings`, or else 32.
        embeddings_initializer: initializer of the table. Defaults to
            `"uniform"`.
        embeddings_regularizer: regularizer of the table. Defaults to `None`.
        unknown_rate: float. Share of the ids that training takes for unknown.
            Defaults to `0.01`.
        num_oov_ids: int. Number of rows that unknown ids are hashed to.
            Defaults to `1`.
        seed: int, or `None` for a random one. Seeds the choice of the ids
            that training takes for unknown. Defaults to `None`.
        embeddings: array `(num_known_ids, embedding_dim)` to start from, in
            the order of the vocabulary, as trained elsewhere; unknown ids
            start from its mean. Pass `trainable=False` to keep them. It is no
            part of the config, as weights are saved as such. Defaults to
            `None`.

    Attributes:
        seed_state: int32 variable `(2,)`, not trainable; unless
            `unknown_rate` is 0.

    Call arguments:
        ids: string or integer tensor, as the vocabulary.
        training: bool. Some ids are taken for unknown ones when true, unless
            the table is frozen.

    Input shape:
        Any.

    Output shape:
        The same, and `embedding_dim`.

    Raises:
        ValueError: If the vocabulary is empty, has duplicates, or holds
            anything but strings or integers, a number is out of its range,
            `embeddings` have another shape or are not finite, or ids are of
            another type.

    Example:

    ```python
    import tensorflow as tf
    import keras_comet

    films = keras_comet.EmbeddingTable(["alien", "brazil", "cube"], 8)
    film = keras_comet.CategoricalFeature(films)
    history = keras_comet.SequenceFeature(films, max_length=10)
    film(tf.constant(["cube"])).shape  # (1, 8)
    history(tf.constant([["alien", "cube"]])).shape  # (1, 8)
    ```
    """

    def __init__(
        self,
        vocabulary: Iterable[Any],
        embedding_dim: int | None = None,
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        unknown_rate: float = 0.01,
        num_oov_ids: int = 1,
        seed: int | None = None,
        embeddings: Any = None,
        **kwargs: Any,
    ) -> None:
        known = read_vocabulary(vocabulary)
        if embeddings is not None:
            embeddings = _read_embeddings(embeddings, len(known), embedding_dim)
            embedding_dim = embeddings.shape[1]
        super().__init__(
            32 if embedding_dim is None else embedding_dim,
            embeddings_initializer,
            embeddings_regularizer,
            **kwargs,
        )
        if not 0.0 <= unknown_rate <= 1.0 or num_oov_ids < 1:
            raise ValueError(
                "`unknown_rate` must be within 0 and 1, and `num_oov_ids` at "
                f"least 1. Received: unknown_rate={unknown_rate}, "
                f"num_oov_ids={num_oov_ids}"
            )
        self.unknown_rate = unknown_rate
        self.num_oov_ids = num_oov_ids
        self.seed = seed
        self.has_strings = isinstance(known[0], str)
        # As a config holds them; a million strings are ten times as large.
        self._packed = pack_vocabulary(known)
        self._num_known = len(known)
        self._pretrained = embeddings
        lookup = (
            keras.layers.StringLookup
            if self.has_strings
            else keras.layers.IntegerLookup
        )
        self._lookup = lookup(
            vocabulary=known,
            num_oov_indices=num_oov_ids,
            oov_token=_find_free(known),
        )

    @property
    def vocabulary(self) -> list[Any]:
        """The known ids, in the order of their rows."""
        return unpack_vocabulary(self._packed)

    @property
    def num_ids(self) -> int:
        """Number of known ids, and of those that all others share."""
        return self._num_known + self.num_oov_ids

    def initial_embeddings(self) -> Any:
        if self._pretrained is None:
            return super().initial_embeddings()
        known, self._pretrained = self._pretrained, None

        def place(shape: Any, dtype: Any = None, **kwargs: Any) -> tf.Tensor:
            unknown = known.mean(axis=0, keepdims=True)
            unknown = np.repeat(unknown, self.num_oov_ids, axis=0)
            return tf.cast(np.concatenate([unknown, known]), dtype)

        return place

    def build(self, input_shape: Any = None) -> None:
        # Keras builds again what a model builds when it is loaded.
        if self.built:
            return
        if self.unknown_rate:
            self.seed_state = add_seed_state(self, self.seed)
        super().build(input_shape)

    def call(self, ids: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return self.embed(self.find_indices(ids), training)

    def find_indices(self, ids: tf.Tensor) -> tf.Tensor:
        """Maps ids of any shape to int64 indices, the unknown ones first."""
        return tf.cast(self._lookup(ids), tf.int64)

    def embed(
        self, indices: tf.Tensor, training: bool | None = None
    ) -> tf.Tensor:
        """Looks indices of any shape up in the table."""
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

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        return (*tuple(input_shape), self.embedding_dim)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "vocabulary": self._packed,
            "unknown_rate": self.unknown_rate,
            "num_oov_ids": self.num_oov_ids,
            "seed": self.seed,
            # They are among the weights.
            "embeddings": None,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "EmbeddingTable":
        known = unpack_vocabulary(config["vocabulary"])
        return cls(**{**config, "vocabulary": known})


def _read_embeddings(
    given: Any, num_known: int, embedding_dim: int | None
) -> np.ndarray[Any, Any]:
    embeddings = np.asarray(given, "float32")
    width = embeddings.shape[-1] if embedding_dim is None else embedding_dim
    is_legal = embeddings.shape == (num_known, width)
    if not is_legal or not np.isfinite(embeddings).all():
        raise ValueError(
            "`embeddings` must have a row of finite numbers for each id of "
            f"the vocabulary. Expected: shape ({num_known}, {width}). "
            f"Received: shape {embeddings.shape}"
        )
    return embeddings


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
