"""What both mixtures share: running experts on the rows routed to them."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_comet._keras import keras
from keras_comet.gates.base import Gate
from keras_comet.gates.base import any_searching
from keras_comet.layers.mixture_inputs import check_leading_axes
from keras_comet.layers.stacked_dense_experts import StackedDenseExperts
from keras_comet.ops import combine
from keras_comet.ops import dispatch
from keras_comet.ops import find_routed_pairs
from keras_comet.ops import static_cond
from keras_comet.ops.xla import compiles_with_xla

_DISPATCHES = ("auto", "dense", "sparse")

# Above this share of nonzero weights "auto" computes all experts.
_DENSE_ABOVE = 0.5


class ExpertMixture(keras.layers.Layer):
    """Base class of the mixtures: owns the experts, dispatches, combines.

    Args:
        experts: list of Keras layers or models with equal output shapes, or
            one `StackedDenseExperts`.
        dispatch: `"dense"`, `"sparse"` or `"auto"`.
    """

    def __init__(
        self,
        experts: Sequence[keras.layers.Layer] | StackedDenseExperts,
        dispatch: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if dispatch not in _DISPATCHES:
            raise ValueError(
                f"`dispatch` must be one of {_DISPATCHES}. "
                f"Received: dispatch={dispatch!r}"
            )
        if not isinstance(experts, StackedDenseExperts):
            experts = _check_experts(experts)
        self.experts = experts
        self.dispatch = dispatch

    @property
    def num_experts(self) -> int:
        """Number of experts."""
        if isinstance(self.experts, StackedDenseExperts):
            return self.experts.num_experts
        return len(self.experts)

    def list_gates(self) -> list[Gate]:
        """Lists the gates that choose among the experts."""
        raise NotImplementedError

    def check_gate(self, gate: Any, label: str) -> None:
        """Raises a ValueError unless the gate chooses among these experts."""
        if not isinstance(gate, Gate):
            raise ValueError(
                f"A gate must be a keras_comet.Gate. Received: {label}, "
                f"{gate!r}"
            )
        if gate.num_experts != self.num_experts:
            raise ValueError(
                f"The gate must choose among the {self.num_experts} experts "
                f"given. Received: {label} with num_experts="
                f"{gate.num_experts}"
            )

    def build_experts(self, row_shape: Sequence[int | None]) -> None:
        """Builds the experts for rows of one shape, and compares outputs.

        Args:
            row_shape: shape of one row of the features.

        Raises:
            ValueError: If the experts' output shapes differ.
        """
        stacked = isinstance(self.experts, StackedDenseExperts)
        layers: list[Any] = [self.experts] if stacked else self.experts
        for layer in layers:
            if not layer.built:
                layer.build((None, *row_shape))
        shapes = [
            self._expert_output_shape(index, row_shape)
            for index in range(len(layers))
        ]
        if len(set(shapes)) > 1:
            listing = ", ".join(
                f"{index} ({expert.name}): {shape}"
                for index, (expert, shape) in enumerate(
                    zip(self.experts, shapes, strict=True)
                )
            )
            raise ValueError(
                "All experts must have the same output shape, as their "
                f"outputs are added up. Received, without the batch: {listing}"
            )
        self._output_shape = shapes[0]

    def mixture_shape(
        self, features_shape: Sequence[Any], weights_shape: Sequence[Any]
    ) -> tuple[Any, ...]:
        """Returns the shape of a mixture, experts built or not."""
        num_leading = len(weights_shape) - 1
        return (
            *features_shape[:num_leading],
            *self._expert_output_shape(0, features_shape[num_leading:]),
        )

    def _expert_output_shape(
        self, expert: int, row_shape: Sequence[Any]
    ) -> tuple[Any, ...]:
        """Shape of what an expert makes of one row."""
        if isinstance(self.experts, StackedDenseExperts):
            return (*row_shape[:-1], self.experts.widths[-1])
        layer = self.experts[expert]
        return tuple(layer.compute_output_shape((None, *row_shape)))[1:]

    def routing_weights_shape(self, input_shape: Any) -> Any:
        """Returns the shape of the routing weights, or a dict of shapes."""
        raise NotImplementedError

    def compute_output_spec(
        self,
        inputs: Any,
        training: bool | None = None,
        return_routing_weights: bool = False,
    ) -> Any:
        # Only Keras 3 asks; by itself it would expect the mixture alone.
        def spec(shape: Any, dtype: str) -> Any:
            if isinstance(shape, dict):
                return {key: spec(each, dtype) for key, each in shape.items()}
            return keras.KerasTensor(shape, dtype=dtype)

        shapes = tf.nest.map_structure(lambda x: tuple(x.shape), inputs)
        mixture = spec(self.compute_output_shape(shapes), self.compute_dtype)
        if not return_routing_weights:
            return mixture
        return mixture, spec(self.routing_weights_shape(shapes), "float32")

    def mix(
        self,
        features: tf.Tensor,
        routing_weights: list[tf.Tensor],
        training: bool,
    ) -> list[tf.Tensor]:
        """Mixes the experts' outputs by each of several routing weights.

        Args:
            features: tensor `(*leading, ...)`.
            routing_weights: list of tensors `(*leading, num_experts)`.
            training: bool. Whether the experts are trained.

        Returns:
            A list of tensors `(*leading, *expert_output_shape)`.
        """
        for each in routing_weights:
            check_leading_axes(
                tuple(features.shape), tuple(each.shape), given=True
            )
        leading_rank = routing_weights[0].shape.rank - 1
        static_leading = features.shape[:leading_rank]
        row_shape = features.shape[leading_rank:]
        rows = features
        if leading_rank > 1:
            rows = tf.reshape(features, [-1, *row_shape])
        # As many as there are rows: one row of weights must not broadcast.
        shape = [tf.shape(rows)[0], self.num_experts]
        weights = [tf.reshape(each, shape) for each in routing_weights]
        mixtures = self._mix_rows(rows, weights, training)
        if leading_rank > 1:
            leading = tf.shape(features)[:leading_rank]
            shape = tf.concat([leading, self._output_shape], axis=0)
            mixtures = [tf.reshape(mixture, shape) for mixture in mixtures]
        return [
            tf.ensure_shape(mixture, [*static_leading, *self._output_shape])
            for mixture in mixtures
        ]

    def _mix_rows(
        self,
        rows: tf.Tensor,
        weights: list[tf.Tensor],
        training: bool,
    ) -> list[tf.Tensor]:
        if rows.shape[0] == 0:
            # Convolutions return another shape than they should, or abort.
            empty = tf.zeros([0, *self._output_shape], self.compute_dtype)
            return [empty] * len(weights)
        # Then weights that are zero need a gradient, which takes all experts.
        searching = any_searching(self.list_gates())
        # XLA cannot compile a number of rows that depends on the data.
        if self.dispatch == "dense" or compiles_with_xla():
            outputs = self._call_all(rows, self._call_expert)
            return self._mix_dense(outputs, weights)
        chosen = _find_chosen(weights)
        dense: tf.Tensor | bool = searching
        if self.dispatch == "auto":
            density = tf.reduce_mean(tf.cast(chosen, tf.float32))
            dense = tf.logical_or(density > _DENSE_ABOVE, searching)
        if dense is False:
            return self._mix_sparse(rows, weights, chosen, training)
        return static_cond(
            dense,
            lambda: self._mix_dense(
                self._call_all(rows, self._call_expert_in_branch), weights
            ),
            lambda: self._mix_sparse(rows, weights, chosen, training),
        )

    def _mix_dense(
        self, outputs: list[tf.Tensor], weights: list[tf.Tensor]
    ) -> list[tf.Tensor]:
        # (rows,) -> (rows, 1, ...), to multiply along the trailing axes
        shape = [-1] + [1] * len(self._output_shape)

        def mix(
            multiply: Callable[..., tf.Tensor], tensors: Sequence[tf.Tensor]
        ) -> list[tf.Tensor]:
            outputs = tensors[: self.num_experts]
            return [
                tf.add_n(
                    [
                        multiply(
                            output,
                            tf.reshape(tf.cast(weight, output.dtype), shape),
                        )
                        for output, weight in zip(
                            # Its gradient is one stack, that of an index a
                            # matrix for each expert.
                            outputs,
                            tf.unstack(each, num=self.num_experts, axis=1),
                            strict=True,
                        )
                    ]
                )
                for each in tensors[self.num_experts :]
            ]

        # An expert may overflow on rows that are not routed to it. That is
        # rare, and the product that allows for it slow. The gradient is made
        # by hand, as that of tf.cond is zeros for what was not done.
        @tf.custom_gradient
        def mix_fast(*tensors: tf.Tensor) -> Any:
            mixtures = mix(tf.multiply, tensors)
            finite = tf.reduce_all(
                [tf.reduce_all(tf.math.is_finite(each)) for each in mixtures]
            )

            def gradient(*upstream: tf.Tensor) -> Any:
                def differentiate(multiply: Callable[..., tf.Tensor]) -> Any:
                    with tf.GradientTape() as tape:
                        tape.watch(tensors)
                        mixtures = mix(multiply, tensors)
                    return tape.gradient(mixtures, tensors, list(upstream))

                return tf.cond(
                    finite,
                    lambda: differentiate(tf.multiply),
                    lambda: differentiate(tf.math.multiply_no_nan),
                )

            mixtures = tf.cond(
                finite,
                lambda: mixtures,
                lambda: mix(tf.math.multiply_no_nan, tensors),
            )
            return mixtures, gradient

        # The gradient of tf.cond does not find what a branch did not make.
        mixtures: list[tf.Tensor] = mix_fast(
            *[tf.identity(each) for each in (*outputs, *weights)]
        )
        return mixtures

    def _call_all(
        self,
        rows: tf.Tensor,
        call_expert: Callable[[int, tf.Tensor], tf.Tensor],
    ) -> list[tf.Tensor]:
        if isinstance(self.experts, StackedDenseExperts):
            return self.experts.call_each([rows] * self.num_experts)
        return [call_expert(e, rows) for e in range(self.num_experts)]

    def _mix_sparse(
        self,
        rows: tf.Tensor,
        weights: list[tf.Tensor],
        chosen: tf.Tensor,
        training: bool,
    ) -> list[tf.Tensor]:
        pairs = find_routed_pairs(chosen)
        if isinstance(self.experts, StackedDenseExperts):
            outputs = self.experts.call_routed(rows, pairs, training)
        else:
            outputs = tf.concat(
                [
                    self._call_unless_idle(expert, routed)
                    for expert, routed in enumerate(dispatch(rows, pairs))
                ],
                axis=0,
            )
        return tf.unstack(combine(outputs, pairs, tf.stack(weights)))

    def _call_unless_idle(self, expert: int, routed: tf.Tensor) -> tf.Tensor:
        """Calls an expert only if it got a row.

        Several Keras layers abort the process, or return NaN, for the
        gradient of an empty batch.
        """
        routed = tf.ensure_shape(routed, [None, *routed.shape[1:]])
        return tf.cond(
            tf.shape(routed)[0] > 0,
            lambda: self._call_expert_in_branch(expert, routed),
            lambda: tf.zeros([0, *self._output_shape], self.compute_dtype),
        )

    def _call_expert(self, expert: int, rows: tf.Tensor) -> tf.Tensor:
        output = self.experts[expert](rows)
        return tf.cast(output, self.compute_dtype)

    def _call_expert_in_branch(self, expert: int, rows: tf.Tensor) -> tf.Tensor:
        """Calls an expert where losses that it adds could not get out."""
        layer = self.experts[expert]
        num_losses = len(layer.losses)
        output = self._call_expert(expert, rows)
        if len(layer.losses) > num_losses:
            raise ValueError(
                f"Expert {expert} ({layer.name}) adds a loss when "
                "it is called (an activity regularizer, for example), which "
                "depends on the rows that it sees. Received: "
                f"dispatch={self.dispatch!r}. Use dispatch='dense', where it "
                "sees all rows."
            )
        return output

    def get_config(self) -> dict[str, Any]:
        experts = self.experts
        return {
            **super().get_config(),
            "experts": (
                keras.saving.serialize_keras_object(experts)
                if isinstance(experts, StackedDenseExperts)
                else [
                    keras.saving.serialize_keras_object(expert)
                    for expert in experts
                ]
            ),
            "dispatch": self.dispatch,
        }

    @staticmethod
    def experts_from_config(experts: Any, custom_objects: Any = None) -> Any:
        """Rebuilds what `get_config` wrote under `"experts"`."""

        def deserialize(config: Any) -> Any:
            return keras.saving.deserialize_keras_object(
                config, custom_objects=custom_objects
            )

        if isinstance(experts, list):
            return [deserialize(config) for config in experts]
        return deserialize(experts)


def _find_chosen(weights: list[tf.Tensor]) -> tf.Tensor:
    """Says for each row and expert whether any of the weights chose it."""
    # Not `> 0`: a NaN must reach the output of its row, not vanish.
    return tf.reduce_any(
        tf.stack([tf.not_equal(each, 0.0) for each in weights]), axis=0
    )


def _check_experts(experts: Any) -> list[keras.layers.Layer]:
    """Returns the experts as a list, if that is what they are."""
    if not isinstance(experts, Sequence) or not all(
        isinstance(expert, keras.layers.Layer) for expert in experts
    ):
        raise ValueError(
            "`experts` must be a list of Keras layers or one "
            f"StackedDenseExperts. Received: experts={experts!r}"
        )
    if not experts:
        raise ValueError("`experts` must hold at least one layer. Received: []")
    if len({id(expert) for expert in experts}) < len(experts):
        raise ValueError(
            "`experts` must be different layers, but one layer is in the list "
            "more than once. Make a new layer for each."
        )
    return list(experts)
