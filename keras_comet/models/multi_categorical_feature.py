"""A categorical feature with several ids in a row."""

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from keras_comet._keras import serializable
from keras_comet.models.vocabulary_feature import VocabularyFeature


@serializable
class MultiCategoricalFeature(VocabularyFeature):
    """Embeds any number of ids in each row, and combines the embeddings.

    For what an example has several of, such as genres, or the last items that
    a user bought. A row without ids is encoded as zeros. Unknown ids are
    treated as by `CategoricalFeature`.

    Args:
        vocabulary: strings, bytes or integers, all different: the known ids,
            as a list, a set (which is sorted), an array or a tensor.
        embedding_dim: int. Width of the embedding. Defaults to `32`.
        embeddings_initializer: initializer of the table. Defaults to
            `"uniform"`.
        embeddings_regularizer: regularizer of the table. Defaults to `None`.
        unknown_rate: float. Share of the ids that training takes for unknown
            ones. Defaults to `0.01`.
        num_oov_ids: int. Number of embeddings for unknown ids, which are
            hashed to them. Defaults to `1`.
        seed: int, or `None` for a random one. Seeds the choice of the ids that
            training takes for unknown ones. Defaults to `None`.
        combiner: str. `"mean"` or `"sum"` of the embeddings of a row. Defaults
            to `"mean"`.
        padding_value: str or int. What fills short rows up, and is no id.
            Defaults to `None`: `""` for strings, and 0 for integers.

    Attributes:
        seed_state: int32 variable `(2,)`, not trainable; unless
            `unknown_rate` is 0.

    Call arguments:
        ids: string or integer tensor, as the vocabulary, or `RaggedTensor`.
        training: bool. Some ids are taken for unknown ones when true, unless
            the feature is frozen.

    Input shape:
        `(batch, length)`, of any length.

    Output shape:
        `(batch, embedding_dim)`.

    Raises:
        ValueError: If the vocabulary is empty, has duplicates, or holds the
            padding or anything but strings or integers, an argument is out of
            its range, or ids have another shape or type.

    Example:

    ```python
    import tensorflow as tf
    import keras_comet

    genres = keras_comet.MultiCategoricalFeature(["drama", "crime"], 4)
    genres(tf.constant([["crime", "drama"], ["drama", ""]])).shape  # (2, 4)
    ```
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
        combiner: str = "mean",
        padding_value: str | int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            vocabulary,
            embedding_dim,
            embeddings_initializer,
            embeddings_regularizer,
            unknown_rate,
            num_oov_ids,
            seed,
            **kwargs,
        )
        if combiner not in ("mean", "sum"):
            raise ValueError(
                "`combiner` must be 'mean' or 'sum'. "
                f"Received: combiner={combiner!r}"
            )
        if padding_value is None:
            padding_value = "" if self.has_strings else 0
        legal = isinstance(padding_value, str) == self.has_strings
        if not legal or padding_value in self._known:
            raise ValueError(
                "`padding_value` must be of the type of the vocabulary, and "
                "not in it: it fills rows up, and is no id. Received: "
                f"padding_value={padding_value!r}"
            )
        self.combiner = combiner
        self.padding_value = padding_value

    @property
    def input_spec_for_serving(self) -> tf.TensorSpec:
        """What a served model expects for this feature."""
        return tf.TensorSpec(
            [None, None], tf.string if self.has_strings else tf.int64
        )

    def call(self, ids: tf.Tensor, training: bool | None = None) -> tf.Tensor:
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
        embeddings = self.embed(self.find_indices(ids), training)
        counted = tf.cast(is_id, embeddings.dtype)[..., tf.newaxis]
        # (batch, length, embedding_dim) to (batch, embedding_dim)
        combined = tf.reduce_sum(embeddings * counted, axis=1)
        if self.combiner == "sum":
            return combined
        return tf.math.divide_no_nan(combined, tf.reduce_sum(counted, axis=1))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "combiner": self.combiner,
            "padding_value": self.padding_value,
        }
