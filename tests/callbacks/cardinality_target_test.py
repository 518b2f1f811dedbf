import functools
import math

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet import CardinalityTarget
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


WIDTHS = [
    (gate_class, gamma, k)
    for gate_class in GATES
    for gamma in (0.01, 1.0, 10.0)
    for k in (1, 3)
]


@pytest.fixture(scope="module")
def largest():
    """The largest cardinality of any row after each epoch, for each gate."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((6,))
    gates = {
        f"{index}": gate_class(4, k=k, gamma=gamma)
        for index, (gate_class, gamma, k) in enumerate(WIDTHS)
    }
    mixtures = keras_comet.MultiGateMixtureOfExperts(
        keras_comet.StackedDenseExperts(4, [4], "relu"), gates, "dense"
    )(inputs)
    outputs = keras.layers.Add()(list(mixtures.values()))
    model = keras.Model(inputs, keras.layers.Dense(1)(outputs))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    seen = {key: [] for key in WIDTHS}

    def record(epoch, logs):
        for key, gate in zip(WIDTHS, gates.values(), strict=True):
            seen[key].append(cardinalities(gate).max())

    recorder = keras.callbacks.LambdaCallback(on_epoch_end=record)
    fit(model, CardinalityTarget(by_epoch=3), recorder, epochs=4)
    assert all(gate.hard_routing for gate in gates.values())
    return seen


@pytest.mark.parametrize(("gate_class", "gamma", "k"), WIDTHS)
def test_cap_holds_from_the_epoch_named(largest, gate_class, gamma, k):
    by_epoch = largest[gate_class, gamma, k]
    assert max(by_epoch[2:]) <= k
    assert max(by_epoch[:2]) > k


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


def excess(shares, cap):
    """By the formula, one number of experts at a time."""
    n = len(shares)
    return sum(
        share * max(math.log(count / cap), 0.0) / math.log(n / cap)
        for count, share in enumerate(shares / sum(shares), start=1)
    )


@pytest.mark.parametrize("cap", [None, 3])
def test_width_follows_the_formula(cap):
    model, gate = make_model(k=2)
    target = CardinalityTarget(by_step=200, cap=cap)
    target.set_model(model)
    target.update(0)
    shares = np.array([0.0, 0.0, 0.1, 0.2, 0.3, 0.2, 0.1, 0.1])
    # Records count for their proportions: a short training fills them partly.
    gate.routing_tracker.recent_cardinality.assign(0.3 * shares)
    expected = 1.0
    for step in (2, 4, 5, 6):
        target.update(step)
        # 100 moments in 200 steps: none between 4 and 6.
        if step != 5:
            error = excess(shares, cap or 2) - (1.0 - step / 200) ** 0.25
            expected *= math.exp(-100 * 0.01 * error)
        np.testing.assert_allclose(gate.gamma_scale, expected, rtol=1e-5)
    assert expected > 1.0
    target.update(190)
    # At most a factor of e at once.
    np.testing.assert_allclose(gate.gamma_scale, expected / math.e, rtol=1e-5)
    # Within the cap, it is not narrowed any more.
    before = float(gate.gamma_scale)
    gate.routing_tracker.recent_cardinality.assign([0.2, 0.8, 0, 0, 0, 0, 0, 0])
    target.update(198)
    assert float(gate.gamma_scale) > before * 0.999


def test_measured_cardinality_follows_the_path():
    model, gate = make_model()
    target = CardinalityTarget(by_epoch=40)
    fit(model, target, epochs=39)
    middle = [
        entry["gates"]["gate"]
        for entry in target.history
        if 12 <= entry["position"] <= 36
    ]
    ratios = [
        entry["training_cardinality"] / entry["target_cardinality"]
        for entry in middle
    ]
    assert len(ratios) > 50
    assert np.abs(np.log(ratios)).mean() < 0.2


def test_history_and_description_say_what_is_steered():
    model, gate = make_model()
    target = CardinalityTarget(by_epoch=2)
    fit(model, target, epochs=3)
    assert len(target.history) == 21
    entries = [entry["gates"]["gate"] for entry in target.history]
    positions = [entry["position"] for entry in target.history]
    np.testing.assert_allclose(positions, np.arange(21) / 10)
    assert math.isnan(entries[0]["training_cardinality"])
    for position, entry in zip(positions, entries, strict=True):
        np.testing.assert_allclose(
            entry["target_cardinality"],
            2 * 4 ** (max(1 - position / 2, 0) ** 0.25),
        )
    assert entries[-1]["gamma_scale"] == 0.0
    assert entries[-1]["held_since"] == 2.0
    now = target.describe(gate)
    assert now["training_within_cap"] > 0.6
    assert 0.0 < now["training_entropy"] <= 1.0


def test_starving_experts_raise_the_pressure_until_the_deadline():
    model, gate = make_model()
    target = CardinalityTarget(by_step=100)
    target.set_model(model)
    target.update(0)
    gate.routing_tracker.recent_cardinality.assign([0, 0, 0, 0, 0, 0, 0, 1.0])
    # A tenth of an even share is 0.0125: the least used lacks 3 / 5 of it.
    usage = np.array([0.4, 0.3, 0.2, 0.065, 0.01, 0.01, 0.01, 0.005])
    # Records count for their proportions: a short training fills them partly.
    gate.routing_tracker.recent_usage.assign(0.3 * usage)
    target.update(1)
    np.testing.assert_allclose(gate.aux_loss_weight, 0.2 * 3 / 5, rtol=1e-5)
    gate.routing_tracker.recent_usage.assign(np.eye(8)[0])
    target.update(2)
    np.testing.assert_allclose(gate.aux_loss_weight, 0.2, rtol=1e-5)
    gate.routing_tracker.recent_usage.assign(np.full(8, 0.125))
    target.update(3)
    assert float(gate.aux_loss_weight) == 0.0
    gate.routing_tracker.recent_usage.assign(usage)
    target.update(100)
    assert float(gate.aux_loss_weight) == 0.0
    target.on_train_end()


def test_pressure_brings_starving_experts_back():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    gate = keras_comet.COMETGate(8, k=2)
    model = keras.Model(inputs, gate(inputs))
    # No task: what moves the gate is the target alone.
    model.compile(keras.optimizers.Adam(0.01), loss=lambda y, w: 0.0 * w)
    # All splits of both trees lean to one side.
    gate.split_bias.assign(np.full((2, 7), 0.45, "float32"))
    before = np.asarray(gate(FEATURES)).mean(axis=0)
    assert (before < 0.0125).sum() >= 2
    fit(model, CardinalityTarget(by_epoch=20), epochs=20)
    after = np.asarray(gate(FEATURES)).mean(axis=0)
    assert (after < 0.0125).sum() == 0


def test_model_that_was_traced_before_is_steered_without_a_new_trace():
    model, gate = make_model()
    fit(model, epochs=1)
    train_function = model.train_function
    target = CardinalityTarget(by_epoch=3)
    fit(model, target, epochs=3, initial_epoch=1)
    assert model.train_function is train_function
    assert cardinalities(gate).max() <= 2
    widths = [entry["gates"]["gate"]["gamma_scale"] for entry in target.history]
    assert len(set(widths)) > 5


def make_starving_model():
    """A model whose experts starve: all splits lean to one side."""
    model, gate = make_model()
    gate.split_bias.assign(np.full((2, 7), 0.45, "float32"))
    return model, gate


class Weights(keras.callbacks.Callback):
    """Records `aux_loss_weight` as other callbacks see it."""

    def __init__(self, gate):
        super().__init__()
        self.gate = gate
        self.seen = []

    def on_train_batch_begin(self, batch, logs=None):
        self.seen.append(float(self.gate.aux_loss_weight))

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(float(self.gate.aux_loss_weight))


def wanted(target):
    return [
        entry["gates"]["gate"]["aux_loss_weight"] for entry in target.history
    ]


def assert_behaves_like_its_copy(model, gate):
    """Equal weights and config, equal behaviour: no penalty is left on."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for each in (model, copy):
        each(FEATURES, training=True)
    assert float(gate.aux_loss_weight) == 0.0
    losses = [float(sum(map(float, each.losses))) for each in (model, copy)]
    assert losses == [0.0, 0.0]


