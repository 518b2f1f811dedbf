"""A feature with one id in each row, which gates can route by."""

from typing import Any

import tensorflow as tf

from keras_comet.models.embedded_feature import EmbeddedFeature


class SingleIdFeature(EmbeddedFeature):
    """Looks one id up in each row, and embeds it.

    A subclass gives `has_strings`, and `find_indices`, which maps ids to
    indices.
    """

    gives_ids = True

    has_strings: bool

    @property
    def input_spec_for_serving(self) -> tf.TensorSpec:
        """What a served model expects for this feature."""
        return tf.TensorSpec(
            [None], tf.string if self.has_strings else tf.int64
        )

    def find_indices(self, ids: tf.Tensor) -> tf.Tensor:
        """Maps ids of any shape to int64 indices."""
        raise NotImplementedError(
            f"{type(self).__name__} must have `find_indices`."
        )

    def lookup(self, ids: tf.Tensor) -> tf.Tensor:
        """Maps ids to `0 ... num_ids - 1`, the same in every process.

        Args:
            ids: string or integer tensor `(batch,)` or `(batch, 1)`.

        Returns:
            An int64 tensor `(batch,)`; unknown ids get the first indices.
        """
        return self.find_indices(self.as_rows(ids)[:, 0])

    def call(
        self,
        ids: tf.Tensor,
        return_indices: bool = False,
        training: bool | None = None,
    ) -> Any:
        indices = self.lookup(ids)
        embeddings = self.embed(indices, training)
        return (embeddings, indices) if return_indices else embeddings
