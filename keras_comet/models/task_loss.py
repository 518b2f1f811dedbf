"""The loss of one task: a mean over the examples that have a label."""

from typing import Any

import tensorflow as tf

from keras_comet._keras import KERAS_3
from keras_comet._keras import keras
from keras_comet.ops.replica_mean import replica_mean


class _RunningMean(keras.metrics.Mean):
    """Is left out of files, where Keras puts what it finds in a loss."""

    def save_own_variables(self, store: Any) -> None:
        del store

    def load_own_variables(self, store: Any) -> None:
        del store


class TaskLoss(keras.losses.Loss):
    """`sum_b w_b l_b / sum_b w_b`, and 0 when all weights are 0.

    Keras would divide by the size of the batch instead, so that a task with
    few labels would count less; an example without a label has weight 0. The
    sums are over the examples of all replicas.

    Args:
        loss: str, function or Keras `Loss` that gives one value per example.
        name: str.

    Attributes:
        mean: Keras metric. The same over the examples of all batches, where
            the mean of the batches would count a label less the more there
            are beside it.
    """

    def __init__(self, loss: Any, name: str) -> None:
        super().__init__(name=name)
        loss = keras.losses.get(loss)
        self._per_example = (
            loss.call if isinstance(loss, keras.losses.Loss) else loss
        )
        self.mean = _RunningMean(name=f"{name}_loss")

    def __call__(
        self,
        y_true: tf.Tensor,
        y_pred: tf.Tensor,
        sample_weight: tf.Tensor | None = None,
    ) -> tf.Tensor:
        values = tf.cast(self._per_example(y_true, y_pred), tf.float32)
        # Not by a reshape, which does without rows what it cannot infer.
        values = tf.reduce_mean(values, axis=list(range(1, values.shape.rank)))
        weights = tf.ones_like(values)
        if sample_weight is not None:
            weights *= tf.reshape(tf.cast(sample_weight, tf.float32), [-1])
        self.mean.update_state(values, sample_weight=weights)
        loss = replica_mean(
            tf.reduce_sum(values * weights), tf.reduce_sum(weights)
        )
        if KERAS_3:
            # Keras 2 divides among the replicas by itself.
            loss /= tf.distribute.get_strategy().num_replicas_in_sync
        return loss
