import contextlib

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras
from tests import reference
from tests.gates.comet_gate_test import make_gate
from tests.helpers import gradients
from tests.helpers import rows
from tests.helpers import variables

GATES = [keras_comet.COMETGate, keras_comet.DSelectKGate]


def state(gate):
    """Every variable of a gate that is not trained, by name."""
    return {
        "gamma_scale": gate.gamma_scale,
        "cardinality_cap": gate.cardinality_cap,
        "scale": gate.input_scale.scale,
    }


@contextlib.contextmanager
def constants(layer, **values):
    """Puts NumPy values in the place of variables, as an export does."""
    before = {name: vars(layer)[name] for name in values}
    vars(layer).update(values)
    try:
        yield
    finally:
        vars(layer).update(before)


def settled_share(gate, x):
    """Share of splits, or digits, without a gradient."""
    names = {
        keras_comet.COMETGate: ("split_kernel", "split_bias"),
        keras_comet.DSelectKGate: ("selector_kernel", "selector_bias"),
    }[type(gate)]
    kernel, bias = (np.asarray(getattr(gate, name)) for name in names)
    logits = np.einsum("bd,dki->bki", x, kernel) + bias
    return np.mean(np.abs(logits) >= gate.gamma / 2)


@pytest.mark.parametrize("gamma_scale", [0.25, 4.0])
def test_gamma_scale_multiplies_gamma(gamma_scale):
    gate, weights = make_gate(6, gamma=3.0)
    gate.gamma_scale.assign(gamma_scale)
    x = rows(6, 4)
    expected = reference.comet(x, **weights, gamma=3.0 * gamma_scale)
    np.testing.assert_allclose(gate(x), expected, atol=2e-6)


def trace(gate_class):
    """A gate, one graph of it that is never traced again, and its inputs."""
    gate = gate_class(8, k=2)
    gate.build((None, 4))
    route = tf.function(gate).get_concrete_function(tf.TensorSpec([50, 4]))
    return gate, route, tf.constant(rows(50, 4))


@pytest.mark.parametrize("gate_class", GATES)
def test_hard_routing_can_be_switched_in_a_traced_function(gate_class):
    gate, route, x = trace(gate_class)
    soft = route(x).numpy()
    assert (np.count_nonzero(soft, axis=-1) > 2).any()
    gate.hard_routing = True
    assert gate.hard_routing
    hard = route(x).numpy()
    assert np.count_nonzero(hard, axis=-1).max() <= 2
    gate.hard_routing = False
    np.testing.assert_array_equal(route(x), soft)


@pytest.mark.parametrize("gate_class", GATES)
def test_hard_routing_is_the_limit_of_a_vanishing_width(gate_class):
    gate = gate_class(8, k=2)
    x = rows(200, 4)
    gate(x)
    gate.gamma_scale.assign(1e-9)
    vanishing = gate(x).numpy()
    gate.hard_routing = True
    np.testing.assert_allclose(gate(x), vanishing, atol=1e-6)


@pytest.mark.parametrize("gate_class", GATES)
def test_hard_routing_trains_what_weighs_the_selected_experts(gate_class):
    gate = gate_class(8, k=2, hard_routing=True)
    x = tf.constant(rows(50, 4))
    gate(x)
    direction = np.linspace(-1, 1, 8).astype("float32")
    weights = variables(gate.trainable_weights)
    _, found = gradients(
        lambda: tf.reduce_sum(gate(x, training=True) * direction), weights
    )
    for weight, gradient in zip(gate.trainable_weights, found, strict=True):
        splits = any(part in weight.name for part in ("split", "selector"))
        assert np.any(gradient != 0.0) != splits, weight.name


def test_constructor_starts_hard_and_config_says_so():
    gate = keras_comet.COMETGate(8, hard_routing=True)
    assert gate.hard_routing
    x = rows(20, 4)
    assert np.count_nonzero(gate(x), axis=-1).max() <= 2
    assert gate.get_config()["hard_routing"]
    gate.hard_routing = False
    assert not gate.get_config()["hard_routing"]
    assert np.count_nonzero(gate(x), axis=-1).max() > 2


