"""Keras layers or models as the experts of a mixture."""

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_comet._keras import keras
from keras_comet.containers import LayerDict
from keras_comet.ops import RoutedPairs
from keras_comet.ops import dispatch
from keras_comet.ops import if_nonempty


class ExpertList(LayerDict):
    """Calls a list of Keras layers, each on the rows that it should see.

    Outputs are cast to the compute dtype of this layer.

    Args:
        experts: list of different Keras layers or models.
    """

    def __init__(
        self, experts: Sequence[keras.layers.Layer], **kwargs: Any
    ) -> None:
        _check_experts(experts)
        super().__init__(
            {str(index): expert for index, expert in enumerate(experts)},
            **kwargs,
        )
        self.built = False

    @property
    def num_experts(self) -> int:
        """Number of experts."""
        return len(self)

    def as_given(self) -> list[Any]:
        """Returns the experts as a mixture was given them."""
        return self.values()

    def build(self, input_shape: Any) -> None:
        experts = self.values()
        for expert in experts:
            if not expert.built:
                expert.build(tuple(input_shape))
        shapes = [_row_output_shape(e, input_shape[1:]) for e in experts]
        if len(set(shapes)) > 1:
            listing = ", ".join(
                f"{index} ({expert.name}): {shapes[index]}"
                for index, expert in enumerate(experts)
            )
            raise ValueError(
                "All experts must have the same output shape, as their "
                f"outputs are added up. Received, without the batch: {listing}"
            )
        self._output_shape = shapes[0]
        self.built = True

    def row_output_shape(self, row_shape: Sequence[Any]) -> tuple[Any, ...]:
        """Returns the shape of what an expert makes of one row."""
        return _row_output_shape(self["0"], row_shape)

    def call_all(self, rows: tf.Tensor, training: bool) -> list[tf.Tensor]:
        """Returns what each expert makes of all rows."""
        return [self._call_expert(expert, rows) for expert in self.values()]

    def call_routed(
        self, rows: tf.Tensor, pairs: RoutedPairs, training: bool
    ) -> tf.Tensor:
        """Returns what the experts make of their rows, in order of `pairs`."""
        routed = zip(self.values(), dispatch(rows, pairs), strict=True)
        return tf.concat(
            [
                if_nonempty(
                    rows,
                    functools.partial(self._call_expert, expert),
                    self._output_shape,
                    self.compute_dtype,
                )
                for expert, rows in routed
            ],
            axis=0,
        )

    def _call_expert(self, expert: Any, rows: tf.Tensor) -> tf.Tensor:
        outputs = tf.cast(expert(rows), self.compute_dtype)
        # A layer may know less of its shape than it says.
        outputs.set_shape([None, *self._output_shape])
        return outputs


def _row_output_shape(expert: Any, row_shape: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(expert.compute_output_shape((None, *row_shape)))[1:]


def _check_experts(experts: Any) -> None:
    if not isinstance(experts, Sequence) or not all(
        isinstance(expert, keras.layers.Layer) for expert in experts
    ):
        raise ValueError(
            "`experts` must be a list of Keras layers or one "
            "StackedDenseExperts or SharedBaseExperts. Received: "
            f"experts={experts!r}"
        )
    if not experts:
        raise ValueError("`experts` must hold at least one layer. Received: []")
    if len({id(expert) for expert in experts}) < len(experts):
        raise ValueError(
            "`experts` must be different layers, but one layer is in the list "
            "more than once. Make a new layer for each."
        )
