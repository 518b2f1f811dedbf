"""Exports with permutations of every kind, served in another process."""

import collections

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras
from keras_comet.export import export_saved_model
from tests.helpers import rows

N = 4
DEPTH = 5
ORDERS = np.array([[3, 0, 1, 2], [2, 3, 0, 1]])
IDENTITY = np.arange(N)

GATES = {
    "comet": lambda p: keras_comet.COMETGate(N, gamma=3.0, permutation=p),
    "dselect_k": lambda p: keras_comet.DSelectKGate(N, permutation=p),
    "top_k": lambda p: keras_comet.TopKGate(N, permutation=p),
    "softmax": lambda p: keras_comet.SoftmaxGate(N, permutation=p),
    "hash_table": lambda p: keras_comet.HashGate(N, num_ids=10, permutation=p),
    "hash": lambda p: keras_comet.HashGate(N, permutation=p),
}
WITH_SELECTORS = ("comet", "dselect_k", "top_k")
INPUTS = {"x": rows(17, DEPTH), "ids": np.arange(17) % 10}
TENSORS = {name: tf.constant(value) for name, value in INPUTS.items()}


def permutation(*orders):
    result = keras_comet.ExpertPermutation(N, num_permutations=len(orders))
    result.assignment.assign(orders)
    return result


def permutations(sharing):
    """A permutation, or none, for each kind of gate."""
    if sharing == "none":
        return dict.fromkeys(GATES)
    if sharing == "identity":
        return {
            kind: permutation(IDENTITY, IDENTITY)
            if kind in WITH_SELECTORS
            else permutation(IDENTITY)
            for kind in GATES
        }
    if sharing == "per_gate":
        # The first two share one object.
        shared = permutation(ORDERS[0])
        return {
            kind: shared if index < 2 else permutation(ORDERS[index % 2])
            for index, kind in enumerate(GATES)
        }
    return {
        kind: permutation(*ORDERS) if kind in WITH_SELECTORS else None
        for kind in GATES
    }


# sharing -> the gathers that its permutations cost
SHARINGS = {
    "none": 0,
    "identity": 0,
    "per_gate": len(GATES),
    "per_selector": 2 * len(WITH_SELECTORS),
}


def make_model(sharing):
    keras.utils.set_random_seed(1)
    gates = {
        kind: GATES[kind](each) for kind, each in permutations(sharing).items()
    }
    inputs = {
        "x": keras.Input((DEPTH,), name="x"),
        "ids": keras.Input((), dtype="int64", name="ids"),
    }
    mixtures = keras_comet.MultiGateMixtureOfExperts(
        keras_comet.StackedDenseExperts(N, [4], "tanh"), gates, "dense"
    )(
        (
            inputs["x"],
            {
                kind: inputs["ids" if gate.reads_ids else "x"]
                for kind, gate in gates.items()
            },
        )
    )
    for kind in ("softmax", "top_k"):
        gates[kind].bias.assign(rows(N, seed=2))
    return keras.Model(inputs, mixtures), gates


def add_exports(result):
    """Exports a model for each sharing, for the fixture of this folder."""
    for sharing in SHARINGS:
        model, _ = make_model(sharing)
        result.add(sharing, model, INPUTS, model(TENSORS, training=False))


@pytest.mark.slow
@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("sharing", SHARINGS)
def test_served_outputs_equal_the_model(exports, sharing, kind):
    served = exports.served[sharing][f"17:{kind}"]
    expected = exports.expected[sharing][kind]
    np.testing.assert_allclose(served, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", GATES)
def test_permutations_change_outputs_at_all(exports, kind):
    plain = exports.expected["none"][kind]
    same = exports.expected["identity"][kind]
    np.testing.assert_allclose(same, plain, atol=1e-6)
    permuted = exports.expected["per_gate"][kind]
    assert np.abs(permuted - plain).max() > 0.01


@pytest.mark.slow
def test_identity_adds_no_op(exports):
    ops = [exports.report[each]["ops"] for each in ("none", "identity")]
    assert ops[0] == ops[1]


@pytest.mark.slow
@pytest.mark.parametrize(("sharing", "gathers"), SHARINGS.items())
def test_permutation_is_one_gather_with_constant_indices(
    exports, sharing, gathers
):
    assert exports.report[sharing]["gathers_by_constant"] == gathers
    more = collections.Counter(exports.report[sharing]["ops"])
    more.subtract(exports.report["none"]["ops"])
    more = {op: count for op, count in more.items() if count}
    assert more.pop("GatherV2", 0) == gathers
    if sharing == "per_selector":
        assert set(more) <= {"Const", "Unpack", "AddN", "Sum"}
    else:
        assert set(more) <= {"Const"}


@pytest.mark.slow
@pytest.mark.parametrize("sharing", SHARINGS)
def test_graph_has_no_search(exports, sharing):
    ops, plain = (exports.report[each]["ops"] for each in (sharing, "none"))
    assert not {"InvertPermutation", "Einsum"} & set(ops)
    # A hash table checks its ids, and the combination looks for NaN.
    for op in ("If", "StatelessIf", "Case", "While", "StatelessWhile"):
        assert ops.get(op, 0) == plain.get(op, 0)


def test_permutation_that_is_being_searched_raises(tmp_path):
    model, gates = make_model("per_gate")
    searched = gates["top_k"].permutation
    searched.frozen.assign(False)
    with pytest.raises(
        ValueError, match=f"{searched.name}.*still being searched.*freeze"
    ):
        export_saved_model(model, tmp_path / "1")
    assert list(tmp_path.iterdir()) == []
    searched.freeze()
    export_saved_model(model, tmp_path / "1")


@pytest.mark.slow
def test_gate_called_in_and_outside_of_a_mixture_is_right_in_both(tmp_path):
    gate = keras_comet.SoftmaxGate(N, permutation=permutation(ORDERS[0]))
    other = keras_comet.TopKGate(N, permutation=permutation(ORDERS[1]))
    inputs = keras.Input((DEPTH,), name="x")
    experts = [keras_comet.StackedDenseExperts(N, [3]) for _ in range(2)]
    one = keras_comet.MixtureOfExperts(experts[0], gate)(inputs)
    two = keras_comet.MultiGateMixtureOfExperts(
        experts[1], {"a": gate, "b": other}
    )(inputs)
    model = keras.Model(inputs, {"weights": gate(inputs), "one": one, **two})
    expected = model(INPUTS["x"])
    export_saved_model(model, tmp_path / "1")
    serve = tf.saved_model.load(tmp_path / "1").signatures["serving_default"]
    for key, value in serve(x=TENSORS["x"]).items():
        np.testing.assert_allclose(value, expected[key], atol=1e-5)