@pytest.mark.parametrize("gate_class", GATES)
def test_state_is_saved_and_restored(gate_class, tmp_path):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, gate_class(6, name="gate")(inputs))
    gate = model.get_layer("gate")
    gate.gamma_scale.assign(0.3)
    gate.cardinality_cap.assign(4)
    gate.input_scale.scale.assign(5.0)
    x = rows(9, 4)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(x), model(x))
    restored = state(again.get_layer("gate"))
    for name, variable in state(gate).items():
        np.testing.assert_array_equal(restored[name], variable)
    model.save_weights(tmp_path / "model.weights.h5")
    gate.hard_routing = True
    model.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_allclose(gate.gamma_scale, 0.3)


def test_state_is_not_trained():
    gate, _ = make_gate(5, learning_rate_multiplier=1.0)
    assert {
        weight.name.split("/")[-1].removesuffix(":0")
        for weight in gate.non_trainable_weights
    } == set(state(gate))


@pytest.mark.parametrize("gate_class", GATES)
def test_cap_can_be_set_in_a_traced_function(gate_class):
    gate, route, x = trace(gate_class)
    soft = route(x).numpy()
    for cap in (5, 1, 2):
        gate.cardinality_cap.assign(cap)
        smallest_kept = np.sort(soft, axis=-1)[:, -cap, np.newaxis]
        kept = np.where(soft >= smallest_kept, soft, 0.0)
        kept /= kept.sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(route(x), kept, atol=1e-6)
    gate.cardinality_cap.assign(8)
    np.testing.assert_array_equal(route(x), soft)


def test_load_balance_counts_the_weights_that_are_kept():
    gate, _ = make_gate(5, gamma=3.0, load_balance_weight=0.3)
    gate.cardinality_cap.assign(1)
    x = rows(40, 4)
    usage = gate(x, training=True).numpy().mean(axis=0)
    assert usage.max() > 0.3
    np.testing.assert_allclose(
        gate.losses, [0.3 * (5 * np.sum(usage**2) - 1)], rtol=1e-5
    )


def test_inference_changes_nothing():
    gate, _ = make_gate(5, gamma=3.0)
    before = [value.copy() for value in gate.get_weights()]
    gate(rows(40, 4))
    for value, old in zip(gate.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)
    assert not gate.losses


@pytest.mark.parametrize("gate_class", GATES)
def test_equal_weights_and_config_behave_equally(gate_class):
    gate = gate_class(5, entropy_weight=0.1)
    x = rows(20, 4)
    gate(x, training=True)
    # What a CardinalityTarget leaves behind.
    gate.gamma_scale.assign(0.4)
    gate.cardinality_cap.assign(3)
    again = gate_class.from_config(gate.get_config())
    again.build(x.shape)
    again.set_weights(gate.get_weights())
    for _ in range(3):
        routed = [each(x, training=True) for each in (gate, again)]
        np.testing.assert_array_equal(*routed)
        np.testing.assert_array_equal(gate.losses, again.losses)
        for one, other in zip(
            gate.get_weights(), again.get_weights(), strict=True
        ):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("gate_class", GATES)
@pytest.mark.parametrize("scale", [1e-3, 1e-2, 0.1, 1.0, 10.0, 1e2, 1e3])
def test_inputs_of_any_scale_start_undecided_and_train(gate_class, scale):
    gate = gate_class(16, k=2)
    x = scale * rows(256, 32)
    gate(x, training=True)
    rms = np.sqrt(np.mean(np.square(x, dtype="float64")))
    # What brings the root mean square into [0.02, 2].
    expected = max(rms / 2.0, 1.0) * min(rms / 0.02, 1.0)
    np.testing.assert_allclose(gate.input_scale.scale, expected, rtol=1e-5)
    assert settled_share(gate, x / expected) < 0.25
    # For the rows of another batch, in inference as well.
    other = scale * rows(256, 32, seed=1)
    assert np.count_nonzero(gate(other), axis=-1).mean() > 6
    direction = np.linspace(-1, 1, 16).astype("float32")
    _, found = gradients(
        lambda: tf.reduce_sum(gate(other, training=True) * direction),
        variables(gate.trainable_weights),
    )
    for gradient in found:
        assert np.any(gradient != 0.0)


