"""Training loop with local search and checkpoints."""

import os
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_comet._keras import keras
from keras_comet.callbacks import LocalSearch
from keras_comet.models.several_workers import check_workers
from keras_comet.search import SearchReport
from keras_comet.search.search_batches import check_dataset
from keras_comet.search.searcher import find_local_search
from keras_comet.training.checkpoints import Checkpoints
from keras_comet.training.checkpoints import Progress
from keras_comet.training.train_step import build_for_training
from keras_comet.training.train_step import train_step
from keras_comet.training.workers import check_no_parameter_servers
from keras_comet.training.workers import check_same_update


class Trainer:
    """Trains a compiled model, with local search and with checkpoints.

    For every batch, in this order:

    1. Forward pass with a gradient tape.
    2. Loss: the weighted sum of the losses of the tasks, over the examples
       that have a label, and of the regularizers of the gates.
    3. Gradients, and an update by the `LocalSearchOptimizer`: the inner
       optimizer, gradient clipping included, and Sinkhorn if that is its
       method.
    4. Every `search_interval` updates while the search is on, with the method
       `"exchange"`: swaps of experts on the next batch of the search data, by
       the callback `LocalSearch`, which comes before all others.

    and at the end of each epoch:

    5. Validation.

    On the same batches, weights and history are those of `Model.fit` (with
    the callback `LocalSearch`), but a `train_step` that a model overrides is
    not used. (`Model.fit` of Keras 3 shuffles twice for each epoch, so that
    data which is shuffled again and again comes in another order there.)
    Steps are compiled, not with XLA, and run under the strategy in whose
    scope the model was made: each batch is split among the replicas, and must
    have at least one row for each. `on_train_end` of the callbacks is called
    also after an exception, so that what they switch on they can switch off.

    **Resuming.** With a `checkpoint_dir`, `fit` begins at the newest
    checkpoint there, if any: killed at any step and started again, by the
    same program, it ends with the same weights, to the bit if TensorFlow is
    deterministic (`tf.config.experimental.enable_op_determinism()`).
    Several workers (`tf.distribute.MultiWorkerMirroredStrategy`) are each given
    the same batches, and the same directory: the chief alone writes there.
    What callbacks remember is not in a checkpoint. Under Keras 2, call
    `tf_keras.backend.experimental.enable_tf_random_generator()` before layers
    like `Dropout` are made, or their random state cannot be saved. If a
    checkpoint cannot be written, as the disk is full for example, training
    goes on after a warning; if the newest one cannot be read, a warning names
    it, and the one before is used.

    Reference:
    - [Ibrahim et al., 2023](https://arxiv.org/abs/2306.02824), Section 4; for
      the departures see `LocalSearchOptimizer`.

    Args:
        model: Keras model, compiled. It may have any optimizer; what is said
            about the search needs a `LocalSearchOptimizer`.
        search_data: `tf.data.Dataset` of batches, as in `LocalSearch`, for
            the method `"exchange"`. Defaults to `None`.
        search_interval: int. Number of updates between two searches. Defaults
            to `200`.
        max_evaluations: int. Most candidates a search may try, or `None`.
            Defaults to `32`.
        checkpoint_dir: str or path. Directory for checkpoints. Defaults to
            `None`: none are written.
        checkpoint_interval: int. Number of updates between two checkpoints,
            besides the one after each epoch. Defaults to `None`: no others.
        max_checkpoints: int. Number of checkpoints to keep. Defaults to `3`.

    Attributes:
        reports: dict from update to `SearchReport`.

    Raises:
        ValueError: If the model is not compiled, or made for parameter
            servers, a number is below 1, or search data is missing, is no
            `tf.data.Dataset`, has an unknown number of batches, or there is
            no `LocalSearchOptimizer` to use it.

    Example:

    ```python
    import tempfile
    import keras
    import numpy as np
    import tensorflow as tf
    import keras_comet

    gate = keras_comet.TopKGate(
        4, permutation=keras_comet.ExpertPermutation(4)
    )
    experts = [keras.layers.Dense(1) for _ in range(4)]
    model = keras.Sequential([keras_comet.MixtureOfExperts(experts, gate)])
    optimizer = keras_comet.LocalSearchOptimizer("adam", search_steps=8)
    model.compile(optimizer, loss="mse")
    x = np.ones((64, 3), "float32")
    data = tf.data.Dataset.from_tensor_slices((x, x[:, :1])).batch(16)
    trainer = keras_comet.Trainer(
        model,
        search_data=data,
        search_interval=4,
        checkpoint_dir=tempfile.mkdtemp(),
    )
    history = trainer.fit(data, epochs=3, validation_data=data, verbose=0)
    trainer.reports[4].loss_after
    ```
    """

    def __init__(
        self,
        model: Any,
        search_data: tf.data.Dataset | None = None,
        search_interval: int = 200,
        max_evaluations: int | None = 32,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        checkpoint_interval: int | None = None,
        max_checkpoints: int = 3,
    ) -> None:
        if getattr(model, "optimizer", None) is None:
            raise ValueError(
                "The model must be compiled: call `model.compile` before. "
                f"Received: {model!r}"
            )
        check_no_parameter_servers(model)
        for name, value in (
            ("checkpoint_interval", checkpoint_interval),
            ("max_checkpoints", max_checkpoints),
        ):
            if value is not None and value < 1:
                raise ValueError(
                    f"`{name}` must be at least 1. Received: {name}={value}"
                )
        self.model = model
        self._own_callbacks: list[LocalSearch] = []
        self._progress = Progress()
        if _searches_by_exchange(model, search_data):
            search = LocalSearch(search_data, search_interval, max_evaluations)
            self._own_callbacks.append(search)
            self._progress.reports = search.reports
        self._checkpoint_dir = checkpoint_dir
        self._checkpoint_interval = checkpoint_interval
        self._max_checkpoints = max_checkpoints
        self._checkpoints: Checkpoints | None = None
        self._is_built = False

    @property
    def reports(self) -> dict[int, SearchReport]:
        return self._progress.reports

    def fit(
        self,
        data: tf.data.Dataset,
        epochs: int = 1,
        validation_data: Any = None,
        callbacks: Sequence[Any] = (),
        verbose: int | str = "auto",
    ) -> Any:
        """Trains the model, or goes on where the newest checkpoint is.

        Args:
            data: `tf.data.Dataset` of batches `(x, y)` or `(x, y,
                sample_weight)`, finite. If the number of batches is unknown,
                they are counted before the training.
            epochs: int. Number of epochs, those before a checkpoint included.
                Defaults to `1`.
            validation_data: `tf.data.Dataset` of batches, or arrays `(x, y)`
                or `(x, y, sample_weight)`. Defaults to `None`.
            callbacks: list of Keras callbacks. Defaults to `()`.
            verbose: int. 0 for silence, 1 for a progress bar, 2 for a line
                for each epoch, or `"auto"` for 1. Defaults to `"auto"`.

        Returns:
            The `History`, epochs before a checkpoint included.

        Raises:
            ValueError: If the data is no `tf.data.Dataset`, endless, or
                empty; its position cannot be saved in a checkpoint; or the
                checkpoints are of another model or cannot be read.
        """
        model = self.model
        with model.distribute_strategy.scope():
            num_batches = _count_batches(data)
            if validation_data is not None:
                check_workers(
                    model,
                    "evaluate",
                    "Leave `validation_data` out, and evaluate the weights of "
                    "a checkpoint in a process of its own.",
                )
            batches = self._begin(data, num_batches)
            update = tf.function(
                self._update, input_signature=(data.element_spec,)
            )
            hooks = keras.callbacks.CallbackList(
                [*self._own_callbacks, *callbacks],
                add_history=True,
                add_progbar=verbose != 0,
                model=model,
                verbose=1 if verbose == "auto" else verbose,
                epochs=epochs,
                steps=num_batches,
            )
            logs: dict[str, Any] = {}
            model.stop_training = False
            try:
                hooks.on_train_begin()
                self._progress.continue_history(model.history)
                while self._progress.epoch < epochs and not model.stop_training:
                    logs = self._train_epoch(
                        update, batches, num_batches, validation_data, hooks
                    )
                model.optimizer.finalize_variable_values(
                    model.trainable_variables
                )
            finally:
                hooks.on_train_end(logs)
        return model.history

    def _train_epoch(
        self,
        update: Callable[[Any], dict[str, tf.Tensor]],
        batches: Iterator[Any],
        num_batches: int,
        validation_data: Any,
        hooks: Any,
    ) -> dict[str, Any]:
        model, progress = self.model, self._progress
        if progress.step == 0:
            model.reset_metrics()
        hooks.on_epoch_begin(progress.epoch)
        while progress.step < num_batches and not model.stop_training:
            hooks.on_train_batch_begin(progress.step)
            logs = update(next(batches))  # 1 to 3
            hooks.on_train_batch_end(progress.step, logs)  # 4
            progress.step += 1
            self._save_within_epoch(num_batches)
        is_whole = not model.stop_training
        logs = model.get_metrics_result()
        if validation_data is not None:
            logs.update(self._validate(validation_data, hooks))  # 5
        hooks.on_epoch_end(progress.epoch, logs)
        if is_whole:
            progress.finish_epoch(model.history)
            if self._checkpoints is not None:
                self._checkpoints.save(progress.epoch * num_batches)
        return logs

    def _update(self, batch: Any) -> dict[str, tf.Tensor]:
        model = self.model
        model.distribute_strategy.run(train_step, (model, batch))
        return model.get_metrics_result()

    def _begin(self, data: tf.data.Dataset, num_batches: int) -> Iterator[Any]:
        """Builds what is not built, and reads the newest checkpoint."""
        if not self._is_built:
            build_for_training(self.model, next(iter(data)))
            self._is_built = True
        batches = iter(data.repeat())
        self._progress = Progress(reports=self.reports)
        if self._checkpoint_dir is not None:
            self._checkpoints = Checkpoints(
                self._checkpoint_dir,
                self._max_checkpoints,
                self.model,
                batches,
                self._progress,
            )
            self._checkpoints.restore()
            check_same_update(
                self.model,
                self._progress.epoch * num_batches + self._progress.step,
            )
        return batches

    def _save_within_epoch(self, num_batches: int) -> None:
        step = self._progress.step
        update = self._progress.epoch * num_batches + step
        if (
            self._checkpoints is not None
            and self._checkpoint_interval is not None
            and update % self._checkpoint_interval == 0
            and step < num_batches
            and not self.model.stop_training
        ):
            self._checkpoints.save(update)

    def _validate(self, data: Any, hooks: Any) -> dict[str, float]:
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        logs = self.model.evaluate(
            x, y, sample_weight=weights, callbacks=hooks, return_dict=True
        )
        return {f"val_{name}": value for name, value in logs.items()}


def _searches_by_exchange(model: Any, search_data: Any) -> bool:
    """Whether `Trainer` is to search, as the optimizer does not by itself."""
    try:
        optimizer = find_local_search(model.optimizer)
    except ValueError:
        if search_data is not None:
            raise
        return False
    if optimizer.method != "exchange" or optimizer.search_steps == 0:
        return False
    if search_data is None:
        raise ValueError(
            "The method 'exchange' searches on batches of `search_data`. "
            "Give a `tf.data.Dataset` of training examples that is not "
            "shuffled, or switch the search off by search_steps=0. Received: "
            "search_data=None"
        )
    return True


def _count_batches(data: Any) -> int:
    check_dataset(data, "Training data")
    count = data.cardinality()
    if count == tf.data.UNKNOWN_CARDINALITY:
        count = data.reduce(tf.constant(0, tf.int64), lambda n, *_: n + 1)
    if count < 1:
        raise ValueError(
            "Training data must be finite, with at least one batch: an epoch "
            "is one pass over it. Drop `repeat()`, or say how many batches "
            f"make an epoch by `take(number)`. Received: {data}, of "
            f"cardinality {int(count)}"
        )
    return int(count)
