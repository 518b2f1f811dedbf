"""The batches that an analysis looks at."""

from collections.abc import Iterable
from typing import Any

import tensorflow as tf


def split_batches(data: Any, batch_size: int) -> Iterable[Any]:
    """Returns batches that can be read again and again.

    Args:
        data: `tf.data.Dataset` of batches, or a tuple of arrays, or of dicts,
            lists and tuples of arrays.
        batch_size: int. Rows to a batch of arrays.

    Raises:
        ValueError: If `data` is neither or endless, or `batch_size` below 1.
    """
    if isinstance(data, tf.data.Dataset):
        if data.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                "The data must end. Received: an endless tf.data.Dataset. "
                "Drop `repeat()`, or add `take(num_batches)`."
            )
        return data
    if not isinstance(data, tuple):
        raise ValueError(
            "The data must be a tf.data.Dataset of batches, or a tuple of "
            "arrays (x, y) or (x, y, sample_weight). Received: "
            f"{type(data).__name__}"
        )
    if batch_size < 1:
        raise ValueError(
            f"`batch_size` must be at least 1. Received: {batch_size=}"
        )
    num_rows = tf.nest.flatten(data)[0].shape[0]
    return [
        tf.nest.map_structure(
            lambda array, start=start: array[start : start + batch_size], data
        )
        for start in range(0, num_rows, batch_size)
    ]


def to_tensors(arrays: Any) -> Any:
    """Turns arrays, in any structure, into tensors."""
    return tf.nest.map_structure(
        lambda each: (
            each
            if isinstance(each, tf.RaggedTensor)
            else tf.convert_to_tensor(each)
        ),
        arrays,
    )


def first_inputs(inputs: Any) -> Any:
    """Takes the inputs of the first batch, if given a data set.

    Args:
        inputs: one batch of inputs, which is returned; or a `tf.data.Dataset`
            of inputs or of `(inputs, ...)`.

    Raises:
        ValueError: If the data set is empty.
    """
    if not isinstance(inputs, tf.data.Dataset):
        return inputs
    for batch in inputs.take(1):
        return batch[0] if isinstance(batch, tuple) else batch
    raise ValueError(
        "The data set must have at least one batch. "
        "Received: an empty tf.data.Dataset"
    )
