"""Base class of all mixtures: gates that choose from groups of experts."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from keras_comet._keras import keep_frozen
from keras_comet._keras import keras
from keras_comet.containers import deserialize_layers
from keras_comet.gates.base import Gate
from keras_comet.layers.expert_group import DISPATCHES
from keras_comet.layers.expert_group import ExpertGroup
from keras_comet.layers.expert_group import split_by_group
from keras_comet.layers.mixture_inputs import check_leading_axes
from keras_comet.layers.mixture_inputs import split_inputs
from keras_comet.layers.mixture_inputs import split_shapes


class RoutedExperts(keras.layers.Layer):
    """Calls its gates, sends rows to groups of experts, adds up what returns.

    A subclass says which groups of experts and which gates there are, from
    which groups a gate chooses, and how features are keyed by group, and
    routing inputs, routing weights and outputs by gate. A group that no gate
    chooses from is computed for every row, and added to every output.

    Args:
        dispatch: `"dense"`, `"sparse"` or `"auto"`.
    """

    def __init__(self, dispatch: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        if dispatch not in DISPATCHES:
            raise ValueError(
                f"`dispatch` must be one of {DISPATCHES}. "
                f"Received: dispatch={dispatch!r}"
            )
        self.dispatch = dispatch
        # On a GPU Keras 3 compiles with XLA by default, which would compute
        # every expert for every row.
        self.supports_jit = dispatch == "dense"

    def _groups(self) -> Mapping[str, Any]:
        """Returns the groups of experts by name, each as one layer."""
        raise NotImplementedError

    def _group_label(self, group: str) -> str:
        """Returns the name that a group has in reports."""
        raise NotImplementedError

    def _named_gates(self) -> Mapping[str, Gate]:
        """Returns the gates by name."""
        raise NotImplementedError

    def _groups_of(self, gate: str) -> list[str]:
        """Returns the groups that a gate chooses from, in its order."""
        raise NotImplementedError

    def _main_group(self, gate: str) -> str:
        """Returns the group whose mask and leading axes the output has."""
        raise NotImplementedError

    def _by_group(self, features: Any) -> dict[str, Any]:
        """Returns the features, their shapes or masks, of each group."""
        raise NotImplementedError

    def _by_gate(self, routing_inputs: Any) -> dict[str, Any]:
        """Returns the routing inputs, or their shapes, of each gate."""
        raise NotImplementedError

    def _join(self, by_gate: dict[str, Any]) -> Any:
        """Turns what there is for each gate into what `call` returns."""
        raise NotImplementedError

    def _cap_union(self, weights: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Takes weights off rows on which gates use too many; here of none."""
        return weights

    def build(self, input_shape: Any) -> None:
        features_shape, routing_shape, given = split_shapes(input_shape)
        shapes = self._by_gate(routing_shape)
        for name, gate in self._named_gates().items():
            if not gate.built:
                gate.build(tuple(shapes[name]))
        row_shapes = self._row_shapes(
            self._by_group(features_shape),
            self._weights_shapes(input_shape),
            given,
        )
        output_shapes = {}
        for name, experts in self._groups().items():
            if not experts.built:
                experts.build((None, *row_shapes[name]))
            output_shapes[name] = experts.row_output_shape(row_shapes[name])
        if len(set(output_shapes.values())) > 1:
            raise ValueError(
                "All groups of experts must have the same output shape, as "
                "their outputs are added up. Received, without the batch: "
                f"{output_shapes}"
            )
        self._output_shape = next(iter(output_shapes.values()))
        keep_frozen(self)
        self.built = True

    def _readers(self) -> dict[str, list[str]]:
        """Returns, for each group, the gates that choose from it."""
        return {
            group: [
                gate
                for gate in self._named_gates()
                if group in self._groups_of(gate)
            ]
            for group in self._groups()
        }

    def _row_shapes(
        self,
        features_shapes: dict[str, Any],
        weights_shapes: dict[str, Any],
        given: bool,
    ) -> dict[str, tuple[Any, ...]]:
        """Returns the shape of what an expert of each group sees of a row."""
        row_shapes = {}
        gates = self._named_gates()
        for group, readers in self._readers().items():
            found = {
                check_leading_axes(
                    features_shapes[group],
                    weights_shapes[gate],
                    given,
                    gates[gate].reads_ids,
                )
                for gate in readers or weights_shapes
            }
            if len(found) > 1:
                raise ValueError(
                    "All gates must route the same axes of the features. "
                    f"Received: {weights_shapes}"
                )
            [row_shapes[group]] = found
        return row_shapes

    def call(
        self,
        inputs: Any,
        training: bool | None = None,
        return_routing_weights: bool = False,
        mask: Any = None,
    ) -> Any:
        features, routing_inputs = split_inputs(inputs)
        by_group = self._by_group(features)
        by_gate = self._by_gate(routing_inputs)
        masks = self._routing_masks(mask, by_gate)
        weights = {
            name: gate(by_gate[name], training=training, mask=masks[name])
            for name, gate in self._named_gates().items()
        }
        # For what it raises: weights of other rows must not be combined.
        self._row_shapes(
            {name: each.shape for name, each in by_group.items()},
            {name: each.shape for name, each in weights.items()},
            given=True,
        )
        weights = self._cap_union(weights)
        outputs = self._join(self._combine(by_group, weights, bool(training)))
        if return_routing_weights:
            return outputs, self._join(weights)
        return outputs

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Passes the masks of the features on, to each output."""
        return self._join(self._output_masks(mask))

    def _output_masks(self, mask: Any) -> dict[str, Any]:
        """Returns, for each gate, the mask of the features of its output."""
        features_mask = mask[0] if isinstance(mask, (tuple, list)) else mask
        by_group = self._by_group(features_mask)
        return {
            name: by_group[self._main_group(name)]
            for name in self._named_gates()
        }

    def _routing_masks(
        self, mask: Any, routing_inputs: dict[str, Any]
    ) -> dict[str, Any]:
        """Returns the mask of the rows of each gate, or `None`.

        A token that is padding among the features is none that a gate should
        read, whatever the routing inputs say; a sequence that is routed whole
        is one row.
        """
        gates = self._named_gates()
        masks = self._output_masks(mask)
        for name, each in masks.items():
            shape = tuple(routing_inputs[name].shape)
            rank = len(gates[name].compute_output_shape(shape)) - 1
            if each is not None and each.shape.rank != rank:
                masks[name] = None
        return masks

    def _combine(
        self,
        features: dict[str, tf.Tensor],
        weights: dict[str, tf.Tensor],
        training: bool,
    ) -> dict[str, tf.Tensor]:
        """Combines the outputs of the groups by the weights of each gate."""
        groups, gates = self._groups(), self._named_gates()
        rank = next(iter(weights.values())).shape.rank - 1
        parts = {
            name: split_by_group(
                each,
                {g: groups[g].num_experts for g in self._groups_of(name)},
            )
            for name, each in weights.items()
        }
        terms: dict[str, list[tf.Tensor]] = {name: [] for name in weights}
        for label, readers in self._readers().items():
            group = ExpertGroup(
                groups[label],
                self._group_label(label),
                self.dispatch,
                self._output_shape,
                self.compute_dtype,
                training,
            )
            rows = features[label]
            if rank > 1:
                rows = tf.reshape(rows, [-1, *rows.shape[rank:]])
            if not readers:
                shared = group.add_up(rows)
                for each in terms.values():
                    each.append(shared)
                continue
            group.capture(rows, [weights[name] for name in readers])
            # As many as there are rows: one row must not broadcast.
            shape = [tf.shape(rows)[0], groups[label].num_experts]
            combined = group.combine(
                rows,
                [gates[name] for name in readers],
                [tf.reshape(parts[name][label], shape) for name in readers],
            )
            for name, each in zip(readers, combined, strict=True):
                terms[name].append(each)
        return {
            name: self._unflatten(
                tf.add_n(each), features[self._main_group(name)], rank
            )
            for name, each in terms.items()
        }

    def _unflatten(
        self, outputs: tf.Tensor, features: tf.Tensor, rank: int
    ) -> tf.Tensor:
        """Gives rows the leading axes that the features have."""
        if rank > 1:
            leading = tf.shape(features)[:rank]
            shape = tf.concat([leading, self._output_shape], axis=0)
            outputs = tf.reshape(outputs, shape)
        static_shape = [*features.shape[:rank], *self._output_shape]
        return tf.ensure_shape(outputs, static_shape)

    def _weights_shapes(self, input_shape: Any) -> dict[str, Any]:
        """Returns the shape of each gate's routing weights."""
        shapes = self._by_gate(split_shapes(input_shape)[1])
        return {
            name: gate.compute_output_shape(tuple(shapes[name]))
            for name, gate in self._named_gates().items()
        }

    def _output_shapes(self, input_shape: Any) -> dict[str, Any]:
        """Returns the shape of what the experts are combined to, by gate."""
        by_group = self._by_group(split_shapes(input_shape)[0])
        shapes = {}
        for name, weights_shape in self._weights_shapes(input_shape).items():
            rank, group = len(weights_shape) - 1, self._main_group(name)
            leading, row = by_group[group][:rank], by_group[group][rank:]
            row_shape = self._groups()[group].row_output_shape(row)
            shapes[name] = (*leading, *row_shape)
        return shapes

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self._join(self._output_shapes(input_shape))

    def compute_output_spec(
        self,
        inputs: Any,
        training: bool | None = None,
        return_routing_weights: bool = False,
        mask: Any = None,
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
        return {**super().get_config(), "dispatch": self.dispatch}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> "RoutedExperts":
        layers = (
            "experts",
            "task_experts",
            "shared_experts",
            "gate",
            "gates",
            "shared_gate",
        )
        return cls(**deserialize_layers(config, layers, custom_objects))
