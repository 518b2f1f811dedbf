"""Exports with permutations of every kind, served in another process."""

import collections
import os

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import flatten_layers
from keras_comet._keras import keras
from keras_comet.export import export_saved_model
from tests.export.saved_model_test import Exports
from tests.helpers import rows

N = 4
DEPTH = 5
ORDERS = np.array([[3, 0, 1, 2], [2, 3, 0, 1]])

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
    inputs = {
        "x": keras.Input((DEPTH,), name="x"),
        "ids": keras.Input((), dtype="int64", name="ids"),
    }
    gates = {name: make() for name, make in zip("ab", gates, strict=True)}
    mixtures = keras_comet.MultiGateMixtureOfExperts(EXPERTS[experts](), gates)
    given = (
        inputs["x"],
        {
            name: inputs["ids" if gate.reads_ids else "x"]
            for name, gate in gates.items()
        },
    )
    if not returns_weights:
        return keras.Model(inputs, mixtures(given))
    outputs, weights = mixtures(given, return_routing_weights=True)
    return keras.Model(inputs, {**outputs, "weights": weights["b"]})


def gates_of(kind, sharing):
    make = GATES[kind]
    if sharing == "none":
        return [lambda: make(None)] * 2
    if sharing == "identity":
        return [lambda: make(permutation(range(N)))] * 2
    if sharing == "all":
        shared = permutation(ORDERS[0])
        return [lambda: make(shared)] * 2
    if sharing == "per_gate":
        return [lambda o=order: make(permutation(o)) for order in ORDERS]
    return [lambda: make(permutation(*ORDERS))] * 2


# (gate, how permutations are shared, experts, whether weights are returned)
PLAIN = [(kind, "none", "list", False) for kind in GATES]
FOLDED = [
    *[(kind, "all", "list", False) for kind in GATES],
    *[
        (kind, "per_gate", "list", False)
        for kind in ("top_k", "softmax", "hash_table")
    ],
    ("dselect_k", "identity", "list", False),
    ("comet", "all", "stacked", True),
    ("top_k", "per_gate", "stacked", True),
]
UNFOLDED = [
    ("comet", "all", "list", False),
    ("comet", "per_selector", "stacked", True),
    ("dselect_k", "per_selector", "list", False),
    ("top_k", "per_selector", "list", True),
    ("dselect_k", "per_gate", "list", True),
    ("hash", "per_gate", "list", False),
]
INPUTS = {"x": rows(23, DEPTH), "ids": np.arange(23) % 10}
TENSORS = {name: tf.constant(value) for name, value in INPUTS.items()}


def label(case, fold):
    return "-".join([*map(str, case), "fold" if fold else "gather"])


def make_case(kind, sharing, experts, returns_weights):
    keras.utils.set_random_seed(1)
    model = make_model(gates_of(kind, sharing), experts, returns_weights)
    for gate in flatten_layers(model):
        if isinstance(gate, keras_comet.TopKGate):
            gate.bias.assign(rows(N, seed=2))
    return model


def values(model):
    return [np.array(weight) for weight in model.weights]


def assert_unchanged(model, before, outputs):
    for value, old in zip(values(model), before, strict=True):
        np.testing.assert_array_equal(value, old)
    for key, value in model(TENSORS, training=False).items():
        np.testing.assert_array_equal(value, outputs[key])


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    result = Exports(tmp_path_factory.mktemp("folds"))
    for fold, cases in ((False, PLAIN + UNFOLDED), (True, FOLDED)):
        for case in cases:
            model = make_case(*case)
            outputs = model(TENSORS, training=False)
            before = values(model)
            result.add(label(case, fold), model, INPUTS, outputs, fold=fold)
            assert_unchanged(model, before, outputs)
    result.serve()
    return result


@pytest.mark.parametrize(
    "case",
    [label(c, True) for c in FOLDED]
    + [label(c, False) for c in UNFOLDED + PLAIN],
)
def test_served_outputs_equal_the_model(exports, case):
    for key, value in exports.expected[case].items():
        served = exports.served[case][f"17:{key}"]
        np.testing.assert_allclose(served, value[:17], atol=1e-5)


def test_experts_order_changes_outputs_at_all(exports):
    permuted = exports.expected[label(FOLDED[0], True)]
    plain = exports.expected[label(PLAIN[0], False)]
    assert np.abs(permuted["a"] - plain["a"]).max() > 0.01


@pytest.mark.parametrize(
    "case", [c for c in FOLDED if not c[3]], ids=lambda c: f"{c[0]}-{c[1]}"
)
def test_folded_graph_is_that_of_a_model_without_permutation(exports, case):
    plain = exports.report[label((case[0], "none", "list", False), False)]
    assert exports.report[label(case, True)]["ops"] == plain["ops"]


@pytest.mark.parametrize(
    "case", [c for c in UNFOLDED if not c[3]], ids=lambda c: f"{c[0]}-{c[1]}"
)
def test_graph_that_is_not_folded_has_constant_gathers_more(exports, case):
    plain = exports.report[label((case[0], "none", "list", False), False)]
    ops = collections.Counter(exports.report[label(case, False)]["ops"])
    ops.subtract(plain["ops"])
    more = {op for op, count in ops.items() if count}
    assert "GatherV2" in more
    assert more <= {"GatherV2", "Const", "Unpack", "AddN", "Sum"}


def test_permutation_that_cannot_be_folded_raises(tmp_path):
    for kind, sharing in (
        ("comet", "per_gate"),
        ("hash", "per_gate"),
        ("top_k", "per_selector"),
    ):
        model = make_case(kind, sharing, "list", False)
        outputs = model(TENSORS, training=False)
        before = values(model)
        name = type(GATES[kind](None)).__name__
        with pytest.raises(ValueError, match=f"{name}.*fold=False"):
            export_saved_model(model, tmp_path / "1", fold=True)
        assert os.listdir(tmp_path) == []
        assert_unchanged(model, before, outputs)


