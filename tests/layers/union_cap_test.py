"""A cap on the experts that all tasks of a mixture use for a row."""

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras
from keras_comet.ops import keep_union
from tests.helpers import gradients
from tests.helpers import rows
from tests.helpers import variables
from tests.layers.expert_kinds import CountingExpert

TASKS = ("click", "buy", "rate")
X = tf.constant(rows(20, 6))


def make_mixture(dispatch="sparse", experts=None, n=8):
    return keras_comet.MultiGateMixtureOfExperts(
        experts or [keras.layers.Dense(3, "tanh") for _ in range(n)],
        {
            "click": keras_comet.COMETGate(n),
            "buy": keras_comet.TopKGate(n),
            "rate": keras_comet.SoftmaxGate(n),
        },
        dispatch,
    )


def union(weights):
    return np.any([each != 0 for each in weights.values()], axis=0).sum(-1)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dispatch", ["dense", "sparse"])
def test_a_row_uses_what_the_cap_leaves(dispatch, compiled):
    moe = make_mixture(dispatch)
    given = moe(X, return_routing_weights=True)[1]
    assert int(moe.union_cap) == 8
    for task, gate in moe.gates.items():
        np.testing.assert_array_equal(given[task], gate(X))
    call = tf.function(moe) if compiled else moe
    # The cap is set in a graph that is traced already.
    call(X, return_routing_weights=True)
    moe.union_cap.assign(3)
    outputs, weights = call(X, return_routing_weights=True)
    expected = dict(zip(TASKS, keep_union([*given.values()], 3), strict=True))
    assert union(weights).max() == 3
    computed = np.stack([expert(X) for expert in moe.experts], axis=1)
    for task in TASKS:
        np.testing.assert_allclose(weights[task], expected[task], atol=1e-6)
        np.testing.assert_allclose(
            outputs[task],
            np.einsum("be,beu->bu", expected[task], computed),
            atol=1e-5,
        )


def test_no_more_experts_are_computed():
    experts = [CountingExpert() for _ in range(8)]
    moe = make_mixture(experts=experts)
    moe.build((None, 6))
    moe.union_cap.assign(2)
    moe(X)
    assert sum(int(each.rows) for each in experts) == 2 * 20


def test_captured_routing_is_what_is_used():
    moe = make_mixture()
    moe.build((None, 6))
    moe.union_cap.assign(3)
    _, weights = moe(X, return_routing_weights=True)
    captured = keras_comet.routing_weights(moe, X)
    assert list(captured) == list(TASKS)
    for task in TASKS:
        np.testing.assert_array_equal(captured[task], weights[task])


def test_gates_and_experts_go_on_learning():
    moe = make_mixture()
    moe.build((None, 6))
    moe.union_cap.assign(3)

    def loss():
        outputs = moe(X, training=True)
        return tf.add_n(
            [
                tf.reduce_sum(tf.sin((i + 1) * outputs[task]))
                for i, task in enumerate(TASKS)
            ]
        )

    for gate in moe.gates.values():
        _, found = gradients(loss, variables(gate.trainable_weights))
        assert all(np.isfinite(each).all() for each in found)
        assert any(np.any(each) for each in found)


def test_cap_is_saved_by_every_way_of_saving(tmp_path):
    def make():
        inputs = keras.Input((6,))
        moe = make_mixture("dense")
        return keras.Model(inputs, list(moe(inputs).values())), moe

    (model, moe), (weights, _), (checkpoint, _) = make(), make(), make()
    moe.union_cap.assign(3)
    expected = model(X)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    weights.load_weights(tmp_path / "model.weights.h5")
    tf.train.Checkpoint(model=model).write(str(tmp_path / "checkpoint"))
    status = tf.train.Checkpoint(model=checkpoint)
    status.read(str(tmp_path / "checkpoint")).assert_existing_objects_matched()
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for other in (loaded, weights, checkpoint):
        for found, each in zip(other(X), expected, strict=True):
            np.testing.assert_allclose(found, each, atol=1e-6)


def count_sorts(served):
    """The number of sorts in an exported model, in any branch."""
    graph = served.signatures["serving_default"].graph.as_graph_def()
    functions = [each.node_def for each in graph.library.function]
    return sum(
        node.op == "TopKV2"
        for nodes in (graph.node, *functions)
        for node in nodes
    )


@pytest.mark.slow
def test_export_has_the_cap_as_a_constant(tmp_path):
    inputs = keras.Input((6,), name="x")
    moe = make_mixture("dense")
    _, weights = moe(inputs, return_routing_weights=True)
    model = keras.Model(inputs, weights)
    moe.union_cap.assign(3)
    expected = model(X)
    path = keras_comet.export_saved_model(model, tmp_path / "1")
    # What the model is capped at later is nothing to the export.
    moe.union_cap.assign(8)
    served = tf.saved_model.load(path)
    found = served.signatures["serving_default"](x=X)
    assert union(found).max() == 3
    for task in TASKS:
        np.testing.assert_allclose(found[task], expected[task], atol=1e-6)
    # Without a cap no branch is left that could sort; one gate is Top-k.
    path = keras_comet.export_saved_model(model, tmp_path / "2")
    assert count_sorts(served) > count_sorts(tf.saved_model.load(path)) == 1


@pytest.mark.slow
def test_local_search_finds_an_optimum_of_the_loss_under_the_cap():
    permutation = keras_comet.ExpertPermutation(5)
    gates = {
        task: keras_comet.TopKGate(5, permutation=permutation) for task in TASKS
    }
    moe = keras_comet.MultiGateMixtureOfExperts(
        [keras.layers.Dense(2) for _ in range(5)], gates, "dense"
    )
    moe.build((None, 6))
    moe.union_cap.assign(2)
    targets = rows(20, 2, seed=3)

    def loss():
        return tf.add_n(
            [tf.reduce_mean((each - targets) ** 2) for each in moe(X).values()]
        )

    optimizer = keras_comet.LocalSearchOptimizer(keras.optimizers.SGD(0.1), 1)
    report = optimizer.search(loss, [permutation])
    best = float(loss())
    assert report.is_local_optimum
    assert best == pytest.approx(report.loss_after, rel=1e-6)
    assert best < report.loss_before
    order = np.array(permutation.assignment)[0]
    for one in range(5):
        for other in range(one):
            swapped = order.copy()
            swapped[[one, other]] = order[[other, one]]
            permutation.assignment.assign([swapped])
            assert float(loss()) >= best - 1e-6
