"""One update of any compiled model, on any number of replicas."""

from typing import Any

import tensorflow as tf

from keras_comet._keras import KERAS_3
from keras_comet.models.compiled_loss import compute_loss
from keras_comet.models.compiled_loss import unpack_batch


def build_for_training(model: Any, batch: Any) -> None:
    """Makes all variables of a compiled model, by evaluating it once.

    Args:
        model: Keras model, compiled.
        batch: tuple `(x, y)` or `(x, y, sample_weight)`.
    """

    def evaluate() -> None:
        x, y, weights = unpack_batch(model, batch)
        outputs = model(x, training=False)
        _compute_and_count_loss(model, x, y, outputs, weights, training=False)
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
    optimizer = model.optimizer
    variables = model.trainable_variables
    x, y, weights = unpack_batch(model, _own_rows(batch))
    with tf.GradientTape() as tape:
        outputs = model(x, training=True)
        loss = _compute_and_count_loss(
            model, x, y, outputs, weights, training=True
        )
        if KERAS_3:
            loss = optimizer.scale_loss(loss)
    if KERAS_3:
        optimizer.apply(tape.gradient(loss, variables), variables)
    else:
        optimizer.minimize(loss, variables, tape=tape)
        # What the callbacks of Keras 2 count by.
        model._train_counter.assign_add(1)
    model.compute_metrics(x, y, outputs, weights)


def _compute_and_count_loss(
    model: Any, x: Any, y: Any, outputs: Any, weights: Any, training: bool
) -> tf.Tensor:
    loss = compute_loss(model, x, y, outputs, weights, training)
    if not KERAS_3:
        return loss
    # Keras 3 leaves the running mean of the loss to the training step.
    for metric in model.metrics:
        if metric.name == "loss":
            metric.update_state(
                loss * model.distribute_strategy.num_replicas_in_sync,
                sample_weight=tf.shape(tf.nest.flatten(x)[0])[0],
            )
    return loss


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