def stop_after(batches):
    def stop(batch, logs):
        if batch == batches:
            callback.model.stop_training = True

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=stop)
    return callback


@pytest.mark.parametrize("how", ["stop_training", "EarlyStopping"])
def test_training_that_was_stopped_early_leaves_no_penalty(tmp_path, how):
    model, gate = make_starving_model()
    target = CardinalityTarget(by_epoch=8)
    stops = {
        "stop_training": stop_after(4),
        "EarlyStopping": keras.callbacks.EarlyStopping(
            "loss", min_delta=1e9, patience=1, start_from_epoch=0
        ),
    }[how]
    history = fit(model, target, stops, epochs=6)
    assert len(history.history["loss"]) < 6
    assert max(wanted(target)) > 0.01
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, reloaded):
        each(FEATURES, training=True)
        assert sum(map(float, each.losses)) == 0.0
    assert_behaves_like_its_copy(model, gate)


class Raises(keras.callbacks.Callback):
    """Raises in one of the hooks, once a penalty is wanted."""

    def __init__(self, hook, error, target):
        super().__init__()
        self.target = target

        def run(*args, **kwargs):
            if target.history and wanted(target)[-1] > 0.0:
                raise error

        setattr(self, hook, run)


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("step", RuntimeError),
        ("step", KeyboardInterrupt),
        ("on_train_batch_end", KeyboardInterrupt),
        ("on_epoch_end", RuntimeError),
        ("on_test_batch_end", KeyboardInterrupt),
    ],
)
def test_exception_leaves_no_penalty(where, error):
    model, gate = make_starving_model()
    train_function = model.make_train_function()
    target = CardinalityTarget(by_epoch=8)
    seen = []

    def step(iterator):
        seen.append(float(gate.aux_loss_weight))
        if where == "step" and len(seen) == 3:
            raise error
        return train_function(iterator)

    model.train_function = step
    others = [] if where == "step" else [Raises(where, error, target)]
    try:
        with pytest.raises(error):
            fit(
                model,
                *others,
                target,
                epochs=3,
                validation_data=(FEATURES[:32], LABELS[:32]),
            )
        assert model.train_function is step
    finally:
        model.train_function = train_function
    assert seen[-1] > 0.01
    assert_behaves_like_its_copy(model, gate)
    # Nor is there one in a training without the target.
    plain = Weights(gate)
    fit(model, plain, epochs=1)
    assert set(plain.seen) == {0.0}


