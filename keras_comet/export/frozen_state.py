"""State of a model as constants of a graph."""

import contextlib
from collections.abc import Iterator
from typing import Any
from typing import TypeAlias

import numpy as np
import tensorflow as tf

from keras_comet._keras import flatten_layers
from keras_comet._keras import keras
from keras_comet.gates.expert_permutation import ExpertPermutation
from keras_comet.gates.input_scale import InputScale
from keras_comet.gates.smooth_step_gate import SmoothStepGate

# A layer, the name of one of its variables, and a value in its place.
Constant: TypeAlias = tuple[keras.layers.Layer, str, np.ndarray[Any, Any]]


def find_constants(
    model: keras.layers.Layer, hard_routing: bool
) -> list[Constant]:
    """Lists the state that inference reads and does not change.

    Args:
        model: Keras model, built.
        hard_routing: bool. Whether gates that have a hard routing mode are to
            be in it, whatever they are in now.

    Returns:
        For each variable of gates and permutations that only training and
        search change, the layer, the variable's name, and its value.

    Raises:
        ValueError: If a permutation is still being searched.
    """
    return [
        (layer, name, value)
        for layer in flatten_layers(model)
        if layer.built
        for name, value in _constants_of(layer, hard_routing).items()
    ]


@contextlib.contextmanager
def frozen_state(constants: list[Constant]) -> Iterator[None]:
    """Makes layers read constants in place of variables.

    To be entered while a graph is traced. Operations that depend on constants
    alone are then known, and branches that are not taken are left out. No
    variable is assigned, and the layers get their variables back at the end.

    Functions that were traced inside the model before are traced once more,
    for this graph alone.

    Args:
        constants: what `find_constants` returned.
    """
    # Assigning an attribute would tell Keras that the variable is gone.
    live = [(layer, name, vars(layer)[name]) for layer, name, _ in constants]
    try:
        for layer, name, value in constants:
            vars(layer)[name] = value
        # TensorFlow traces a nested function once for each device function.
        with tf.compat.v1.device(lambda op: op.device):
            yield
    finally:
        for layer, name, variable in live:
            vars(layer)[name] = variable


def _constants_of(
    layer: Any, hard_routing: bool
) -> dict[str, np.ndarray[Any, Any]]:
    if isinstance(layer, SmoothStepGate):
        scale = _read(layer.gamma_scale)
        return {"gamma_scale": 0.0 * scale if hard_routing else scale}
    if isinstance(layer, InputScale):
        scale = _read(layer.scale)
        return {"scale": np.where(scale > 0.0, scale, np.float32(1.0))}
    if isinstance(layer, ExpertPermutation):
        if not _read(layer.frozen):
            raise ValueError(
                f"The permutation {layer.name!r} is still being searched. "
                "Train until the search is over, or end it here by "
                "`permutation.freeze()`."
            )
        return {
            "assignment": _read(layer.assignment),
            "frozen": np.array(True),
        }
    return {}


def _read(variable: Any) -> np.ndarray[Any, Any]:
    return np.asarray(tf.convert_to_tensor(variable))
