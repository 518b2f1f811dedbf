"""The gates of several tasks, one for each."""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

from keras_comet.containers import LayerDict
from keras_comet.gates.base import Gate


def check_gate(gate: Any, label: str, num_experts: int) -> None:
    """Raises a ValueError unless a gate chooses among so many experts."""
    if not isinstance(gate, Gate):
        raise ValueError(
            f"A gate must be a keras_comet.Gate. Received: {label}, {gate}"
        )
    if gate.num_experts != num_experts:
        raise ValueError(
            f"The gate must choose among the {num_experts} experts "
            f"given. Received: {label} with num_experts={gate.num_experts}"
        )


def check_task_gates(
    gates: Mapping[str, Gate], num_experts_of: Callable[[str], int]
) -> None:
    """Raises a ValueError unless each task has a gate of its own.

    Args:
        gates: dict from task name to gate.
        num_experts_of: function from task name to the number of experts that
            its gate must choose among.
    """
    if not isinstance(gates, (Mapping, LayerDict)) or not gates:
        raise ValueError(
            "`gates` must be a dict from task name to gate, with at least "
            f"one task. Received: gates={gates!r}"
        )
    if len({id(gate) for gate in gates.values()}) < len(gates):
        raise ValueError(
            "Each task must have a gate of its own. Received: the same "
            f"gate more than once for the tasks {list(gates)}."
        )
    for task, gate in gates.items():
        check_gate(gate, f"the gate of task {task!r}", num_experts_of(task))
        if gate.task not in (None, task):
            raise ValueError(
                f"A gate serves one task. Received: for task {task!r} the "
                f"gate of task {gate.task!r}. Make a new gate."
            )
