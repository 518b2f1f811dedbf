"""Reloaded models predict and train as the ones that were saved."""

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras
from tests.helpers import rows
from tests.helpers import run_script

ORDER = [2, 0, 3, 1]


def make_multi_gate(permutation):
    moe = keras_comet.MultiGateMixtureOfExperts(
        [keras.layers.Dense(3, "relu") for _ in range(4)],
        {
            "click": keras_comet.COMETGate(
                4, entropy_weight=0.1, permutation=permutation
            ),
            "buy": keras_comet.TopKGate(4, permutation=permutation),
        },
        name="mixture",
    )
    inputs = keras.Input((6,))
    outputs = moe(inputs)
    return keras.Model(inputs, [outputs["click"], outputs["buy"]])


def make_two_mixtures(permutation):
    def moe(name):
        return keras_comet.MixtureOfExperts(
            [keras.layers.Dense(3) for _ in range(4)],
            keras_comet.COMETGate(4, permutation=permutation),
            name=name,
        )

    inputs = keras.Input((6,))
    return keras.Model(inputs, [moe("first")(inputs), moe("second")(inputs)])


def permutations_of(model):
    gates = []
    for name in ("mixture", "first", "second"):
        for layer in model.layers:
            if layer.name == name == "mixture":
                gates.extend(layer.gates.values())
            elif layer.name == name:
                gates.append(layer.gate)
    return [gate.permutation for gate in gates]


@pytest.mark.parametrize("make", [make_multi_gate, make_two_mixtures])
def test_shared_permutation_is_shared_again_when_loaded(make, tmp_path):
    permutation = keras_comet.ExpertPermutation(4)
    permutation.assignment.assign([ORDER])
    model = make(permutation)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    first, second = permutations_of(loaded)
    assert first is second
    np.testing.assert_array_equal(first.assignment, [ORDER])
    x = tf.constant(rows(5, 6))
    for found, expected in zip(loaded(x), model(x), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    # Loaded twice, they are two.
    other = keras.models.load_model(tmp_path / "model.keras")
    assert permutations_of(other)[0] is not first


def test_permutations_of_one_gate_each_stay_apart(tmp_path):
    inputs = keras.Input((6,))
    gates = [
        keras_comet.SoftmaxGate(
            4, permutation=keras_comet.ExpertPermutation(4), name=name
        )
        for name in ("a", "b")
    ]
    gates[1].permutation.assignment.assign([ORDER])
    model = keras.Model(inputs, [gate(inputs) for gate in gates])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for name, order in (("a", [0, 1, 2, 3]), ("b", ORDER)):
        permutation = loaded.get_layer(name).permutation
        np.testing.assert_array_equal(permutation.assignment, [order])


def test_weights_file_keeps_assignments_and_tables(tmp_path):
    def make(seed):
        permutation = keras_comet.ExpertPermutation(4)
        gates = {
            "click": keras_comet.HashGate(
                4, num_ids=9, seed=seed, permutation=permutation
            ),
            "buy": keras_comet.TopKGate(
                4, noise=True, seed=seed, permutation=permutation
            ),
        }
        moe = keras_comet.MultiGateMixtureOfExperts(
            [keras.layers.Dense(3) for _ in range(4)], gates
        )
        features, ids = keras.Input((6,)), keras.Input((), dtype="int32")
        outputs = moe((features, {"click": ids, "buy": features}))
        return (
            keras.Model([features, ids], [outputs["click"], outputs["buy"]]),
            permutation,
        )

    (model, permutation), (other, again) = make(1), make(2)
    permutation.assignment.assign([ORDER])
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(again.assignment, [ORDER])
    x = [tf.constant(rows(9, 6)), tf.range(9)]
    for training in (False, True):
        pairs = zip(
            other(x, training=training),
            model(x, training=training),
            strict=True,
        )
        for found, expected in pairs:
            np.testing.assert_allclose(found, expected, atol=1e-6)


def test_training_resumes_with_the_same_losses(tmp_path):
    model = make_multi_gate(keras_comet.ExpertPermutation(4))
    model.compile(keras.optimizers.Adam(0.01), ["mse", "mse"])
    x, y = rows(16, 6), [rows(16, 3, seed=1), rows(16, 3, seed=2)]

    def fit(model, epochs):
        history = model.fit(
            x, y, epochs=epochs, shuffle=False, batch_size=16, verbose=0
        )
        return history.history["loss"]

    fit(model, 3)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(fit(loaded, 3), fit(model, 3), rtol=1e-6)


def test_weights_file_moves_between_the_two_kerases(tmp_path):
    script = """
        import sys
        import numpy as np
        from keras_comet._keras import keras
        import keras_comet

        moe = keras_comet.MixtureOfExperts(
            [keras.layers.Dense(3) for _ in range(4)],
            keras_comet.COMETGate(
                4, permutation=keras_comet.ExpertPermutation(4)
            ),
        )
        inputs = keras.Input((6,))
        model = keras.Model(inputs, moe(inputs))
        source, target = sys.argv[1:]
        if source != "none":
            model.load_weights(source)
        else:
            moe.gate.permutation.assignment.assign([[2, 0, 3, 1]])
        model.save_weights(target)
        x = np.linspace(-1, 1, 30, dtype="float32").reshape(5, 6)
        print(keras.__version__[0], np.asarray(model(x)).tolist())
        """
    first, second = (str(tmp_path / f"{i}.weights.h5") for i in (1, 2))
    modern = run_script(script, "none", first, TF_USE_LEGACY_KERAS="0")
    legacy = run_script(script, first, second, TF_USE_LEGACY_KERAS="1")
    back = run_script(script, second, first, TF_USE_LEGACY_KERAS="0")
    outputs = []
    for finished, version in ((modern, "3"), (legacy, "2"), (back, "3")):
        assert finished.returncode == 0, finished.stderr
        assert finished.stdout.startswith(version)
        outputs.append(np.array(eval(finished.stdout[2:])))
    np.testing.assert_allclose(outputs[1], outputs[0], atol=1e-6)
    np.testing.assert_allclose(outputs[2], outputs[0], atol=1e-6)
