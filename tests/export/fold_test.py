"""Exports with permutations of every kind, served in another process."""

import collections
import json

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import flatten_layers
from keras_comet._keras import keras
from keras_comet.export import export_saved_model
from tests.export.saved_model_test import Exports
from tests.helpers import rows

N = 6
DEPTH = 5
ORDERS = np.array(
    [[3, 0, 5, 1, 2, 4], [5, 4, 3, 2, 1, 0], [1, 2, 3, 4, 5, 0]]
)
IDS = np.arange(23) % 10

GATES = {
    "comet": lambda p: keras_comet.COMETGate(N, gamma=3.0, permutation=p),
    "dselect_k": lambda p: keras_comet.DSelectKGate(N, permutation=p),
    "top_k": lambda p: keras_comet.TopKGate(N, permutation=p),
    "softmax": lambda p: keras_comet.SoftmaxGate(N, permutation=p),
    "hash_table": lambda p: keras_comet.HashGate(N, num_ids=10, permutation=p),
    "hash": lambda p: keras_comet.HashGate(N, permutation=p),
}
EXPERTS = {
    "list": lambda: [keras.layers.Dense(4, "tanh") for _ in range(N)],
    "stacked": lambda: keras_comet.StackedDenseExperts(N, [4], "tanh"),
}


def permutation(*orders):
    result = keras_comet.ExpertPermutation(N, num_permutations=len(orders))
    result.assignment.assign(orders)
    return result


def make_model(gates, experts="list", returns_weights=False):
    """One mixture and one multi-gate one; `gates`: three functions."""
    inputs = {
        "x": keras.Input((DEPTH,), name="x"),
        "ids": keras.Input((), dtype="int64", name="ids"),
    }

    def reads(*gates):
        ids = any(gate.reads_ids for gate in gates)
        return inputs["ids"] if ids else inputs["x"]

    first, *others = [make() for make in gates]
    hidden = keras_comet.MixtureOfExperts(EXPERTS[experts](), first)(
        (inputs["x"], reads(first))
    )
    outputs, weights = keras_comet.MultiGateMixtureOfExperts(
        EXPERTS[experts](), dict(zip("ab", others, strict=True))
    )(
        (
            keras.layers.Concatenate()([hidden, inputs["x"]]),
            {name: reads(g) for name, g in zip("ab", others, strict=True)},
        ),
        return_routing_weights=True,
    )
    if returns_weights:
        outputs = {**outputs, "weights": weights["b"]}
    return keras.Model(inputs, outputs)


def gates_of(kind, sharing):
    make = GATES[kind]
    if sharing == "none":
        return [lambda: make(None)] * 3
    if sharing == "identity":
        return [lambda: make(permutation(range(N)))] * 3
    if sharing == "all":
        shared = permutation(ORDERS[0])
        return [lambda: make(shared)] * 3
    if sharing == "per_gate":
        return [lambda o=order: make(permutation(o)) for order in ORDERS]
    return [lambda: make(permutation(*ORDERS[:2]))] * 3


# (gate, how permutations are shared, experts, whether weights are returned)
FOLDED = [
    *[(kind, "all", "list", False) for kind in GATES],
    ("comet", "all", "stacked", False),
    ("comet", "all", "stacked", True),
    ("dselect_k", "identity", "list", True),
    *[
        (kind, "per_gate", "list", True)
        for kind in ("top_k", "softmax", "hash_table")
    ],
    ("top_k", "per_gate", "stacked", False),
]
UNFOLDED = [
    ("comet", "per_selector", "stacked", True),
    ("dselect_k", "per_selector", "list", True),
    ("top_k", "per_selector", "list", True),
    ("dselect_k", "per_gate", "list", True),
    ("hash", "per_gate", "list", False),
]
INPUTS = {"x": rows(23, DEPTH), "ids": IDS}
TENSORS = {name: tf.constant(value) for name, value in INPUTS.items()}


def label(case):
    return "-".join(map(str, case))


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    result = Exports(tmp_path_factory.mktemp("folds"))
    for cases, fold in ((FOLDED, True), (UNFOLDED, False)):
        for case in cases:
            kind, sharing, experts, returns_weights = case
            keras.utils.set_random_seed(1)
            model = make_model(
                gates_of(kind, sharing), experts, returns_weights
            )
            for gate in flatten_layers(model):
                if isinstance(gate, keras_comet.TopKGate):
                    gate.bias.assign(rows(N, seed=2))
            expected = model(TENSORS, training=False)
            before = [w.numpy() for w in model.weights]
            result.add(label(case), model, INPUTS, expected, fold=fold)
            for weight, value in zip(model.weights, before, strict=True):
                np.testing.assert_array_equal(weight.numpy(), value)
            again = model(TENSORS, training=False)
            for key, value in expected.items():
                np.testing.assert_array_equal(again[key], value)
    result.serve()
    return result


@pytest.mark.parametrize("case", [*FOLDED, *UNFOLDED], ids=label)
def test_served_outputs_equal_the_model(exports, case):
    expected = exports.expected[label(case)]
    for key, value in expected.items():
        np.testing.assert_allclose(
            exports.served[label(case)][f"17:{key}"],
            value[:17],
            atol=1e-5,
        )


def list_ops(path):
    """Counts the ops of a SavedModel, and lists sizes of its constants."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    model = SavedModel()
    model.ParseFromString((path / "saved_model.pb").read_bytes())
    graph = model.meta_graphs[0].graph_def
    nodes = [*graph.node]
    for function in graph.library.function:
        if "serve" in function.signature.name or "cond" in (
            function.signature.name
        ):
            nodes.extend(function.node_def)
    return collections.Counter(node.op for node in nodes)