def test_penalty_is_on_in_the_steps_and_off_between():
    model, gate = make_starving_model()
    target = CardinalityTarget(by_epoch=8)
    between = Weights(gate)
    train_function = model.make_train_function()
    in_steps = []

    def step(iterator):
        in_steps.append(float(gate.aux_loss_weight))
        return train_function(iterator)

    model.train_function = step
    fit(model, target, between, epochs=2)
    assert model.train_function is step
    model.train_function = train_function
    assert set(between.seen) == {0.0}
    # In every step, what the update before it wanted.
    before = [
        [e for e in target.history if e["position"] <= index / 10][-1]
        for index in range(20)
    ]
    np.testing.assert_allclose(
        in_steps,
        [each["gates"]["gate"]["aux_loss_weight"] for each in before],
        rtol=1e-6,
    )
    assert sum(weight > 0.01 for weight in in_steps) > 10


@pytest.mark.parametrize("is_fitted_before", [False, True])
def test_loop_with_steps_of_its_own_has_the_penalty_until_the_end(
    is_fitted_before,
):
    model, gate = make_starving_model()
    model.make_train_function()
    train_function = model.train_function if is_fitted_before else None
    model.train_function, before = train_function, model.train_function
    target = CardinalityTarget(by_step=100)
    target.set_model(model)
    target.on_train_begin()
    target.on_epoch_begin(0)
    seen = []
    for step in range(5):
        target.on_train_batch_begin(step)
        seen.append(float(gate.aux_loss_weight))
        gate(FEATURES, training=True)
        target.on_train_batch_end(step)
        assert model.train_function is train_function
    # Found out in the second step, the first with a penalty.
    first = 2 if is_fitted_before else 1
    np.testing.assert_allclose(seen[first:], wanted(target)[first:5], rtol=1e-6)
    assert min(seen[first:]) > 0.01
    target.on_train_end()
    model.train_function = before
    assert_behaves_like_its_copy(model, gate)


