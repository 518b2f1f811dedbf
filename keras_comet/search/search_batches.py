"""The batches of data that searches look at."""

from typing import Any

import tensorflow as tf


class SearchBatches:
    """Cycles through the search data, one batch every `interval` updates.

    When a search is due, and on which batch, depends on the numbers of the
    updates alone: a training that is resumed searches as if it had not been
    interrupted.

    Args:
        data: `tf.data.Dataset` of batches, finite, in an order that does not
            change.
        interval: int. Updates between two searches.

    Raises:
        ValueError: If `interval` is below 1, or the data is no
            `tf.data.Dataset`, endless or empty.
    """

    def __init__(self, data: tf.data.Dataset, interval: int) -> None:
        if interval < 1:
            raise ValueError(
                "The interval between searches must be at least 1 update. "
                f"Received: {interval}"
            )
        check_dataset(data, "Search data")
        self._num_batches = int(data.cardinality())
        if self._num_batches < 1:
            raise ValueError(
                "The search data must have at least one batch, and a known "
                f"number of them. Received: {data}, cardinality "
                f"{self._num_batches}. Drop `repeat()`, or say how many by "
                "`tf.data.experimental.assert_cardinality`."
            )
        self._data = data
        self._interval = interval

    def is_due(self, before: int, after: int) -> bool:
        """Whether a search is due after an update, or several at once.

        Args:
            before: int. Number of updates before.
            after: int. Number of updates now.
        """
        return after // self._interval > before // self._interval

    def at(self, step: int) -> Any:
        """Returns the batch for the search after this number of updates."""
        index = (step // self._interval - 1) % self._num_batches
        [batch] = self._data.skip(index).take(1)
        return batch


def check_dataset(data: Any, title: str) -> None:
    """Refuses data that is no data set of batches.

    Args:
        data: what was given.
        title: str. What it is, to begin a sentence with.

    Raises:
        ValueError: If it is no `tf.data.Dataset`.
    """
    if not isinstance(data, tf.data.Dataset):
        raise ValueError(
            f"{title} must be a `tf.data.Dataset` of batches, for example "
            "`tf.data.Dataset.from_tensor_slices((x, y)).batch(512)`. "
            f"Received: {type(data)}"
        )
