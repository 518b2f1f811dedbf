import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet import testing
from keras_comet._keras import keras
from tests.helpers import gradients
from tests.helpers import rows
from tests.helpers import variables

FEATURE_GATES = [
    keras_comet.COMETGate,
    keras_comet.DSelectKGate,
    keras_comet.TopKGate,
    keras_comet.SoftmaxGate,
]

# Each gate with every regularizer that it has.
REGULARIZED = {
    "comet": lambda weight: keras_comet.COMETGate(
        5, entropy_weight=weight, load_balance_weight=weight
    ),
    "dselect_k": lambda weight: keras_comet.DSelectKGate(
        5,
        entropy_weight=weight,
        penalty_weight=weight,
        load_balance_weight=weight,
    ),
    "top_k": lambda weight: keras_comet.TopKGate(
        5, z_loss_weight=weight, load_balance_weight=weight
    ),
    "softmax": lambda weight: keras_comet.SoftmaxGate(
        5, z_loss_weight=weight, load_balance_weight=weight
    ),
}


class FirstExpertGate(keras_comet.Gate):
    """What a user may write: only says how its one selector routes."""

    def build(self, input_shape):
        self.bias = self.add_matrix("bias", (self.num_experts,), "zeros")
        super().build(input_shape)

    def route(self, routing_inputs, training):
        logits = routing_inputs[..., :1] + self.bias
        return tf.nn.softmax(logits)[..., tf.newaxis, :], {}


def test_gate_of_a_user_conforms():
    keras.saving.register_keras_serializable()(FirstExpertGate)
    testing.check_gate(FirstExpertGate, {"num_experts": 3}, inputs=(4,))


def test_gate_without_route_says_so():
    with pytest.raises(NotImplementedError, match="Gate must implement"):
        keras_comet.Gate(3)(rows(2, 4))


@pytest.mark.parametrize("name", REGULARIZED)
def test_regularizers_are_added_in_training_only(name):
    gate = REGULARIZED[name](0.1)
    x = rows(6, 4)
    for training in (None, False):
        gate(x, training=training)
        assert not gate.losses
    gate(x, training=True)
    assert len(gate.losses) == len(gate.regularizer_weights)
    for loss in gate.losses:
        assert loss.dtype == tf.float32
        assert loss.shape == ()


@pytest.mark.parametrize("name", REGULARIZED)
def test_regularizers_do_not_grow_with_the_batch(name):
    gate = REGULARIZED[name](0.1)
    x = rows(6, 4)
    losses = []
    for repeats in (1, 40):
        gate(np.tile(x, (repeats, 1)), training=True)
        losses.append([float(loss) for loss in gate.losses])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


@pytest.mark.parametrize("name", REGULARIZED)
def test_regularizers_scale_with_their_weights(name):
    x = rows(6, 4)
    gates = [REGULARIZED[name](weight) for weight in (0.1, 0.3, 0.0)]
    for gate in gates:
        gate(x)
        gate.set_weights(gates[0].get_weights())
        gate(x, training=True)
    assert not gates[2].losses
    for small, large in zip(gates[0].losses, gates[1].losses, strict=True):
        np.testing.assert_allclose(3 * small, large, rtol=1e-5)


@pytest.mark.parametrize("name", REGULARIZED)
def test_training_on_an_empty_batch_is_harmless(name):
    gate = REGULARIZED[name](0.1)
    gate.build((None, 4))

    def loss():
        weights = gate(tf.zeros([0, 4]), training=True)
        return tf.reduce_sum(weights) + tf.add_n(gate.losses)

    value, found = gradients(loss, variables(gate.trainable_weights))
    np.testing.assert_allclose(value, 0.0, atol=1e-6)
    for gradient in found:
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


def test_schedule_gives_the_weight_of_each_training_call():
    # 0, 0.1, 0.2, then 0.2 for good: a settled tree has no entropy, an
    # undecided one log 2 for each of its two leaves.
    schedule = keras.optimizers.schedules.PolynomialDecay(0.0, 2, 0.2)
    gate = keras_comet.COMETGate(
        2, k=1, entropy_weight=schedule, kernel_initializer="zeros"
    )
    x = rows(3, 4)
    for expected in (0.0, 0.1, 0.2, 0.2):
        gate(x)
        gate(x, training=True)
        [loss] = gate.losses
        np.testing.assert_allclose(loss, expected * np.log(2), atol=1e-6)


