"""A feature of ids that no vocabulary lists."""

from typing import Any

import tensorflow as tf

from keras_comet._keras import keras
from keras_comet._keras import serializable
from keras_comet.models.embedded_feature import EmbeddedFeature
from keras_comet.models.single_id_feature import SingleIdFeature


@serializable
class HashedFeature(EmbeddedFeature, SingleIdFeature):
    """Hashes ids to bins and embeds these.

    For ids that are too many, or not known before. Ids that share a bin share
    an embedding; new ones get that of a bin, which others have trained.

    Strings have no kernel for XLA: do not compile a model with this layer
    with `jit_compile=True`.

    Args:
        num_bins: int. Number of embeddings.
        embedding_dim: int. Width of the embedding. Defaults to `32`.
        embeddings_initializer: initializer of the table. Defaults to
            `"uniform"`.
        embeddings_regularizer: regularizer of the table. Defaults to `None`.
        has_strings: bool. Whether ids are strings, or else integers. Defaults
            to `True`.

    Call arguments:
        ids: string or integer tensor, as `has_strings` says.
        return_indices: bool. Whether to return what `lookup` does as well.
            Defaults to `False`.

    Input shape:
        `(batch,)` or `(batch, 1)`.

    Output shape:
        `(batch, embedding_dim)`; with `return_indices=True` a tuple of it
        and `(batch,)`.

    Raises:
        ValueError: If `num_bins` or `embedding_dim` is below 1, or ids have
            another shape or type.

    Example:

    ```python
    import tensorflow as tf
    import keras_comet

    feature = keras_comet.HashedFeature(num_bins=100, embedding_dim=4)
    feature(tf.constant(["any", "text"])).shape  # (2, 4)
    ```
    """

    def __init__(
        self,
        num_bins: int,
        embedding_dim: int = 32,
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        has_strings: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            embedding_dim,
            embeddings_initializer,
            embeddings_regularizer,
            **kwargs,
        )
        if num_bins < 1:
            raise ValueError(
                f"`num_bins` must be at least 1. Received: num_bins={num_bins}"
            )
        self.num_bins = num_bins
        self.has_strings = has_strings
        self._hash = keras.layers.Hashing(num_bins)

    @property
    def num_ids(self) -> int:
        """Number of bins."""
        return self.num_bins

    def find_indices(self, ids: tf.Tensor) -> tf.Tensor:
        """Maps ids of any shape to int64 bins."""
        ids = self.as_ids(ids, self.has_strings)
        return tf.cast(self._hash(ids), tf.int64)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_bins": self.num_bins,
            "has_strings": self.has_strings,
        }
