"""A feature that is encoded by a table of its own."""

from typing import Any

from keras_comet.models.embedder import Embedder
from keras_comet.models.feature import Feature


class EmbeddedFeature(Embedder, Feature):
    """Maps raw values to indices, and these to rows of a table.

    A subclass gives `num_ids`, the number of rows, and calls `embed`.

    Args:
        *args: what an `Embedder` takes.
        **kwargs: the same, and what a Keras layer takes.
    """

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        return (tuple(input_shape)[0], self.embedding_dim)
