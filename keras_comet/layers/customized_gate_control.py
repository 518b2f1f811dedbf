"""A mixture with experts of each task and experts that tasks share."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from keras_comet._keras import serializable
from keras_comet.containers import LayerDict
from keras_comet.containers import register_user
from keras_comet.containers import serialize_layers
from keras_comet.gates.base import Gate
from keras_comet.gates.expert_permutation import check_names
from keras_comet.layers.expert_group import Experts
from keras_comet.layers.expert_group import as_one
from keras_comet.layers.routed_experts import RoutedExperts
from keras_comet.layers.task_gates import check_gate
from keras_comet.layers.task_gates import check_task_gates

# Key of what belongs to no task.
_SHARED = "shared"


@serializable
class CustomizedGateControl(RoutedExperts):
    """Combines experts of the task's own and experts that all tasks share.

    `y_t = sum_e g_te f_e`, over the task's own experts and then the shared
    ones: the layer of CGC, for tasks that disturb each other in
    `MultiGateMixtureOfExperts`. With sparse dispatch only chosen experts are
    computed, and a shared expert computes a row once, whichever tasks chose
    it. See `MixtureOfExperts` for dispatch.

    PLE is a stack of such layers. All but the last have a `shared_gate`, and
    return what the next one reads: for each task its own features, and
    `"shared"` ones for the shared experts and the shared gate.

    For expert normalization ([Wang et al.,
    2024](https://arxiv.org/abs/2408.05430), HoME) normalize what each expert
    returns: `keras.Sequential([keras.layers.Dense(32),
    keras.layers.BatchNormalization(), keras.layers.Activation("swish")])`.

    Reference:
    - [Tang et al., 2020](https://doi.org/10.1145/3383313.3412236),
      Progressive Layered Extraction, Sections 4.1 and 4.2

    Args:
        task_experts: dict from task name to the task's own experts: a list of
            Keras layers or models, or one `StackedDenseExperts` or
            `SharedBaseExperts`. All have equal output shapes.
        shared_experts: the experts of all tasks, likewise.
        gates: dict from task name to `Gate`. A gate's experts are its task's
            own, in their order, followed by the shared ones; its
            `num_experts` is the number of both.
        shared_gate: `Gate` that combines experts for the next layer, among
            all: those of each task, in the order of `task_experts`, followed
            by the shared ones. Defaults to `None`: no layer follows.
        dispatch: str. `"sparse"`, `"dense"` or `"auto"`, as in
            `MixtureOfExperts`; `"auto"` decides for the experts of each task,
            and for the shared ones. Defaults to `"auto"`.

    Call arguments:
        inputs: `features`, or `(features, routing_inputs)`. Features are one
            tensor, or a dict with one for each task and one for `"shared"`;
            so are routing inputs, for the gates, and may lack `"shared"` if
            there is no shared gate. Without routing inputs a gate reads the
            features of its task.
        training: bool. Passed on to the gates and the experts.
        return_routing_weights: bool. Whether to return the gates' routing
            weights as well. Defaults to `False`.
        mask: mask of the inputs, which Keras passes on: padding is given to
            no expert, and is 0 in the output. Defaults to `None`.

    Input shape:
        features `(batch, ...)`, or `(batch, time, features)` routed by
        token; routing inputs as the gates say.

    Output shape:
        A dict from task name, and `"shared"` if there is a shared gate, to
        `(batch, *expert_output_shape)`; with `return_routing_weights=True` a
        tuple of it and a dict with the same keys of routing weights.

    Raises:
        ValueError: If the experts' output shapes differ, one is given twice,
            a gate has another number of experts, tasks of experts and gates
            differ, a task is called `"shared"`, inputs name other tasks, or
            shapes do not fit.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_comet

    def make_level(shared_gate=None):
        return keras_comet.CustomizedGateControl(
            {
                task: [keras.layers.Dense(8, "relu") for _ in range(2)]
                for task in ("click", "buy")
            },
            [keras.layers.Dense(8, "relu") for _ in range(3)],
            {task: keras_comet.COMETGate(5) for task in ("click", "buy")},
            shared_gate,
        )

    # Of all 2 + 2 + 3 experts.
    level = make_level(keras_comet.COMETGate(7))(np.ones((4, 16), "float32"))
    make_level()(level)["buy"].shape  # (4, 8)
    ```
    """

    def __init__(
        self,
        task_experts: Mapping[str, Experts],
        shared_experts: Experts,
        gates: Mapping[str, Gate],
        shared_gate: Gate | None = None,
        dispatch: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(dispatch, **kwargs)
        _check_tasks(task_experts, gates)
        self._task_experts = LayerDict(
            {
                task: as_one(experts, self.dtype_policy)
                for task, experts in task_experts.items()
            },
            dtype=self.dtype_policy,
            name="task_experts",
        )
        self._shared_experts = as_one(shared_experts, self.dtype_policy)
        self._check_experts()
        check_task_gates(gates, lambda task: self._count(task, _SHARED))
        if shared_gate is not None:
            total = self._count(*self._task_experts, _SHARED)
            check_gate(shared_gate, "the shared gate", total)
        self.gates = LayerDict(
            {task: gates[task] for task in task_experts},
            dtype=self.dtype_policy,
            name="gates",
        )
        self.shared_gate = shared_gate
        register_user(self._named_gates().values())
        check_names(
            [
                gate.permutation
                for gate in self._named_gates().values()
                if gate.permutation
            ]
        )
        for task, gate in self.gates.items():
            gate.task = task

    def _check_experts(self) -> None:
        experts = tf.nest.flatten([*self.task_experts.values()])
        experts += tf.nest.flatten(self.shared_experts)
        if len({id(expert) for expert in experts}) < len(experts):
            raise ValueError(
                "Experts of a task must be its own. Received: one layer more "
                "than once among those of the tasks and the shared ones. Make "
                "a new layer for each."
            )
        register_user(experts)

    @property
    def task_experts(self) -> dict[str, Any]:
        """Each task's experts as given: a list of layers, or one for all."""
        return {
            task: experts.as_given()
            for task, experts in self._task_experts.items()
        }

    @property
    def shared_experts(self) -> Any:
        """The shared experts as given: a list of layers, or one for all."""
        return self._shared_experts.as_given()

    def _groups(self) -> dict[str, Any]:
        return {**dict(self._task_experts), _SHARED: self._shared_experts}

    def _count(self, *groups: str) -> int:
        return sum(self._groups()[group].num_experts for group in groups)

    def _group_label(self, group: str) -> str:
        return f"{self.name}/{group}"

    def _named_gates(self) -> dict[str, Gate]:
        gates = dict(self.gates)
        if self.shared_gate is not None:
            gates[_SHARED] = self.shared_gate
        return gates

    def _groups_of(self, gate: str) -> list[str]:
        return list(self._groups()) if gate == _SHARED else [gate, _SHARED]

    def _main_group(self, gate: str) -> str:
        return gate

    def _by_group(self, features: Any) -> dict[str, Any]:
        return self._by_name(features, list(self._groups()))

    def _by_gate(self, routing_inputs: Any) -> dict[str, Any]:
        return self._by_name(routing_inputs, list(self._named_gates()))

    def _by_name(self, inputs: Any, names: list[str]) -> dict[str, Any]:
        """Returns the inputs under each of these names."""
        if not isinstance(inputs, Mapping):
            return dict.fromkeys(names, inputs)
        if not set(names) <= set(inputs) <= set(self._groups()):
            raise ValueError(
                "A dict of features must name every task, and "
                f"{_SHARED!r}; one of routing inputs every gate. Expected: "
                f"{sorted(names)}. Received: {sorted(inputs)}. A layer that "
                "another one follows needs a `shared_gate`."
            )
        return {name: inputs[name] for name in names}

    def _join(self, by_gate: dict[str, Any]) -> dict[str, Any]:
        return by_gate

    def get_config(self) -> dict[str, Any]:
        shared_gate = self.shared_gate
        return {
            **super().get_config(),
            "task_experts": serialize_layers(self.task_experts, self),
            "shared_experts": serialize_layers(self.shared_experts, self),
            "gates": serialize_layers(dict(self.gates), self),
            "shared_gate": shared_gate and serialize_layers(shared_gate, self),
        }


def _check_tasks(task_experts: Any, gates: Any) -> None:
    if not isinstance(task_experts, Mapping) or not task_experts:
        raise ValueError(
            "`task_experts` must be a dict from task name to experts, with at "
            f"least one task. Received: task_experts={task_experts!r}"
        )
    if _SHARED in task_experts:
        raise ValueError(
            f"No task may be called {_SHARED!r}, which is the key of what "
            f"belongs to all. Received: tasks {list(task_experts)}"
        )
    if set(task_experts) != set(gates):
        raise ValueError(
            "Each task needs experts and a gate. Received: experts of "
            f"{sorted(task_experts)}, gates of {sorted(gates)}"
        )
