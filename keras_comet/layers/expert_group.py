"""A group of experts: sends rows to them, and combines what they return."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any
from typing import TypeAlias
from typing import TypeVar

import tensorflow as tf

from keras_comet import ops
from keras_comet._keras import keras
from keras_comet.gates.base import Gate
from keras_comet.gates.base import any_searching
from keras_comet.layers.expert_list import ExpertList
from keras_comet.layers.shared_base_experts import SharedBaseExperts
from keras_comet.layers.stacked_dense_experts import StackedDenseExperts
from keras_comet.ops.xla import compiles_with_xla

Experts: TypeAlias = (
    Sequence[keras.layers.Layer] | StackedDenseExperts | SharedBaseExperts
)

Outputs = TypeVar("Outputs")

DISPATCHES = ("auto", "dense", "sparse")

# Above this share of nonzero weights "auto" computes all experts.
_DENSE_ABOVE = 0.5

# The list that what all experts of a group make of the rows of eager calls in
# this context is noted in, under the label of the group.
captured_outputs: ContextVar[list[tuple[Any, str, list[tf.Tensor]]] | None] = (
    ContextVar("captured_outputs", default=None)
)


def as_one(experts: Any, dtype: Any) -> Any:
    """Returns what answers for all of the experts.

    Args:
        experts: list of Keras layers, or one layer for all.
        dtype: dtype policy for a list.
    """
    if hasattr(experts, "call_routed"):
        return experts
    return ExpertList(experts, dtype=dtype)


class ExpertGroup:
    """The experts of one group in one call: how they are to be computed.

    Args:
        experts: what `as_one` returned, built.
        label: str. Name of the group.
        dispatch: `"dense"`, `"sparse"` or `"auto"`.
        output_shape: tuple of int. What an expert makes of one row.
        dtype: dtype of the outputs.
        training: bool. Passed on.
    """

    def __init__(
        self,
        experts: Any,
        label: str,
        dispatch: str,
        output_shape: tuple[Any, ...],
        dtype: Any,
        training: bool,
    ) -> None:
        self._experts = experts
        self._label = label
        self._dispatch = dispatch
        self._output_shape = output_shape
        self._dtype = dtype
        self._training = training

    def add_up(self, rows: tf.Tensor) -> tf.Tensor:
        """Adds up what all experts make of all rows."""

        def compute(rows: tf.Tensor) -> tf.Tensor:
            return tf.add_n(self._experts.call_all(rows, self._training))

        if self._dispatch == "dense" or compiles_with_xla():
            return compute(rows)
        return ops.if_nonempty(
            rows,
            lambda rows: self._call_in_branch(lambda: compute(rows)),
            self._output_shape,
            self._dtype,
        )

    def capture(self, rows: tf.Tensor, weights: Sequence[tf.Tensor]) -> None:
        """Notes what all experts make of the rows, if that is asked for.

        Args:
            rows: tensor `(rows, ...)`.
            weights: list of what the gates that choose from this group weigh
                all of their groups by, `(..., num_experts)`: 0 for padding,
                which is left out.
        """
        captured = captured_outputs.get()
        if captured is None or not tf.executing_eagerly():
            return
        is_routed = tf.reduce_any(tf.concat(weights, axis=-1) != 0.0, axis=-1)
        rows = tf.boolean_mask(rows, tf.reshape(is_routed, [-1]))
        if rows.shape[0]:
            outputs = self._experts.call_all(rows, self._training)
            captured.append((self._experts, self._label, outputs))

    def combine(
        self,
        rows: tf.Tensor,
        gates: Sequence[Gate],
        weights: Sequence[tf.Tensor],
    ) -> list[tf.Tensor]:
        """Combines the experts' outputs by the weights of each gate.

        Args:
            rows: tensor `(rows, ...)`.
            gates: list of the gates that choose from this group.
            weights: list of tensors `(rows, num_experts)`, one for each.

        Returns:
            A list of tensors `(rows, *output_shape)`, one for each gate.
        """
        if rows.shape[0] == 0:
            # Convolutions return another shape than they should, or abort.
            empty = tf.zeros([0, *self._output_shape], self._dtype)
            return [empty] * len(weights)

        def combine_all() -> list[tf.Tensor]:
            return ops.weighted_sum(
                self._experts.call_all(rows, self._training), weights
            )

        # XLA cannot compile a number of rows that depends on the data.
        if self._dispatch == "dense" or compiles_with_xla():
            return combine_all()
        chosen = ops.find_chosen(weights)

        def combine_chosen() -> list[tf.Tensor]:
            pairs = ops.find_routed_pairs(chosen)
            outputs = self._experts.call_routed(rows, pairs, self._training)
            return tf.unstack(ops.combine(outputs, pairs, tf.stack(weights)))

        # In a search, weights that are zero need gradients, from all experts.
        dense = any_searching(gates)
        if self._dispatch == "auto":
            density = tf.reduce_mean(tf.cast(chosen, tf.float32))
            dense = tf.logical_or(density > _DENSE_ABOVE, dense)
        return ops.static_cond(
            dense,
            lambda: self._call_in_branch(combine_all),
            lambda: self._call_in_branch(combine_chosen),
        )

    def _call_in_branch(self, compute: Callable[[], Outputs]) -> Outputs:
        """Calls experts where losses that they add could not get out."""
        experts = tf.nest.flatten(self._experts.as_given())
        num_losses = [len(expert.losses) for expert in experts]
        outputs = compute()
        for index, expert in enumerate(experts):
            if len(expert.losses) > num_losses[index]:
                raise ValueError(
                    f"Expert {index} ({expert.name}) adds a loss when called "
                    "(an activity regularizer, for example), which depends on "
                    "the rows that it sees. Use dispatch='dense', where it "
                    f"sees all. Received: dispatch={self._dispatch!r}"
                )
        return outputs


def split_by_group(
    weights: tf.Tensor, sizes: Mapping[str, int]
) -> dict[str, tf.Tensor]:
    """Splits the weights of a gate by the groups that it chooses from.

    Args:
        weights: tensor `(..., num_experts)`.
        sizes: dict from group to its number of experts, in order.
    """
    if len(sizes) == 1:
        return dict.fromkeys(sizes, weights)
    parts = tf.split(weights, list(sizes.values()), axis=-1)
    return dict(zip(sizes, parts, strict=True))
