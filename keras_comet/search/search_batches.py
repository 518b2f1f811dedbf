"""Which batch a search looks at, and when there is one."""

from typing import Any

import tensorflow as tf


class SearchBatches:
    """Batches for searches, one for every so many updates, around and around.

    When a search is due, and on which batch, depends on the numbers of the
    updates alone: a training that is resumed searches as if it had not been
    interrupted.

    Args:
        data: `tf.data.Dataset` of batches, finite, in an order that does not
            change.
        interval: int. Updates between two searches.
        search_steps: int. The last update after which one may be due.
    """

    def __init__(
        self, data: tf.data.Dataset, interval: int, search_steps: int
    ) -> None:
        if interval < 1:
            raise ValueError(
                "The interval between searches must be at least 1 update. "
                f"Received: {interval}"
            )
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
        self._search_steps = search_steps

    def is_due(self, before: int, after: int) -> bool:
        """Whether a search is due after an update, or several at once."""
        return (
            after // self._interval > before // self._interval
            and after <= self._search_steps
        )

    def at(self, step: int) -> Any:
        """The batch for the search after this number of updates."""
        index = (step // self._interval - 1) % self._num_batches
        [batch] = self._data.skip(index).take(1)
        return batch