def test_schedule_goes_on_where_a_saved_model_stopped(tmp_path):
    schedule = keras.optimizers.schedules.PolynomialDecay(0.0, 10, 1.0)
    inputs = keras.Input((4,))
    gate = keras_comet.COMETGate(3, entropy_weight=schedule, name="gate")
    model = keras.Model(inputs, gate(inputs))
    x = rows(3, 4)
    for _ in range(3):
        gate(x, training=True)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras").get_layer("gate")
    assert int(again.training_steps) == 3
    for each in (gate, again):
        each(x, training=True)
    np.testing.assert_allclose(again.losses[0], gate.losses[0], rtol=1e-6)
    assert int(again.training_steps) == 4


@pytest.mark.parametrize("gate_class", FEATURE_GATES)
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_routing_is_float32_under_mixed_precision(gate_class, policy):
    keras.mixed_precision.set_global_policy(policy)
    permutation = keras_comet.ExpertPermutation(7)
    gate = gate_class(7, permutation=permutation)
    weights = gate(rows(50, 4))
    assert weights.dtype == tf.float32
    np.testing.assert_allclose(tf.reduce_sum(weights, -1), 1.0, atol=1e-6)


@pytest.mark.parametrize("gate_class", FEATURE_GATES)
def test_features_may_be_integers_or_of_any_precision(gate_class):
    gate = gate_class(3)
    x = np.arange(8).reshape(2, 4) - 3
    expected = gate(x.astype("float32"))
    for dtype in ("int32", "int64", "float16", "float64"):
        np.testing.assert_allclose(gate(x.astype(dtype)), expected, atol=1e-6)


@pytest.mark.parametrize("gate_class", FEATURE_GATES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_row_leaves_the_others_alone(gate_class, bad):
    gate = gate_class(5)
    x = rows(6, 4)
    expected = np.asarray(gate(x))
    x[2, 1] = bad
    weights = np.asarray(gate(x))
    others = np.arange(6) != 2
    np.testing.assert_allclose(weights[others], expected[others], atol=1e-6)
    if np.isnan(bad):
        assert np.isnan(weights[2]).all()


@pytest.mark.parametrize("gate_class", FEATURE_GATES)
@pytest.mark.parametrize(
    ("first", "then", "match"),
    [
        ((4,), None, "batch axis"),
        ((), None, "batch axis"),
        ((3, 4), (3, 6), "4.*6"),
        ((3, 4), (4,), "ndim"),
    ],
)
def test_routing_inputs_of_other_shapes_raise(gate_class, first, then, match):
    gate = gate_class(3)
    with pytest.raises(ValueError, match=match):
        gate(tf.zeros(first))
        gate(tf.zeros(then))


def test_routing_inputs_of_strings_raise():
    with pytest.raises(ValueError, match="reads numbers.*string"):
        keras_comet.COMETGate(3)(tf.constant([["a", "b"]]))


@pytest.mark.parametrize(
    ("gate_class", "kwargs", "match"),
    [
        (keras_comet.COMETGate, {"k": 0}, "k=0, num_experts=4"),
        (keras_comet.DSelectKGate, {"k": 5}, "k=5, num_experts=4"),
        (keras_comet.TopKGate, {"k": 1.5}, "k=1.5"),
        (keras_comet.TopKGate, {"k": -1}, "k=-1"),
        (keras_comet.SoftmaxGate, {"num_experts": 0}, "num_experts=0"),
        (keras_comet.HashGate, {"num_experts": 2.5}, "num_experts=2.5"),
        (keras_comet.COMETGate, {"gamma": 0.0}, "gamma=0.0"),
        (keras_comet.DSelectKGate, {"gamma": -1.0}, "gamma=-1.0"),
        (keras_comet.COMETGate, {"gamma": float("nan")}, "gamma=nan"),
        (keras_comet.COMETGate, {"entropy_weight": -0.1}, "entropy_weight"),
        (keras_comet.DSelectKGate, {"penalty_weight": "big"}, "'big'"),
        (
            keras_comet.TopKGate,
            {"load_balance_weight": float("nan")},
            "load_balance_weight=nan",
        ),
        (keras_comet.SoftmaxGate, {"z_loss_weight": None}, "z_loss_weight"),
        (
            keras_comet.SoftmaxGate,
            {"permutation": [3, 2, 1, 0]},
            "must be an ExpertPermutation",
        ),
    ],
)
def test_bad_arguments_raise(gate_class, kwargs, match):
    with pytest.raises(ValueError, match=match):
        gate_class(**{"num_experts": 4, **kwargs})


def test_permutation_of_another_size_raises():
    permutation = keras_comet.ExpertPermutation(5)
    with pytest.raises(ValueError, match="num_experts=4.*5 experts"):
        keras_comet.COMETGate(4, permutation=permutation)


def test_numpy_numbers_are_numbers():
    gate = keras_comet.COMETGate(
        np.int64(4), k=np.int32(2), entropy_weight=np.float32(0.5)
    )
    assert gate.get_config()["entropy_weight"] == 0.5
    keras.saving.serialize_keras_object(gate)
