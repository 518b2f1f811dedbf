"""A mixture of experts with one gate per task."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from keras_comet._keras import aggregation
from keras_comet._keras import keras
from keras_comet._keras import serializable
from keras_comet.containers import LayerDict
from keras_comet.containers import register_user
from keras_comet.containers import serialize_layers
from keras_comet.gates.base import Gate
from keras_comet.gates.capture import amend_calls
from keras_comet.gates.expert_permutation import check_names
from keras_comet.layers.expert_group import Experts
from keras_comet.layers.expert_mixture import ExpertMixture
from keras_comet.layers.task_gates import check_task_gates
from keras_comet.ops import keep_union
from keras_comet.ops import static_cond


@serializable
class MultiGateMixtureOfExperts(ExpertMixture):
    """Combines shared experts once per task, by the task's own gate.

    `y_t = sum_e g_te(routing_inputs_t) f_e(features)`: the layer of MMoE,
    with sparse gates. An expert computes a row once if any task selected it
    there, and not at all if none did. See `MixtureOfExperts` for dispatch.

    T tasks of k experts each may so compute T k experts for a row. The
    variable `union_cap` bounds that in training and at inference alike: on a
    row on which the tasks use more experts together, they keep the
    `union_cap` ones with the largest sum of their weights. What a task has on
    these is divided by its sum; a task that has none of them takes the mean
    of the tasks' weights on them. `CardinalityTarget` sets it.

    Reference:
    - [Ma et al., 2018](https://doi.org/10.1145/3219819.3220007), Eq. (5)

    Args:
        experts: list of Keras layers or models with equal output shapes, or
            one `StackedDenseExperts` or `SharedBaseExperts`.
        gates: dict from task name to `Gate`, each with as many experts.
        dispatch: str. `"sparse"`, `"dense"` or `"auto"`, as in
            `MixtureOfExperts`; `"auto"` counts what any task selected.
            Defaults to `"auto"`.
        shared_experts: the same: computed for every row, and added to what is
            combined. Defaults to `()`.

    Attributes:
        union_cap: integer variable `()`, `num_experts` at first: the largest
            number of experts that all tasks together use for a row.

    Call arguments:
        inputs: `features`, or `(features, routing_inputs)`; routing inputs
            are one tensor for all gates or a dict with one for each task.
        training: bool. Passed on to the gates and the experts.
        return_routing_weights: bool. Whether to return the gates' routing
            weights, as capped, as well. Defaults to `False`.
        mask: mask of the inputs, which Keras passes on: padding is given to
            no expert, and is 0 in the output. Defaults to `None`.

    Input shape:
        features `(batch, ...)`, or `(batch, time, features)` routed by
        token; routing inputs as the gates say.

    Output shape:
        A dict from task name to `(batch, *expert_output_shape)`; with
        `return_routing_weights=True` a tuple of it and a dict from task name
        to `(batch, num_experts)`.

    Raises:
        ValueError: If the experts' output shapes differ, shared ones
            included, a gate has another number of experts, two tasks have
            the same gate, routing inputs name other tasks, or shapes do not
            fit.

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
        experts: Experts,
        gates: Mapping[str, Gate],
        dispatch: str = "auto",
        shared_experts: Experts = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(experts, dispatch, shared_experts, **kwargs)
        check_task_gates(gates, lambda task: self.num_experts)
        check_names([g.permutation for g in gates.values() if g.permutation])
        self.gates = LayerDict(gates, dtype=self.dtype_policy, name="gates")
        register_user(gates.values())
        for task, gate in gates.items():
            gate.task = task

    def build(self, input_shape: Any) -> None:
        self.union_cap = self.add_weight(
            name="union_cap",
            shape=(),
            dtype="int32",
            initializer=keras.initializers.Constant(self.num_experts),
            trainable=False,
            aggregation=aggregation("only_first_replica"),
        )
        super().build(input_shape)

    def _cap_union(self, weights: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        cap, given = tf.convert_to_tensor(self.union_cap), [*weights.values()]
        kept = static_cond(
            # Not `<`, whose value is not known in a graph of constants.
            tf.not_equal(cap, self.num_experts),
            lambda: keep_union(given, cap),
            lambda: given,
        )
        amend_calls(zip(self.gates.values(), kept, strict=True))
        return dict(zip(weights, kept, strict=True))

    def _named_gates(self) -> LayerDict:
        return self.gates

    def _by_gate(self, routing_inputs: Any) -> dict[str, Any]:
        if not isinstance(routing_inputs, Mapping):
            return dict.fromkeys(self.gates, routing_inputs)
        if set(routing_inputs) != set(self.gates):
            raise ValueError(
                "A dict of routing inputs must name every task, and no other. "
                f"Expected: {sorted(self.gates)}. "
                f"Received: {sorted(routing_inputs)}"
            )
        return dict(routing_inputs)

    def _join(self, by_gate: dict[str, Any]) -> dict[str, Any]:
        return by_gate

    def get_config(self) -> dict[str, Any]:
        gates = serialize_layers(dict(self.gates), self)
        return {**super().get_config(), "gates": gates}
