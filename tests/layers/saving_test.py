"""Reloaded models predict and train as the ones that were saved."""

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras
from tests.helpers import rows

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
    model.compile(keras.optimizers.Adam(0.01), ["mse", "mse"], run_eagerly=True)
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
