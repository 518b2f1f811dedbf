import collections
import threading

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import flatten_layers
from keras_comet._keras import keras
from keras_comet.export import export_saved_model
from keras_comet.export.frozen_state import find_constants
from keras_comet.export.frozen_state import frozen_state
from tests.helpers import rows

N = 4
X = rows(40, 5)
GATES = [keras_comet.COMETGate, keras_comet.DSelectKGate]


def make_gate(gate_class=keras_comet.COMETGate, order=(2, 0, 3, 1), **kwargs):
    permutation = None
    if order is not None:
        permutation = keras_comet.ExpertPermutation(N)
        permutation.assignment.assign([order])
    gate = gate_class(N, k=2, permutation=permutation, name="gate", **kwargs)
    gate(X)
    return gate


def trace(gate, hard_routing=False):
    constants = find_constants(gate, hard_routing)

    @tf.function(input_signature=[tf.TensorSpec([None, 5])])
    def serve(x):
        with frozen_state(constants):
            return gate(x, training=False)

    return serve.get_concrete_function()


def count_ops(function):
    ops = [op.type for op in function.graph.get_operations()]
    # Constants that nothing uses are not served.
    return collections.Counter(op for op in ops if op != "Const")


def find_state(model):
    """Every variable that is an attribute of a layer, by its place."""
    return {
        (layer.name, name): value
        for layer in flatten_layers(model)
        for name, value in vars(layer).items()
        if isinstance(
            value, (tf.Variable, getattr(keras, "Variable", tf.Variable))
        )
    }


@pytest.fixture
def unchanged():
    """Checks that a model is as it was, once the test is done."""
    checks = []

    def remember(model):
        outputs = np.asarray(model(X, training=False))
        values = [np.asarray(weight) for weight in model.weights]
        checks.append((model, outputs, values, find_state(model)))

    yield remember
    for model, outputs, values, state in checks:
        after = find_state(model)
        assert set(after) == set(state)
        assert all(after[place] is each for place, each in state.items())
        for weight, value in zip(model.weights, values, strict=True):
            np.testing.assert_array_equal(np.asarray(weight), value)
        np.testing.assert_array_equal(model(X, training=False), outputs)


@pytest.mark.parametrize("gate_class", GATES)
@pytest.mark.parametrize("hard_routing", [False, True])
def test_graph_holds_one_branch_and_no_state(
    unchanged, gate_class, hard_routing
):
    gate = make_gate(gate_class)
    gate(X, training=True)
    gate.gamma_scale.assign(0.7)
    gate.cardinality_cap.assign(3)
    unchanged(gate)
    function = trace(gate, hard_routing)
    read = {variable.name.split(":")[0] for variable in function.variables}
    assert len(read) == len(gate.trainable_weights) - 1  # P
    assert not any("If" in op for op in count_ops(function))
    assert not {"gamma_scale", "cardinality_cap", "scale", "assignment"} & {
        name.split("/")[-1] for name in read
    }
    if hard_routing:
        assert np.count_nonzero(function(X), axis=-1).max() <= 2
        gate.hard_routing = True
        expected = gate(X)
        gate.gamma_scale.assign(0.7)
    else:
        expected = gate(X)
        assert np.count_nonzero(expected, axis=-1).max() == 3
    np.testing.assert_allclose(function(X), expected, atol=1e-6)


def test_scale_of_inputs_that_needs_none_adds_no_op():
    plain = count_ops(trace(make_gate(rescale_inputs=False)))
    gate = make_gate()
    assert count_ops(trace(gate)) == plain
    gate.input_scale.scale.assign(1.0)
    assert count_ops(trace(gate)) == plain
    gate.input_scale.scale.assign(3.0)
    function = trace(gate)
    assert count_ops(function)["RealDiv"] > plain["RealDiv"]
    np.testing.assert_allclose(function(X), gate(X), atol=1e-6)


def test_later_changes_of_the_model_do_not_reach_the_graph():
    gate = make_gate()
    expected = gate(X)
    function = trace(gate)
    gate.gamma_scale.assign(0.1)
    gate.permutation.assignment.assign([[0, 1, 2, 3]])
    assert np.abs(gate(X) - expected).max() > 0.01
    np.testing.assert_allclose(function(X), expected, atol=1e-6)


def test_permutation_that_is_being_searched_raises():
    gate = make_gate()
    gate.permutation.frozen.assign(False)
    with pytest.raises(ValueError, match="expert_permutation.*freeze"):
        find_constants(gate, False)


def test_layers_that_are_not_built_have_no_state():
    gate = keras_comet.COMETGate(3)
    gate.never_called = keras_comet.COMETGate(3)
    gate(X)
    assert {each.layer for each in find_constants(gate, True)} == {
        gate,
        gate.input_scale,
    }


class Fails(keras.layers.Layer):
    """Returns what it is given, but not in an export."""

    def call(self, inputs):
        if not tf.executing_eagerly() and self.built and self.fails:
            raise RuntimeError("cannot be traced")
        return inputs


