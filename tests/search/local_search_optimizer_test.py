"""The optimizer around any other: what it leaves alone, and how it ends."""

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import KERAS_3
from keras_comet._keras import keras
from tests.helpers import rows
from tests.helpers import variables

N = 4
STEPS = 5
BATCHES = 8
X, Y = rows(BATCHES * 4, 5), rows(BATCHES * 4, 1, seed=1)
Optimizer = keras_comet.LocalSearchOptimizer

DECAY = keras.optimizers.schedules.ExponentialDecay
INNER = {
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.1),
    "adamw": lambda: keras.optimizers.AdamW(0.1, weight_decay=0.1),
    "clipped": lambda: keras.optimizers.Adam(0.1, global_clipnorm=0.5),
    "schedule": lambda: keras.optimizers.SGD(DECAY(0.1, 2, 0.5)),
}
SWITCHED_OFF = {
    "no_steps": lambda inner: Optimizer(inner, 0, method="sinkhorn"),
    "exchange": lambda inner: Optimizer(inner, 5),
}


def make_model(optimizer, has_permutation=True, **compiled):
    keras.utils.set_random_seed(3)
    gate = keras_comet.TopKGate(
        N,
        permutation=(
            keras_comet.ExpertPermutation(N) if has_permutation else None
        ),
    )
    inputs = keras.Input((5,))
    hidden = keras_comet.MixtureOfExperts(
        keras_comet.StackedDenseExperts(N, [3], "tanh"), gate, dispatch="dense"
    )(inputs)
    outputs = keras.layers.Dense(1, dtype="float32")(hidden)
    model = keras.Model(inputs, outputs)
    model.compile(optimizer, loss="mse", **compiled)
    return model


def permutation_of(model):
    return model.layers[1].gate.permutation


def fit(model, first=0, last=BATCHES, **kwargs):
    # Before a first step in a graph, which would be traced twice.
    model.optimizer.build(model.trainable_variables)
    selected = slice(4 * first, 4 * last)
    return model.fit(
        X[selected],
        Y[selected],
        batch_size=4,
        shuffle=False,
        verbose=0,
        **kwargs,
    )


def values(weights):
    return [np.array(weight) for weight in weights]


def assert_equal(first, second):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def unwrap(optimizer):
    return (
        optimizer
        if isinstance(optimizer, Optimizer)
        else (optimizer.inner_optimizer)
    )


def searching(inner):
    """One iteration, as each of them takes time to trace and compile."""
    return Optimizer(inner, STEPS, method="sinkhorn", num_iterations=1)


class Recorder(keras.callbacks.Callback):
    """Records the permutation after each batch, or every few batches."""

    def __init__(self):
        super().__init__()
        self.states = []

    def on_train_batch_end(self, batch, logs=None):
        permutation = permutation_of(self.model)
        self.states.append(
            (
                int(unwrap(self.model.optimizer).iterations),
                bool(tf.convert_to_tensor(permutation.frozen)),
                np.array(permutation.permutation_weights),
                np.array(permutation.assignment),
            )
        )


def assert_freezes(states, steps=STEPS):
    for count, frozen, weights, assignment in states:
        assert frozen == (count >= steps)
        one_hot = np.eye(N)[assignment]
        assert np.array_equal(weights, one_hot) == frozen
        np.testing.assert_allclose(weights.sum(axis=-2), 1.0, atol=1e-5)
    final = [each[2] for each in states if each[1]]
    assert len(final) >= 2
    assert_equal(final[1:], final[:-1])
    np.testing.assert_array_equal(final[0].sum(axis=-1), 1.0)


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("compiled", [False, True])
def test_switched_off_equals_the_inner_optimizer(inner, compiled):
    paths = []
    for wrap in (lambda inner: inner, *SWITCHED_OFF.values()):
        optimizer = wrap(INNER[inner]())
        layer = keras.layers.Dense(2)
        layer.build((None, 3))
        layer.set_weights([rows(3, 2), rows(2)])
        optimizer.build(layer.trainable_weights)

        def step(*gradients, layer=layer, optimizer=optimizer):
            optimizer.apply_gradients(
                zip(gradients, layer.trainable_weights, strict=True)
            )

        if compiled:
            step = tf.function(step)
        path = []
        for seed in range(4):
            step(tf.constant(rows(3, 2, seed=seed)), tf.constant(rows(2)))
            path += layer.get_weights()
        paths.append(path)
    assert np.abs(paths[0][0] - paths[0][-2]).max() > 0.01
    for path in paths[1:]:
        assert_equal(path, paths[0])