def test_resumed_training_is_the_uninterrupted_one(tmp_path):
    model, gate = make_model()
    fit(model, CardinalityTarget(by_epoch=3), epochs=2)
    assert float(gate.gamma_scale) not in (0.0, 1.0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    weights = []
    for each in (model, again):
        fit(each, CardinalityTarget(by_epoch=3), epochs=4, initial_epoch=2)
        weights.append(each.get_weights())
    whole, _ = make_model()
    fit(whole, CardinalityTarget(by_epoch=3), epochs=4)
    for other in weights:
        for one, two in zip(whole.get_weights(), other, strict=True):
            np.testing.assert_allclose(one, two, atol=1e-6)


def test_training_resumed_after_the_deadline_is_hard_at_once():
    model, gate = make_model()
    seen = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: seen.append(gate.hard_routing)
    )
    fit(
        model,
        CardinalityTarget(by_epoch=1),
        record,
        initial_epoch=2,
        epochs=3,
    )
    assert all(seen)


def test_custom_loop():
    model, gate = make_model()
    target = CardinalityTarget(by_step=30)
    target.set_model(model)
    optimizer = keras.optimizers.Adam(0.01)
    weights = variables(model.trainable_weights)

    @tf.function
    def train(x, y):
        with tf.GradientTape() as tape:
            loss = tf.add_n(
                [tf.reduce_mean((model(x, training=True) - y) ** 2)]
                + model.losses
            )
        optimizer.apply_gradients(
            zip(
                tape.gradient(loss, weights),
                model.trainable_weights,
                strict=True,
            )
        )

    for step in range(1, 32):
        train(FEATURES, LABELS)
        target.update(step)
        assert (cardinalities(gate).max() <= 2) == (step >= 30)


# Keras 3 says so where it had to find out.
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_unknown_number_of_steps_keeps_the_deadline():
    model, gate = make_model()
    data = tf.data.Dataset.from_generator(
        lambda: zip(FEATURES, LABELS.astype("float32"), strict=True),
        output_signature=(tf.TensorSpec([6]), tf.TensorSpec([1])),
    ).batch(32)
    target = CardinalityTarget(by_epoch=2)
    model.fit(data, epochs=2, verbose=0, callbacks=[target])
    assert cardinalities(gate).max() <= 2
    assert len(target.history) > 10


@pytest.mark.parametrize("jit_compile", [False, True])
def test_steps_per_execution_and_xla(jit_compile):
    model, gate = build_model.__wrapped__(keras_comet.COMETGate, 4)[:2]
    options = {"steps_per_execution": 4, "jit_compile": jit_compile}
    model.compile("adam", "mse", **options)
    fit(model, CardinalityTarget(by_epoch=2), epochs=2)
    assert cardinalities(gate).max() <= 2


def test_saturated_splits_are_reported_with_the_remedy_and_widened():
    model, gate = make_model(kernel_initializer="glorot_uniform", gamma=1e-4)
    gate.split_kernel.assign(1e3 * np.sign(gate.split_kernel))
    with pytest.warns(UserWarning, match="gradient.*exactly zero.*raise"):
        fit(model, CardinalityTarget(by_epoch=10), epochs=3)
    assert float(gate.gamma_scale) > 1.0