def test_usual_scales_are_left_alone_and_others_if_asked():
    for gate, scale in (
        (keras_comet.COMETGate(5), 1.9),
        (keras_comet.COMETGate(5), 0.03),
        (keras_comet.COMETGate(5, rescale_inputs=False), 1e4),
        (keras_comet.DSelectKGate(5, rescale_inputs=False), 1e4),
        (keras_comet.DSelectKGate(5, example_conditioned=False), 1e4),
    ):
        x = scale * rows(100, 4)
        before = gate(x).numpy()
        for _ in range(2):
            np.testing.assert_array_equal(gate(x, training=True), before)
        np.testing.assert_array_equal(gate(x), before)


def test_given_initializers_are_rescaled_too():
    gate = keras_comet.COMETGate(5, kernel_initializer="he_normal")
    gate(100.0 * np.ones((6, 4), "float32"), training=True)
    np.testing.assert_allclose(gate.input_scale.scale, 50.0, rtol=1e-6)


def test_scale_is_measured_once_and_without_bad_values():
    gate = keras_comet.COMETGate(5)
    x = 100.0 * np.ones((6, 4), "float32")
    x[0, 1], x[3, 2] = np.nan, np.inf
    gate(np.zeros((2, 4), "float32"), training=True)
    gate(tf.zeros([0, 4]), training=True)
    np.testing.assert_array_equal(gate.input_scale.scale, 0.0)
    gate(x, training=True)
    np.testing.assert_allclose(gate.input_scale.scale, 50.0, rtol=1e-6)
    gate(10.0 * x, training=True)
    np.testing.assert_allclose(gate.input_scale.scale, 50.0, rtol=1e-6)


@pytest.mark.parametrize("gate_class", GATES)
@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize(("scale", "cap"), [(1.0, 5), (50.0, 2)])
def test_known_state_leaves_one_branch_in_the_graph(
    gate_class, hard, scale, cap
):
    gate = gate_class(5)
    x = scale * rows(30, 4)
    gate.build((None, 4))
    gate.gamma_scale.assign(0.0 if hard else 0.5)
    gate.input_scale.scale.assign(scale)
    gate.cardinality_cap.assign(cap)
    with (
        constants(
            gate,
            gamma_scale=np.float32(0.0 if hard else 0.5),
            cardinality_cap=np.int32(cap),
        ),
        constants(gate.input_scale, scale=np.float32(scale)),
    ):
        assert gate.hard_routing == hard
        route = tf.function(lambda x: gate(x)).get_concrete_function(
            tf.TensorSpec([None, 4])
        )
    np.testing.assert_allclose(route(tf.constant(x)), gate(x), atol=1e-6)
    # Reads of the trainable weights only, and no branch.
    types = [each.type for each in route.graph.get_operations()]
    assert types.count("ReadVariableOp") <= len(gate.trainable_weights)
    assert not {"If", "StatelessIf"} & set(types)
    assert len(route.captured_inputs) == len(gate.trainable_weights)


@pytest.mark.parametrize(
    "gate_class", [keras_comet.COMETGate, keras_comet.DSelectKGate]
)
def test_a_frozen_gate_measures_no_scale(gate_class):
    gate = gate_class(4)
    features = 100.0 * rows(16, 3)
    before = np.array(gate(features))
    gate.trainable = False
    gate(features, training=True)
    np.testing.assert_array_equal(gate(features), before)
