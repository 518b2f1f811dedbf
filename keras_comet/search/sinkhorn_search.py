"""Relaxed search over permutations, by gradient descent on logits."""

import math
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import TypeAlias

import tensorflow as tf

from keras_comet._keras import keras
from keras_comet.gates.expert_permutation import ExpertPermutation
from keras_comet.gates.expert_permutation import nearest_permutations
from keras_comet.ops import sinkhorn

# A number, or a Keras learning rate schedule, whose type mypy cannot see.
Schedule: TypeAlias = Any


class SinkhornSearch:
    """Moves soft permutations `P = sinkhorn(logits / temperature)`.

    The logits belong to the search, not to the model, and Adam moves them
    with a learning rate of their own: what the model's optimizer does
    (weight decay, clipping, its learning rate) is about other variables.

    Args:
        temperature: float or schedule over steps.
        num_iterations: int. Pairs of Sinkhorn normalizations.
        learning_rate: float or schedule over steps.
        search_steps: int. After so many steps P is rounded.
        count_steps: function that returns the number of steps so far.
    """

    def __init__(
        self,
        temperature: Schedule,
        num_iterations: int,
        learning_rate: Schedule,
        search_steps: int,
        count_steps: Callable[[], tf.Tensor],
    ) -> None:
        self._temperature = temperature
        self._num_iterations = num_iterations
        self._search_steps = search_steps
        self.adam = keras.optimizers.Adam(
            _UntilSearchEnds(learning_rate, search_steps, count_steps)
        )
        self._count_steps = count_steps
        self.logits: list[Any] = []

    def begin(
        self,
        permutations: Sequence[ExpertPermutation],
        logits: list[Any],
        near: bool,
    ) -> None:
        """Makes the permutations soft.

        Args:
            permutations: list of `ExpertPermutation`.
            logits: list of variables `(num_permutations, n, n)`.
            near: bool. Whether half of every output stays with its expert, so
                that gates and experts still learn what belongs together; or
                else all experts get equal shares.
        """
        self.logits = logits
        self.adam.build(logits)
        temperature = _value_at(self._temperature, tf.constant(0, tf.int64))
        for permutation, variable in zip(permutations, logits, strict=True):
            odds = math.log(max(permutation.num_experts - 1, 1)) * near
            assigned = tf.one_hot(
                tf.convert_to_tensor(permutation.assignment),
                permutation.num_experts,
            )
            variable.assign(odds * temperature * assigned)
            permutation.permutation_weights.assign(
                self._soften(variable, tf.constant(0, tf.int64))
            )
            permutation.frozen.assign(False)

    def move_logits(self, gradients: Sequence[Any], **kwargs: Any) -> None:
        """Takes a step of Adam on the logits.

        Args:
            gradients: list of tensors `(num_permutations, n, n)` or `None`,
                those of the loss with respect to each P.
            **kwargs: as for `apply_gradients`.
        """
        step = self._count_steps()
        moves = []
        for variable, gradient in zip(self.logits, gradients, strict=True):
            logits = tf.convert_to_tensor(variable)
            if gradient is None:
                moves.append(tf.zeros_like(logits))
                continue
            moves.append(
                _soft_gradient(
                    logits,
                    _value_at(self._temperature, step),
                    self._num_iterations,
                    gradient,
                )
            )
        self.adam.apply_gradients(
            zip(moves, self.logits, strict=True), **kwargs
        )

    def move_permutations(
        self, permutations: Sequence[ExpertPermutation]
    ) -> None:
        """Brings each P up to date; the last step rounds it, for good."""
        step = self._count_steps()
        for permutation, variable in zip(
            permutations, self.logits, strict=True
        ):
            self._move_permutation(permutation, variable, step)

    def _move_permutation(
        self, permutation: ExpertPermutation, variable: Any, step: tf.Tensor
    ) -> None:
        frozen = tf.convert_to_tensor(permutation.frozen)
        weights = tf.convert_to_tensor(permutation.permutation_weights)
        assignment = tf.convert_to_tensor(permutation.assignment)

        def freeze() -> tuple[tf.Tensor, tf.Tensor]:
            rounded = nearest_permutations(variable)
            return tf.one_hot(rounded, permutation.num_experts), rounded

        # Values in branches, assignments outside: under a distribution
        # strategy no variable can be assigned inside a branch.
        weights, assignment = tf.cond(
            frozen,
            lambda: (weights, assignment),
            lambda: tf.cond(
                step >= self._search_steps,
                freeze,
                lambda: (self._soften(variable, step), assignment),
            ),
        )
        permutation.permutation_weights.assign(weights)
        permutation.assignment.assign(assignment)
        permutation.frozen.assign(frozen | (step >= self._search_steps))

    def _soften(self, logits: Any, step: tf.Tensor) -> tf.Tensor:
        return _soften(
            tf.convert_to_tensor(logits),
            _value_at(self._temperature, step),
            self._num_iterations,
        )


class _UntilSearchEnds(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that is zero once the search is over.

    With it Adam leaves the logits exactly where they are.
    """

    def __init__(
        self,
        learning_rate: Schedule,
        search_steps: int,
        count_steps: Callable[[], tf.Tensor],
    ) -> None:
        self._learning_rate = learning_rate
        self._search_steps = search_steps
        self._count_steps = count_steps

    def __call__(self, step: Any) -> tf.Tensor:
        # Not Adam's own count, which gradient accumulation does not slow.
        step = self._count_steps()
        return tf.where(
            step < self._search_steps,
            _value_at(self._learning_rate, step),
            0.0,
        )

    def get_config(self) -> dict[str, Any]:
        return {"learning_rate": self._learning_rate}


# Compiled, as many small operations are slow one by one.
_soften = tf.function(sinkhorn)


@tf.function
def _soft_gradient(
    logits: tf.Tensor,
    temperature: tf.Tensor,
    num_iterations: int,
    upstream: tf.Tensor,
) -> tf.Tensor:
    """The gradient with respect to the logits of soft permutations."""
    with tf.GradientTape() as tape:
        tape.watch(logits)
        weights = sinkhorn(logits, temperature, num_iterations)
    return tape.gradient(weights, logits, upstream)


def _value_at(schedule: Schedule, step: tf.Tensor) -> tf.Tensor:
    value = schedule(step) if callable(schedule) else schedule
    return tf.cast(value, tf.float32)
