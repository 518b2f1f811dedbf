import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras
from tests.helpers import assert_gradients_close
from tests.helpers import gradients
from tests.helpers import rows
from tests.helpers import variables
from tests.layers.expert_kinds import CountingExpert

TASKS = ("click", "buy")
# Numbers of each task's own experts, and of the shared ones.
NUM_OWN = {"click": 2, "buy": 1}
NUM_SHARED = 3


def dense(count, units=3):
    return [keras.layers.Dense(units, "tanh") for _ in range(count)]


def make_experts(kind="list"):
    if kind == "list":
        return {t: dense(NUM_OWN[t]) for t in TASKS}, dense(NUM_SHARED)
    return (
        {
            task: keras_comet.StackedDenseExperts(NUM_OWN[task], 3, "tanh")
            for task in TASKS
        },
        keras_comet.StackedDenseExperts(NUM_SHARED, 3, "tanh"),
    )


def make_gates():
    return {
        "click": keras_comet.COMETGate(5, gamma=0.3),
        "buy": keras_comet.TopKGate(4, k=2),
    }


def make_level(kind="list", dispatch="auto", last=False, **kwargs):
    return keras_comet.CustomizedGateControl(
        *make_experts(kind),
        make_gates(),
        None if last else keras_comet.TopKGate(6, k=2),
        dispatch,
        **kwargs,
    )


def compute(expert, row):
    kernel, bias = (np.array(each) for each in expert)
    return np.tanh(row @ kernel + bias)


def weights_of(experts):
    """The kernel and bias of each expert."""
    if isinstance(experts, list):
        return [expert.get_weights() for expert in experts]
    return list(zip(*experts.get_weights(), strict=True))


def reference(level, inputs):
    """`y_t = sum_e g_te f_e`, one row, gate and expert at a time."""
    own = {task: weights_of(level.task_experts[task]) for task in TASKS}
    shared = weights_of(level.shared_experts)
    reads = {task: [task] for task in TASKS}
    gates = dict(level.gates)
    if level.shared_gate is not None:
        reads["shared"], gates["shared"] = list(TASKS), level.shared_gate
    outputs = {}
    for name, tasks in reads.items():
        weights = np.array(gates[name](tf.constant(inputs[name])))
        outputs[name] = np.zeros((len(weights), 3))
        for row in range(len(weights)):
            computed = [
                compute(expert, inputs[task][row])
                for task in tasks
                for expert in own[task]
            ] + [compute(expert, inputs["shared"][row]) for expert in shared]
            for weight, output in zip(weights[row], computed, strict=True):
                outputs[name][row] += weight * output
    return outputs


def by_name(seed=0):
    names = (*TASKS, "shared")
    return {name: rows(7, 4, seed=seed + i) for i, name in enumerate(names)}


@pytest.mark.parametrize("kind", ["list", "stacked"])
@pytest.mark.parametrize("dispatch", ["dense", "sparse", "auto"])
def test_outputs_equal_a_loop_over_experts(kind, dispatch):
    level = make_level(kind, dispatch)
    x = rows(7, 4)
    outputs = level(tf.constant(x))
    assert list(outputs) == [*TASKS, "shared"]
    expected = reference(level, dict.fromkeys(outputs, x))
    for name, output in outputs.items():
        np.testing.assert_allclose(output, expected[name], atol=1e-5)


def test_two_levels_equal_a_loop_over_experts():
    first = make_level(dispatch="sparse", name="first")
    last = make_level(dispatch="sparse", last=True, name="last")
    x = rows(7, 4)
    level = first(tf.constant(x))
    outputs = last(level)
    assert list(outputs) == list(TASKS)
    features = reference(first, dict.fromkeys(level, x))
    features = {name: np.float32(each) for name, each in features.items()}
    expected = reference(last, features)
    for name, output in outputs.items():
        np.testing.assert_allclose(output, expected[name], atol=1e-5)


