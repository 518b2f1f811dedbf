"""Checks of gates, one function for each promise."""

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_comet.gates.base import Gate
from keras_comet.gates.expert_permutation import ExpertPermutation
from keras_comet.testing.subject import InitKwargs
from keras_comet.testing.subject import Inputs
from keras_comet.testing.subject import make_inputs
from keras_comet.testing.subject import make_kwargs
from keras_comet.testing.subject import make_layer
from keras_comet.testing.subject import require
from keras_comet.testing.subject import scale_floats

# Takes logits with the default initializers to about 1e4.
_EXTREME = 5e4

# Saturates every smooth-step of a gate whose weights it multiplies.
_SATURATING = 1e6


def check_simplex(
    gate_class: type[Gate], init_kwargs: InitKwargs, inputs: Inputs
) -> None:
    """Rows are float32, nonnegative and sum to one, for extreme inputs too."""
    gate = make_layer(gate_class, init_kwargs)
    for batch in (3, 1, 0):
        for scale in (1.0, 0.0, _EXTREME):
            for training in (False, True):
                weights = gate(
                    scale_floats(make_inputs(inputs, batch), scale),
                    training=training,
                )
                require(
                    weights.dtype == tf.float32,
                    f"{gate.name} returns {weights.dtype}, not float32",
                )
                require(
                    bool(tf.reduce_all(weights >= 0.0)),
                    f"{gate.name} returns negative routing weights {weights}",
                )
                np.testing.assert_allclose(
                    tf.reduce_sum(weights, axis=-1),
                    np.ones(weights.shape[:-1]),
                    atol=1e-6,
                    err_msg=f"{gate.name}: sums of rows, inputs times {scale}",
                )


def check_cardinality(
    gate_class: type[Gate], init_kwargs: InitKwargs, inputs: Inputs
) -> None:
    """At most k experts once smooth-steps saturate, or routing is hard.

    Gates without an attribute `k` have no cap and pass.
    """
    gate = make_layer(gate_class, init_kwargs)
    tensors = make_inputs(inputs, 8)
    gate(tensors)
    k = getattr(gate, "k", gate.num_experts)
    results = {}
    if hasattr(gate, "hard_routing"):
        gate.hard_routing = True
        results["with hard routing"] = gate(tensors)
        gate.hard_routing = False
    for weight in gate.trainable_weights:
        weight.assign(_SATURATING * tf.convert_to_tensor(weight))
    results["once saturated"] = gate(tensors)
    for condition, weights in results.items():
        counts = np.count_nonzero(weights, axis=-1)
        require(
            bool((counts <= k).all()),
            f"{gate.name} selects {counts.max()} experts {condition}, more "
            f"than k={k}",
        )


def check_permutation(
    gate_class: type[Gate], init_kwargs: InitKwargs, inputs: Inputs
) -> None:
    """`assignment[0, i]` is the expert that gets what output i has."""
    kwargs = make_kwargs(init_kwargs)
    num_experts = gate_class(**kwargs).num_experts
    tensors = make_inputs(inputs, 8)
    permutation = ExpertPermutation(num_experts)
    kwargs["permutation"] = permutation
    gate = gate_class(**kwargs)
    before = gate(tensors)
    order = np.roll(np.arange(num_experts), 1)[::-1]
    permutation.assignment.assign(order[np.newaxis])
    after = np.asarray(gate(tensors))
    np.testing.assert_allclose(
        after[..., order],
        before,
        atol=1e-6,
        err_msg=f"{gate_class.__name__}: weights of permuted experts",
    )


def check_row_independence(
    gate_class: type[Gate], init_kwargs: InitKwargs, inputs: Inputs
) -> None:
    """The routing of a row does not depend on the other rows."""
    gate = make_layer(gate_class, init_kwargs)
    tensors = make_inputs(inputs, 5)
    weights = np.asarray(gate(tensors))
    for rows in ([4, 2, 0], [1], [3, 3]):
        subset = tf.nest.map_structure(
            functools.partial(tf.gather, indices=rows), tensors
        )
        np.testing.assert_allclose(
            gate(subset),
            weights[rows],
            atol=1e-6,
            err_msg=f"{gate.name}: rows {rows} alone",
        )


def check_losses(
    gate_class: type[Gate], init_kwargs: InitKwargs, inputs: Inputs
) -> None:
    """Regularizers are finite float32 scalars, and only added in training."""
    gate = make_layer(gate_class, init_kwargs)
    tensors = make_inputs(inputs, 4)
    gate(tensors, training=False)
    require(
        not gate.losses,
        f"{gate.name} adds losses {gate.losses} at inference",
    )
    gate(tensors, training=True)
    for loss in gate.losses:
        require(
            loss.dtype == tf.float32
            and loss.shape.rank == 0
            and bool(np.isfinite(loss)),
            f"{gate.name} adds the loss {loss}, not a finite float32 scalar",
        )


GATE_CHECKS: tuple[Callable[..., None], ...] = (
    check_simplex,
    check_cardinality,
    check_permutation,
    check_row_independence,
    check_losses,
)
