"""The loss of a compiled model as a function of its permutations."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_comet.gates.expert_permutation import ExpertPermutation
from keras_comet.ops.recall import recording
from keras_comet.ops.recall import replaying
from keras_comet.search.model_loss import compute_loss
from keras_comet.search.model_loss import unpack_batch

# Sums in another order differ in float32; other inputs differ by far more.
_TOLERANCE = 1e-4


class SearchLoss:
    """Computes the loss of a batch again and again, gates and experts once.

    Compiled, once for all batches of one shape. The gates' selectors and the
    outputs of all experts are computed when a batch comes, and only what
    follows them for each candidate. Where that does not give the same loss,
    as in a model with one mixture after the other, whole forward passes are
    made instead.

    Args:
        model: Keras model, compiled.
        permutations: list of `ExpertPermutation`, those that will change.
    """

    def __init__(
        self, model: Any, permutations: Sequence[ExpertPermutation]
    ) -> None:
        self._model = model
        self._permutations = permutations
        self._compute = tf.function(self._compute_loss)
        self._record = tf.function(self._record_loss)
        self._replay = tf.function(self._replay_loss)
        self._can_replay: bool | None = None

    def on(self, batch: Any) -> Callable[[], tf.Tensor]:
        """Returns the function that computes the loss of this batch.

        Args:
            batch: tuple `(x, y)` or `(x, y, sample_weight)` of tensors.
        """
        if self._can_replay is not False:
            _, results = self._record(batch)
            if self._can_replay is None:
                self._can_replay = self._check_replay(batch, results)
            if self._can_replay:
                return lambda: self._replay(batch, results)
        return lambda: self._compute(batch)

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

    def _record_loss(self, batch: Any) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with recording() as results:
            loss = self._compute_loss(batch)
        return loss, results

    def _replay_loss(
        self, batch: Any, results: Sequence[tf.Tensor]
    ) -> tf.Tensor:
        with replaying(results):
            return self._compute_loss(batch)

    def _check_replay(self, batch: Any, results: Sequence[tf.Tensor]) -> bool:
        """Whether replay is right when the permutations are reversed."""
        before = [np.array(each.assignment) for each in self._permutations]
        try:
            for permutation, order in zip(
                self._permutations, before, strict=True
            ):
                permutation.assignment.assign(order[:, ::-1])
            # Eagerly: to trace it takes longer, and is rarely needed again.
            expected = float(self._compute_loss(batch))
            replayed = float(self._replay(batch, results))
        finally:
            for permutation, order in zip(
                self._permutations, before, strict=True
            ):
                permutation.assignment.assign(order)
        return abs(replayed - expected) <= _TOLERANCE * abs(expected)
