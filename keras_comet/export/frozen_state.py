"""State of a model as one graph reads it: constants, and merged experts."""

import contextlib
from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_comet._keras import flatten_layers
from keras_comet._keras import keras
from keras_comet.gates.capture import capture_calls
from keras_comet.gates.expert_permutation import ExpertPermutation
from keras_comet.gates.input_scale import InputScale
from keras_comet.gates.smooth_step_gate import SmoothStepGate
from keras_comet.layers.multi_gate_mixture_of_experts import (
    MultiGateMixtureOfExperts,
)
from keras_comet.layers.stacked_dense_experts import StackedDenseExperts

_BRANCHES = ("CondBranchFuncGraph", "WhileBodyFuncGraph", "WhileCondFuncGraph")


class Constant(NamedTuple):
    """The value that one graph uses in place of a variable.

    An array becomes part of the graph; a variable is read, as what is too
    large to be repeated wherever it is used.
    """

    layer: keras.layers.Layer
    name: str
    value: np.ndarray[Any, Any] | tf.Variable
    # Whether that is to make a difference.
    is_changed: bool = False


def find_constants(
    model: keras.layers.Layer, hard_routing: bool
) -> list[Constant]:
    """Lists the state that inference reads, with the values of now.

    Args:
        model: Keras model, built.
        hard_routing: bool. Whether gates that have a hard routing mode are to
            be in it, whatever they are in now.

    Returns:
        One constant for each variable of gates, mixtures and permutations
        that only training and search assign, and for experts that share a
        base, the sums of base and deviations in their place.

    Raises:
        ValueError: If a permutation is still being searched.
    """
    return [
        constant
        for layer in flatten_layers(model)
        for constant in _constants_of(layer, hard_routing)
    ]


def _constants_of(layer: Any, hard_routing: bool) -> list[Constant]:
    if isinstance(layer, SmoothStepGate) and layer.built:
        scale = _read(layer.gamma_scale)
        value = np.zeros_like(scale) if hard_routing else scale
        return [
            Constant(layer, "gamma_scale", value, bool(value != scale)),
            Constant(layer, "cardinality_cap", _read(layer.cardinality_cap)),
        ]
    if isinstance(layer, InputScale) and layer.built:
        scale = _read(layer.scale)
        value = np.where(scale > 0.0, scale, np.float32(1.0))
        return [Constant(layer, "scale", value)]
    if isinstance(layer, MultiGateMixtureOfExperts) and layer.built:
        return [Constant(layer, "union_cap", _read(layer.union_cap))]
    if isinstance(layer, StackedDenseExperts) and layer.base_kernels:
        return _merge(layer)
    if isinstance(layer, ExpertPermutation):
        frozen = _read(layer.frozen)
        if not frozen:
            raise ValueError(
                f"The permutation {layer.name!r} is still being searched. "
                "Train until the search is over, or end it here by "
                "`permutation.freeze()`."
            )
        return [
            Constant(layer, "frozen", frozen),
            Constant(layer, "assignment", _read(layer.assignment)),
        ]
    return []


def _merge(experts: StackedDenseExperts) -> list[Constant]:
    """Puts sums in the place of deviations, which leaves nothing of a base."""
    return [
        constant
        for name, merged in experts.merged_weights().items()
        for constant in (
            Constant(experts, name, tf.Variable(merged, trainable=False)),
            Constant(experts, f"base_{name}", np.zeros(0, merged.dtype)),
        )
    ]


def _read(variable: Any) -> np.ndarray[Any, Any]:
    return np.asarray(tf.convert_to_tensor(variable))


@contextlib.contextmanager
def frozen_state(constants: list[Constant]) -> Iterator[None]:
    """Makes layers read constants in place of variables, in this graph alone.

    To be entered while a graph is traced. Operations on constants are known
    then, and branches that are not taken are left out. No variable is
    assigned. Elsewhere, in other threads and in functions that are traced
    inside of the model, layers read their variables as ever.

    Args:
        constants: what `find_constants` returned.

    Raises:
        ValueError: If a gate that is to route hard does not, as it is called
            inside of another function.
    """
    graph = tf.compat.v1.get_default_graph()
    live = [vars(each.layer)[each.name] for each in constants]
    try:
        for each, variable in zip(constants, live, strict=True):
            # Past Keras, for which another attribute is another variable.
            vars(each.layer)[each.name] = _Frozen(variable, each.value, graph)
        with capture_calls() as calls:
            yield
    finally:
        for each, variable in zip(constants, live, strict=True):
            vars(each.layer)[each.name] = variable
    called = [gate for gate, weights in calls if weights.graph is graph]
    for each in constants:
        if each.is_changed and not any(each.layer is gate for gate in called):
            raise ValueError(
                f"The gate {each.layer.name!r} cannot be exported with hard "
                "routing, as the model calls it inside of a @tf.function, or "
                "not at all. Remove the @tf.function, or train the gate hard, "
                "by `gate.hard_routing = True`."
            )


class _Frozen:
    """Stands for a variable: another value in one graph, itself elsewhere."""

    def __init__(self, variable: Any, value: Any, graph: tf.Graph) -> None:
        self.variable = variable
        self.value = value
        self.graph = graph

    def __tf_tensor__(
        self, dtype: tf.DType | None = None, name: str | None = None
    ) -> tf.Tensor:
        graph = tf.compat.v1.get_default_graph()
        while type(graph).__name__ in _BRANCHES:
            graph = graph.outer_graph
        if graph is self.graph:
            return tf.convert_to_tensor(self.value, dtype, name=name)
        return tf.convert_to_tensor(self.variable, dtype, name=name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.variable, name)
