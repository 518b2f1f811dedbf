"""A mixture of experts with one gate per task."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from keras_comet._keras import keras
from keras_comet._keras import serializable
from keras_comet.gates.base import Gate
from keras_comet.layers.expert_mixture import ExpertMixture
from keras_comet.layers.mixture_inputs import check_leading_axes
from keras_comet.layers.mixture_inputs import split_inputs
from keras_comet.layers.mixture_inputs import split_shapes
from keras_comet.layers.stacked_dense_experts import StackedDenseExperts


@serializable
class MultiGateMixtureOfExperts(ExpertMixture):
    """Mixes shared experts once per task, each with the task's own gate.

    `y_t = sum_e g_te(routing_inputs_t) f_e(features)`: the layer of MMoE,
    with sparse gates. An expert computes a row once if any task selected it
    there, and not at all if none did. See `MixtureOfExperts` for dispatch.

    Reference:
    - [Ma et al., 2018](https://doi.org/10.1145/3219819.3220007), Eq. (5)

    Args:
        experts: list of Keras layers or models with equal output shapes, or
            one `StackedDenseExperts`.
        gates: dict from task name to `Gate`, each with as many experts.
        dispatch: str. `"sparse"`, `"dense"` or `"auto"`, as in
            `MixtureOfExperts`; `"auto"` counts what any task selected.
            Defaults to `"auto"`.

    Call arguments:
        inputs: `features`, or `(features, routing_inputs)`; routing inputs
            are one tensor for all gates or a dict with one for each task.
        training: bool. Passed on to the gates and the experts.
        return_routing_weights: bool. Whether to return the gates' routing
            weights as well. Defaults to `False`.

    Input shape:
        features `(batch, ...)`, or `(batch, time, features)` routed by
        token; routing inputs as the gates say.

    Output shape:
        A dict from task name to `(batch, *expert_output_shape)`; with
        `return_routing_weights=True` a tuple of it and a dict from task name
        to `(batch, num_experts)`.

    Raises:
        ValueError: If the experts' output shapes differ, a gate has another
            number of experts, two tasks have the same gate, routing inputs
            name other tasks, or shapes do not fit.

    Example:

    ```python
    import numpy as np
    import keras
    import keras_comet

    moe = keras_comet.MultiGateMixtureOfExperts(
        [keras.layers.Dense(32, activation="relu") for _ in range(8)],
        {task: keras_comet.COMETGate(8) for task in ("click", "buy")},
    )
    moe(np.ones((3, 16), "float32"))["buy"].shape  # (3, 32)
    ```
    """

    def __init__(
        self,
        experts: Sequence[keras.layers.Layer] | StackedDenseExperts,
        gates: Mapping[str, Gate],
        dispatch: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(experts, dispatch=dispatch, **kwargs)
        if not isinstance(gates, Mapping) or not gates:
            raise ValueError(
                "`gates` must be a dict from task name to gate, with at least "
                f"one task. Received: gates={gates!r}"
            )
        if len({id(gate) for gate in gates.values()}) < len(gates):
            raise ValueError(
                "Each task must have a gate of its own. Received: the same "
                f"gate more than once for the tasks {list(gates)}. Make a new "
                "gate for each task."
            )
        for task, gate in gates.items():
            self.check_gate(gate, f"the gate of task {task!r}")
            gate.task = task
        self.gates = dict(gates)

    def list_gates(self) -> list[Gate]:
        return list(self.gates.values())

    def build(self, input_shape: Any) -> None:
        features_shape, routing_shape = split_shapes(input_shape)
        for task, gate in self.gates.items():
            if not gate.built:
                gate.build(self._routing_shapes(input_shape)[task])
        row_shapes = {
            check_leading_axes(
                features_shape, weights_shape, routing_shape is not None
            )
            for weights_shape in self.routing_weights_shape(
                input_shape
            ).values()
        }
        if len(row_shapes) > 1:
            raise ValueError(
                "All gates must route the same axes of the features. "
                f"Received: {self.routing_weights_shape(input_shape)}"
            )
        self.build_experts(row_shapes.pop())
        self.built = True

    def call(
        self,
        inputs: Any,
        training: bool | None = None,
        return_routing_weights: bool = False,
    ) -> Any:
        features, routing_inputs = split_inputs(inputs)
        if routing_inputs is None:
            routing_inputs = features
        by_task = self._by_task(routing_inputs)
        routing_weights = {
            task: gate(by_task[task], training=training)
            for task, gate in self.gates.items()
        }
        mixtures = self.mix(
            features,
            list(routing_weights.values()),
            bool(training),
        )
        outputs = dict(zip(routing_weights, mixtures, strict=True))
        if return_routing_weights:
            return outputs, routing_weights
        return outputs

    def _by_task(self, routing_inputs: Any) -> dict[str, Any]:
        """One entry for all tasks, or a dict that names exactly the tasks."""
        if not isinstance(routing_inputs, Mapping):
            return dict.fromkeys(self.gates, routing_inputs)
        if set(routing_inputs) != set(self.gates):
            raise ValueError(
                "Routing inputs given as a dict must name every task, and no "
                f"other. Expected: {sorted(self.gates)}. "
                f"Received: {sorted(routing_inputs)}"
            )
        return dict(routing_inputs)

    def _routing_shapes(self, input_shape: Any) -> dict[str, Any]:
        features_shape, routing_shape = split_shapes(input_shape)
        if routing_shape is None:
            routing_shape = features_shape
        by_task = self._by_task(routing_shape)
        return {task: tuple(shape) for task, shape in by_task.items()}

    def compute_output_shape(self, input_shape: Any) -> dict[str, Any]:
        features_shape, _ = split_shapes(input_shape)
        return {
            task: self.mixture_shape(features_shape, weights_shape)
            for task, weights_shape in self.routing_weights_shape(
                input_shape
            ).items()
        }

    def routing_weights_shape(self, input_shape: Any) -> dict[str, Any]:
        shapes = self._routing_shapes(input_shape)
        return {
            task: gate.compute_output_shape(shapes[task])
            for task, gate in self.gates.items()
        }

    def get_config(self) -> dict[str, Any]:
        # Gates that share a permutation must share it again when rebuilt.
        owners: dict[int, str] = {}
        shared = {}
        for task, gate in self.gates.items():
            if gate.permutation is not None:
                owner = owners.setdefault(id(gate.permutation), task)
                if owner != task:
                    shared[task] = owner
        return {
            **super().get_config(),
            "gates": {
                task: keras.saving.serialize_keras_object(gate)
                for task, gate in self.gates.items()
            },
            "shared_permutations": shared,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> "MultiGateMixtureOfExperts":
        config = dict(config)
        config["experts"] = cls.experts_from_config(
            config["experts"], custom_objects
        )
        shared = config.pop("shared_permutations")
        gates: dict[str, Gate] = {}
        for task, gate in config["gates"].items():
            if task in shared:
                permutation = gates[shared[task]].permutation
                gate = {
                    **gate,
                    "config": {**gate["config"], "permutation": permutation},
                }
            gates[task] = keras.saving.deserialize_keras_object(
                gate, custom_objects=custom_objects
            )
        config["gates"] = gates
        return cls(**config)
