"""Exports every kind of model once, serves all in one other process."""

import contextlib
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import flatten_layers
from keras_comet._keras import keras
from keras_comet.export import export_saved_model
from tests.export.exports import BATCHES
from tests.helpers import rows

NUM_EXPERTS = 3
K = 2
TASKS = ("rating", "click")
USERS = ["ann", "bob", "cid"]

# kind -> (new gate, what it reads)
GATES = {
    "comet": (lambda: keras_comet.COMETGate(NUM_EXPERTS, k=K), "features"),
    "comet_permuted": (
        lambda: keras_comet.COMETGate(
            NUM_EXPERTS, permutation=permutation([2, 0, 1])
        ),
        "features",
    ),
    "dselect_k": (
        lambda: keras_comet.DSelectKGate(NUM_EXPERTS, k=K),
        "features",
    ),
    "dselect_k_static": (
        lambda: keras_comet.DSelectKGate(
            NUM_EXPERTS, example_conditioned=False
        ),
        "features",
    ),
    "top_k": (
        lambda: keras_comet.TopKGate(NUM_EXPERTS, noise=True),
        "features",
    ),
    "hash_table": (
        lambda: keras_comet.HashGate(NUM_EXPERTS, num_ids=len(USERS) + 1),
        "ids",
    ),
    "hash_strings": (lambda: keras_comet.HashGate(NUM_EXPERTS), "user"),
    "softmax": (lambda: keras_comet.SoftmaxGate(NUM_EXPERTS), "features"),
}
HARD = ("comet", "comet_permuted", "dselect_k", "dselect_k_static")


def permutation(assignment):
    result = keras_comet.ExpertPermutation(len(assignment))
    result.assignment.assign([assignment])
    return result


def make_inputs():
    """More rows than one, unknown users among them."""
    rng = np.random.default_rng(0)
    return {
        "user": np.array(rng.choice([*USERS, "eve"], max(BATCHES))),
        "item": rng.integers(0, 9, max(BATCHES)),
        "dense": rng.normal(size=(max(BATCHES), 3)).astype("float32"),
    }


def make_inputs_of_model():
    # The order is neither alphabetical nor that of use.
    return {
        "user": keras.Input((), dtype="string", name="user"),
        "item": keras.Input((), dtype="int64", name="item"),
        "dense": keras.Input((3,), name="dense"),
    }


def make_model():
    """Every kind of gate, in one model."""
    inputs = make_inputs_of_model()
    ids = keras.layers.StringLookup(vocabulary=USERS)(inputs["user"])
    embedded = keras.layers.Embedding(len(USERS) + 1, 4)(ids)
    items = keras.layers.Embedding(9, 4)(inputs["item"])
    features = keras.layers.Concatenate()([inputs["dense"], items, embedded])
    hidden = keras_comet.MixtureOfExperts(
        [keras.layers.Dense(6, "relu") for _ in range(NUM_EXPERTS)],
        keras_comet.COMETGate(NUM_EXPERTS),
    )(features)
    read = {"features": hidden, "ids": ids, "user": inputs["user"]}
    mixtures, weights = keras_comet.MultiGateMixtureOfExperts(
        keras_comet.StackedDenseExperts(NUM_EXPERTS, [4]),
        {kind: make() for kind, (make, _) in GATES.items()},
        # One branch to trace and serve; the other models have both.
        dispatch="dense",
    )(
        (hidden, {kind: read[what] for kind, (_, what) in GATES.items()}),
        return_routing_weights=True,
    )
    weights = {f"{kind}_weights": each for kind, each in weights.items()}
    return keras.Model(inputs, {**mixtures, **weights})


def make_model_of_lists():
    """Takes and returns lists, whose order is not that of the names."""
    inputs = list(make_inputs_of_model().values())
    ids = keras.layers.StringLookup(vocabulary=USERS)(inputs[0])
    embedded = keras.layers.Embedding(len(USERS) + 1, 4)(ids)
    items = keras.layers.Embedding(9, 4)(inputs[1])
    features = keras.layers.Concatenate()([inputs[2], items, embedded])
    mixtures = keras_comet.MultiGateMixtureOfExperts(
        keras_comet.StackedDenseExperts(NUM_EXPERTS, [4]),
        {task: keras_comet.SoftmaxGate(NUM_EXPERTS) for task in TASKS},
    )(features)
    return keras.Model(
        inputs,
        [
            keras.layers.Dense(1, name=f"{task}_tower")(mixtures[task])
            for task in TASKS
        ],
    )


class TensorModel(keras.Model):
    """Takes one tensor and returns a list; `dense` is its argument's name."""

    def __init__(self):
        super().__init__()
        self.moe = keras_comet.MixtureOfExperts(
            keras_comet.StackedDenseExperts(3, [2]), keras_comet.TopKGate(3)
        )

    def call(self, dense):
        mixture = self.moe(dense)
        return [mixture, -mixture]


