import functools

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet import CardinalityTarget
from keras_comet._keras import KERAS_3
from keras_comet._keras import keras
from tests.helpers import rows
from tests.helpers import run_script
from tests.helpers import variables

FEATURES = rows(320, 6)
# Eight groups that want experts of their own.
LABELS = np.sin(3.0 * FEATURES[:, :1]) * np.sign(FEATURES[:, 1:2])
GATES = [keras_comet.COMETGate, keras_comet.DSelectKGate]


@functools.cache
def build_model(gate_class, n, **kwargs):
    keras.utils.set_random_seed(3)
    inputs = keras.Input((6,))
    gate = gate_class(n, **kwargs, name="gate")
    experts = keras_comet.StackedDenseExperts(n, [4], "relu")
    mixture = keras_comet.MixtureOfExperts(experts, gate, "dense")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(mixture))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.optimizer.build(model.trainable_variables)
    state = [*model.weights, *model.optimizer.variables]
    return model, gate, state, [np.array(each) for each in state]


def make_model(gate_class=keras_comet.COMETGate, n=8, **kwargs):
    """The model as it was built, traced already if a test has trained it."""
    model, gate, state, values = build_model(gate_class, n, **kwargs)
    for variable, value in zip(state, values, strict=True):
        variable.assign(value)
    return model, gate


def fit(model, *callbacks, epochs=4, **kwargs):
    return model.fit(
        FEATURES,
        LABELS,
        batch_size=32,
        epochs=epochs,
        callbacks=list(callbacks),
        shuffle=False,
        verbose=0,
        **kwargs,
    )


def cardinalities(gate, x=FEATURES):
    return np.count_nonzero(gate(x), axis=-1)


def recorder(gate, seen):
    """Notes the largest cardinality before the first batch of each epoch."""
    return keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: (
            batch or seen.append(int(cardinalities(gate).max()))
        ),
    )


@pytest.mark.parametrize("gate_class", GATES)
@pytest.mark.parametrize("by_epoch", [0, 2])
@pytest.mark.parametrize(("k", "cap"), [(2, None), (3, 1), (1, 4)])
def test_cap_holds_from_the_epoch_named(gate_class, by_epoch, k, cap):
    model, gate = make_model(gate_class, k=k)
    seen = []
    target = CardinalityTarget(by_epoch=by_epoch, cap=cap)
    fit(model, target, recorder(gate, seen), epochs=3)
    seen.append(cardinalities(gate).max())
    # By the number of epochs done.
    assert [count <= (cap or k) for count in seen] == [
        done >= by_epoch for done in range(4)
    ]


def test_cap_holds_from_the_step_named():
    model, gate = make_model()
    largest = {}
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: largest.setdefault(
            int(model.optimizer.iterations), cardinalities(gate).max()
        )
    )
    # The recorder is called after the target; an epoch has 10 steps.
    fit(model, CardinalityTarget(by_step=25), record, epochs=3)
    assert all((count <= 2) == (step >= 25) for step, count in largest.items())
    assert set(largest) == set(range(1, 31))


@pytest.mark.parametrize("at_once", [1, 4])
def test_steps_are_updates_and_not_batches(at_once):
    model, gate = build_model.__wrapped__(keras_comet.COMETGate, 4)[:2]
    # Two batches to an update, where Keras can do that.
    options = {"gradient_accumulation_steps": 2} if KERAS_3 else {}
    optimizer = keras.optimizers.SGD(0.01, **options)
    model.compile(optimizer, "mse", steps_per_execution=at_once)
    seen = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(
            (int(model.optimizer.iterations), int(gate.cardinality_cap))
        )
    )
    # An epoch has 10 batches.
    fit(model, CardinalityTarget(by_step=6), record, epochs=2)
    assert all((cap == 2) == (step >= 6) for step, cap in seen)
    assert {cap for _, cap in seen} == {2, 4}


@pytest.mark.parametrize("gate_class", GATES)
def test_rows_keep_their_largest_weights(gate_class):
    model, gate = make_model(gate_class, k=2)
    before = np.array(gate(FEATURES))
    target = CardinalityTarget(by_step=1, cap=3)
    target.set_model(model)
    target.update(0)
    np.testing.assert_array_equal(gate(FEATURES), before)
    target.update(1)
    smallest_kept = np.sort(before, axis=-1)[:, -3:-2]
    expected = np.where(before >= smallest_kept, before, 0.0)
    expected /= expected.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(gate(FEATURES), expected, atol=1e-6)
    # In training too, and splits go on learning.
    with tf.GradientTape() as tape:
        weights = gate(FEATURES, training=True)
        loss = tf.reduce_sum(weights * np.arange(8.0, dtype="float32"))
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    for gradient in tape.gradient(loss, variables(gate.trainable_weights)):
        assert np.any(gradient)


