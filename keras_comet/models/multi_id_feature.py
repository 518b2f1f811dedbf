"""A feature with any number of ids in each row."""

from typing import Any

import tensorflow as tf

from keras_comet.models.vocabulary_feature import VocabularyFeature


class MultiIdFeature(VocabularyFeature):
    """Embeds the ids of each row, and tells them from padding.

    A subclass combines what `embed_rows` returns.

    Args:
        *args: what a `VocabularyFeature` takes.
        padding_value: str or int. What fills short rows up, and is no id.
            Defaults to `None`: `""` for strings, and 0 for integers.
        **kwargs: the same, and what a Keras layer takes.
    """

    def __init__(
        self,
        *args: Any,
        padding_value: str | int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if padding_value is None:
            padding_value = "" if self.has_strings else 0
        is_legal = isinstance(padding_value, str) == self.has_strings
        if not is_legal or padding_value in self.table.vocabulary:
            raise ValueError(
                "`padding_value` must be of the type of the vocabulary, and "
                "not in it: it fills rows up, and is no id. Received: "
                f"padding_value={padding_value!r}"
            )
        self.padding_value = padding_value

    @property
    def input_spec_for_serving(self) -> tf.TensorSpec:
        """What a served model expects for this feature."""
        return tf.TensorSpec(
            [None, None], tf.string if self.has_strings else tf.int64
        )

    def embed_rows(
        self, ids: Any, training: bool | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Embeds the ids of each row, padding among them.

        Args:
            ids: tensor `(batch, length)` or `RaggedTensor`.
            training: bool.

        Returns:
            Embeddings `(batch, length, embedding_dim)`, and a bool tensor
            `(batch, length)`, false for padding.
        """
        if isinstance(ids, tf.RaggedTensor):
            self.as_ids(ids.flat_values, self.has_strings)
            ids = ids.to_tensor(tf.cast(self.padding_value, ids.dtype))
        ids = tf.convert_to_tensor(ids)
        if ids.shape.rank != 2:
            raise ValueError(
                f"{self.title} takes ids of shape (batch, length). Received: "
                f"shape {tuple(ids.shape)}. For one id in each row, use a "
                "CategoricalFeature."
            )
        ids = self.as_ids(ids, self.has_strings)
        is_id = ids != tf.constant(self.padding_value, ids.dtype)
        return self.embed(self.find_indices(ids), training), is_id

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "padding_value": self.padding_value}