def make_model():
    inputs = keras.Input((5,), name="x")
    fails = Fails()
    fails.fails = False
    weights = make_gate()(inputs)
    return keras.Model(inputs, fails(weights)), fails


def test_model_is_as_before_after_an_export(tmp_path, unchanged, monkeypatch):
    model, _ = make_model()
    unchanged(model)
    state = find_state(model)
    archive = type(keras.export.ExportArchive())
    write_out = archive.write_out

    def check_and_write(self, *args, **kwargs):
        assert find_state(model).keys() == state.keys()
        return write_out(self, *args, **kwargs)

    monkeypatch.setattr(archive, "write_out", check_and_write)
    export_saved_model(model, tmp_path / "1", hard_routing=True)


@pytest.mark.parametrize("fails_in", ["trace", "write_out"])
def test_model_is_as_before_after_a_failure(
    tmp_path, unchanged, monkeypatch, fails_in
):
    model, fails = make_model()
    unchanged(model)
    if fails_in == "trace":
        fails.fails = True
    else:

        def write_out(self, *args, **kwargs):
            raise RuntimeError("cannot be written")

        archive = type(keras.export.ExportArchive())
        monkeypatch.setattr(archive, "write_out", write_out)
    with pytest.raises(RuntimeError, match="cannot be"):
        export_saved_model(model, tmp_path / "1", hard_routing=True)
    fails.fails = False
    assert list(tmp_path.iterdir()) == []


class Traced(keras.Model):
    """Calls its gate inside of another function, which keeps its trace."""

    def __init__(self):
        super().__init__()
        self.gate = make_gate()
        self.call_gate = tf.function(
            lambda x: self.gate(x), [tf.TensorSpec([None, 5])]
        )

    def call(self, x):
        return self.call_gate(x)


@pytest.mark.parametrize("is_called_before", [False, True])
def test_function_inside_of_the_model_keeps_the_variables(
    tmp_path, is_called_before
):
    model = Traced()
    if is_called_before:
        model(X)
    model.built = True
    expected = np.asarray(model.gate(X))
    options = {"input_signature": {"x": tf.TensorSpec([None, 5])}}
    export_saved_model(model, tmp_path / "1", **options)
    with pytest.raises(ValueError, match="'gate'.*hard.*@tf.function"):
        export_saved_model(model, tmp_path / "2", hard_routing=True, **options)
    serve = tf.saved_model.load(tmp_path / "1").signatures["serving_default"]
    served = serve(x=tf.constant(X))["output"]
    np.testing.assert_allclose(served, expected, atol=1e-6)
    np.testing.assert_allclose(model(X), expected, atol=1e-6)
    # The function was not traced with what was a constant of the export.
    model.gate.permutation.assignment.assign([[0, 1, 2, 3]])
    np.testing.assert_allclose(model(X), expected[:, [2, 0, 3, 1]], atol=1e-6)
    model.gate.hard_routing = True
    export_saved_model(model, tmp_path / "3", hard_routing=True, **options)


def test_other_threads_see_the_variables_meanwhile():
    gate = make_gate()
    expected = np.asarray(gate(X))
    seen = []

    @tf.function(input_signature=[tf.TensorSpec([None, 5])])
    def serve(x):
        with frozen_state(find_constants_in(gate)):
            thread = threading.Thread(
                target=lambda: seen.append(np.asarray(gate(X)))
            )
            thread.start()
            thread.join()
            return gate(x)

    def find_constants_in(gate):
        with tf.init_scope():
            return find_constants(gate, True)

    served = serve(X)
    np.testing.assert_array_equal(seen, [expected])
    assert np.count_nonzero(served, axis=-1).max() <= 2


@pytest.mark.parametrize("dispatch", ["dense", "auto"])
def test_experts_that_share_a_base_are_merged_in_the_graph(dispatch):
    def make(scale):
        keras.utils.set_random_seed(0)
        experts = keras_comet.StackedDenseExperts(
            8, [6, 3], "relu", deviation_scale=scale
        )
        moe = keras_comet.MixtureOfExperts(
            experts, keras_comet.TopKGate(8), dispatch
        )
        moe.build((None, 5))
        for index, each in enumerate([*experts.kernels, *experts.biases]):
            each.assign(rows(*each.shape, seed=index))
        return moe

    moe = make(0.1)
    before = moe(X)
    function = trace(moe)
    for x in (X, X[:1]):
        np.testing.assert_allclose(function(x), moe(x), atol=1e-6)

    # No more is computed than for experts that share nothing.
    def count_all(function):
        graph = function.graph.as_graph_def()
        nodes = [*graph.node]
        for each in graph.library.function:
            nodes += each.node_def
        return collections.Counter(
            node.op for node in nodes if node.op in ("Mul", "AddV2", "MatMul")
        )

    assert count_all(function) == count_all(trace(make(None)))
    # The model goes on as it was.
    for each in moe.experts.base_kernels:
        each.assign_add(0.1 * np.ones(each.shape))
    assert np.abs(moe(X) - before).max() > 0.01
    np.testing.assert_allclose(function(X), before, atol=1e-6)