class DictModel(TensorModel):
    """Takes a dict with ids, says itself which, and returns one tensor."""

    def __init__(self):
        super().__init__()
        self.user = keras_comet.CategoricalFeature(USERS, embedding_dim=2)

    def call(self, inputs):
        return super().call(inputs["dense"])[0] * self.user(inputs["user"])

    def input_signature(self):
        return {
            "user": tf.TensorSpec([None], tf.string),
            "dense": tf.TensorSpec([None, 3], tf.float32),
        }


def make_sequential(*layers):
    gate = keras_comet.TopKGate(3)
    experts = keras_comet.StackedDenseExperts(3, [2])
    return keras.Sequential(
        [*layers, keras_comet.MixtureOfExperts(experts, gate)]
    )


def make_recommender():
    return keras_comet.MultiGateRecommender(
        features={
            "user": keras_comet.CategoricalFeature(USERS, embedding_dim=4),
            "item": keras_comet.CategoricalFeature(range(9), embedding_dim=4),
            "dense": keras_comet.NumericFeature([0.0] * 3, [1.0] * 3),
        },
        experts=[keras.layers.Dense(4) for _ in range(NUM_EXPERTS)],
        gates={
            "rating": keras_comet.COMETGate(NUM_EXPERTS),
            "click": keras_comet.HashGate(NUM_EXPERTS),
        },
        tasks=[keras_comet.Task(task, "mse") for task in TASKS],
        tower_units=[3],
    )


def to_tensors(inputs):
    return tf.nest.map_structure(tf.constant, inputs)


def gates_of(model):
    return [
        layer
        for layer in flatten_layers(model)
        if isinstance(layer, keras_comet.Gate)
    ]


@contextlib.contextmanager
def routing_hard(model):
    gates = [gate for gate in gates_of(model) if hasattr(gate, "hard_routing")]
    assert gates
    for gate in gates:
        gate.hard_routing = True
    yield
    for gate in gates:
        gate.hard_routing = False


def add_exports(result):
    """Exports every kind of model, for the fixture of this folder."""
    inputs = make_inputs()
    tensors = to_tensors(inputs)
    model = make_model()
    # Also leaves a trace with soft routing behind, before any export.
    expected = model.predict(tensors, verbose=0)
    result.add("gates", model, inputs, expected)
    with routing_hard(model):
        expected = model(tensors, training=False)
    result.add("gates_hard", model, inputs, expected, hard_routing=True)

    model = make_model_of_lists()
    predictions = model(list(tensors.values()))
    names = [f"{task}_tower" for task in TASKS]
    expected = dict(zip(names, predictions, strict=True))
    result.add("list", model, inputs, expected)

    dense = {"dense": inputs["dense"]}
    model = make_sequential(keras.Input((3,), name="dense"))
    expected = model(inputs["dense"])
    result.add("sequential", model, dense, {"output": expected})

    model = make_sequential()
    expected = model(inputs["dense"])
    signature = {"dense": tf.TensorSpec([None, 3])}
    result.add(
        "sequential_built_by_call",
        model,
        dense,
        {"output": expected},
        input_signature=signature,
    )

    model = TensorModel()
    first, second = model(inputs["dense"])
    result.add(
        "tensor",
        model,
        dense,
        {"output_0": first, "output_1": second},
        input_signature=signature,
    )

    model = DictModel()
    used = {name: inputs[name] for name in ("dense", "user")}
    result.add("dict", model, used, {"output": model(to_tensors(used))})

    model = make_recommender()
    result.add("recommender", model, inputs, model(tensors))


CASES = (
    "gates",
    "gates_hard",
    "list",
    "sequential",
    "sequential_built_by_call",
    "tensor",
    "dict",
    "recommender",
)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_served_outputs_equal_keras_at_any_batch_size(exports, case):
    served = exports.served[case]
    expected = exports.expected[case]
    assert set(served) == {f"{b}:{key}" for b in BATCHES for key in expected}
    for name, value in served.items():
        batch, _, key = name.partition(":")
        np.testing.assert_allclose(
            value, expected[key][: int(batch)], atol=1e-5, err_msg=name
        )


@pytest.mark.slow
def test_signature_names_inputs_and_outputs(exports):
    for case, report in exports.report.items():
        signatures = set(report["signatures"]) - {"__saved_model_init_op"}
        assert signatures == {"serving_default"}, case
        assert report["outputs"] == sorted(exports.expected[case]), case
        assert sorted(report["inputs"]) == exports.inputs[case]
        for name, shape in report["inputs"].items():
            features = {"dense": [3], "x": [5]}.get(name, [])
            assert shape == [-1, *features], case


@pytest.mark.slow
def test_graph_has_no_python_and_no_assignment(exports):
    for case, report in exports.report.items():
        ops = report["ops"]
        # The walk does reach into the functions.
        assert {"StatefulPartitionedCall", "MatMul"} <= set(ops), case
        for op in ops:
            assert "PyFunc" not in op, case
            assert "ResourceScatter" not in op, case
            assert not op.startswith(("Assign", "Restore", "Scatter")), case


