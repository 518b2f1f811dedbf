import numpy as np
import pytest
import tensorflow as tf

from keras_comet.ops import static_cond


def never():
    raise AssertionError("The branch was called")


@pytest.mark.parametrize(
    "make", [bool, np.bool_, np.array, tf.constant, tf.Variable]
)
def test_known_condition_calls_one_branch(make):
    for value in (True, False):
        pred = make(value)
        if isinstance(pred, tf.Variable):
            pred = tf.convert_to_tensor(pred)
        branches = (lambda: "yes", never) if value else (never, lambda: "no")
        assert static_cond(pred, *branches) == ("yes" if value else "no")


def op_types(function, *signature):
    graph = tf.function(function).get_concrete_function(*signature).graph
    return {op.type for op in graph.get_operations()}


BRANCHES = {"If", "StatelessIf"}


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_constant_condition_leaves_no_branch_in_the_graph(value):
    def function(x):
        pred = tf.not_equal(tf.constant(value), 0.0)
        return static_cond(pred, lambda: tf.sin(x), lambda: tf.cos(x))

    found = op_types(function, tf.TensorSpec([3]))
    assert not found & BRANCHES
    assert ("Sin" in found, "Cos" in found) == (value > 0, value == 0)


def test_unknown_condition_is_decided_when_the_graph_runs():
    variable = tf.Variable(True)

    @tf.function
    def function(x):
        return static_cond(
            tf.convert_to_tensor(variable), lambda: x + 1.0, lambda: x - 1.0
        )

    x = tf.constant([2.0])
    np.testing.assert_array_equal(function(x), [3.0])
    variable.assign(False)
    np.testing.assert_array_equal(function(x), [1.0])