def test_features_and_routing_inputs_may_differ_by_task():
    level = make_level()
    features, routing = by_name(), by_name(seed=5)
    inputs = tf.nest.map_structure(tf.constant, (features, routing))
    outputs, weights = level(inputs, return_routing_weights=True)
    for task in TASKS:
        expected = level.gates[task](inputs[1][task])
        np.testing.assert_array_equal(weights[task], expected)
    # Features of one task are seen by its own experts, and through the shared
    # gate, and by nothing else.
    features["buy"] = features["buy"] + 1.0
    other = level(tf.nest.map_structure(tf.constant, (features, routing)))
    np.testing.assert_array_equal(other["click"], outputs["click"])
    for name in ("buy", "shared"):
        assert np.abs(other[name] - outputs[name]).max() > 0.01


def test_dispatches_agree_on_gradients_in_a_graph():
    x = tf.constant(rows(7, 4))
    (own, shared), gates = make_experts(), make_gates()
    shared_gate = keras_comet.TopKGate(6, k=2)
    results = []
    for dispatch in ("dense", "sparse"):
        level = keras_comet.CustomizedGateControl(
            own, shared, gates, shared_gate, dispatch
        )
        level(x)
        weights = variables(level.trainable_weights)

        # An argument, as a graph has another tensor for one around it.
        def run(x, level=level, weights=weights):
            return gradients(
                lambda: tf.add_n(
                    [
                        tf.reduce_sum(tf.sin((i + 1) * each))
                        for i, each in enumerate(level(x).values())
                    ]
                ),
                [x, *weights],
            )

        # What is expected needs no graph.
        results.append((tf.function(run) if dispatch == "sparse" else run)(x))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5)
    assert_gradients_close(results[1][1], results[0][1])


@pytest.mark.parametrize("compiled", [False, True])
def test_only_chosen_experts_are_computed_and_shared_ones_once(compiled):
    own = {task: [CountingExpert() for _ in range(2)] for task in TASKS}
    shared = [CountingExpert() for _ in range(2)]
    # Numbers 2 and 3 are the shared experts.
    tables = {"click": [0, 2, 3, 3], "buy": [2, 2, 1, 3]}
    gates = {}
    for task, table in tables.items():
        gates[task] = keras_comet.HashGate(4, num_ids=4)
        gates[task].build((None,))
        gates[task].assignment.assign(table)
    level = keras_comet.CustomizedGateControl(
        own, shared, gates, dispatch="sparse"
    )
    level.build(((None, 2), (None,)))
    x = tf.constant(rows(4, 2))
    outputs = (tf.function(level) if compiled else level)((x, tf.range(4)))
    experts = [*own["click"], *own["buy"], *shared]
    # Both tasks chose the first shared expert for row 1, and the second for
    # row 3.
    assert [int(each.rows) for each in experts] == [1, 0, 0, 1, 2, 2]
    assert [int(each.calls) for each in experts] == [1, 0, 0, 1, 1, 1]
    for output in outputs.values():
        np.testing.assert_allclose(output, 2 * x, rtol=1e-6)


def test_tokens_and_empty_batches():
    level = make_level()
    tokens = rows(2, 3, 4)
    flat = level(tf.constant(tokens.reshape(6, 4)))
    for name, output in level(tf.constant(tokens)).items():
        expected = flat[name].numpy().reshape(2, 3, 3)
        np.testing.assert_allclose(output, expected, atol=1e-6)
    for output in level(tf.constant(tokens[:0])).values():
        assert output.shape == (0, 3, 3)


def test_masks_of_each_task_pass_through():
    level = make_level()
    masks = {name: object() for name in (*TASKS, "shared")}
    features = tf.nest.map_structure(tf.constant, by_name())
    assert level.compute_mask(features, masks) == masks
    mask = masks["buy"]
    for given in (mask, [mask, None]):
        assert level.compute_mask(features["buy"], given) == dict.fromkeys(
            masks, mask
        )


def make_stack():
    """PLE of two levels as a model."""
    inputs = keras.Input((4,))
    level = make_level(dispatch="sparse", name="first")(inputs)
    outputs = make_level(last=True, name="last")(level)
    return keras.Model(inputs, [outputs[task] for task in TASKS])


