"""The loss as a function of permutations."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_comet._keras import tf_variable
from keras_comet.gates.expert_permutation import ExpertPermutation
from keras_comet.search.budget import Budget
from keras_comet.search.moves import Rows


class Objective:
    """Evaluates the loss under given permutations, and its gradient.

    Nothing is remembered from one evaluation to the next: each is a call of
    `loss_fn`.

    Args:
        loss_fn: function that returns the scalar loss of the current model.
        permutations: list of `ExpertPermutation`, frozen.
        budget: `Budget`, which counts the evaluations.

    Raises:
        ValueError: If the loss is no scalar.
    """

    def __init__(
        self,
        loss_fn: Callable[[], Any],
        permutations: Sequence[ExpertPermutation],
        budget: Budget,
    ) -> None:
        self._loss_fn = loss_fn
        self._budget = budget
        self.permutations = list(permutations)

    def read_rows(self) -> Rows:
        """Returns the rows of all assignments as they are."""
        return tuple(
            row
            for permutation in self.permutations
            for row in tf.convert_to_tensor(permutation.assignment).numpy()
        )

    def assign(self, rows: Rows) -> None:
        """Sets the assignments of all permutations.

        Args:
            rows: tuple of int arrays `(n,)`.
        """
        for permutation, assignment in self._by_permutation(rows):
            permutation.assignment.assign(assignment)

    def freeze(self, rows: Rows) -> None:
        """Freezes all permutations.

        Args:
            rows: tuple of int arrays `(n,)`, their assignments.
        """
        for permutation, assignment in self._by_permutation(rows):
            permutation.freeze(assignment)

    def loss(self, rows: Rows) -> float:
        """Returns the loss under these assignments.

        Args:
            rows: tuple of int arrays `(n,)`.
        """
        self.assign(rows)
        return float(self._compute_loss())

    def costs(self, rows: Rows) -> list[np.ndarray[Any, Any]]:
        """Returns the gradient of the loss for each row of each P.

        Args:
            rows: tuple of int arrays `(n,)`.

        Returns:
            A list of finite arrays `(n, n)`.
        """
        self.freeze(rows)
        for permutation in self.permutations:
            permutation.frozen.assign(False)
        gradients = self.gradients()
        for permutation in self.permutations:
            permutation.frozen.assign(True)
        return [
            cost
            for gradient in gradients
            for cost in np.nan_to_num(gradient.numpy())
        ]

    def gradients(self) -> list[tf.Tensor]:
        """Returns the gradients of the loss for soft permutations.

        Returns:
            A list of tensors `(num_permutations, n, n)`.
        """
        # Under a distribution strategy, those of the first replica: a tape
        # cannot watch the others, which are equal, together with them.
        strategy = tf.distribute.get_strategy()
        variables = [
            strategy.experimental_local_results(
                tf_variable(each.permutation_weights)
            )[0]
            for each in self.permutations
        ]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            loss = self._compute_loss()
        # A loss that is no function of P, to TensorFlow, ranks nothing.
        return tape.gradient(loss, variables, unconnected_gradients="zero")

    def _compute_loss(self) -> tf.Tensor:
        self._budget.evaluations += 1
        loss = tf.convert_to_tensor(self._loss_fn())
        if loss.shape.rank != 0:
            raise ValueError(
                "`loss_fn` must return one number, the loss of the search "
                f"batch. Received: shape {loss.shape}. Average over it."
            )
        return loss

    def _by_permutation(
        self, rows: Rows
    ) -> list[tuple[ExpertPermutation, np.ndarray[Any, Any]]]:
        remaining = iter(rows)
        return [
            (
                permutation,
                np.stack(
                    [
                        next(remaining)
                        for _ in range(permutation.num_permutations)
                    ]
                ),
            )
            for permutation in self.permutations
        ]
