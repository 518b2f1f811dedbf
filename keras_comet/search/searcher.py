"""Search over permutations on batches of data, for any compiled model."""

from typing import Any

import tensorflow as tf

from keras_comet.gates.expert_permutation import ExpertPermutation
from keras_comet.gates.expert_permutation import find_permutations
from keras_comet.models.compiled_loss import keep_metrics
from keras_comet.search import LocalSearchOptimizer
from keras_comet.search import SearchReport
from keras_comet.search.search_loss import SearchLoss


def find_local_search(optimizer: Any) -> LocalSearchOptimizer:
    """Returns the `LocalSearchOptimizer` inside of an optimizer.

    Args:
        optimizer: Keras optimizer; others may be around the one looked for,
            `LossScaleOptimizer` for example.

    Raises:
        ValueError: If there is none.
    """
    inner = optimizer
    while inner is not None and not isinstance(inner, LocalSearchOptimizer):
        inner = getattr(inner, "inner_optimizer", None)
    if inner is None:
        raise ValueError(
            "Local search needs a model that is compiled with a "
            "LocalSearchOptimizer. Received: "
            f"optimizer={optimizer!r}. Compile with "
            "`LocalSearchOptimizer(optimizer, search_steps)`."
        )
    return inner


class Searcher:
    """Searches the permutations of a model on batches of data.

    Args:
        model: Keras model, compiled with a `LocalSearchOptimizer`.
        max_evaluations: int. As in `LocalSearchOptimizer.search`.
        max_seconds: float. As in `LocalSearchOptimizer.search`.
    """

    def __init__(
        self,
        model: Any,
        max_evaluations: int | None = None,
        max_seconds: float | None = None,
    ) -> None:
        self.optimizer = find_local_search(model.optimizer)
        self._model = model
        self._max_evaluations = max_evaluations
        self._max_seconds = max_seconds
        self._loss = SearchLoss(model)

    @property
    def permutations(self) -> list[ExpertPermutation]:
        """Those of the model, which Keras 2 may build by the first update."""
        return find_permutations(self._model.trainable_variables)

    def count_steps(self) -> int:
        """Returns the number of updates so far, skipped ones not counted."""
        # Not int(iterations), which mirrored variables do not have.
        return int(tf.convert_to_tensor(self.optimizer.iterations))

    def search(self, batch: Any) -> SearchReport:
        """Exchanges experts as long as that lowers the loss of a batch.

        Args:
            batch: tuple `(x, y)` or `(x, y, sample_weight)` of tensors.

        Returns:
            The report. Metrics of the model are left as they were.
        """
        # compute_loss also updates the running means that fit() reports.
        with keep_metrics(self._model):
            return self.optimizer.search(
                lambda: self._loss(batch),
                self.permutations,
                self._max_evaluations,
                self._max_seconds,
            )
