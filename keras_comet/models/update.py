"""One update of a compiled model, the same under either Keras."""

from typing import Any

import tensorflow as tf

from keras_comet._keras import KERAS_3
from keras_comet.models.compiled_loss import compute_loss


def update(model: Any, x: Any, y: Any, weights: Any) -> Any:
    """Updates a model by one batch.

    A model may have a method `check_gradients`, which a step ends with.

    Args:
        model: Keras model, compiled.
        x: its inputs.
        y: the labels.
        weights: sample weights, or `None`.

    Returns:
        The outputs, before the update.
    """
    optimizer = model.optimizer
    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        outputs = model(x, training=True)
        loss = compute_and_count_loss(
            model, x, y, outputs, weights, training=True
        )
        if KERAS_3:
            loss = optimizer.scale_loss(loss)
    if KERAS_3:
        gradients = tape.gradient(loss, variables)
    else:
        # The optimizer's own, which undoes a scale of the loss. Legacy
        # optimizers have it under another name.
        compute = (
            getattr(optimizer, "compute_gradients", None)
            or optimizer._compute_gradients
        )
        pairs = compute(loss, variables, tape=tape)
        gradients = [gradient for gradient, _ in pairs]
    checked = []
    if hasattr(model, "check_gradients"):
        gradients = model.check_gradients(gradients)
        checked = [
            each
            for each in tf.nest.flatten(gradients, expand_composites=True)
            if each is not None
        ]
    # The count of updates depends on no gradient.
    with tf.control_dependencies(checked):
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
    return outputs


def compute_and_count_loss(
    model: Any, x: Any, y: Any, outputs: Any, weights: Any, training: bool
) -> tf.Tensor:
    """Returns the loss of a batch, and adds it to the running mean.

    Args:
        model: Keras model, compiled.
        x: its inputs.
        y: the labels.
        outputs: what the model returned.
        weights: sample weights, or `None`.
        training: bool.

    Returns:
        A scalar tensor.
    """
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
