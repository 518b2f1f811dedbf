"""The loss of a model on a batch of search data, compiled."""

from typing import Any

import tensorflow as tf

from keras_comet.models.compiled_loss import compute_loss
from keras_comet.models.compiled_loss import unpack_batch


class SearchLoss:
    """Computes the loss of a batch by a forward pass of the model as it is.

    Compiled once for each shape of batches, and so is its gradient.

    Args:
        model: Keras model, compiled.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._compute = tf.function(self._compute_loss, reduce_retracing=True)

    def __call__(self, batch: Any) -> tf.Tensor:
        """Returns the loss, a scalar.

        Args:
            batch: tuple `(x, y)` or `(x, y, sample_weight)` of tensors.
        """
        return self._compute(batch)

    def _compute_loss(self, batch: Any) -> tf.Tensor:
        # Metrics of Keras can be updated by replicas only; all of them do
        # the same here. Each divides its loss by their number.
        strategy = self._model.distribute_strategy
        losses = strategy.run(self._compute_replica_loss, (batch,))
        loss = strategy.experimental_local_results(losses)[0]
        return loss * strategy.num_replicas_in_sync

    def _compute_replica_loss(self, batch: Any) -> tf.Tensor:
        x, y, weights = unpack_batch(self._model, batch)
        outputs = self._model(x, training=False)
        return compute_loss(self._model, x, y, outputs, weights, training=False)
