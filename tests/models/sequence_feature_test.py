import numpy as np
import pytest
import tensorflow as tf

from keras_comet import SequenceFeature

ARGUMENTS = {"embedding_dim": 2, "unknown_rate": 0.0}

# The latest last; 0 is padding, and may be anywhere.
IDS = np.array([[5, 6, 7, 0], [0, 6, 0, 5], [0, 0, 0, 0], [7, 9, 5, 6]])


def make(**kwargs):
    """Row i of the table, which is 0 for unknown ids, is (i, i * i)."""
    feature = SequenceFeature([5, 6, 7], **ARGUMENTS, **kwargs)
    feature.build()
    rows = np.arange(4, dtype="float32")
    feature.table.set_weights([np.stack([rows, rows**2], axis=1)])
    return feature


def pool(rows, max_length, weigh):
    """What rows of ids become: a loop, from the definition."""
    pooled = np.zeros([len(rows), 2])
    for index, row in enumerate(rows):
        known = [row_of(each) for each in row if each][-max_length:]
        if known:
            vectors = np.array([[each, each**2] for each in known])
            ages = np.arange(len(known))[::-1]
            pooled[index] = weigh(vectors, ages) @ vectors
    return pooled


def row_of(raw_id):
    return {5: 1.0, 6: 2.0, 7: 3.0}.get(raw_id, 0.0)


def softmax(logits):
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


@pytest.mark.parametrize("max_length", [1, 2, 3, 10])
def test_histories_are_pooled_as_defined(max_length):
    query, bias = np.array([0.3, -0.2]), np.linspace(0.5, -1.0, max_length)

    def attend(vectors, ages):
        return softmax(vectors @ query / np.sqrt(2.0) + bias[ages])

    def average(vectors, ages):
        return np.full(len(ages), 1.0 / len(ages))

    for pooling, weigh in (("attention", attend), ("mean", average)):
        feature = make(max_length=max_length, pooling=pooling)
        if pooling == "attention":
            # Begins with the mean.
            np.testing.assert_allclose(
                feature(tf.constant(IDS)),
                pool(IDS, max_length, average),
                atol=1e-6,
            )
            feature.query.assign(query)
            feature.recency_bias.assign(bias)
        expected = pool(IDS, max_length, weigh)
        np.testing.assert_allclose(feature(IDS), expected, atol=1e-5)
        ragged = tf.ragged.constant([[i for i in row if i] for row in IDS])
        np.testing.assert_allclose(feature(ragged), expected, atol=1e-5)


def test_the_last_id_alone_is_read():
    feature = make(pooling="last", max_length=9)
    np.testing.assert_allclose(feature(IDS)[:, 0], [3.0, 1.0, 0.0, 2.0])


def test_what_is_not_read_gets_no_gradient():
    feature = make(max_length=2)
    table = feature.table
    with tf.GradientTape() as tape:
        embeddings = table(tf.constant(IDS[:1]))
        tape.watch(embeddings)
        loss = tf.reduce_sum(feature.pool(embeddings, tf.constant(IDS[:1]) > 0))
    gradient = tape.gradient(loss, embeddings).numpy()[0, :, 0]
    np.testing.assert_allclose(gradient, [0.0, 0.5, 0.5, 0.0], atol=1e-6)


@pytest.mark.parametrize("kwargs", [{"max_length": 0}, {"pooling": "max"}])
def test_bad_arguments_raise(kwargs):
    [(name, value)] = kwargs.items()
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        SequenceFeature([5], **kwargs)
