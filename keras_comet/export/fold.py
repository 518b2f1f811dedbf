"""Folding of permutations into what they permute, in an export alone."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_comet._keras import flatten_layers
from keras_comet._keras import keras
from keras_comet.gates import HashGate
from keras_comet.gates import SoftmaxGate
from keras_comet.gates import TopKGate
from keras_comet.gates.base import Gate
from keras_comet.gates.base import observe_gates
from keras_comet.gates.expert_permutation import is_identity
from keras_comet.layers.expert_mixture import ExpertMixture


@contextlib.contextmanager
def folding_permutations(model: keras.layers.Layer) -> Iterator[None]:
    """Leaves no permutation in graphs traced meanwhile, nor in weights saved.

    Where all gates of a mixture have one permutation, its experts are traced
    in permuted order. Elsewhere each gate has its permutation in its own
    weights, which get their values back at the end.

    Args:
        model: Keras model, its permutations settled.

    Raises:
        ValueError: If a permutation cannot be folded, or its gate was not
            traced anew.
    """
    layers = flatten_layers(model)
    gates = {
        id(layer): layer
        for layer in layers
        if isinstance(layer, Gate) and not is_identity(_orders(layer))
    }
    mixtures = [layer for layer in layers if isinstance(layer, ExpertMixture)]
    with contextlib.ExitStack() as stack:
        stack.enter_context(_checking_calls(dict(gates)))
        for mixture in mixtures:
            order = _common_order(mixture, mixtures)
            if order is not None:
                stack.enter_context(mixture.ordering_experts(order))
                for gate in mixture.list_gates():
                    gates.pop(id(gate), None)
        for gate in gates.values():
            stack.enter_context(_permuting_weights(gate))
        yield


def _orders(gate: Gate) -> np.ndarray[Any, Any]:
    """The permutations of a gate, `(num_permutations, n)`."""
    if gate.permutation is None:
        return np.arange(gate.num_experts)[np.newaxis]
    return _value(gate.permutation.assignment)


def _common_order(
    mixture: ExpertMixture, mixtures: list[ExpertMixture]
) -> np.ndarray[Any, Any] | None:
    """What the experts can be ordered by; `None` if by nothing."""
    gates = mixture.list_gates()
    elsewhere = {
        id(gate)
        for other in mixtures
        if other is not mixture
        for gate in other.list_gates()
    }
    first, *others = np.concatenate([_orders(gate) for gate in gates])
    if any(id(gate) in elsewhere for gate in gates) or any(
        (first != other).any() for other in others
    ):
        return None
    return None if is_identity(first) else first


@contextlib.contextmanager
def _permuting_weights(gate: Gate) -> Iterator[None]:
    first, *others = _orders(gate)
    permuted = _permute_weights(gate, first)
    if not permuted or any((first != other).any() for other in others):
        raise ValueError(
            f"The permutation of the gate {gate.name!r} "
            f"({type(gate).__name__}) cannot be folded: neither into the "
            "order of the experts, as the gates and selectors of its mixture "
            "do not share one, nor into the gate's weights. Export with "
            "fold=False, which costs one gather of "
            f"{gate.num_experts} numbers."
        )
    before = [(variable, _value(variable)) for variable, _ in permuted]
    try:
        for variable, value in permuted:
            variable.assign(value)
        with gate.without_permutation():
            yield
    finally:
        for variable, value in before:
            variable.assign(value)


def _permute_weights(
    gate: Gate, order: np.ndarray[Any, Any]
) -> list[tuple[Any, np.ndarray[Any, Any]]]:
    """Lists variables with the values that make up for the permutation.

    Only of gates known here: a subclass may have more that is by expert.
    """
    if type(gate) in (SoftmaxGate, TopKGate):
        inverse = np.argsort(order)
        return [
            (variable, _value(variable)[..., inverse])
            for variable in (gate.kernel, gate.bias)
        ]
    if type(gate) is HashGate and gate.num_ids is not None:
        return [(gate.assignment, order[_value(gate.assignment)])]
    return []


@contextlib.contextmanager
def _checking_calls(gates: dict[int, Gate]) -> Iterator[None]:
    """Raises a ValueError if one of these gates is not called meanwhile."""
    called = set()
    with observe_gates(lambda gate, _: called.add(id(gate))):
        yield
    missed = [gate.name for key, gate in gates.items() if key not in called]
    if missed:
        raise ValueError(
            f"The gates {missed} were not called while the model was traced, "
            "so that their permutations are not folded: a @tf.function in the "
            "model keeps the trace of an earlier export. Remove it, or export "
            "with fold=False."
        )


def _value(variable: Any) -> np.ndarray[Any, Any]:
    return tf.convert_to_tensor(variable).numpy()