def test_model_that_was_traced_before_is_capped_without_a_new_trace():
    model, gate = make_model()
    fit(model, epochs=1)
    train_function = model.train_function
    fit(model, CardinalityTarget(by_epoch=2), epochs=3, initial_epoch=1)
    assert model.train_function is train_function
    assert cardinalities(gate).max() <= 2


def test_resumed_training_is_the_uninterrupted_one(tmp_path):
    model, _ = make_model()
    fit(model, CardinalityTarget(by_epoch=1), epochs=2)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    fit(model, CardinalityTarget(by_epoch=1), epochs=3, initial_epoch=2)
    fit(again, epochs=3, initial_epoch=2)
    for one, two in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_no_later_target_lifts_a_cap():
    model, gate = make_model()
    gate.cardinality_cap.assign(2)
    seen = []
    fit(
        model,
        CardinalityTarget(by_epoch=5, cap=4),
        recorder(gate, seen),
        epochs=1,
    )
    CardinalityTarget(by_epoch=0, cap=4).set_model(model)
    assert max(seen) <= 2
    assert int(gate.cardinality_cap) == 2


def test_weights_of_before_the_deadline_are_reported():
    model, gate = make_model()
    # Epochs count from 0; nothing gets better, so the first one is restored.
    best = keras.callbacks.EarlyStopping(
        "loss", min_delta=1e9, patience=3, restore_best_weights=True
    )
    with pytest.warns(UserWarning, match="lost their cap.*start_from_epoch"):
        fit(model, best, CardinalityTarget(by_epoch=2), epochs=5)
    assert cardinalities(gate).max() > 2


def test_custom_loop():
    model, gate = make_model()
    target = CardinalityTarget(by_step=3)
    target.set_model(model)
    weights = variables(model.trainable_weights)
    optimizer = keras.optimizers.Adam(0.01)
    for step in range(1, 6):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(FEATURES, training=True) - 1.0) ** 2)
        optimizer.apply_gradients(
            zip(
                tape.gradient(loss, weights),
                model.trainable_weights,
                strict=True,
            )
        )
        target.update(step)
        assert (cardinalities(gate).max() <= 2) == (step >= 3)


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_steps_per_execution_and_xla(jit_compile):
    model, gate = build_model.__wrapped__(keras_comet.COMETGate, 4)[:2]
    options = {"steps_per_execution": 4, "jit_compile": jit_compile}
    model.compile("adam", "mse", **options)
    fit(model, CardinalityTarget(by_epoch=1), epochs=2)
    assert cardinalities(gate).max() <= 2


def test_model_that_is_built_in_its_first_step_is_capped_after_it():
    class Lazy(keras.Model):
        def __init__(self):
            super().__init__()
            self.gate = keras_comet.COMETGate(8)

        def call(self, inputs):
            return self.gate(inputs)

    model = Lazy()
    model.compile("sgd", "mse", run_eagerly=True)
    largest = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: largest.append(
            cardinalities(model.gate).max()
        )
    )
    target = CardinalityTarget(by_epoch=0)
    model.fit(FEATURES, LABELS, callbacks=[target, record], verbose=0)
    assert max(largest) <= 2


def test_every_gate_keeps_its_own_cap_and_others_are_left_alone():
    gates = {
        "a": keras_comet.COMETGate(6),
        "b": keras_comet.DSelectKGate(6, k=1),
        "c": keras_comet.SoftmaxGate(6),
    }
    inputs = keras.Input((6,))
    model = keras.Model(inputs, [gate(inputs) for gate in gates.values()])
    target = CardinalityTarget(by_step=0)
    target.set_model(model)
    target.update(0)
    counts = {name: cardinalities(gate).max() for name, gate in gates.items()}
    assert counts == {"a": 2, "b": 1, "c": 6}


def test_exported_model_keeps_the_cap_on_every_row(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,), name="features")
    gate = keras_comet.COMETGate(8)
    outputs, weights = keras_comet.MixtureOfExperts(
        keras_comet.StackedDenseExperts(8, [1]), gate, "dense"
    )(inputs, return_routing_weights=True)
    model = keras.Model(inputs, {"y": outputs, "weights": weights})
    target = CardinalityTarget(by_step=0)
    target.set_model(model)
    target.update(0)
    path = keras_comet.export_saved_model(model, str(tmp_path / "1"))
    serve = tf.saved_model.load(path).signatures["serving_default"]
    x = rows(500, 6, seed=5)
    served = serve(features=tf.constant(x))["weights"].numpy()
    assert np.count_nonzero(served, axis=-1).max() <= 2
    np.testing.assert_allclose(served, gate(x), atol=1e-6)


