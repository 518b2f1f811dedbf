"""Base class of both mixtures: routes rows to experts and combines them."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any
from typing import TypeAlias
from typing import TypeVar

import tensorflow as tf

from keras_comet import ops
from keras_comet._keras import keep_frozen
from keras_comet._keras import keras
from keras_comet.containers import deserialize_layers
from keras_comet.containers import register_user
from keras_comet.containers import serialize_layers
from keras_comet.gates.base import Gate
from keras_comet.gates.base import any_searching
from keras_comet.layers.expert_list import ExpertList
from keras_comet.layers.mixture_inputs import check_leading_axes
from keras_comet.layers.mixture_inputs import split_inputs
from keras_comet.layers.mixture_inputs import split_shapes
from keras_comet.layers.shared_base_experts import SharedBaseExperts
from keras_comet.layers.stacked_dense_experts import StackedDenseExperts
from keras_comet.ops.xla import compiles_with_xla

Experts: TypeAlias = (
    Sequence[keras.layers.Layer] | StackedDenseExperts | SharedBaseExperts
)

Outputs = TypeVar("Outputs")

_DISPATCHES = ("auto", "dense", "sparse")

# Above this share of nonzero weights "auto" computes all experts.
_DENSE_ABOVE = 0.5

# The list that what all experts make of the rows of eager calls in this
# context is noted in.
captured_outputs: ContextVar[
    list[tuple["ExpertMixture", list[tf.Tensor]]] | None
] = ContextVar("captured_outputs", default=None)


class ExpertMixture(keras.layers.Layer):
    """Owns the experts, calls its gates, and combines what experts return.

    A subclass says which gates there are, and how routing inputs, routing
    weights and outputs are keyed by gate.

    Args:
        experts: list of Keras layers or models, or one layer that answers for
            all experts: `StackedDenseExperts` or `SharedBaseExperts`.
        dispatch: `"dense"`, `"sparse"` or `"auto"`.
        shared_experts: the same, whose outputs every row adds.
    """

    def __init__(
        self,
        experts: Experts,
        dispatch: str = "auto",
        shared_experts: Experts = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        if dispatch not in _DISPATCHES:
            raise ValueError(
                f"`dispatch` must be one of {_DISPATCHES}. "
                f"Received: dispatch={dispatch!r}"
            )
        self.dispatch = dispatch
        # On a GPU Keras 3 compiles with XLA by default, which would compute
        # every expert for every row.
        self.supports_jit = dispatch == "dense"
        self._experts = self._as_one(experts)
        self._shared_experts: Any = None
        if shared_experts != () and shared_experts != []:
            self._shared_experts = self._as_one(shared_experts)
        for each in (self.experts, self.shared_experts):
            register_user(tf.nest.flatten(each), self.name)

    def _as_one(self, experts: Any) -> Any:
        """Returns what answers for all of the experts."""
        if hasattr(experts, "call_routed"):
            return experts
        return ExpertList(experts, dtype=self.dtype_policy)

    @property
    def experts(self) -> Any:
        """The experts as given: a list of layers, or one for all."""
        return self._experts.as_given()

    @property
    def shared_experts(self) -> Any:
        """The shared experts as given, or an empty list."""
        if self._shared_experts is None:
            return []
        return self._shared_experts.as_given()

    @property
    def num_experts(self) -> int:
        """Number of experts."""
        return self._experts.num_experts

    def _named_gates(self) -> Mapping[str, Gate]:
        """Returns the gates by name."""
        raise NotImplementedError

    def _by_gate(self, routing_inputs: Any) -> dict[str, Any]:
        """Returns the routing inputs, or their shapes, of each gate."""
        raise NotImplementedError

    def _join(self, by_gate: dict[str, Any]) -> Any:
        """Turns what there is for each gate into what `call` returns."""
        raise NotImplementedError

    def _check_gate(self, gate: Any, label: str) -> None:
        if not isinstance(gate, Gate):
            raise ValueError(
                f"A gate must be a keras_comet.Gate. Received: {label}, {gate}"
            )
        if gate.num_experts != self.num_experts:
            raise ValueError(
                f"The gate must choose among the {self.num_experts} experts "
                f"given. Received: {label} with num_experts={gate.num_experts}"
            )

    def build(self, input_shape: Any) -> None:
        features_shape, routing_shape, given = split_shapes(input_shape)
        shapes = self._by_gate(routing_shape)
        for name, gate in self._named_gates().items():
            if not gate.built:
                gate.build(tuple(shapes[name]))
        weights_shapes = self._weights_shapes(input_shape)
        row_shapes = {
            check_leading_axes(features_shape, shape, given)
            for shape in weights_shapes.values()
        }
        if len(row_shapes) > 1:
            raise ValueError(
                "All gates must route the same axes of the features. "
                f"Received: {weights_shapes}"
            )
        [row_shape] = row_shapes
        if not self._experts.built:
            self._experts.build((None, *row_shape))
        self._output_shape = self._experts.row_output_shape(row_shape)
        if self._shared_experts is not None:
            if not self._shared_experts.built:
                self._shared_experts.build((None, *row_shape))
            shape = self._shared_experts.row_output_shape(row_shape)
            if shape != self._output_shape:
                raise ValueError(
                    "Shared experts must have the output shape of the others, "
                    f"to be added to them. Expected: {self._output_shape}. "
                    f"Received: {shape}"
                )
        keep_frozen(self)
        self.built = True

    def call(
        self,
        inputs: Any,
        training: bool | None = None,
        return_routing_weights: bool = False,
    ) -> Any:
        features, routing_inputs = split_inputs(inputs)
        by_gate = self._by_gate(routing_inputs)
        weights = {
            name: gate(by_gate[name], training=training)
            for name, gate in self._named_gates().items()
        }
        combined = self._combine(
            features, list(weights.values()), bool(training)
        )
        outputs = self._join(dict(zip(weights, combined, strict=True)))
        if return_routing_weights:
            return outputs, self._join(weights)
        return outputs

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Passes the mask of the features on, to each output."""
        features_mask = mask[0] if isinstance(mask, (tuple, list)) else mask
        return self._join(dict.fromkeys(self._named_gates(), features_mask))

    def _combine(
        self,
        features: tf.Tensor,
        routing_weights: list[tf.Tensor],
        training: bool,
    ) -> list[tf.Tensor]:
        """Combines the experts' outputs by each of several routing weights."""
        for each in routing_weights:
            check_leading_axes(features.shape, each.shape, given=True)
        rank = routing_weights[0].shape.rank - 1
        rows = features
        if rank > 1:
            rows = tf.reshape(features, [-1, *features.shape[rank:]])
        # As many as there are rows: one row of weights must not broadcast.
        shape = [tf.shape(rows)[0], self.num_experts]
        weights = [tf.reshape(each, shape) for each in routing_weights]
        outputs = self._combine_rows(rows, weights, training)
        if self._shared_experts is not None:
            shared = self._call_shared(rows, training)
            outputs = [each + shared for each in outputs]
        if rank > 1:
            leading = tf.shape(features)[:rank]
            shape = tf.concat([leading, self._output_shape], axis=0)
            outputs = [tf.reshape(each, shape) for each in outputs]
        static_shape = [*features.shape[:rank], *self._output_shape]
        return [tf.ensure_shape(each, static_shape) for each in outputs]

    def _call_shared(self, rows: tf.Tensor, training: bool) -> tf.Tensor:
        """Adds up what the shared experts make of all rows."""

        def add_up(rows: tf.Tensor) -> tf.Tensor:
            return tf.add_n(self._shared_experts.call_all(rows, training))

        if self.dispatch == "dense" or compiles_with_xla():
            return add_up(rows)
        return ops.if_nonempty(
            rows,
            lambda rows: self._call_in_branch(
                self.shared_experts, lambda: add_up(rows)
            ),
            self._output_shape,
            self.compute_dtype,
        )

    def _combine_rows(
        self, rows: tf.Tensor, weights: list[tf.Tensor], training: bool
    ) -> list[tf.Tensor]:
        if rows.shape[0] == 0:
            # Convolutions return another shape than they should, or abort.
            empty = tf.zeros([0, *self._output_shape], self.compute_dtype)
            return [empty] * len(weights)
        captured = captured_outputs.get()
        if captured is not None and tf.executing_eagerly():
            captured.append((self, self._experts.call_all(rows, training)))

        def combine_all() -> list[tf.Tensor]:
            return ops.weighted_sum(
                self._experts.call_all(rows, training), weights
            )

        # XLA cannot compile a number of rows that depends on the data.
        if self.dispatch == "dense" or compiles_with_xla():
            return combine_all()
        chosen = ops.find_chosen(weights)

        def combine_chosen() -> list[tf.Tensor]:
            pairs = ops.find_routed_pairs(chosen)
            outputs = self._experts.call_routed(rows, pairs, training)
            return tf.unstack(ops.combine(outputs, pairs, tf.stack(weights)))

        # In a search, weights that are zero need gradients, from all experts.
        dense = any_searching(self._named_gates().values())
        if self.dispatch == "auto":
            density = tf.reduce_mean(tf.cast(chosen, tf.float32))
            dense = tf.logical_or(density > _DENSE_ABOVE, dense)
        return ops.static_cond(
            dense,
            lambda: self._call_in_branch(self.experts, combine_all),
            lambda: self._call_in_branch(self.experts, combine_chosen),
        )

    def _call_in_branch(
        self, experts: Any, compute: Callable[[], Outputs]
    ) -> Outputs:
        """Calls experts where losses that they add could not get out."""
        experts = tf.nest.flatten(experts)
        num_losses = [len(expert.losses) for expert in experts]
        outputs = compute()
        for index, expert in enumerate(experts):
            if len(expert.losses) > num_losses[index]:
                raise ValueError(
                    f"Expert {index} ({expert.name}) adds a loss when called "
                    "(an activity regularizer, for example), which depends on "
                    "the rows that it sees. Use dispatch='dense', where it "
                    f"sees all. Received: dispatch={self.dispatch!r}"
                )
        return outputs

    def _weights_shapes(self, input_shape: Any) -> dict[str, Any]:
        """Returns the shape of each gate's routing weights."""
        shapes = self._by_gate(split_shapes(input_shape)[1])
        return {
            name: gate.compute_output_shape(tuple(shapes[name]))
            for name, gate in self._named_gates().items()
        }

    def _output_shapes(self, input_shape: Any) -> dict[str, Any]:
        """Returns the shape of what the experts are combined to, by gate."""
        features_shape = split_shapes(input_shape)[0]
        shapes = {}
        for name, weights_shape in self._weights_shapes(input_shape).items():
            rank = len(weights_shape) - 1
            row_shape = self._experts.row_output_shape(features_shape[rank:])
            shapes[name] = (*features_shape[:rank], *row_shape)
        return shapes

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self._join(self._output_shapes(input_shape))

    def compute_output_spec(
        self,
        inputs: Any,
        training: bool | None = None,
        return_routing_weights: bool = False,
    ) -> Any:
        # Only Keras 3 asks; by itself it would expect the outputs alone.
        def join(shapes: dict[str, Any], dtype: str) -> Any:
            return self._join(
                {k: keras.KerasTensor(v, dtype) for k, v in shapes.items()}
            )

        shapes = tf.nest.map_structure(lambda x: tuple(x.shape), inputs)
        outputs = join(self._output_shapes(shapes), self.compute_dtype)
        if return_routing_weights:
            return outputs, join(self._weights_shapes(shapes), "float32")
        return outputs

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "experts": serialize_layers(self.experts),
            "dispatch": self.dispatch,
            "shared_experts": serialize_layers(self.shared_experts),
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> "ExpertMixture":
        layers = ("experts", "shared_experts", "gate", "gates")
        return cls(**deserialize_layers(config, layers, custom_objects))
