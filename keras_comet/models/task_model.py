"""A model whose losses, metrics and weights belong to its tasks."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_comet._keras import KERAS_3
from keras_comet._keras import keras
from keras_comet.containers import LayerDict
from keras_comet.models.check_tasks import check_loss_balance
from keras_comet.models.compiled_loss import unpack_batch
from keras_comet.models.finite import require_finite
from keras_comet.models.finite import require_finite_gradients
from keras_comet.models.keep_weights import keep_weights
from keras_comet.models.node_name import by_node_name
from keras_comet.models.node_name import node_name
from keras_comet.models.raw_data import check_weights
from keras_comet.models.raw_data_model import RawDataModel
from keras_comet.models.task import Task
from keras_comet.models.task_loss import TaskLoss
from keras_comet.models.task_uncertainty import TaskUncertainty
from keras_comet.models.update import update


class TaskModel(RawDataModel):
    """Trains on labels by task, of which some may be missing.

    A subclass returns a dict from task name to predictions.

    Args:
        tasks: list of `Task`.
        loss_balance: str. `"uncertainty"`, or `None` for fixed weights.
        **kwargs: what a Keras model takes.
    """

    def __init__(
        self, tasks: Sequence[Task], loss_balance: str | None, **kwargs: Any
    ) -> None:
        check_loss_balance(loss_balance, tasks)
        super().__init__(**kwargs)
        self._tasks = {task.name: task for task in tasks}
        self.loss_balance = loss_balance
        self.uncertainties = LayerDict(
            {
                task.name: TaskUncertainty(
                    task.weight, name=node_name(f"{task.name}_uncertainty")
                )
                for task in (tasks if loss_balance else ())
            },
            dtype=self.dtype_policy,
            name="uncertainties",
        )

    @property
    def tasks(self) -> list[Task]:
        """The tasks, in the order given."""
        return list(self._tasks.values())

    def compile(self, optimizer: Any = "adam", **kwargs: Any) -> None:
        """Sets the optimizer; losses, metrics and weights are the tasks'.

        Args:
            optimizer: Keras optimizer, or its name. Defaults to `"adam"`.
            **kwargs: `run_eagerly`, `steps_per_execution`, `jit_compile`, as
                in `keras.Model.compile`.

        Raises:
            ValueError: If losses, metrics or weights are given here.
        """
        owned = {"loss", "loss_weights", "metrics", "weighted_metrics"}
        if owned & set(kwargs):
            raise ValueError(
                "Losses, metrics and weights belong to the tasks: set them on "
                f"`Task`. Received: {sorted(owned & set(kwargs))}"
            )
        self._compile_arguments = dict(kwargs)
        with self.distribute_strategy.scope():
            self._task_losses = {
                t.name: TaskLoss(t.loss, node_name(t.name)) for t in self.tasks
            }
        super().compile(
            optimizer=optimizer,
            loss=by_node_name(self._task_losses),
            loss_weights=by_node_name(
                {
                    t.name: self.uncertainties[t.name].loss_weight()
                    if self.loss_balance
                    else t.weight
                    for t in self.tasks
                }
            ),
            # Weighted, so that missing labels do not count.
            weighted_metrics=by_node_name(
                {t.name: list(t.metrics) for t in self.tasks}
            ),
            **kwargs,
        )

    @property
    def metrics(self) -> list[Any]:
        """Those of Keras, but for the loss of a task: a mean over its labels.

        Keras' own is the mean over the batches, where a batch without a label
        of the task counts as a loss of 0. For a single task it has none.
        """
        losses = getattr(self, "_task_losses", {}).values()
        means = {loss.mean.name: loss.mean for loss in losses}
        found = [means.pop(each.name, each) for each in super().metrics]
        return [*found, *means.values()]

    def train_step(self, data: Any) -> Any:
        x, y, weights = unpack_batch(self, data)
        outputs = update(self, x, y, weights)
        return self.compute_metrics(x, y, outputs, weights)

    def test_step(self, data: Any) -> Any:
        return super().test_step(self.apply_label_mask(data))

    def check_gradients(self, gradients: Sequence[Any]) -> list[Any]:
        """Ends a step whose gradients are not finite, before it does harm."""
        return require_finite_gradients(
            self.optimizer, gradients, self.trainable_variables
        )

    def apply_label_mask(self, data: Any) -> Any:
        """Gives examples without a label the weight 0, for each task."""
        features, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
        if not isinstance(labels, Mapping) or set(labels) != set(self._tasks):
            received = (
                sorted(labels) if isinstance(labels, Mapping) else type(labels)
            )
            raise ValueError(
                "Labels must be a dict with one entry for each task. "
                f"Expected: {sorted(self._tasks)}. Received: {received}"
            )
        check_weights(weights, self._tasks)
        if not isinstance(weights, Mapping):
            weights = dict.fromkeys(self._tasks, weights)
        new_labels = {}
        new_weights = {}
        for name, task in self._tasks.items():
            label = tf.convert_to_tensor(labels[name])
            mask = task.label_mask(label)
            if task.only_if is not None:
                mask &= self._tasks[task.only_if].positive_mask(
                    tf.convert_to_tensor(labels[task.only_if])
                )
            weight = tf.cast(mask, tf.float32)
            if weights.get(name) is not None:
                given = tf.cast(weights[name], tf.float32)
                weight *= tf.reshape(given, tf.shape(weight))
                mask &= weight != 0.0
            if label.shape.rank == 1 and task.units == 1:
                label = label[:, tf.newaxis]
            mask = tf.reshape(mask, [-1] + [1] * (label.shape.rank - 1))
            label = tf.where(mask, label, tf.zeros_like(label))
            if label.dtype.is_floating:
                label = require_finite(
                    label,
                    f"The labels of task {name!r}",
                    "If NaN says that there is none, set missing_label=nan.",
                )
            new_labels[name] = label
            new_weights[name] = require_finite(
                weight, f"The sample weights of task {name!r}", "Use 0."
            )
        return features, new_labels, new_weights

    def load_weights(self, filepath: Any, *args: Any, **kwargs: Any) -> Any:
        """Reads weights, or leaves those of the model as they are.

        A bit that changed in the numbers of a `.weights.h5` file is not seen,
        as it has no checksums; `.keras` files and checkpoints have them.

        Args:
            filepath: str or path.
            *args: as in `keras.Model.load_weights`.
            **kwargs: as in `keras.Model.load_weights`.

        Raises:
            ValueError: If the file is damaged, or of another model.
        """
        with keep_weights(self, filepath):
            return super().load_weights(filepath, *args, **kwargs)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        arguments = {"training": training} if KERAS_3 else {}
        named = map(by_node_name, (y, y_pred, sample_weight))
        return super().compute_loss(x, *named, **arguments)

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> Any:
        named = map(by_node_name, (y, y_pred, sample_weight))
        return super().compute_metrics(x, *named)

    def get_compile_config(self) -> dict[str, Any] | None:
        if getattr(self, "_compile_arguments", None) is None:
            return None
        return {
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            **self._compile_arguments,
        }

    def compile_from_config(self, config: dict[str, Any]) -> None:
        config = dict(config)
        optimizer = keras.saving.deserialize_keras_object(
            config.pop("optimizer")
        )
        self.compile(optimizer=optimizer, **config)
        # Its variables must exist before their saved values are read.
        optimizer.build(self.trainable_variables)
