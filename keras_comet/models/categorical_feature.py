"""A categorical feature: raw ids to embeddings."""

from keras_comet._keras import serializable
from keras_comet.models.single_id_feature import SingleIdFeature
from keras_comet.models.vocabulary_feature import VocabularyFeature


@serializable
class CategoricalFeature(VocabularyFeature, SingleIdFeature):
    """Looks ids up in a vocabulary and embeds them.

    Ids that the vocabulary does not have share an embedding, so that a served
    model answers for users and items that are new. As training data holds
    known ids alone, as a rule, training takes some of these for unknown ones,
    or that embedding would stay as it was drawn.

    TensorFlow's lookup tables have no kernel for XLA: do not compile a model
    with this layer with `jit_compile=True`, or look ids up in its data.

    Args:
        vocabulary: the known ids, as in `EmbeddingTable`, or such a table,
            which other features may share.
        embedding_dim: int. Width of the embedding. Defaults to `None`: 32, or
            that of the shared table.
        **kwargs: `embeddings`, `embeddings_initializer`,
            `embeddings_regularizer`, `unknown_rate`, `num_oov_ids` and
            `seed`, as in `EmbeddingTable`, and what a Keras layer takes.

    Attributes:
        table: the `EmbeddingTable`.

    Call arguments:
        ids: string or integer tensor, as the vocabulary.
        return_indices: bool. Whether to return what `lookup` does as well:
            that of the true ids, in training too. Defaults to `False`.
        training: bool. Some ids are taken for unknown ones when true, unless
            the table is frozen.

    Input shape:
        `(batch,)` or `(batch, 1)`.

    Output shape:
        `(batch, embedding_dim)`; with `return_indices=True` a tuple of it
        and `(batch,)`.

    Raises:
        ValueError: If the vocabulary is empty, has duplicates, or holds
            anything but strings or integers, a number is out of its range, or
            ids have another shape or type.

    Example:

    ```python
    import tensorflow as tf
    import keras_comet

    feature = keras_comet.CategoricalFeature(["ann", "bob"], embedding_dim=4)
    feature(tf.constant(["bob", "somebody new"])).shape  # (2, 4)
    ```
    """

    remedy = "For several ids in a row, use a MultiCategoricalFeature."
