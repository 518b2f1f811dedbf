"""A feature with one id in each row, which gates can route by."""

from typing import Any

import tensorflow as tf

from keras_comet.models.feature import Feature


class SingleIdFeature(Feature):
    """Looks one id up in each row, and embeds it.

    Goes with a class that has `embed`, and gives `has_strings` and
    `find_indices`, which maps ids to indices.
    """

    gives_ids = True

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

    def embed(
        self, indices: tf.Tensor, training: bool | None = None
    ) -> tf.Tensor:
        """Looks indices of any shape up in a table."""
        raise NotImplementedError(f"{type(self).__name__} must have `embed`.")

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
