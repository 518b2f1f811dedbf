"""Names that graphs accept, as those of tasks may be any text."""

import re
from collections.abc import Mapping
from typing import Any


def node_name(name: str) -> str:
    """Returns a legal name of a layer or of a node of a graph.

    Args:
        name: str. Any text.

    Returns:
        The text with an underscore in place of each character that TensorFlow
        or Keras refuses, beginning with a letter or a digit.
    """
    legal = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    return legal if re.match(r"[A-Za-z0-9]", legal) else f"x{legal}"


def by_node_name(by_task: Any) -> Any:
    """Renames the keys of a dict, or returns what is no dict as it is."""
    if not isinstance(by_task, Mapping):
        return by_task
    return {node_name(task): value for task, value in by_task.items()}
