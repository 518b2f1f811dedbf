"""Mixtures on two replicas of a MirroredStrategy."""

import pytest

from tests.helpers import run_script


@pytest.mark.slow
def test_two_replicas_train_with_noise_of_their_own_and_one_state():
    # Logical devices must be set before TensorFlow starts.
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

        def values(weight):
            variable = weight.value if KERAS_3 else weight
            return [copy.numpy() for copy in variable.values]

        strategy = tf.distribute.MirroredStrategy(["cpu:0", "cpu:1"])
        with strategy.scope():
            schedule = keras.optimizers.schedules.PolynomialDecay(0.1, 9, 0.0)
            gates = {
                "noisy": keras_comet.TopKGate(
                    4, noise=True, seed=1, load_balance_weight=schedule
                ),
                "tree": keras_comet.COMETGate(
                    4,
                    entropy_weight=schedule,
                    permutation=keras_comet.ExpertPermutation(4),
                ),
            }
            moe = keras_comet.MultiGateMixtureOfExperts(
                [keras.layers.Dense(3) for _ in range(4)], gates, "sparse"
            )
            inputs = keras.Input((6,))
            outputs = moe(inputs)
            model = keras.Model(inputs, [outputs["noisy"], outputs["tree"]])
            model.compile(keras.optimizers.SGD(0.1), ["mse", "mse"])

        random = np.random.default_rng(0)
        x, y = random.normal(size=(8, 6)), random.normal(size=(8, 3))
        before = model.get_weights()
        losses = model.fit(x, [y, y], batch_size=8, epochs=2, verbose=0)
        assert np.isfinite(losses.history["loss"]).all()
        assert any(
            np.abs(old - new).max() > 0
            for old, new in zip(before, model.get_weights())
        )
        for gate in gates.values():
            assert [int(n) for n in values(gate.training_steps)] == [2, 2]

        @tf.function
        def draw():
            same = tf.ones([5, 6])
            return strategy.run(lambda: gates["noisy"](same, training=True))

        for _ in range(2):
            first, second = draw().values
            assert np.abs(first - second).max() > 1e-3

        for weight in model.weights:
            first, second = values(weight)
            np.testing.assert_array_equal(first, second)
        state = values(gates["noisy"].seed_state)[0]
        np.testing.assert_array_equal(state, [1 + 4, 1])
        print("finished")
        """
    )
    assert finished.stdout.strip().endswith("finished"), finished.stderr
