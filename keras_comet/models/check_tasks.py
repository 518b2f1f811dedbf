"""Checks of the tasks of one model, and of their gates."""

from collections.abc import Mapping
from collections.abc import Sequence

from keras_comet.gates.base import Gate
from keras_comet.models.node_name import node_name
from keras_comet.models.task import Task


def check_tasks(tasks: Sequence[Task], gates: Mapping[str, Gate]) -> None:
    """Raises a ValueError unless tasks and gates belong together.

    Args:
        tasks: list of `Task`.
        gates: dict from task name to `Gate`.
    """
    for task in tasks:
        if not isinstance(task, Task):
            raise ValueError(
                "`tasks` must be a list of keras_comet.Task. "
                f"Received: {task!r}"
            )
    for name, gate in gates.items():
        if not isinstance(gate, Gate):
            raise ValueError(
                "A gate must be a keras_comet.Gate, such as COMETGate. "
                f"Received: {gate!r} for task {name!r}"
            )
    names = [task.name for task in tasks]
    if (
        not names
        or len(set(map(node_name, names))) < len(names)
        or set(names) != set(gates)
    ):
        raise ValueError(
            "`tasks` and `gates` must have the same names, each once, "
            "whatever stands for characters that no graph accepts. "
            f"Received: tasks {names}, gates {list(gates)}"
        )
    _check_references(tasks)


def check_loss_balance(loss_balance: str | None, tasks: Sequence[Task]) -> None:
    """Raises a ValueError unless losses can be balanced this way.

    Args:
        loss_balance: str, or `None`.
        tasks: list of `Task`.
    """
    if loss_balance not in (None, "uncertainty"):
        raise ValueError(
            '`loss_balance` must be "uncertainty" or None. Received: '
            f"{loss_balance=}"
        )
    weightless = [task.name for task in tasks if task.weight == 0.0]
    if loss_balance is not None and weightless:
        raise ValueError(
            "A task of weight 0 has no loss whose variance could be learned. "
            f"Received: {loss_balance=} and tasks {weightless} of weight 0. "
            "Give them a small weight, or none of the tasks a balance."
        )


def _check_references(tasks: Sequence[Task]) -> None:
    units = {task.name: task.units for task in tasks}
    before: set[str] = set()
    for task in tasks:
        if task.only_if not in (None, *units):
            raise ValueError(
                "`only_if` must name a task of the model. Expected: one of "
                f"{list(units)}. Received: only_if={task.only_if!r} for task "
                f"{task.name!r}"
            )
        if task.times is not None and (
            task.times not in before or units[task.times] != task.units
        ):
            raise ValueError(
                "`times` must name a task that comes before, with as many "
                f"units. Received: times={task.times!r} for task "
                f"{task.name!r} of {units}, which are names and units in order"
            )
        before.add(task.name)