@pytest.mark.slow
@pytest.mark.parametrize("kind", HARD)
def test_hard_routing_caps_the_experts_in_the_export_alone(exports, kind):
    key = f"{kind}_weights"
    weights = exports.served["gates_hard"][f"{max(BATCHES)}:{key}"]
    assert (weights != 0.0).sum(axis=-1).max() <= K
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-6)
    assert (exports.expected["gates"][key] != 0.0).sum(axis=-1).max() > K


@pytest.mark.slow
def test_hard_export_leaves_the_model_soft(exports):
    model = exports.models["gates_hard"]
    soft = [g.hard_routing for g in gates_of(model) if hasattr(g, "gamma")]
    assert soft == [False] * (1 + len(HARD))
    after = model(to_tensors(make_inputs()), training=False)
    for key, value in exports.expected["gates"].items():
        np.testing.assert_allclose(after[key], value, atol=1e-5)


def test_export_keeps_a_gate_hard_that_was_hard(tmp_path):
    gate = keras_comet.COMETGate(3, hard_routing=True)
    inputs = keras.Input((3,), name="x")
    model = keras.Model(inputs, gate(inputs))
    x = rows(40, 3)
    expected = gate(x)
    for path, hard_routing in ((tmp_path / "1", False), (tmp_path / "2", True)):
        export_saved_model(model, path, hard_routing=hard_routing)
        serve = tf.saved_model.load(path).signatures["serving_default"]
        np.testing.assert_allclose(
            serve(x=tf.constant(x))["output"], expected, atol=1e-6
        )
        assert gate.hard_routing is True


@pytest.mark.parametrize("make", ["mkdir", "touch"])
def test_existing_path_is_not_touched(tmp_path, make):
    path = tmp_path / "1"
    getattr(path, make)()
    if path.is_dir():
        (path / "mine").write_text("precious")
    before = path.stat().st_mtime_ns
    model = make_sequential(keras.Input((3,)))
    with pytest.raises(ValueError, match="does not exist. Received: path="):
        export_saved_model(model, str(path) + "/")
    assert path.stat().st_mtime_ns == before
    assert os.listdir(tmp_path) == ["1"]


def test_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def write_out(self, path, *args, **kwargs):
        pathlib.Path(path).mkdir()
        (pathlib.Path(path) / "half").write_text("")
        raise OSError("disk full")

    # In Keras 3 the public class makes an object of another one.
    archive = type(keras.export.ExportArchive())
    monkeypatch.setattr(archive, "write_out", write_out)
    model = make_sequential(keras.Input((3,)))
    with pytest.raises(OSError, match="disk full"):
        export_saved_model(model, tmp_path / "new/1", hard_routing=True)
    assert os.listdir(tmp_path / "new") == []


def test_export_prints_nothing_and_leaves_one_directory(tmp_path, capsys):
    path = str(tmp_path / "some/where/1")
    assert export_saved_model(make_sequential(keras.Input((3,))), path) == path
    assert capsys.readouterr().out == ""
    assert os.listdir(tmp_path / "some/where") == ["1"]


def test_model_with_a_fixed_batch_size_serves_any(tmp_path):
    inputs = keras.Input(batch_shape=(4, 3), name="numbers")
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    export_saved_model(model, tmp_path / "1")
    serve = tf.saved_model.load(tmp_path / "1").signatures["serving_default"]
    assert serve(numbers=tf.ones((2, 3)))["output"].shape == (2, 1)


def call_with_nested_outputs():
    inputs = keras.Input((3,), name="dense")
    return keras.Model(inputs, {"click": {"logit": inputs}})


@pytest.mark.parametrize(
    ("make", "signature", "match"),
    [
        (lambda: make_sequential(), None, "is not built"),
        (lambda: "model", None, "must be a model of"),
        (lambda: built(TensorModel()), None, "must be described"),
        (
            lambda: built(TensorModel()),
            {"dense": tf.TensorSpec([8, 3])},
            "any size",
        ),
        (
            lambda: built(TensorModel()),
            [tf.TensorSpec([None, 3])],
            "any size",
        ),
        (
            lambda: built(TensorModel()),
            {"my input": tf.TensorSpec([None, 3])},
            r"Received: \['my input'\]",
        ),
        (
            make_model_of_lists,
            {"user": tf.TensorSpec([None], tf.string)},
            r"Received: \['user'\]",
        ),
        (call_with_nested_outputs, None, "must return a tensor"),
    ],
)
def test_what_cannot_be_served_raises(tmp_path, make, signature, match):
    with pytest.raises(ValueError, match=match):
        export_saved_model(make(), tmp_path / "1", input_signature=signature)
    assert os.listdir(tmp_path) == []


def built(model):
    model(np.ones((2, 3), "float32"))
    return model
