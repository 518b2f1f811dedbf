"""Gradient descent on soft permutations, as a proposal for a search."""

import tensorflow as tf

from keras_comet.search.budget import Budget
from keras_comet.search.moves import Rows
from keras_comet.search.objective import Objective
from keras_comet.search.sinkhorn_search import SinkhornSearch

# Found to recover planted permutations of 64 experts.
DESCENT_STEPS = 200
_LEARNING_RATE = 0.1


def descend(
    objective: Objective, budget: Budget, rows: Rows, near: bool
) -> Rows | None:
    """Returns where gradient descent on soft permutations ends.

    It takes `DESCENT_STEPS` evaluations of the loss.

    Args:
        objective: `Objective`.
        budget: `Budget`.
        rows: tuple of int arrays `(n,)`, where to begin.
        near: bool. Whether to begin half there, or spread out evenly.

    Returns:
        A tuple of int arrays `(n,)`, or `None` if the budget does not suffice.
    """
    if not budget.allows(DESCENT_STEPS):
        return None
    objective.assign(rows)
    steps = tf.Variable(0, dtype=tf.int64, trainable=False)
    search = SinkhornSearch(
        temperature=1.0,
        num_iterations=20,
        learning_rate=_LEARNING_RATE,
        search_steps=DESCENT_STEPS,
        count_steps=lambda: tf.convert_to_tensor(steps),
    )
    search.begin(
        objective.permutations,
        [
            tf.Variable(tf.zeros(each.permutation_weights.shape))
            for each in objective.permutations
        ],
        near=near,
    )
    for _ in range(DESCENT_STEPS):
        if not budget.allows():
            objective.freeze(rows)
            return None
        search.move_logits(objective.gradients())
        steps.assign_add(1)
        search.move_permutations(objective.permutations)
    return objective.read_rows()
