import gc

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet.gates.expert_permutation import check_names
from keras_comet.gates.expert_permutation import find_permutations
from tests.helpers import rows
from tests.helpers import variables


def test_starts_as_the_identity():
    permutation = keras_comet.ExpertPermutation(4, num_permutations=2)
    np.testing.assert_array_equal(
        permutation.assignment, [[0, 1, 2, 3], [0, 1, 2, 3]]
    )
    weights = np.abs(rows(3, 2, 4))
    np.testing.assert_allclose(
        permutation(tf.constant(weights)), weights.sum(1), rtol=1e-6
    )


@pytest.mark.parametrize(
    "orders", [[[2, 0, 3, 1]], [[2, 0, 3, 1], [3, 2, 1, 0]]]
)
def test_output_i_goes_to_expert_assignment_i(orders):
    permutation = keras_comet.ExpertPermutation(4, len(orders))
    permutation.assignment.assign(orders)
    weights = rows(3, 2, 4)
    expected = np.zeros((3, 4))
    for selector in range(2):
        order = orders[selector % len(orders)]
        for output, expert in enumerate(order):
            expected[:, expert] += weights[:, selector, output]
    np.testing.assert_allclose(
        permutation(tf.constant(weights)), expected, atol=1e-6
    )


def test_assigning_changes_every_gate_that_shares_it_at_once():
    permutation = keras_comet.ExpertPermutation(4)
    gates = [
        keras_comet.SoftmaxGate(4, permutation=permutation),
        keras_comet.COMETGate(4, permutation=permutation),
    ]
    calls = [tf.function(gate) for gate in gates]
    x = tf.constant(rows(3, 5))
    before = [call(x).numpy() for call in calls]
    permutation.assignment.assign([[3, 0, 2, 1]])
    for call, old in zip(calls, before, strict=True):
        np.testing.assert_allclose(
            call(x).numpy()[:, [3, 0, 2, 1]], old, atol=1e-6
        )


def test_settled_no_gradient_is_lost():
    permutation = keras_comet.ExpertPermutation(4)
    permutation.assignment.assign([[3, 0, 2, 1]])
    [searched] = variables(permutation.trainable_weights)
    weights = tf.constant(rows(3, 2, 4))
    direction = rows(3, 4, seed=1)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        value = tf.reduce_sum(permutation(weights) * direction)
    found, of_search = tape.gradient(value, [weights, searched])
    expected = np.repeat(direction[:, np.newaxis, [3, 0, 2, 1]], 2, axis=1)
    np.testing.assert_allclose(found, expected)
    np.testing.assert_array_equal(of_search, np.zeros([1, 4, 4]))


@pytest.mark.parametrize(
    "kwargs", [{"num_experts": 0}, {"num_permutations": 0}]
)
def test_sizes_below_one_raise(kwargs):
    [(name, _)] = kwargs.items()
    with pytest.raises(ValueError, match=f"{name}=0"):
        keras_comet.ExpertPermutation(**{"num_experts": 3, **kwargs})


def test_other_number_of_selectors_raises():
    permutation = keras_comet.ExpertPermutation(4, num_permutations=3)
    with pytest.raises(ValueError, match="2 selectors.*num_permutations=3"):
        keras_comet.TopKGate(4, k=2, permutation=permutation)(rows(2, 4))
    with pytest.raises(ValueError, match="2 selectors.*num_permutations=3"):
        permutation(tf.zeros([5, 2, 4]))


def soft(matrices):
    matrices = np.asarray(matrices, "float32")
    permutation = keras_comet.ExpertPermutation(matrices.shape[-1])
    if len(matrices) > 1:
        permutation = keras_comet.ExpertPermutation(
            matrices.shape[-1], len(matrices)
        )
    permutation.permutation_weights.assign(matrices)
    permutation.frozen.assign(False)
    return permutation


@pytest.mark.parametrize("num_permutations", [1, 2])
def test_soft_permutation_is_a_matrix_product(num_permutations):
    matrices = np.abs(rows(num_permutations, 4, 4, seed=1))
    permutation = soft(matrices)
    assert bool(permutation.is_searching())
    weights = rows(3, 2, 4)
    expected = sum(
        weights[:, j] @ matrices[j % num_permutations] for j in range(2)
    )
    for call in (permutation, tf.function(permutation)):
        np.testing.assert_allclose(
            call(tf.constant(weights)), expected, atol=1e-6
        )


