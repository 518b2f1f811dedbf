"""Callback that searches permutations while a model is fitted."""

import os
from typing import Any

import tensorflow as tf

from keras_comet._keras import keras
from keras_comet.search import SearchReport
from keras_comet.search.search_batches import SearchBatches
from keras_comet.search.search_log import SearchLog
from keras_comet.search.searcher import Searcher


class LocalSearch(keras.callbacks.Callback):
    """Searches the permutations of the gates inside of `Model.fit`.

    Every `interval` updates, while the search is on, takes one batch of
    `search_data` and swaps experts as long as that lowers the loss of that
    batch (`LocalSearchOptimizer.search`). The model must be compiled with a
    `LocalSearchOptimizer`. With the method `"sinkhorn"`, which searches by
    itself, it only writes the logs. `Trainer` adds this callback by itself.

    Which batch is taken depends on the number of the update alone, so that a
    training that is resumed searches as an uninterrupted one does.

    Args:
        search_data: `tf.data.Dataset` of batches `(x, y)` or `(x, y,
            sample_weight)`, in an order that does not change. Take training
            data: what chooses the permutations cannot validate them.
            Large batches tell real gains from luck.
        interval: int. Number of updates between two searches. Defaults to
            `200`.
        max_evaluations: int. Most candidates a search may try, or `None`.
            Defaults to `32`.
        max_seconds: float. Most seconds a search may take, or `None`: the
            result depends on the machine then. Defaults to `None`.
        log_dir: str or path. Directory for TensorBoard. Defaults to `None`:
            no logs.

    Attributes:
        reports: dict from update to `SearchReport`.

    Raises:
        ValueError: If `interval` is below 1, the data is no
            `tf.data.Dataset`, endless or empty, or the model is not compiled
            with a `LocalSearchOptimizer`.

    Example:

    ```python
    import keras
    import numpy as np
    import tensorflow as tf
    import keras_comet

    gate = keras_comet.HashGate(
        4, permutation=keras_comet.ExpertPermutation(4)
    )
    ids, features = keras.Input((), dtype="int64"), keras.Input((3,))
    experts = [keras.layers.Dense(1) for _ in range(4)]
    outputs = keras_comet.MixtureOfExperts(experts, gate)((features, ids))
    model = keras.Model([ids, features], outputs)
    optimizer = keras_comet.LocalSearchOptimizer("adam", search_steps=8)
    model.compile(optimizer, loss="mse")
    x = (np.arange(64), np.ones((64, 3), "float32"))
    data = tf.data.Dataset.from_tensor_slices((x, np.ones((64, 1)))).batch(16)
    search = keras_comet.LocalSearch(data, interval=4)
    model.fit(data, epochs=2, callbacks=[search], verbose=0)
    search.reports[4].loss_after
    ```
    """

    def __init__(
        self,
        search_data: tf.data.Dataset,
        interval: int = 200,
        max_evaluations: int | None = 32,
        max_seconds: float | None = None,
        log_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        self.search_data = search_data
        self.interval = interval
        self.max_evaluations = max_evaluations
        self.max_seconds = max_seconds
        self.log_dir = log_dir
        self.reports: dict[int, SearchReport] = {}
        self._batches = SearchBatches(search_data, interval)
        self._searcher: Any = None
        self._log: SearchLog | None = None
        self._step = 0

    def on_train_begin(self, logs: Any = None) -> None:
        self._searcher = Searcher(
            self.model, self.max_evaluations, self.max_seconds
        )
        self._step = self._searcher.count_steps()
        if self.log_dir is not None:
            self._log = SearchLog(self.log_dir)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        optimizer = self._searcher.optimizer
        before, self._step = self._step, self._searcher.count_steps()
        if self._step > optimizer.search_steps or not self._batches.is_due(
            before, self._step
        ):
            return
        report = None
        if optimizer.method == "exchange":
            report = self._searcher.search(self._batches.at(self._step))
            self.reports[self._step] = report
        if self._log is not None:
            self._log.write(self._step, self._searcher.permutations, report)

    def on_train_end(self, logs: Any = None) -> None:
        if self._log is not None:
            self._log.write(self._step, self._searcher.permutations, None)
            self._log.close()
            self._log = None