def test_saved_stack_is_the_same_and_keeps_what_is_frozen(tmp_path):
    model = make_stack()
    level = model.get_layer("first")
    level.task_experts["buy"][0].trainable = False
    level.shared_gate.trainable = False
    count = len(model.trainable_weights)
    x = tf.constant(rows(5, 4))
    expected = model(x)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    tf.train.Checkpoint(model=model).write(str(tmp_path / "checkpoint"))
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert len(loaded.trainable_weights) == count
    level = loaded.get_layer("first")
    assert not level.task_experts["buy"][0].trainable
    assert not level.shared_gate.trainable
    weights, checkpoint = make_stack(), make_stack()
    weights.load_weights(tmp_path / "model.weights.h5")
    status = tf.train.Checkpoint(model=checkpoint)
    status.read(str(tmp_path / "checkpoint")).assert_existing_objects_matched()
    for other in (loaded, weights, checkpoint):
        for found, each in zip(other(x), expected, strict=True):
            np.testing.assert_allclose(found, each, atol=1e-6)


def test_an_expert_of_two_levels_is_shared_again_when_rebuilt():
    own, shared = make_experts()
    inputs = keras.Input((4,))
    outputs = [
        keras_comet.CustomizedGateControl(
            {task: dense(NUM_OWN[task]) for task in TASKS},
            shared,
            make_gates(),
            name=name,
        )(inputs)["buy"]
        for name in ("one", "two")
    ]
    model = keras.Model(inputs, outputs)
    again = keras.Model.from_config(model.get_config())
    one, two = (again.get_layer(name).shared_experts for name in ("one", "two"))
    assert all(a is b for a, b in zip(one, two, strict=True))
    assert one[0] is not shared[0]
    assert len(again.weights) == len(model.weights)


def test_similarity_of_each_group_is_reported():
    level = make_level(name="level")
    found = keras_comet.expert_similarity(level, tf.constant(rows(7, 4)))
    sizes = {name: len(each.matrix) for name, each in found.items()}
    assert sizes == {"level/click": 2, "level/buy": 1, "level/shared": 3}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"task_experts": {}}, "at least one task"),
        ({"task_experts": lambda: dense(2)}, "dict from task name"),
        (
            {"task_experts": lambda: {"shared": dense(2)}},
            "No task may be called 'shared'",
        ),
        ({"task_experts": lambda: {"click": dense(2)}}, "experts and a gate"),
        (
            {"task_experts": lambda: dict.fromkeys(TASKS, dense(2))},
            "more than once",
        ),
        ({"shared_experts": lambda: dense(1)}, "3 experts.*'click'.*=5"),
        (
            {"shared_gate": lambda: keras_comet.TopKGate(5)},
            "6 experts.*shared gate with num_experts=5",
        ),
        ({"shared_gate": lambda: keras.layers.Dense(6)}, "keras_comet.Gate"),
        ({"dispatch": "both"}, "dispatch='both'"),
    ],
)
def test_bad_arguments_raise(change, match):
    own, shared = make_experts()
    arguments = {
        "task_experts": own,
        "shared_experts": shared,
        "gates": make_gates(),
    }
    for name, value in change.items():
        arguments[name] = value() if callable(value) else value
    with pytest.raises(ValueError, match=match):
        keras_comet.CustomizedGateControl(**arguments)


def test_bad_inputs_raise():
    level = make_level()
    x = tf.constant(rows(2, 4))
    tasks = dict.fromkeys(TASKS, x)
    for inputs, match in (
        (tasks, r"'shared'\]. Received: \['buy', 'click'\]. A"),
        (
            {**tasks, "shared": x, "rate": x},
            r"'shared'\]. Received: \['buy', 'click', 'rate'",
        ),
        ((x, tasks), "routing inputs every gate"),
        ({**tasks, "shared": x[:, tf.newaxis]}, "same axes|start with"),
    ):
        with pytest.raises(ValueError, match=match):
            level(inputs)


def test_groups_of_other_output_shapes_raise():
    own, _ = make_experts()
    level = keras_comet.CustomizedGateControl(own, dense(3, 2), make_gates())
    with pytest.raises(ValueError, match=r"'click': \(3,\).*'shared': \(2,\)"):
        level(tf.constant(rows(2, 4)))
