"""Applies equal experts whose variables are stacked, one slice for each."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import TypeAlias

import tensorflow as tf

from keras_comet.ops.dispatch import RoutedPairs
from keras_comet.ops.dispatch import gather_routed

# Up to one row per 8 experts, looping over rows is faster than over experts
# (measured with 64 experts on two cores).
_EXPERTS_PER_ROW = 8

# From rows, the slices of one expert, and what all experts share, to the
# outputs for these rows.
Expert: TypeAlias = Callable[
    [tf.Tensor, Sequence[tf.Tensor], Sequence[tf.Tensor]], tf.Tensor
]


def apply_experts(
    expert: Expert,
    rows: Sequence[tf.Tensor],
    stacks: Sequence[tf.Tensor],
    shared: Sequence[tf.Tensor] = (),
) -> list[tf.Tensor]:
    """Applies every expert to rows of its own.

    Args:
        expert: function of rows, the slices of one expert, and `shared`.
        rows: one tensor `(rows, ...)` for each expert; the numbers of rows
            may differ, and be 0.
        stacks: tensors `(num_experts, ...)`.
        shared: tensors that all experts get. Defaults to `()`.

    Returns:
        A list with the outputs of each expert.
    """
    # Unstacking makes views, and its gradient is one stack.
    slices = zip(*[tf.unstack(stack) for stack in stacks], strict=True)
    return [
        expert(each, views, shared)
        for each, views in zip(rows, slices, strict=True)
    ]


def apply_routed(
    expert: Expert,
    rows: tf.Tensor,
    pairs: RoutedPairs,
    stacks: Sequence[tf.Tensor],
    shared: Sequence[tf.Tensor],
    training: bool,
) -> tf.Tensor:
    """Applies each expert to the rows that are routed to it.

    The last axis of the last stack must be that of the outputs, as of a bias.

    Args:
        expert: function of rows, the slices of one expert, and `shared`.
        rows: tensor `(rows, ...)`.
        pairs: what `find_routed_pairs` returned.
        stacks: tensors `(num_experts, ...)`.
        shared: tensors that all experts get.
        training: bool. Whether all slices will need gradients.

    Returns:
        A tensor `(pairs, units)`.
    """
    routed = gather_routed(rows, pairs)
    if training:
        return _apply_by_expert(expert, routed, pairs, stacks, shared)
    num_pairs = tf.shape(routed)[0]
    # Row after row, nothing would give no shape.
    is_few = (num_pairs > 0) & (
        num_pairs <= stacks[0].shape[0] // _EXPERTS_PER_ROW
    )
    return tf.cond(
        is_few,
        lambda: _apply_by_row(expert, routed, pairs, stacks, shared),
        lambda: _apply_by_expert(expert, routed, pairs, stacks, shared),
    )


def _apply_by_expert(
    expert: Expert,
    routed: tf.Tensor,
    pairs: RoutedPairs,
    stacks: Sequence[tf.Tensor],
    shared: Sequence[tf.Tensor],
) -> tf.Tensor:
    """Applies expert after expert, each to its rows."""
    rows = tf.split(routed, pairs.counts, num=stacks[0].shape[0])
    return tf.concat(apply_experts(expert, rows, stacks, shared), axis=0)


def _apply_by_row(
    expert: Expert,
    routed: tf.Tensor,
    pairs: RoutedPairs,
    stacks: Sequence[tf.Tensor],
    shared: Sequence[tf.Tensor],
) -> tf.Tensor:
    """Applies an expert to row after row, and reads no other's slices."""
    num_stacks = len(stacks)

    @tf.custom_gradient
    def apply(routed: tf.Tensor, *rest: tf.Tensor) -> Any:
        pairs = RoutedPairs(*rest[:3])
        stacks, shared = rest[3 : 3 + num_stacks], rest[3 + num_stacks :]

        def apply_to_row(pair: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            row, index = pair
            # Slices of a stack are views; a gather would copy them.
            views = [stack[index] for stack in stacks]
            return expert(row[tf.newaxis], views, shared)[0]

        # That of a slice would be as large as its stack, for each row.
        def gradient(upstream: tf.Tensor) -> Any:
            sources = [routed, *stacks, *shared]
            with tf.GradientTape() as tape:
                tape.watch(sources)
                outputs = _apply_by_expert(
                    expert, routed, pairs, stacks, shared
                )
            from_rows, *others = tape.gradient(outputs, sources, upstream)
            return from_rows, None, None, None, *others

        outputs = tf.map_fn(
            apply_to_row,
            (routed, pairs.experts),
            fn_output_signature=stacks[-1].dtype,
        )
        units = stacks[-1].shape[-1]
        return tf.ensure_shape(outputs, [None, units]), gradient

    # The gradient of tf.cond does not find what it captured elsewhere.
    outputs: tf.Tensor = apply(
        *[tf.identity(each) for each in (routed, *pairs, *stacks, *shared)]
    )
    return outputs
