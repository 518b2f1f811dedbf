"""Captures the routing weights of every gate in a model."""

import contextlib
import itertools
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_comet._keras import keras
from keras_comet.gates.base import Gate
from keras_comet.gates.base import captured_calls


def routing_weights(
    model: keras.layers.Layer, inputs: Any
) -> dict[str, np.ndarray]:
    """Calls a model once and returns the weights of every gate in it.

    Works for functional, Sequential and subclassed models, and wherever in
    the model the gates are. The call is eager, with `training=False`, and
    changes nothing.

    Args:
        model: Keras model or layer.
        inputs: one batch of its inputs: array, tensor, or a dict, list or
            tuple of them.

    Returns:
        A dict from the task of each gate, or the name of a gate without
        task, to its routing weights `(..., num_experts)`, in the order of the
        calls. Where two gates have the same label, `"/<gate name>"` is
        appended to both. A gate that is called more than once gives the rows
        of all its calls, `(rows, num_experts)`.

    Raises:
        ValueError: If no gate was called, or one inside a `tf.function`,
            where weights have no values.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_comet

    model = keras.Sequential(
        [
            keras.Input((16,)),
            keras_comet.MixtureOfExperts(
                [keras.layers.Dense(4) for _ in range(8)],
                keras_comet.COMETGate(8, name="gate"),
            ),
        ]
    )
    weights = keras_comet.routing_weights(model, np.ones((3, 16)))
    weights["gate"].shape  # (3, 8)
    ```
    """
    return {
        label: weights
        for label, (_, weights) in capture_routing(model, inputs).items()
    }


def capture_routing(
    model: keras.layers.Layer, inputs: Any
) -> dict[str, tuple[Gate, np.ndarray]]:
    """Does what `routing_weights` does, and returns the gates as well.

    Args:
        model: Keras model or layer.
        inputs: one batch of its inputs.

    Returns:
        A dict from label to the gate and its routing weights.

    Raises:
        ValueError: If no gate was called, or one inside a `tf.function`.
    """
    with capture_calls() as captured:
        model(inputs, training=False)
    # By identity, as Keras layers may have equal names.
    calls: dict[int, tuple[Gate, list[np.ndarray]]] = {}
    in_graph: dict[int, Gate] = {}
    for gate, weights in captured:
        if hasattr(weights, "numpy"):
            calls.setdefault(id(gate), (gate, []))[1].append(weights.numpy())
        else:
            in_graph[id(gate)] = gate
    # Keras 3 traces a model that is not built before it calls it eagerly.
    unseen = [gate.name for key, gate in in_graph.items() if key not in calls]
    if unseen:
        raise ValueError(
            "Gates were called in a graph, where weights have no values to "
            f"return. Received: gates {unseen} of model {model.name!r}. "
            "Remove @tf.function from the `call` around them."
        )
    if not calls:
        raise ValueError(
            f"The model {model.name!r} called no gate, so there are no "
            "routing weights to return. Expected: a model that contains at "
            "least one keras_comet.Gate, outside of any @tf.function."
        )
    labels = unique_labels([gate for gate, _ in calls.values()])
    return {
        label: (gate, _join(weights))
        for label, (gate, weights) in zip(labels, calls.values(), strict=True)
    }


@contextlib.contextmanager
def capture_calls() -> Iterator[list[tuple[Gate, tf.Tensor]]]:
    """Lists the calls of gates made meanwhile in this thread.

    Gates return what they always do. Within a capture, another one takes
    over until it ends.

    Yields:
        A list, growing, of each gate that was called and its routing weights.
    """
    calls: list[tuple[Gate, tf.Tensor]] = []
    token = captured_calls.set(calls)
    try:
        yield calls
    finally:
        captured_calls.reset(token)


def amend_calls(routing_weights: Iterable[tuple[Gate, tf.Tensor]]) -> None:
    """Notes what became of the weights that gates returned in their last call.

    For layers that use other weights than those, so that a capture lists what
    is used.

    Args:
        routing_weights: pairs of a gate and the weights that are used.
    """
    calls = captured_calls.get()
    if calls is None:
        return
    for gate, weights in routing_weights:
        last = max(
            index for index, (called, _) in enumerate(calls) if called is gate
        )
        calls[last] = gate, weights


def unique_labels(gates: Sequence[Gate]) -> list[str]:
    """Names gates by task, or name, and tells equal ones apart."""
    labels = [gate.task or gate.name for gate in gates]
    # Gates in different layers may even have equal names.
    return number_equal(
        f"{label}/{gate.name}" if labels.count(label) > 1 else label
        for label, gate in zip(labels, gates, strict=True)
    )


def number_equal(labels: Iterable[str]) -> list[str]:
    """Appends numbers to labels that were there before."""
    unique: list[str] = []
    for label in labels:
        numbers = itertools.count(1)
        candidate = label
        while candidate in unique:
            candidate = f"{label}_{next(numbers)}"
        unique.append(candidate)
    return unique


def _join(weights: list[np.ndarray]) -> np.ndarray:
    if len(weights) == 1:
        return weights[0]
    return np.concatenate(
        [each.reshape(-1, each.shape[-1]) for each in weights]
    )
