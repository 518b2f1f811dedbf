"""A categorical feature: raw ids to embeddings."""

import itertools
from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from keras_comet._keras import keep_frozen
from keras_comet._keras import keras
from keras_comet._keras import serializable
from keras_comet.models.feature import Feature
from keras_comet.models.vocabulary import read_vocabulary


@serializable
class CategoricalFeature(Feature):
    """Looks ids up in a vocabulary and embeds them.

    Ids that the vocabulary does not have share one embedding of their own,
    so that a served model answers for users and items that are new.

    TensorFlow's lookup tables have no kernel for XLA: do not compile a model
    with this layer with `jit_compile=True`, or look ids up in its data.

    Args:
        vocabulary: strings, bytes or integers, all different: the known ids,
            as a list, a set (which is sorted), an array or a tensor.
        embedding_dim: int. Width of the embedding. Defaults to `32`.
        embeddings_initializer: initializer of the table. Defaults to
            `"uniform"`.
        embeddings_regularizer: regularizer of the table. Defaults to `None`.

    Call arguments:
        ids: string or integer tensor, as the vocabulary.
        return_indices: bool. Whether to return what `lookup` does as well.
            Defaults to `False`.

    Input shape:
        `(batch,)` or `(batch, 1)`.

    Output shape:
        `(batch, embedding_dim)`; with `return_indices=True` a tuple of it
        and `(batch,)`.

    Raises:
        ValueError: If the vocabulary is empty, has duplicates, or holds
            anything but strings or integers, or ids have another shape or
            type.

    Example:

    ```python
    import tensorflow as tf
    import keras_comet

    feature = keras_comet.CategoricalFeature(["ann", "bob"], embedding_dim=4)
    feature(tf.constant(["bob", "somebody new"])).shape  # (2, 4)
    ```
    """

    def __init__(
        self,
        vocabulary: Iterable[Any],
        embedding_dim: int = 32,
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # A plain list, which Keras neither tracks nor converts.
        self._known = read_vocabulary(vocabulary)
        if embedding_dim < 1:
            raise ValueError(
                "`embedding_dim` must be at least 1. "
                f"Received: embedding_dim={embedding_dim}"
            )
        self.embedding_dim = embedding_dim
        self.has_strings = isinstance(self._known[0], str)
        lookup = (
            keras.layers.StringLookup
            if self.has_strings
            else keras.layers.IntegerLookup
        )
        self._lookup = lookup(
            vocabulary=self._known, oov_token=_find_free(self._known)
        )
        self._embedding = keras.layers.Embedding(
            self.num_ids,
            embedding_dim,
            embeddings_initializer=embeddings_initializer,
            embeddings_regularizer=embeddings_regularizer,
            dtype=self.dtype_policy,
        )

    @property
    def num_ids(self) -> int:
        """Number of known ids, and one for all others."""
        return len(self._known) + 1

    @property
    def input_spec_for_serving(self) -> tf.TensorSpec:
        """What a served model expects for this feature."""
        return tf.TensorSpec(
            [None], tf.string if self.has_strings else tf.int64
        )

    def build(self, input_shape: Any = None) -> None:
        self._embedding.build((None,))
        keep_frozen(self)
        self.built = True

    def lookup(self, ids: tf.Tensor) -> tf.Tensor:
        """Maps ids to `0 ... num_ids - 1`; 0 is for unknown ones.

        Args:
            ids: string or integer tensor `(batch,)` or `(batch, 1)`.

        Returns:
            An int64 tensor `(batch,)`.
        """
        ids = self.as_rows(ids)[:, 0]
        if (ids.dtype == tf.string) != self.has_strings:
            raise ValueError(
                f"{self.title}: its vocabulary holds "
                f"{'strings' if self.has_strings else 'integers'}. Received: "
                f"ids of dtype {ids.dtype.name}"
            )
        return tf.cast(self._lookup(ids), tf.int64)

    def call(self, ids: tf.Tensor, return_indices: bool = False) -> Any:
        indices = self.lookup(ids)
        embeddings = self._embedding(indices)
        return (embeddings, indices) if return_indices else embeddings

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        return (tuple(input_shape)[0], self.embedding_dim)

    def get_config(self) -> dict[str, Any]:
        embedding = self._embedding
        return {
            **super().get_config(),
            "vocabulary": self._known,
            "embedding_dim": self.embedding_dim,
            "embeddings_initializer": keras.initializers.serialize(
                embedding.embeddings_initializer
            ),
            "embeddings_regularizer": keras.regularizers.serialize(
                embedding.embeddings_regularizer
            ),
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