def test_settles_at_the_nearest_permutation_once():
    permutation = soft([[[0.6, 0.3, 0.1], [0.5, 0.1, 0.4], [0.1, 0.3, 0.6]]])
    # Totals: 0.6 + 0.1 + 0.6 = 1.3, and 0.3 + 0.5 + 0.6 = 1.4.
    permutation.freeze()
    np.testing.assert_array_equal(permutation.assignment, [[1, 0, 2]])
    np.testing.assert_array_equal(
        np.array(permutation.permutation_weights), [np.eye(3)[[1, 0, 2]]]
    )
    assert not bool(permutation.is_searching())
    permutation.assignment.assign([[2, 1, 0]])
    permutation.freeze()
    np.testing.assert_array_equal(permutation.assignment, [[2, 1, 0]])
    permutation.freeze([[0, 2, 1]])
    np.testing.assert_array_equal(permutation.assignment, [[0, 2, 1]])
    np.testing.assert_array_equal(
        np.array(permutation.permutation_weights), [np.eye(3)[[0, 2, 1]]]
    )


def op_types(function, *inputs):
    # A new function each time, as tf.function keeps what it traced.
    traced = tf.function(lambda *inputs: function(*inputs))
    graph = traced.get_concrete_function(*inputs).graph
    return [op.type for op in graph.get_operations()]


BRANCHES = {"If", "StatelessIf"}


def test_unknown_assignment_is_a_branch():
    permutation = keras_comet.ExpertPermutation(4)
    assert BRANCHES & set(op_types(permutation, tf.constant(rows(3, 2, 4))))


def test_known_identity_adds_nothing_to_the_graph():
    weights = tf.constant(rows(3, 2, 4))
    permutation = keras_comet.ExpertPermutation(4)
    vars(permutation)["frozen"] = np.array(True)
    vars(permutation)["assignment"] = np.arange(4)[np.newaxis]
    assert permutation.is_searching() is False
    found = [t for t in op_types(permutation, weights) if t != "Const"]
    plain = op_types(lambda x: tf.reduce_sum(x, axis=-2), weights)
    assert sorted(found) == sorted(t for t in plain if t != "Const")
    np.testing.assert_allclose(
        permutation(weights), weights.numpy().sum(1), atol=1e-6
    )


def test_known_permutation_is_one_gather():
    weights = tf.constant(rows(3, 2, 4))
    permutation = keras_comet.ExpertPermutation(4)
    vars(permutation)["frozen"] = np.array(True)
    vars(permutation)["assignment"] = np.array([[3, 0, 2, 1]])
    found = op_types(permutation, weights)
    assert found.count("GatherV2") == 1
    assert not set(found) & (
        BRANCHES | {"Einsum", "MatMul", "ReadVariableOp", "InvertPermutation"}
    )
    np.testing.assert_allclose(
        permutation(weights).numpy()[:, [3, 0, 2, 1]],
        weights.numpy().sum(1),
        atol=1e-6,
    )


@pytest.mark.parametrize("jit_compile", [False, True])
def test_frozen_weights_have_a_gradient_of_zeros_in_a_graph(jit_compile):
    permutation = keras_comet.ExpertPermutation(4)
    [searched] = variables(permutation.trainable_weights)

    @tf.function(jit_compile=jit_compile)
    def differentiate(x):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(permutation(x) ** 2)
        return tape.gradient(value, searched)

    np.testing.assert_array_equal(
        differentiate(tf.constant(rows(3, 2, 4))), np.zeros([1, 4, 4])
    )


def test_find_permutations_goes_by_their_variables():
    permutations = [keras_comet.ExpertPermutation(3) for _ in range(3)]
    gate = keras_comet.TopKGate(3, permutation=permutations[2])
    gate.build((None, 4))
    given = [*gate.trainable_weights, permutations[0].permutation_weights]
    found = find_permutations(given)
    assert [id(p) for p in found] == [id(permutations[2]), id(permutations[0])]


@pytest.mark.slow
def test_permutation_is_found_as_long_as_it_lives():
    permutation = keras_comet.ExpertPermutation(3)
    variable = permutation.permutation_weights
    assert find_permutations([variable]) == [permutation]
    del permutation
    gc.collect()
    assert find_permutations([variable]) == []


def test_two_permutations_of_one_name_raise():
    shared = keras_comet.ExpertPermutation(3, name="shared")
    check_names([shared, shared, keras_comet.ExpertPermutation(3)])
    with pytest.raises(ValueError, match="different names.*'shared'.*Name"):
        check_names([shared, keras_comet.ExpertPermutation(3, name="shared")])
