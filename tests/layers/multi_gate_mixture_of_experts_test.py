import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras
from tests.helpers import assert_gradients_close
from tests.helpers import gradients
from tests.helpers import rows
from tests.helpers import variables
from tests.layers.expert_kinds import EXPERTS
from tests.layers.expert_kinds import GATES
from tests.layers.expert_kinds import NUM_EXPERTS
from tests.layers.expert_kinds import CountingExpert

DISPATCHES = ["dense", "sparse", "auto"]


def three_gates():
    return {
        "click": GATES["comet"](),
        "buy": GATES["top_k"](),
        "rate": GATES["dselect_k"](),
    }


@pytest.mark.parametrize("dispatch", DISPATCHES)
@pytest.mark.parametrize("kind", ["dense", "stacked"])
def test_each_task_has_the_mixture_of_its_own_gate(kind, dispatch):
    experts, gates = EXPERTS[kind](), three_gates()
    both = keras_comet.MultiGateMixtureOfExperts(experts, gates, dispatch)
    x = tf.constant(rows(11, 6))
    outputs, weights = both(x, return_routing_weights=True)
    assert list(outputs) == list(weights) == ["click", "buy", "rate"]
    if kind == "dense":
        stacked = np.stack([expert(x) for expert in experts], axis=1)
    else:
        stacked = experts(x).numpy()
    for task, gate in gates.items():
        np.testing.assert_array_equal(weights[task], gate(x))
        np.testing.assert_allclose(
            outputs[task],
            np.einsum("be,beu->bu", weights[task], stacked),
            atol=1e-5,
        )


@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kind", ["dense", "convolution and pooling"])
def test_dispatches_agree_on_gradients(kind, compiled):
    images = kind != "dense"
    # No gradient nearly cancels, as its rounding would be that of its terms.
    features = tf.constant(rows(9, *((5, 5, 1) if images else (6,)), seed=4))
    routing_inputs = {
        task: tf.constant(rows(9, 4, seed=seed))
        for seed, task in enumerate(three_gates())
    }
    experts, gates = EXPERTS[kind](), three_gates()
    results = []
    for dispatch in DISPATCHES:
        moe = keras_comet.MultiGateMixtureOfExperts(experts, gates, dispatch)
        moe((features, routing_inputs))
        weights = variables(moe.trainable_weights)

        # Arguments, as a graph has other tensors for those around it.
        def run(features, routing_inputs, moe=moe, weights=weights):
            def loss():
                outputs = moe((features, routing_inputs))
                return tf.add_n(
                    [
                        tf.reduce_sum(tf.sin((index + 1) * outputs[task]))
                        for index, task in enumerate(sorted(outputs))
                    ]
                )

            sources = [features, *routing_inputs.values(), *weights]
            return gradients(loss, sources)

        # What is expected needs no graph.
        in_a_graph = compiled and dispatch != "dense"
        results.append(
            (tf.function(run) if in_a_graph else run)(features, routing_inputs)
        )
    for value, found in results[1:]:
        np.testing.assert_allclose(value, results[0][0], rtol=1e-5)
        assert_gradients_close(found, results[0][1])


@pytest.mark.parametrize("compiled", [False, True])
def test_pairs_that_several_tasks_select_are_computed_once(compiled):
    experts = [CountingExpert() for _ in range(4)]
    tables = {"click": [0, 1, 2, 2], "buy": [0, 2, 2, 1]}
    gates = {}
    for task, table in tables.items():
        gates[task] = keras_comet.HashGate(4, num_ids=4)
        gates[task].build((None,))
        gates[task].assignment.assign(table)
    moe = keras_comet.MultiGateMixtureOfExperts(experts, gates, "sparse")
    moe.build(((None, 2), (None,)))
    x = tf.constant(rows(4, 2))
    outputs = (tf.function(moe) if compiled else moe)((x, tf.range(4)))
    # Of 8 selected pairs, (0, 0) and (2, 2) are in both tables.
    assert [int(each.rows) for each in experts] == [1, 2, 3, 0]
    assert [int(each.calls) for each in experts] == [1, 1, 1, 0]
    for output in outputs.values():
        np.testing.assert_allclose(output, 2 * x, rtol=1e-6)


def test_routing_inputs_are_one_tensor_or_one_for_each_task():
    moe = keras_comet.MultiGateMixtureOfExperts(
        EXPERTS["dense"](), three_gates()
    )
    x, routing_inputs = tf.constant(rows(5, 6)), tf.constant(rows(5, 4, seed=1))
    shared = moe((x, routing_inputs))
    by_task = moe((x, dict.fromkeys(three_gates(), routing_inputs)))
    for task, expected in shared.items():
        np.testing.assert_array_equal(by_task[task], expected)