@pytest.mark.parametrize(
    ("inner", "run_eagerly", "ways"),
    [("adamw", False, ["no_steps"]), ("clipped", True, SWITCHED_OFF)],
)
def test_switched_off_fits_as_without_permutation(inner, run_eagerly, ways):
    plain = make_model(INNER[inner](), False, run_eagerly=run_eagerly)
    fit(plain)
    expected = values(plain.trainable_weights)
    for way in ways:
        optimizer = SWITCHED_OFF[way](INNER[inner]())
        model = make_model(optimizer, run_eagerly=run_eagerly)
        fit(model)
        searched = permutation_of(model).permutation_weights
        found = [w for w in model.trainable_weights if w is not searched]
        assert_equal(values(found), expected)
        np.testing.assert_array_equal(np.array(searched), [np.eye(N)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inner", "compiled"),
    [
        ("momentum", {}),
        ("adamw", {"steps_per_execution": 2}),
        ("clipped", {"run_eagerly": True}),
        ("schedule", {"jit_compile": True}),
    ],
)
def test_sinkhorn_freezes_at_search_steps_for_good(inner, compiled):
    optimizer = searching(INNER[inner]())
    recorder = Recorder()
    model = make_model(optimizer, **compiled)
    fit(model, epochs=2, callbacks=[recorder])
    assert_freezes(recorder.states)
    assert recorder.states[-1][0] == 2 * BATCHES


def test_sinkhorn_freezes_under_mixed_float16():
    keras.mixed_precision.set_global_policy("mixed_float16")
    recorder = Recorder()
    model = make_model(searching("adam"))
    assert isinstance(model.optimizer, keras.mixed_precision.LossScaleOptimizer)
    fit(model, epochs=3, callbacks=[recorder])
    assert_freezes(recorder.states)


@pytest.mark.parametrize("compiled", [False, True])
def test_sinkhorn_freezes_in_a_custom_loop(compiled):
    optimizer = searching(INNER["adamw"]())
    recorder = Recorder()
    model = make_model(optimizer)
    recorder.set_model(model)
    optimizer.build(model.trainable_weights)

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        gradients = tape.gradient(loss, variables(model.trainable_weights))
        optimizer.apply_gradients(
            zip(gradients, model.trainable_weights, strict=True)
        )

    if compiled:
        step = tf.function(step)
    for _ in range(BATCHES):
        step(tf.constant(X), tf.constant(Y))
        recorder.on_train_batch_end(0)
    assert_freezes(recorder.states)


@pytest.mark.parametrize("stop", [3, 6])
def test_saved_model_resumes_bit_for_bit(tmp_path, stop):
    optimizer = searching(INNER["adam"]())
    model = make_model(optimizer, run_eagerly=True)
    fit(model, 0, stop)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_equal(values(loaded.weights), values(model.weights))
    fit(model, stop, BATCHES)
    fit(loaded, stop, BATCHES)
    assert_equal(values(loaded.weights), values(model.weights))
    assert_equal(
        values(loaded.optimizer.variables), values(model.optimizer.variables)
    )
    assert bool(tf.convert_to_tensor(permutation_of(loaded).frozen))


def test_checkpoint_resumes_bit_for_bit(tmp_path):
    def make():
        optimizer = searching(INNER["adam"]())
        model = make_model(optimizer, run_eagerly=True)
        optimizer.build(model.trainable_variables)
        return model, tf.train.Checkpoint(model=model, optimizer=optimizer)

    model, checkpoint = make()
    fit(model, 0, 3)
    path = checkpoint.write(str(tmp_path / "checkpoint"))
    other, checkpoint = make()
    checkpoint.read(path).assert_existing_objects_matched()
    for each in (model, other):
        fit(each, 3, BATCHES)
    assert_equal(values(other.weights), values(model.weights))


def test_learning_rate_is_the_inner_optimizers():
    optimizer = Optimizer(keras.optimizers.SGD(0.5), 3, method="sinkhorn")
    assert float(optimizer.learning_rate) == 0.5
    optimizer.learning_rate = 0.25
    assert float(optimizer.inner_optimizer.learning_rate) == 0.25
    model = make_model(optimizer, run_eagerly=True)
    plateau = keras.callbacks.ReduceLROnPlateau(
        "loss", factor=0.5, patience=1, min_delta=1e9
    )
    fit(model, epochs=3, callbacks=[plateau])
    assert float(optimizer.inner_optimizer.learning_rate) == 0.0625
    assert int(optimizer.iterations) == 3 * BATCHES


@pytest.mark.parametrize(
    "kwargs",
    [
        {"search_steps": 7},
        {
            "search_steps": 9,
            "method": "sinkhorn",
            "temperature": DECAY(1.0, 9, 0.1),
            "num_iterations": 3,
            "permutation_learning_rate": DECAY(0.1, 2, 0.5),
            "name": "mine",
        },
        {"search_steps": 2, "temperature": 0.5, "method": "sinkhorn"},
    ],
)
def test_config_round_trip(kwargs):
    inner = keras.optimizers.AdamW(DECAY(0.1, 2, 0.5), weight_decay=0.2)
    optimizer = Optimizer(inner, **kwargs)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(copy, Optimizer)
    assert copy.get_config() == optimizer.get_config()
    for name, value in kwargs.items():
        found = getattr(copy, name)
        if callable(value):
            value, found = value.get_config(), found.get_config()
        assert found == value
    assert type(copy.inner_optimizer) is type(inner)
    assert copy.inner_optimizer.get_config() == inner.get_config()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Optimizer("adam", -1), "search_steps=-1"),
        (lambda: Optimizer("adam", 2.5), "search_steps=2.5"),
        (lambda: Optimizer("adam", 1, method="genetic"), "method='genetic'"),
        (
            lambda: Optimizer(
                keras.mixed_precision.LossScaleOptimizer(INNER["adam"]()), 1
            ),
            "goes around the LocalSearchOptimizer",
        ),
        (
            lambda: Optimizer("adam", 1, method="sinkhorn").build(
                variables([tf.Variable(1.0)])
                if not KERAS_3
                else [keras.Variable(1.0)]
            ),
            "nothing to search",
        ),
        (
            lambda: Optimizer("adam", 1, method="sinkhorn").search(
                lambda: 0.0, [keras_comet.ExpertPermutation(3)]
            ),
            "belongs to the method 'exchange'",
        ),
    ],
)
def test_mistakes_raise(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_two_permutations_of_one_name_raise():
    permutations = [keras_comet.ExpertPermutation(N, name="p") for _ in "ab"]
    weights = [each.permutation_weights for each in permutations]
    with pytest.raises(ValueError, match=r"different names.*name=\.\.\."):
        Optimizer("adam", 1).build(weights)


def test_search_after_the_end_raises():
    optimizer = Optimizer(INNER["adam"](), 2)
    model = make_model(optimizer, run_eagerly=True)
    permutation = permutation_of(model)
    assert optimizer.search(lambda: 0.0, [permutation]).is_local_optimum
    fit(model, 0, 2)
    optimizer.search(lambda: 0.0, [permutation])
    fit(model, 2, 3)
    with pytest.raises(ValueError, match="over after 2 updates.*after 3"):
        optimizer.search(lambda: 0.0, [permutation])


def test_search_between_fits_never_raises_the_loss():
    optimizer = Optimizer(INNER["adam"](), BATCHES)
    model = make_model(optimizer, run_eagerly=True)
    fit(model, 0, 4)

    def loss():
        return tf.reduce_mean((model(X, training=False) - Y) ** 2)

    before = float(loss())
    report = optimizer.search(loss, [permutation_of(model)])
    np.testing.assert_allclose(report.loss_before, before, rtol=1e-6)
    assert float(loss()) <= before
    np.testing.assert_allclose(float(loss()), report.loss_after, rtol=1e-5)
    chosen = np.array(permutation_of(model).assignment)
    fit(model, 4, BATCHES)
    np.testing.assert_array_equal(permutation_of(model).assignment, chosen)