def test_two_gates_are_steered_alike_and_gates_without_width_left_alone():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    gates = {
        "a": keras_comet.COMETGate(6),
        "b": keras_comet.DSelectKGate(6, k=1),
        "c": keras_comet.TopKGate(6),
    }
    mixtures = keras_comet.MultiGateMixtureOfExperts(
        keras_comet.StackedDenseExperts(6, [1]), gates, "dense"
    )(inputs)
    model = keras.Model(inputs, [mixtures[task] for task in gates])
    model.compile("adam", ["mse"] * 3)
    target = CardinalityTarget(by_epoch=2)
    model.fit(FEATURES, [LABELS] * 3, epochs=2, verbose=0, callbacks=[target])
    assert set(target.history[-1]["gates"]) == {"a", "b"}
    assert cardinalities(gates["a"]).max() <= 2
    assert cardinalities(gates["b"]).max() <= 1


def test_exported_model_keeps_the_cap_on_every_row(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,), name="features")
    gate = keras_comet.COMETGate(8)
    outputs, weights = keras_comet.MixtureOfExperts(
        keras_comet.StackedDenseExperts(8, [1]), gate, "dense"
    )(inputs, return_routing_weights=True)
    model = keras.Model(inputs, {"y": outputs, "weights": weights})
    model.compile("adam", {"y": "mse", "weights": None})
    target = CardinalityTarget(by_epoch=1)
    model.fit(FEATURES, {"y": LABELS}, verbose=0, callbacks=[target])
    path = keras_comet.export_saved_model(model, str(tmp_path / "1"))
    serve = tf.saved_model.load(path).signatures["serving_default"]
    x = rows(500, 6, seed=5)
    served = serve(features=tf.constant(x))["weights"].numpy()
    assert np.count_nonzero(served, axis=-1).max() <= 2
    np.testing.assert_allclose(served, gate(x), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "either `by_epoch` or `by_step`"),
        ({"by_epoch": 1, "by_step": 2}, "by_epoch=1, by_step=2"),
        ({"by_epoch": 0}, "above 0.*by_epoch=0"),
        ({"by_step": -3}, "by_step=-3"),
        ({"by_epoch": 1, "share": 0.0}, "share=0.0"),
        ({"by_epoch": 1, "share": 99.9}, "share=99.9"),
    ],
)
def test_bad_arguments_raise(arguments, match):
    with pytest.raises(ValueError, match=match):
        CardinalityTarget(**arguments)


def test_cap_below_k_and_models_without_such_gates_raise():
    model, _ = make_model(k=2)
    with pytest.raises(ValueError, match="cap=1.*k=2.*Lower"):
        CardinalityTarget(by_epoch=1, cap=1).set_model(model)
    model, _ = make_model(keras_comet.TopKGate)
    with pytest.raises(
        ValueError, match="no.*COMETGate or a DSelectKGate|none"
    ):
        CardinalityTarget(by_epoch=1).set_model(model)


def test_two_replicas_share_one_width():
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
        target = keras_comet.CardinalityTarget(by_epoch=3)

        def check(epoch, logs):
            for weight in gate.weights:
                variable = weight.value if KERAS_3 else weight
                one, two = [copy.numpy() for copy in variable.values]
                np.testing.assert_array_equal(one, two)
                if "recent" in weight.name:
                    assert 0.5 < one.sum() <= 1.0001, one

        model.fit(
            x, x[:, :1], batch_size=16, epochs=4, verbose=0,
            callbacks=[
                target, keras.callbacks.LambdaCallback(on_epoch_end=check)
            ],
        )
        widths = [h["gates"]["comet_gate"]["gamma_scale"]
                  for h in target.history]
        assert len(set(widths)) > 5, widths
        assert np.count_nonzero(gate(x), axis=-1).max() <= 2
        print("finished")
        """
    )
    assert finished.stdout.strip().endswith("finished"), finished.stderr