def make_tasks(gates):
    """A model of a multi-gate mixture, to be called eagerly."""
    inputs = keras.Input((6,))
    mixture = keras_comet.MultiGateMixtureOfExperts(
        keras_comet.StackedDenseExperts(8, [1]), gates, "dense", name="mixture"
    )
    outputs = mixture(inputs)
    model = keras.Model(inputs, list(outputs.values()))
    model.compile("sgd", ["mse"] * len(gates), run_eagerly=True)
    return model, mixture


def union(model):
    weights = keras_comet.routing_weights(model, FEATURES)
    return np.any([each != 0 for each in weights.values()], axis=0).sum(-1)


@pytest.mark.parametrize("gate_class", [keras_comet.TopKGate, *GATES])
def test_union_cap_holds_from_the_epoch_named_with_any_gate(gate_class):
    model, mixture = make_tasks({task: gate_class(8) for task in "abc"})
    seen = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: (
            batch or seen.append(union(model).max())
        )
    )
    target = CardinalityTarget(by_epoch=1, union_cap=3)
    labels = [LABELS] * 3
    model.fit(FEATURES, labels, 160, 2, callbacks=[target, record], verbose=0)
    assert seen[0] > 3 >= seen[1]
    assert union(model).max() <= 3
    # Each gate keeps its own cap as well.
    for gate in mixture.gates.values():
        assert cardinalities(gate).max() <= 2


def test_a_union_cap_is_no_larger_than_there_are_experts_and_not_lifted():
    gates = {task: keras_comet.SoftmaxGate(8) for task in "ab"}
    model, mixture = make_tasks(gates)
    for wanted, expected in ((20, 8), (3, 3), (5, 3)):
        target = CardinalityTarget(by_step=0, union_cap=wanted)
        target.set_model(model)
        target.update(0)
        assert int(mixture.union_cap) == expected


def test_model_without_a_multi_gate_mixture_has_no_union_to_cap():
    model, _ = make_model()
    with pytest.raises(ValueError, match="union_cap=3.*none.*Use `cap`"):
        CardinalityTarget(by_epoch=1, union_cap=3).set_model(model)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "either `by_epoch` or `by_step`"),
        ({"by_epoch": 1, "by_step": 2}, "by_epoch=1, by_step=2"),
        ({"by_epoch": 0.5}, "integer.*by_epoch=0.5.*use `by_step`"),
        ({"by_step": -3}, "by_step=-3"),
        ({"by_epoch": 1, "cap": 0}, "cap=0"),
        ({"by_epoch": 1, "cap": 1.5}, "cap=1.5"),
        ({"by_epoch": 1, "union_cap": 0}, "union_cap=0"),
        ({"by_epoch": 1, "union_cap": 2.5}, "union_cap=2.5"),
    ],
)
def test_bad_arguments_raise(arguments, match):
    with pytest.raises(ValueError, match=match):
        CardinalityTarget(**arguments)


def test_model_without_such_gates_raises():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras_comet.TopKGate(6)(inputs))
    with pytest.raises(ValueError, match="none.*COMETGate or a DSelectKGate"):
        CardinalityTarget(by_epoch=1).set_model(model)


@pytest.mark.slow
def test_two_replicas_share_one_cap():
    finished = run_script(
        """
        import numpy as np
        import tensorflow as tf

        [cpu] = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2
        )
        import keras_comet
        from keras_comet._keras import KERAS_3, keras

        strategy = tf.distribute.MirroredStrategy(["cpu:0", "cpu:1"])
        with strategy.scope():
            gate = keras_comet.COMETGate(8)
            inputs = keras.Input((6,))
            outputs = keras_comet.MixtureOfExperts(
                keras_comet.StackedDenseExperts(8, [1]), gate, "dense"
            )(inputs)
            model = keras.Model(inputs, outputs)
            model.compile("adam", "mse")
        x = 50.0 * np.random.default_rng(0).normal(size=(160, 6))
        target = keras_comet.CardinalityTarget(by_epoch=1)

        def check(epoch, logs):
            for weight in gate.weights:
                variable = weight.value if KERAS_3 else weight
                one, two = [copy.numpy() for copy in variable.values]
                np.testing.assert_array_equal(one, two)

        model.fit(
            x, x[:, :1], batch_size=16, epochs=2, verbose=0,
            callbacks=[
                target, keras.callbacks.LambdaCallback(on_epoch_end=check)
            ],
        )
        assert np.count_nonzero(gate(x), axis=-1).max() <= 2
        print("finished")
        """
    )
    assert finished.stdout.strip().endswith("finished"), finished.stderr
