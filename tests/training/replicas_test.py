"""Training on two replicas, against one."""

import pytest

from tests.helpers import run_script

# Logical devices must be set before TensorFlow starts.
SCRIPT = """
import sys
import traceback

import numpy as np
import tensorflow as tf

[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)
import keras_comet
from keras_comet._keras import KERAS_3, keras

random = np.random.default_rng(0)
x = random.normal(size=(20, 3)).astype("float32")
y = x[:, :1] * x[:, 1:2]
# The last batch of an epoch has 4 rows, the others 8.
data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)

one = tf.distribute.get_strategy()
two = tf.distribute.MirroredStrategy(["cpu:0", "cpu:1"])
assert two.num_replicas_in_sync == 2


def make(strategy, inner, search_steps, method):
    with strategy.scope():
        keras.utils.set_random_seed(1)
        permutation = keras_comet.ExpertPermutation(4)
        gate = keras_comet.TopKGate(4, permutation=permutation)
        experts = keras_comet.StackedDenseExperts(4, [1])
        mixture = keras_comet.MixtureOfExperts(experts, gate, "dense")
        inputs = keras.Input((3,))
        model = keras.Model(inputs, mixture(inputs))
        optimizer = keras_comet.LocalSearchOptimizer(
            inner, search_steps, method=method, num_iterations=3
        )
        model.compile(optimizer, "mse", metrics=["mae"])
        optimizer.build(model.trainable_variables)
    return model, permutation


def copies(weight):
    variable = weight.value if KERAS_3 else weight
    return [copy.numpy() for copy in variable.values]


def check(model, permutation, frozen):
    for weight in model.weights:
        first, second = copies(weight)
        np.testing.assert_array_equal(first, second)
    assert copies(permutation.frozen)[0] == frozen
    weights = copies(permutation.permutation_weights)[0]
    order = copies(permutation.assignment)[0]
    assert np.array_equal(weights, np.eye(4)[order]) == frozen
    return weights


def search_in_fit():
    with two.scope():
        adamw = keras.optimizers.AdamW(0.1)
    model, permutation = make(two, adamw, 3, "sinkhorn")
    model.fit(x[:16], y[:16], batch_size=8, verbose=0)
    check(model, permutation, False)
    model.fit(x[:8], y[:8], batch_size=8, verbose=0)
    final = check(model, permutation, True)
    model.fit(x[:16], y[:16], batch_size=8, verbose=0)
    np.testing.assert_array_equal(check(model, permutation, True), final)


def search_in_a_loop():
    with two.scope():
        adamw = keras.optimizers.AdamW(0.1)
    model, permutation = make(two, adamw, 3, "sinkhorn")
    optimizer = model.optimizer

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        weights = [w.value if KERAS_3 else w for w in model.trainable_variables]
        gradients = tape.gradient(loss, weights)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))

    @tf.function
    def run(x, y):
        two.run(step, args=(x, y))

    batches = data.take(2).repeat(3)
    for count, (a, b) in enumerate(
        two.experimental_distribute_dataset(batches), 1
    ):
        run(a, b)
        found = check(model, permutation, count >= 3)
        if count == 3:
            final = found
    np.testing.assert_array_equal(found, final)


def train(strategy, epochs, method, directory=None, eager=False):
    # What is expected needs no graph.
    tf.config.run_functions_eagerly(eager or strategy is one)
    with strategy.scope():
        sgd = keras.optimizers.SGD(0.1)
    model, _ = make(strategy, sgd, 4, method)
    trainer = keras_comet.Trainer(model, data, 2, 4, checkpoint_dir=directory)
    history = trainer.fit(data, epochs, verbose=0)
    return history.history, model.get_weights(), trainer.reports


def train_as_one():
    histories, weights, reports = zip(
        train(one, 2, "exchange"), train(two, 2, "exchange")
    )
    for name, values in histories[0].items():
        np.testing.assert_allclose(
            values, histories[1][name], rtol=1e-5, err_msg=name
        )
    for first, second in zip(*weights):
        np.testing.assert_allclose(first, second, atol=1e-5)
    assert sorted(reports[0]) == sorted(reports[1]) == [2, 4]
    for step, report in reports[0].items():
        np.testing.assert_allclose(
            report.loss_after, reports[1][step].loss_after, rtol=1e-5
        )


def resume():
    # Without the time that tracing three of them takes.
    directory = sys.argv[1]
    train(two, 1, "sinkhorn", directory, eager=True)
    history, weights, _ = train(two, 2, "sinkhorn", directory, eager=True)
    whole, expected, _ = train(two, 2, "sinkhorn", eager=True)
    assert history == whole
    for first, second in zip(weights, expected):
        np.testing.assert_array_equal(first, second)


for part in (search_in_fit, search_in_a_loop, train_as_one, resume):
    try:
        part()
        print("finished", part.__name__)
    except Exception:
        traceback.print_exc()
"""


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    return run_script(SCRIPT, str(tmp_path_factory.mktemp("checkpoints")))


@pytest.mark.slow
@pytest.mark.parametrize(
    "part", ["search_in_fit", "search_in_a_loop", "train_as_one", "resume"]
)
def test_two_replicas(part, process):
    assert f"finished {part}" in process.stdout.splitlines(), process.stderr