def test_tasks_may_have_gates_of_features_and_of_ids():
    gates = {
        "click": keras_comet.TopKGate(NUM_EXPERTS, k=1),
        "buy": keras_comet.HashGate(NUM_EXPERTS, num_ids=3),
    }
    moe = keras_comet.MultiGateMixtureOfExperts(EXPERTS["dense"](), gates)
    x = tf.constant(rows(3, 6))
    inputs = {"click": tf.constant(rows(3, 4)), "buy": tf.range(3)}
    _, weights = moe((x, inputs), return_routing_weights=True)
    np.testing.assert_array_equal(weights["buy"], gates["buy"](tf.range(3)))


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_tokens_and_empty_batches(dispatch):
    moe = keras_comet.MultiGateMixtureOfExperts(
        EXPERTS["dense"](), three_gates(), dispatch
    )
    tokens = rows(2, 3, 6)
    flat = moe(tf.constant(tokens.reshape(6, 6)))
    for task, output in moe(tf.constant(tokens)).items():
        expected = flat[task].numpy().reshape(2, 3, 3)
        np.testing.assert_allclose(output, expected, atol=1e-6)
    for output in moe(tf.constant(tokens[:0])).values():
        assert output.shape == (0, 3, 3)


def test_gates_know_their_tasks():
    gates = three_gates()
    keras_comet.MultiGateMixtureOfExperts(EXPERTS["dense"](), gates)
    assert {gate.task: gate for gate in gates.values()} == gates


def test_a_gate_serves_one_task():
    gate = GATES["top_k"]()
    for _ in range(2):
        keras_comet.MultiGateMixtureOfExperts(EXPERTS["dense"](), {"a": gate})
    with pytest.raises(ValueError, match="task 'b' the gate of task 'a'"):
        keras_comet.MultiGateMixtureOfExperts(EXPERTS["dense"](), {"b": gate})


def test_permutations_of_equal_names_raise():
    gates = {
        task: keras_comet.TopKGate(
            NUM_EXPERTS,
            permutation=keras_comet.ExpertPermutation(NUM_EXPERTS, name="p"),
        )
        for task in "ab"
    }
    with pytest.raises(ValueError, match="name"):
        keras_comet.MultiGateMixtureOfExperts(EXPERTS["dense"](), gates)


def test_gates_and_experts_of_one_mixture_can_be_given_to_another():
    moe = keras_comet.MultiGateMixtureOfExperts(
        EXPERTS["dense"](), three_gates(), "sparse"
    )
    other = keras_comet.MultiGateMixtureOfExperts(
        moe.experts, moe.gates, "dense"
    )
    x = tf.constant(rows(4, 6))
    for task, expected in moe(x).items():
        np.testing.assert_allclose(other(x)[task], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("gates", "match"),
    [
        ({}, "at least one task"),
        (lambda: [GATES["top_k"]()], "dict from task name"),
        (
            lambda: dict.fromkeys("ab", GATES["top_k"]()),
            r"same gate.*\['a', 'b'\]",
        ),
        (
            lambda: {"a": keras_comet.SoftmaxGate(4)},
            "3 experts.*task 'a' with num_experts=4",
        ),
        (lambda: {"a": keras.layers.Dense(5)}, "keras_comet.Gate.*task 'a'"),
    ],
)
def test_bad_gates_raise(gates, match):
    gates = gates() if callable(gates) else gates
    with pytest.raises(ValueError, match=match):
        keras_comet.MultiGateMixtureOfExperts(EXPERTS["dense"](), gates)


@pytest.mark.parametrize(
    ("routing_inputs", "match"),
    [
        ({"a": rows(2, 4), "c": rows(2, 4)}, r"\['a', 'b'\].*\['a', 'c'\]"),
        ({"a": rows(2, 4)}, r"\['a', 'b'\].*\['a'\]"),
        ({"a": rows(2, 4), "b": rows(3, 4)}, r"start with.*\(3, 3\)"),
        ({"a": rows(2, 4), "b": rows(2, 3, 4)}, "same axes"),
        (rows(4), "batch axis"),
    ],
)
def test_bad_routing_inputs_raise(routing_inputs, match):
    moe = keras_comet.MultiGateMixtureOfExperts(
        EXPERTS["dense"](), {"a": GATES["top_k"](), "b": GATES["top_k"]()}
    )
    features = tf.constant(rows(2, 3, 6))
    inputs = tf.nest.map_structure(tf.constant, (features, routing_inputs))
    with pytest.raises(ValueError, match=match):
        moe(inputs)
