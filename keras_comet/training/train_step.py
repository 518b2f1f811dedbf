"""One update of any compiled model, on any number of replicas."""

from typing import Any

import tensorflow as tf

from keras_comet._keras import KERAS_3
from keras_comet.models.compiled_loss import unpack_batch
from keras_comet.models.update import compute_and_count_loss
from keras_comet.models.update import update


def build_for_training(model: Any, batch: Any) -> None:
    """Makes all variables of a compiled model, by evaluating it once.

    Args:
        model: Keras model, compiled.
        batch: tuple `(x, y)` or `(x, y, sample_weight)`.
    """

    def evaluate() -> None:
        x, y, weights = unpack_batch(model, batch)
        outputs = model(x, training=False)
        compute_and_count_loss(model, x, y, outputs, weights, training=False)
        model.compute_metrics(x, y, outputs, weights)

    model.distribute_strategy.run(evaluate)
    model.optimizer.build(model.trainable_variables)
    model.reset_metrics()


def train_step(model: Any, batch: Any) -> None:
    """Updates a model by one batch; for one replica, by its rows.

    Args:
        model: Keras model, compiled and built.
        batch: tuple `(x, y)` or `(x, y, sample_weight)`, of all replicas.
    """
    x, y, weights = unpack_batch(model, _own_rows(batch))
    outputs = update(model, x, y, weights)
    if not KERAS_3:
        # What the callbacks of Keras 2 count by.
        model._train_counter.assign_add(1)
    model.compute_metrics(x, y, outputs, weights)


def _own_rows(batch: Any) -> Any:
    """The rows that are this replica's, as all replicas get the batch."""
    context = tf.distribute.get_replica_context()
    count = context.num_replicas_in_sync
    if count == 1:
        return batch
    index = context.replica_id_in_sync_group
    rows = tf.shape(tf.nest.flatten(batch)[0])[0]
    # Never none, if there are as many rows as replicas.
    begin, end = rows * index // count, rows * (index + 1) // count
    return tf.nest.map_structure(lambda values: values[begin:end], batch)