def test_gate_of_an_unknown_kind_is_not_folded_by_its_columns(tmp_path):
    class Sharp(keras_comet.SoftmaxGate):
        def route(self, routing_inputs, training):
            weights, penalties = super().route(routing_inputs, training)
            return weights**self.sharpness_by_expert, penalties

    gate = Sharp(N, permutation=permutation(ORDERS[0]), name="sharp")
    gate.sharpness_by_expert = tf.constant([1.0, 2.0, 3.0, 4.0])
    inputs = keras.Input((DEPTH,), name="x")
    with pytest.raises(ValueError, match="'sharp'.*fold=False"):
        export_saved_model(
            keras.Model(inputs, gate(inputs)), tmp_path / "1", fold=True
        )


def test_gate_outside_of_a_mixture_is_folded_where_it_can(tmp_path):
    gate = keras_comet.SoftmaxGate(N, permutation=permutation(ORDERS[0]))
    inputs = keras.Input((DEPTH,), name="x")
    model = keras.Model(inputs, gate(inputs))
    expected = gate(INPUTS["x"])
    export_saved_model(model, tmp_path / "1", fold=True)
    serve = tf.saved_model.load(tmp_path / "1").signatures["serving_default"]
    assert "GatherV2" not in {op.type for op in serve.graph.get_operations()}
    served = serve(x=TENSORS["x"])["output"]
    np.testing.assert_allclose(served, expected, atol=1e-6)


def test_gate_called_in_and_outside_of_a_mixture_is_right_in_both(tmp_path):
    gate = keras_comet.COMETGate(N, permutation=permutation(ORDERS[0]))
    inputs = keras.Input((DEPTH,), name="x")
    experts = EXPERTS["list"]()
    mixture = keras_comet.MixtureOfExperts(experts, gate)(inputs)
    model = keras.Model(inputs, {"weights": gate(inputs), "mixture": mixture})
    expected = model(INPUTS["x"])
    export_saved_model(model, tmp_path / "1", fold=True)
    serve = tf.saved_model.load(tmp_path / "1").signatures["serving_default"]
    for key, value in serve(x=TENSORS["x"]).items():
        np.testing.assert_allclose(value, expected[key], atol=1e-6)


def test_gate_shared_by_two_mixtures_is_right_in_both(tmp_path):
    gate = keras_comet.SoftmaxGate(N, permutation=permutation(ORDERS[0]))
    other = keras_comet.TopKGate(N, permutation=permutation(ORDERS[1]))
    inputs = keras.Input((DEPTH,), name="x")
    one = keras_comet.MixtureOfExperts(EXPERTS["list"](), gate)(inputs)
    two = keras_comet.MultiGateMixtureOfExperts(
        EXPERTS["stacked"](), {"a": gate, "b": other}
    )(inputs)
    model = keras.Model(inputs, {"one": one, **two})
    expected = model(INPUTS["x"])
    export_saved_model(model, tmp_path / "1", fold=True)
    serve = tf.saved_model.load(tmp_path / "1").signatures["serving_default"]
    for key, value in serve(x=TENSORS["x"]).items():
        np.testing.assert_allclose(value, expected[key], atol=1e-5)


def test_older_trace_inside_the_model_raises_instead_of_a_wrong_export(
    tmp_path,
):
    class Traced(keras.Model):
        def __init__(self):
            super().__init__()
            self.gate = keras_comet.SoftmaxGate(
                N, permutation=permutation(ORDERS[0]), name="traced"
            )
            self.call_gate = tf.function(
                lambda x: self.gate(x), [tf.TensorSpec([None, DEPTH])]
            )

        def call(self, x):
            return self.call_gate(x)

    model = Traced()
    before = model(TENSORS["x"]).numpy()
    given = {"input_signature": {"x": tf.TensorSpec([None, DEPTH])}}
    export_saved_model(model, tmp_path / "1", **given)
    with pytest.raises(ValueError, match="'traced'.*tf.function"):
        export_saved_model(model, tmp_path / "2", fold=True, **given)
    assert os.listdir(tmp_path) == ["1"]
    np.testing.assert_array_equal(model(TENSORS["x"]), before)


@pytest.mark.parametrize("fold", [False, True])
def test_permutation_that_is_being_searched_raises(tmp_path, fold):
    model = make_case("comet", "all", "list", False)
    searched = model.layers[-1].gates["a"].permutation
    searched.frozen.assign(False)
    with pytest.raises(ValueError, match="still being searched.*settle"):
        export_saved_model(model, tmp_path / "1", fold=fold)
    assert os.listdir(tmp_path) == []
    searched.freeze()
    export_saved_model(model, tmp_path / "1", fold=fold)


def test_failure_restores_what_was_permuted(tmp_path, monkeypatch):
    model = make_case("top_k", "per_gate", "list", False)
    gate = model.layers[-1].gates["a"]
    outputs = model(TENSORS, training=False)
    before = values(model)

    def write_out(self, path, *args, **kwargs):
        expected = before_kernel[:, np.argsort(ORDERS[0])]
        np.testing.assert_array_equal(np.array(gate.kernel), expected)
        raise OSError("disk full")

    before_kernel = np.array(gate.kernel)
    archive = type(keras.export.ExportArchive())
    monkeypatch.setattr(archive, "write_out", write_out)
    with pytest.raises(OSError, match="disk full"):
        export_saved_model(model, tmp_path / "1", fold=True)
    assert_unchanged(model, before, outputs)
